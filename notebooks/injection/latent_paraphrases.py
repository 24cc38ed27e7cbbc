# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Latent paraphrases: noise that rewords
#
# *Can noise on early layers that is learned from paraphrases stand in for paraphrases when new facts are trained in?*
# [Kang et al. 2024](https://arxiv.org/abs/2411.00686) (`kang2024lapael`). Three kinds of noise are learned and eight small models
# trained; those of the default settings are shipped (`python -m paramem.fusion.kept` trains them again), and others take about a minute of one CPU core, the first time.

# %%
import numpy as np
import pandas as pd
import torch

from paramem import claim, load
from paramem.evaluation.intervals import clustered, over_edits, paired
from paramem.fusion.training import TrainSettings
from paramem.injection.latent_paraphrases import DEPARTURES, softplus2, symmetric_kl
from paramem.injection.latent_study import (
    StudySettings,
    arms_of,
    bank_of,
    divergences,
    draw,
    masks,
    of,
    recall,
    sentences,
    teach_all,
    told,
    train_arms,
    unseen,
)
from paramem.injection.noise import blind
from paramem.material import world_behind
from paramem.plots import loss_curves, rates

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed of the recall world
profile: str = "default"
seed: int = 0
n_people: int = 16  # new people, five facts each
n_lessons: int = 200  # facts that the testbed knows, from which noise is learned
passes: int = 16  # how often each fact is met

# %%
lm = load(model)
here = world_behind(lm)
study = StudySettings(people=n_people, lessons=n_lessons, training=TrainSettings(passes=passes, lr=1.5e-3, tokens=256))
news, lessons, kept_back, _ = drawn = draw(lm, study, seed=seed)
print(
    f"{lm.name}: {len(news.facts)} facts about {n_people} new people, {len(lessons)} lessons about {len(here.people)} known ones"
)

# %% [markdown]
# Every testbed draws people and uses of wordings of its own. Rates, passes and the length of learning were chosen on people who are
# not reported, so that plain training recalls nearly all facts there as they were told, and leaves room in other wordings; some of the
# reported testbeds recall fewer (`told_plain` of the first claim).
#
# ## What the paper reports
#
# Fine-tuning on paraphrases injects knowledge better, and paraphrases cost a language model's work for every new document. Noise that
# depends on the input, on early layers, learned once from paraphrases, beats plain fine-tuning and other noise, and adds to
# paraphrases where there are some (abstract). That it carries over to another domain is said beyond the abstract, which alone was read.
#
# ## The smallest case
#
# Around a linear image of a state $h$, a Gaussian of unit variance is drawn, $\alpha$, and two layers $g$ make a number of it for each
# feature. So a state of three features gets factors $z = \log_2(1 + 2^{g(\alpha)})$, positive and 1 where $g$ is 0, as far as the mask
# $m$ lets them in: $h' = h\,(1 - m + m z)$. Predict the second row before you look.

# %%
h, g = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([-1.0, 0.0, 1.0])
z = softplus2(g)
pd.DataFrame({f"m = {m}": (h * (1 - m + m * z)).tolist() for m in (0.0, 0.5, 1.0)}, index=["-1", "0", "1"]).round(3)

# %% [markdown]
# It is learned by bringing the states' mean and deviation over draws close to those over paraphrases, by the mean of both
# Kullback-Leibler divergences of two Gaussians. A mean that is off costs more where paraphrases agree.

# %%
pd.DataFrame(
    {
        f"deviation {sigma}": [
            symmetric_kl(*map(torch.tensor, (mu, sigma, 0.0, sigma)), floor=0.1).item() for mu in (0.0, 0.5, 1.0)
        ]
        for sigma in (0.2, 0.5)
    },
    index=["mean off by 0", "by 0.5", "by 1"],
).round(2)

# %% [markdown]
# ## One fact
#
# The testbeds take any of their own wordings for any other, so a document comes in a wording that they never met. The paraphrases are
# unfamiliar too; what is asked is familiar, and used for nothing else.

# %%
fact = news.facts[0]
print("told:      ", f"{fact.prompt} {fact.object}.")
print("reworded:  ", " | ".join(fact.probe(wording).prompt for wording in fact.paraphrases))
print("asked:     ", " | ".join(probe.prompt for probe in unseen([fact])))
print("a lesson:  ", lessons[0].prompt, "->", " | ".join(lessons[0].paraphrases))

# %% [markdown]
# ## Learning the noise
#
# *Late* noise sits on layers 3 and 4 in place of 0 and 1; what enters layer 3 is out of its reach, and stays in its divergence. *Map*
# noise was learned on facts about countries and cities, told in familiar wordings.

# %%
settings = study.latent
taught = teach_all(lm, drawn, study, seed=seed)
early = taught["early"].paraphraser
bank = bank_of(lm, early, sentences(news.facts))
sizes = (bank.factors - 1).square().mean((1, 2)).sqrt().tolist()
print("root mean square of factor - 1, by layer:", [round(size, 2) for size in sizes])

