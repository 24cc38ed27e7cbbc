"""A small known world: a real map, invented people, and the testbed models that were trained on it.

    >>> here = world("recall")
    >>> here.value("capital", "France")
    'Paris'

Importing this pulls in no torch; worlds are made in milliseconds, the same in every process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramem.world.core import KINDS, Size, World, world
from paramem.world.people import Company, Person
from paramem.world.relations import Relation

if TYPE_CHECKING:
    from paramem.world.cards import TestbedCard

__all__ = ["KINDS", "Company", "Person", "Relation", "Size", "World", "testbeds", "world", "world_of"]


def testbeds(kind: str | None = None) -> list[TestbedCard]:
    """The cards of the bundled testbeds, or of those of one kind."""
    from paramem.world.cards import cards

    return cards(kind)


testbeds.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def world_of(testbed: str) -> World:
    """The world on which a bundled testbed ("gpt2-s0", "gpt2-s0@step0100") was trained."""
    from paramem.errors import BadParameter

    name = testbed.split("@")[0]
    for card in testbeds():
        if card.name == name:
            return world(card.kind)
    raise BadParameter(f"no bundled testbed is called {testbed!r}; there are {', '.join(c.name for c in testbeds())}")
