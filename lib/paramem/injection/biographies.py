"""Biographies of invented people in several ways of telling them, questions about them, and both as rows of words.

    people = draw_people(world("read"), 120, seed=0)
    told = biographies(people, TELLINGS["one text"], seed=0)     # person by person, the texts that training sees
    people.question(people.names[0], "born_in")                  # ("Q: Where was Orla Valtonen born? A:", "Istanbul")

A biography has a sentence for each relation, in one of its wordings. The first names the person, the others say "she",
unless the telling repeats the name. Whatever the telling, it states the same facts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from paramem.errors import BadInput, BadParameter
from paramem.world.people import name_pairs
from paramem.world.relations import Relation

if TYPE_CHECKING:
    from paramem.world.core import World

PAD, END = 0, 1  # tokens: nothing, and the one that begins and ends every row
NAMES = 40  # first names and family names that people are called by
TEXTS = 40  # about everybody, where there are several


class LeakingHalves(BadInput):
    """A person whose answers are trained on is among those whose answers are tested."""


@dataclass(frozen=True, kw_only=True)
class Telling:
    """How somebody is told about.

    texts       different texts about each person, of which training takes one at a time
    reworded    whether every text draws its wordings anew
    shuffled    whether every text after the first puts its sentences in another order
    full_names  whether each sentence names the person
    """

    texts: int = 1
    reworded: bool = False
    shuffled: bool = False
    full_names: bool = False

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise BadParameter(f"texts={self.texts}: a person has at least one text")
        if (self.reworded or self.shuffled) != (self.texts > 1):
            raise BadParameter(f"{self}: several texts differ in wording or in order, and a single one in nothing")


TELLINGS: Mapping[str, Telling] = {
    "one text": Telling(),
    "full names": Telling(full_names=True),
    "orders": Telling(texts=TEXTS, shuffled=True),
    "wordings": Telling(texts=TEXTS, reworded=True),
    "all three": Telling(texts=TEXTS, reworded=True, shuffled=True, full_names=True),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class People:
    """People and what is true of them. Raises LeakingHalves where the two halves share somebody.

    values     person -> relation -> object
    taught     whose answers are trained on
    held_out   whose answers are tested
    """

    relations: tuple[Relation, ...]
    values: Mapping[str, Mapping[str, str]]
    taught: tuple[str, ...]
    held_out: tuple[str, ...]

    def __post_init__(self) -> None:
        both = sorted(set(self.taught) & set(self.held_out))
        if both:
            raise LeakingHalves(
                f"{both[0]!r} is in both halves: answers that were trained on show no extraction. Drop one of the two."
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        return self.taught + self.held_out

    def relation(self, name: str) -> Relation:
        """Raises BadParameter for a relation that nobody's biography states."""
        for found in self.relations:
            if found.id == name:
                return found
        raise BadParameter(f"no biography states {name!r}, but {', '.join(r.id for r in self.relations)}")

    def question(self, person: str, relation: str, form: int = 0) -> tuple[str, str]:
        """A question and its answer. Raises BadParameter where the relation has no question of that form."""
        forms = self.relation(relation).questions.get("en", ())
        if not 0 <= form < len(forms):
            raise BadParameter(
                f"the relation {relation!r} has {len(forms)} forms of question, and form {form} is none of them: "
                "ask for another form, or leave the relation out"
            )
        return forms[form].replace("{}", person), self.values[person][relation]

    def questions(self, persons: Iterable[str]) -> list[tuple[str, str]]:
        """Every question about them in every form, person by person and relation by relation."""
        return [
            self.question(person, relation.id, form)
            for person in persons
            for relation in self.relations
            for form in range(len(relation.questions["en"]))
        ]


