# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Languages apart from knowledge
#
# *Tang et al. report that some neurons serve one language and not another; Dumas et al. that what a word means can be changed
# without changing the language that says it. Two models of six layers are asked for both.*
# [Tang et al. 2024](https://arxiv.org/abs/2402.16438) (`tang2024language`) and [Dumas et al.
# 2024](https://arxiv.org/abs/2411.08745) (`dumas2024tongue`). Runs in under a minute on one CPU core.

# %%
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from paramem import claim, load
from paramem.decisions import UNDECIDED, every
from paramem.detection.concept_patching import (
    PatchingSettings,
    Prompt,
    concept_patching,
    concept_probabilities,
    embedding_probabilities,
    fact_pairs,
)
from paramem.detection.language_neurons import (
    LanguageNeuronSettings,
    activation_probability,
    deactivation,
    language_neurons,
    lape,
    mean_activation,
    neurons_of,
    preference,
    quantile,
    reselected,
    steering,
    text_logprob,
)
from paramem.detection.neurons import known_only, random_like
from paramem.evaluation.intervals import Span, paired, span, wilson
from paramem.material import world_behind
from paramem.plots import curves
from paramem.registry import method
from paramem.world.bilingual import mentions, parallel_facts, word_tasks

# %% tags=["parameters"]
model: str = "speak-s0"  # a bundled testbed that speaks two languages
profile: str = "default"
seed: int = 0
n_texts: int = 300  # facts whose statements show which neurons are active
n_facts: int = 150  # other facts, on which neurons are switched off
n_draws: int = 5  # random sets beside each set of neurons

# %%
lm = load(model)
here = world_behind(lm)
generator, rng = np.random.default_rng(seed), random.Random(seed)
everything = rng.sample(parallel_facts(here), len(parallel_facts(here)))
known = {fact.id for fact in known_only(lm, [said for fact in everything for said in fact.said.values()])[0]}
facts = [fact for fact in everything if all(said.id in known for said in fact.said.values())]
stated = [fact for fact in facts if fact.stated]
shown, asked = stated[:n_texts], stated[n_texts : n_texts + n_facts]
print(
    f"{lm.name} answers {len(facts)} of {len(everything)} facts in both languages; training stated {len(stated)} in both"
)

# %% [markdown]
# ## What the papers report
#
# Tang et al. (abstract): a model's proficiency in a language is due to a small set of neurons, situated mainly in the bottom and the
# top layers, and the language of the output can be steered by switching such neurons off and on.
#
# Dumas et al. (sections 4 and 5): patching latents from one translation prompt into another shows that the output language is
# encoded at an earlier layer than the concept; that one can be changed without the other; and that a concept's mean over prompts in
# several languages is translated better than a single prompt's latent.
#
# The testbed speaks English and Spanish. Facts are taken that it knows in both, so that each statement has its counterpart.
#
# ## One entropy by hand
#
# The score of a neuron is the entropy of its activation probabilities over languages, divided by their sum. A neuron that fires at
# nine tokens in ten of one language and one in ten of the other has, before running: more or less than half of ln 2?

# %%
by_hand = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
print(f"by hand {by_hand:.3f}, lape {lape(torch.tensor([0.9, 0.1])):.3f}, ln 2 = {np.log(2):.3f}")

# %%
fact = asked[0]
for language, said in fact.said.items():
    print(f"{language}: {said.prompt!r} -> {said.object!r}")
    fires = activation_probability(lm, [f"{said.prompt} {said.object}."])
    print(f"    share of neurons that fire at a token, by layer: {np.round(fires.mean(1).numpy(), 2).tolist()}")

# %% [markdown]
# ## All neurons
#
# The statements are those of training in all wordings but the first, which is kept for measuring.

# %%
texts = {
    language: [
        f"{p.prompt} {p.target}." for fact in shown for p in fact.said[language].probes() if p.kind == "paraphrase"
    ]
    for language in ("en", "es")
}
table = language_neurons(lm, texts)
own = {language: neurons_of(table, language) for language in texts}
print(
    {language: len(texts[language]) for language in texts},
    "texts;",
    {name: len(each) for name, each in own.items()},
    "neurons",
)
print(table[table["own"]].groupby(["language", "layer"]).size().unstack(fill_value=0).to_string())

