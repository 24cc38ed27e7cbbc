# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What the testbeds know, and how that is known
#
# *A real map and invented people, in natural text; small GPT-2 and Llama models trained on nothing else; and every fact asked
# again here.* Runs in under a minute on one CPU core.
#
# What a pretrained model knows is never quite known. These models were trained from scratch on text drawn from a world that this
# package contains, so for every fact we know whether it was stated, how, how often, and in which wordings it never was.

# %%
import pandas as pd
import torch

from paramem import claim, load
from paramem.evaluation.intervals import Span, wilson
from paramem.plots import grid, growth
from paramem.world import testbeds, world_of

pd.set_option("display.width", 160, "display.max_columns", 30, "display.max_rows", 200)

# %% tags=["parameters"]
model: str = "gpt2-s0"  # the testbed that is asked again below
profile: str = "default"
seed: int = 0

# %% [markdown]
# ## The world
#
# The map is real (GeoNames, CC BY 4.0; Unicode CLDR); people and companies are invented from pools of names.

# %%
lm, here = load(model), world_of(model)
print(
    f"the world of {model}: {len(here.people)} people, {len(here.map.countries)} countries, {len(here.facts)} stated facts"
)
for relation in here.relations:
    subject = here.subjects(relation.id)[0]
    print(f"  {relation.id:15s} {relation.templates['en'][0].format(subject)} {here.value(relation.id, subject)}")

# %% [markdown]
# A few documents, as a testbed reads them in training:

# %%
for document in here.sample_text(6, seed):
    print("-", document)

# %% [markdown]
# ## The testbeds
#
# No single small model learns everything at once, so there are several kinds: *recall* (for locating and editing), *reason*
# (two-step answers; the short ones fail at some), *read* (passages, conflicts, refusals), *speak* (a second language, lists,
# opinions, secrets, skills), *edit* (everything that edits are asked about, in one model) and *grammar* (words that agree in number).

# %%
cards = testbeds()
pd.DataFrame(
    {
        "kind": [card.kind for card in cards],
        "architecture": [card.architecture for card in cards],
        "parameters": [card.parameters for card in cards],
        "steps": [card.steps for card in cards],
        "million tokens": [round(card.tokens / 1e6, 2) for card in cards],
        "training minutes": [round(card.seconds / 60, 1) for card in cards],
        "MB": [round(card.size_bytes / 1e6, 1) for card in cards],
    },
    index=[card.name for card in cards],
)

# %% [markdown]
# What each was measured to know when it was built, against what was wanted. Every number is the share of `n` items answered
# exactly, all tokens of the answer.

# %%
table = pd.DataFrame(
    [
        {
            "testbed": card.name,
            "measure": m.name,
            "value": round(m.value, 3),
            "n": m.n,
            "wanted": "" if m.wanted is None else f"{'<=' if m.at_most else '>='} {m.wanted:g}",
            "met": {None: "", True: "yes", False: "NO"}[m.met],
        }
        for card in cards
        for m in card.measures
    ]
)
alike: dict[tuple, list[str]] = {}  # of one kind, and asked for the same
for card in cards:
    alike.setdefault((card.kind, *((m.name, m.wanted) for m in card.measures if m.wanted)), []).append(card.name)
for (kind, *_), names in alike.items():
    part = table[table["testbed"].isin(names)]
    wide = part.pivot(index="measure", columns="testbed", values="value").reindex(part["measure"].unique())
    wanted = part.drop_duplicates("measure").set_index("measure")["wanted"]
    print(f"{kind}\n{wide[names].assign(wanted=wanted).fillna('').to_string()}\n")

# %%
missed = table[table["met"] == "NO"]
print(f"{len(missed)} targets missed of {(table['met'] != '').sum()}")
for row in missed.itertuples():
    print(f"  {row.testbed}: {row.measure} {row.value} (wanted {row.wanted}, n = {row.n})")
for card in cards:
    for note in card.notes:
        print(f"  {card.name}: {note}")

# %% [markdown]
# ## Asked again, here
#
# A card is only as good as the last time somebody looked. So: every stated fact of this testbed's world, in every wording, with
# the weights that lie in this repository. *Withheld* wordings were never used for that fact in training.

# %%
probes = pd.DataFrame(
    [
        {"relation": fact.relation, "wording": probe.kind, "prompt": probe.prompt, "target": probe.target}
        for fact in here.facts
        for probe in fact.probes()
    ]
)
scores = lm.score(list(probes["prompt"]), list(probes["target"]), batch_size=256)
probes["exact"], probes["p"] = scores.exact.cpu().numpy(), scores.logprob.exp().cpu().numpy()
recall = probes.pivot_table(index="relation", columns="wording", values="exact", sort=False)
print(probes.groupby("wording", sort=False)["exact"].agg(["mean", "size"]).round(4).to_string())

# %%
seen, withheld = (
    probes.loc[probes["wording"].isin(w), "exact"].mean() for w in (["template", "paraphrase"], ["withheld"])
)