# %%
smooth = {name: np.convolve(found.losses, np.ones(5) / 5, mode="valid").tolist() for name, found in taught.items()}
loss_curves(
    smooth,
    f"Noise comes closer to paraphrases: {smooth['early'][0]:.0f} at first, {smooth['early'][-1]:.0f} at last (early)",
    xlabel="step (means of five)",
    ylabel="divergence, nats a feature",
)

# %%
print({name: [round(values[0], 1), round(values[-1], 1)] for name, values in smooth.items()})

# %% [markdown]
# On sentences that were not among the lessons, is a sentence under this noise closer to its paraphrases than under blind noise of the
# same size at the same layers?

# %%
blind_noise = blind(bank, settings.layers, seed=seed)
kinds = {"no noise": lambda place, state, _: torch.ones_like(state), "blind noise": blind_noise.factor}
kinds["LaPael"] = early.factor
nearness = pd.DataFrame(
    {name: divergences(lm, factor, kept_back, settings, seed=seed).numpy() for name, factor in kinds.items()}
)
logs = np.log(nearness)
pd.DataFrame({"mean": nearness.mean(), "median": nearness.median(), "geometric mean": np.exp(logs.mean())}).round(2)

# %% [markdown]
# A few sentences that lie far off decide the mean. So a sentence under LaPael is compared with itself under blind noise by the ratio of
# the two divergences.
#
# Where does it act? The probability of the mask, token by token, in three sentences about people whom no lesson named.

# %%
tokens = masks(lm, early, news.facts)
shown = {fact.id for fact in news.facts[::n_people][:3]}  # one of each of the first relations
for name, sentence in tokens[tokens["layer"] == 0].groupby("sentence", sort=False):
    if name in shown:
        print("  ".join(f"{token} {p:.2f}" for token, p in zip(sentence["token"], sentence["mask"], strict=True)))
tokens.pivot_table(index="layer", columns="part", values="mask").round(2)

# %% [markdown]
# ## Eight ways to train the same facts in
#
# As many tokens in steps of about the same size, the same weights trained, three rows in four under noise where there is any. *Blind*
# noise is as large as LaPael's. *Dealt* noise is LaPael's own, given to the wrong tokens.

# %%
arms = arms_of(taught, bank, seed=seed)
print(", ".join(arms))
models = train_arms(lm, news.facts, arms, study, seed=seed)
old = [fact.probe(kind=fact.id) for fact in here.facts if fact.relation in here.size.personal]
table = recall({"before": lm, **models}, {"told": told(news.facts), "unseen": unseen(news.facts), "old facts": old})
table.pivot_table(index="arm", columns="asked", values=["exact", "logprob"], sort=False).round(2)

# %%
shares = pd.DataFrame(
    [
        {"arm": arm, "asked": asked, **over_edits(of(table, arm, asked))._asdict()}
        for arm in ("before", *arms)
        for asked in ("told", "unseen", "old facts")
    ]
)
mean = shares.pivot(index="arm", columns="asked", values="mean")
rates(
    shares,
    f"Unseen wordings: {mean.loc['plain', 'unseen']:.2f} plain, {mean.loc['blind noise', 'unseen']:.2f} blind noise, "
    f"{mean.loc['LaPael', 'unseen']:.2f} LaPael, {mean.loc['paraphrases', 'unseen']:.2f} paraphrases",
    rows="arm",
    columns="asked",
    xlabel="share recalled, every token (95 % intervals over facts)",
)

# %% [markdown]
# ## Claims
#
# Differences in unseen wordings are paired by fact. Facts of one relation are told, and asked, in the same wordings, so that what one
# wording gains says little of the next: the 95 % intervals that decide are over relations. They are wide, as there are five; those over
# facts, which hold for these wordings alone, stand beside them. An interval that straddles zero decides nothing, unless all of it lies less
# than five points above.

# %%
NEGLIGIBLE = 0.05  # a difference of recall that is too small to speak of
pairs = [
    ("LaPael", "plain"),
    ("LaPael", "blind noise"),
    ("LaPael", "dealt noise"),
    ("LaPael", "LaPael, late"),
    ("LaPael, map", "plain"),
    ("paraphrases", "LaPael"),
    ("paraphrases + LaPael", "paraphrases"),
]
relations = [(fact.relation,) for fact in news.facts]
by_fact = {pair: paired(of(table, pair[0]), of(table, pair[1])) for pair in pairs}
gains = {pair: clustered(of(table, pair[0]) - of(table, pair[1]), relations) for pair in pairs}
pd.DataFrame(
    {
        pair: {
            **gains[pair]._asdict(),
            "low, these wordings": by_fact[pair].low,
            "high, these wordings": by_fact[pair].high,
        }
        for pair in pairs
    }
).T.round(3)


# %%
def measured(one, other):
    """Both recalls in unseen wordings, and the ends of the interval of their difference."""
    names = [name.replace(", ", "_").replace(" + ", "_and_").replace(" ", "_") for name in (one, other)]
    found = dict(zip(names, (mean.loc[one, "unseen"], mean.loc[other, "unseen"]), strict=True))
    ends = {"low": gains[one, other].low, "high": gains[one, other].high}
    return {
        **found,
        **ends,
        "these_wordings_low": by_fact[one, other].low,
        "these_wordings_high": by_fact[one, other].high,
    }


