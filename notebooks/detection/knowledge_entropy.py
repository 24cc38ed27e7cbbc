# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Knowledge entropy over training
#
# *As pre-training goes on, a model draws on fewer of its feed-forward memories, and this is said to be why it takes up new facts
# less well and forgets old ones more.* [Kim et al. 2024](https://arxiv.org/abs/2410.01380) (`kim2024entropy`). Runs in under a
# minute on one CPU core.

# %%
import numpy as np
import pandas as pd
import torch

from paramem import claim, load
from paramem.detection.knowledge_entropy import (
    EntropySettings,
    ResuscitationSettings,
    entropy,
    learning_orders,
    multipliers,
    resampled_entropy,
    resuscitate,
    text_coefficients,
)
from paramem.material import checkpoints_of, text_for, world_behind
from paramem.plots import curves

# %% tags=["parameters"]
model: str = "gpt2-small-s1"  # a bundled testbed whose checkpoints were kept
profile: str = "default"
seed: int = 0
n_texts: int = 400
orders: int = 3  # orders of the new texts that every condition is trained on
share: float = 0.5  # of the memories of a layer, resuscitated

# %%
names = checkpoints_of(model)
trail = {step: load(name) for step, name in names.items()}
final, first = max(trail), min(trail)
texts = text_for(trail[final], n=n_texts)
new, old = world_behind(trail[final]).unseen, world_behind(trail[final]).facts[::4]
print(f"{model}: {trail[final].n_layers} layers of {trail[final].d_mlp} memories; steps {', '.join(map(str, trail))}")
print(f"{len(texts)} training texts; {len(new)} facts that no text states, {len(old)} that many state")

# %% [markdown]
# ## What the paper reports
#
# OLMo 1B and 7B, with the checkpoints of their pre-training. The coefficients of the memories, averaged over 2000 texts, are taken
# as a distribution; its entropy, summed over layers, falls throughout (section 3.3), most in the last layer. Trained further on
# new text, later checkpoints take up fewer injected facts and lose more on other tasks (section 4.2); over checkpoints, entropy and
# acquisition correlate with 0.94 (footnote 11). Raising the keys of the least active half of the memories improves both (section
# 4.3), though not to the level of earlier checkpoints.
#
# ## Entropy by hand
#
# Four memories. Which of these models has the higher knowledge entropy, and what are the two extremes?

# %%
for use in ([1.0, 1, 1, 1], [4.0, 2, 1, 1], [8.0, 0, 0, 0]):
    print(f"average coefficients {use}: {float(entropy(torch.tensor(use))):.3f} nats")

# %% [markdown]
# One text of the finished model: the absolute state at `mlp_hidden`, averaged over the tokens. How many memories would, used
# evenly, have the same entropy?

# %%
lm = trail[final]
one = text_coefficients(lm, texts[:1])
print(texts[0])
print("memories in even use, by layer:", entropy(one[0]).exp().round().int().tolist(), "of", lm.d_mlp)

# %% [markdown]
# ## Over the checkpoints

# %%
coefficients = {step: text_coefficients(each, texts) for step, each in trail.items()}
by_layer = pd.DataFrame({step: entropy(c.mean(0)).tolist() for step, c in coefficients.items()})
by_layer.index.name = "layer"
total = by_layer.sum()
print(by_layer.round(3).to_string())
print("H =", total.round(3).to_dict())

# %%
samples = pd.concat(
    pd.DataFrame({"step": step, "entropy": resampled_entropy(c, np.random.default_rng(seed))})
    for step, c in coefficients.items()
)
change = (
    samples[samples["step"] == final]["entropy"].to_numpy() - samples[samples["step"] == first]["entropy"].to_numpy()
)
low, high = np.quantile(change, [0.025, 0.975])
print(
    f"change from step {first} to step {final}: {total[final] - total[first]:+.3f} nats, 95 % [{low:+.3f}, {high:+.3f}]"
)

# %%
relative = (
    (by_layer.T / by_layer[first])
    .melt(ignore_index=False, var_name="layer", value_name="relative")
    .reset_index(names="step")
)
curves(
    relative,
    f"{model}: knowledge entropy {'falls' if total[final] < total[first] else 'rises'} from {total[first]:.2f} to {total[final]:.2f} nats",
    x="step",
    y="relative",
    lines="layer",
    xlabel="training step",
    ylabel="entropy, first checkpoint = 1",
)

# %%
rises = int((total.diff().dropna() >= 0).sum())
claim(
    "kim2024entropy.entropy-declines",
    rises == 0 and high < 0,
    measured={"first": total[first], "last": total[final], "rises": rises},
    note="every checkpoint lies below the one before, and the 95 % interval over texts of the whole change below zero",
)

