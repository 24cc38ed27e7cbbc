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
# read, and ask questions in four cases by who holds the answer. Trains five small models; about a minute on one CPU core.

# %%
import pandas as pd

from paramem import claim, load
from paramem.decisions import UNDECIDED, every
from paramem.evaluation.intervals import over_edits, paired
from paramem.fusion import reported
from paramem.fusion.documents import LeakingSplit, Split
from paramem.fusion.questions import NOISES, SCENARIOS
from paramem.fusion.scoring import accurate, coverage, gold, reference, stated
from paramem.fusion.study import (
    DEPARTURES,
    FusionSettings,
    apart,
    ask,
    continued,
    drawn,
    graded,
    of,
    prepare,
    shares,
    supervised,
    table_2,
    table_3,
    train_modes,
    without_context,
)
from paramem.fusion.training import InfusionSettings, TrainSettings, infusion_rows, n_tokens, question_pairs
from paramem.material import world_behind
from paramem.plots import grid, rates

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
# The two learning rates were chosen from two values each, on the development questions of one draw on `read-s0` that is not measured
# here, by the mean accuracy of CT&SFT over the four cases. Nothing was chosen on the questions of the test.
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
# page, a paraphrase, and eight of its ten question-answer pairs.

# %%
page = split.parametric[0]
rows = infusion_rows(lm, here, [page], InfusionSettings(), ground.seed)
for ids, _ in rows[:4]:
    print("-", lm.tokenizer.decode(ids, skip_special_tokens=True))
print(f"{len(rows)} rows, {n_tokens(rows)} tokens; {len(question_pairs(here, page))} pairs to choose from")

# %% [markdown]
# A split that leaks is refused, with the document that leaks.

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
# $K_{gold} \subseteq K_{gen}$, partial if they meet. A refusal states that the object is unknown. Predict the rows of the table
# for a question of S2 before you look.

