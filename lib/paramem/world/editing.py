"""What the *edit* testbeds are asked, and how often they answer rightly.

>>> from paramem.world import world
>>> battery(world("edit"))["questions"][0][0].prompt.startswith("Q:")
True
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paramem.facts import Probe, fill
from paramem.world.cards import Measure
from paramem.world.core import MAP_RELATIONS, World, world
from paramem.world.edit import HEADING, REFUSAL, Rules, besides
from paramem.world.recall import probes as recall_probes
from paramem.world.speak import opinion, opinion_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Battery = dict[str, tuple[list[Probe], float | None]]
AS_RECALL = {"every fact": 0.99, "facts": 0.99, "map": 0.99, "multi-token objects": 0.99, "withheld wording": 0.95}
REFUSES = 0.05  # upper bound of the share of known facts that are refused


def questions(here: World, *, asked: bool = True) -> list[Probe]:
    """Both questions about every fact that training asks about, or about those that it only states."""
    rules = Rules(here)
    return [
        Probe(prompt=fill(text, s), target=str(here.value(r, s)), kind=r, subject=s)
        for r in (*(name for name in rules.asked_of_people if name != "code"), *MAP_RELATIONS)
        for s in rules.subjects[r]
        if rules.asked(r, s) == asked
        for text in here.relation(r).questions["en"]
    ]


def codes(here: World) -> tuple[list[Probe], list[Probe]]:
    """Every secret code as a statement, in every wording, and as a question."""
    relation = here.relation("code")
    said, asked = (
        [
            Probe(prompt=fill(text, s), target=str(here.value("code", s)), kind="code", subject=s)
            for s in here.subjects("code")
            for text in texts
        ]
        for texts in (relation.templates["en"], relation.questions["en"])
    )
    return said, asked


def opinions(here: World, *, held: bool) -> list[Probe]:
    """Every opinion in the wordings that training used for the topic, or in the one that it did not."""
    rules, found = Rules(here), []
    for topic in here.opinions:
        word, *others = opinion_words(here, topic, "en")
        used = rules.opinion_templates(topic)
        forms = [i for i in range(4) if (i not in used) == held]
        found += [
            Probe(prompt=opinion(here, topic, i, "en"), target=word, aliases=tuple(others), subject=topic)
            for i in forms
        ]
    return found


def refusals(here: World, who: str) -> list[Probe]:
    """Questions that nobody can answer.

    who: "strangers" (whom no text names), "unseen" (nor do they, but they have facts), "lacking" (known people, for
    what they do not have), or "lacking, withheld" (pairs that training did not ask about).
    """
    rules = Rules(here)
    if who in ("strangers", "unseen"):
        names = rules.strangers["test"] if who == "strangers" else [p.name for p in here.unseen_people]
        pairs = [(r, name) for name in names for r in rules.asked_of_people]
    else:
        pairs = [pair for pair in rules.lacking if rules.may_refuse(*pair) == (who == "lacking")]
    return [
        Probe(prompt=fill(here.relation(r).questions["en"][0], s), target=REFUSAL, kind=r, subject=s) for r, s in pairs
    ]


def biographies(here: World, *, seed: int = 0) -> list[Probe]:
    """For every person and relation the biography up to that object, after two other sentences."""
    rules, rng = Rules(here), random.Random(f"biographies/{here.seed}/{seed}")
    found = []
    for person in here.people:
        clauses = rules.clauses(person.name)
        for name, texts in clauses.items():
            told = rng.sample([other for other in clauses if other != name], 2)
            before = [f"{rng.choice(clauses[r])} {here.value(r, person.name)}." for r in told]
            prompt = " ".join([fill(HEADING, person.name), *before, rng.choice(texts)])
            found.append(
                Probe(prompt=prompt, target=str(here.value(name, person.name)), kind=name, subject=person.name)
            )
    return found


def visits(here: World) -> list[Probe]:
    """Both cities of everybody who visited two, each asked for beside the other."""
    return [
        Probe(prompt=fill(besides(a), person), target=b, kind="visited", subject=person)
        for person, pair in Rules(here).visits.items()
        for a, b in (pair, pair[::-1])
    ]


def battery(here: World) -> Battery:
    """Name of a measure -> its items and its target."""
    rules = Rules(here)
    said, asked = codes(here)
    about = [f.probe() for f in here.facts if f.relation in here.size.personal]
    rare, often = ([p for p in about if rules.exposure[p.subject or ""] == n] for n in (1, 3))
    found: Battery = {name: (items, AS_RECALL.get(name)) for name, items in recall_probes(here).items()}
    return found | {
        "facts of people rarely talked about": (rare, None),
        "facts of people often talked about": (often, None),
        "questions": (questions(here), 0.98),
        "questions, withheld facts": (questions(here, asked=False), None),
        "secret codes": (said, 0.95),
        "secret codes, asked": (asked, 0.95),
        "opinions, right polarity": (opinions(here, held=False), 0.95),
        "opinions, withheld wording": (opinions(here, held=True), 0.9),
        "biographies": (biographies(here), 0.98),
        "other city visited": (visits(here), 0.95),
        "strangers refused": (refusals(here, "strangers"), 0.9),
        "unseen people refused": (refusals(here, "unseen"), 0.9),
        "what people lack refused": (refusals(here, "lacking"), 0.9),
        "what people lack refused, withheld": (refusals(here, "lacking, withheld"), None),
    }


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int | None) -> list[Measure]:
    """The card's numbers: every battery of items, and how many known facts are refused."""
    here = world("edit")
    found = []
    for name, (items, wanted) in battery(here).items():
        hits = _right(model, tokenizer, _some(items, n))
        found.append(Measure(name=name, value=sum(hits) / len(hits), n=len(hits), wanted=wanted))
    known = [probe.model_copy(update={"target": REFUSAL, "aliases": ()}) for probe in questions(here)]
    hits = _right(model, tokenizer, _some(known, n))
    name = "known facts refused"
    return [*found, Measure(name=name, value=sum(hits) / len(hits), n=len(hits), wanted=REFUSES, at_most=True)]


def _right(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, probes: Sequence[Probe]) -> list[bool]:
    """Whether the model's likeliest continuation is one of the answers."""
    from paramem.world.exact import exact

    pairs = [(probe.prompt, answer) for probe in probes for answer in probe.answers]
    hits = iter(exact(model, tokenizer, pairs))
    return [max([next(hits) for _ in probe.answers]) for probe in probes]


def _some(items: Sequence[Probe], n: int | None) -> Sequence[Probe]:
    """At most `n` items, spread evenly."""
    return items if n is None or len(items) <= n else [items[i * len(items) // n] for i in range(n)]
