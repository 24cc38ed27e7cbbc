# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Told once or told often: what a model knows, and whether it knows that
#
# *How often a fact was read decides whether it is recalled and how sure the model is; a single sentence against it overrides it nearly
# always.* People whom the testbed never met are trained in, all in one training, each at a number of statements of its own. Then the questions of
# [Kandpal et al. 2022](https://arxiv.org/abs/2211.08411) (`kandpal2022tail`),
# [Mallen et al. 2022](https://arxiv.org/abs/2212.10511) (`mallen2022trust`),
# [Wu et al. 2024](https://arxiv.org/abs/2404.10198) (`wu2024clasheval`),
# [Gekhman et al. 2024](https://arxiv.org/abs/2405.05904) (`gekhman2024hallucinations`) and
# [Kadavath et al. 2022](https://arxiv.org/abs/2207.05221) (`kadavath2022know`) are asked. One small model is trained; that of the default
# settings is shipped (`python -m paramem.fusion.kept` trains it again), and the rest takes under a minute of one CPU core.

# %%
import random

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from paramem import claim, load
from paramem.decisions import every
from paramem.evaluation.calibration import (
    brier,
    calibration_error,
    calibration_error_of_a_calibrated,
    calibration_square,
    discrimination,
    jackknifed,
    reliability,
    resampled,
)
from paramem.evaluation.intervals import wilson
from paramem.fusion.boundary import DEPARTURES, asked, looked_up
from paramem.fusion.conflicts import elicit
from paramem.fusion.exposure import ExposeSettings, Exposures, draw_people, expose, exposure_rows, ledger, rehearse
from paramem.fusion.study import drawn
from paramem.fusion.tables import by_people
from paramem.fusion.training import n_tokens
from paramem.material import world_behind
from paramem.plots import curves, grid, promises, rates

# %% tags=["parameters"]
model: str = "read-s0"  # a bundled testbed that reads; "read-s0@draw1" draws other people, facts and orders
profile: str = "default"
seed: int = 0
people: int = 140  # over all levels of exposure
replay: float = 1.0  # tokens of the testbed's own training for each token about the new people
reliable: float = 0.7  # share of passages that say what is true

# %%
base, draw = drawn(model)
lm = load(base)
here = world_behind(lm)
number = draw + 1000 * seed
rng = random.Random(number)
levels = Exposures(people=people)
facts = draw_people(here, levels, number)
settings = ExposeSettings(share=replay)
print(f"{lm.name}, draw {number}: {people} people, their facts stated {', '.join(map(str, levels.levels))} times")

# %% [markdown]
# The learning rate and the share of replay were chosen on a draw that is not measured here, so that facts which were never stated
# still follow a passage and most of what the testbed knew stays.
#
# ## What the papers report
#
# Accuracy follows the number of documents that speak of a fact, and retrieval loosens the tie (`kandpal2022tail`, abstract). Retrieval
# helps with the obscure, memory competes on the popular, and retrieving only where needed beats both (`mallen2022trust`, abstract). Wrong
# passages override more than 60 % of right answers, the more so the less sure the model was (`wu2024clasheval`, abstract). Learning new
# facts makes models invent (`gekhman2024hallucinations`, abstract). Large models are calibrated on multiple choice, and the probability
# that they know, P(IK), rises with relevant text (`kadavath2022know`, abstract).
#
# ## Calibration by hand
#
# Four answers: two with confidence 0.9, one of them right; two with 0.6, both right. The expected calibration error sorts them by
# confidence, cuts them into bins of equal size and averages the distance of mean confidence and share right. Predict it for two bins.

# %%
sure, came_true = np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 0, 1, 1])
print(f"by hand {(abs(0.6 - 1.0) + abs(0.9 - 0.5)) / 2:.2f}, ECE {calibration_error(sure, came_true, bins=2):.2f}")
print(f"Brier score {brier(sure, came_true):.3f}, AUROC {discrimination(sure, came_true):.2f}")
reliability(sure, came_true, bins=2)

# %% [markdown]
# ## One person, told eight times
#
# An exposure is one statement in one of a fact's eight wordings, six sentences and two questions with their answer. One relation of
# everybody is never told. Rows mix people; what a row says of a person, it says once.

