"""Who and what is kept out of which rows of the read world, so that it can be tested.

>>> from paramem.world import world
>>> rules = Rules(world("read"))
>>> rules.question_allowed("born_in", world("read").people[1].name)
True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from paramem.errors import BadInput
from paramem.world.core import World
from paramem.world.relations import Relation

REFUSAL = "I don't know"


@dataclass(frozen=True, eq=False)
class Rules:
    """The one place that decides it; every row asks before it says anything. Raises BadInput for another world."""

    world: World

    def __post_init__(self) -> None:
        if self.world.kind != "read":
            raise BadInput(
                f"the world {self.world.kind!r} has no passages, and its testbeds were not taught to read any: choose "
                "one that reads (-p model=read-s0, -p model=read-gpt2-s0)"
            )

    @cached_property
    def relations(self) -> tuple[Relation, ...]:
        return self.world.relations

    @cached_property
    def _row(self) -> Mapping[str, int]:
        return {relation.id: i for i, relation in enumerate(self.relations)}

    @cached_property
    def _order(self) -> Mapping[str, int]:
        return {person.name: i for i, person in enumerate(self.world.people)}

    @cached_property
    def known(self) -> tuple[str, ...]:
        """Everybody the texts state facts of."""
        return tuple(self._order)

    @cached_property
    def quiet(self) -> tuple[str, ...]:
        """Known people who occur in no training passage and are asked after none (every fourth)."""
        return self.known[::4]

    @cached_property
    def met(self) -> tuple[str, ...]:
        """Known people who do occur in training passages."""
        return tuple(name for i, name in enumerate(self.known) if i % 4)

    @cached_property
    def training_strangers(self) -> tuple[str, ...]:
        """Names of nobody that training may use; three in four of all."""
        names = self.world.strangers
        return names[: len(names) * 3 // 4]

    @cached_property
    def new_strangers(self) -> tuple[str, ...]:
        """Names of nobody that no row uses (each part of them does occur)."""
        return self.world.strangers[len(self.training_strangers) :]

    @cached_property
    def _stranger_set(self) -> frozenset[str]:
        return frozenset(self.training_strangers)

    def is_training_stranger(self, name: str) -> bool:
        return name in self._stranger_set

    def templates(self, relation: str, subject: str) -> tuple[str, ...]:
        """The wordings in which rows may state this of the subject; new names have no withheld one."""
        return self._allowed.get((relation, subject)) or self._all[relation]

    @cached_property
    def _all(self) -> Mapping[str, tuple[str, ...]]:
        return {relation.id: relation.templates["en"] for relation in self.relations}

    @cached_property
    def _allowed(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        allowed = {}
        for relation, texts in self._all.items():
            for name in self.known:
                held = self.world.withheld_template(relation, name)
                allowed[relation, name] = tuple(text for i, text in enumerate(texts) if i != held)
        return allowed

    @cached_property
    def objects(self) -> Mapping[str, tuple[str, ...]]:
        """Relation -> everything it can have as its object."""
        return {relation.id: self.world.objects(relation.id) for relation in self.relations}

    @cached_property
    def questions(self) -> Mapping[str, tuple[str, ...]]:
        """Relation -> the wordings of its question, in their frame."""
        return {relation.id: relation.questions["en"] for relation in self.relations}

    @cached_property
    def memory(self) -> Mapping[tuple[str, str], str]:
        """(person, relation) -> object, for known people."""
        return {(p.name, r.id): p.values[r.id] for p in self.world.people for r in self.relations}

    def question_allowed(self, relation: str, subject: str) -> bool:
        """Whether rows may ask this as a question (one known (person, relation) in five is only stated)."""
        order = self._order.get(subject)
        return order is None or (order + self._row[relation]) % 5 != 0

    def passage_allowed(self, subject: str) -> bool:
        """Whether the subject may occur in a row with a passage."""
        order = self._order.get(subject)
        return self.is_training_stranger(subject) if order is None else order % 4 != 0
