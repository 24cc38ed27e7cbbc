"""People that a testbed never met, trained in at a controlled number of exposures, in one training.

    people = draw_people(here, Exposures(), seed=0)
    after = expose(lm, here, people, ExposeSettings(), seed=0)
    people[0].exposures, people[0].belief.question

An exposure is one statement of one fact, in one of its wordings, read once. Everything else is the same for all: the
wordings come in turn, every object is drawn from all of its kind, the relation that is never told goes round, and
statements of everybody are shuffled into one stream, together with rows of what the testbed was trained on (replay).
So what differs between two groups of facts is how often they were stated, and frequency is a cause here, where
kandpal2022tail has to count documents first.

One relation of every person is never told. What a model says to it tells whether it knows the fact or the name.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import pandas as pd

from paramem.errors import BadInput, BadParameter
from paramem.fusion.conflicts import Belief
from paramem.fusion.kept import kept_fine_tune
from paramem.fusion.training import TrainSettings, n_tokens
from paramem.lm import LM
from paramem.material import world_behind
from paramem.world.corpus import Document, Part, joined
from paramem.world.read import ANSWER, MAIN, PROMPT, STOP, Mix, Writer
from paramem.world.read_rules import Rules
from paramem.world.recipe import Row
from paramem.world.vocabulary import WordIds, as_row

if TYPE_CHECKING:
    from paramem.world.core import World

Replay: TypeAlias = Literal["all kinds", "no passages", "none"]


@dataclass(frozen=True, kw_only=True)
class Exposures:
    """How many people there are, and how often each of their facts is stated; the levels go round the people."""

    levels: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    people: int = 140

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 0:
            raise BadParameter(f"levels={self.levels}: a fact is stated no times, or once, or more often")
        if len(set(self.levels)) < len(self.levels):
            raise BadParameter(f"levels={self.levels}: a level stands there twice, so that its group would be larger")
        if self.people < len(self.levels):
            raise BadParameter(f"{self.people} people for {len(self.levels)} levels: there is one for each at least")


@dataclass(frozen=True, kw_only=True)
class Exposed:
    """A fact as a belief to be asked and contradicted, and how often it was stated.

    exposures  statements of this fact
    level      statements of each of the person's told facts
    told       whether it is one of these (stated no times at level 0); if not, exposures is 0 at every level
    """

    belief: Belief
    exposures: int
    level: int
    told: bool


@dataclass(frozen=True, kw_only=True)
class ExposeSettings:
    """Continued training on the exposures, one pass. Chosen on a draw that is never reported.

    asked   whether a fact's wordings are its sentences and its questions with their answer, or its sentences alone
    replay  rows of the testbed's own training beside them: all kinds, none with a passage, or none
    share   tokens of replay for each token of exposures
    """

    asked: bool = True
    replay: Replay = "all kinds"
    share: float = 1.0
    training: TrainSettings = field(default_factory=lambda: TrainSettings(passes=1, lr=1e-3))

    def __post_init__(self) -> None:
        if not 0 <= self.share < math.inf:
            raise BadParameter(f"share={self.share}: tokens of replay for each token of exposures, zero or more")
        if self.replay not in get_args(Replay):
            raise BadParameter(f"replay={self.replay!r} is none of {', '.join(map(repr, get_args(Replay)))}")


def draw_people(here: World, exposures: Exposures, seed: int) -> tuple[Exposed, ...]:
    """Every fact of every person; names from those that no row of the testbed uses. Raises BadParameter."""
    rules, rng = Rules(here), random.Random(f"fusion/exposure/{here.kind}/{here.seed}/{seed}")
    names = rules.new_strangers
    if exposures.people > len(names):
        raise BadParameter(f"{exposures.people} people are asked for, and the world has {len(names)} unused names")
    found = []
    for i, name in enumerate(rng.sample(names, exposures.people)):
        level = exposures.levels[i % len(exposures.levels)]
        untold = here.relations[i // len(exposures.levels) % len(here.relations)].id
        for relation in here.relations:
            told = relation.id != untold
            belief = _drawn(rules, name, relation.id, rng)
            found.append(Exposed(belief=belief, exposures=level if told else 0, level=level, told=told))
    return tuple(found)


def ledger(people: Sequence[Exposed]) -> pd.DataFrame:
    """How often each fact was stated, in the order given: exposures, level, told."""
    return pd.DataFrame([{"exposures": fact.exposures, "level": fact.level, "told": fact.told} for fact in people])


def _drawn(rules: Rules, name: str, attribute: str, rng: random.Random) -> Belief:
    memory, against = rng.sample(rules.objects[attribute], 2)
    question = rng.choice(rules.questions[attribute]).replace("{}", name)
    return Belief(entity=name, attribute=attribute, question=question, memory=memory, against=against)


def exposure_rows(
    lm: LM, here: World, people: Sequence[Exposed], settings: ExposeSettings, seed: int, *, longest: int = 6
) -> list[Row]:
    """Every fact stated as often as it says, in rows of one to ``longest`` statements about different people."""
    rng = random.Random(f"fusion/exposure/rows/{seed}")
    stated = [each for fact in people for each in _statements(here, fact, settings, rng)]
    encode = WordIds(lm.tokenizer)  # type: ignore[arg-type]
    return [as_row([*joined([text for _, text in row])], encode, end=STOP) for row in _packed(stated, longest, rng)]


Statement: TypeAlias = tuple[str, Document]  # whom it is about, and its text


def _statements(here: World, fact: Exposed, settings: ExposeSettings, rng: random.Random) -> Iterator[Statement]:
    """All wordings before one comes again."""
    wordings = wordings_of(here, fact.belief.attribute, settings)
    order = [each for _ in range(-(-fact.exposures // len(wordings))) for each in rng.sample(wordings, len(wordings))]
    for wording in order[: fact.exposures]:
        text = wording.replace("{}", fact.belief.entity)
        yield fact.belief.entity, (Part(text, PROMPT), Part(f" {fact.belief.memory}", ANSWER), Part(".", STOP))


def _packed(stated: Sequence[Statement], longest: int, rng: random.Random) -> Iterator[list[Statement]]:
    """Random rows; nobody twice in one, where the second statement could be read off the first."""
    waiting = rng.sample(stated, len(stated))
    while waiting:
        n = rng.randint(1, longest)
        row: list[Statement] = []
        later: list[Statement] = []
        while waiting and len(row) < n:
            each = waiting.pop()
            (later if each[0] in {name for name, _ in row} else row).append(each)
        waiting += later
        yield row


def wordings_of(here: World, attribute: str, settings: ExposeSettings) -> tuple[str, ...]:
    """The ways in which a fact of that kind may be put."""
    relation = here.relation(attribute)
    return (*relation.templates["en"], *(relation.questions["en"] if settings.asked else ()))


def replay_rows(lm: LM, here: World, settings: ExposeSettings, tokens: float, seed: int) -> list[Row]:
    """Rows as the testbed's training ended with, of so many tokens together; none of them uses a new name."""
    if settings.replay == "none":
        return []
    mix = MAIN if settings.replay == "all kinds" else Mix(fact=MAIN.fact, question=MAIN.question, passage=0.0)
    writer = Writer(Rules(here), random.Random(f"fusion/exposure/replay/{seed}"))
    encode = WordIds(lm.tokenizer)  # type: ignore[arg-type]
    rows: list[Row] = []
    left = tokens
    while left > 0:
        rows.append(as_row(writer.row(mix), encode, end=STOP))
        left -= len(rows[-1][0])
    return rows


