"""Questions of the four scenarios, with what is shown beside them.

    sets = build_questions(here, documents, Sizes(), seed=0)          # {"train": ..., "dev": ..., "test": ...}
    question = sets["test"][0]
    question.scenario, question.prompt(), question.answers

Step 2 of zhang2024fusion's pipeline (section 4). S1: K_e suffices; S2: one half of the answer in K_e, one in K_p; S3:
only K_p has it; S4: nobody has it, and the right answer is a refusal. Beside what answers a question stands noise of
two kinds: the same attribute of other entities, or other attributes of one entity. Each fact is asked in one wording
(`wordings`), and the others are left to continued training.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from paramem.errors import BadInput, BadParameter
from paramem.fusion.documents import (
    PARTS,
    Cell,
    Document,
    LeakingSplit,
    Sizes,
    Snippet,
    Split,
    parts_of,
    split_by_date,
)
from paramem.world.read_rules import REFUSAL

if TYPE_CHECKING:
    from paramem.world.core import World

Scenario: TypeAlias = Literal["S1", "S2", "S3", "S4"]
Noise: TypeAlias = Literal["same attribute", "same entity"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
NOISES: tuple[Noise, ...] = get_args(Noise)

# Samples of each scenario by part (Table 1 of the paper).
COUNTS: Mapping[str, Mapping[Scenario, int]] = {
    "train": {"S1": 100, "S2": 390, "S3": 90, "S4": 50},
    "dev": {"S1": 50, "S2": 150, "S3": 50, "S4": 50},
    "test": {"S1": 60, "S2": 140, "S3": 60, "S4": 40},
}
# Share of questions by the number of snippets beside them: five and three as stated in section 4; the paper gives the
# others only in a figure (Figure 3), and they share the rest equally.
PIECES: Mapping[int, float] = {1: 0.114, 2: 0.114, 3: 0.18, 4: 0.114, 5: 0.478}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about one snippet, or one in two parts about two.

    texts      its parts; a model is asked one after the other, with what it said before standing between them
    asked      the snippets they were made of; their objects are the answers (S4: refusals are)
    known      those of them that are parametric knowledge
    evidence   the snippets beside it, in order; empty when it is asked without context
    noise      the kind of those that do not answer it; None where there are none
    """

    scenario: Scenario
    texts: tuple[str, ...]
    asked: tuple[Snippet, ...]
    known: tuple[Snippet, ...] = ()
    evidence: tuple[Snippet, ...] = ()
    noise: Noise | None = None

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(REFUSAL if self.scenario == "S4" else snippet.object for snippet in self.asked)

    def prompt(self, said: Sequence[str] = ()) -> str:
        """What the model reads before its next answer: the evidence, and the parts answered so far and the next one."""
        turns = [f"{text} {answer}." for text, answer in zip(self.texts, said, strict=False)]
        return " ".join([*(snippet.text for snippet in self.evidence), *turns, self.texts[len(said)]])

    @property
    def people(self) -> tuple[str, ...]:
        """Whom it asks about, each once."""
        return tuple(dict.fromkeys(snippet.entity for snippet in self.asked))

    def without_context(self) -> Question:
        """The same question with nothing beside it, as in the paper's test of infusion."""
        return replace(self, evidence=(), noise=None)

    def supported(self) -> Question:
        """With all that answers it and nothing else: the "Easy" setting. Raises BadInput in S4, where nothing does."""
        if self.scenario == "S4":
            raise BadInput(f"{self.texts[0]!r} is a question of S4: no snippet answers it, so none can be given")
        return replace(self, evidence=self.asked, noise=None)


def question_texts(here: World, cell: Cell) -> list[str]:
    """The question about a fact in all wordings."""
    entity, attribute = cell
    return [text.replace("{}", entity) for text in here.relation(attribute).questions["en"]]


def wordings(here: World, cell: Cell, seed: int) -> tuple[str, tuple[str, ...]]:
    """The wording in which a fact is asked, and the others, in which it may be trained; drawn for every fact."""
    entity, attribute = cell
    texts = question_texts(here, cell)
    asked = texts.pop(random.Random(f"fusion/wording/{seed}/{entity}/{attribute}").randrange(len(texts)))
    return asked, tuple(texts)


def build_questions(
    here: World,
    documents: Sequence[Document],
    sizes: Sizes,
    seed: int,
    *,
    counts: Mapping[str, Mapping[Scenario, int]] = COUNTS,
) -> dict[str, tuple[Question, ...]]:
    """Questions of all parts, in the order of the scenarios; parts share no person, so nothing tested was ever asked.

    Raises LeakingSplit where K_e and K_p overlap or a part asks what another part asks, BadParameter for counts of
    parts or scenarios that there are not.
    """
    check_counts(counts)
    split = split_by_date(documents, sizes.cutoff)
    external, parametric = parts_of(split.external, sizes.external), parts_of(split.parametric, sizes.parametric)
    found: dict[str, tuple[Question, ...]] = {}
    for part, wanted in counts.items():
        made: list[Question] = []
        for scenario, n in wanted.items():
            made += _Maker.of(here, external[part], parametric[part], seed, f"{part}/{scenario}").make(scenario, n)
        found[part] = tuple(made)
    check_parts(found)
    return found


