# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reading and remembering together: the four cases of fusion
#
# *What a model is given to read and what it was trained on complete each other only in part.*
# [Zhang et al. 2024](https://arxiv.org/abs/2405.19010) (`zhang2024fusion`) train some documents into a model, give it others to
# read, and ask questions in four cases by who holds the answer. The small models that this takes are fine-tuned beforehand (again
# by `python -m paramem.fusion.kept`), and a run asks them, in about a minute on one CPU core; `--profile full` trains those of the five modes
# from nothing, and says how long it took.

# %%
from contextlib import nullcontext
from time import process_time

import pandas as pd

from paramem import claim, load
from paramem.decisions import UNDECIDED, every
from paramem.evaluation.intervals import clustered, difference
from paramem.fusion import reported
from paramem.fusion.departures import DEPARTURES
from paramem.fusion.documents import LeakingSplit, Split
from paramem.fusion.questions import NOISES, SCENARIOS, Question
from paramem.fusion.scoring import accurate, coverage, gold, reference, stated
from paramem.fusion.study import (
    PARTS_OF_IT,
    TAUGHT,
    FusionSettings,
    ask,
    drawn,
    from_nothing,
    posed,
    prepare,
    train_arms,
    train_modes,
    without_context,
)
from paramem.fusion.tables import by_people, gain, rows_of, share, table_2, table_3
from paramem.fusion.training import InfusionSettings, TrainSettings, infusion_rows, n_tokens, question_pairs
from paramem.material import world_behind
from paramem.plots import grid, rates
from paramem.world.read_rules import REFUSAL

# %% tags=["parameters"]
model: str = "read-s0"  # a bundled testbed that reads; "read-s0@draw1" draws other people, questions and orders
profile: str = "default"
seed: int = 0
passes: int = 8  # of continued training over K_p
tuning_passes: int = 3  # of fine-tuning over the training questions

# %%
NEGLIGIBLE = 0.1  # a share, or a difference of shares, that is too small to speak of
base, draw = drawn(model)
lm = load(base)
here = world_behind(lm)
ground = prepare(here, draw + 1000 * seed)
settings = FusionSettings(
    continued=TrainSettings(passes=passes, lr=1e-3), supervised=TrainSettings(passes=tuning_passes, lr=2e-4)
)
split, test = ground.split, ground.questions["test"]
print(f"{lm.name}, draw {ground.seed}: {len(split.external)} documents to read, {len(split.parametric)} to train on")
pd.DataFrame({part: pd.Series([q.scenario for q in found]).value_counts() for part, found in ground.questions.items()})

# %% [markdown]
# The two learning rates are those that `python -m paramem.fusion.choice` puts first: of two values each, on the development questions
# of a draw on `read-s0` that is not measured here, by the complete answers of CT&SFT, averaged over the four cases. Nothing was chosen on
# the questions of the test.
#
# ## What the paper reports
#
# Tables 2 and 3, in per cent: questions about $K_p$ without context, before and after continued training (CT), and the four cases.

# %%
reported.table_2()

# %%
reported.table_3()

# %% [markdown]
# ## The pipeline on one person
#
# A document is the page of one person, whom the testbed met in no text. Documents are split by date: the older ones become
# parametric knowledge $K_p$ and are trained in, the later ones external knowledge $K_e$ and are read. Continued training sees the
# page, a paraphrase, and five question-answer pairs. Of the two wordings of a question, one is for these pairs and the other is
# asked, drawn for every fact: no question of a test was trained on.

# %%
page = split.parametric[0]
rows = infusion_rows(lm, here, [page], InfusionSettings(), ground.seed)
for ids, _ in rows[:4]:
    print("-", lm.tokenizer.decode(ids, skip_special_tokens=True))
print(f"{len(rows)} rows, {n_tokens(rows)} tokens; {len(question_pairs(here, page, ground.seed))} pairs to choose from")

# %% [markdown]
# A split that leaks is refused, in either direction, with the document that leaks.

# %%
try:
    Split(external=(*split.external, page), parametric=split.parametric)
except LeakingSplit as error:
    print(error)

# %% [markdown]
# One question of each case, up to where the answer follows. Questions on two snippets have two parts, asked one after the other.

# %%
for scenario in SCENARIOS:
    question = next(q for q in test if q.scenario == scenario and len(q.asked) == 2 and len(q.evidence) <= 3)
    print(f"{scenario}: {question.prompt(question.answers[:1])}\n    -> {', then '.join(question.answers)}\n")

