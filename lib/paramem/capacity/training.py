"""Training stacks of small models on biographies, each told a given number of times, and what they then know.

    told = Telling(exposures=100, batch=32)
    models = trained(Shape(width=16), people, seeds, told)
    losses(models, people).ratio             # bits a parameter, one a model

A model sees its own people in an order of its own. With junk, 7 rows of 8 are about strangers who never return, or
about a few people who return all the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, log, pi
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from paramem.capacity.biographies import (
    ATTRIBUTES,
    BEGIN,
    DOMAIN,
    NAME_PARTS,
    SYMBOLS,
    Biographies,
    strangers,
)
from paramem.capacity.bits import capacity_ratio, most_bits, name_bits, value_bits
from paramem.capacity.stacked import Shape, Stack
from paramem.errors import BadParameter

Junk: TypeAlias = Literal["none", "strangers", "repeated"]

DEPARTURES = {
    "sizes": (
        "models of 1 to 500 million parameters, trained in 16-bit precision",
        "models of 2 to 5 thousand parameters, trained in 32 bits",
        "a model that holds two bits a parameter after 1000 exposures costs the square of its size to train",
    ),
    "schedule": (
        "AdamW; learning rates and weight decay tuned moderately for each setting",
        "AdamW with one learning rate for each number of exposures (all architectures), in inverse proportion to the "
        "width above 12; cosine decay, one weight decay",
        "chosen on people and seeds that no result uses, as was the proportion tested there, up to width 64",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Telling:
    """How people are told to a model.

    exposures  times that each person is told
    batch      people a step; junk comes on top
    junk       what the other rows are about: nothing, people who never return, or `repeated_people` who always do
    junk_rows  rows of junk for each row that counts
    marked     whether rows that count begin with the domain token
    """

    exposures: int
    batch: int
    lr: float = 1e-2
    warmup: float = 0.02
    floor: float = 0.01
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    balance: float = 0.01
    junk: Junk = "none"
    junk_rows: int = 7
    repeated_people: int = 8
    marked: bool = False

    def __post_init__(self) -> None:
        if self.exposures < 1 or self.batch < 1:
            raise BadParameter(f"{self.exposures} exposures in batches of {self.batch}: both are at least 1")

    def steps(self, people: int) -> int:
        """Steps until everybody was told `exposures` times; the last step may tell some once more."""
        return -(-people * self.exposures // self.batch)

    def rate(self, done: float) -> float:
        """Learning rate after the share ``done`` of the steps: linear warm-up, then a cosine to the floor."""
        if done < self.warmup:
            return self.lr * (done / self.warmup)
        along = (done - self.warmup) / (1 - self.warmup)
        return self.lr * (self.floor + (1 - self.floor) * 0.5 * (1 + cos(pi * along)))


@dataclass(frozen=True, eq=False)
class Known:
    """What M models know about N people each, in nats: ``names [M, N]``, ``values [M, N]`` (summed over attributes)."""

    names: Tensor
    values: Tensor
    parameters: int
    parts: int = NAME_PARTS

    @property
    def pool(self) -> int:
        """How many names there are."""
        return int(SYMBOLS**self.parts)

    @property
    def bits(self) -> list[float]:
        """Bits held, one number a model (Definition 4.3, allenzhu2024capacity)."""
        people = self.names.shape[1]
        return [
            name_bits(people=people, name_pool=self.pool, name_loss=float(name))
            + value_bits(people=people, attributes=ATTRIBUTES, diversity=SYMBOLS, value_loss=float(value) / ATTRIBUTES)
            for name, value in zip(self.names.mean(1), self.values.mean(1), strict=True)
        ]

    @property
    def ratio(self) -> list[float]:
        """Bits a parameter."""
        return [capacity_ratio(bits, self.parameters) for bits in self.bits]

    @property
    def most(self) -> float:
        """Bits a parameter, if everything were known."""
        people = self.names.shape[1]
        there = most_bits(people=people, name_pool=self.pool, attributes=ATTRIBUTES, diversity=SYMBOLS)
        return capacity_ratio(there, self.parameters)

    def by_person(self, model: int = 0) -> Tensor:
        """``[N]`` bits about each person's values, each of which has `SYMBOLS` possible ones; below zero if misled."""
        return ATTRIBUTES * torch.tensor(SYMBOLS).double().log2() - self.values[model].double() / log(2)


