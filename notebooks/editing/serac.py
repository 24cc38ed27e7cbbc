# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # SERAC: a memory of edits, a gate, and a second model
#
# *Edits are kept beside a frozen model; a classifier decides whether a prompt is in the scope of one, and only then a small
# counterfactual model answers.* [Mitchell et al. 2022](https://arxiv.org/abs/2206.06520) (`mitchell2022serac`). The networks are
# learned from edits of other subjects and shipped, for each testbed from a seed of its own. Runs in under a minute on one CPU
# core.

# %%
import numpy as np
import pandas as pd

from paramem import claim, load
from paramem.decisions import UNDECIDED
from paramem.editing.serac import SeracSettings, let_in, serac
from paramem.editing.trained import load as load_trained
from paramem.evaluation import baseline, evaluate
from paramem.evaluation.intervals import Span, over_edits, paired, wilson
from paramem.evaluation.scorecard import difference, scorecard, wide
from paramem.facts import FrozenDict, Probe, fill
from paramem.material import edits_for, facts_for, of_unseen_subjects, part_of, text_for
from paramem.plots import rates
from paramem.registry import method

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed, a local folder, or a hub id
dataset: str = "world"  # the testbed's world, or a file of edits (CounterFact, ZsRE, KnowEdit, ...)
text: str = "world"  # ordinary text for ROME: the testbed's world, or a file with a passage a line
profile: str = "default"
seed: int = 0
relations: str = "people"  # "people": relations of people; "all"; or names with commas between
layer: int = 0  # that ROME, the control, edits
n_edits: int = 0  # 0: as many as the profile says

# %%
lm = load(model)
n_edits = n_edits or {"paper": 500}.get(profile, 40)
everyone = of_unseen_subjects(edits_for(lm, dataset, seed=seed, relations=relations, part="test"))
requests = everyone[:n_edits]
trained = load_trained("serac", lm)
shape = trained.card.settings["shape"]
KINDS = tuple(trained.card.settings["scopes"])
print(
    f"{trained.card.parameters:,} numbers: classifiers {', '.join(KINDS)} and a counterfactual model of {shape['steps']} steps"
)
print(
    f"{len(requests)} edits of subjects for tests, {len(everyone)} where the gate alone is asked; so is every other subject below"
)

# %% [markdown]
# ## What the paper reports
#
# It still works after many edits, where editors that change weights often fail altogether (abstract). The survey finds locality of
# 100.00 on WikiData recent and of 30.23 on ZsRE (`zhang2024knowedit`, Table 4): the classifier is let in by unrelated questions
# there.
#
# ## The gate, by hand
#
# The classifier gives every pair of an edit and a prompt a probability. Predict: which of these are in the scope of the first edit?

# %%
request = requests[0]
routed = serac(lm, [request], SeracSettings(), trained)
gate = routed.gate(lm)
probes = [request.probe(), request.paraphrases[0], *request.portability.get("alias", ())[:1]]
probes += [request.locality[name][0] for name in ("relation", "subject", "distracting") if name in request.locality]
prompts = [probe.prompt for probe in probes]
chance = [p for p, _ in gate.probabilities(prompts)]
said = {"before": lm.generate(prompts, max_new_tokens=6)}
with routed.applied(lm) as edited:
    said["after"] = edited.generate(prompts, max_new_tokens=6)
print(f"the edit: {request.prompt} {request.target_new}")
pd.DataFrame({"in scope": np.round(chance, 2), **said}, index=prompts)

# %% [markdown]
# What the counterfactual model reads is the edit and the prompt; it says the new object and stops, as it has learned to. Outside of
# every scope the base model's logits are handed on, bit for bit: what changes there was let in by mistake, and by construction.
#
# ## One edit at a time, and all of them in one memory
#
# *Memory* holds all edits at once; ROME, which changes weights, makes them one after the other.

# %%
before = baseline(lm, requests, generated=False, kl=False)
frames = {}
for kind in KINDS:
    single = [serac(lm, [each], SeracSettings(scope=kind), trained) for each in requests]
    frames[f"SERAC, {kind}"] = evaluate(lm, requests, single, before=before, name=kind)
memory = serac(lm, requests, SeracSettings(), trained)
frames["SERAC, memory"] = evaluate(lm, requests, memory, before=before, name="memory")
sequence = method("rome").edit_sequence(lm, requests, layer=layer, texts=text_for(lm, text, n=1000), known="keep")
frames["ROME, in sequence"] = evaluate(lm, requests, sequence, before=before, name="ROME")
edited_prompts = {each.prompt for each in requests}  # what another edit of the memory changes is no side effect
frames = {
    name: frame[(frame["group"] != "locality") | ~frame["prompt"].isin(edited_prompts)]
    for name, frame in frames.items()
}
card = scorecard(frames)
wide(card)

