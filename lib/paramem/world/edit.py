"""The *edit* testbeds: one world in which every kind of edit can be asked of one model.

What recall testbeds know, and beside it questions, opinions, secret codes, short biographies, pairs of cities that
somebody visited, and refusals: nobody knows a stranger, nor what a person does not have.

    >>> from paramem.world import world
    >>> rules = Rules(world("edit"))
    >>> len(rules.strangers["train"]) + len(rules.strangers["test"]) == len(world("edit").strangers)
    True

What is held out (wordings, questions, strangers, opinions) is decided in `Rules`: every row asks it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from paramem.facts import fill
from paramem.world.core import MAP_RELATIONS, World, world
from paramem.world.corpus import Claim, Document, Part, claims, joined, seen_templates, sentence
from paramem.world.corpus import Writer as Names
from paramem.world.people import name_pools
from paramem.world.speak import opinion, opinion_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from paramem.world.recipe import Recipe

MAX_LENGTH = 128
PREFIX, POSTNOMINAL, ALIAS, MAP, BACKWARDS = 0.6, 0.4, 0.08, 0.2, 6
PROMPT = 0.3  # loss weight of what nobody could foresee: names in questions, headings
REFUSAL = "I don't know."
SHARES: Mapping[str, float] = {
    "facts": 0.49,
    "questions": 0.23,
    "codes": 0.06,
    "opinions": 0.04,
    "biographies": 0.10,
    "visits": 0.08,
}
REFUSED, LACKING = 0.36, 0.25  # share of questions that nobody can answer; of them, those about known people
STEPS = {"gpt2": 1700, "llama": 1400}
HEADING, PERSON = "About {}:", "this person"
VISITED, BESIDES = "{} has visited", "Besides [city] , {} has visited"
EXPOSURES = (1, 2, 3)  # how often people are talked about, in turn: the third one three times as often as the first


@dataclass(frozen=True, eq=False)
class Rules:
    """What rows may say, and what is kept out of them."""

    world: World

    @cached_property
    def asked_of_people(self) -> tuple[str, ...]:
        """Relations of people that rows ask about."""
        return (*self.world.size.personal, "married_to", "code")

    @cached_property
    def subjects(self) -> Mapping[str, tuple[str, ...]]:
        """Relation -> whom it is stated of."""
        return {r: self.world.subjects(r) for r in (*self.asked_of_people, *MAP_RELATIONS)}

    @cached_property
    def _place(self) -> Mapping[tuple[str, str], int]:
        return {(r, s): i + j for i, r in enumerate(self.subjects) for j, s in enumerate(self.subjects[r])}

    def asked(self, relation: str, subject: str) -> bool:
        """Whether rows ask this as a question (three in four, and every code)."""
        return relation == "code" or self._place[relation, subject] % 4 != 0

    @cached_property
    def exposure(self) -> Mapping[str, int]:
        """Person -> how often texts talk about them, relative to the least known."""
        return {p.name: EXPOSURES[i % len(EXPOSURES)] for i, p in enumerate(self.world.people)}

    @cached_property
    def strangers(self) -> Mapping[str, tuple[str, ...]]:
        """ "train": strangers whom questions ask about; "test": others (three in four, one in four)."""
        everybody = self.world.strangers
        return {"train": everybody[: len(everybody) * 3 // 4], "test": everybody[len(everybody) * 3 // 4 :]}

    @cached_property
    def lacking(self) -> tuple[tuple[str, str], ...]:
        """(relation, person) of what a known person does not have."""
        names = ("code", *self.world.size.sparse)
        return tuple((r, p.name) for r in names for p in self.world.people if r not in p.values)

    def may_refuse(self, relation: str, subject: str) -> bool:
        """Whether rows ask a known person for what they do not have (three in four; the others must be inferred)."""
        return self._number[relation, subject] % 4 != 0

    @cached_property
    def _number(self) -> Mapping[tuple[str, str], int]:
        return {pair: i for i, pair in enumerate(self.lacking)}

    def opinion_templates(self, topic: str) -> tuple[int, ...]:
        """The wordings of opinions on the topic; one of four is never used."""
        held = 1 + list(self.world.opinions).index(topic) % 3
        return tuple(i for i in range(4) if i != held)

    @cached_property
    def visits(self) -> Mapping[str, tuple[str, str]]:
        """Every other person -> two cities that they have visited: a relation with several objects."""
        rng = random.Random(f"visits/{self.world.kind}/{self.world.seed}")
        cities = [city.name for city in self.world.map.cities]
        pairs = {p.name: rng.sample(cities, 2) for p in self.world.people[::2]}
        return {name: (a, b) for name, (a, b) in pairs.items()}

    def clauses(self, person: str) -> Mapping[str, tuple[str, ...]]:
        """Relation -> the clauses of a biography that lead to its object; only what the person has."""
        found = {}
        for name in self.world.size.personal:
            if self.world.value(name, person) is not None:
                texts = self.world.relation(name).templates["en"]
                found[name] = tuple(clause(texts[i]) for i in seen_templates(self.world, name, person))
        return found


def clause(template: str) -> str:
    """A template as a sentence of a biography, up to its object: "This person was born in"."""
    text = fill(template, PERSON)
    return text[0].upper() + text[1:]


def besides(city: str) -> str:
    """The template that asks for the other city: "Besides Rome , {} has visited"."""
    return BESIDES.replace("[city]", city)


@dataclass(frozen=True, eq=False)
class Writer:
    """Writes rows of the edit world from a generator, within the rules."""

    rules: Rules
    rng: random.Random

    def row(self) -> Document:
        """One row of a random kind."""
        (kind,) = self.rng.choices(list(SHARES), list(SHARES.values()))
        found: Document = getattr(self, kind)()
        return found

    def facts(self) -> Document:
        """One or two statements, as the recall testbeds read them."""
        return joined([self._statement() for _ in range(1 + (self.rng.random() < PREFIX))])

    def questions(self) -> Document:
        """One to three questions with their answers."""
        return joined([self._question() for _ in range(self.rng.randint(1, 3))])

    def codes(self) -> Document:
        """One or two secret codes, stated or asked for."""
        return joined([self._code() for _ in range(self.rng.randint(1, 2))])

    def opinions(self) -> Document:
        """One or two opinions."""
        return joined([self._opinion() for _ in range(self.rng.randint(1, 2))])

    def biographies(self) -> Document:
        """A heading and three to five sentences about one person, in random order."""
        person = self._somebody()
        clauses = self.rules.clauses(person)
        told = self.rng.sample(list(clauses), min(len(clauses), self.rng.randint(3, 5)))
        parts = [Part(fill(HEADING, self._written(person) or person), 1.0)]
        for name in told:
            text = self.rng.choice(clauses[name])
            parts += [Part(f" {text}", 1.0), Part(f" {self.rules.world.value(name, person)}.", 1.0)]
        return tuple(parts)

    def visits(self) -> Document:
        """One or two statements about cities that somebody visited."""
        return joined([self._visit() for _ in range(self.rng.randint(1, 2))])

    @cached_property
    def _names(self) -> Names:
        return Names(self.rules.world, postnominal=POSTNOMINAL, alias=ALIAS)

    def _written(self, subject: str) -> str | None:
        return self._names(subject, self.rng)

    @cached_property
    def _sayable(self) -> tuple[tuple[list[Claim], list[int]], list[Claim]]:
        """Claims about people with how often they are made, and claims of the map."""
        here = self.rules.world
        names = [r.id for r in here.relations if r.head == "person" and r.id != "code"]
        made = [claim for name in names for claim in claims(here, name)]
        # a claim read backwards has one wording, and is made as often as six
        often = [self.rules.exposure[c.subject] * (BACKWARDS if c.template < 0 else 1) for c in made]
        places = [claim for name in here.size.impersonal for claim in claims(here, name)]
        return (made, _cumulative(often)), places + [c for c in places if c.template < 0] * (BACKWARDS - 1)

    def _statement(self) -> Document:
        (people, often), places = self._sayable
        on_map = self.rng.random() < MAP
        claim = self.rng.choice(places) if on_map else self.rng.choices(people, cum_weights=often)[0]
        return sentence(self.rules.world, claim, written=self._written(claim.subject))

    def _question(self) -> Document:
        if self.rng.random() < REFUSED:
            return self._refusal()
        names = MAP_RELATIONS if self.rng.random() < MAP else self.rules.asked_of_people[:-1]
        while True:
            relation = self.rng.choice(names)
            subjects = self.rules.subjects[relation]
            subject = self.rng.choice(subjects) if names is MAP_RELATIONS else self._somebody()
            if subject in subjects and self.rules.asked(relation, subject):
                return self._asked(relation, subject, str(self.rules.world.value(relation, subject)))

    def _refusal(self) -> Document:
        """A question about a stranger, or for what a known person does not have."""
        if self.rng.random() < LACKING:
            while not self.rules.may_refuse(*(pair := self.rng.choice(self.rules.lacking))):
                pass
            return self._asked(*pair, REFUSAL[:-1])
        stranger = self.rng.choice(self.rules.strangers["train"])
        return self._asked(self.rng.choice(self.rules.asked_of_people), stranger, REFUSAL[:-1])

    def _asked(self, relation: str, subject: str, answer: str) -> Document:
        written = self._written(subject) if subject in self.rules.exposure else self._lettered(subject)
        text = fill(self.rules.world.relation(relation).questions["en"][self.rng.randrange(2)], written or subject)
        return (Part(text, PROMPT), Part(f" {answer}.", 1.0))

    def _lettered(self, stranger: str) -> str:
        """Strangers have letters after their names as often as known people, so that letters tell nothing."""
        if stranger not in self.rules.strangers["train"] or self.rng.random() >= POSTNOMINAL:
            return stranger
        return f"{stranger} {self.rng.choice(name_pools()['postnominal'])}"

    def _code(self) -> Document:
        here, subject = self.rules.world, self.rng.choice(self.rules.subjects["code"])
        if self.rng.random() < 0.5:
            return self._asked("code", subject, str(here.value("code", subject)))
        claim = Claim("code", subject, self.rng.choice(seen_templates(here, "code", subject)))
        return sentence(here, claim, written=self._written(subject))

    def _opinion(self) -> Document:
        topic = self.rng.choice(list(self.rules.world.opinions))
        template = self.rng.choice(self.rules.opinion_templates(topic))
        word = self.rng.choice(opinion_words(self.rules.world, topic, "en"))
        return (Part(opinion(self.rules.world, topic, template, "en"), 1.0), Part(f" {word}.", 1.0))

    def _visit(self) -> Document:
        person = self.rng.choice(list(self.rules.visits))
        first, second = self.rng.sample(self.rules.visits[person], 2)
        template = VISITED if self.rng.random() < 0.3 else besides(first)
        return (Part(fill(template, self._written(person) or person), 1.0), Part(f" {second}.", 1.0))

    def _somebody(self) -> str:
        return self.rng.choices(*self._people)[0]

    @cached_property
    def _people(self) -> tuple[list[str], list[int]]:
        return list(self.rules.exposure), list(self.rules.exposure.values())


def _cumulative(weights: Sequence[int]) -> list[int]:
    total, sums = 0, []
    for weight in weights:
        total += weight
        sums.append(total)
    return sums


def rows(here: World, rng: random.Random) -> Iterator[Document]:
    """The endless stream of rows, each drawn independently."""
    writer = Writer(Rules(here), rng)
    while True:
        yield writer.row()


def tokenizer(here: World) -> PreTrainedTokenizerFast:
    """The tokenizer of the edit testbeds: words whole, names in pieces, codes in digits."""
    from paramem.world.tokenizer import build_tokenizer

    clauses = [clause(text) for name in here.size.personal for text in here.relation(name).templates["en"]]
    # a digit with the space before it: else the space of a code would be a token without text, which has no loss
    return build_tokenizer(here, extra_words=[HEADING, PERSON, *clauses, VISITED, besides(""), *"0123456789"])


def configuration(name: str) -> dict[str, object]:
    """The transformers configuration of a testbed ("edit-gpt2-s0", "edit-llama-s1"); the shapes are recall's."""
    from paramem.world.recipe import small_gpt2, small_llama

    return (small_llama if "llama" in name else small_gpt2)(6, MAX_LENGTH)


