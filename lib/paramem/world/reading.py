"""What the *read* testbed is asked: passages, questions and the right answers, and how often it gives them.

>>> from paramem.world import world
>>> item = readings(world("read"), "contradicts", sentences=2, n=1)[0]
>>> item.answer != item.memory and item.answer in item.passage
True
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from paramem.errors import BadParameter
from paramem.world.cards import Measure
from paramem.world.core import World, world
from paramem.world.read import Cell
from paramem.world.read_rules import REFUSAL, Rules

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# Other sentences of a passage share the relation, the person or neither with the question; or they speak of a new
# name that shares a part with the one asked about, and share the relation too.
DISTRACTIONS = ("same_relation", "same_person", "neither", "namesake")
KINDS = (
    "answers",
    "contradicts",
    "contradicts_namesake",
    "unknown_reads",
    "unknown_reads_namesake",
    *(f"distracts_{how}" for how in DISTRACTIONS),
    *(f"unknown_refuses_{how}" for how in DISTRACTIONS),
)

NEEDS_TWO = ("contradicts_namesake", "unknown_reads_namesake")  # a sentence that answers, and one about the namesake


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One question, with or without a passage before it.

    answer   what a reader who trusts the passage, then memory, says
    memory   what was stated of the subject in training; None for strangers
    kind     one of `KINDS`, or "asked", "asked_withheld", "refuses" (without a passage)
    """

    passage: str
    question: str
    answer: str
    kind: str
    subject: str
    relation: str
    sentences: int
    memory: str | None

    @property
    def prompt(self) -> str:
        """Passage and question, up to where the answer follows."""
        return f"{self.passage} {self.question}".strip()


def readings(
    here: World,
    kind: str,
    *,
    sentences: int = 1,
    n: int = 300,
    seed: int = 0,
    people: Literal["quiet", "met"] = "quiet",
) -> tuple[Reading, ...]:
    """`n` items of one of `KINDS`, on known people of whom no training passage speaks ("quiet") or one does ("met")."""
    if kind not in KINDS:
        raise BadParameter(f"unknown kind of reading {kind!r}; the kinds are {', '.join(KINDS)}")
    if sentences < 1:
        raise BadParameter(f"{sentences} sentences asked for: a passage has at least one")
    maker = _Maker(Rules(here), random.Random(f"readings/{here.seed}/{kind}/{sentences}/{people}/{seed}"))
    return tuple(maker.make(kind, sentences, people) for _ in range(n))


def questions(here: World, *, withheld: bool = False) -> tuple[Reading, ...]:
    """Every question about known people without a passage: those that training may ask, or those it may not."""
    rules = Rules(here)
    cells = [(name, r.id) for name in rules.known for r in rules.relations]
    kind = "asked_withheld" if withheld else "asked"
    return tuple(
        _plain(rules, cell, form, kind) for cell in cells for form in (0, 1)
        if rules.question_allowed(cell[1], cell[0]) != withheld
    )  # fmt: skip