# %%
falls = by_layer[final] - by_layer[first]
claim(
    "kim2024entropy.last-layer-most",
    (falls < 0).all() and falls.idxmin() == lm.n_layers - 1,
    measured={"layers_that_fall": (falls < 0).sum(), "layers": lm.n_layers, "falls_most_in_layer": falls.idxmin()},
)

# %% [markdown]
# ## What a checkpoint can still learn
#
# Every checkpoint is trained on the statements of people it was never told about, each fact in four wordings, twice, with the peak
# learning rate of pre-training, in three orders of the texts. Acquisition is the relative rise of the new facts' log-probability, over the four wordings and two
# others; forgetting the relative fall of the share of old facts completed. Before running: which checkpoint learns most?

# %%
learned = {step: learning_orders(each, new, old, orders=orders) for step, each in trail.items()}
rows = {
    step: {
        "entropy": total[step],
        "log p new before": run.mean("new", "before"),
        "after": run.mean("new", "after"),
        "acquisition": run.acquisition,
        "old known before": run.mean("old", "before"),
        "known after": run.mean("old", "after"),
        "forgetting": run.forgetting,
    }
    for step, run in learned.items()
}
print(pd.DataFrame(rows).T.round(3).to_string())

# %%
draws = {step: run.resampled(np.random.default_rng(seed)) for step, run in learned.items()}
both = pd.concat(d.assign(step=step).melt("step", var_name="rate") for step, d in draws.items())
band = both.groupby(["step", "rate"])["value"].quantile([0.025, 0.975]).unstack().round(2)
print("95 % intervals over people, each with all their facts, and over orders:")
print(band.unstack().to_string())
by_order = pd.DataFrame({step: [each.acquisition for each in run.runs] for step, run in learned.items()})
print("acquisition in each order of the texts:")
print(by_order.rename_axis("order").round(3).to_string())

# %%
curves(
    pd.DataFrame(rows).T[["acquisition", "forgetting"]].rename_axis("step").reset_index().melt("step", var_name="rate"),
    f"{model}: acquisition {rows[first]['acquisition']:.2f} at step {first}, {rows[final]['acquisition']:.2f} at step {final}",
    x="step",
    y="value",
    lines="rate",
    xlabel="training step of the checkpoint",
    ylabel="relative change",
)


# %%
def interval(one, other, rate):
    """95 % interval of the difference of a rate between two runs, sample by sample."""
    return np.quantile(one[rate] - other[rate], [0.025, 0.975])


low, high = interval(draws[final], draws[first], "acquisition")
claim(
    "kim2024entropy.acquisition-declines",
    high < 0,
    measured={
        "acquisition_first": rows[first]["acquisition"],
        "acquisition_last": rows[final]["acquisition"],
        "log_p_new_after_first": rows[first]["after"],
        "log_p_new_after_last": rows[final]["after"],
    },
    note="the 95 % interval over people and orders of last minus first lies below zero",
)

# %% [markdown]
# A share of very few facts can fall by any factor, so forgetting is compared from the first checkpoint on that knows half of them.

# %%
able = min(step for step, run in learned.items() if run.mean("old", "before") >= 0.5)
low, high = interval(draws[final], draws[able], "forgetting")
claim(
    "kim2024entropy.forgetting-grows",
    low > 0,
    measured={
        "forgetting_earlier": rows[able]["forgetting"],
        "forgetting_last": rows[final]["forgetting"],
        "earlier_step": able,
    },
)

# %%
r, _, r_after = pd.DataFrame(rows).T[["entropy", "acquisition", "after"]].corr().to_numpy()[[0, 1, 0], [1, 2, 2]]
claim(
    "kim2024entropy.entropy-goes-with-acquisition",
    r > 0.8,
    measured={"correlation": r, "correlation_log_p_new_after": r_after, "checkpoints": len(trail)},
    note=f"descriptive: {len(trail)} checkpoints of one training, too few for an interval",
)

# %% [markdown]
# ## Resuscitation
#
# The keys of the least active half of the memories of the finished model are scaled by `q` times the layer's mean over their own
# average. In a gated layer, as in the paper, their coefficients then average `q` times the layer's mean; in a GELU layer what is
# scaled is the product before the function, and the coefficients only come near. The control deals the same multipliers out to the
# other, active half.