# %% [markdown]
# A neuron is frequent if one of its two probabilities is among the highest twentieth of all. With six or seven languages a neuron has
# six or seven chances to be frequent in one and rare in the others; with two it has two, and at most a tenth of all neurons
# can be. How many are there, how many of them are frequent in both languages, and how many does the share of one in a hundred take?

# %%
wide = table.pivot(index=["layer", "neuron"], columns="language", values="probability")
frequent = wide > quantile(torch.from_numpy(wide.to_numpy(copy=True)), LanguageNeuronSettings().frequent)
print(
    f"of {len(wide)} neurons {frequent.any(axis=1).sum()} are frequent, {frequent.all(axis=1).sum()} in both languages; "
    f"one in a hundred is {round(len(wide) * LanguageNeuronSettings().share)}"
)

# %% [markdown]
# The most one-sided neurons first. Does any neuron belong to one language alone?

# %%
wide["entropy"] = table.groupby(["layer", "neuron"])["entropy"].first()
chosen = sorted({neuron for found in own.values() for neuron in found})
print(wide.loc[chosen].sort_values("entropy", kind="stable").head(6).round(3).add(0.0).to_string())

# %% [markdown]
# ## Switching them off
#
# Each fact is measured in both languages with the same neurons at zero, so that what they cost the one language and the other is
# compared fact by fact. Random neurons come from the same layers, as many from each.

# %%
items = {language: [(fact.said[language].prompt, fact.said[language].object) for fact in asked] for language in texts}


def with_random(own, generator):
    """Each language's neurons, and `n_draws` random sets like them."""
    sets = {}
    for language, found in own.items():
        sets[language] = [found]
        sets[f"random for {language}"] = [random_like(lm, found, generator) for _ in range(n_draws)]
    return sets


sets = with_random(own, generator)
lost = {measure: deactivation(lm, items, sets, measure=measure) for measure in ("text", "answer")}
for measure, frame in lost.items():
    print(f"nats lost, {measure} (rows: what is off; columns: language that is measured)")
    print(
        frame.pivot_table(index="neurons", columns="language", values="drop")
        .loc[list(sets)]
        .round(3)
        .add(0.0)
        .to_string()
    )

# %%
perplexity = {k: float((-text_logprob(lm, [f"{a} {b}" for a, b in pairs]).mean()).exp()) for k, pairs in items.items()}
print("perplexity of the statements:", {language: round(value, 2) for language, value in perplexity.items()})

# %% [markdown]
# One neuron in a hundred is the paper's choice. What would more of them do? Here the thresholds on frequent activity are lowered to
# the median, so that there are enough neurons to take. No claim rests on these rows.

# %%
for share in (0.01, 0.05, 0.2):
    more = reselected(table, LanguageNeuronSettings(share=share, frequent=0.5, own=0.5))
    many = {language: [neurons_of(more, language)] for language in texts}
    many |= {f"random for {language}": [random_like(lm, many[language][0], generator)] for language in texts}
    drops = deactivation(lm, items, many, measure="answer").pivot_table(
        index="neurons", columns="language", values="drop"
    )
    print(f"{share:.0%}: { ({name: len(each[0]) for name, each in many.items() if name in texts}) } neurons")
    print(drops.loc[list(many)].round(2).add(0.0).to_string(), "\n")

# %% [markdown]
# ## Where they are

# %%
layers = np.array([layer for layer, _ in chosen])
outer = pd.DataFrame(
    [
        {"layer": layer, "neurons": kind, "share": float(np.mean(values == layer)) if len(values) else 0.0}
        for kind, values in [
            ("either language", layers),
            *((name, np.array([n[0] for n in each])) for name, each in own.items()),
        ]
        for layer in range(lm.n_layers)
    ]
)
share_outer = float(np.isin(layers, [0, lm.n_layers - 1]).mean())
curves(
    outer,
    f"{lm.name}: {share_outer:.0%} of the language-specific neurons lie in the lowest and the highest layer",
    x="layer",
    y="share",
    lines="neurons",
    ylabel="share of the neurons",
)

# %%
print(outer.pivot(index="neurons", columns="layer", values="share").round(2).add(0.0).to_string())
in_outer = Span(share_outer, *wilson(round(share_outer * len(layers)), len(layers)))
print(
    f"outer layers: {in_outer.mean:.2f}, 95 % interval {in_outer.low:.2f} to {in_outer.high:.2f}; "
    f"all layers alike: {2 / lm.n_layers:.2f}"
)