def draw_people(
    here: World, n: int, seed: int, *, objects: int | None = None, names: Sequence[str] | None = None
) -> People:
    """``n`` people, the first half of them taught; objects evenly from the first ``objects`` ones of a relation.

    names: what they may be called; by default all pairs of NAMES first and family names.
    Raises BadParameter for more people than names, and where nothing is left that could be true of them.
    """
    pool = names
    if pool is None:
        pool = [" ".join(pair) for pair in name_pairs(random.Random(f"injection/names/{seed}"), NAMES, NAMES)]
    if objects is not None and objects < 1:
        raise BadParameter(f"objects={objects}: a relation has at least one to choose from; None takes all of them")
    if not 2 <= n <= len(pool):
        raise BadParameter(f"{n} people cannot be drawn: two halves need two, and there are {len(pool)} names")
    rng = random.Random(f"injection/people/{seed}")
    choices = {relation.id: here.objects(relation.id)[:objects] for relation in here.relations}
    called = tuple(rng.sample(pool, n))
    values = {name: {r: rng.choice(found) for r, found in choices.items()} for name in called}
    return People(relations=here.relations, values=values, taught=called[: n // 2], held_out=called[n // 2 :])


def biographies(people: People, telling: Telling, seed: int, *, of: Sequence[str] | None = None) -> list[list[str]]:
    """The `telling.texts` texts about each person; the first is the same whatever the telling, but for names."""
    return [
        [" ".join(sentences) for sentences in told(people, person, telling, seed)]
        for person in (people.names if of is None else of)
    ]


def told(people: People, person: str, telling: Telling, seed: int) -> list[list[str]]:
    """The texts about a person, each a list of sentences."""
    rng = random.Random(f"injection/texts/{seed}/{person}")
    relations = list(people.relations)
    wording = _wordings(relations, rng)
    texts = []
    for number in range(telling.texts):
        if number and telling.reworded:
            wording = _wordings(relations, rng)
        order = rng.sample(relations, len(relations)) if number and telling.shuffled else relations
        texts.append(
            [
                sentence(people, person, r.id, wording[r.id], named=telling.full_names or place == 0)
                for place, r in enumerate(order)
            ]
        )
    return texts


def _wordings(relations: Sequence[Relation], rng: random.Random) -> dict[str, int]:
    return {r.id: rng.randrange(len(r.templates["en"])) for r in relations}


def sentence(people: People, person: str, relation: str, wording: int, *, named: bool) -> str:
    """One fact in one wording, about the person by name or as "she"."""
    template = people.relation(relation).templates["en"][wording]
    if not named:
        template = template.replace("of {}", "of her").replace("{}", "she")
    return f"{template.replace('{}', person)} {people.values[person][relation]}."


@dataclass(frozen=True, eq=False)
class Words:
    """A vocabulary of whole words, full stops and question marks."""

    words: tuple[str, ...]
    index: Mapping[str, int] = field(repr=False)

    @classmethod
    def of(cls, people: People) -> Words:
        """The words of every sentence and question about the people, in alphabetic order."""
        texts = [r.templates["en"][w] for r in people.relations for w in range(len(r.templates["en"]))]
        texts += [question for r in people.relations for question in r.questions["en"]]
        texts += [*people.names, *(each for found in people.values.values() for each in found.values()), "she her ."]
        words = ("", "<end>", *sorted({word for text in texts for word in split(text) if word != "{}"}))
        return cls(words, {word: place for place, word in enumerate(words)})

    def __len__(self) -> int:
        return len(self.words)

    def row(self, *texts: str) -> list[int]:
        """Token ids of the texts, one after the other, between two END. Empty texts and new words raise BadInput."""
        ids = [END]
        for text in texts:
            found = split(text)
            if not found:
                raise BadInput("an empty text says nothing: leave it out")
            unknown = [word for word in found if word not in self.index]
            if unknown:
                raise BadInput(f"the word {unknown[0]!r} of {text[:40]!r} is in no biography and in no question")
            ids += [self.index[word] for word in found]
        return [*ids, END]

    def text(self, ids: Iterable[int]) -> str:
        """The words again."""
        return " ".join(self.words[i] for i in ids if i not in (PAD, END))


def split(text: str) -> list[str]:
    """Words, full stops and question marks."""
    return re.findall(r"[^\s.?]+|[.?]", text)
