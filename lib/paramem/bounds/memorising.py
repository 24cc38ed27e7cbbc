r"""Few documents, met again and again: empirical and true risk come apart, and a bound could be caught.

A document says where somebody lives and what they drink, `Lyon Ada Bellini tea`. The town decides the drink, but a
share ``noise`` of the documents says the other one, each for itself: that can be memorised and cannot be foreseen.
The risk is the share of wrong drinks. People are so few that the true risk of a model is a sum over all, exact.

    source, regime = Drinks(), Regime()
    told = [source.draw(100, seed=0, sample=i) for i in range(20)]         # 20 draws of m = 100 documents
    start = theta_0(regime.shape(source), seed=0)
    course(told, source, regime, start, marks=(0, 120, 480))               # a table: draws, marks, bits, risks

Every draw has a model of its own, all trained in one stack. A model is theta_0 + P w with w on the whole multiples
-levels..levels of a spacing, at every step (the gradient of the rounded number is taken for that of the number), so
that each can be certified along its training, by the bytes of its `Code`. theta_0 and P are fixed beforehand.

===============  ===========================  ========================================================
paper            code                         meaning
===============  ===========================  ========================================================
w                ``numbers``, (M, d)          multiples of the spacing, one row a draw
P                ``Regime.projector``         (D, d), the same for all draws
theta_0          ``start``, (D,) or (M, D)    fixed beforehand; if it has met the documents, no bound holds
R^(h), R(h)      ``empirical``, ``true``      share of wrong drinks: of the m documents, of all there can be
===============  ===========================  ========================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from paramem.bounds.coding import Code, encode
from paramem.bounds.projector import KroneckerProjector
from paramem.bounds.risk import bits_of_choice, finite_hypothesis_bound, prefix_free_bits
from paramem.bounds.smoothing import ALPHAS, smoothed_bits, smoothed_interval
from paramem.capacity.stacked import Architecture, Shape, Stack
from paramem.errors import BadParameter
from paramem.world.people import name_pools

DEPARTURES = {
    "parameterisation": (
        "LoRA factors in a random subspace, quantised in the last part of the training",
        "all weights in a random subspace, rounded to a fixed grid at every step",
        "dozens of models in one stack, each with a code at every step; the bounds ask only for a code",
    ),
    "document": (
        "a text, whose loss is a mean over tokens",
        "a text of which one token is asked, wrong or right",
        "a mean over many tokens hardly varies, so that what a model memorises of it is far below what a bound adds",
    ),
}
Floats: TypeAlias = NDArray[np.float64]
BOS, DRINKS, TOWNS = 0, ("tea", "coffee"), ("Lyon", "Turin")
FIRST_NAME = 1 + len(DRINKS) + len(TOWNS)  # tokens: <s>, drinks, towns, first names, last names


@dataclass(frozen=True, eq=False)
class Told:
    """m documents: ids (m, 4), without the drink; drinks (m,), 0 or 1."""

    ids: Tensor
    drinks: Tensor


@dataclass(frozen=True, kw_only=True)
class Drinks:
    """A town, a first and a last name, evenly; then the town's drink, or the other with probability ``noise``."""

    names: int = 30
    noise: float = 0.2

    def __post_init__(self) -> None:
        if not 1 <= self.names <= len(name_pools()["last"]) or not 0 <= self.noise <= 0.5:
            raise BadParameter(f"{self}: there are {len(name_pools()['last'])} names, and noise is from 0 to one half.")

    @property
    def vocabulary(self) -> int:
        return FIRST_NAME + 2 * self.names

    def draw(self, m: int, seed: int, *, sample: int = 0) -> Told:
        """m documents, independent of each other and of those of every other (seed, sample)."""
        if m < 1:
            raise BadParameter(f"m={m}: at least one document.")
        generator = np.random.default_rng([seed, sample, 13])
        town, first, last = (torch.from_numpy(generator.integers(k, size=m)) for k in (2, self.names, self.names))
        other = torch.from_numpy(generator.random(m) < self.noise)
        return Told(self._ids(town, first, last), town ^ other.long())

    def everybody(self) -> Told:
        """Each town and name once, with the town's drink."""
        town, first, last = torch.cartesian_prod(*(torch.arange(k) for k in (2, self.names, self.names))).T
        return Told(self._ids(town, first, last), town)

    def _ids(self, town: Tensor, first: Tensor, last: Tensor) -> Tensor:
        parts = (torch.full_like(town, BOS), 1 + len(DRINKS) + town, FIRST_NAME + first, FIRST_NAME + self.names + last)
        return torch.stack(parts, dim=-1)

    def text(self, told: Told) -> list[str]:
        """The documents as they read."""
        names = [*name_pools()["first"][: self.names], *name_pools()["last"][: self.names]]
        words = ["<s>", *DRINKS, *TOWNS, *names]
        rows = zip(told.ids.tolist(), told.drinks.tolist(), strict=True)
        return [" ".join([*(words[i] for i in ids[1:]), DRINKS[drink]]) for ids, drink in rows]