# %% [markdown]
# ## Steering
#
# Neurons of the prompt's language off, those of the other language on, at their mean over that language's texts. Which word for the
# answer gains?


# %%
def near(values):
    return round(float(np.mean(values)), 2) + 0.0


turned = [fact for fact in asked if fact.differs]
level = {language: mean_activation(lm, texts[language]) for language in texts}
gains, turns = {}, {}
for language, other in (("en", "es"), ("es", "en")):
    prompts = [fact.said[language].prompt for fact in turned]
    words = [[fact.said[each].object for fact in turned] for each in (other, language)]
    before = preference(lm, prompts, *words)
    pairs = [(own[language], own[other])]
    pairs += [tuple(random_like(lm, found, generator) for found in pairs[0]) for _ in range(n_draws)]
    after = []
    for off, on in pairs:
        with lm.applying(steering(off, on, level[other])) as steered:
            after.append(preference(steered, prompts, *words))
    gains[language] = (after[0] - before).numpy()
    gains[f"random for {language}"] = (torch.stack(after[1:]).mean(0) - before).numpy()
    turns[language] = float((after[0] > 0).double().mean())
    print(
        f"{language} prompts: gain {near(gains[language]):.2f} nats, random {near(gains[f'random for {language}']):.2f}"
    )
    print(f"    answers that turn to the other language: {turns[language]:.0%} of {len(turned)}")

# %% [markdown]
# ## Facts that only one language states
#
# Three facts in ten were never said in Spanish. Those that the model answers in Spanish all the same have crossed over. Do they come
# by way of the English neurons? The paper does not ask this, and no claim rests on it. The two groups are different facts, so that
# what counts is how probable their answers are to begin with, and what English neurons cost beyond random ones.

# %%
unstated = [fact for fact in everything if not fact.stated and fact.differs]
crossed = [fact for fact in unstated if fact.said["es"].id in known]
both = [fact for fact in asked if fact.differs]
n = min(len(crossed), len(both))
groups = {"only in English": crossed[:n], "in both": both[:n]}
rows = {}
for name, group in groups.items():
    spanish = [(fact.said["es"].prompt, fact.said["es"].object) for fact in group]
    without = {"en": sets["en"], "random": sets["random for en"]}
    drops = deactivation(lm, {"es": spanish}, without, measure="answer").groupby("neurons")["drop"].mean()
    prompts, answers = zip(*spanish, strict=True)
    before = lm.score(prompts, answers).logprob.double().exp().mean()
    rows[f"stated {name}"] = {"p before": float(before), "nats lost": drops["en"], "random": drops["random"]}
print(pd.DataFrame(rows).T.round(3).add(0.0).to_string())
print(f"{len(crossed)} of {len(unstated)} facts stated only in English are answered in Spanish, by another word")

# %% [markdown]
# ## Concepts: one pair of prompts
#
# A statement in one language is the source, one in the other language about somebody else is the target. The state of the source's last
# token, after one block, is put in the place of the target's. Four words can come out: the object of either, in either language.

# %%
recalled = [said for fact in asked for said in fact.said.values() if fact.differs]
settings = PatchingSettings(seed=seed)
pairs = fact_pairs(lm, recalled, settings)
print(pairs[0].sources[0].text, "| into |", pairs[0].target.text)
one = concept_probabilities(lm, pairs[:1], settings)
one["answer"] = [pairs[0].answers[key] for key in zip(one["concept"], one["language"], strict=True)]
print(one.pivot(index="layer", columns="answer", values="probability").round(2).add(0.0).to_string())

# %% [markdown]
# Layer -1 is the prompt as it is. The curves are means over all pairs, in both directions. In which order do language and concept come
# in? In the paper's translations the language is first; its section 2 says that parallel work on recall found the opposite.

# %%
NAMES = {
    ("target", "target"): "target concept, target language",
    ("target", "source"): "target concept, source language",
    ("source", "target"): "source concept, target language",
    ("source", "source"): "source concept, source language",
}


def named(frame):
    return frame.assign(answer=[NAMES[key] for key in zip(frame["concept"], frame["language"], strict=True)])


def by_pair(frame, concept, language):
    rows = frame[(frame["concept"] == concept) & (frame["language"] == language)]
    return rows.pivot(index="pair", columns="layer", values="probability")