# %%
someone = [fact for fact in facts if fact.level == 8][:5]
pd.DataFrame(
    [(f.belief.entity, f.belief.attribute, f.belief.memory, f.belief.against, f.exposures) for f in someone],
    columns=["person", "relation", "object", "rival", "exposures"],
)

# %%
rows = exposure_rows(lm, here, facts, settings, number)
name = someone[0].belief.entity
about = [text for ids, _ in rows if name in (text := lm.tokenizer.decode(ids, skip_special_tokens=True))]
print(f"{len(rows)} rows, {n_tokens(rows)} tokens; {len(about)} rows speak of {name}, for instance:")
for text in about[:3]:
    print("-", text)


# %%
beliefs, history = [fact.belief for fact in facts], ledger(facts)


def ask(lm, kind, chosen=history.index):
    about = [beliefs[i] for i in chosen]
    found = asked(lm, here, about, [belief.context(here, kind, rng) for belief in about])
    return history.loc[chosen].join(found.set_index(chosen))


before = ask(lm, "none")
trained = expose(lm, here, facts, settings, seed=number, name="trained")
alone = ask(trained, "none")
both = before[["entity", "attribute", "exposures", "answer"]].assign(
    afterwards=alone["answer"], known=alone["known"].round(3)
)
both[both["entity"] == name]

# %% [markdown]
# ## The knowledge boundary
#
# Before the training all these names are new, and the testbed answers "I don't know". What does it say afterwards, without any text
# beside the question?

# %%
kinds = ["right", "refused", "wrong"]
first = before["refused"].mean()
asked_about = history["told"] | (history["level"] == 0)  # without the one relation that is kept back


def kind_of_answer(table, key):
    found = table.assign(wrong=~table["right"] & ~table["refused"], people=[(name,) for name in table["entity"]])
    found = found.melt([key, "people"], kinds, "answer", "share")
    return by_people(found.sort_values(key, kind="stable"), [key, "answer"], "share")


boundary = kind_of_answer(alone[asked_about], "exposures")
wide = boundary.pivot(index="exposures", columns="answer", values="mean")
rates(
    boundary.assign(told=boundary["exposures"].map("told {} times".format)),
    f"Refused before the training {first:.2f}, after it {wide.loc[0, 'refused']:.2f} of what was never told; "
    f"right: {wide.loc[1, 'right']:.2f} told once, {wide.loc[32, 'right']:.2f} told 32 times",
    rows="told",
    columns="answer",
    xlabel="share of questions without context (95 % intervals over people)",
)

# %%
sure = ["known", "confidence", "choice_confidence", "chosen_right"]
wide.join(alone[asked_about].groupby("exposures")[sure].mean()).round(3)

# %% [markdown]
# The relation that nobody told, by how often the other facts of the same person were told:

# %%
kept_back = alone[~alone["told"]]
by_level = kind_of_answer(kept_back, "level").pivot(index="level", columns="answer", values="mean")
by_level.join(kept_back.groupby("level")[["known", "confidence"]].mean()).round(3)

# %% [markdown]
# And what the testbed knew before, about other people: before, after this training, and after one that replays as many tokens and tells
# of nobody new.

# %%
rehearsed = rehearse(lm, here, facts, settings, seed=number, name="rehearsed")
old_beliefs = elicit(lm, here, n=120, seed=number)
old_trials = [belief.context(here, "none", rng) for belief in old_beliefs]
old_before, old_after, old_rehearsed = (asked(each, here, old_beliefs, old_trials) for each in (lm, trained, rehearsed))
pd.DataFrame(
    {
        state: found[["right", "refused"]].mean()
        for state, found in {"before": old_before, "after": old_after, "replay alone": old_rehearsed}.items()
    }
).round(3)

# %% [markdown]
# ## Conflicts: how often it was told against how much evidence there is
#
# Sentences for the fact (+) and for its rival (-), each in another wording, in random order. Facts that nobody told are the control:
# there is nothing to be remembered, so what is answered "from memory" there is read. Predict the column of a single counter-statement.

