# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # When the text says one thing and the weights another
#
# *Does a model follow any text it is shown, or does it return to its own answer as soon as some evidence supports it?*
# [Xie et al. 2023](https://arxiv.org/abs/2305.13300) (`xie2023chameleon`) set evidence for and against what a model believes
# side by side; [Cheng et al. 2024](https://arxiv.org/abs/2410.08414) (`cheng2024interplay`) put contexts that support, complete,
# contradict or miss it in front. Runs in half a minute on one CPU core.

# %%
import random

import pandas as pd

from paramem import claim, load
from paramem.decisions import every
from paramem.evaluation.intervals import grouped
from paramem.fusion.conflicts import CONTEXTS, DEPARTURES, elicit, told
from paramem.fusion.study import drawn
from paramem.fusion.tables import by_people
from paramem.material import world_behind
from paramem.plots import grid, rates

# %% tags=["parameters"]
model: str = "read-s0"  # a bundled testbed that reads; "read-s0@draw1" asks about other people
profile: str = "default"
seed: int = 0
n_beliefs: int = 48
parts: int = 3  # of the people, who are never the same in two draws below this number

# %%
NEGLIGIBLE = 0.1  # a share, or a difference of shares, that is too small to speak of
base, draw = drawn(model)
lm = load(base)
here = world_behind(lm)
beliefs = elicit(lm, here, n=n_beliefs, seed=draw + 1000 * seed, part=(draw % parts, parts))
people = [belief.entity for belief in beliefs]
print(f"{lm.name}, draw {draw}: {len(beliefs)} beliefs about {len(set(people))} people")

# %% [markdown]
# ## What the papers report
#
# Models are receptive to coherent evidence against their memory when it stands alone, and show a strong bias towards memory once
# some of the evidence supports it (`xie2023chameleon`, abstract). They suppress what they know when any context is there, one that
# completes it or has nothing to do with it as well (`cheng2024interplay`, abstract).
#
# ## One belief, four contexts
#
# A belief is what the model says by itself. The people are those of whom no training passage spoke. Predict the five answers.

# %%
belief = beliefs[0]
rng = random.Random(draw + 1000 * seed)
one = [belief.context(here, kind, rng) for kind in CONTEXTS]
for trial, answer in zip(one, told(lm, one)["answer"], strict=True):
    print(f"{trial.prompt} -> {answer}")

# %% [markdown]
# ## Four relations between context and memory

# %%
contexts = {kind: [b.context(here, kind, rng) for b in beliefs] for kind in CONTEXTS if kind != "irrelevant"}
for n in (1, 3):
    contexts[f"irrelevant, {n}"] = [b.context(here, "irrelevant", rng, sentences=n) for b in beliefs]
answered = {kind: told(lm, trials) for kind, trials in contexts.items()}
table = pd.concat([found.assign(context=kind) for kind, found in answered.items()], ignore_index=True)
pd.crosstab(table["context"], table["from"], normalize="index").reindex(list(contexts)).round(3)

# %%
remembered = {kind: (found["from"] == "memory").astype(float) for kind, found in answered.items()}
kept = by_people(table.assign(kept=table["from"] == "memory", answer="from memory"), ["context", "answer"], "kept")
rates(
    kept,
    f"Own answers: {remembered['irrelevant, 3'].mean():.2f} behind three sentences about others, "
    f"{remembered['conflicting'].mean():.2f} behind one that contradicts",
    rows="context",
    columns="answer",
    xlabel="share of beliefs (95 % intervals over people)",
)

# %% [markdown]
# ## Evidence in any balance
#
# So many sentences for the belief and so many against it, each in another wording, in random order. Predict: where would a model
# be that goes by the majority? And one that always believes the text that contradicts it?

# %%
most = 3
counted = [
    told(lm, [b.balanced(here, supports, counters, rng) for b in beliefs])
    for supports in range(most + 1)
    for counters in range(most + 1)
    if 0 < supports + counters <= 5
]
evidence = pd.concat(counted, ignore_index=True).assign(kept=lambda t: t["from"] == "memory")
balance = evidence.pivot_table(index="supports", columns="counters", values="kept")
grid(
    balance.rename(index="{} for".format, columns="{} against".format),
    f"One for, one against: {balance.loc[1, 1]:.2f} keep their own answer; one for, two against: {balance.loc[1, 2]:.2f}",
    label="share of own answers",
)

# %%
pd.crosstab([evidence["supports"], evidence["counters"]], evidence["from"], normalize="index").round(3)

# %% [markdown]
# The order of two sentences that contradict each other:

# %%
two = evidence[(evidence["supports"] == 1) & (evidence["counters"] == 1)]
by_people(two, ["last"], "kept").round(3)

# %% [markdown]
# ## Claims
#
# 95 % intervals are over people, of whom each has several beliefs. One that straddles its limit by more than a tenth decides nothing.