@dataclass(frozen=True, kw_only=True)
class Regime:
    """How the models are trained: the same steps whatever m is, so that few documents are met more often.

    dimension        d
    levels, spacing  w lies on -levels..levels, times the spacing
    batch, lr        documents a step, and Adam's rate, which falls to 0 by a cosine
    seed             of theta_0 and P: fixed beforehand, the same for all draws
    """

    architecture: Architecture = "gpt2"
    width: int = 8
    dimension: int = 100
    levels: int = 1
    spacing: float = 1.0
    steps: int = 480
    batch: int = 50
    lr: float = 0.1
    seed: int = 0

    def shape(self, source: Drinks) -> Shape:
        """One layer, two heads."""
        return Shape(architecture=self.architecture, width=self.width, layers=1, heads=2, vocabulary=source.vocabulary)

    def projector(self, shape: Shape) -> KroneckerProjector:
        return KroneckerProjector.random(shape.parameters(), self.dimension, self.seed + 1)

    def code(self, numbers: Tensor) -> Code:
        """The message that one row of numbers is paid by, (d,)."""
        grid = self.spacing * np.arange(-self.levels, self.levels + 1)
        return encode((numbers.long() + self.levels).numpy(), grid)

    def bits(self, numbers: Tensor) -> NDArray[np.float64]:
        """Prefix-free lengths of the messages of all rows, (M,)."""
        return np.array([prefix_free_bits(self.code(row).bits) for row in numbers])


def theta_0(shape: Shape, seed: int) -> Tensor:
    """Untrained weights, (D,)."""
    return Stack.initialised(shape, [seed]).flat[0]