# %%
balances = {"-": (0, 1), "- -": (0, 2), "- - -": (0, 3), "+ + -": (2, 1), "+ -": (1, 1), "+ - -": (1, 2)}
some = [fact for fact in facts if fact.told or fact.level == 0]
chosen = [fact.belief for fact in some]
evidence = {
    name: ledger(some).join(asked(trained, here, chosen, [b.balanced(here, *counts, rng) for b in chosen]))
    for name, counts in balances.items()
}
kept = pd.DataFrame({name: found.groupby("exposures")["right"].mean() for name, found in evidence.items()})
grid(
    kept.rename(
        index="told {} times".format, columns={name: f"{n} for\n{m} against" for name, (n, m) in balances.items()}
    ),
    f"One for and one against: the fact stands in {kept.loc[0, '+ -']:.2f} if never told, in {kept.loc[32, '+ -']:.2f} "
    f"if told 32 times; one against: in {kept.loc[32, '-']:.2f}",
    label="share of the fact's own object",
)

# %%
control = evidence["-"][evidence["-"]["exposures"] == 0]
print(f"never told, one against: {(control['from'] == 'context').mean():.3f} from the context")
kept.round(3)

# %%
pd.DataFrame({name: found.groupby("exposures")["odds"].mean() for name, found in evidence.items()}).round(2)

# %% [markdown]
# The table has the mean log odds of the fact against its rival. Does the confidence without any text tell who wins? Rank correlations
# over facts that are answered right without text, and AUROC where either side wins at times:

# %%
at_start = alone[asked_about].reset_index(drop=True)
knew = at_start["right"].to_numpy()
predicted = {
    name: {
        "facts": int(knew.sum()),
        "kept": found.loc[knew, "right"].mean(),
        "rank correlation": spearmanr(at_start.loc[knew, "confidence"], found.loc[knew, "odds"]).statistic,
        "AUROC": discrimination(at_start.loc[knew, "confidence"], found.loc[knew, "right"]),
    }
    for name, found in evidence.items()
}
pd.DataFrame(predicted).T.round(3)

# %% [markdown]
# ## Is it as sure as it should be?
#
# Behind a passage of one sentence, which is true in seven of ten cases, and without any. *Known* is the probability of not refusing,
# against being answered right; *choice* takes objects alone, as in a multiple choice. Bars are Wilson's 95 % intervals of the share right.

# %%
supported, contradicted = ask(trained, "supportive"), ask(trained, "conflicting")
true = np.random.default_rng(number).random(len(facts))


def behind_passages(share):
    return pd.concat([supported[true < share], contradicted[true >= share]]).sort_index()


passage = behind_passages(reliable)
views = {"known": ("known", "right"), "choice": ("choice_confidence", "chosen_right")}
texts = {"no text": alone, "passage": passage}


def promised(table, confidence, outcome):
    found = reliability(table[confidence], table[outcome], bins=8)
    ends = [wilson(round(r * n), int(n)) for r, n in zip(found["right"], found["n"], strict=True)]
    return found.assign(low=[low for low, _ in ends], high=[high for _, high in ends])


diagram = pd.concat(
    [
        promised(table, *columns).assign(measure=measure, context=text)
        for measure, columns in views.items()
        for text, table in texts.items()
    ],
    ignore_index=True,
)
errors = {(m, t): calibration_error(table[c], table[o]) for m, (c, o) in views.items() for t, table in texts.items()}
promises(
    diagram,
    f"Expected calibration error of the choice: {errors['choice', 'no text']:.2f} without text, "
    f"{errors['choice', 'passage']:.2f} behind passages; of P(known): {errors['known', 'no text']:.2f}",
    panels="measure",
    lines="context",
)


# %%
def judged(table, confidence, outcome):
    c, y = table[confidence].astype(float), table[outcome].astype(float)
    chance = calibration_error_of_a_calibrated(c)
    return {
        "confidence": c.mean(),
        "right": y.mean(),
        "ECE": calibration_error(c, y),
        "ECE by chance, 95 %": chance[1],
        "Brier": brier(c, y),
        "AUROC": discrimination(c, y),
    }


states = {"before, no text": before, "after, no text": alone, "after, passage": passage}
pd.DataFrame({(m, s): judged(t, *columns) for m, columns in views.items() for s, t in states.items()}).T.round(3)

