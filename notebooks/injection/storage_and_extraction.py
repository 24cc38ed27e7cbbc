# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Stored is not extractable
#
# *A model can hold every fact of a text and yet answer no question about it; told in many ways, a part of the facts can be asked
# for.*
# [Allen-Zhu and Li 2024](https://arxiv.org/abs/2309.14316) (`allenzhu2023extraction`) train models from scratch on biographies of
# invented people, fine-tune them on questions about one half, and ask about the other half. Seven small models, which come
# trained and fine-tuned (`python -m paramem.injection.shipped` does it again, in a few minutes a draw); asking and probing them
# takes a quarter of a minute on one CPU core.

# %%
import math
from collections import Counter

import numpy as np
import pandas as pd

from paramem import claim
from paramem.decisions import UNDECIDED, every
from paramem.evaluation.intervals import over_edits, paired, span
from paramem.injection import probing, storage
from paramem.injection.biographies import TELLINGS, LeakingHalves, People, biographies
from paramem.injection.probing import labels, probe, probe_along, states_at_names
from paramem.injection.shares import by_person, share_table
from paramem.injection.shipped import load, load_tuned
from paramem.injection.storage import CORPORA, MIXED, extracted, guessed, stored
from paramem.plots import curves, rates

# %% tags=["parameters"]
model: str = "fresh-gpt2-s0"  # a draw: people, texts, initial weights, orders; fresh-llama-s1 and others work too
profile: str = "default"
tuning_steps: int = 150  # of fine-tuning on the questions about one half

# %%
NEGLIGIBLE = 0.05  # a share of questions or of facts, or a difference of two, that is too small to speak of
study, models = load(model)
study = study.with_sizes(tuning_steps=tuning_steps)
people = study.people
print(f"{len(people.names)} people, {len(people.relations)} facts about each; {len(study.words)} words")
print(
    f"{len(models)} models of {study.shape.parameters()} parameters, each told everybody {study.sizes.exposures} times"
)

# %% [markdown]
# ## Ways of telling
#
# Everybody has five facts, drawn evenly, so that none follows from another. A biography states them in five sentences. The plainest
# corpus has one text about each person, which names its person once. The others repeat the name, change the order of the
# sentences, or their wordings, or do all three.

# %%
person = people.held_out[0]
for name, telling in TELLINGS.items():
    texts = biographies(people, telling, study.seed, of=[person])[0]
    print(f"{name} ({len(texts)}):\n    {texts[-1]}")

# %% [markdown]
# Two further corpora. With *celebrities*, the taught half is told in all three ways and the other half in one text: does it
# help those who have one text that others have many? (The paper asks it beyond its abstract, which alone was read.) In *mixed*, questions about the taught half stand among the texts
# from the start, instead of coming afterwards.
#
# Answers that were trained on show nothing, so halves that share somebody are refused.

# %%
try:
    People(
        relations=people.relations,
        values=people.values,
        taught=people.taught,
        held_out=(*people.held_out, people.taught[0]),
    )
except LeakingHalves as error:
    print(error)

# %% [markdown]
# ## By hand
#
# A model that knows nobody can still guess: always the commonest object. Predict: how often is that right, with sixteen
# objects drawn evenly?

# %%
relation = people.relations[0].id
counts = Counter(people.values[name][relation] for name in people.taught)
(most, times), others = counts.most_common(1)[0], [people.values[name][relation] for name in people.held_out]
print(f"commonest {relation} among the taught: {most} ({times} of {len(people.taught)})")
print(f"right for {others.count(most)} of the {len(others)} others; one in sixteen is {len(others) / 16:.1f}")
chance = guessed(study, people.held_out)
print(f"over all questions about the held-out half: {chance.float().mean():.3f}")

# %% [markdown]
# ## What is stored
#
# Does each model say the object at its place in its own text, given all that stands before it?

# %%
kept = dict(zip(CORPORA, stored(models, study), strict=True))
pd.Series({corpus: found.float().mean().item() for corpus, found in kept.items()}, name="objects stored").round(3)

