"""Sentences and documents: what is true, put into words, with a loss weight for every part of the text.

A document is a tuple of `Part`s; its text is their concatenation. What is withheld (a template for a subject) is
withheld here, so that no kind of document can leak it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from paramem.facts import fill

if TYPE_CHECKING:
    from paramem.world.core import World


class Part(NamedTuple):
    """A piece of text and the weight that predicting it has in the loss."""

    text: str
    weight: float


Document = tuple[Part, ...]


class Claim(NamedTuple):
    """Something that can be said: a relation of a subject, through one of its templates (`template` -1: backwards)."""

    relation: str
    subject: str
    template: int


def seen_templates(world: World, relation: str, subject: str, language: str = "en") -> tuple[int, ...]:
    """Indices of the templates that texts use for this subject."""
    withheld = world.withheld_template(relation, subject)
    return tuple(i for i in range(len(world.relation(relation).templates[language])) if i != withheld)


def claims(world: World, relation: str) -> tuple[Claim, ...]:
    """Every claim of a relation that texts make, backwards ones included."""
    made = []
    for subject in world.subjects(relation):
        made += [Claim(relation, subject, i) for i in seen_templates(world, relation, subject)]
        if world.states_inverse(relation, subject):
            made.append(Claim(relation, subject, -1))
    return tuple(made)


def sentence(
    world: World,
    claim: Claim,
    *,
    language: str = "en",
    written: str | None = None,
    answer: str | None = None,
    prompt_weight: float = 1.0,
    answer_weight: float = 1.0,
) -> Document:
    """The claim as a sentence: the words before the object, then the object and the full stop.

    `written` is how the subject is written where that is not its name; `answer` replaces the true object.
    """
    relation = world.relation(claim.relation)
    subject = world.say(relation.head, claim.subject, language)
    found = answer if answer is not None else world.value(claim.relation, claim.subject)
    if found is None:
        raise ValueError(f"{claim.subject!r} has no {claim.relation!r}")
    thing = world.say(relation.range, found, language)
    if claim.template < 0:
        return (Part(fill(relation.inverse[language], thing), prompt_weight), Part(f" {subject}.", answer_weight))
    text = fill(relation.templates[language][claim.template], written or subject)
    return (Part(text, prompt_weight), Part(f" {thing}.", answer_weight))


def joined(sentences: Sequence[Document]) -> Document:
    """Sentences one after the other, a space between them."""
    parts: list[Part] = []
    for number, one in enumerate(sentences):
        first = one[0] if number == 0 else Part(f" {one[0].text}", one[0].weight)
        parts += [first, *one[1:]]
    return tuple(parts)


def text_of(document: Document) -> str:
    """The plain text."""
    return "".join(part.text for part in document)


class Writer:
    """How people are written: with letters after the name in some texts, by their alias in some."""

    def __init__(self, world: World, *, postnominal: float = 0.0, alias: float = 0.0) -> None:
        self.postnominal, self.alias = postnominal, alias
        self.people = {person.name: person for person in world.people}

    def __call__(self, subject: str, rng: random.Random) -> str | None:
        """One way to write the subject; None for its plain name (always for things that are not people)."""
        person = self.people.get(subject)
        if person is None:
            return None
        if person.alias and rng.random() < self.alias:
            return person.alias
        return f"{person.name} {person.postnominal}" if rng.random() < self.postnominal else None