# %% [markdown]
# ## Accuracy and coverage
#
# With statements as the pieces of knowledge, $R_{acc}$, Eq. (2), asks whether all that the answer says is in the sources,
# $K_{gen} \subseteq K_{ref}$, and $R_{cover}$, Eq. (3), how much of the right answer it says: complete if
# $K_{gold} \subseteq K_{gen}$, partial if they meet. A refused part says nothing beside a part that says something; a refusal of the
# whole states that the object is unknown. Predict the rows of the table for a question of S2 before you look.

# %%
question = next(q for q in test if q.scenario == "S2")
right, other = question.answers, [next(o for o in ground.objects[s.attribute] if o != s.object) for s in question.asked]
ref = reference(question, ground.parametric)
said = {
    "both right": right,
    "one right, one wrong": (right[0], other[1]),
    "one right, one refused": (right[0], "I don't know"),
    "one wrong, one refused": (other[0], "I don't know"),
    "both wrong": tuple(other),
    "both refused": ("I don't know",) * 2,
}
pd.DataFrame(
    [
        (name, accurate(gen, ref), coverage(gen, gold(question)))
        for name, answer in said.items()
        for gen in [stated(answer, question, ground.objects)]
    ],
    columns=["answer", "R_acc", "R_cover"],
)

# %% [markdown]
# So whoever says less is wrong less often: the two measures belong side by side.
#
# ## Table 2: does training store it?
#
# The questions of S3 without any context. *CT* has paraphrases and pairs; the others have one of the two, or the pages alone, for as
# many tokens.

# %%
start = process_time()
with from_nothing() if profile == "full" else nullcontext():
    models = train_modes(lm, ground, settings)
table = ask(models, ground)
if profile == "full":
    print(f"five modes, {len(test)} questions, trained from nothing: {process_time() - start:.0f} CPU seconds")

# %%
arms = train_arms(lm, ground, settings)
asked_alone = {
    "Direct": lm,
    "CT": models["CT"],
    **{name: arms[name] for name in PARTS_OF_IT},
    "CT&SFT": models["CT&SFT"],
}
alone = pd.concat([without_context(each, ground, name) for name, each in asked_alone.items()], ignore_index=True)
table_2(alone)

# %%
in_table_2 = by_people(alone.assign(answers="accurate"), ["mode", "answers"])
at = in_table_2.set_index("mode")["mean"]
rates(
    in_table_2,
    f"After as many tokens: {at['CT, pages only']:.2f} with pages only, {at['CT, paraphrases']:.2f} with paraphrases,\n"
    f"{at['CT, pairs']:.2f} with pairs, {at['CT']:.2f} with both",
    rows="mode",
    columns="answers",
    xlabel="share of the questions of S3, asked without context (95 % intervals)",
)

# %% [markdown]
# ## Table 3: four cases, five modes

# %%
table_3(table)

# %%
accuracy = by_people(table, ["scenario", "mode"])
wide = accuracy.pivot(index="scenario", columns="mode", values="mean")
rates(
    accuracy,
    f"S3: {wide.loc['S3', 'SFT']:.2f} without continued training, {wide.loc['S3', 'CT&SFT']:.2f} with it, "
    f"{wide.loc['S3', 'Easy']:.2f} with the snippets at hand",
    rows="scenario",
    columns="mode",
    xlabel="share of accurate answers (95 % intervals)",
)

# %% [markdown]
# Accurate is not complete. Where the context holds half of the answer (S2) or none (S3):

# %%
halves = table[table["scenario"].isin(["S2", "S3"])].assign(
    accurate=lambda t: t["right"], partial=lambda t: t["cover"] == "partial"
)
degrees = halves.groupby(["scenario", "mode"], sort=False)[["accurate", "complete", "partial"]].mean()
degrees = degrees.unstack("scenario").swaplevel(axis=1).sort_index(axis=1)
degrees.columns = [f"{scenario} {degree}" for scenario, degree in degrees.columns]
grid(
    degrees.reindex(list(models)),
    "S2: "
    + ";\n".join(
        f"{mode}: {degrees.loc[mode, 'S2 accurate']:.2f} accurate, {degrees.loc[mode, 'S2 complete']:.2f} complete"
        for mode in ("Direct", "SFT", "CT&SFT")
    ),
    label="share of questions",
)