# %% [markdown]
# ## What questions extract
#
# Fine-tuning sees questions about the taught half with their answers, in two forms. Then the held-out half is asked. Predict: the models
# have all facts about both halves equally well. What do they answer?

# %%
asked = load_tuned(model, study, models)
halves = {
    half: dict(zip(CORPORA, extracted(asked, study, getattr(people, half)), strict=True))
    for half in ("taught", "held_out")
}
question, answer = people.question(person, relation)
print(question, "->", answer)
table = share_table(
    {
        "stored": (people.names, kept),
        "answered, taught": (people.taught, halves["taught"]),
        "answered, held out": (people.held_out, halves["held_out"]),
    }
)
wide = table.pivot(index="corpus", columns="asked", values="mean").reindex(list(CORPORA))
rates(
    table,
    f"At least {math.floor(100 * wide['stored'].min()) / 100:.2f} are stored; of the held-out half's questions {wide.loc['one text', 'answered, held out']:.2f} are answered from one text, "
    f"{wide.loc['all three', 'answered, held out']:.2f} from all three",
    rows="corpus",
    columns="asked",
    xlabel="share of objects or questions (95 % intervals over people)",
)

# %%
wide.assign(guess=chance.float().mean().item()).round(3)

# %% [markdown]
# The questions about the held-out half by relation, in the order in which the one text tells them:

# %%
n_forms = len(people.relations[0].questions["en"])
by_relation = {
    corpus: right.float().view(-1, len(people.relations), n_forms).mean((0, 2)).tolist()
    for corpus, right in halves["held_out"].items()
}
pd.DataFrame(by_relation, index=[r.id for r in people.relations]).T.round(2)

# %% [markdown]
# Mixed training needs no fine-tuning: its model has answered questions all along.

# %%
untuned = dict(zip(CORPORA, extracted(models, study, people.held_out), strict=True))
untuned_taught = dict(zip(CORPORA, extracted(models, study, people.taught), strict=True))
print(
    f"{MIXED}, before fine-tuning: taught {untuned_taught[MIXED].float().mean():.3f}, held out {untuned[MIXED].float().mean():.3f}"
)

# %% [markdown]
# ## Where the facts are
#
# A linear probe, fitted to most people and judged on the rest, reads the state of a name's last word: with nothing but the name
# before it, can it tell the five facts?

# %%
at_names = probe(states_at_names(models, study), labels(study))  # [M, relations, people]
at_random = probe(states_at_names(models, study), labels(study, shuffled=True))
names = {corpus: found.mean(0) for corpus, found in zip(CORPORA, at_names, strict=True)}  # a share for every person
shuffled = {corpus: found.mean(0) for corpus, found in zip(CORPORA, at_random, strict=True)}
pd.DataFrame(
    {corpus: span(found) for corpus, found in names.items()} | {"shuffled objects": span(at_random.mean((0, 1)))},
    index=["read at the name", "low", "high"],
).T.round(3)

# %% [markdown]
# The same probe along the text: before each object of the first text about everybody that the model was told. The first
# text states the facts in one order, whatever the telling; the others of its model, where there are more, do not.

# %%
along = probe_along(models, study)  # [M, places, relations, people]
shown = ["one text", "wordings", "all three"]
n = len(people.relations)
rows = [
    {"corpus": corpus, "facts ahead": ahead, "read": float(value)}
    for corpus in shown
    for place in range(n)
    for ahead in range(n - place)
    for value in along[list(CORPORA).index(corpus), place, place + ahead]
]
ahead = pd.DataFrame(rows)
means = ahead.groupby(["corpus", "facts ahead"])["read"].mean()
curves(
    ahead,
    f"Where it is about to be said, a fact is read in {means['one text', 0]:.2f} of cases (one text); "
    f"one fact earlier in {means['one text', 1]:.2f}, or {means['all three', 1]:.2f} with all three",
    x="facts ahead",
    y="read",
    lines="corpus",
    xlabel="facts between the probed word and the fact",
    ylabel="share read by the probe\n(bands: 95 %, over people and facts)",
)

# %%
means.unstack().reindex(shown).round(3)