# %%
average = coefficients[final].mean(0)
u = multipliers(average[0], ResuscitationSettings(share=share))
print(
    f"layer 0: {int((u != 1).sum())} keys scaled, by {u[u != 1].median():.2f} in the median and {u.max():.2f} at most"
)
runs, raised = {"unchanged": learned[final]}, {"unchanged": total[final]}
for label, chosen in {
    **{f"q = {q:g}": ResuscitationSettings(share=share, factor=q) for q in (0.5, 1.0, 2.0)},
    "active, q = 1": ResuscitationSettings(share=share, which="random", seed=seed),
}.items():
    with resuscitate(lm, average, chosen).applied(lm):
        raised[label] = float(entropy(text_coefficients(lm, texts).mean(0)).sum())
        runs[label] = learning_orders(lm, new, old, orders=orders)

# %%
table = {
    label: {
        "entropy": raised[label],
        "acquisition": run.acquisition,
        "log p new after": run.mean("new", "after"),
        "old known before": run.mean("old", "before"),
        "known after": run.mean("old", "after"),
        "forgetting": run.forgetting,
    }
    for label, run in runs.items()
}
print(pd.DataFrame(table).T.round(3).to_string())

# %%
resampled = {label: run.resampled(np.random.default_rng(seed)) for label, run in runs.items()}
low, high = interval(resampled["q = 1"], resampled["unchanged"], "acquisition")
beyond = interval(resampled["q = 1"], resampled["active, q = 1"], "acquisition")
claim(
    "kim2024entropy.resuscitation-acquires",
    low > 0 and beyond[0] > 0,
    measured={
        "acquisition": table["q = 1"]["acquisition"],
        "acquisition_unchanged": table["unchanged"]["acquisition"],
        "acquisition_active_keys": table["active, q = 1"]["acquisition"],
        "log_p_new_after": table["q = 1"]["log p new after"],
        "log_p_new_after_unchanged": table["unchanged"]["log p new after"],
        "interval_low": low,
        "interval_high": high,
    },
    note="q = 1; the gains over the unchanged model and over the control have 95 % intervals over people and orders above zero",
)

# %%
low, high = interval(resampled["q = 1"], resampled["unchanged"], "forgetting")
beyond = interval(resampled["q = 1"], resampled["active, q = 1"], "forgetting")
claim(
    "kim2024entropy.resuscitation-retains",
    high < 0 and beyond[1] < 0,
    measured={
        "forgetting": table["q = 1"]["forgetting"],
        "forgetting_unchanged": table["unchanged"]["forgetting"],
        "forgetting_active_keys": table["active, q = 1"]["forgetting"],
        "interval_low": low,
        "interval_high": high,
    },
)

# %% [markdown]
# ## Departures and limits

# %%
from paramem.registry import method

for topic, departure in method("knowledge-entropy").departures().items():
    print(f"{topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# An early checkpoint of a testbed knows little language of its world, whereas OLMo's earliest has read billions of words: here
# learning how sentences go and losing plasticity overlap. Acquisition as a relative rise also depends on where a model starts:
# late checkpoints are confidently wrong about strangers, which leaves them more to gain; so the new facts' log-probability after
# learning stands beside it. Every condition is trained with the same few orders of the texts, and comparisons are paired by order; three
# orders say roughly how much an order matters, not more.
#
# ## Exercises
#
# 1. Count only positive coefficients (`EntropySettings(coefficient="positive")`). What is the change of the entropy from the first
#    checkpoint to the last, in nats? The checker allows 0.01.
# 2. Scale the keys of the least active `share` with `q = 1`, for a share of 0.9. Is the entropy then that of the first checkpoint or
#    above it, or still below? Answer "above" or "below".
# 3. Two models use their memories with averages (2, 1, 1) and (1, 1, 0). Which has the higher entropy? Answer "first" or "second".


# %%
def check(exercise, answer):
    if exercise == 1:
        positive = EntropySettings(coefficient="positive")
        ends = [
            float(entropy(text_coefficients(trail[step], texts, positive).mean(0)).sum()) for step in (first, final)
        ]
        return "right" if abs(answer - (ends[1] - ends[0])) < 0.01 else "look again: entropies are summed over layers"
    if exercise == 2:
        with resuscitate(lm, average, ResuscitationSettings(share=0.9)).applied(lm):
            now = float(entropy(text_coefficients(lm, texts).mean(0)).sum())
        return "right" if answer == ("above" if now >= total[first] else "below") else "look again: print `total`"
    values = [float(entropy(torch.tensor(use))) for use in ([2.0, 1, 1], [1.0, 1, 0])]
    return (
        "right"
        if answer == ("first", "second")[int(np.argmax(values))]
        else f"they are {values[0]:.3f} and {values[1]:.3f}"
    )


check(3, "first")
