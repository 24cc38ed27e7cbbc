r"""What training on biographies stores, and what questions then extract (allenzhu2023extraction).

    study = Study.prepared(world("read"), "gpt2", seed=0)
    models = trained(study)                    # a stack: one model for each way of telling, see CORPORA
    stored(models, study)                      # shares of objects that a model says within its own training texts
    asked = tuned(models, study)               # fine-tuned on questions about the taught half
    extracted(asked, study, people.held_out)   # [M, questions]: right or not, about the other half

Steps: 1. `draw_people`, `biographies` (what everybody's texts are); 2. `trained` on the texts of all people;
3. `tuned` on questions about one half; 4. `extracted`: the questions about the other half. Stored is what a model says
in the middle of its text, extracted what it says to a question. One model for each corpus, all of them in one stack,
with the same people, initial weights and exposures.

| here | what |
|---|---|
| M | models of a stack, one for each corpus |
| taught, held_out | people in whose answers the model is fine-tuned, and people who are asked about |
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from paramem.capacity.stacked import Architecture, Shape, Stack
from paramem.errors import BadParameter
from paramem.injection.biographies import END, TELLINGS, TEXTS, People, Words, biographies, draw_people
from paramem.world.recipe import Row, Stage, collate

if TYPE_CHECKING:
    from paramem.world.core import World

Batch: TypeAlias = tuple[Tensor, Tensor]  # ids [M, B, T], weights of the loss [M, B, T]

CORPORA: Mapping[str, tuple[str, str]] = {
    # corpus: how the taught half is told, how the other half is
    **{telling: (telling, telling) for telling in TELLINGS},
    "celebrities": ("all three", "one text"),
    "mixed": ("one text", "one text"),
}
QUESTIONS_A_ROW = 5
MIXED = "mixed"  # the corpus into which questions about the taught half are mixed from the start

# Where we do something else than the paper says: topic -> (what it says, what we do, why).
DEPARTURES: dict[str, tuple[str, str, str]] = {
    "sizes": (
        "100,000 people with six attributes, about 50 wordings each; GPT-2 and Llama",
        f"80 people, five attributes in six wordings; two layers of width 32, {TEXTS} texts where there are several",
        "seven models have to be trained on a CPU; so few people need more texts than the paper's five",
    ),
    "tokens": (
        "the tokenizers of GPT-2 and Llama; biographies strung together to fill the context",
        "a token for a word, one biography a row",
        "every object is then one token, and is said or not",
    ),
    "pronouns": ("she, he or they", '"she" for everybody', "a pronoun then says nothing about who is meant"),
    "fine-tuning": (
        "instruction fine-tuning on one half",
        "all weights, answers alone count, a fixed number of steps",
        "the same steps for every corpus",
    ),
    "celebrities": (
        "more people beside the others, told in several ways",
        "the taught half",
        "all corpora then have the same people and the same questions",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """People, model and training. All were chosen on draw 10000, which is never reported.

    objects         choices of each relation
    exposures       how often each person is told
    people_step     people told in a step
    questions_step  rows of QUESTIONS_A_ROW questions that come on top where they are mixed in
    """

    people: int = 80
    objects: int = 16
    width: int = 32
    layers: int = 2
    heads: int = 4
    exposures: int = 150
    people_step: int = 8
    lr: float = 6e-3
    questions_step: int = 2
    tuning_steps: int = 150
    tuning_rows: int = 64
    tuning_lr: float = 2e-3

    def __post_init__(self) -> None:
        if min(self.exposures, self.people_step, self.questions_step, self.tuning_steps, self.tuning_rows) < 1:
            raise BadParameter(f"{self}: exposures, steps and rows of a step are at least 1")
        if self.people < 2 or min(self.objects, self.width, self.layers, self.heads) < 1:
            raise BadParameter(f"{self}: two people at least, and objects, width, layers and heads are at least 1")
        if not (0 < self.lr < math.inf and 0 < self.tuning_lr < math.inf):
            raise BadParameter(f"{self}: both learning rates are positive numbers")
        if self.steps < 1:
            raise BadParameter(
                f"people_step={self.people_step}: {self.people} people told {self.exposures} times fill no step; "
                "tell them more often, or fewer in a step"
            )

    @property
    def steps(self) -> int:
        return self.people * self.exposures // self.people_step


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """People, their texts in every corpus, and the shape of the models."""

    people: People
    architecture: Architecture
    seed: int
    sizes: Sizes = field(default_factory=Sizes)

    @classmethod
    def prepared(cls, here: World, architecture: Architecture, seed: int, sizes: Sizes | None = None) -> Study:
        """Everything that a seed decides."""
        sizes = sizes or Sizes()
        return cls(
            people=draw_people(here, sizes.people, seed, objects=sizes.objects),
            architecture=architecture,
            seed=seed,
            sizes=sizes,
        )

    def with_sizes(self, **changed: int | float) -> Study:
        """The same people with some of the sizes changed."""
        return replace(self, sizes=replace(self.sizes, **changed))  # type: ignore[arg-type]

    @cached_property
    def words(self) -> Words:
        return Words.of(self.people)

    @cached_property
    def shape(self) -> Shape:
        sizes = self.sizes
        return Shape(
            architecture=self.architecture,
            width=sizes.width,
            layers=sizes.layers,
            heads=sizes.heads,
            vocabulary=len(self.words),
        )

    @cached_property
    def rows(self) -> Mapping[str, list[list[Row]]]:
        """Corpus -> person -> the texts about the person, as rows whose tokens count alike."""
        people, found = self.people, {}
        for corpus, tellings in CORPORA.items():
            halves = zip(tellings, (people.taught, people.held_out), strict=True)
            texts = [t for telling, half in halves for t in biographies(people, TELLINGS[telling], self.seed, of=half)]
            found[corpus] = [[whole(self.words.row(text)) for text in each] for each in texts]
        return found

    def places(self, ids: Sequence[int]) -> list[int]:
        """Where the objects stand in a text: each before a full stop."""
        return [place for place, word in enumerate(ids[1:]) if word == self.words.index["."]]

    def answers(self, persons: Sequence[str]) -> list[Row]:
        """Questions with their answers, of which the answer counts; all about a person stand together."""
        return [answer_row(self.words, *pair) for pair in self.people.questions(persons)]


def whole(ids: list[int]) -> Row:
    """A row whose tokens count alike."""
    return ids, [1.0] * len(ids)


def answer_row(words: Words, question: str, answer: str) -> Row:
    """A question with its answer, of which the answer counts."""
    asked, ids = len(words.row(question)) - 1, words.row(question, answer)
    return ids, [0.0] * asked + [1.0] * (len(ids) - 1 - asked) + [0.0]


def strung(rows: Sequence[Row]) -> Row:
    """Rows one after the other in one row, which is as long as a biography."""
    ids = [token for row in rows for token in row[0][:-1]]
    return [*ids, END], [weight for row in rows for weight in row[1][:-1]] + [0.0]


def initial(study: Study, models: int) -> Stack:
    """Models that all begin with the same weights."""
    return Stack.initialised(study.shape, [study.seed] * models)


def trained(study: Study, corpora: Sequence[str] = tuple(CORPORA)) -> Stack:
    """One model for each corpus, told everybody as often as any other."""
    unknown = sorted(set(corpora) - set(CORPORA))
    if unknown or not corpora:
        raise BadParameter(f"no corpus {unknown}; there are {', '.join(CORPORA)}")
    sizes = study.sizes
    models = initial(study, len(corpora))
    stage = Stage(steps=sizes.steps, lr=sizes.lr, warmup=sizes.steps // 20, decay_from=0.3)
    learn(models, stage, [_told(study, corpus) for corpus in corpora])
    return models


def _told(study: Study, corpus: str) -> Iterator[list[Row]]:
    """Endless batches: everybody once in random order before anybody again, one text at a time."""
    rng, sizes = random.Random(f"injection/order/{study.seed}"), study.sizes
    questions = study.answers(study.people.taught)
    waiting: list[list[Row]] = []
    while True:
        while len(waiting) < sizes.people_step:
            waiting += rng.sample(study.rows[corpus], sizes.people)
        told, waiting = waiting[: sizes.people_step], waiting[sizes.people_step :]
        batch = [texts[rng.randrange(len(texts))] for texts in told]
        yield batch + (
            [strung(rng.sample(questions, QUESTIONS_A_ROW)) for _ in range(sizes.questions_step)]
            if corpus == MIXED
            else []
        )


def tuned(models: Stack, study: Study) -> Stack:
    """The models after fine-tuning on the questions about the taught half: the same rows in the same order for each."""
    sizes = study.sizes
    after = Stack(models.shape, models.flat)
    stage = Stage(steps=sizes.tuning_steps, lr=sizes.tuning_lr, warmup=sizes.tuning_steps // 10, decay_from=0.1)
    learn(after, stage, [_asked(study) for _ in range(len(models))])
    return after


def _asked(study: Study) -> Iterator[list[Row]]:
    """Endless batches of questions about the taught half, all of them once before any again."""
    rng, rows = random.Random(f"injection/questions/{study.seed}"), study.answers(study.people.taught)
    waiting: list[Row] = []
    while True:
        while len(waiting) < study.sizes.tuning_rows:
            waiting += rng.sample(rows, len(rows))
        yield waiting[: study.sizes.tuning_rows]
        waiting = waiting[study.sizes.tuning_rows :]


def learn(models: Stack, stage: Stage, streams: Sequence[Iterator[list[Row]]]) -> None:
    """Train every model on a stream of its own, in place: AdamW by the schedule, no weight decay."""
    adam = torch.optim.AdamW([models.buffer], lr=stage.lr, betas=stage.betas, weight_decay=0.0, fused=True)
    gradient = models.buffer.grad
    assert gradient is not None  # a stack makes it
    for step in range(stage.steps):
        adam.param_groups[0]["lr"] = stage.learning_rate(step)
        mean_losses(models, *stacked([next(stream) for stream in streams])).sum().backward()  # type: ignore[no-untyped-call]
        adam.step()
        gradient.zero_()


def stacked(batches: Sequence[Sequence[Row]]) -> Batch:
    """One batch a model, padded to the longest row of all; batches with fewer rows than others end in empty ones."""
    most = max(len(batch) for batch in batches)
    flat = [row for batch in batches for row in [*batch, *[([END], [0.0])] * (most - len(batch))]]
    ids, weights = collate(flat)
    return ids.view(len(batches), most, -1), weights.view(len(batches), most, -1)


def mean_losses(models: Stack, ids: Tensor, weights: Tensor) -> Tensor:
    """``[M]``: each model's weighted mean loss over its own rows."""
    logits = models.logits(ids[..., :-1])
    losses = F.cross_entropy(logits.flatten(0, 2), ids[..., 1:].flatten(), reduction="none").view(ids[..., 1:].shape)
    weights = weights[..., 1:]
    return (losses * weights).sum((1, 2)) / weights.sum((1, 2))


