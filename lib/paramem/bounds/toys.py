r"""Models small enough to try them all: coins, and ten weights of -1, 0 or 1. Their true risks are exact.

A bound makes a statement about redrawing the documents. On these models documents are redrawn a hundred times and
coins are tossed twenty thousand times; "training" is a search over every hypothesis. A bound on errors that forgets to
pay for the search fails in every repetition. With smoothed bits it need not: there, on one of six draws only, it failed
in surely more repetitions than promised.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paramem.bounds.risk import finite_hypothesis_bound
from paramem.claims import share_interval
from paramem.errors import BadParameter

Floats: TypeAlias = NDArray[np.float64]
STEEPNESS = 3.0  # how sure a sign model is of its answer, for one unit of its sum


def failures(bounds: Floats, true_risk: float | Floats) -> tuple[int, int]:
    """In how many of the repetitions the bound lies below the true risk, and how many there are."""
    return int((np.asarray(bounds) < np.asarray(true_risk)).sum()), len(bounds)


def failure_table(counts: dict[tuple[str, str], tuple[int, int]]) -> pd.DataFrame:
    """(setting, bound) -> (failures, repetitions) as shares with 95 % intervals, for `paramem.plots.rates`."""
    rows = []
    for (setting, bound), (k, n) in counts.items():
        low, high = share_interval(k, n)
        rows.append({"setting": setting, "bound": bound, "mean": k / n, "low": low, "high": high, "repetitions": n})
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class SignModels:
    """Every model sign(w . x) with weights of -1, 0 and 1, of at most so many weights that are not 0.

    weights  (models, inputs)
    """

    weights: NDArray[np.float32]

    @classmethod
    def all(cls, inputs: int = 10, most: int | None = None) -> SignModels:
        """All 3^inputs of them, or those with at most ``most`` weights that are not 0."""
        if not 1 <= inputs <= 12:
            raise BadParameter(f"inputs={inputs}: from 1 to 12, so that all models can be tried.")
        grid = np.array(list(itertools.product((-1, 0, 1), repeat=inputs)), dtype=np.float32)
        return cls(grid if most is None else grid[np.abs(grid).sum(axis=1) <= most])

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def uniform_bits(self) -> Floats:
        """Every model the same code length, log2 of their number."""
        return np.full(len(self), math.log2(len(self)))

    @property
    def sparse_bits(self) -> Floats:
        """A code that says how many weights are not 0 (k + 1 bits), then which, then their signs."""
        inputs = self.weights.shape[1]
        k = np.abs(self.weights).sum(axis=1).astype(int)
        which = np.array([math.log2(math.comb(inputs, each)) for each in range(inputs + 1)])
        found: Floats = (k + 1) + which[k] + k
        return found

    def errors(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> Floats:
        """Share of the examples that each model gets wrong; an even sum counts as +1, (models,)."""
        says_up = x @ self.weights.T >= 0
        wrong: Floats = (says_up != (y[:, None] > 0)).mean(axis=0)
        return wrong

    def true_errors(self, truth: NDArray[np.float32] | None, noise: float = 0.5) -> Floats:
        """The expected share of errors, from all 2^inputs inputs; ``truth`` None: labels are coins."""
        if truth is None:
            return np.full(len(self), 0.5)
        x = _inputs(self.weights.shape[1])
        apart = self.errors(x, _labels(x, truth))
        return noise + (1 - 2 * noise) * apart

    def bits(self, x: NDArray[np.float32], y: NDArray[np.float32], alpha: float) -> Floats:
        """Mean smoothed bits of the labels under each model, (models,): p = sigmoid(3 w . x), mixed with one half."""
        agree = (x @ self.weights.T * y[:, None]).astype(np.int64)
        found: Floats = _bits_of_agreement(self.weights.shape[1], alpha)[agree + self.weights.shape[1]].mean(axis=0)
        return found

    def true_bits(self, alpha: float) -> Floats:
        """The expected smoothed bits where labels are coins, (models,)."""
        x = _inputs(self.weights.shape[1])
        up = np.ones(len(x), dtype=np.float32)
        return (self.bits(x, up, alpha) + self.bits(x, -up, alpha)) / 2


def _inputs(many: int) -> NDArray[np.float32]:
    return np.array(list(itertools.product((-1, 1), repeat=many)), dtype=np.float32)


def _labels(x: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(x @ truth >= 0, 1, -1).astype(np.float32)


def _bits_of_agreement(inputs: int, alpha: float) -> Floats:
    """Smoothed bits of a label, by the sum that speaks for it, -inputs to inputs."""
    p = 1 / (1 + np.exp(-STEEPNESS * np.arange(-inputs, inputs + 1)))
    found: Floats = -np.log2((1 - alpha) * p + alpha / 2)
    return found


def examples(
    m: int, generator: np.random.Generator, *, truth: NDArray[np.float32] | None = None, noise: float = 0.5,
    inputs: int = 10,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:  # fmt: skip
    """m inputs of +-1 and their labels: the truth's, flipped with probability ``noise``, or coins."""
    x = generator.choice(np.array([-1, 1], dtype=np.float32), size=(m, inputs))
    y = np.ones(m, dtype=np.float32) if truth is None else _labels(x, truth)
    return x, np.where(generator.random(m) < noise, -y, y).astype(np.float32)


def searched(
    models: SignModels,
    m: int,
    repetitions: int,
    generator: np.random.Generator,
    code_bits: Floats,
    delta: float,
    *,
    truth: NDArray[np.float32] | None = None,
    noise: float = 0.5,
) -> pd.DataFrame:
    """Train by trying every model, again and again: the model with the smallest bound, its bound, empirical, true risk.

    code_bits: what each model costs, (models,). The bound is that of Eq. (1), lotfi2023nonvacuous, for errors.
    """
    prices, which = np.unique(code_bits, return_inverse=True)
    added = np.array([finite_hypothesis_bound(0.0, 1.0, float(price), m, delta) for price in prices])[which]
    true, rows = models.true_errors(truth, noise), []
    for _ in range(repetitions):
        empirical = models.errors(*examples(m, generator, truth=truth, noise=noise, inputs=models.weights.shape[1]))
        best = int((empirical + added).argmin())
        rows.append((empirical[best] + added[best], empirical[best], true[best], code_bits[best]))
    return pd.DataFrame(rows, columns=["bound", "empirical", "true", "bits"])