# %% [markdown]
# ## Refusals, and where wrong answers come from
#
# *SFT, no refusals* is fine-tuned on the same questions without those of S4; *SFT, S1 and S4* only on questions that the context answers
# or nobody can; both for as many tokens as SFT. Refusals are a larger part of what the second is taught: how large, the line below says. Of the answers with a wrong object, those count as copyable beside which an object stands in the context that the
# attribute could have; *chance* is how many would be copied if wrong objects were drawn at random.

# %%
for name, cases in {"SFT": SCENARIOS, **TAUGHT}.items():
    said = [answer for q in ground.questions["train"] if q.scenario in cases for answer in q.answers]
    print(f"{name}: {said.count(REFUSAL) / len(said):.2f} of the answers that it is taught are refusals")
taught = [posed(arms[name], ground, name, ["S3", "S4"]) for name in TAUGHT]
everybody = pd.concat([table, *taught], ignore_index=True)
useless = everybody[everybody["scenario"].isin(["S3", "S4"]) & (everybody["mode"] != "Easy")]
refused = useless.pivot_table(index="mode", columns="scenario", values="refused", sort=False)
mistaken = useless[useless["wrong"]].groupby("mode", sort=False)["wrong"].sum()
errors = (
    useless[useless["copyable"]]
    .groupby("mode", sort=False)
    .agg(copyable=("copyable", "sum"), copied=("copied", "mean"), chance=("chance", "mean"))
)
refused.add_prefix("refused, ").assign(wrong=mistaken).join(errors).round(2)

# %%
in_s4 = by_people(useless[useless["scenario"] == "S4"], ["mode"], "refused")
at_s4 = in_s4.set_index("mode")["mean"]
rates(
    in_s4.assign(answers="refused"),
    f"Refusals in S4: {at_s4['Direct']:.2f} before any training, {at_s4['SFT']:.2f} after fine-tuning, "
    f"{at_s4['CT&SFT']:.2f} with continued training before it",
    rows="mode",
    columns="answers",
    xlabel="share of the questions of S4 (95 % intervals)",
)

# %% [markdown]
# Which noise distracts? Questions that the context answers (S1) or half answers (S2) and that have noise, by its kind.

# %%
noisy = table[table["scenario"].isin(["S1", "S2"]) & table["noise"].notna()]
accurate_beside = noisy.pivot_table(index=["scenario", "mode"], columns="noise", values="right", sort=False)
accurate_beside.reindex(columns=list(NOISES)).round(3)

# %% [markdown]
# ## Claims
#
# Differences are taken question by question, and their 95 % intervals decide; questions about one person are not counted as
# independent. An interval that straddles its limit by more than a tenth decides nothing.


# %%
def rise(scenario, one, other, column="right"):
    return gain(rows_of(everybody, one, scenario), rows_of(everybody, other, scenario), column)


def ends(span, name="gain"):
    return {name: span.mean, f"{name}_low": span.low, f"{name}_high": span.high}


by_alone = {mode: rows_of(alone, mode, "S3") for mode in asked_alone}
recalled = share(by_alone["CT"])
claim(
    "zhang2024fusion.infusion-is-partial",
    gain(by_alone["CT"], by_alone["Direct"]).above(0, negligible=NEGLIGIBLE)
    & recalled.below(0.9, negligible=NEGLIGIBLE),
    measured={
        "before": at["Direct"],
        **ends(recalled, "after"),
        "complete_after": by_alone["CT"]["complete"].mean(),
        "after_tuning": at["CT&SFT"],
        "tokens_for_a_fact": passes * n_tokens(rows) / len(page.snippets),
    },
    note="the gain lies above zero, and the interval of what is recalled afterwards below nine tenths",
)

# %%
gains = {scenario: rise(scenario, "CT&SFT", "SFT") for scenario in SCENARIOS}
completed = {scenario: rise(scenario, "CT&SFT", "SFT", "complete") for scenario in ("S1", "S2", "S3")}
pd.DataFrame(
    {**gains, **{f"{scenario}, complete": span for scenario, span in completed.items()}},
    index=["CT&SFT minus SFT", "low", "high"],
).round(3)