# %%
question = next(q for q in test if q.scenario == "S2")
right, other = question.answers, [next(o for o in ground.objects[s.attribute] if o != s.object) for s in question.asked]
ref = reference(question, ground.parametric)
said = {
    "both right": right,
    "one right, one wrong": (right[0], other[1]),
    "one right, one refused": (right[0], "I don't know"),
    "both wrong": tuple(other),
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
# ## Table 2: does training store it?
#
# The questions of S3 without any context. *CT* has paraphrases and pairs, *CT, pages only* sees each page alone, for as many tokens.

# %%
models = train_modes(lm, ground, settings)
plain = continued(
    lm,
    ground,
    FusionSettings(infusion=InfusionSettings(augmentation="none"), continued=settings.continued),
    name="CT, pages only",
)
asked_alone = {**{name: models[name] for name in ("Direct", "CT")}, "CT, pages only": plain, "CT&SFT": models["CT&SFT"]}
alone = pd.concat([without_context(each, ground, name) for name, each in asked_alone.items()], ignore_index=True)
table_2(alone)

# %% [markdown]
# ## Table 3: four cases, five modes

# %%
table = ask(models, ground)
table_3(table)

# %%
accuracy = shares(table, ["scenario", "mode"])
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
# How much of the right answer is said, where the context does not hold all of it:

# %%
cover = table[table["scenario"].isin(["S2", "S3"])].assign(complete=lambda t: t["cover"] == "complete")
partly = cover.assign(partial=cover["cover"] == "partial").groupby(["scenario", "mode"], sort=False)
degrees = partly[["complete", "partial"]].mean().unstack("scenario").swaplevel(axis=1).sort_index(axis=1)
degrees.columns = [f"{scenario} {degree}" for scenario, degree in degrees.columns]
grid(
    degrees.reindex(list(models)),
    "S2: "
    + ";\n".join(
        f"{mode} says half of the answer in {degrees.loc[mode, 'S2 partial']:.2f} of cases, all of it in "
        f"{degrees.loc[mode, 'S2 complete']:.2f}"
        for mode in ("SFT", "CT&SFT")
    ),
    label="share of questions",
)

# %% [markdown]
# ## Refusals, and where wrong answers come from
#
# *No refusals* is fine-tuned on the same questions without those of S4. The last column is the share of the answers with a wrong
# object in which such an object stands in the context.

# %%
taught = [q for q in ground.questions["train"] if q.scenario != "S4"]
bold = graded(supervised(lm, taught, ground, settings, name="no refusals"), test, ground, "SFT, no refusals")
everybody = pd.concat([table, bold], ignore_index=True)
useless = everybody[everybody["scenario"].isin(["S3", "S4"]) & (everybody["mode"] != "Easy")]
errors = useless[useless["wrong"]].groupby("mode", sort=False)["copied"].agg(["mean", "size"])
refused = useless.pivot_table(index="mode", columns="scenario", values="refused", sort=False)
refused.add_prefix("refused, ").assign(**{"wrong objects": errors["size"], "from the context": errors["mean"]}).round(2)

# %%
in_s4 = shares(useless[useless["scenario"] == "S4"], ["mode"], "refused")
at_s4 = in_s4.set_index("mode")["mean"]
rates(
    in_s4.assign(answers="refused"),
    f"Refusals in S4: {at_s4['Direct']:.2f} before any training, {at_s4['SFT']:.2f} after fine-tuning, "
    f"{at_s4['CT&SFT']:.2f} with continued training before it",
    rows="mode",
    columns="answers",
    xlabel="share of the questions of S4",
)

# %% [markdown]
# Which noise distracts? Questions that the context answers (S1) or half answers (S2), by the kind of the other snippets.

# %%
noisy = table[table["scenario"].isin(["S1", "S2"]) & table["mode"].isin(["Direct", "SFT", "CT&SFT"])]
shares(noisy, ["scenario", "mode", "noise"]).pivot(index=["scenario", "mode"], columns="noise", values="mean").round(3)

# %% [markdown]
# ## Claims
#
# Differences are paired by question, and their 95 % intervals decide; one that straddles its limit by more than a tenth decides
# nothing.

# %%
before, after = of(alone, "Direct", "S3"), of(alone, "CT", "S3")
gain = paired(after, before)
recalled = over_edits(after)
claim(
    "zhang2024fusion.infusion-is-partial",
    gain.above(0, negligible=NEGLIGIBLE) & recalled.below(0.9, negligible=NEGLIGIBLE),
    measured={
        "before": before.mean(),
        "after": after.mean(),
        "after_low": recalled.low,
        "after_high": recalled.high,
        "after_tuning": of(alone, "CT&SFT", "S3").mean(),
        "tokens_for_a_fact": passes * n_tokens(rows) / len(page.snippets),
    },
    note="the gain lies above zero, and the interval of what is recalled afterwards below nine tenths",
)


# %%
def gain_of(scenario, one, other, column="right"):
    return paired(of(everybody, one, scenario, column), of(everybody, other, scenario, column))


gains = {scenario: gain_of(scenario, "CT&SFT", "SFT") for scenario in SCENARIOS}
pd.DataFrame(gains, index=["CT&SFT minus SFT", "low", "high"]).round(3)

# %%
claim(
    "zhang2024fusion.no-gain-where-the-context-suffices",
    ~gains["S1"].above(0, negligible=0.05),
    measured={
        "SFT": wide.loc["S1", "SFT"],
        "CT_SFT": wide.loc["S1", "CT&SFT"],
        **dict(zip(("gain", "low", "high"), gains["S1"], strict=True)),
    },
    note="holds where none of the interval of the gain lies five points above zero; fine-tuned alone it answers nearly all of S1, so "
    "that this could hardly fail",
)

# %%
claim(
    "zhang2024fusion.continued-training-costs-reading",
    gains["S1"].below(0, negligible=NEGLIGIBLE),
    measured={
        "SFT": wide.loc["S1", "SFT"],
        "CT_SFT": wide.loc["S1", "CT&SFT"],
        "low": gains["S1"].low,
        "high": gains["S1"].high,
    },
    note="the interval of CT&SFT minus SFT in S1 lies below zero",
)

# %%
claim(
    "zhang2024fusion.gain-where-both-are-needed",
    gains["S2"].above(0, negligible=NEGLIGIBLE),
    measured={
        "SFT": wide.loc["S2", "SFT"],
        "CT_SFT": wide.loc["S2", "CT&SFT"],
        "gain_low": gains["S2"].low,
        "gain_high": gains["S2"].high,
        "complete_SFT": degrees.loc["SFT", "S2 complete"],
        "complete_CT_SFT": degrees.loc["CT&SFT", "S2 complete"],
    },
    note="the interval of the gain lies above zero",
)

# %%
claim(
    "zhang2024fusion.gain-where-only-the-parameters-know",
    gains["S3"].above(0, negligible=NEGLIGIBLE),
    measured={
        "SFT": wide.loc["S3", "SFT"],
        "CT_SFT": wide.loc["S3", "CT&SFT"],
        "gain_low": gains["S3"].low,
        "gain_high": gains["S3"].high,
    },
    note="the interval of the gain lies above zero",
)

# %%
in_two_parts = table[table["asked"] == 2]
alike = {(mode, s): of(in_two_parts, mode, s) for mode in ("Direct", "CT&SFT") for s in ("S1", "S2")}
harder = apart(alike["CT&SFT", "S1"], alike["CT&SFT", "S2"])
claim(
    "zhang2024fusion.both-needed-is-harder",
    harder.above(0, negligible=NEGLIGIBLE),
    measured={
        "S1": alike["CT&SFT", "S1"].mean(),
        "S2": alike["CT&SFT", "S2"].mean(),
        "difference_low": harder.low,
        "difference_high": harder.high,
        "direct_S1": alike["Direct", "S1"].mean(),
        "direct_S2": alike["Direct", "S2"].mean(),
        "S1_questions": len(alike["CT&SFT", "S1"]),
    },
    note="of CT&SFT, questions in two parts on either side; the questions differ, so the interval is not paired",
)

# %%
lost = paired(of(alone, "CT&SFT", "S3"), of(table, "CT&SFT", "S3"))
claim(
    "zhang2024fusion.distractors-hurt-recall",
    lost.above(0, negligible=NEGLIGIBLE),
    measured={
        "without_context": of(alone, "CT&SFT", "S3").mean(),
        "with_distractors": wide.loc["S3", "CT&SFT"],
        "lost_low": lost.low,
        "lost_high": lost.high,
        "CT_without_context": after.mean(),
        "CT_with_distractors": wide.loc["S3", "CT"],
    },
    note="the same model on both sides, CT&SFT; the paper sets CT without context beside CT&SFT with it",
)

# %%
noise = gain_of("S1", "Easy", "SFT")
claim(
    "zhang2024fusion.noise-hurts-reading",
    noise.above(0, negligible=NEGLIGIBLE),
    measured={
        "without_noise": wide.loc["S1", "Easy"],
        "with_noise": wide.loc["S1", "SFT"],
        "lost_low": noise.low,
        "lost_high": noise.high,
    },
    note="the fine-tuned model in S1, with and without the snippets that do not answer",
)

# %%
helps = {scenario: gain_of(scenario, "SFT", "Direct") for scenario in SCENARIOS}
pooled = paired(
    *(everybody[everybody["mode"] == mode].set_index("question")["right"].astype(float) for mode in ("SFT", "Direct"))
)
claim(
    "zhang2024fusion.fine-tuning-helps-everywhere",
    every(span.above(0, negligible=NEGLIGIBLE) for span in (*helps.values(), pooled)),
    measured={**{f"gain_{s}": span.mean for s, span in helps.items()}, "all_low": pooled.low, "all_high": pooled.high},
    note="the interval of the gain lies above zero in each case, and over all questions",
)

# %%
closer = {scenario: gain_of(scenario, "Easy", "CT&SFT") for scenario in ("S2", "S3")}
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
    },
    note="both intervals lie above zero",
)

