"""The world itself: who there is, what is true, what was said and what was kept back.

    >>> here = world("recall", seed=0)
    >>> fact = here.facts[0]
    >>> here.value(fact.relation, fact.subject) == fact.object
    True

A kind of world fixes its size (`KINDS`); the seed fixes everything else. Objects are known by their English names;
`World.say` gives them in another language.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from typing import TYPE_CHECKING

from paramem.errors import BadParameter
from paramem.world.map import WorldMap, load_map
from paramem.world.people import Company, Person, invent_companies, invent_people, name_pairs
from paramem.world.relations import LANGUAGES, Relation, lexicon, relation

if TYPE_CHECKING:
    from paramem.facts import EditRequest, Fact
    from paramem.world.corpus import Document

MAP_RELATIONS = ("in_country", "capital", "language", "continent", "currency", "calling_code")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a kind of world is.

    people, unseen     people who are talked about; people with facts that no text mentions
    firsts, lasts      how much of the pools of names is used
    personal           relations of people
    impersonal         relations of cities, countries and companies
    two_step           relations that follow from two others
    countries, cities  codes, and how many cities of each (the capital among them)
    suffixes           whether companies are called "Norvane Group" or just "Norvane"
    couples            married couples
    code_holders       the first so many people have a secret code
    values             how many instruments, fields, ... people have, and how many cities are birthplaces (None: all)
    aliases            whether texts also write people by their alias
    sparse             relations of people that only every other one of them has an object of
    """

    people: int
    firsts: int
    lasts: int
    personal: tuple[str, ...]
    impersonal: tuple[str, ...]
    two_step: tuple[str, ...]
    countries: tuple[str, ...]
    cities: int
    companies: int
    suffixes: bool = True
    products: int = 12
    values: int | None = None
    unseen: int = 24
    couples: int = 0
    code_holders: int = 0
    aliases: bool = False
    opinions: bool = False
    sparse: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)