claim(
    "kang2024lapael.noise-beats-plain",
    gains["LaPael", "plain"].above(0, negligible=NEGLIGIBLE),
    measured={
        **measured("LaPael", "plain"),
        "told_LaPael": mean.loc["LaPael", "told"],
        "told_plain": mean.loc["plain", "told"],
    },
    note="the interval of the difference in unseen wordings lies above zero",
)

# %%
claim(
    "kang2024lapael.beats-blind-noise",
    gains["LaPael", "blind noise"].above(0, negligible=NEGLIGIBLE),
    measured=measured("LaPael", "blind noise"),
    note="blind noise is Gaussian, as large as LaPael's at the same layers; the interval lies above zero",
)

# %%
claim(
    "kang2024lapael.adds-to-paraphrases",
    gains["paraphrases + LaPael", "paraphrases"].above(0, negligible=NEGLIGIBLE),
    measured={
        **measured("paraphrases + LaPael", "paraphrases"),
        "told_both": mean.loc["paraphrases + LaPael", "told"],
        "told_paraphrases": mean.loc["paraphrases", "told"],
    },
    note="as many tokens on both sides; the interval lies above zero",
)

# %%
claim(
    "kang2024lapael.carries-over-to-another-domain",
    gains["LaPael, map", "plain"].above(0, negligible=NEGLIGIBLE),
    measured=measured("LaPael, map", "plain"),
    note="noise learned on facts about places, for facts about people; the interval lies above zero",
)

# %%
claim(
    "kang2024lapael.input-matters",
    gains["LaPael", "dealt noise"].above(0, negligible=NEGLIGIBLE),
    measured=measured("LaPael", "dealt noise"),
    note="against the same factors given to other tokens; the interval lies above zero",
)

# %%
claim(
    "kang2024lapael.early-layers-are-the-place",
    gains["LaPael", "LaPael, late"].above(0, negligible=NEGLIGIBLE),
    measured=measured("LaPael", "LaPael, late"),
    note="layers 0 and 1 against 3 and 4, each with noise learned there; the interval lies above zero",
)

# %%
claim(
    "kang2024lapael.paraphrases-beat-noise",
    gains["paraphrases", "LaPael"].above(0, negligible=NEGLIGIBLE),
    measured=measured("paraphrases", "LaPael"),
    note="two paraphrases beside each sentence, as many tokens; the interval lies above zero",
)

# %%
nearer = paired(logs["blind noise"], logs["LaPael"])
claim(
    "kang2024lapael.imitates-paraphrases",
    nearer.above(0, negligible=0.1),
    measured={
        "blind": np.exp(logs["blind noise"].mean()),
        "LaPael": np.exp(logs["LaPael"].mean()),
        "no_noise": np.exp(logs["no noise"].mean()),
        "log_ratio": nearer.mean,
        "log_ratio_low": nearer.low,
        "log_ratio_high": nearer.high,
    },
    note="logarithms of the divergences from paraphrases, of sentences that were not lessons, blind minus LaPael: interval above "
    "zero; a tenth is negligible",
)

# %%
forgot = paired(of(table, "LaPael", "old facts"), of(table, "plain", "old facts"))
claim(
    "kang2024lapael.forgets-no-more",
    forgot.above(-0.05),
    measured={
        "old_LaPael": mean.loc["LaPael", "old facts"],
        "old_plain": mean.loc["plain", "old facts"],
        "old_paraphrases": mean.loc["paraphrases", "old facts"],
        "difference_low": forgot.low,
        "difference_high": forgot.high,
    },
    note="all facts about known people: the interval of the difference lies above five points fewer than after plain training",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, (paper, we, why) in DEPARTURES.items():
    print(f"{topic}: the paper: {paper}. Here: {we}. Why: {why}.")

# %% [markdown]
# The method is written after a figure and the released code; the paper's text was not at hand. Its facts were new to the model in every
# respect and asked by questions; here only people are new, and every familiar wording leads to every other. New sentences about
# one relation share one wording, so that an arm can learn what a wording means and not only who is meant, and five wordings are what a
# testbed says something about: gains of a few points are within its intervals.
#
# ## Exercises
#
# 1. Run with `passes=4` and `passes=48`. Does noise help a model that has hardly read, or one that has read too often?
# 2. Give the noise to every row: `arms["every row"] = Arm(lambda: early.noise(seed=seed, clean=0.0))`, with `Arm` from
#    `paramem.injection.latent_study`. What happens to recall in the wording that was told?
# 3. What share of all tokens of the new sentences is more than half open in the mask of layer 0? Run the checker.


# %%
def check(guess):
    share = (tokens[tokens["layer"] == 0]["mask"] > 0.5).mean()
    return (
        "right"
        if abs(guess - share) < 0.03
        else "not quite: masks were taught to let in one half in the mean; this is how many tokens lie above"
    )


check(guess=1.0)