@torch.no_grad()
def right(models: Stack, rows: Sequence[Sequence[Row]], at: Sequence[Sequence[Sequence[int]]]) -> list[Tensor]:
    """Whether each model's most probable word is the one at each of the places, given all words before it."""
    ids, _ = stacked(rows)
    best = models.logits(ids[..., :-1]).argmax(-1) == ids[..., 1:]  # [M, B, T - 1]
    return [
        torch.stack([best[m, b, place - 1] for b, places in enumerate(found) for place in places])
        for m, found in enumerate(at)
    ]


def stored(models: Stack, study: Study, corpora: Sequence[str] = tuple(CORPORA)) -> list[Tensor]:
    """For each model ``[objects]``: whether it says the object at its place in the text that it was told, person by
    person and relation by relation; of several texts the first is asked."""
    rows = [[texts[0] for texts in study.rows[corpus]] for corpus in corpora]
    return right(models, rows, [[study.places(ids) for ids, _ in batch] for batch in rows])


def extracted(models: Stack, study: Study, persons: Sequence[str]) -> Tensor:
    """``[M, questions]``: whether each model answers each question about them, in the order of `People.questions`."""
    rows = study.answers(persons)
    places = [[place for place, weight in enumerate(weights) if weight] for _, weights in rows]
    return torch.stack(right(models, [rows] * len(models), [places] * len(models)))


def guessed(study: Study, persons: Sequence[str]) -> Tensor:
    """``[questions]``: whether the relation's commonest object among the taught is the answer: a guess."""
    people = study.people
    most = {
        r.id: Counter(people.values[name][r.id] for name in people.taught).most_common(1)[0][0]
        for r in people.relations
    }
    return torch.tensor(
        [people.values[p][r.id] == most[r.id] for p in persons for r in people.relations for _ in r.questions["en"]]
    )