# %% [markdown]
# *By chance, 95 %*: the error that 95 % of samples of so many answers stay below whose confidences are exactly right.

# %% [markdown]
# ## When to look it up
#
# A passage that may be wrong, for all questions, for none, for those about people told of at most so often, or for those whose best
# object has at most so much probability. Both thresholds are chosen on the other half of the people.


# %%
def policies(share, which):
    without, text = alone[which], behind_passages(share)[which]
    who = without["entity"]
    rare = looked_up(history.loc[which, "level"], without["right"], text["right"], who)
    unsure = looked_up(without["confidence"], without["right"], text["right"], who)
    found = {
        "never": without["right"],
        "always": text["right"],
        "the rare": rare["right"],
        "the unsure": unsure["right"],
    }
    fetched = {"rare_fetched": rare["fetched"].mean(), "unsure_fetched": unsure["fetched"].mean()}
    return pd.DataFrame({name: np.asarray(right, dtype=float) for name, right in found.items()}), fetched


anyone = pd.Series(True, index=history.index)
swept = pd.concat(
    [
        policies(share, anyone)[0].melt(var_name="look up", value_name="right").assign(share=round(100 * share))
        for share in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    ],
    ignore_index=True,
)
at_seven = swept[swept["share"] == 70].groupby("look up")["right"].mean()
curves(
    swept,
    f"With 70 % true passages: never {at_seven['never']:.2f}, always {at_seven['always']:.2f}, "
    f"the rare {at_seven['the rare']:.2f}, the unsure {at_seven['the unsure']:.2f}",
    x="share",
    y="right",
    lines="look up",
    xlabel="passages that are true, per cent",
    ylabel="share of right answers\n(bands: 95 %, over facts)",
)

# %%
swept.pivot_table(index="share", columns="look up", values="right", sort=False).round(3)

# %% [markdown]
# ## Claims
#
# Facts of one person go together, so intervals come from drawing people anew, and 95 % of them decide. Where exposure, a passage or
# refusal decides an answer, shares differ by tenths: an interval that straddles its limit decides nothing, unless it reaches less than
# a tenth beyond. Losses of old facts, gains by a policy and calibration errors are smaller: their whole interval has to lie above one
# hundredth, and they are denied where none of it lies above two.

# %%
NEGLIGIBLE, LEAST = 0.1, 0.01


def over(table, statistic, *columns):
    arrays = [np.asarray(table[column], dtype=float) for column in columns]
    return resampled(lambda rows: statistic(*(array[rows] for array in arrays)), table["entity"], seed=number)


def contrast(table, column, one, other):
    """Mean of a column where a condition holds, minus that where another does."""
    marked = table.assign(one=one, other=other)
    return over(marked, lambda y, a, b: (y @ a) / a.sum() - (y @ b) / b.sum(), column, "one", "other")


told = alone[asked_about]
trend = over(told, lambda x, y: spearmanr(x, y).statistic, "exposures", "right")
claim(
    "kandpal2022tail.exposure-decides-recall",
    trend.above(0.5, negligible=NEGLIGIBLE),
    measured={
        "rank_correlation": trend.mean,
        "low": trend.low,
        "high": trend.high,
        "right_told_once": wide.loc[1, "right"],
        "right_told_8": wide.loc[8, "right"],
        "right_told_32": wide.loc[32, "right"],
    },
    note="of exposures and right answers; the interval lies above one half",
)

# %%
often, seldom = told["exposures"] >= 16, told["exposures"] <= 1
gap = contrast(told, "right", often, seldom)
text_gap = told.assign(right=told["right"].astype(float) - supported.loc[asked_about, "right"].astype(float))
freed = contrast(text_gap, "right", often, seldom)
claim(
    "kandpal2022tail.retrieval-frees-from-exposure",
    freed.above(0, negligible=NEGLIGIBLE),
    measured={
        "gap_without": gap.mean,
        "gap_with": gap.mean - freed.mean,
        "difference_low": freed.low,
        "difference_high": freed.high,
    },
    note="told at least 16 times minus at most once; the gap without text minus that behind a true passage lies above zero; "
    "it could hardly fail: the testbed was taught to answer what it reads",
)