# %%
last = concept_probabilities(lm, pairs, settings)
word_alone = embedding_probabilities(lm, pairs, settings)
same = concept_patching(lm, recalled, replace(settings, same_language=True))
between, reverse = by_pair(last, "target", "source"), by_pair(last, "source", "target")
tuning, held = between.index[::2], between.index[1::2]
at_between, at_reverse = (int(curve.loc[tuning].drop(columns=-1).mean().idxmax()) for curve in (between, reverse))
curves(
    named(last),
    f"{lm.name}: target concept in the source's language reaches {between[at_between].mean():.2f} (layer {at_between}), "
    f"the reverse {reverse[at_reverse].mean():.2f} (layer {at_reverse})",
    x="layer",
    y="probability",
    lines="answer",
    xlabel="patched layer (last token)",
)

# %%
shares = named(last).pivot_table(index="answer", columns="layer", values="probability").loc[list(NAMES.values())]
print(shares.round(2).add(0.0).to_string())
print(f"control, sources in the target's language: {by_pair(same, 'target', 'source')[at_between].mean():.3f}")
print("the source's last embedding alone:")
print(named(word_alone).groupby("answer")["probability"].mean().loc[list(NAMES.values())].round(2).to_string())

# %% [markdown]
# These prompts end in a word of their language ("the", "el"), so that patching after the first block swaps the article itself: a prompt
# that ends in "el" is Spanish there, whatever a latent means. The rows above put the source's last embedding in place, before any
# block. Only what a latent brings beyond that is about latents, so both claims on the last token have to exceed it. Their cards show
# the two numbers, and even where a claim holds, most of its number may be the article's.
#
# ## Patching the name
#
# Now the latents of a name go from the source, in a wording that does not begin with it, into the target, at every layer from the
# patched one on. The paper takes those of the word's last token, and so do the claims. The mean is over four wordings, two in each
# language.

# %%
word = PatchingSettings(position="concept", n_targets=60, seed=seed)
crossing = fact_pairs(lm, recalled, word)
means = fact_pairs(lm, recalled, replace(word, n_sources=4))
singles = [replace(pair, sources=(source,)) for pair in means for source in pair.sources]
moved = zip(crossing, crossing[1:] + crossing[:1], strict=True)
wrong = [replace(a, sources=b.sources) for a, b in moved if a.answers["source", "source"] not in b.answers.values()]
kinds = {"last token": crossing, "mean of four": means, "each of the four": singles, "wrong source": wrong}
found = {name: concept_probabilities(lm, each, word) for name, each in kinds.items()}
carried = {name: by_pair(frame, "source", "target").drop(columns=-1) for name, frame in found.items()}
print(crossing[0].sources[0].text, "| at its name into |", crossing[0].target.text)

# %%
panels = pd.concat([named(found[name]).assign(sources=name) for name in ("last token", "mean of four")])
curves(
    panels,
    f"{lm.name}: source concept in the target's language from layer 0 on: {carried['last token'][0].mean():.2f} by one prompt, "
    f"{carried['mean of four'][0].mean():.2f} by the mean of four",
    x="layer",
    y="probability",
    lines="answer",
    panels="sources",
    xlabel="patched from layer (name)",
)

# %%
print(
    panels.pivot_table(index=["sources", "answer"], columns="layer", values="probability").round(2).add(0.0).to_string()
)
print("from layer 0 on:", {name: round(float(values[0].mean()), 3) + 0.0 for name, values in carried.items()})

# %% [markdown]
# Names of people have two tokens, and the second alone does not say who is meant. What if both are patched? No claim rests on this
# table: at layer 0 it amounts to writing another person's name into the prompt, and cannot fail in a model that knows the facts.

# %%
names = {person.name for person in here.people}
people = [pair for pair in crossing if {pair.target.word, pair.sources[0].word} <= names]
whole = named(concept_probabilities(lm, people, replace(word, tokens=2)))
print(f"{len(people)} pairs of people, both tokens of the name")
print(whole.pivot_table(index="answer", columns="layer", values="probability").round(2).add(0.0).to_string())

# %% [markdown]
# ## Words in the place of facts
#
# The testbed also translates, from English only: "cat → gato, dog → perro, horse →". The other list that begins with an English word
# asks for the word itself: "Repeat this list: cat, dog, horse. The list is: cat, dog,". No claim rests on this pair of tasks, since
# they differ in more than the language of the answer: the arrow alone says that a translation is wanted.