# %%
claim(
    "zhang2024fusion.no-gain-where-the-context-suffices",
    ~gains["S1"].above(0, negligible=0.05),
    measured={"SFT": wide.loc["S1", "SFT"], "CT_SFT": wide.loc["S1", "CT&SFT"], **ends(gains["S1"])},
    note="holds where none of the interval of the gain lies five points above zero; fine-tuned alone it answers nearly all of S1, so "
    "that this could hardly fail",
)

# %%
claim(
    "zhang2024fusion.continued-training-costs-reading",
    gains["S1"].below(0, negligible=NEGLIGIBLE),
    measured={"SFT": wide.loc["S1", "SFT"], "CT_SFT": wide.loc["S1", "CT&SFT"], **ends(gains["S1"])},
    note="the interval of CT&SFT minus SFT in S1 lies below zero",
)

# %%
claim(
    "zhang2024fusion.gain-where-both-are-needed",
    gains["S2"].above(0, negligible=NEGLIGIBLE),
    measured={
        "direct": wide.loc["S2", "Direct"],
        "SFT": wide.loc["S2", "SFT"],
        "CT_SFT": wide.loc["S2", "CT&SFT"],
        **ends(gains["S2"]),
    },
    note="accuracy; the interval of the gain lies above zero",
)

# %%
claim(
    "zhang2024fusion.both-needed-are-completed",
    completed["S2"].above(0, negligible=NEGLIGIBLE),
    measured={
        "direct": degrees.loc["Direct", "S2 complete"],
        "SFT": degrees.loc["SFT", "S2 complete"],
        "CT_SFT": degrees.loc["CT&SFT", "S2 complete"],
        **ends(completed["S2"]),
    },
    note="complete answers; the interval of the gain lies above zero",
)

# %%
claim(
    "zhang2024fusion.gain-where-only-the-parameters-know",
    gains["S3"].above(0, negligible=NEGLIGIBLE),
    measured={
        "SFT": wide.loc["S3", "SFT"],
        "CT_SFT": wide.loc["S3", "CT&SFT"],
        **ends(gains["S3"]),
        "complete_CT_SFT": degrees.loc["CT&SFT", "S3 complete"],
    },
    note="accuracy; the interval of the gain lies above zero",
)

# %%
in_two_parts = table[table["asked"] == 2]
alike = {(mode, s): rows_of(in_two_parts, mode, s) for mode in ("Direct", "CT&SFT") for s in ("S1", "S2")}
harder = {
    column: difference(share(alike["CT&SFT", "S1"], column), share(alike["CT&SFT", "S2"], column))
    for column in ("right", "complete")
}
claim(
    "zhang2024fusion.both-needed-is-harder",
    every(span.above(0, negligible=NEGLIGIBLE) for span in harder.values()),
    measured={
        **{f"{s}_{column}": alike["CT&SFT", s][column].mean() for s in ("S1", "S2") for column in harder},
        "right_low": harder["right"].low,
        "right_high": harder["right"].high,
        "complete_low": harder["complete"].low,
        **{f"direct_{s}_right": alike["Direct", s]["right"].mean() for s in ("S1", "S2")},
        "S1_questions": len(alike["CT&SFT", "S1"]),
    },
    note="of CT&SFT, questions in two parts on either side: S1 minus S2 lies above zero, in accuracy and in complete answers; the "
    "questions differ, so the interval is not paired",
)

# %%
lost = gain(by_alone["CT&SFT"], rows_of(table, "CT&SFT", "S3"))
claim(
    "zhang2024fusion.distractors-hurt-recall",
    lost.above(0, negligible=NEGLIGIBLE),
    measured={
        "without_context": at["CT&SFT"],
        "with_distractors": wide.loc["S3", "CT&SFT"],
        **ends(lost, "lost"),
        "CT_without_context": at["CT"],
        "CT_with_distractors": wide.loc["S3", "CT"],
    },
    note="the same model on both sides, CT&SFT; the paper sets CT without context beside CT&SFT with it",
)

# %%
noise = rise("S1", "Easy", "SFT")
claim(
    "zhang2024fusion.noise-hurts-reading",
    noise.above(0, negligible=NEGLIGIBLE),
    measured={"without_noise": wide.loc["S1", "Easy"], "with_noise": wide.loc["S1", "SFT"], **ends(noise, "lost")},
    note="the fine-tuned model in S1, with and without the snippets that do not answer; it reads nearly all of them either way, so that "
    "this could hardly hold",
)