# %%
untaught = of(everybody, "SFT, no refusals", "S4", "refused")
taught_gain = gain_of("S4", "SFT", "SFT, no refusals", "refused")
rarely = over_edits(untaught)
claim(
    "zhang2024fusion.refusal-must-be-taught",
    rarely.below(0.5, negligible=NEGLIGIBLE) & taught_gain.above(0, negligible=NEGLIGIBLE),
    measured={
        "without_examples": untaught.mean(),
        "with_examples": at_s4["SFT"],
        "gain_low": taught_gain.low,
        "gain_high": taught_gain.high,
        "direct": at_s4["Direct"],
    },
    note="fine-tuned without examples of refusal it refuses less than half, and with them more; unlike the paper's "
    "models, this one was taught to refuse before (direct)",
)

# %%
sharper = gain_of("S4", "CT&SFT", "SFT", "refused")
claim(
    "zhang2024fusion.knowing-sharpens-refusal",
    sharper.above(0, negligible=NEGLIGIBLE),
    measured={
        "SFT": at_s4["SFT"],
        "CT_SFT": at_s4["CT&SFT"],
        "gain_low": sharper.low,
        "gain_high": sharper.high,
        "SFT_refuses_S3": refused.loc["SFT", "S3"],
        "CT_SFT_refuses_S3": refused.loc["CT&SFT", "S3"],
    },
    note="the interval of the gain lies above zero; refusing S3 too would be no sharper",
)

