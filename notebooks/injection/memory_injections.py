# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Memory injections: reminding a model of what a question leaves out
#
# *A question that goes through an entity without naming it is answered more often when that entity's embedding is added to the
# output of one attention layer.* [Sakarvadia et al. 2023](https://arxiv.org/abs/2309.05605) (`sakarvadia2023injections`) do this to
# prompts in two steps. Here the steps are known one by one, and so are the people for whom the model does not put them together.
# Runs in under a minute on one CPU core.

# %%
import numpy as np
import pandas as pd
import torch

from paramem import claim, load
from paramem.decisions import UNDECIDED, every
from paramem.detection.neurons import answer_logits, ask_prompts
from paramem.evaluation.intervals import paired, span
from paramem.injection.memory_injections import (
    DEPARTURES,
    InjectionSettings,
    embed_memory,
    embedded,
    heads_bring_up,
    inject,
    sweep,
    swept_at,
)
from paramem.injection.two_steps import (
    by_person,
    chosen_on_other_people,
    directions,
    first_tokens,
    two_step_questions,
    wrong_memories,
)
from paramem.material import world_behind
from paramem.plots import curves, grid, rates

# %% tags=["parameters"]
model: str = "reason-short-gpt2-s0"  # a bundled testbed that puts two steps together for some people only
profile: str = "default"
seed: int = 0
layer: int = 4  # of the one injection that is looked at closely
tau: float = 8.0

# %%
lm = load(model)
here = world_behind(lm)
questions = two_step_questions(lm, here, seed=seed)
asked = ask_prompts(lm, [q.prompt for q in questions], [q.answer for q in questions])
right = (answer_logits(lm, asked).argmax(-1) == asked.answers).numpy()
print(
    f"{lm.name}: {len(questions)} questions about {len({q.person for q in questions})} people, {right.mean():.3f} right"
)

# %% [markdown]
# ## What the paper reports
#
# GPT-2 is looked at layer by layer on prompts in one and in several steps. Then a memory, the information that a prompt leaves
# out, is added at a key attention layer; this often raises the probability of the wanted next token (abstract). That memories which are
# no answer do not help is said beyond the abstract, which alone was read. How often injections help, and by what means, is what the
# questions below ask. All of them are about people of whom no consequence was ever stated, and the model
# answers each of their single steps by itself: what fails is putting them together.

# %%
shown = pd.DataFrame([{"prompt": q.prompt, "goes through": q.entity, "answer": q.answer, "right": ok} for q, ok in
                      zip(questions, right, strict=True)])  # fmt: skip
print(pd.Series(right).groupby([q.relation for q in questions]).agg(["mean", "size"]).round(3))
shown.head(6)

# %% [markdown]
# ## The smallest case, by hand
#
# Four words, a head of width two. Numbered from 0, the memory consists of words 1 and 3. Predict the vector that is added at a magnitude of 2.

# %%
W_U = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.5, 0.5]])  # one row a word
B = embed_memory(W_U, [1, 3])
print("embedded memory", B.tolist(), "added", (2 * B).tolist())

# %% [markdown]
# ## One question, reminded
#
# The first question that is answered wrong. An injection is an intervention like any other here: put on, and off again. Predict: what
# becomes likelier when the model is reminded of the right entity, at every token of the question, and what when of another one?

# %%
first = questions[int((~right).argmax())]
print(first.prompt, "->", lm.generate(first.prompt, max_new_tokens=1)[0])
print(f"right would be {first.answer}, by way of {first.entity}; from {first.other} would follow {first.other_answer}")
answers = (first.answer, first.other_answer)
one = {"nothing": lm.score([first.prompt] * 2, answers).logprob.exp()}
for memory in (first.entity, first.other):
    with inject(lm, memory, InjectionSettings(layer=layer, tau=tau, where="all")).applied(lm) as reminded:
        one[memory] = reminded.score([first.prompt] * 2, answers).logprob.exp()
pd.DataFrame(one, index=[f"p({answer})" for answer in answers]).round(3)

# %% [markdown]
# ## Every layer, every magnitude
#
# As in the released code, the memory is added at every token of the prompt. Two comparisons: at the last token alone it cannot
# change what earlier tokens hold; behind the last block it meets no computation any more, and only makes words likelier whose rows
# in the head resemble it, so that a larger one may serve there. The memory is the right entity, another one of its kind, or one
# that is no answer to anything: a word, part of another person's name, an entity of another kind, a direction without meaning as
# long as the memory.