# %%
quiet = posed(models["CT&SFT"], ground, "CT&SFT", ["S1"], Question.supported)
noise_later = gain(quiet, rows_of(table, "CT&SFT", "S1"))
claim(
    "zhang2024fusion.noise-hurts-after-continued-training",
    noise_later.above(0, negligible=NEGLIGIBLE),
    measured={
        "without_noise": quiet["right"].mean(),
        "with_noise": wide.loc["S1", "CT&SFT"],
        **ends(noise_later, "lost"),
    },
    note="CT&SFT in S1, with and without the snippets that do not answer",
)

# %%
helps = {scenario: rise(scenario, "SFT", "Direct") for scenario in SCENARIOS}
pooled = gain(*(table[table["mode"] == mode] for mode in ("SFT", "Direct")))
claim(
    "zhang2024fusion.fine-tuning-helps-everywhere",
    every(span.above(0, negligible=NEGLIGIBLE) for span in (*helps.values(), pooled)),
    measured={**{f"gain_{s}": span.mean for s, span in helps.items()}, "all_low": pooled.low, "all_high": pooled.high},
    note="the interval of the gain lies above zero in each case, and over all questions; it could hardly hold: the testbed reads nearly "
    "all of S1 and refuses nearly all of S4 before, and in S2 a half that it refuses counts as accurate",
)

# %%
closer = {scenario: rise(scenario, "Easy", "CT&SFT") for scenario in ("S2", "S3")}
closer["S3, nothing beside"] = gain(rows_of(table, "Easy", "S3"), by_alone["CT&SFT"])
claim(
    "zhang2024fusion.reading-beats-remembering",
    every(span.above(0, negligible=NEGLIGIBLE) for span in closer.values()),
    measured={
        "S2_read": wide.loc["S2", "Easy"],
        "S2_remembered": wide.loc["S2", "CT&SFT"],
        "S2_low": closer["S2"].low,
        "S3_read": wide.loc["S3", "Easy"],
        "S3_remembered": wide.loc["S3", "CT&SFT"],
        "S3_low": closer["S3"].low,
        "S3_remembered_without_noise": at["CT&SFT"],
        "S3_without_noise_low": closer["S3, nothing beside"].low,
    },
    note="all three intervals lie above zero; in S3 also where nothing stands beside the question that is to be remembered",
)

# %%
more = rise("S4", "SFT", "Direct", "refused")
claim(
    "zhang2024fusion.fine-tuning-raises-refusals",
    more.above(0, negligible=NEGLIGIBLE),
    measured={"direct": at_s4["Direct"], "SFT": at_s4["SFT"], **ends(more)},
    note="the interval of SFT minus Direct in S4 lies above zero; unlike the paper's models, this one was taught to refuse before, so "
    "that this could hardly hold",
)

# %%
untaught = share(rows_of(everybody, "SFT, no refusals", "S4"), "refused")
taught_gain = rise("S4", "SFT", "SFT, no refusals", "refused")
claim(
    "zhang2024fusion.refusal-must-be-taught",
    untaught.below(0.5, negligible=NEGLIGIBLE) & taught_gain.above(0, negligible=NEGLIGIBLE),
    measured={"without_examples": untaught.mean, "with_examples": at_s4["SFT"], **ends(taught_gain)},
    note="fine-tuned without examples of refusal, for as many tokens, it refuses less than half, and with them more",
)

# %%
answerable = rise("S4", "SFT, S1 and S4", "SFT", "refused")
claim(
    "zhang2024fusion.fine-tuning-unteaches-refusal",
    more.below(0, negligible=NEGLIGIBLE) & answerable.above(0, negligible=NEGLIGIBLE),
    measured={
        "direct": at_s4["Direct"],
        "SFT": at_s4["SFT"],
        "change_high": more.high,
        "only_S1_and_S4": at_s4["SFT, S1 and S4"],
        "difference_low": answerable.low,
    },
    note="SFT refuses less of S4 than the model before, and less than the one fine-tuned without the questions of S2 and S3 for as many "
    "tokens; leaving them out also makes refusals a larger part of the answers, and the two are not told apart",
)

# %%
sharper = rise("S4", "CT&SFT", "SFT", "refused")
claim(
    "zhang2024fusion.knowing-sharpens-refusal",
    sharper.above(0, negligible=NEGLIGIBLE),
    measured={
        "SFT": at_s4["SFT"],
        "CT_SFT": at_s4["CT&SFT"],
        **ends(sharper),
        "SFT_refuses_S3": refused.loc["SFT", "S3"],
        "CT_SFT_refuses_S3": refused.loc["CT&SFT", "S3"],
    },
    note="the interval of the gain lies above zero; refusing S3 too would be no sharper",
)