# %%
unlearned = gain_of("S4", "SFT", "Direct", "refused")
claim(
    "zhang2024fusion.fine-tuning-unteaches-refusal",
    unlearned.below(0, negligible=NEGLIGIBLE),
    measured={"direct": at_s4["Direct"], "SFT": at_s4["SFT"], "low": unlearned.low, "high": unlearned.high},
    note="the interval of SFT minus Direct lies below zero; the model holds no answer of S2 and S3 in full",
)

# %%
copied = useless[useless["wrong"] & (useless["mode"] == "CT&SFT")]["copied"]
from_context = over_edits(copied) if len(copied) else None
claim(
    "zhang2024fusion.wrong-answers-come-from-the-context",
    from_context.above(0.5, negligible=NEGLIGIBLE) if from_context else UNDECIDED,
    measured={
        **(dict(zip(("copied", "low", "high"), from_context, strict=True)) if from_context else {}),
        "wrong": len(copied),
        "copied_SFT": errors["mean"].get("SFT", 0.0),
        "copied_CT": errors["mean"].get("CT", 0.0),
    },
    note="of the wrong objects that CT&SFT names in S3 and S4; the interval lies above one half",
)

# %%
elicited = paired(after, of(alone, "CT, pages only", "S3"))
claim(
    "zhang2024fusion.augmentation-helps-elicitation",
    elicited.above(0, negligible=NEGLIGIBLE),
    measured={
        "augmented": after.mean(),
        "pages_only": of(alone, "CT, pages only", "S3").mean(),
        "gain_low": elicited.low,
        "gain_high": elicited.high,
    },
    note="as many tokens of continued training on both sides; without context",
)

# %%
first, second = (
    table[(table["mode"] == "SFT") & table["scenario"].isin(["S1", "S2"]) & (table["noise"] == kind)]["wrong"].astype(
        float
    )
    for kind in NOISES
)
kinds = apart(first, second)
claim(
    "zhang2024fusion.same-attribute-distracts-more",
    kinds.above(0, negligible=NEGLIGIBLE),
    measured={
        "wrong_beside_same_attribute": first.mean(),
        "wrong_beside_same_entity": second.mean(),
        "low": kinds.low,
        "high": kinds.high,
        "wrong_in_S1": of(table, "SFT", "S1", "wrong").mean(),
    },
    note="answers of SFT in S1 and S2 with a wrong object, by the kind of noise; not paired. SFT was never told one half of "
    "S2: a wrong object there is a guess in place of a refusal",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, (paper, we, why) in DEPARTURES.items():
    print(f"{topic}: the paper: {paper}. Here: {we}. Why: {why}.")

# %% [markdown]
# The testbeds were taught to read and to refuse before; the paper's models only to follow instructions. What continued training
# leaves out depends on how long it goes on, which the paper does not say. Fine-tuning alone answers nearly all of S1, so that there
# is no room for a gain there; that continued training *costs* some of this reading is what the data could decide.
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