# %%
TAUS = (2.0, 4.0, 8.0, 15.0, 30.0)
texts = {
    "right entity": [q.entity for q in questions],
    "other entity": [q.other for q in questions],
    **wrong_memories(here, questions, seed=seed),
}
memories = {name: embedded(lm, words) for name, words in texts.items()}
memories["direction"] = directions(memories["right entity"], torch.Generator().manual_seed(seed))
wanted = ("answer", "other_answer", "third")
watched = torch.stack([first_tokens(lm, questions, [getattr(q, name) for q in questions]) for name in wanted], 1)
plain = answer_logits(lm, asked).softmax(-1).gather(1, watched).numpy()
before = plain[:, 0]

# %%
KINDS = list(memories)  # right entity, other entity, and four that are no answer to anything
every_kind = torch.stack(list(memories.values()))
two = every_kind[:2]
sweeps = {
    "all tokens": sweep(lm, asked, every_kind, watched, taus=TAUS, where="all"),
    "last token": sweep(lm, asked, two, watched, taus=TAUS),
    "behind": sweep(lm, asked, two, watched, taus=(*TAUS, 60.0, 120.0), layers=[lm.n_layers - 1], place="resid_post"),
}
p = {form: swept.probability.numpy() for form, swept in sweeps.items()}  # (memories, layers, taus, questions, watched)
index, columns = [f"layer {i}" for i in range(lm.n_layers)], [f"tau {tau:g}" for tau in TAUS]
found = pd.DataFrame(p["all tokens"][0, ..., 0].mean(-1), index=index, columns=columns)
best = found.stack().idxmax()
grid(
    found,
    f"Without a memory {before.mean():.2f}; best with the right one: {best[0]}, {best[1]}, {found.max().max():.2f}",
    label="probability of the answer",
)

# %%
found.round(3)

# %% [markdown]
# And the other entity, on the way to *its* answer. Where would you expect a model to put this together?

# %%
swapped = pd.DataFrame(p["all tokens"][1, ..., 1].mean(-1), index=index, columns=columns)
best = swapped.stack().idxmax()
grid(
    swapped,
    f"What follows from another entity: {plain[:, 1].mean():.2f} without it, at most {swapped.max().max():.2f} "
    f"({best[0]}, {best[1]})",
    label="probability of its answer",
)

# %%
swapped.round(3)

# %% [markdown]
# ## A layer chosen on other people
#
# A cell that is the best of so many is good by luck too. So each person's questions are judged at the layer and magnitude that serve
# the other half of the people best. Every kind of memory has a cell of its own, so that a wrong one is not judged where only the right
# one was tried.


# %%
def choice(values):
    """For each question a cell (layer, tau) chosen on other people: values (layers, taus, questions)."""
    return chosen_on_other_people(questions, values.reshape(-1, len(questions)).T)


def at(values, cells):
    """The values in the questions' cells."""
    return values.reshape(-1, len(questions))[cells, range(len(questions))]


def over_people(values):
    """Mean and interval over people."""
    return span(by_person(questions, values), seed)


goals = {"right": (0, 0), "other": (1, 1)}  # memory, and the answer it is to bring
cells = {(form, goal): choice(p[form][m, ..., w]) for form in p for goal, (m, w) in goals.items()}
reached = {key: at(p[key[0]][goals[key[1]][0], ..., goals[key[1]][1]], chosen) for key, chosen in cells.items()}
folded = embedded(lm, texts["right entity"], folded=True)[None]
p_folded = sweep(lm, asked, folded, watched[:, :1], taus=TAUS).probability[0, ..., 0].numpy()
rows = {form: {goal: reached[form, goal].mean() for goal in goals} for form in p}
rows["last token, folded head"] = {"right": at(p_folded, choice(p_folded)).mean()}
rows["no memory"] = {"right": before.mean(), "other": plain[:, 1].mean()}
pd.DataFrame(rows).T.rename(columns={"right": "p(answer), right entity", "other": "p(its answer), other entity"}).round(
    3
)

# %% [markdown]
# What a push on the output alone would gain, as a share of what the injection gains:

# %%
for goal, start in (("right", before), ("other", plain[:, 1])):
    pushed = (reached["behind", goal] - start).mean() / (reached["all tokens", goal] - start).mean()
    print(f"{goal} entity: {pushed:.2f}")

