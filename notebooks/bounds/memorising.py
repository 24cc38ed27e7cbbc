# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Few documents, many passes: a regime in which a bound can be caught
#
# *A model that has memorised its documents makes more errors on new ones than on these; a bound that pays for every bit still lies
# above the true risk, and one that leaves the bits out, or starts from weights that have met the documents, does not.* A study of ours beside
# [Lotfi et al. 2023](https://arxiv.org/abs/2312.17173) (`lotfi2023nonvacuous`), whose models meet most documents at most once. Runs in
# half a minute on one CPU core.

# %%
import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import entropy

from paramem import claim
from paramem.bounds.coding import Code
from paramem.bounds.memorising import (
    Drinks,
    Regime,
    bounds,
    course,
    judge,
    memorised,
    theta_0,
    trained_in_full,
)
from paramem.bounds.risk import finite_hypothesis_bound
from paramem.bounds.toys import failure_table, failures
from paramem.claims import share_interval
from paramem.decisions import every
from paramem.evaluation.intervals import Span, paired, span
from paramem.fresh import fresh
from paramem.plots import curves, rates

# %% tags=["parameters"]
model: str = "fresh-gpt2-s0"  # architecture and seed; start, projector and all draws of documents follow from the seed
profile: str = "default"
draws: int = 12  # sets of documents, each with a model of its own
delta: float = 0.05  # the probability with which a bound may fail

# %%
here, counts = fresh(model), {}
source, regime = Drinks(), Regime(architecture=here.architecture, seed=here.seed)
shape = regime.shape(source)
start = theta_0(shape, here.seed)
people = len(source.everybody().drinks)
print(f"{shape.parameters():,} weights moved by {regime.dimension} numbers; {people:,} people there can be")
for text in source.text(source.draw(4, here.seed)):
    print("  " + text)

# %% [markdown]
# ## What the other notebooks could not show
#
# A bound promises that in at most a share $\delta$ of all draws of documents the true risk lies above it. The certified models of the other
# notebooks meet a small part of their documents, once: the empirical risk is in truth one on new documents, and a "bound" that forgot
# to pay for the model would look as right as the real one. To be caught, a bound needs a model that has memorised.
#
# Here the town decides what somebody drinks, in four of five documents; in the fifth it is the other drink. The town is worth learning;
# the exceptions can only be memorised. One token is asked, so that the loss of a document is 0 or 1. A model says the same
# about everybody who can be drawn, so that its true risk is a sum, and exact.
#
# ## By hand: what a perfect memory would cost
#
# Whoever remembers $m$ coins has no errors on them and one half on new ones; the memory takes $m$ bits. A memory of $R$ bits a coin, $R < 1$,
# must leave at least the errors $D$ with $1 - H(D) = R$ (Shannon's rate and distortion). Predict: can Eq. (1) be broken by the
# best memory there is, for some $R$?

# %%
m = 100_000
for R in (1.0, 0.5, 0.1, 0.01):
    D = 0.0 if R == 1 else brentq(lambda d, R=R: 1 - entropy([d, 1 - d], base=2) - R, 1e-9, 0.5)
    adds = [finite_hypothesis_bound(0.0, 1.0, bits, m, delta) for bits in (R * m, 0.0)]
    print(
        f"R = {R:4}: gap {0.5 - D:.3f}; the bound adds {adds[0]:.3f} ({(0.5 - D) / adds[0]:.2f} used), without its bits {adds[1]:.3f}"
    )

# %% [markdown]
# Never, by Pinsker's inequality; but a memory may use up nearly all that the bound adds. How much do trained models use?
#
# ## One model
#
# $\theta = \theta_0 + P w$ with $w$ of 100 numbers, each $-1$, 0 or 1 at every step. A hundred documents, 240 passes. Predict: which of the three
# lines below changes most?

# %%
one = [source.draw(100, here.seed)]
for step, numbers, theta in memorised(one, shape, regime, start, (0, 60, 480)):
    found = judge(shape, theta, one, source)
    code = regime.code(numbers[0])
    print(
        f"{step * regime.batch // 100:3d} passes: wrong on its documents {found.empirical[0]:.2f}, on new ones {found.true[0]:.3f}, {code.bits} bits"
    )