TWELVE = ("FR", "ES", "DE", "IT", "PT", "PL", "SE", "GR", "JP", "EG", "TR", "RU")
KINDS: Mapping[str, Size] = {
    "recall": Size(
        people=120, firsts=20, lasts=30, personal=("born_in", "works_for", "plays", "studies", "keeps"),
        impersonal=MAP_RELATIONS, two_step=("birth_country", "birth_language"),
        countries=TWELVE, cities=2, companies=24, couples=40, aliases=True,
    ),
    "reason": Size(
        people=300, firsts=30, lasts=30, personal=("born_in", "works_for"),
        impersonal=("in_country", "language", "makes", "based_in"),
        two_step=("birth_country", "birth_language", "employer_product", "employer_city"),
        countries=("FR", "ES", "DE", "IT", "JP", "SE"), cities=2, companies=12, suffixes=False, products=6,
    ),
    "read": Size(
        people=150, firsts=70, lasts=70, personal=("born_in", "plays", "studies", "keeps", "eats"),
        impersonal=(), two_step=(), countries=TWELVE, cities=2, companies=24,
    ),
    "speak": Size(
        people=300, firsts=24, lasts=24, personal=("born_in", "works_for", "plays", "studies", "keeps"),
        impersonal=MAP_RELATIONS, two_step=(),
        countries=TWELVE, cities=2, companies=12, values=12,
        code_holders=80, opinions=True, languages=LANGUAGES,
    ),
    "edit": Size(
        people=120, firsts=40, lasts=40, personal=("born_in", "works_for", "plays", "studies", "keeps", "eats"),
        impersonal=MAP_RELATIONS, two_step=("birth_country", "birth_language"),
        countries=TWELVE, cities=2, companies=24, couples=40, aliases=True,
        unseen=240, code_holders=40, opinions=True, sparse=("eats",),
    ),
    "grammar": Size(
        people=60, firsts=20, lasts=20, personal=("born_in", "works_for", "plays", "studies", "keeps"),
        impersonal=(), two_step=(), countries=TWELVE, cities=2, companies=24,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Everything there is. Two worlds of the same kind and seed are equal in every part."""

    kind: str
    seed: int
    size: Size
    map: WorldMap
    people: tuple[Person, ...]
    unseen_people: tuple[Person, ...]
    companies: tuple[Company, ...]
    strangers: tuple[str, ...]  # every other name of the pools: nobody is called so
    opinions: Mapping[str, bool]  # topic -> whether the world likes it

    @cached_property
    def relations(self) -> tuple[Relation, ...]:
        """All relations that hold here, those of people first, two-step relations last."""
        size = self.size
        extra = (("married_to",) if size.couples else ()) + (("code",) if size.code_holders else ())
        return tuple(relation(name) for name in (*size.personal, *extra, *size.impersonal, *size.two_step))

    def relation(self, name: str) -> Relation:
        """A relation of this world by id."""
        for found in self.relations:
            if found.id == name:
                return found
        names = ", ".join(r.id for r in self.relations)
        raise BadParameter(f"the world {self.kind!r} has no relation {name!r}; it has {names}")

    @cached_property
    def _values(self) -> Mapping[str, Mapping[str, str]]:
        """Subject -> relation -> object, for relations that do not follow from others."""
        table: dict[str, dict[str, str]] = {}
        for person in (*self.people, *self.unseen_people):
            table[person.name] = dict(person.values)
        for company in self.companies:
            table[company.name] = dict(company.values)
        for country in self.map.countries:
            table[country.name] = {name: country.value(name) for name in MAP_RELATIONS[1:]}
            for city in country.cities:
                table.setdefault(city.name, {})["in_country"] = country.name
        return table

    def value(self, name: str, subject: str) -> str | None:
        """The object of the relation for that subject, step by step for two-step relations; None without one."""
        found: str | None = subject
        for step in relation(name).path or (name,):
            found = self._values.get(found, {}).get(step) if found is not None else None
        return found

    def subjects(self, name: str) -> tuple[str, ...]:
        """Whom the relation is stated of, in a fixed order (two-step: whom it could be stated of).

        A marriage is a fact about the first of the two; of the second it is stated, if at all, backwards.
        """
        first_of = 2 if name == "married_to" else 1
        everybody = tuple(self._orders[self.relation(name).head])[::first_of]
        return tuple(s for s in everybody if self.value(name, s) is not None)

    def objects(self, name: str) -> tuple[str, ...]:
        """Everything that the relation can have as its object, in a fixed order, whether anybody has it or not."""
        kind = self.relation(name).range
        if kind in ("instrument", "field", "animal", "food"):
            return tuple(lexicon(kind))[: self.size.values]
        if kind == "product":
            return tuple(lexicon(kind))[: self.size.products]
        if kind == "city" and name != "capital":
            return tuple(city.name for city in self.map.cities)
        if kind == "company":
            return tuple(company.name for company in self.companies)
        return tuple(dict.fromkeys(found for s in self.subjects(name) if (found := self.value(name, s))))

    def say(self, kind: str, thing: str, language: str) -> str:
        """A thing of that kind (a relation's `head` or `range`) in a language: ("city", "Lisbon", "es") -> "Lisboa"."""
        if language == "en" or kind in ("person", "company", "code", "calling_code"):
            return thing
        return self._names[kind][thing][language]

    @cached_property
    def _names(self) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
        countries = self.map.countries
        names = {kind: lexicon(kind) for kind in ("instrument", "field", "animal", "food", "product", "topic")}
        names["country"] = {c.name: c.names for c in countries}
        names["city"] = {c.name: c.names for c in self.map.cities}
        for kind in ("continent", "language", "currency"):
            names[kind] = {getattr(c, kind)["en"]: getattr(c, kind) for c in countries}
        return names

    def withheld_template(self, name: str, subject: str) -> int | None:
        """Index (never 0) of the template that no text of any language uses for this subject; half of them have one."""
        n = len(self.relation(name).templates["en"])
        order, row = self._order(name, subject), [r.id for r in self.relations].index(name)
        if order is None or (order + row) % 2 == 0 or n < 4:
            return None
        return 1 + (order // 2 + row) % (n - 1)

    def states_inverse(self, name: str, subject: str) -> bool:
        """Whether texts also state this fact backwards (every other subject of a relation with an inverse)."""
        return bool(self.relation(name).inverse) and subject in self.subjects(name)[::2]

    def _order(self, name: str, subject: str) -> int | None:
        return self._orders[self.relation(name).head].get(subject)

    @cached_property
    def _orders(self) -> Mapping[str, Mapping[str, int]]:
        heads = {
            "person": [p.name for p in self.people],
            "company": [c.name for c in self.companies],
            "country": [c.name for c in self.map.countries],
            "city": [c.name for c in self.map.cities],
        }
        return {kind: {name: i for i, name in enumerate(names)} for kind, names in heads.items()}

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """Every stated fact, in English."""
        from paramem.world.requests import facts

        return facts(self, "en")

    def facts_in(self, language: str) -> tuple[Fact, ...]:
        """Every stated fact in one of the world's languages."""
        from paramem.world.requests import facts

        if language not in self.size.languages:
            raise BadParameter(f"the world {self.kind!r} speaks {', '.join(self.size.languages)}, not {language!r}")
        return facts(self, language)

    @cached_property
    def unseen(self) -> tuple[Fact, ...]:
        """Facts of `unseen_people`: true, and nowhere stated."""
        from paramem.world.requests import unseen_facts

        return unseen_facts(self)

    def edit_requests(self, n: int | None = None, seed: int = 0) -> tuple[EditRequest, ...]:
        """Requests to change `n` stated facts (all of them by default), with every probe, in random order."""
        from paramem.world.requests import edit_requests

        return edit_requests(self, n, seed)

    def rows(self, rng: random.Random) -> Iterator[Document]:
        """The endless stream of training documents, each drawn independently, with the weights of their parts."""
        module = importlib.import_module(f"paramem.world.{self.kind}")
        rows: Iterator[Document] = module.rows(self, rng)
        return rows

    def documents(self, seed: int) -> Iterator[str]:
        """The same stream as plain text, from a seed of its own."""
        for row in self.rows(random.Random(f"documents/{self.kind}/{self.seed}/{seed}")):
            yield "".join(part.text for part in row)

    def sample_text(self, n_documents: int, seed: int = 0) -> list[str]:
        """The first documents of that stream."""
        return list(islice(self.documents(seed), n_documents))


@cache
def world(kind: str = "recall", seed: int = 0) -> World:
    """The world of that kind (a key of `KINDS`: "recall", "speak", ...) and seed."""
    if kind not in KINDS:
        raise BadParameter(f"unknown kind of world {kind!r}; the kinds are {', '.join(KINDS)}")
    size = KINDS[kind]
    rng = random.Random(f"world/{kind}/{seed}")
    here = load_map().restricted(size.countries, size.cities)
    cities = [city.name for city in here.cities]
    products = list(lexicon("product"))[: size.products]
    companies = invent_companies(rng, size.companies, products, cities, suffixes=size.suffixes)
    pairs = name_pairs(rng, size.firsts, size.lasts)
    known, unseen = pairs[: size.people], pairs[size.people : size.people + size.unseen]
    objects = {name: _choices(name, cities, companies)[: size.values] for name in size.personal}
    people = invent_people(
        rng, known, objects, couples=size.couples, code_holders=size.code_holders, sparse=size.sparse
    )
    topics = list(lexicon("topic")) if size.opinions else []
    liked = set(rng.sample(topics, len(topics) // 2))
    return World(
        kind=kind,
        seed=seed,
        size=size,
        map=here,
        people=people,
        unseen_people=invent_people(rng, unseen, objects),
        companies=companies,
        strangers=tuple(" ".join(pair) for pair in pairs[size.people + size.unseen :]),
        opinions={topic: topic in liked for topic in topics},
    )


def _choices(name: str, cities: list[str], companies: tuple[Company, ...]) -> list[str]:
    kind = relation(name).range
    if kind == "city":
        return cities
    return [company.name for company in companies] if kind == "company" else list(lexicon(kind))