# %%
chosen = cells["all tokens", "right"]
places = [(int(i) // len(TAUS), TAUS[i % len(TAUS)]) for i in chosen]
swaps = [(int(i) // len(TAUS), TAUS[i % len(TAUS)]) for i in cells["all tokens", "other"]]
print("right entity: (layer, tau)", sorted(set(places)))
print("other entity, for its own answer: (layer, tau)", sorted(set(swaps)))

# %% [markdown]
# All six kinds beside each other, each where it serves the right answer best for other people, and the wrong ones where the right
# entity does too:

# %%
best_for = {name: choice(p["all tokens"][i, ..., 0]) for i, name in enumerate(KINDS)}
after = {name: at(p["all tokens"][i, ..., 0], best_for[name]) for i, name in enumerate(KINDS)}
beside = {name: [at(p["all tokens"][i, ..., w], chosen) for w in range(3)] for i, name in enumerate(KINDS)}
correct = at((sweeps["all tokens"].said[0] == asked.answers).numpy(), chosen)
levels = pd.DataFrame(
    [
        {"memory": name, "probability of": of, **over_people(values)._asdict()}
        for name in ("no memory", *KINDS)
        for of, values in (
            ("right answer, own best cell", after.get(name, before)),
            ("right answer, right entity's cell", beside[name][0] if name in beside else before),
            ("other entity's answer, there", beside[name][1] if name in beside else plain[:, 1]),
        )
    ]
)
rates(
    levels,
    f"The right answer: {before.mean():.2f} without a memory, {after['right entity'].mean():.2f} with the right entity, "
    f"at most {max(after[name].mean() for name in KINDS[1:]):.2f} with any other memory",
    rows="memory",
    columns="probability of",
    xlabel="probability (95 % intervals over people)",
)

# %%
levels.round(3)

# %% [markdown]
# ## What the heads bring up
#
# What each head writes at the last token, on the vocabulary: how far does it lift the entity above its twin, another entity with the
# same answer? (The twin takes out what is written for the sake of the answer.) Only questions with a twin count. Predict the order:
# questions answered right, questions answered wrong, and the last step asked of the entity by name.

# %%
twins = [i for i, q in enumerate(questions) if q.twin is not None]
some, well = [questions[i] for i in twins], right[twins]
entity, twin = (first_tokens(lm, some, [getattr(q, name) for q in some]) for name in ("entity", "twin"))
explicit = ask_prompts(lm, [q.explicit for q in some], [q.answer for q in some])
implicit = asked.rows(torch.tensor(twins))
left_out, named = (
    (heads_bring_up(lm, each, entity) - heads_bring_up(lm, each, twin)).double().numpy()
    for each in (implicit, explicit)
)
groups = {"right": left_out[well], "wrong": left_out[~well], "named": named}
table = pd.concat(
    pd.DataFrame({"layer": range(lm.n_layers), "lift": one.sum(-1), "question": name})
    for name, part in groups.items()
    for one in part
)
means = table.groupby(["question", "layer"])["lift"].mean().unstack("layer").loc[list(groups)]
curves(
    table,
    f"All heads together lift the entity over its twin by {means.loc['right'].sum():.2f} where the answer is right, "
    f"{means.loc['wrong'].sum():.2f} where it is wrong, {means.loc['named'].sum():.2f} where the entity is named",
    x="layer",
    y="lift",
    lines="question",
    ylabel="lift of the entity, logits\n(bands: 95 %, over questions)",
)

# %%
means.round(3)


# %% [markdown]
# And the one head that lifts it most, chosen on other people:


# %%
def best_head(lift):
    """Each question's lift by the head that is best for other people's."""
    flat = lift.reshape(len(some), -1)
    heads = chosen_on_other_people(some, flat)
    return flat[range(len(some)), heads], sorted({divmod(int(h), lm.arch.n_heads) for h in heads})


by_head, heads = best_head(left_out)
by_head_named, heads_named = best_head(named)
print(f"left out: (layer, head) {heads}, lift {by_head[well].mean():.2f} right, {by_head[~well].mean():.2f} wrong")
print(f"named: (layer, head) {heads_named}, lift {by_head_named.mean():.2f}")

# %% [markdown]
# ## Claims
#
# An interval decides that lies on one side of its limit. One that straddles the limit decides nothing, unless what lies beyond is
# negligible: two hundredths of a probability or of a share, a tenth of a logit.

# %%
SMALL, SMALL_LOGIT = 0.02, 0.1
gain = over_people(after["right entity"] - before)
claim(
    "sakarvadia2023injections.right-memory-at-the-right-layer",
    gain.above(0, negligible=SMALL),
    measured={
        "rise_percent": 100 * (after["right entity"].mean() / before.mean() - 1),
        "mean_rise_percent": 100 * (after["right entity"] / before - 1).mean(),
        "before": before.mean(),
        "after": after["right entity"].mean(),
        "gain_low": gain.low,
        "gain_high": gain.high,
        "questions": len(questions),
    },
    note="at the layer and magnitude chosen on other people, added at every token; the interval over people lies above zero",
)

# %%
changes = {name: over_people(after[name] - before) for name in KINDS[2:]}
margins = {name: over_people(after["right entity"] - after[name]) for name in KINDS[2:]}
claim(
    "sakarvadia2023injections.wrong-memories-do-not-help",
    every(~each.above(0, negligible=SMALL) for each in changes.values())
    & every(each.above(0, negligible=SMALL) for each in margins.values()),
    measured={
        **{f"change_{name.replace(' ', '_')}": each.mean for name, each in changes.items()},
        "largest_high": max(each.high for each in changes.values()),
        "least_margin_low": min(each.low for each in margins.values()),
    },
    note="each kind at the layer and magnitude that raise the right answer most for other people: none raises it by more than "
    "0.02, and the right entity beats every kind, paired by person",
)

# %%
better = over_people(correct.astype(float) - right)
claim(
    "sakarvadia2023injections.corrects-failures",
    better.above(0, negligible=SMALL),
    measured={
        "right_before": right.mean(),
        "right_after": correct.mean(),
        "corrected": correct[~right].mean(),
        "broken": (~correct[right]).mean(),
        "better_low": better.low,
        "better_high": better.high,
    },
    note="more answers become right than wrong; the interval over people lies above zero",
)

# %%
rise = np.stack(beside["other entity"], 1) - plain
ahead = over_people(rise[:, 1] - rise[:, 2])
claim(
    "sakarvadia2023injections.another-entity-brings-its-own-answer",
    ahead.above(0, negligible=SMALL),
    measured={"rise": rise[:, 1].mean(), "rise_of_a_third": rise[:, 2].mean(), "low": ahead.low, "high": ahead.high},
    note="at the cells of the right entity, its answer gains more than a third one, paired by person",
)

# %%
cell = cells["all tokens", "other"]
obeyed = at((sweeps["all tokens"].said[1] == watched[:, 1]).numpy(), cell).astype(float)
insisted = at((sweeps["all tokens"].said[1] == watched[:, 0]).numpy(), cell).astype(float)
taken = over_people(obeyed - insisted)
claim(
    "sakarvadia2023injections.another-entity-takes-its-place",
    taken.above(0, negligible=SMALL),
    measured={"its_answer": obeyed.mean(), "right_answer": insisted.mean(), "low": taken.low, "high": taken.high},
    note="at cells chosen for it on other people, more answers follow from the injected entity than from the person's own",
)

# %%
beyond = over_people(reached["all tokens", "other"] - reached["behind", "other"])
claim(
    "sakarvadia2023injections.more-than-a-push-on-the-output",
    beyond.above(0, negligible=SMALL),
    measured={
        "in_attention": reached["all tokens", "other"].mean(),
        "behind_the_last_block": reached["behind", "other"].mean(),
        "low": beyond.low,
        "high": beyond.high,
        "right_entity_in_attention": reached["all tokens", "right"].mean(),
        "right_entity_behind": reached["behind", "right"].mean(),
    },
    note="what follows from another entity, each at cells chosen on other people; the interval of the difference lies above zero",
)

# %%
nearer = over_people(reached["last token", "right"] - reached["all tokens", "right"])
claim(
    "sakarvadia2023injections.the-last-token-is-enough",
    nearer.above(-SMALL),
    measured={
        "last_token": reached["last token", "right"].mean(),
        "all_tokens": reached["all tokens", "right"].mean(),
        "low": nearer.low,
        "high": nearer.high,
    },
    note="the right entity; the whole interval of the difference lies above -0.02",
)

# %%
start, ended, pushed = (
    torch.logit(torch.tensor(values), 1e-4).numpy()
    for values in (before, after["right entity"], beside["direction"][0])
)
gains = {"right entity": ended - start, "direction": pushed - start}
pd.DataFrame(
    {name: {"failures": odds[~right].mean(), "successes": odds[right].mean()} for name, odds in gains.items()}
).round(2)

# %% [markdown]
# These are log-odds, which know no ceiling. Any push evens out extremes: failures gain by it, and successes lose. So what a direction
# without meaning does in the same cells is taken off.

# %%
odds = ended - pushed
sides = {ok: by_person(questions, np.where(right == ok, odds, np.nan)) for ok in (True, False)}
more = paired(sides[False], sides[True], seed)
claim(
    "sakarvadia2023injections.failures-gain-more",
    more.above(0, negligible=SMALL_LOGIT),
    measured={
        "failures": odds[~right].mean(),
        "successes": odds[right].mean(),
        "difference_low": more.low,
        "difference_high": more.high,
    },
    note="gain in log-odds, less that by a random direction in the same cells; people with questions of both kinds, paired",
)

# %%
half = lm.n_layers // 2
levels_by_half = {
    name: p["all tokens"][0, cut, ..., 0] for name, cut in (("early", slice(half)), ("late", slice(half, None)))
}
sizes = {name: at(values, choice(values)) for name, values in levels_by_half.items()}
sooner = over_people(sizes["early"] - sizes["late"])
claim(
    "sakarvadia2023injections.early-layers-serve-better",
    sooner.above(0, negligible=SMALL),
    measured={"early": sizes["early"].mean(), "late": sizes["late"].mean(), "low": sooner.low, "high": sooner.high},
    note="the best cell of the lower half of the layers against that of the upper half, each chosen on other people",
)

# %%
flooded = at(p["all tokens"][0, ..., 0], chosen - chosen % len(TAUS) + len(TAUS) - 1)
fall = over_people(after["right entity"] - flooded)
inside = max(tau for _, tau in places) < TAUS[-1]
claim(
    "sakarvadia2023injections.too-much-memory-hurts",
    fall.above(0, negligible=SMALL) if inside else UNDECIDED,
    measured={
        "chosen": after["right entity"].mean(),
        "largest": flooded.mean(),
        "low": fall.low,
        "high": fall.high,
        "largest_chosen_tau": max(tau for _, tau in places),
    },
    note="the same layers at twice the paper's largest magnitude, where a memory may drown everything; undecided where that is the "
    "chosen one, so that more was not tried; it could hardly fail elsewhere, as a smaller one was chosen because it serves better",
)

# %%
aside = ask_prompts(lm, [q.aside.prompt for q in questions], [q.aside.target for q in questions])
kept_before = (answer_logits(lm, aside).argmax(-1) == aside.answers).double().numpy()
said_aside = swept_at(lm, aside, two[:1], aside.answers[:, None], places, where="all")[1][0]
kept = (said_aside == aside.answers).double().numpy()
lost = over_people(kept_before - kept)
claim(
    "sakarvadia2023injections.single-steps-survive",
    lost.below(0.05),
    measured={"before": kept_before.mean(), "after": kept.mean(), "lost_low": lost.low, "lost_high": lost.high},
    note="a single step about the same person that does not go through the entity; the interval of the loss lies below 0.05",
)

# %%
sides = {ok: by_person(some, np.where(well == ok, by_head, np.nan)) for ok in (True, False)}
higher = paired(sides[True], sides[False], seed)
claim(
    "sakarvadia2023injections.right-answers-bring-the-entity-up",
    higher.above(0, negligible=SMALL_LOGIT),
    measured={
        "right": by_head[well].mean(),
        "wrong": by_head[~well].mean(),
        "difference_low": higher.low,
        "difference_high": higher.high,
    },
    note="lift over the twin by the head chosen on other people; people with questions of both kinds, paired",
)

# %%
spoken = span(by_person(some, by_head_named - by_head), seed)
claim(
    "sakarvadia2023injections.named-entities-are-brought-up",
    spoken.above(0, negligible=SMALL_LOGIT),
    measured={
        "named": by_head_named.mean(),
        "left_out": by_head.mean(),
        "difference_low": spoken.low,
        "difference_high": spoken.high,
    },
    note="each by the head chosen for it on other people; paired by person",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, (paper, we, why) in DEPARTURES.items():
    print(f"{topic}: the paper: {paper}. Here: {we}. Why: {why}.")

# %% [markdown]
# One world, few entities, answers of one token; all single steps are known for certain, which they are not in a pretrained model. The
# entity of a question that goes on to a language is the country, which is itself a second step. The paper's largest magnitude is 15;
# the grid goes to twice that. Few questions have a twin, so the comparison of right and wrong answers by what heads bring up is a weak
# one. `named-entities-are-brought-up` compares what two heads write at the last token: where the entity stands in the prompt, heads
# need not write it there again.
#
# ## Exercises
#
# 1. In the smallest case, which of the four words gains most from the injection if it is added behind the last block? Run the checker.
# 2. Remind the model of a person's employer when it is asked about the birthplace. Which answers change?
# 3. Set `-p layer=0` and `-p tau=1` and run all: what does one question say then?


# %%
def check(word):
    gains = W_U @ B
    return "right" if word == int(gains.argmax()) else "not quite: the logits change by W_U times the memory"


check(word=3)