def expose(
    lm: LM, here: World, people: Sequence[Exposed], settings: ExposeSettings, *, seed: int = 0, name: str = ""
) -> LM:
    """The model after it read all statements once. Raises BadInput where there is none."""
    told = exposure_rows(lm, here, people, settings, seed)
    if not told:
        raise BadInput("nobody's facts are stated: give a level above 0")
    rows = [*told, *replay_rows(lm, here, settings, settings.share * n_tokens(told), seed)]
    return kept_fine_tune(lm, rows, settings.training, seed=seed, name=name)


def rehearse(
    lm: LM, here: World, people: Sequence[Exposed], settings: ExposeSettings, *, seed: int = 0, name: str = ""
) -> LM:
    """The control of `expose`: as many tokens of the testbed's own training, and nobody new. Raises BadInput."""
    tokens = (1 + settings.share) * n_tokens(exposure_rows(lm, here, people, settings, seed))
    rows = replay_rows(lm, here, settings, tokens, seed)
    if not rows:
        raise BadInput(
            f"replay={settings.replay!r} leaves nothing to rehearse: choose what is replayed, and tell somebody"
        )
    return kept_fine_tune(lm, rows, settings.training, seed=seed, name=name)


def train_shipped(lm: LM) -> None:
    """Train what the default run of the notebook asks: draw 0 of the people, default settings."""
    here = world_behind(lm)
    people = draw_people(here, Exposures(), 0)
    for train in (expose, rehearse):
        train(lm, here, people, ExposeSettings(), seed=0)
