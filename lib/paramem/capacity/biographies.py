"""Random biographies as rows of tokens: a beginning, two name tokens, one value token for each attribute.

    >>> people = Biographies.drawn(people=3, seed=0)
    >>> people.rows().shape  # beginning, two names, six values
    torch.Size([3, 9])

All values are drawn alone and evenly, so the entropy is known to the last bit. Every biography tells its attributes in
one order: every token but the first is knowledge, and none is spent on sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor

from paramem.errors import BadParameter

BEGIN, DOMAIN, SPECIAL = 0, 1, 2  # tokens: an unmarked beginning, a marked one, and how many there are
NAME_PARTS = 2
SYMBOLS = 64
ATTRIBUTES = 6
NAME_POOL = SYMBOLS**NAME_PARTS
VOCABULARY = SPECIAL + SYMBOLS

DEPARTURES = {
    "text": (
        "sentences from 50 templates an attribute, in random order (bioS), or one template (bioD)",
        "no sentences: a token a value, attributes in one order",
        "sentences cost most of the training tokens and hold no counted bit; on a CPU every token counts",
    ),
    "sizes": (
        "400 x 400 x 1000 names; 12 x 28 x 200 dates, 200 cities, 300 universities, 100 majors, 263 employers",
        "64 x 64 names; six attributes of 64 values",
        "10,000 to 10 million people become hundreds, and an embedding table has to stay a small part of the model",
    ),
}


@dataclass(frozen=True, eq=False)
class Biographies:
    """People with names and values, as symbols 0 to SYMBOLS - 1."""

    names: Tensor  # [N, parts]
    values: Tensor  # [N, ATTRIBUTES]

    @classmethod
    def drawn(cls, *, people: int, seed: int, parts: int = NAME_PARTS) -> Biographies:
        """People of different names of so many parts; raises BadParameter when there are not so many names."""
        pool = SYMBOLS**parts
        if not 1 <= people <= pool:
            raise BadParameter(f"{people} people cannot be drawn: there are {pool} names, and each is given once")
        generator = torch.Generator().manual_seed(seed)
        places = torch.randperm(pool, generator=generator)[:people]
        values = torch.randint(SYMBOLS, (people, ATTRIBUTES), generator=generator)
        digits = [places // SYMBOLS**power % SYMBOLS for power in reversed(range(parts))]
        return cls(torch.stack(digits, dim=1), values)

    @property
    def parts(self) -> int:
        """Tokens of a name."""
        return self.names.shape[1]

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, beginning: int = BEGIN) -> Tensor:
        """Token ids ``[N, 1 + parts + ATTRIBUTES]``."""
        first = torch.full((len(self), 1), beginning)
        return torch.cat([first, self.names + SPECIAL, self.values + SPECIAL], dim=1)


def strangers(rows: int, generator: torch.Generator, parts: int = NAME_PARTS) -> Tensor:
    """Token ids ``[rows, T]`` of people whom nobody will meet again: fresh names and values for every row."""
    drawn = torch.randint(SYMBOLS, (rows, parts + ATTRIBUTES), generator=generator) + SPECIAL
    return torch.cat([torch.full((rows, 1), BEGIN), drawn], dim=1)


def bits_a_person(people: int, parts: int = NAME_PARTS) -> float:
    """What there is to know about a person: which names are taken, and the values (Corollary 3.3)."""
    return log2(SYMBOLS**parts / people) + ATTRIBUTES * log2(SYMBOLS)


def people_for(ratio: float, parameters: int, parts: int = NAME_PARTS) -> int:
    """How many people hold ``ratio`` bits a parameter when everything about them is known."""
    if ratio <= 0 or parameters < 1:
        raise BadParameter(f"{ratio} bits in each of {parameters} parameters: both are above zero")
    people: float = ratio * parameters / bits_a_person(SYMBOLS**parts // 8, parts)
    for _ in range(50):
        people = ratio * parameters / bits_a_person(max(1, round(people)), parts)
    return int(min(SYMBOLS**parts, max(1, round(people))))