# %%
def where(supports, counters):
    """The trials with so many sentences for the belief and so many against it, in the order of the beliefs."""
    chosen = (evidence["supports"] == supports) & (evidence["counters"] == counters)
    return evidence[chosen].reset_index(drop=True)


def share(column, less=0.0):
    return grouped(column.astype(float) - less, people)


alone = where(0, 1)
followed = share(alone["from"] == "context")
claim(
    "xie2023chameleon.follows-single-evidence",
    followed.above(0.5, negligible=NEGLIGIBLE),
    measured={"followed": followed.mean, "low": followed.low, "high": followed.high, "beliefs": len(alone)},
    note="more than half (interval); the testbeds were taught it, and could hardly fail",
)

# %%
fair = {(1, 1): 1 / 2, (1, 2): 1 / 3}
over = {pair: share(where(*pair)["kept"], less=balanced) for pair, balanced in fair.items()}
claim(
    "xie2023chameleon.returns-with-support",
    every(span.above(0, negligible=NEGLIGIBLE) for span in over.values()),
    measured={
        "kept_1_to_1": where(1, 1)["kept"].mean(),
        "over_balance_low": over[1, 1].low,
        "kept_1_to_2": where(1, 2)["kept"].mean(),
        "over_third_low": over[1, 2].low,
    },
    note="more than one half with one piece of evidence on each side, and more than a third with one for and two against (intervals)",
)

# %%
sides = {"memory": where(2, 1)["from"] == "memory", "context": where(1, 2)["from"] == "context"}
majority = {side: share(won) for side, won in sides.items()}
claim(
    "xie2023chameleon.evidence-counts",
    every(span.above(2 / 3, negligible=NEGLIGIBLE) for span in majority.values()),
    measured={
        "kept_2_to_1": majority["memory"].mean,
        "kept_low": majority["memory"].low,
        "followed_1_to_2": majority["context"].mean,
        "followed_low": majority["context"].low,
    },
    note="two sentences against one, for the belief and against it: either way the two win more often than their share, two thirds (intervals)",
)

# %%
sided = where(1, 1)[["from", "last", "kept"]].assign(person=people)
sided = sided[sided["from"].isin(["memory", "context"])]
last = grouped(sided["kept"] == (sided["last"] == "support"), sided["person"])
claim(
    "xie2023chameleon.the-last-word-wins",
    last.above(0.5, negligible=NEGLIGIBLE),
    measured={"last": last.mean, "low": last.low, "high": last.high, "answers": len(sided)},
    note="of the answers that are on one of the two sides, those on the side that stands last: more than half (interval)",
)

# %%
lost = {
    kind: share(remembered["none"] - remembered[kind]) for kind in ("irrelevant, 1", "irrelevant, 3", "complementary")
}
claim(
    "cheng2024interplay.context-suppresses-memory",
    lost["irrelevant, 3"].above(0, negligible=NEGLIGIBLE),
    measured={
        "by_itself": remembered["none"].mean(),
        "behind_one": remembered["irrelevant, 1"].mean(),
        "behind_three": remembered["irrelevant, 3"].mean(),
        "lost_low": lost["irrelevant, 3"].low,
        "lost_high": lost["irrelevant, 3"].high,
    },
    note="lost behind three sentences about others (interval)",
)

# %%
claim(
    "cheng2024interplay.a-context-that-completes-suppresses-too",
    lost["complementary"].above(0, negligible=NEGLIGIBLE),
    measured={
        "by_itself": remembered["none"].mean(),
        "behind_it": remembered["complementary"].mean(),
        "lost_low": lost["complementary"].low,
        "lost_high": lost["complementary"].high,
    },
    note="lost behind a context that answers another question about the same person, asked first (interval)",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, (paper, we, why) in DEPARTURES.items():
    print(f"{topic}: the papers: {paper}. Here: {we}. Why: {why}.")

# %% [markdown]
# The testbeds were trained to follow a passage against memory, but never on a passage that contradicts itself: what one sentence does
# was taught, so that `follows-single-evidence` could hardly fail; what two do was not. About four in ten of the questions behind training
# passages are not answered there, and memory answers them, or a refusal: that an irrelevant context does not suppress what they know was
# taught as well. All facts were stated equally often: what changes where some are rare and others frequent is
# measured in `fusion/knowledge_boundary`, together with how sure the model is. A draw has a dozen people, so that its intervals
# are wide. Where none of 48 answers is lost, nothing tells how alike the answers about one person are, and Wilson's interval over answers is taken.
#
# ## Exercises
#
# 1. Which share of own answers would a model keep that picks one sentence at random, at two for and three against? Run the checker.
# 2. Put the evidence for the belief first in all trials. Which claim changes?


# %%
def check(guess):
    return "right" if abs(guess - 2 / 5) < 0.005 else "not quite: how many sentences are there, and how many keep it?"


check(guess=0.5)