def refusals(here: World, n: int | None = None) -> tuple[Reading, ...]:
    """A question about each name that nobody has and no row used."""
    rules = Rules(here)
    names = rules.new_strangers[:n]
    relations = rules.relations
    return tuple(
        _plain(rules, (name, relations[i % len(relations)].id), i // len(relations) % 2, "refuses")
        for i, name in enumerate(names)
    )


def _question(rules: Rules, cell: Cell, form: int) -> str:
    return rules.questions[cell[1]][form].replace("{}", cell[0])


def _plain(rules: Rules, cell: Cell, form: int, kind: str) -> Reading:
    memory = rules.memory.get(cell)
    return Reading(
        passage="", question=_question(rules, cell, form), answer=memory or REFUSAL, kind=kind, subject=cell[0],
        relation=cell[1], sentences=0, memory=memory,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Maker:
    rules: Rules
    rng: random.Random

    def make(self, kind: str, sentences: int, people: str) -> Reading:
        unknown = kind.startswith("unknown")
        name = self.rng.choice(self.rules.new_strangers if unknown else getattr(self.rules, people))
        allowed = [r.id for r in self.rules.relations if self.rules.question_allowed(r.id, name)]
        cell = (name, self.rng.choice(allowed))
        memory = self.rules.memory.get(cell)
        helps = kind.split("_")[0] in ("answers", "contradicts") or kind.startswith("unknown_reads")
        said: dict[Cell, str] = {}
        if helps:
            others = [o for o in self.rules.objects[cell[1]] if o != memory]
            said[cell] = str(memory) if kind == "answers" else self.rng.choice(others)
        fixed = next((d for d in DISTRACTIONS if kind.endswith(d)), None)
        while len(said) < sentences:
            self._distract(said, cell, fixed or self.rng.choice(DISTRACTIONS[:3]))
        order = self.rng.sample(list(said), len(said))
        passage = " ".join(f"{self._statement(c)} {said[c]}." for c in order)
        return Reading(
            passage=passage, question=_question(self.rules, cell, self.rng.randrange(2)),
            answer=said.get(cell) or memory or REFUSAL, kind=kind, subject=name, relation=cell[1],
            sentences=sentences, memory=memory,
        )  # fmt: skip

    def _distract(self, said: dict[Cell, str], cell: Cell, how: str) -> None:
        """Add a sentence that does not answer the question; a cell or an object that is taken adds nothing."""
        other = [r.id for r in self.rules.relations if r.id != cell[1]]
        relation = cell[1] if how in ("same_relation", "namesake") else self.rng.choice(other)
        name = cell[0] if how == "same_person" else self._other(cell[0], namesake=how == "namesake")
        thing = self.rng.choice(self.rules.objects[relation])
        memory = self.rules.memory.get(cell)
        if (name, relation) != cell and (name, relation) not in said and thing not in (*said.values(), memory):
            said[name, relation] = thing

    def _other(self, name: str, *, namesake: bool) -> str:
        if not namesake:
            pool: Sequence[str] = self.rules.met if self.rng.random() < 0.5 else self.rules.new_strangers
            return self.rng.choice([other for other in pool if other != name])
        parts = set(name.split())
        return self.rng.choice([s for s in self.rules.new_strangers if len(parts & set(s.split())) == 1])

    def _statement(self, cell: Cell) -> str:
        return self.rng.choice(self.rules.templates(cell[1], cell[0])).replace("{}", cell[0])


# Lower bounds of the card.
WANTED = {"answers": 0.9, "contradicts": 0.9, "unknown_reads": 0.9, "distracts": 0.8, "unknown_refuses": 0.9}


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int | None) -> list[Measure]:
    """The card's numbers: recall, reading, falling back and refusing, by kind and number of sentences."""
    from paramem.world.exact import exact, share

    here = world("read")
    found: list[Measure] = []

    def add(name: str, pairs: Sequence[tuple[str, str]], wanted: float | None = None, *, at_most: bool = False) -> None:
        hits = exact(model, tokenizer, _some(pairs, n))
        found.append(Measure(name=name, value=share(hits), n=len(hits), wanted=wanted, at_most=at_most))

    for name, pairs in statements(here).items():
        add(name, pairs, 0.98 if name == "statements" else 0.95)
    add("questions", _pairs(questions(here)), 0.98)
    add("questions, only stated in training", _pairs(questions(here, withheld=True)))
    add("new names refused", _pairs(refusals(here)), 0.9)
    known = [(item.prompt, REFUSAL) for item in questions(here)]
    add("known people refused", known, 0.05, at_most=True)
    size = n or 300
    for kind in KINDS:
        wanted = None if kind.endswith("namesake") else next(v for k, v in WANTED.items() if kind.startswith(k))
        for sentences in (2, 3) if kind in NEEDS_TWO else (1, 2, 3):
            add(f"{kind}, {sentences}", _pairs(readings(here, kind, sentences=sentences, n=size)), wanted)
    return found


def statements(here: World) -> dict[str, list[tuple[str, str]]]:
    """(prompt, answer) of every fact in the wordings used for it in training, and in the one that was not."""
    rules = Rules(here)
    used: list[tuple[str, str]] = []
    held: list[tuple[str, str]] = []
    for name in rules.known:
        for relation in rules.relations:
            answer = str(here.value(relation.id, name))
            for template in relation.templates["en"]:
                target = used if template in rules.templates(relation.id, name) else held
                target.append((template.replace("{}", name), answer))
    return {"statements": used, "statements, withheld wording": held}


def _pairs(items: Sequence[Reading]) -> list[tuple[str, str]]:
    return [(item.prompt, item.answer) for item in items]


def _some(pairs: Sequence[tuple[str, str]], n: int | None) -> Sequence[tuple[str, str]]:
    """At most `n` pairs, spread evenly."""
    return pairs if n is None or len(pairs) <= n else [pairs[i * len(pairs) // n] for i in range(n)]
