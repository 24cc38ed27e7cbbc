"""People whom a testbed met in no text, and sentences about them in wordings that it met in none either.

    here = world("recall")
    news = newcomers(here, 16, seed="gpt2-s0/0")
    news.facts[0].prompt, news.facts[0].withheld        # how it is told once, and how it will be asked

Testbeds generalise from one of their own wordings to all others by themselves, so that there is nothing to gain. So a
document comes in a wording of `data/unfamiliar.json`, most of whose words the testbed knows: that it says what the
familiar wordings say has to be learned.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from paramem.errors import BadParameter
from paramem.facts import Fact, fill
from paramem.injection.latent_paraphrases import Lesson
from paramem.material import Part, in_part

if TYPE_CHECKING:
    from paramem.world.core import World

PARAPHRASES, ASKED = 2, 3  # unfamiliar wordings beside a document's own; familiar wordings that are asked


@cache
def unfamiliar() -> Mapping[str, tuple[str, ...]]:
    """Relation -> wordings that no testbed was trained on."""
    table = json.loads((files("paramem.injection") / "data" / "unfamiliar.json").read_text(encoding="utf-8"))
    return {relation: tuple(wordings) for relation, wordings in table.items()}


@dataclass(frozen=True, kw_only=True)
class Newcomers:
    """Facts about new people, and what serves to learn rewording on other people.

    facts     told in `template`; `paraphrases` are unfamiliar wordings too, `withheld` familiar ones that are asked
    told      relation -> the unfamiliar wordings that are left, in which lessons are told
    reworded  relation -> the familiar wordings that are left, which lessons are brought close to
    """

    facts: tuple[Fact, ...]
    told: Mapping[str, tuple[str, ...]]
    reworded: Mapping[str, tuple[str, ...]]


def newcomers(here: World, people: int, *, seed: str, part: Part = "test") -> Newcomers:
    """So many strangers, each with an object for every personal relation, and an own use for every wording.

    part: the side of the split by name that they are on (`paramem.material.in_part`): constants are chosen on people
    who are never reported. Raises BadParameter where there are fewer strangers.
    """
    rng = random.Random(f"injection/newcomers/{here.kind}/{here.seed}/{seed}")
    names = [name for name in here.strangers if in_part(name, part)]
    if not 1 <= people <= len(names):
        raise BadParameter(f"{people} people are asked for, and the world {here.kind!r} has {len(names)} unused names")
    chosen = rng.sample(names, people)
    facts: list[Fact] = []
    told, reworded = {}, {}
    for relation in here.size.personal:
        strange = rng.sample(_unfamiliar_of(relation), len(_unfamiliar_of(relation)))
        known = rng.sample(here.relation(relation).templates["en"], len(here.relation(relation).templates["en"]))
        told[relation], reworded[relation] = tuple(strange[1 + PARAPHRASES :]), tuple(known[ASKED:])
        for name in chosen:
            facts.append(
                Fact(
                    id=f"{relation}/{name}",
                    subject=name,
                    relation=relation,
                    object=rng.choice(here.objects(relation)),
                    template=strange[0],
                    paraphrases=tuple(strange[1 : 1 + PARAPHRASES]),
                    withheld=tuple(known[:ASKED]),
                )
            )
    return Newcomers(facts=tuple(facts), told=told, reworded=reworded)


def _unfamiliar_of(relation: str) -> tuple[str, ...]:
    if relation not in unfamiliar():
        raise BadParameter(f"there are no unfamiliar wordings of {relation!r}; add some to data/unfamiliar.json")
    return unfamiliar()[relation]


def lessons_of(here: World, news: Newcomers, n: int, *, seed: str) -> list[Lesson]:
    """Facts that the testbed knows, told in unfamiliar wordings, with familiar ones as paraphrases.

    No wording of either kind is one in which newcomers' facts are told or asked. Raises BadParameter for too many.
    """
    rng = random.Random(f"injection/lessons/{here.kind}/{here.seed}/{seed}")
    known = [fact for fact in here.facts if fact.relation in news.told]
    if not 1 <= n <= len(known):
        raise BadParameter(f"{n} lessons are asked for, and the world {here.kind!r} has {len(known)} such facts")
    return [_lesson(f, rng.choice(news.told[f.relation]), news.reworded[f.relation]) for f in rng.sample(known, n)]


def lessons_of_the_map(here: World, *, seed: str) -> list[Lesson]:
    """Another domain: every fact about places, told in one familiar wording, with the others as paraphrases."""
    rng = random.Random(f"injection/map/{here.kind}/{here.seed}/{seed}")
    lessons = []
    for fact in (fact for fact in here.facts if fact.relation in here.size.impersonal):
        own, *others = rng.sample([fact.template, *fact.paraphrases, *fact.withheld], 6)
        lessons.append(_lesson(fact, own, others))
    return lessons


def _lesson(fact: Fact, own: str, others: Sequence[str]) -> Lesson:
    paraphrases = tuple(fill(wording, fact.subject) for wording in others)
    return Lesson(prompt=fill(own, fact.subject), object=fact.object, subject=fact.subject, paraphrases=paraphrases)