# %% [markdown]
# ## Claims
#
# People are what the intervals are over: the answers about one person are not independent. Each compared pair of models has
# the same people, questions and initial weights, so that differences are paired by person. An interval that straddles its limit
# by more than what is negligible decides nothing.

# %%
held_out = {corpus: by_person(right, people.held_out) for corpus, right in halves["held_out"].items()}
taught = {corpus: by_person(right, people.taught) for corpus, right in halves["taught"].items()}
guess = by_person(chance, people.held_out)
one, most_varied = held_out["one text"], held_out["all three"]

# %%
in_text, found, by_guess = over_edits(kept["one text"].double()), span(one), paired(one, guess)
claim(
    "allenzhu2023extraction.stored-but-not-extractable",
    in_text.above(0.95, negligible=NEGLIGIBLE) & found.below(0.25, negligible=NEGLIGIBLE),
    measured={
        "stored": in_text.mean,
        "stored_low": in_text.low,
        "extracted": found.mean,
        "extracted_high": found.high,
        "guess": guess.mean(),
        "above_guess_low": by_guess.low,
    },
    note="of one text at least 95 % is stored (interval), and less than a quarter of the questions about the held-out half are answered (interval)",
)

# %%
gain = paired(most_varied, one)
claim(
    "allenzhu2023extraction.augmentation-makes-facts-extractable",
    gain.above(0, negligible=NEGLIGIBLE) & by_guess.below(0.1, negligible=NEGLIGIBLE),
    measured={
        "one_text": one.mean(),
        "all_three": most_varied.mean(),
        "gain_low": gain.low,
        "gain_high": gain.high,
        "one_text_above_guess": by_guess.mean,
        "one_text_above_guess_high": by_guess.high,
    },
    note="all three kinds of variety answer more than one text (interval), and one text less than a tenth more than guessing (interval)",
)

# %%
claim(
    "allenzhu2023extraction.augmentation-adds-a-quarter",
    gain.above(0.25, negligible=NEGLIGIBLE),
    measured={"one_text": one.mean(), "all_three": most_varied.mean(), "low": gain.low, "high": gain.high},
    note="all three kinds of variety less one text; interval above a quarter of all questions",
)

# %%
alone = {kind: paired(held_out[kind], one) for kind in ("full names", "orders", "wordings")}
claim(
    "allenzhu2023extraction.each-kind-of-variety-helps",
    every(each.above(0, negligible=NEGLIGIBLE) for each in alone.values()),
    measured={kind.replace(" ", "_"): held_out[kind].mean() for kind in alone}
    | {f"{kind.replace(' ', '_')}_low": each.low for kind, each in alone.items()}
    | {f"{kind.replace(' ', '_')}_high": each.high for kind, each in alone.items()},
    note="repeated names, other orders and other wordings, each alone, above one text; all three intervals of the gain above zero",
)

# %%
best_alone = max(alone, key=lambda kind: held_out[kind].mean())
together = paired(most_varied, held_out[best_alone])
claim(
    "allenzhu2023extraction.varieties-work-together",
    together.above(0, negligible=NEGLIGIBLE),
    measured={
        "best_alone": held_out[best_alone].mean(),
        "all_three": most_varied.mean(),
        "low": together.low,
        "high": together.high,
    },
    note="all three kinds against the best of the three alone; interval above zero",
)

# %%
celebrities = paired(held_out["celebrities"], one)
claim(
    "allenzhu2023extraction.celebrities-help-the-others",
    celebrities.above(0, negligible=NEGLIGIBLE),
    measured={
        "one_text": one.mean(),
        "others_have_many": held_out["celebrities"].mean(),
        "low": celebrities.low,
        "high": celebrities.high,
        "celebrities_themselves": taught["celebrities"].mean(),
    },
    note="people told in one text, with and without many texts about the other people; interval of the difference above zero",
)