# %%
could = useless[(useless["mode"] == "CT&SFT") & useless["copyable"]]
enough = could["people"].explode().nunique() > 1
from_context = share(could, "copied") if enough else None
beyond_chance = clustered(could["copied"] - could["chance"], list(could["people"])) if enough else None
claim(
    "zhang2024fusion.wrong-answers-come-from-the-context",
    from_context.above(0.5, negligible=NEGLIGIBLE) & beyond_chance.above(0, negligible=NEGLIGIBLE)
    if enough
    else UNDECIDED,
    measured={
        **(ends(from_context, "copied") if enough else {}),
        **({"chance": could["chance"].mean(), "beyond_chance_low": beyond_chance.low} if enough else {}),
        "copyable": len(could),
        "copied_SFT": errors["copied"].get("SFT", 0.0),
        "copied_CT": errors["copied"].get("CT", 0.0),
    },
    note="of the answers of CT&SFT in S3 and S4 with a wrong object where one stood in the context: more than half, and more than chance",
)

# %%
elicited = gain(by_alone["CT"], by_alone["CT, pages only"])
claim(
    "zhang2024fusion.augmentation-helps-elicitation",
    elicited.above(0, negligible=NEGLIGIBLE),
    measured={"augmented": at["CT"], "pages_only": at["CT, pages only"], **ends(elicited)},
    note="as many tokens of continued training on both sides; without context",
)

# %%
which = gain(by_alone["CT, pairs"], by_alone["CT, paraphrases"])
claim(
    "zhang2024fusion.pairs-elicit-more-than-paraphrases",
    which.above(0, negligible=NEGLIGIBLE),
    measured={"pairs": at["CT, pairs"], "paraphrases": at["CT, paraphrases"], **ends(which), "both": at["CT"]},
    note="as many tokens of continued training on both sides; without context, and in the wording that no pair has",
)

# %%
beside = {kind: noisy[(noisy["mode"] == "CT&SFT") & (noisy["noise"] == kind)] for kind in NOISES}
kinds = difference(share(beside["same entity"]), share(beside["same attribute"]))
claim(
    "zhang2024fusion.same-attribute-distracts-more",
    kinds.above(0, negligible=NEGLIGIBLE),
    measured={
        "beside_same_attribute": beside["same attribute"]["right"].mean(),
        "beside_same_entity": beside["same entity"]["right"].mean(),
        **ends(kinds, "difference"),
        **{f"direct_S1_{kind.replace(' ', '_')}": accurate_beside.loc[("S1", "Direct"), kind] for kind in NOISES},
    },
    note="accuracy of CT&SFT in S1 and S2 where there is noise, by its kind; other questions on either side, so not paired",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, (paper, we, why) in DEPARTURES.items():
    print(f"{topic}: the paper: {paper}. Here: {we}. Why: {why}.")

# %% [markdown]
# What continued training leaves out depends on how long it goes on, which the paper does not say. Fine-tuning alone answers nearly all
# of S1, so that there is no room for a gain there; whether continued training *costs* some of this reading can be decided.
# Continued training by itself costs more than half of S1 and all refusals (Table 3, *CT*), because nothing of the testbed's own training
# is replayed. Fine-tuning brings the reading back, and few of the refusals: `knowing-sharpens-refusal` is about a model that had unlearned
# refusing. `fine-tuning-helps-everywhere`, `fine-tuning-raises-refusals` and `noise-hurts-reading` count against the paper where these testbeds
# leave no room for them.
# S1 and S2, and noise of either kind, stand beside other questions on the same people: intervals of these differences take the two sides
# as independent.
#
# ## Exercises
#
# 1. Run with `passes=2` and `passes=16`. Which of S1 and S3 moves more, and in which direction?
# 2. How often would an answer to S3 be right by a guess among the objects of the attribute, if every question had one part? Run the
#    checker.


# %%
def check(guess):
    chance = sum(1 / len(things) for things in ground.objects.values()) / len(ground.objects)
    return "right" if abs(guess - chance) < 0.005 else "not quite: how many objects does an attribute have?"


check(guess=0.5)
