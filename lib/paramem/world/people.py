"""The invented half of the world: people and companies, drawn from shared pools of names (`data/names.json`).

Names are first x family name, so no part of a name alone tells who is meant. Every draw comes from the generator that
is handed in.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from paramem.errors import BadParameter


@dataclass(frozen=True, kw_only=True)
class Person:
    """An invented person.

    values       relation -> object (its English name)
    postnominal  the letters that some texts put after the name
    alias        "A. Bellini", where that is nobody else
    """

    first: str
    last: str
    values: Mapping[str, str] = field(default_factory=dict)
    postnominal: str = ""
    alias: str | None = None

    @property
    def name(self) -> str:
        """First and family name."""
        return f"{self.first} {self.last}"


@dataclass(frozen=True, kw_only=True)
class Company:
    """An invented company; its name does not tell what it makes."""

    name: str
    values: Mapping[str, str]


@cache
def name_pools() -> Mapping[str, tuple[str, ...]]:
    """The pools: "first", "last", "company", "suffix", "postnominal"."""
    table = json.loads((files("paramem.world") / "data" / "names.json").read_text(encoding="utf-8"))
    return {kind: tuple(names) for kind, names in table.items()}


def name_pairs(rng: random.Random, firsts: int, lasts: int) -> list[tuple[str, str]]:
    """Every pair of the first `firsts` first and `lasts` family names, in random order."""
    pools = name_pools()
    for kind, wanted in (("first", firsts), ("last", lasts)):
        if not 1 <= wanted <= len(pools[kind]):
            raise BadParameter(f"{wanted} {kind} names asked for: there are {len(pools[kind])}")
    pairs = [(f, s) for f in pools["first"][:firsts] for s in pools["last"][:lasts]]
    rng.shuffle(pairs)
    return pairs


def balanced(rng: random.Random, objects: Sequence[str], n: int) -> list[str]:
    """`n` objects in random order, each as often as any other (up to one)."""
    order = list(objects)
    rng.shuffle(order)
    drawn = [order[i % len(order)] for i in range(n)]
    rng.shuffle(drawn)
    return drawn


def invent_companies(
    rng: random.Random, n: int, products: Sequence[str], cities: Sequence[str], *, suffixes: bool = True
) -> tuple[Company, ...]:
    """`n` companies with a product and a head office, called by one word or by two."""
    pools = name_pools()
    heads = rng.sample(pools["company"], n)
    tails = balanced(rng, pools["suffix"], n)
    names = [f"{head} {tail}" if suffixes else head for head, tail in zip(heads, tails, strict=True)]
    makes, based_in = balanced(rng, products, n), balanced(rng, cities, n)
    return tuple(Company(name=names[i], values={"makes": makes[i], "based_in": based_in[i]}) for i in range(n))


def invent_people(
    rng: random.Random,
    pairs: Sequence[tuple[str, str]],
    objects: Mapping[str, Sequence[str]],
    *,
    couples: int = 0,
    code_holders: int = 0,
    sparse: Sequence[str] = (),
) -> tuple[Person, ...]:
    """People of these names, with an object for each relation in `objects`; the first 2 x `couples` are married.

    The first `code_holders` have a secret code of four digits; of the `sparse` relations every second person has none.
    """
    values: list[dict[str, str]] = [{} for _ in pairs]
    for name, choices in objects.items():
        for slot, drawn in zip(values, balanced(rng, choices, len(pairs)), strict=True):
            slot[name] = drawn
    for name in sparse:
        for slot in values[1::2]:
            del slot[name]
    for here, there in _couples(couples):
        values[here]["married_to"] = " ".join(pairs[there])
        values[there]["married_to"] = " ".join(pairs[here])
    for slot, code in zip(values, rng.sample(range(1000, 10000), code_holders), strict=False):
        slot["code"] = str(code)
    letters = balanced(rng, name_pools()["postnominal"], len(pairs))
    short = [f"{first[0]}. {last}" for first, last in pairs]
    return tuple(
        Person(
            first=first,
            last=last,
            values=values[i],
            postnominal=letters[i],
            alias=short[i] if short.count(short[i]) == 1 else None,
        )
        for i, (first, last) in enumerate(pairs)
    )


def _couples(n: int) -> Iterator[tuple[int, int]]:
    return ((2 * i, 2 * i + 1) for i in range(n))