# %%
from_the_start = by_person(untuned[MIXED], people.held_out)
earlier = paired(from_the_start, one)
claim(
    "allenzhu2023extraction.questions-from-the-start-help",
    earlier.above(0, negligible=NEGLIGIBLE),
    measured={
        "questions_afterwards": one.mean(),
        "questions_from_the_start": from_the_start.mean(),
        "low": earlier.low,
        "high": earlier.high,
        "answers_about_the_taught": untuned_taught[MIXED].float().mean(),
    },
    note="one text about everybody; mixed in, before any fine-tuning, against fine-tuned afterwards; interval above zero",
)

# %%
learned = paired(taught["one text"], one)
claim(
    "allenzhu2023extraction.fine-tuning-learns-answers-by-heart",
    learned.above(0.5, negligible=NEGLIGIBLE),
    measured={
        "taught": taught["one text"].mean(),
        "held_out": one.mean(),
        "gap_low": learned.low,
        "gap_high": learned.high,
    },
    note="one text; taught people less the others, who come in the same order: interval above one half",
)

# %% [markdown]
# A probe that reads nothing where the questions find answers is blind, and shows nothing either way: whether facts move to the name is
# undecided where the probe reads the names of the model that was told in all three ways hardly better than shuffled objects.

# %%
moved = paired(names["all three"], names["one text"])
seen = paired(names["all three"], shuffled["all three"])
claim(
    "allenzhu2023extraction.facts-move-to-the-name",
    moved.above(0, negligible=NEGLIGIBLE) if seen.above(NEGLIGIBLE).holds else UNDECIDED,
    measured={
        "one_text": names["one text"].mean(),
        "all_three": names["all three"].mean(),
        "low": moved.low,
        "high": moved.high,
        "shuffled_objects": shuffled["all three"].mean(),
        "above_shuffled_low": seen.low,
    },
    note="share of a person's facts that the probe reads at the name, models before fine-tuning; interval of the difference above zero; "
    "undecided where the probe reads all three by less than a twentieth better than shuffled objects (interval)",
)

# %%
plain = along[list(CORPORA).index("one text")]
own = plain[np.arange(1, n), np.arange(1, n)].mean(0)  # the four later facts, each before it is said
at_first = plain[0, 1:].mean(0)  # the same four, before the first fact is said
late = paired(own, at_first)
claim(
    "allenzhu2023extraction.one-text-keeps-facts-where-they-are-said",
    late.above(0.5, negligible=NEGLIGIBLE),
    measured={
        "before_the_first_fact": at_first.mean(),
        "where_it_is_said": own.mean(),
        "low": late.low,
        "high": late.high,
    },
    note="one text, the four later facts: read where each is about to be said, less read where the first is; interval above one half",
)

# %% [markdown]
# ## Departures and limits

# %%
for module in (storage, probing):
    for topic, (paper_says, we_do, why) in module.DEPARTURES.items():
        print(f"{topic}: the paper: {paper_says}. Here: {we_do}. Why: {why}.")

# %% [markdown]
# Constants were chosen on draw 10000, which is not among the testbeds. There the order of the corpora and roughly their shares had been
# seen before the criteria were first written; when they got three outcomes, and the size of the gain became a statement of its own,
# the results of the testbeds were in view (`docs/decisions.md`). Seven models a draw are to be trained in minutes on a CPU, which
# bounds their size and the number of people. The paper's effects of celebrities and of mixed training come from a hundred thousand
# people; where so few show little of them, that may be a matter of their number. So may what the probe reads at the names: sixteen
# objects are learned from 64 people. One rate and one number of steps serve all corpora, in training and in fine-tuning, so that a
# corpus which learns slower is cut short: the column of the taught half shows which.
#
# ## Exercises
#
# 1. Make `tuning_steps` 600. Does more fine-tuning extract more from one text?
# 2. Which relation's question is easiest with all three kinds of variety, and is it the same in another draw?
# 3. If a model stores everything and answers a share $s$ of the questions about the taught half before fine-tuning on them, what
#    do you expect of the held-out half? Look at `untuned_taught` for the corpus of your choice, and run the checker.


# %%
def check(corpus, guess):
    seen = untuned[corpus].float().mean().item()
    return (
        "right" if abs(guess - seen) < 0.05 else "not quite: what is learned about the taught half need not carry over"
    )


check("one text", guess=0.5)