def memorised(
    told: Sequence[Told], shape: Shape, regime: Regime, start: Tensor, marks: Sequence[int]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Train a model on each draw and stop at the marks: (step, numbers (M, d), weights (M, D)).

    Batches are the documents in random order, all of them before any again.
    """
    projector, start = regime.projector(shape), start.expand(len(told), -1)
    w = torch.zeros(len(told), regime.dimension, requires_grad=True)
    adam, models = torch.optim.Adam([w], lr=regime.lr), Stack(shape, start.contiguous())
    streams = [_batches(each, regime.batch, place) for place, each in enumerate(told)]
    for step in range(max(marks) + 1):
        numbers = (w.detach() / regime.spacing).round().clamp(-regime.levels, regime.levels)
        theta = start + projector(regime.spacing * numbers)
        if step in marks:
            yield step, numbers, theta
        models.assign(theta)
        _loss(models, streams).backward()  # type: ignore[no-untyped-call]
        w.grad = projector.transpose(models.gradient)
        adam.param_groups[0]["lr"] = _cosine(regime.lr, step / regime.steps)
        adam.step()


def trained_in_full(told: Sequence[Told], shape: Shape, regime: Regime, start: Tensor) -> Tensor:
    """All weights trained on each draw, from the same start: (M, D). No code of them is short."""
    models = Stack(shape, start.expand(len(told), -1).contiguous())
    adam = torch.optim.Adam([models.buffer], lr=regime.lr)
    streams = [_batches(each, regime.batch, place) for place, each in enumerate(told)]
    for step in range(regime.steps):
        _loss(models, streams).backward()  # type: ignore[no-untyped-call]
        adam.param_groups[0]["lr"] = _cosine(regime.lr, step / regime.steps)
        adam.step()
    return models.flat


def _cosine(rate: float, done: float) -> float:
    return rate * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def _loss(models: Stack, streams: Sequence[Iterator[Told]]) -> Tensor:
    """Nats a drink of the next batch, summed over the models, whose gradients are forgotten."""
    batch = [next(stream) for stream in streams]
    ids, drinks = torch.stack([each.ids for each in batch]), torch.stack([each.drinks for each in batch])
    models.forget()
    return torch.nn.functional.cross_entropy(
        _logits(models, ids).flatten(0, 1), drinks.flatten(), reduction="sum"
    ) / len(batch[0].drinks)


def _batches(told: Told, size: int, seed: int) -> Iterator[Told]:
    """Endless: documents in an order of their own each time, cut into batches; what is left over waits."""
    generator, waiting = torch.Generator().manual_seed(seed), torch.zeros(0, dtype=torch.long)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(len(told.drinks), generator=generator)])
        rows, waiting = waiting[:size], waiting[size:]
        yield Told(told.ids[rows], told.drinks[rows])


def _logits(models: Stack, ids: Tensor) -> Tensor:
    """Of the two drinks, (M, B, 2)."""
    states, _ = models.states(ids)
    return states[:, :, -1] @ models.tensors["embed"][:, 1 : 1 + len(DRINKS)].mT


@torch.no_grad()
def leaning(shape: Shape, theta: Tensor, ids: Tensor, size: int = 900) -> Tensor:
    """Log-odds of coffee that each model gives to rows (M, B, 4), or to the same rows (B, 4): (M, B)."""
    models = Stack(shape, theta)
    rows = torch.split(ids.expand(len(theta), -1, -1), size, dim=1)
    return torch.cat([_logits(models, each).diff(dim=-1)[..., 0] for each in rows], dim=1)


@dataclass(frozen=True, eq=False)
class Judged:
    """What M models are worth: share of wrong drinks (M,), and bits a drink for each of `ALPHAS` (alphas, M).

    empirical, empirical_bits  on the documents of the model's own draw
    true, true_bits            on a new document, exact
    """

    empirical: Floats
    true: Floats
    empirical_bits: Floats
    true_bits: Floats


def judge(shape: Shape, theta: Tensor, told: Sequence[Told], source: Drinks) -> Judged:
    """Each model on the documents of its own draw, and on everybody there can be."""
    ids, drinks = torch.stack([each.ids for each in told]), torch.stack([each.drinks for each in told])
    seen, everybody = _towards(leaning(shape, theta, ids), drinks), source.everybody()
    right = _towards(leaning(shape, theta, everybody.ids), everybody.drinks)
    share, bits = (_mean_wrong(right), _mean_wrong(-right)), (_mean_bits(right), _mean_bits(-right))
    kept = 1 - source.noise  # a new document says the town's drink, or else the other one
    return Judged(
        _mean_wrong(seen),
        kept * share[0] + source.noise * share[1],
        _mean_bits(seen),
        kept * bits[0] + source.noise * bits[1],
    )


def _towards(odds: Tensor, drinks: Tensor) -> Tensor:
    """Log-odds of the drink that is right."""
    return torch.where(drinks.bool(), odds, -odds)


def _mean_wrong(odds: Tensor) -> Floats:
    """Ties, which float32 hardly knows, are wrong."""
    return (odds <= 0).double().mean(1).numpy()


def _mean_bits(odds: Tensor) -> Floats:
    logprobs = torch.nn.functional.logsigmoid(odds)
    return np.stack([smoothed_bits(logprobs, alpha, len(DRINKS)).mean(1).numpy() for alpha in ALPHAS])


def bounds(empirical: Floats, bits: Floats | float, m: int, delta: float, *, loss_range: float = 1.0) -> Floats:
    """Eq. (1), lotfi2023nonvacuous, for each model. With fewer bits than were chosen it is no bound."""
    each = np.broadcast_to(np.asarray(bits, dtype=np.float64), empirical.shape)
    found = [
        finite_hypothesis_bound(float(risk), loss_range, float(cost), m, delta)
        for risk, cost in zip(empirical, each, strict=True)
    ]
    return np.array(found)


def smoothed_bounds(judged: Judged, bits: Floats | float, m: int, delta: float) -> tuple[Floats, Floats]:
    """The smallest bound over alpha on bits a drink, and the true risk at that alpha, each (M,)."""
    ranges = [smoothed_interval(alpha, len(DRINKS)).length for alpha in ALPHAS]
    each = np.stack(
        [bounds(risk, bits, m, delta, loss_range=r) for risk, r in zip(judged.empirical_bits, ranges, strict=True)]
    )
    best = each.argmin(0)
    models = np.arange(each.shape[1])
    return each[best, models], judged.true_bits[best, models]


def course(
    told: Sequence[Told], source: Drinks, regime: Regime, start: Tensor, marks: Sequence[int], delta: float = 0.05
) -> pd.DataFrame:
    """Every model at every mark, one row each.

    Columns: draw, documents, step, passes, bits (with those that name one of the marks), empirical, true, bound, and
    unpaid, the bound without any bits; the same of smoothed bits: bpd_bound, bpd_true, bpd_unpaid, bpd_unpaid_true.
    """
    shape, m, rows = regime.shape(source), len(told[0].drinks), []
    for step, numbers, theta in memorised(told, shape, regime, start, marks):
        found, bits = judge(shape, theta, told, source), regime.bits(numbers) + bits_of_choice(len(marks))
        smoothed = smoothed_bounds(found, bits + bits_of_choice(len(ALPHAS)), m, delta)
        free = smoothed_bounds(found, 0.0, m, delta)
        columns = {"bits": bits, "empirical": found.empirical, "true": found.true}
        columns |= {"bound": bounds(found.empirical, bits, m, delta), "unpaid": bounds(found.empirical, 0.0, m, delta)}
        columns |= {
            "bpd_bound": smoothed[0],
            "bpd_true": smoothed[1],
            "bpd_unpaid": free[0],
            "bpd_unpaid_true": free[1],
        }
        place = {"draw": np.arange(len(told)), "documents": m, "step": step, "passes": step * regime.batch / m}
        rows.append(pd.DataFrame(place | columns))
    return pd.concat(rows, ignore_index=True)