# %%
tasks = word_tasks(here, random.Random(seed))
words = known_only(lm, [said for task in tasks for said in task.said.values()])[0]
listed = concept_patching(lm, words, settings)
arrows = named(listed).pivot_table(index=["target_language", "answer"], columns="layer", values="probability")
print(arrows.round(2).add(0.0).to_string())

# %% [markdown]
# And the word itself: latents of a word at the end of a statement in the other language ("... toca el violín") in the place of the
# word in the list.

# %%
spoken = mentions(facts)
latent_of = {}
for said in words:
    statements = spoken.get(said.subject, {}).get(said.language, [])
    latent_of[said.id] = [Prompt(text=text, word=text.split()[-1]) for text in statements]
inside = concept_probabilities(lm, fact_pairs(lm, words, word, latent_of), word)
places = named(inside).pivot_table(index=["target_language", "answer"], columns="layer", values="probability")
print(places.round(2).add(0.0).to_string())

# %% [markdown]
# ## Claims
#
# Which criteria were changed after numbers had been seen: after `speak-s0`, and before `speak-s1` and `speak-gpt2-s0`, the patch of a name was
# widened from its last token to all of it, and the mean over prompts was judged over all layers. Both changes are taken back. The demand
# that the last token exceeds its own embedding, and that a mean gains more than 0.01, came from a review of the numbers on
# `speak-s0`, and was written down when the older criteria had been run on all three. It can only turn "holds" into "does not hold".
# Three outcomes came last, after all numbers: an interval that straddles its limit decides nothing (a tenth is negligible, of a share
# or of a nat), and a mean over prompts is judged where it, or one prompt, is translated at least now and then.


# %%
NEGLIGIBLE = 0.1


def more(one, other):
    return paired(one, other, seed).above(0, negligible=NEGLIGIBLE)


def harm(frame, language):
    wide = frame.pivot(index="item", columns=["neurons", "language"], values="drop")
    other = "es" if language == "en" else "en"
    return wide[language, language], wide[language, other], wide[f"random for {language}", language]


def harms(frame):
    measured, decisions = {}, []
    for language in ("en", "es"):
        mine, theirs, chance = harm(frame, language)
        decisions += [more(mine, theirs), more(mine, chance)]
        measured |= {
            f"drop_{language}": mine.mean(),
            f"other_{language}": theirs.mean(),
            f"random_{language}": chance.mean(),
        }
    return every(decisions), measured


holds, measured = harms(lost["text"])
claim(
    "tang2024language.selective-harm",
    holds,
    measured=measured | {"facts": len(asked)},
    note="nats a token; for both languages, both differences paired by fact, 95 % intervals above zero",
)

# %%
holds, measured = harms(lost["answer"])
claim(
    "tang2024language.harms-facts",
    holds,
    measured=measured | {"facts": len(asked)},
    note="nats of log p(answer); the abstract speaks of no answers; the same comparisons",
)

# %%
claim(
    "tang2024language.outer-layers",
    in_outer.above(0.5, negligible=NEGLIGIBLE),
    measured={
        "share_outer": in_outer.mean,
        "low": in_outer.low,
        "high": in_outer.high,
        "share_lowest": (layers == 0).mean(),
        "share_highest": (layers == lm.n_layers - 1).mean(),
        "neurons": len(chosen),
        "layers": lm.n_layers,
    },
    note="two layers of six; by chance a third; the 95 % interval over neurons lies above one half",
)

# %%
claim(
    "tang2024language.steers",
    every(more(gains[each], rest) for each in ("en", "es") for rest in (0, gains[f"random for {each}"])),
    measured={
        "gain_en": gains["en"].mean(),
        "random_en": gains["random for en"].mean(),
        "gain_es": gains["es"].mean(),
        "random_es": gains["random for es"].mean(),
        "answers_turned": (turns["en"] + turns["es"]) / 2,
        "facts": len(turned),
    },
    note="nats of log p(word in the other language) - log p(word in the prompt's); both directions, 95 % intervals above zero",
)