decoded = Code.unpack(code.pack()).values()
print(
    f"decoded from {len(code.pack())} bytes, bit for bit: {np.array_equal(decoded, regime.spacing * numbers[0].numpy())}"
)

# %% [markdown]
# ## Passes
#
# Draws of 100 and of 2000 documents. The number of steps is the same, so that fewer documents are met more often. Every model is
# certified five times along its training and pays three bits for being one of five. Predict: where does the bound without bits
# cross the true risk?

# %%
MARKS = (30, 60, 120, 240, 480)
FEW, MANY = 100, 2000
runs = {
    m: course([source.draw(m, here.seed, sample=i) for i in range(draws)], source, regime, start, MARKS, delta)
    for m in (FEW, MANY)
}
table = pd.concat(runs.values(), ignore_index=True)
ends = {m: each[each["step"] == MARKS[-1]] for m, each in runs.items()}
names = {"bound": "bound", "true": "true risk", "unpaid": "bits not paid", "empirical": "empirical risk"}
long = table.melt(["documents", "passes"], list(names), "which", "risk")
long = long.assign(which=long["which"].map(names), panel=long["documents"].map("{:,} documents".format))
last = {m: each[["empirical", "true", "bound", "unpaid"]].mean() for m, each in ends.items()}
figure = curves(
    long, f"With {FEW} documents the models make {last[FEW]['empirical']:.2f} errors on them and {last[FEW]['true']:.2f} on new ones: "
    f"the bound is {last[FEW]['bound']:.2f}, without its bits it would be {last[FEW]['unpaid']:.2f}",
    x="passes", y="risk", lines="which", panels="panel", logx=True, xlabel="passes over the documents", ylabel="share of wrong drinks",
)  # fmt: skip
for axis in figure.axes[:2]:
    axis.axhline(0.5, color="0.5", linestyle=":", linewidth=0.8)
figure

# %%
table.groupby(["documents", "passes"])[["bits", "empirical", "true", "bound", "unpaid"]].mean().round(3)

# %% [markdown]
# Gray: guessing, one half; a bound above it is vacuous. Bands are 95 % intervals over draws.
#
# How often does each bound fail? The real one is counted as failed if one of its five certificates lies below the true risk; the one
# without bits at the last pass only.

# %%
for m, each in runs.items():
    broken = (each["bound"] < each["true"]).groupby(each["draw"]).any()
    counts[f"{m:,} documents", "as proved"] = int(broken.sum()), draws
    counts[f"{m:,} documents", "bits not paid"] = failures(ends[m]["unpaid"], ends[m]["true"])
few = ends[FEW]
counts[f"{FEW} documents, smoothed bits", "as proved"] = failures(few["bpd_bound"], few["bpd_true"])
counts[f"{FEW} documents, smoothed bits", "bits not paid"] = failures(few["bpd_unpaid"], few["bpd_unpaid_true"])
few[["bpd_bound", "bpd_true", "bpd_unpaid", "bpd_unpaid_true"]].mean().round(3).to_frame("bits a drink").T

# %% [markdown]
# ## Is it the rule that is certified?
#
# As many documents, numbers and steps, and no rule: towns decide nothing, and drinks are coins. A certificate below one half would be wrong.
# Predict: how often does the bound without bits give one?

# %%
coins = Drinks(noise=0.5)
heads = [coins.draw(MANY, here.seed, sample=300 + i) for i in range(draws)]
tossed = course(heads, coins, regime, start, MARKS[-1:], delta)
counts[f"{MANY:,} coins", "as proved"] = failures(tossed["bound"], tossed["true"])
counts[f"{MANY:,} coins", "bits not paid"] = failures(tossed["unpaid"], tossed["true"])
certified = {
    "a rule": ends[MANY],
    "coins": tossed,
}
pd.DataFrame({name: {"true risk": each["true"].mean(), "bound": each["bound"].mean(), "largest": each["bound"].max(),
                     "smallest": each["bound"].min(), "without its bits": each["unpaid"].mean()} for name, each in certified.items()}).T.round(3)  # fmt: skip