# %%
gained = told.assign(gain=passage.loc[asked_about, "right"].astype(float) - told["right"].astype(float))
rare, popular = gained[gained["exposures"] <= 2], gained[gained["exposures"] == 32]
help_rare, help_popular = (over(each, np.mean, "gain") for each in (rare, popular))
claim(
    "mallen2022trust.retrieval-helps-the-rare",
    help_rare.above(0, negligible=NEGLIGIBLE),
    measured={"without": rare["right"].mean(), "gain": help_rare.mean, "low": help_rare.low, "high": help_rare.high},
    note="told at most twice; passages true in 7 of 10 cases; the gain lies above zero; it could hardly fail: the testbed was "
    "taught to answer what it reads",
)

# %%
claim(
    "mallen2022trust.memory-suffices-for-the-popular",
    ~help_popular.above(0, negligible=NEGLIGIBLE),
    measured={
        "without": popular["right"].mean(),
        "gain": help_popular.mean,
        "low": help_popular.low,
        "high": help_popular.high,
    },
    note="told 32 times; holds where none of the interval of what the same passages add lies a tenth above zero; it could hardly "
    "fail, as nearly all of these facts are recalled",
)


# %%
def margins_of(which):
    """What everybody gets right by each policy, by how much the rare's beats both others, and what it looks up."""
    ways, fetched = policies(reliable, which)
    ways = ways.assign(entity=alone.loc[which, "entity"].to_numpy())
    margins = {name: over(ways, lambda x, y: (x - y).mean(), "the rare", name) for name in ("always", "never")}
    return ways, margins, fetched


ways, margins, fetched = margins_of(anyone)
told_ways, told_margins, _ = margins_of(asked_about)
claim(
    "mallen2022trust.adaptive-retrieval-beats-both",
    every(margin.above(LEAST, negligible=LEAST) for margin in margins.values()),
    measured={
        **{name.replace(" ", "_"): ways[name].mean() for name in ("never", "always", "the rare")},
        "over_always_low": margins["always"].low,
        "over_never_low": margins["never"].low,
        "fetched": fetched["rare_fetched"],
        **{f"told_{name.replace(' ', '_')}": told_ways[name].mean() for name in ("always", "the rare")},
        "told_over_always_low": told_margins["always"].low,
    },
    note="over all facts, a threshold on how often a person was told of, chosen on other people; both intervals lie above 0.01. "
    "told: without the relation that nobody told of anybody, about which popularity misleads",
)

# %%
itself = over(ways, lambda x, y: (x - y).mean(), "the unsure", "the rare")
claim(
    "mallen2022trust.asking-the-model-beats-popularity",
    itself.above(LEAST, negligible=LEAST),
    measured={
        "the_rare": ways["the rare"].mean(),
        "the_unsure": ways["the unsure"].mean(),
        "difference_low": itself.low,
        "difference_high": itself.high,
        "unsure_fetched": fetched["unsure_fetched"],
    },
    note="over all facts, the untold ones of much told people among them; the interval lies above 0.01",
)

# %%
against = evidence["-"].assign(confidence=at_start["confidence"], followed=evidence["-"]["from"] == "context")
believed = against[knew]
overridden = over(believed, np.mean, "followed")
claim(
    "wu2024clasheval.wrong-passages-win",
    overridden.above(0.5, negligible=NEGLIGIBLE),
    measured={"overridden": overridden.mean, "low": overridden.low, "high": overridden.high, "facts": len(believed)},
    note="of facts answered right without text; the interval lies above one half; it could hardly fail: the testbed was taught to "
    "answer what it reads",
)

# %%
yielding = over(believed, lambda x, y: spearmanr(x, y).statistic, "confidence", "odds")
claim(
    "wu2024clasheval.the-unsure-follow",
    yielding.above(0, negligible=NEGLIGIBLE),
    measured={"rank_correlation": yielding.mean, "low": yielding.low, "high": yielding.high},
    note="of the confidence without text and the log odds of the fact behind one sentence against it, over facts answered right",
)