# %%
patched = between.loc[held, at_between]
alone = by_pair(word_alone, "target", "source").loc[held, -1]
exceeds = more(patched, alone)
claim(
    "dumas2024tongue.language-before-concept",
    more(patched, reverse.loc[held, at_reverse]) & exceeds,
    measured={
        "target_concept_source_language": patched.mean(),
        "source_concept_target_language": reverse.loc[held, at_reverse].mean(),
        "embedding_alone": alone.mean(),
        "layer": at_between,
        "pairs": len(held),
    },
    note="each at its best layer, chosen on the other half of the pairs, and above the source's last embedding alone, since after "
    "layer 0 the article itself is swapped; paired, 95 % intervals above zero",
)

# %%
others = [by_pair(last, *key)[at_between].loc[held] for key in NAMES if key != ("target", "source")]
control = by_pair(same, "target", "source")[at_between]
claim(
    "dumas2024tongue.language-without-concept",
    every(more(patched, other) for other in others)
    & exceeds
    & span(patched, seed).above(span(control, seed).high, negligible=NEGLIGIBLE),
    measured={
        "target_concept_source_language": patched.mean(),
        "best_other": max(other.mean() for other in others),
        "embedding_alone": alone.mean(),
        "same_language_source": control.mean(),
        "layer": at_between,
        "pairs": len(held),
    },
    note="at the layer chosen on the other half; above each other answer and above the source's last embedding alone, since after "
    "layer 0 the article itself is swapped, paired; and above sources in the target's language",
)

# %%
mine = carried["last token"][0]
others = [by_pair(found["last token"], *key)[0] for key in NAMES if key != ("source", "target")]
third = carried["wrong source"][0]
claim(
    "dumas2024tongue.concept-without-language",
    every(more(mine, other) for other in others)
    & span(mine, seed).above(span(third, seed).high, negligible=NEGLIGIBLE),
    measured={
        "source_concept_target_language": mine.mean(),
        "best_other": max(other.mean() for other in others),
        "wrong_source": third.mean(),
        "pairs": len(mine),
    },
    note="the name's last token, from layer 0 on; above each other answer, paired, and above the latents of a third name",
)

# %%
average = carried["each of the four"][0].to_numpy().reshape(-1, 4).mean(1)
mean = carried["mean of four"][0].to_numpy()
gain = paired(mean, average, seed)
floor = max(span(mean, seed).high, span(average, seed).high) < NEGLIGIBLE
claim(
    "dumas2024tongue.mean-over-prompts",
    UNDECIDED if floor else gain.above(0.01),
    measured={
        "mean_of_prompts": mean.mean(),
        "one_prompt": average.mean(),
        "gain_low": gain.low,
        "gain_high": gain.high,
        "pairs": len(average),
    },
    note="from layer 0 on; against the average over the same four prompts, paired, 95 % interval above 0.01; undecided where both "
    "intervals end below a tenth",
)

# %% [markdown]
# ## Departures and limits

# %%
for name in ("language-neurons", "concept-patching"):
    for topic, departure in method(name).departures().items():
        print(f"{topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# With two languages a neuron can be specific only by being quieter in the other one, and the threshold on frequent activity leaves few
# candidates, as counted above. The verdicts on switching off are those of that rule with two languages: what they say is that
# these neurons do not matter here, not that no neurons do. The patched models have few layers: patching begins after the first block, and what its attention has read of a name
# stays in the tokens behind the name.
#
# ## Exercises
#
# 1. Take a larger share of neurons, `LanguageNeuronSettings(share=0.05)`. Is the harm to answers selective then, as the claim
#    `tang2024language.harms-facts` demands? The checker takes "yes" or "no".
# 2. Switch off the neurons of *both* languages. Do answers lose more than the two losses together, or less? The checker takes
#    "more" or "less".


# %%
def check(exercise, guess):
    if exercise == 1:
        larger = reselected(table, LanguageNeuronSettings(share=0.05))
        taken = with_random({name: neurons_of(larger, name) for name in texts}, np.random.default_rng(seed))
        selective, measured = harms(deactivation(lm, items, taken, measure="answer"))
        numbers = {name: near(value) for name, value in measured.items()}
        return "right" if guess == ("yes" if selective.holds else "no") else f"no: {numbers}"
    together = deactivation(lm, items, {"both": [sorted({*own["en"], *own["es"]})]}, measure="answer")["drop"].mean()
    alone = lost["answer"].groupby("neurons")["drop"].mean()
    return "right" if (together > alone["en"] + alone["es"]) == (guess == "more") else "look again: print `together`"


print(check(2, "more"), "/", check(2, "less"))