# %%
at = card.pivot(index="metric", columns="edit", values="mean")
shown = wide(card).loc["edit: exact"]
EDIT, PARAPHRASE, OTHERS = "edit: exact", "paraphrase: exact", "other subjects: exact"
rates(
    card[card["metric"].isin([EDIT, PARAPHRASE, OTHERS])],
    f"{len(requests)} edits together: a memory edits {shown['SERAC, memory']:.2f}, ROME in sequence {shown['ROME, in sequence']:.2f}",
    rows="metric",
    columns="edit",
)

# %% [markdown]
# ## Which prompts get through the gate?
#
# For every edit of a subject for tests alone: how often each kind of prompt is sent to the counterfactual model. *Question* asks the edited fact in a form
# that no training edit has; *implied* follows from the new fact in two steps; a *namesake* is another person with the same first or
# last name, asked the same.

# %%
NAMES = {
    "edit": "own prompt",
    "reasoning": "implied",
    "subject": "same subject",
    "relation": "same relation",
    "distracting": "behind the edit",
    "out_of_distribution": "unrelated",
}
known = facts_for(lm) if dataset == "world" else ()
questions = {fact.id: fact.question for fact in known if fact.question}
others = [fact for fact in known if part_of(fact.subject) == "test"]
asked = []
for each in everyone:
    found = (
        [Probe(prompt=fill(questions[each.id], each.subject), target=each.target_new, kind="question")]
        if each.id in questions
        else []
    )
    alike = tuple(
        fact.probe()
        for fact in others
        if fact.relation == each.relation
        and fact.subject != each.subject
        and set(fact.subject.split()) & set(each.subject.split())
    )
    locality = FrozenDict({**each.locality, **({"namesake": alike} if alike else {})})
    asked.append(each.model_copy(update={"paraphrases": (*each.paraphrases, *found), "locality": locality}))
gates = pd.concat(let_in(lm, asked, SeracSettings(scope=kind), trained).assign(classifier=kind) for kind in KINDS)
gates["kind"] = gates["subgroup"].where(gates["kind"] != "question", "question").replace(NAMES)
shares = gates.groupby(["kind", "classifier"], sort=False)["in"].agg(["sum", "size"]).reset_index()
shares[["low", "high"]] = [wilson(k, n) for k, n in zip(shares["sum"], shares["size"], strict=True)]
shares["mean"] = shares["sum"] / shares["size"]
through = shares.pivot(index="kind", columns="classifier", values="mean").reindex(list(dict.fromkeys(gates["kind"])))
rates(
    shares,
    f"Other wordings get in ({through.loc['paraphrase', 'embedding']:.2f}), other facts hardly ({through.loc['same relation', 'embedding']:.2f})",
    rows="kind",
    columns="classifier",
    xlabel="share sent to the counterfactual model",
)

# %%
through.round(3)

# %% [markdown]
# A threshold can be moved. So the classifiers are compared where each lets nineteen in twenty of the prompts in that belong in
# (other wordings and other names): how many that do not belong in come along? *Those* are facts of namesakes, other
# facts of the subject, and the same fact of others. Questions are left out of what belongs in: neither classifier knows their form, so
# that a threshold which lets them in lets nearly everything in.

# %%
BELONG, WRONG = ("paraphrase", "alias"), ("namesake", "same subject", "same relation")
floors = gates[gates["kind"].isin(BELONG)].groupby("classifier")["probability"].quantile(0.05)
near = gates[gates["kind"].isin(WRONG)].assign(alarm=lambda t: t["probability"] >= t["classifier"].map(floors))
by_edit = near.groupby(["request", "classifier"])["alarm"].mean().unstack()
print("false alarms where 0.95 of what belongs in is let in:", by_edit.mean().round(3).to_dict())
near.groupby(["kind", "classifier"], sort=False)["alarm"].mean().unstack().round(3)

# %% [markdown]
# ## Claims
#
# 95 % intervals decide where the gate is asked and where two editors or classifiers are compared, paired by edit; one that straddles its
# limit decides nothing.

# %%
NEGLIGIBLE = 0.1


def changed_outside(frame):
    rows = frame[(frame["state"] == "after") & (frame["group"] == "locality") & (frame["protocol"] == "teacher_forced")]
    rows = rows[rows["subgroup"].isin(["relation", "subject", "out_of_distribution"])]
    return rows.assign(changed=rows["same"] == 0)


together = changed_outside(frames["SERAC, memory"])
changed = together["changed"].to_numpy()
alarm = np.array([choice is not None for choice in memory.gate(lm).choose(list(together["prompt"]))])
stayed = Span(1 - changed.mean(), *wilson(int((~changed).sum()), len(changed)))
claim(
    "mitchell2022serac.unrelated-answers-stay",
    stayed.above(0.95),
    measured={"kept": stayed.mean, "low": stayed.low, "false_alarms": alarm.mean(), "probes": len(changed)},
    note="all edits in memory: of answers about subjects that training never saw, at least 95 in 100 stay (lower end of the interval)",
)