# %%
even = evidence["+ -"]
hold_out = contrast(even, "right", even["exposures"] == 32, even["exposures"] == 0)
claim(
    "wu2024clasheval.the-often-told-hold-out",
    hold_out.above(0, negligible=NEGLIGIBLE),
    measured={
        "never_told": kept.loc[0, "+ -"],
        "told_32": kept.loc[32, "+ -"],
        "low": hold_out.low,
        "high": hold_out.high,
    },
    note="one sentence on either side; the interval of the difference lies above zero",
)

# %%
old_facts = old_rehearsed.assign(lost=old_rehearsed["right"].astype(float) - old_after["right"].astype(float))
lost = over(old_facts, np.mean, "lost")
claim(
    "gekhman2024hallucinations.new-facts-cost-old-ones",
    lost.above(LEAST, negligible=LEAST),
    measured={
        "after": old_after["right"].mean(),
        "replay_alone": old_rehearsed["right"].mean(),
        "refused": old_after["refused"].mean(),
        "lost": lost.mean,
        "low": lost.low,
        "high": lost.high,
    },
    note="beliefs about other people that were right before; how many more are answered right after as many tokens of replay alone; the "
    "interval lies above 0.01",
)

# %%
strangers = before.assign(drop=before["refused"].astype(float) - alone["refused"].astype(float))
strangers = strangers[strangers["level"] == 0]
loosened = over(strangers, np.mean, "drop")
claim(
    "gekhman2024hallucinations.new-facts-loosen-refusal",
    loosened.above(0, negligible=NEGLIGIBLE),
    measured={
        "refused_before": strangers["refused"].mean(),
        "refused_after": strangers["refused"].mean() - loosened.mean,
        "low": loosened.low,
        "high": loosened.high,
    },
    note="people of whom nothing was told; the interval of the drop lies above zero",
)

# %%
never, well_known = alone["level"] == 0, (alone["level"] >= 16) & ~alone["told"]
guessed = contrast(alone, "refused", never, well_known)
claim(
    "gekhman2024hallucinations.familiar-names-are-guessed-about",
    guessed.above(0, negligible=NEGLIGIBLE),
    measured={
        "refused_unknown_person": alone.loc[never, "refused"].mean(),
        "refused_known_person": alone.loc[well_known, "refused"].mean(),
        "low": guessed.low,
        "high": guessed.high,
    },
    note="facts that nobody told; known are people told of 16 times and more; the interval lies above zero",
)

# %%
mistaken = told.assign(wrong=(~told["right"] & ~told["refused"]).astype(float))
few = mistaken["exposures"].isin([1, 2, 4])
over_none, over_most = (contrast(mistaken, "wrong", few, mistaken["exposures"] == end) for end in (0, 32))
claim(
    "gekhman2024hallucinations.wrong-answers-sit-at-the-boundary",
    over_none.above(0, negligible=NEGLIGIBLE) & over_most.above(0, negligible=NEGLIGIBLE),
    measured={
        "wrong_never_told": wide.loc[0, "wrong"],
        "wrong_told_1_to_4": mistaken.loc[few, "wrong"].mean(),
        "wrong_told_32": wide.loc[32, "wrong"],
        "over_never_low": over_none.low,
        "over_32_low": over_most.low,
    },
    note="both intervals lie above zero",
)

# %%
choice = judged(told, "choice_confidence", "chosen_right")
square = jackknifed(calibration_square(told["choice_confidence"], told["chosen_right"]), told["entity"])
root = {end: max(0.0, value) ** 0.5 for end, value in square._asdict().items()}
claim(
    "kadavath2022know.choices-are-calibrated",
    square.below(0.05**2),
    measured={
        "ECE": choice["ECE"],
        "root": root["mean"],
        "low": root["low"],
        "high": root["high"],
        "confidence": choice["confidence"],
        "right": choice["right"],
    },
    note="root of the squared calibration error (five bins) without what chance adds to it, over facts that were told or are of people of "
    "whom nothing was; its whole interval lies below 0.05",
)