# %% [markdown]
# ## How much of the price is needed?
#
# Nothing but coins: no rule at all, 200 documents, 300 numbers. Every drop of the empirical risk is memory, and the true risk is one half.
# A bound that pays a share of its bits fails from some share downwards. Where, for the coins and for the models above?

# %%
larger = Regime(architecture=here.architecture, seed=here.seed, dimension=300)
told = [coins.draw(200, here.seed, sample=100 + i) for i in range(draws)]
((_, numbers, theta),) = memorised(told, shape, larger, start, (larger.steps,))
heads, bits = judge(shape, theta, told, coins), larger.bits(numbers)
cases = {
    f"{FEW} documents, a rule": (few["empirical"].to_numpy(), few["true"].to_numpy(), few["bits"].to_numpy(), FEW),
    "200 coins": (heads.empirical, heads.true, bits, 200),
}
paying = [
    {"documents": name, "share": share, "fails": fails}
    for name, (empirical, true, cost, m) in cases.items()
    for share in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
    for fails in bounds(empirical, share * cost, m, delta) < true
]
paying = pd.DataFrame(paying)
price = paying.groupby(["documents", "share"])["fails"].mean().unstack("documents")
surely = {
    name: max((s for s in price.index if share_interval(round(price[name][s] * draws), draws)[0] > delta), default=None)
    for name in cases
}
figure = curves(
    price.melt(value_name="fails", ignore_index=False).reset_index(), "Paying a share of the bits: the promise is surely broken up to "
    + ", ".join(f"{share} ({name})" for name, share in surely.items()),
    x="share", y="fails", lines="documents", xlabel="share of the bits that is paid", ylabel="share of draws in which it fails",
)  # fmt: skip
for line in figure.axes[0].lines:
    each = zip(*(share_interval(round(fails * draws), draws) for fails in price[line.get_label()]), strict=True)
    figure.axes[0].fill_between(price.index, *each, color=line.get_color(), alpha=0.15, lw=0)
figure.axes[0].axhline(delta, color="0.5", linestyle=":", linewidth=0.8)
figure.axes[0].set_xticks([0, 0.1, 0.2, 0.3, 0.5, 1])
figure

# %% [markdown]
# Bands are Wilson's 95 % intervals of the shares; gray: the share $\delta$ that is promised.

# %%
print(price.round(2).to_string())
print(
    f"coins: {heads.empirical.mean():.3f} errors on the documents, {heads.true.mean():.3f} on new ones, {bits.mean():.0f} bits"
)

# %%
used = {name: (true - empirical) / (bounds(empirical, cost, m, delta) - empirical) for name, (empirical, true, cost, m) in cases.items()}  # fmt: skip
used[f"{MANY:,} documents, a rule"] = (
    (ends[MANY]["true"] - ends[MANY]["empirical"]) / (ends[MANY]["bound"] - ends[MANY]["empirical"])
).to_numpy()
used = {name: span(values) for name, values in used.items()}
pd.DataFrame(used, index=["mean", "low", "high"]).T.round(3).rename_axis("what memorising uses of what the bound adds")

# %% [markdown]
# ## A start that has met the documents
#
# $\theta_0$ costs nothing, because it is fixed beforehand. Pre-training makes a good $\theta_0$. But if the documents were in its data, it is not
# fixed beforehand, and what it remembers of them is not in the bits. All weights are trained on 400 documents; then ten numbers
# are learned on the same 400, and only these are paid. Or the same start serves for another draw, which it has not met.