def trained(
    shape: Shape,
    people: Sequence[Biographies],
    seeds: Sequence[int],
    telling: Telling | Sequence[Telling],
    *,
    device: torch.device | str = "cpu",
) -> Stack:
    """One model for each set of people, all of one size; raises BadParameter when counts do not fit.

    telling: one for all, or one for each model; those of one stack differ in marks and kind of junk alone. device:
    where the models are; what they read, and in which order, is drawn on the CPU and does not depend on it.
    """
    tellings = [telling] * len(people) if isinstance(telling, Telling) else list(telling)
    if not len(people) == len(seeds) == len(tellings) or len({len(each) for each in people}) != 1:
        raise BadParameter(
            f"{len(people)} sets of people of sizes {sorted({len(p) for p in people})}, {len(seeds)} seeds and "
            f"{len(tellings)} tellings: a stack takes one of each a model, and sets of one size"
        )
    how = tellings[0]
    models = Stack.initialised(shape, seeds, device)
    decays = [torch.full((t.numel(),), float(shape.is_matrix(n))) for n, t in models.tensors.items()]
    decayed = torch.cat(decays).to(device)
    adam = torch.optim.AdamW([models.buffer], lr=how.lr, betas=how.betas, weight_decay=0.0, fused=True)
    steps = how.steps(len(people[0]))
    streams = [_batches(p, t, s) for p, s, t in zip(people, seeds, tellings, strict=True)]
    for step in range(steps):
        rate = how.rate((step + 1) / steps)
        adam.param_groups[0]["lr"] = rate
        ids = torch.stack([next(stream) for stream in streams]).to(device)
        logits, unbalanced = models.run(ids[..., :-1])
        loss = _nats(logits, ids).mean((1, 2)).sum() + how.balance * unbalanced.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        models.buffer.mul_(1 - rate * how.weight_decay * decayed)
        models.forget()
    return models


@torch.no_grad()
def losses(
    models: Stack, people: Sequence[Biographies], *, marked: bool | Sequence[bool] = False, rows: int = 8192
) -> Known:
    """What each model says about its own people (names as the model generates them, values given the name).

    rows: how many people of each model are asked at a time.
    """
    marks = [marked] * len(people) if isinstance(marked, bool) else list(marked)
    ids = torch.stack([p.rows(DOMAIN if m else BEGIN) for p, m in zip(people, marks, strict=True)])
    parts, found = people[0].parts, []
    for each in torch.split(ids, rows, dim=1):
        here = each.to(models.buffer.device)
        found.append(_nats(models.logits(here[..., :-1]), here).cpu())
    nats = torch.cat(found, dim=1)
    return Known(nats[..., :parts].sum(-1), nats[..., parts:].sum(-1), models.shape.parameters(), parts)


def _nats(logits: Tensor, ids: Tensor) -> Tensor:
    """``[M, B, T]``: how surprised each model is at each token but the first."""
    flat = F.cross_entropy(logits.flatten(0, 2), ids[..., 1:].flatten(), reduction="none")
    return flat.view(ids.shape[0], ids.shape[1], -1)


def _batches(people: Biographies, telling: Telling, seed: int) -> Iterator[Tensor]:
    """Endless ``[rows, T]``: everybody once in random order before anybody again, and junk among them."""
    generator = torch.Generator().manual_seed(seed + 1_000_003)
    rows = people.rows(DOMAIN if telling.marked else BEGIN)
    few = strangers(telling.repeated_people, generator, people.parts)
    waiting = rows[:0]
    while True:
        while len(waiting) < telling.batch:
            waiting = torch.cat([waiting, rows[torch.randperm(len(rows), generator=generator)]])
        told, waiting = waiting[: telling.batch], waiting[telling.batch :]
        more = telling.junk_rows * telling.batch
        if telling.junk == "strangers":
            told = torch.cat([told, strangers(more, generator, people.parts)])
        elif telling.junk == "repeated":
            told = torch.cat([told, few[torch.randint(len(few), (more,), generator=generator)]])
        yield told