# %%
against_alone = difference(frames, EDIT, "SERAC, memory", "SERAC, embedding")
ahead = {metric: difference(frames, metric, "SERAC, memory", "ROME, in sequence") for metric in (EDIT, OTHERS)}
claim(
    "mitchell2022serac.survives-many-edits",
    against_alone.above(-0.05) & ahead[EDIT].above(negligible=NEGLIGIBLE) & ahead[OTHERS].above(negligible=NEGLIGIBLE),
    measured={
        "edit_alone": at.loc[EDIT, "SERAC, embedding"],
        "edit_together": at.loc[EDIT, "SERAC, memory"],
        "edit_rome": at.loc[EDIT, "ROME, in sequence"],
        "others": at.loc[OTHERS, "SERAC, memory"],
        "others_rome": at.loc[OTHERS, "ROME, in sequence"],
        "edit_gain_low": ahead[EDIT].low,
        "others_gain_low": ahead[OTHERS].low,
        "edits": len(requests),
    },
    note="together at most five points behind alone; more edits made and more of the other subjects kept than by ROME in sequence; 95 % "
    "intervals, paired by edit",
)

# %%
inside = through["embedding"]
claim(
    "mitchell2022serac.edits-by-reading",
    at.loc[EDIT, "SERAC, embedding"] >= 0.95 and at.loc[PARAPHRASE, "SERAC, embedding"] >= 0.9,
    measured={
        "edit": at.loc[EDIT, "SERAC, embedding"],
        "paraphrase": at.loc[PARAPHRASE, "SERAC, embedding"],
        "edit_cross": at.loc[EDIT, "SERAC, cross"],
    },
    note="at least 95 of 100 edits and 90 of 100 paraphrases, of subjects that training never saw",
)

# %%
by_kind = gates[gates["classifier"] == "embedding"].groupby(["kind", "request"])["in"].mean()
let = {name: over_edits(by_kind[name]) for name in ("alias", "same subject", "same relation", "question")}
claim(
    "mitchell2022serac.hard-cases-told-apart",
    let["alias"].above(0.9) & let["same subject"].below(0.05) & let["same relation"].below(0.05),
    measured={
        "edits": len(everyone),
        "alias_low": let["alias"].low,
        "alias_high": let["alias"].high,
        "alias_in": inside["alias"],
        "same_subject_in": inside["same subject"],
        "same_relation_in": inside["same relation"],
        "alias_in_cross": through.loc["alias", "cross"],
    },
    note="more than nine in ten other names get in; fewer than five in a hundred other facts of the subject, or of its relation, do; 95 % "
    "intervals over edits",
)

# %%
claim(
    "mitchell2022serac.unseen-form-escapes",
    let["question"].below(0.5),
    measured={
        "question_in": inside["question"],
        "question_in_cross": through.loc["question", "cross"],
        "paraphrase_in": inside["paraphrase"],
    },
    note="a question form that no training edit has: the 95 % interval over edits of the share let in lies below one half",
)

# %%
two_step = "two-step consequence: exact"
claim(
    "mitchell2022serac.implied-facts-stay-behind",
    at.loc[two_step, "SERAC, embedding"] <= 0.1,
    measured={
        "implied_exact": at.loc[two_step, "SERAC, embedding"],
        "implied_in": inside["implied"],
        "edit": at.loc[EDIT, "SERAC, embedding"],
    },
    note="at most one in ten two-step consequences is answered with the new fact in mind",
)

# %%
more = paired(by_edit["cross"], by_edit["embedding"])
claim(
    "mitchell2022serac.cross-attention-lets-more-in",
    more.above(negligible=NEGLIGIBLE) if 0 < by_edit.to_numpy().mean() < 1 else UNDECIDED,
    measured={
        "false_alarms_cross": by_edit["cross"].mean(),
        "false_alarms_embedding": by_edit["embedding"].mean(),
        "difference_low": more.low,
        "difference_high": more.high,
    },
    note="false alarms among near prompts where each lets in 0.95 of other wordings and names: cross-attention minus embedding, paired by "
    "edit; its 95 % interval lies above zero",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, departure in method("serac").departures().items():
    print(f"{topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# The networks depend on the tokenizer, the training edits and a seed. The six testbeds share the first two, so that they are six draws
# of gate and counterfactual model around six base models, learned from one set of edits.
#
# ## Exercises
#
# 1. Lower `threshold` in `SeracSettings` to 0.1. What comes in first: questions, or other subjects?
# 2. How many of the edits can the memory hold before a namesake's fact raises the first false alarm? Run the checker for your guess.


# %%
def check(guess):
    gate = serac(lm, requests[: max(1, guess)], SeracSettings(), trained).gate(lm)
    prompts = [probe.prompt for each in asked for probe in each.locality.get("namesake", ())]
    edited = {each.prompt for each in requests}
    alarms = [
        prompt
        for prompt, choice in zip(prompts, gate.choose(prompts), strict=True)
        if choice is not None and prompt not in edited
    ]
    return f"{len(alarms)} false alarms with {max(1, guess)} edits"


check(guess=1)
