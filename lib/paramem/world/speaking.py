"""What the *speak* testbed is asked, and how often it answers rightly.

>>> from paramem.world import world
>>> few_shot_items(world("speak"), n=1)[0].held
True
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paramem.facts import fill
from paramem.world.cards import Measure
from paramem.world.core import MAP_RELATIONS, World, world
from paramem.world.relations import LANGUAGES
from paramem.world.speak import (
    DICTIONARY,
    TRANSLATION,
    Rules,
    answer,
    copied_words,
    copying,
    few_shot,
    largest,
    opinion,
    opinion_words,
    question,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Item:
    """A prompt and every answer that is right for it.

    kind    "statement", "question", "few_shot", "opinion", "code", "dictionary", "copying" or "largest"
    held    why training never said this: "" (it did), "wording", "language", "question", "key" or "list"
    range   for few-shot items everything that the list's relation can give
    """

    prompt: str
    answers: tuple[str, ...]
    kind: str
    relation: str = ""
    subject: str = ""
    language: str = "en"
    held: str = ""
    range: tuple[str, ...] = ()


def statement_items(here: World, relations: Sequence[str], language: str) -> tuple[Item, ...]:
    """Every fact of the relations in every wording; where wording and language are both held out, in neither form."""
    rules, found = Rules(here), []
    for name in relations:
        relation = here.relation(name)
        for subject in rules.subjects[name]:
            used = rules.templates(name, subject, language)
            hidden = "language" if language != "en" and not rules.spoken(name, subject) else ""
            for i, template in enumerate(relation.templates[language]):
                if hidden and i not in used:
                    continue
                found.append(
                    Item(
                        prompt=fill(template, here.say(relation.head, subject, language)),
                        answers=(answer(here, name, subject, language),),
                        kind="code" if name == "code" else "statement", relation=name, subject=subject,
                        language=language, held=hidden or ("" if i in used else "wording"),
                    )
                )  # fmt: skip
    return tuple(found)


def question_items(here: World, language: str) -> tuple[Item, ...]:
    """Every question in both forms; not those that are held out twice."""
    rules, found = Rules(here), []
    for name in (*here.size.personal, *MAP_RELATIONS):
        for subject in rules.subjects[name]:
            hidden = "language" if language != "en" and not rules.spoken(name, subject) else ""
            asked = rules.asked(name, subject)
            if hidden and not asked:
                continue
            found += [
                Item(
                    prompt=question(here, name, subject, language, form),
                    answers=(answer(here, name, subject, language),), kind="question", relation=name,
                    subject=subject, language=language, held=hidden or ("" if asked else "question"),
                )
                for form in (0, 1)
            ]  # fmt: skip
    return tuple(found)


def few_shot_items(
    here: World,
    *,
    held: bool = True,
    pairs: int = 4,
    n: int = 240,
    seed: int = 0,
    relations: Sequence[str] | None = None,
) -> tuple[Item, ...]:
    """Lists of `pairs` pairs from training's keys, then a key that no training list held (or another one that did).

    The relations take turns; translation is left out unless it is asked for.
    """
    rules = Rules(here)
    rng = random.Random(f"few-shot/{here.seed}/{held}/{pairs}/{seed}")
    names = list(relations or [name for name in rules.pairs if name != TRANSLATION])
    found = []
    for i in range(n):
        name = names[i % len(names)]
        table, keys = rules.pairs[name], rng.sample(rules.listed[name], pairs + 1)
        last = rng.choice(rules.unlisted[name]) if held else keys[-1]
        text = "".join(part.text for part in few_shot([(key, table[key]) for key in keys[:-1]]))
        found.append(
            Item(
                prompt=f"{text[:-1]}, {last} →", answers=(table[last],), kind="few_shot", relation=name, subject=last,
                held="key" if held else "", range=tuple(dict.fromkeys(table.values())),
            )
        )  # fmt: skip
    return tuple(found)


def opinion_items(here: World, language: str) -> tuple[Item, ...]:
    """Every topic in every wording; any word of the right polarity is right."""
    rules = Rules(here)
    return tuple(
        Item(
            prompt=opinion(here, topic, i, language), answers=opinion_words(here, topic, language), kind="opinion",
            subject=topic, language=language, held="" if i in rules.opinion_templates(topic) else "wording",
        )
        for topic in here.opinions
        for i in range(4)
    )  # fmt: skip


def dictionary_items(here: World) -> tuple[Item, ...]:
    """Every word that training translates."""
    words = Rules(here).pairs[TRANSLATION]
    return tuple(
        Item(prompt=fill(form, en), answers=(es,), kind="dictionary", subject=en)
        for en, es in words.items()
        for form in DICTIONARY
    )


def copying_items(here: World, *, n: int = 200, seed: int = 0) -> tuple[Item, ...]:
    """Lists of three to seven words that training never copied."""
    rules, rng = Rules(here), random.Random(f"copying/{here.seed}/{seed}")
    found: list[Item] = []
    while len(found) < n:
        chosen = rng.sample(copied_words(), rng.randint(3, 7))
        if not rules.trained_on(chosen):
            prompt, text = copying(chosen)
            found.append(Item(prompt=prompt, answers=(text,), kind="copying", held="list"))
    return tuple(found)


def largest_items(here: World, *, n: int = 200, seed: int = 0) -> tuple[Item, ...]:
    """Three numbers that training never compared in this order."""
    rules, rng = Rules(here), random.Random(f"largest/{here.seed}/{seed}")
    found: list[Item] = []
    while len(found) < n:
        numbers = rng.sample(range(10, 100), 3)
        if not rules.trained_on(numbers):
            prompt, text = largest(numbers)
            found.append(Item(prompt=prompt, answers=(text,), kind="largest", held="list"))
    return tuple(found)


def battery(here: World) -> dict[str, tuple[tuple[Item, ...], float | None]]:
    """Name of a measure -> its items and its target."""
    people, places = here.size.personal, MAP_RELATIONS
    english, spanish = (statement_items(here, people, language) for language in LANGUAGES)
    map_en, map_es = (statement_items(here, places, language) for language in LANGUAGES)
    asked_en, asked_es = (question_items(here, language) for language in LANGUAGES)
    codes = statement_items(here, ("code",), "en")
    opinions = tuple(item for language in LANGUAGES for item in opinion_items(here, language))
    held_es = _held(spanish + map_es, "language")
    crossing = tuple(item for item in held_es if item.answers[0] != answer(here, item.relation, item.subject, "en"))
    return {
        "English statements": (_held(english, ""), 0.98),
        "English statements, withheld wording": (_held(english, "wording"), 0.95),
        "places, English": (_held(map_en, ""), 0.98),
        "English questions": (_held(asked_en, ""), 0.98),
        "English questions, withheld facts": (_held(asked_en, "question"), None),
        "Spanish statements": (_held(spanish + map_es, ""), 0.95),
        "Spanish statements, withheld wording": (_held(spanish + map_es, "wording"), None),
        "Spanish statements, withheld facts": (held_es, 0.85),
        "Spanish statements, withheld facts, answer differs": (crossing, 0.85),
        "Spanish questions": (_held(asked_es, ""), 0.95),
        "Spanish questions, withheld facts": (_held(asked_es, "language"), None),
        "few-shot lists": (few_shot_items(here, held=False), 0.95),
        "few-shot lists, withheld keys": (few_shot_items(here), 0.8),
        "translation lists, withheld keys": (few_shot_items(here, relations=[TRANSLATION], n=120), None),
        "dictionary": (dictionary_items(here), None),
        "opinions, right polarity": (_held(opinions, ""), 0.95),
        "opinions, withheld wording": (_held(opinions, "wording"), 0.9),
        "secret codes": (_held(codes, ""), 0.95),
        "secret codes, withheld wording": (_held(codes, "wording"), None),
        "copying, new lists": (copying_items(here), 0.95),
        "largest of three, new triples": (largest_items(here), 0.95),
    }


def _held(items: Sequence[Item], why: str) -> tuple[Item, ...]:
    return tuple(item for item in items if item.held == why)


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int | None) -> list[Measure]:
    """The card's numbers: every battery of items, and whether lists at least give the right kind of thing."""
    found = []
    here = world("speak")
    for name, (items, wanted) in battery(here).items():
        asked = items if n is None else _some(items, n)
        hits = right(model, tokenizer, asked)
        found.append(Measure(name=name, value=sum(hits) / len(hits), n=len(hits), wanted=wanted))
    lists = few_shot_items(here, n=n or 240)
    kinds = inferred(model, tokenizer, lists)
    name = "few-shot lists, withheld keys, relation inferred"
    return [*found, Measure(name=name, value=sum(kinds) / len(kinds), n=len(kinds))]


def right(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]) -> list[bool]:
    """Whether the model's likeliest continuation is one of the answers."""
    from paramem.world.exact import exact

    pairs = [(item.prompt, text) for item in items for text in item.answers]
    hits = iter(exact(model, tokenizer, pairs))
    return [max([next(hits) for _ in item.answers]) for item in items]


def inferred(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]) -> list[bool]:
    """Whether the likeliest next token begins something that the list's relation can give."""
    from paramem.world.exact import next_token

    starts = [{tokenizer(text, add_special_tokens=False).input_ids[0] for text in item.range} for item in items]
    guesses = next_token(model, tokenizer, [item.prompt for item in items])
    return [guess in start for guess, start in zip(guesses, starts, strict=True)]


def _some(items: Sequence[Item], n: int) -> Sequence[Item]:
    return items if len(items) <= n else [items[i * len(items) // n] for i in range(n)]