# %%
rarely = alone[alone["exposures"] <= 2]
beside = ask(trained, "irrelevant", rarely.index)
texts = {"relevant": supported.loc[rarely.index], "irrelevant": beside}
rarely = rarely.assign(**{text: table["known"] - rarely["known"] for text, table in texts.items()})
more = over(rarely, lambda x, y: (x - y).mean(), "relevant", "irrelevant")
rise = over(rarely, np.mean, "relevant")
claim(
    "kadavath2022know.relevant-text-raises-knowing",
    more.above(0, negligible=NEGLIGIBLE) & rise.above(0, negligible=NEGLIGIBLE),
    measured={
        "without": rarely["known"].mean(),
        "rise_relevant": rarely["relevant"].mean(),
        "rise_irrelevant": rarely["irrelevant"].mean(),
        "rise_low": rise.low,
        "difference_low": more.low,
    },
    note="facts told at most twice; it rises behind a sentence on the fact, and more than behind one about somebody else; it could hardly "
    "fail, as it was taught to answer from what it reads",
)

# %%
telling = over(alone, discrimination, "known", "right")
by_object = discrimination(alone["confidence"], alone["chosen_right"])
claim(
    "kadavath2022know.knowing-predicts-being-right",
    telling.above(0.7, negligible=0.02),
    measured={
        "AUROC": telling.mean,
        "low": telling.low,
        "high": telling.high,
        "AUROC_of_the_best_object": by_object,
    },
    note="over all facts without text; the interval of the AUROC of not refusing lies above 0.7",
)


# %%
def error_rise(one, other):
    """Roots of the squared calibration errors of two states on the same facts, and how much larger the second is."""
    squares = [calibration_square(each["confidence"], each["chosen_right"]) for each in (one, other)]
    roots = [lambda rows, square=square: max(0.0, square(rows)) ** 0.5 for square in squares]
    rise = jackknifed(lambda rows: roots[1](rows) - roots[0](rows), one["entity"])
    return *(root(np.arange(len(one))) for root in roots), rise


everything = [pd.concat(pair, ignore_index=True) for pair in ((before, old_before), (alone, old_after))]
early, late, worse = error_rise(*everything)
claim(
    "kadavath2022know.training-costs-calibration",
    worse.above(LEAST, negligible=LEAST),
    measured={"before": early, "after": late, "low": worse.low, "high": worse.high},
    note="probability of the best object against its being right, over new and old facts; root of the squared error without what "
    "chance adds; the interval of its rise lies above 0.01",
)

# %%
bare, read, overconfident = error_rise(alone, passage)
claim(
    "kadavath2022know.a-passage-makes-overconfident",
    overconfident.above(LEAST, negligible=LEAST),
    measured={"without": bare, "with_passage": read, "low": overconfident.low, "high": overconfident.high},
    note="the same measure; the interval of its rise lies above 0.01; it could hardly fail: a passage is always believed, and three in ten "
    "are made wrong",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, (paper, we, why) in DEPARTURES.items():
    print(f"{topic}: the papers: {paper}. Here: {we}. Why: {why}.")

# %% [markdown]
# Only abstracts of the five papers were read for what is claimed of them. The testbed was taught that a passage is always right, so that
# one sentence against a fact says little about models that were not; and it was taught to refuse names, which continued training on new
# names puts to the test. Everything is told within one short training: how the order of statements, their spacing or a longer training
# would change the boundary was not asked. An expected calibration error over few answers is too large on average, so that claims
# rest on the squared one, from which chance can be taken off. Facts told 32 times are nearly all recalled, so that passages of which three
# in ten are wrong could hardly add anything: `memory-suffices-for-the-popular` could hardly fail. Nor could `retrieval-helps-the-rare`,
# `retrieval-frees-from-exposure`, `wrong-passages-win` and `relevant-text-raises-knowing`, which follow from reading as it was taught: what a
# passage says is answered, however often it was told. Nor could `a-passage-makes-overconfident`, as three passages in ten are made wrong.
#
# ## Exercises
#
# 1. Set `replay=0.25`. What do facts that nobody told answer behind one sentence, and what is refused?
# 2. Which share of right answers would a policy reach that knows for every fact whether memory is right, and reads the passage only where
#    it is not, at passages of which 7 in 10 are true? Run the checker.


# %%
def check(guess):
    best = (alone["right"] | passage["right"]).mean()
    return "right" if abs(guess - best) < 0.02 else "not quite: memory where it is right, a passage elsewhere"


check(guess=0.5)