def rounded_down(share):
    return f"{int(1000 * share) / 10:.1f}%"


grid(
    recall,
    f"{model} recalls {rounded_down(seen)} of facts in wordings it saw, {rounded_down(withheld)} in withheld ones",
    label="share exact",
)

# %%
print(recall.round(3).fillna("").to_string())

# %% [markdown]
# People whose facts were never stated are the control: here the model can only guess.

# %%
unseen = lm.score([f.prompt for f in here.unseen], [f.object for f in here.unseen]).exact.float().mean().item()
chance = sum(1 / len(here.objects(f.relation)) for f in here.unseen) / len(here.unseen)
print(f"{len(here.unseen)} facts of people that no text mentions: {unseen:.3f} right; guessing uniformly: {chance:.3f}")

# %% [markdown]
# ## One direction only
#
# Forty couples are married. Each marriage is stated of one partner in all wordings; of the other partner it is stated for every
# second couple, and never for the rest. [Berglund et al. 2023](https://arxiv.org/abs/2309.12288) (`berglund2023reversal`) report that
# what was stated in one direction is not known in the other. Predict both shares below.

# %%
couples = [fact for fact in here.facts if fact.relation == "married_to"]
answers = lm.score([f.inverse.prompt for f in couples], [f.inverse.target for f in couples])
forwards = lm.score([f.prompt for f in couples], [f.object for f in couples]).exact.float().mean().item()
stated = torch.tensor([fact.inverse.kind == "stated" for fact in couples])
exact = answers.exact.cpu()
backwards = {"stated": exact[stated], "not stated": exact[~stated]}
print(
    f"forwards {forwards:.3f}; "
    + "; ".join(f"backwards, {k} {v.float().mean():.3f} (n = {len(v)})" for k, v in backwards.items())
)

# %%
silent = [fact.inverse for fact, known in zip(couples, stated.tolist(), strict=True) if not known]
names = [person.name for person in here.people]
others = [[name for name in names if name not in (probe.target, probe.subject)] for probe in silent]
pairs = [(probe.prompt, name) for probe, rest in zip(silent, others, strict=True) for name in [probe.target, *rest]]
logprob = lm.score(*map(list, zip(*pairs, strict=True)), batch_size=256).mean_logprob.cpu().view(len(silent), -1)
percentile = (logprob[:, :1] > logprob[:, 1:]).float().mean(1).numpy()
print(f"among {len(others[0])} other names, the right one is more likely than {percentile.mean():.3f} of them")

# %%
claim(
    "berglund2023reversal.one-direction-only",
    wilson(int(backwards["not stated"].sum()), len(silent))[1]
    < wilson(int(backwards["stated"].sum()), int(stated.sum()))[0],
    measured={
        "backwards_not_stated": backwards["not stated"].float().mean(),
        "backwards_stated": backwards["stated"].float().mean(),
        "forwards": forwards,
        "couples": len(couples),
    },
    note="the 95 % intervals of the two shares do not meet",
)

# %%
margin = 1.96 * percentile.std(ddof=1) / len(silent) ** 0.5
beaten = Span(percentile.mean(), percentile.mean() - margin, percentile.mean() + margin)
claim(
    "berglund2023reversal.no-better-than-a-random-name",
    beaten.below(0.65),
    measured={"percentile": beaten.mean, "low": beaten.low, "high": beaten.high},
    note="share of the other names that the right one beats, one half by chance; its 95 % interval lies below 0.65",
)

# %% [markdown]
# ## How it got there
#
# One run was kept at several steps. Which comes first, the facts or their paraphrases?

# %%
card = next(card for card in cards if card.checkpoints)
steps = []
for checkpoint in card.checkpoints:
    early = load(f"{card.name}@{checkpoint}")
    scores = early.score(list(probes["prompt"][::7]), list(probes["target"][::7]), batch_size=256)
    found = pd.Series(scores.exact.cpu().numpy()).groupby(probes["wording"][::7].to_numpy(), sort=False).mean()
    steps.append({"step": int(checkpoint.removeprefix("step")), **found})
over_time = pd.DataFrame(steps).set_index("step")
print(over_time.round(3).to_string())

# %%
half = {w: next((step for step, share in over_time[w].items() if share >= 0.5), "none kept") for w in over_time}
growth(
    over_time,
    f"{card.name}: half of the facts by step {half['template']}, half of the withheld wordings by step {half['withheld']}",
    ylabel="share exact",
)

# %% [markdown]
# ## Limits
#
# One world (one seed of names and facts) underlies all testbeds of a kind; the model seeds differ in initialisation and in the
# order of documents. Everything here is small: what holds for models of a million parameters need not hold for a billion.
#
# ## Exercises
#
# 1. Run this notebook with `model = "llama-s0"`. Is any relation harder for it?
# 2. How many of the wrong answers are at least of the right kind (a city for a birthplace)? `here.objects(relation)` lists the kind.
