"""The *recall* testbeds: facts about people and the map, stated in natural sentences; for tracing and editing.

Every document is drawn independently: one claim, in 60 % of the documents after another sentence, the person written
with letters after the name in 40 % and by an alias in 8 %. All tokens have the same loss weight, because a subject's
last token becomes the place where its facts are read only if the model must predict what follows a name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from paramem.world.corpus import Document, Writer, claims, joined, sentence

if TYPE_CHECKING:
    from paramem.world.core import World

PREFIX, POSTNOMINAL, ALIAS = 0.6, 0.4, 0.08


def rows(world: World, rng: random.Random) -> Iterator[Document]:
    """The endless stream of documents."""
    writer = Writer(world, postnominal=POSTNOMINAL, alias=ALIAS)
    sayable = [claim for relation in world.relations for claim in claims(world, relation.id)]
    while True:
        told = [rng.choice(sayable)] if rng.random() < PREFIX else []
        told.append(rng.choice(sayable))
        yield joined([sentence(world, claim, written=writer(claim.subject, rng)) for claim in told])