# %%
noisier, whole = (
    Drinks(noise=0.3),
    Regime(architecture=here.architecture, seed=here.seed, steps=400, lr=0.02),
)
ten = Regime(architecture=here.architecture, seed=here.seed, dimension=10, steps=60)
told = [noisier.draw(400, here.seed, sample=200 + i) for i in range(draws // 2)]
met = trained_in_full(told, shape, whole, start)
rows = []
for name, beginning in (("has met them", met), ("has met others", met.roll(1, 0))):
    ((_, numbers, theta),) = memorised(told, shape, ten, beginning, (ten.steps,))
    found, paid = judge(shape, theta, told, noisier), ten.bits(numbers)
    bound = bounds(found.empirical, paid, 400, delta)
    key = "as proved" if name == "has met others" else "met for nothing"
    counts["a trained start, 400 documents", key] = failures(bound, found.true)
    moved = (numbers != 0).double().sum(1).mean().item()
    rows.append({"start": name, "numbers that moved": moved, "bits": paid.mean(), "empirical": found.empirical.mean(), "true": found.true.mean(), "bound": bound.mean()})  # fmt: skip
pd.DataFrame(rows).set_index("start").round(3)

# %% [markdown]
# The start that has met its documents is already so good on them that the ten numbers stay where they are: what is paid is the frame
# of the code, 68 bits.
#
# ## How often they fail

# %%
failing = failure_table(counts)
failing["form"] = failing["bound"].where(failing["bound"] == "as proved", "a part left out")
caught = failing[(failing["form"] != "as proved") & (failing["low"] > delta)]
figure = rates(
    failing,
    f"As proved, bounds fail in at most {failing.loc[failing['form'] == 'as proved', 'mean'].max():.0%} of the draws;\n"
    f"{len(caught)} of {(failing['form'] != 'as proved').sum()} with a part left out surely break the promise of {delta:.0%}",
    rows="setting", columns="form", xlabel="share of draws in which the bound fails",
)  # fmt: skip
figure.axes[0].axvline(delta, color="0.5", linestyle=":", linewidth=0.8)
figure

# %% [markdown]
# Gray: the share $\delta$ that is promised.

# %%
failing[["setting", "bound", "mean", "low", "high", "repetitions"]].round(3)

# %% [markdown]
# ## Claims

# %%
share = {key: k / n for key, (k, n) in counts.items()}
low = {key: share_interval(k, n)[0] for key, (k, n) in counts.items()}
NEGLIGIBLE = 0.1  # of shares and of their differences: what lies less above a limit need not be told from it
# Breaks the promise by the whole interval, does not by more than is negligible, or these draws cannot tell:
breaks = {key: Span(share[key], *share_interval(k, n)).above(delta, negligible=NEGLIGIBLE) for key, (k, n) in counts.items()}  # fmt: skip
key = f"{FEW} documents"
claim(
    "lotfi2023nonvacuous.memorised-bits-must-be-paid",
    breaks[key, "bits not paid"] & (share[key, "as proved"] <= delta),
    measured={
        "fails": share[key, "as proved"],
        "fails_unpaid": share[key, "bits not paid"],
        "empirical": last[FEW]["empirical"],
        "true": last[FEW]["true"],
    },
    note="100 documents: as proved at most delta of the draws, at five passes each; without bits more, by the whole 95 % interval",
)

# %%
key = f"{MANY:,} documents"
claim(
    "lotfi2023nonvacuous.many-documents-hide-it",
    low[key, "bits not paid"] <= delta,
    measured={"fails_unpaid": share[key, "bits not paid"], "low": low[key, "bits not paid"], "draws": draws},
    note="2,000 documents, as many steps: that the bound without bits breaks its promise is not shown by these draws",
)

# %%
gaps = {mark: (each["true"] - each["empirical"]).to_numpy() for mark, each in runs[FEW].groupby("step")}
grown = paired(gaps[MARKS[-1]], gaps[MARKS[1]])
claim(
    "lotfi2023nonvacuous.passes-widen-the-gap",
    grown.above(0, negligible=NEGLIGIBLE),
    measured={
        "gap_at_30_passes": gaps[MARKS[1]].mean(),
        "gap_at_240": gaps[MARKS[-1]].mean(),
        "grown_low": grown.low,
        "grown_high": grown.high,
    },
    note="true minus empirical risk of the same draws, 240 passes less 30: interval above zero; one that ends within a tenth of zero refutes",
)

# %%
truth = {mark: each["true"].to_numpy() for mark, each in runs[FEW].groupby("step")}
turned = paired(truth[MARKS[-1]], truth[MARKS[2]])
claim(
    "lotfi2023nonvacuous.memorising-worsens-new-documents",
    turned.above(0, negligible=NEGLIGIBLE),
    measured={
        "true_at_60_passes": truth[MARKS[2]].mean(),
        "true_at_240": truth[MARKS[-1]].mean(),
        "low": turned.low,
        "high": turned.high,
    },
    note="100 documents: the true risk after 240 passes less that after 60, same draws: interval above zero; one that ends within a tenth of zero "
    "refutes",
)

# %%
key = f"{MANY:,} coins"
claim(
    "lotfi2023nonvacuous.only-a-rule-is-certified",
    breaks[key, "bits not paid"] & bool((ends[MANY]["bound"] < 0.5).all() and (tossed["bound"] >= 0.5).all()),
    measured={
        "largest_bound_rule": ends[MANY]["bound"].max(),
        "smallest_bound_coins": tossed["bound"].min(),
        "coins_certified_unpaid": share[key, "bits not paid"],
        "low": low[key, "bits not paid"],
    },
    note="2,000 documents, at the last pass: with a rule every draw is certified below guessing, without one none is; where bits are not "
    "paid coins are too, in more than delta of the draws, by the whole 95 % interval",
)

# %%
memory = [used[name] for name in cases]
claim(
    "lotfi2023nonvacuous.memorising-uses-the-slack",
    every(each.above(0.1, negligible=NEGLIGIBLE) for each in memory),
    measured={
        "few_documents": memory[0].mean,
        "coins": memory[1].mean,
        "smallest_low": min(each.low for each in memory),
        "many_documents": used[f"{MANY:,} documents, a rule"].mean,
    },
    note="true minus empirical risk over what the bound adds: above a tenth with 100 documents and with coins, by the whole interval",
)

# %%
key = "a trained start, 400 documents"
claim(
    "lotfi2023nonvacuous.a-start-that-met-the-documents",
    breaks[key, "met for nothing"] & (share[key, "as proved"] <= delta),
    measured={"fails_met": share[key, "met for nothing"], "fails_others": share[key, "as proved"], "draws": draws // 2},
    note="the same starts: with other documents at most delta of the draws, with their own more, by the whole 95 % interval",
)

# %%
key = f"{FEW} documents, smoothed bits"
claim(
    "lotfi2023nonvacuous.memorised-bits-in-bits",
    breaks[key, "bits not paid"] & (share[key, "as proved"] <= delta),
    measured={
        "fails": share[key, "as proved"],
        "fails_unpaid": share[key, "bits not paid"],
        "bound": few["bpd_bound"].mean(),
        "true_there": few["bpd_true"].mean(),
    },
    note="smoothed bits a drink after 240 passes, alpha chosen by the documents, and paid or not",
)

# %% [markdown]
# ## Departures and limits

# %%
from paramem.bounds import memorising

for topic, (paper_says, we_do, why) in memorising.DEPARTURES.items():
    print(f"{topic}: the paper: {paper_says}. Here: {we_do}. Why: {why}.")

# %% [markdown]
# The models are of thirteen to fourteen hundred weights, and "memorised" means a hundred documents. A bound as proved is a theorem: that it does not fail
# tests the code (bits, risks, draws), and that the others do shows that the test can fail. Twelve draws show failures of a quarter
# or more, six draws of a third or more; a bound that fails in one of ten draws would often pass. Paid bounds are far from broken, which is no merit: with 100 documents all
# of them are vacuous. That they certify nothing, and that half of the bits would do, follows from the sizes alone: 284 bits for 100
# documents add more than one half, and so do 142. The best memory could use up nearly all of what a bound adds (printed above); these models use a part of it.
#
# Learning rate, spacing, numbers of steps and documents, and the noise were set on seeds from 10,000 on. All draws of one testbed share
# $\theta_0$ and $P$; the four testbeds have documents, starts and projectors of their own.
#
# ## Exercises
#
# 1. Set `draws=60`: is the bound without bits now caught with 2,000 documents?
# 2. With 100 documents, how many bits may a model have at most for its bound to be below guessing when it makes no errors at all on
#    them? Run the checker.


# %%
def check(bits):
    at = [finite_hypothesis_bound(0.0, 1.0, each, FEW, 0.05) < 0.5 for each in (bits, bits + 1)]
    return "right" if at == [True, False] else "not quite: solve Eq. (1) for the bits"


check(bits=67)