def check_counts(counts: Mapping[str, Mapping[Scenario, int]]) -> None:
    """Refuse unknown parts and scenarios, and numbers of questions below zero. Raises BadParameter."""
    for part, wanted in counts.items():
        if part not in PARTS:
            raise BadParameter(f"counts of part {part!r}: there are {', '.join(PARTS)}")
        for scenario, n in wanted.items():
            if scenario not in SCENARIOS or n < 0:
                raise BadParameter(
                    f"{n} questions of {scenario!r} in part {part!r}: none or more of {', '.join(SCENARIOS)}"
                )


def check_parts(parts: Mapping[str, Sequence[Question]]) -> None:
    """Refuse questions of one part that ask for a statement that another part asks for: the answer would be taught."""
    owner: dict[Cell, str] = {}
    for part, questions in parts.items():
        for question in questions:
            for snippet in question.asked:
                if owner.setdefault(snippet.cell, part) != part:
                    raise LeakingSplit(
                        f"the question {question.texts[0]!r} of part {part!r} asks {snippet.attribute} of "
                        f"{snippet.entity!r}, which part {owner[snippet.cell]!r} asks too: keep people apart"
                    )


@dataclass(frozen=True, eq=False)
class _Maker:
    here: World
    external: tuple[Snippet, ...]
    parametric: tuple[Snippet, ...]
    seed: int
    rng: random.Random

    @classmethod
    def of(
        cls, here: World, external: Sequence[Document], parametric: Sequence[Document], seed: int, place: str
    ) -> _Maker:
        outer, inner = (tuple(s for document in side for s in document.snippets) for side in (external, parametric))
        rng = random.Random(f"fusion/questions/{here.kind}/{here.seed}/{seed}/{place}")
        return cls(here, outer, inner, seed, rng)

    def make(self, scenario: Scenario, n: int) -> list[Question]:
        outer, inner = self._endless(self.external), self._endless(self.parametric)
        return [self._one(scenario, outer, inner) for _ in range(n)]

    def _one(self, scenario: Scenario, outer: Iterator[Snippet], inner: Iterator[Snippet]) -> Question:
        pieces = self.rng.choices(list(PIECES), list(PIECES.values()))[0]
        if scenario == "S2":
            known: tuple[Snippet, ...] = (next(inner),)
            asked = tuple(self.rng.sample([next(outer), *known], 2))
        else:
            source = inner if scenario == "S3" else outer
            # One snippet cannot answer a question on two: where all are given, it is asked about alone.
            asked = self._one_or_two(source, only_one=scenario == "S1" and pieces == 1)
            known = asked if scenario == "S3" else ()
        given = () if scenario in ("S3", "S4") else tuple(s for s in asked if s not in known)
        noise = self.rng.choice(NOISES)
        beside = self._noise(noise, asked, pieces - len(given))
        evidence = self.rng.sample([*given, *beside], len(given) + len(beside))
        return Question(
            scenario=scenario,
            texts=tuple(wordings(self.here, snippet.cell, self.seed)[0] for snippet in asked),
            asked=asked,
            known=known,
            evidence=tuple(evidence),
            noise=noise if beside else None,
        )

    def _endless(self, snippets: Sequence[Snippet]) -> Iterator[Snippet]:
        """All snippets in random order before one comes again."""
        while True:
            yield from self.rng.sample(snippets, len(snippets))

    def _one_or_two(self, source: Iterator[Snippet], *, only_one: bool) -> tuple[Snippet, ...]:
        first = next(source)
        if only_one or self.rng.random() < 0.5:
            return (first,)
        return first, next(other for other in source if other.cell != first.cell)

    def _noise(self, kind: Noise, asked: Sequence[Snippet], n: int) -> list[Snippet]:
        """``n`` snippets of K_e that do not answer the question."""
        cells = {snippet.cell for snippet in asked}
        free = [s for s in self.rng.sample(self.external, len(self.external)) if s.cell not in cells]
        if kind == "same attribute":
            attributes = {snippet.attribute for snippet in asked}
            pool = [s for s in free if s.attribute in attributes]
        else:
            entities = list(dict.fromkeys([*(s.entity for s in asked), *(s.entity for s in free)]))
            pool = sorted(free, key=lambda s: entities.index(s.entity))
        if n > len(pool):
            raise BadParameter(f"{n} noise snippets are asked for, and K_e has {len(pool)} of them: draw more people")
        return pool[:n]


def statements_of(split: Split) -> frozenset[tuple[str, str, str]]:
    """All that K_p says, as (entity, attribute, object)."""
    return frozenset(
        (s.entity, s.attribute, s.object) for s in itertools.chain.from_iterable(d.snippets for d in split.parametric)
    )