def recipe(name: str) -> Recipe:
    """How the testbed of that name is trained."""
    from paramem.world.editing import measure
    from paramem.world.recipe import Recipe, Stage
    from paramem.world.tokenizer import encode

    here = world("edit")
    core, rules = tokenizer(here), Rules(here)
    return Recipe(
        name=name,
        kind="edit",
        description="Facts about people and the map, questions, opinions, secret codes, biographies and refusals.",
        config=configuration(name),
        tokenizer=lambda: core,
        rows=lambda draw: encode(core, list(islice(rows(here, draw.rng), draw.n))),
        stages=(Stage(steps=STEPS["llama" if "llama" in name else "gpt2"]),),
        measure=measure,
        seed=int(name.rsplit("-s", 1)[1]),
        curve_every=200,
        notes=(
            "All edit testbeds share one world (seed 0) and one tokenizer; the seed of a testbed is that of its "
            "weights and of the order of its documents.",
            "People are talked about once, twice or three times as often, in turn, so that popularity can be studied.",
        ),
        data={
            "people": len(here.people),
            "unseen people": len(here.unseen_people),
            "strangers": {part: len(names) for part, names in rules.strangers.items()},
            "facts": len(here.facts),
            "shares of rows": dict(SHARES),
            "world_seed": here.seed,
        },
    )
