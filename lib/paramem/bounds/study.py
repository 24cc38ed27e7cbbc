r"""What makes a bound tight: its three terms over dimension, smoothing, documents, and what was paid for.

A bound is a sum (lotfi2023nonvacuous, Eq. 3),

    empirical risk  +  Delta sqrt((bits ln 2 + ln 1/(s delta)) / 2m)  +  Delta sqrt((ln k + ln 1/((1-s) delta)) / 2n)
                       complexity                                        sample

and every choice moves one of them against another. Models are trained and scored once (`point`); the sweeps over
alpha, m, n and delta are arithmetic on these scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from paramem.bounds.ground import Scores, Trained, Training, score
from paramem.bounds.kept_codes import kept_train
from paramem.bounds.risk import bits_of_choice, subsampled_terms
from paramem.bounds.smoothing import ALPHAS, bits_per_dimension, mean_bits, smoothed_interval
from paramem.bounds.source import Documents
from paramem.bounds.sublora import SubLora, SubLoraSettings
from paramem.errors import BadInput, BadParameter
from paramem.models import LM

# Found on draws of seeds from 10,000 on, which no notebook reports.
RATE, EXPONENT, QUANTISED_RATE = 0.012, 0.75, 0.003


@dataclass(frozen=True, eq=False)
class Point:
    """A trained, encoded model and what it says to documents.

    bits    prefix-free length of its code, without what was chosen besides
    seen    scores of the draws from the training documents
    unseen  scores of new documents, for the true risk
    """

    trained: Trained
    seen: Scores
    unseen: Scores

    @property
    def bits(self) -> float:
        return self.trained.bits


def scaled(training: Training, lm: LM) -> Training:
    """The same training with a rate that fits D weights moved by d numbers: 0.012 (D / d)^0.75.

    A step of w moves each weight by about the rate times sqrt(d / D), because the columns of P are orthonormal: with
    one rate for all, the larger of two models learns more slowly at the same d, and a larger d becomes unstable.
    """
    moved = SubLora.of(lm, SubLoraSettings(rank=training.rank, dimension=None)).dimension
    rate = RATE * (moved / (training.dimension or moved)) ** EXPONENT
    return replace(training, lr=rate, quantised_lr=QUANTISED_RATE)


def point(
    lm: LM, documents: Documents, training: Training, seed: int, rows: NDArray[np.int64], unseen: Documents
) -> Point:
    """Train on the documents (or find the training, `kept_codes`), score the drawn rows of them and new ones. The same
    rows for all points pair them."""
    trained = kept_train(lm, documents, training, seed)
    return Point(trained, score(trained, documents, rows), score(trained, unseen))


def smoothed_risks(scores: Scores, vocabulary: int, alphas: Sequence[float] = ALPHAS) -> pd.DataFrame:
    """Bits per token of each document (rows) under each alpha (columns)."""
    each = {alpha: bits_per_dimension(scores.logprobs, scores.lengths, alpha, vocabulary).numpy() for alpha in alphas}
    return pd.DataFrame(each)


def over_alpha(
    risks: pd.Series[float],
    vocabulary: int,
    bits: float,
    m: int,
    n: int,
    delta: float = 0.05,
    *,
    sample_bits: float = 0.0,
    paid: bool = True,
) -> pd.DataFrame:
    """The three terms and their sum for each alpha: columns alpha, loss_range, empirical, complexity, sample, bound.

    risks: mean smoothed bits per token of the n documents looked at, indexed by alpha. bits: what was chosen by looking
    at the m documents; sample_bits: of these, what was chosen by looking at the n draws. The choice among the alphas of
    ``risks`` is added to both, unless ``paid`` is False: then the numbers are no bounds; they show what it costs.
    """
    choice = bits_of_choice(len(risks)) if paid else 0
    rows = []
    for alpha, risk in risks.items():
        length = smoothed_interval(float(alpha), vocabulary).length  # type: ignore[arg-type]
        complexity, sample = subsampled_terms(length, bits + choice, m, n, delta, sample_bits=sample_bits + choice)
        rows.append((alpha, length, risk, complexity, sample, risk + complexity + sample))
    return pd.DataFrame(rows, columns=["alpha", "loss_range", "empirical", "complexity", "sample", "bound"])


def tightest(table: pd.DataFrame) -> pd.Series[float]:
    """The row with the smallest bound; the first of several."""
    return table.iloc[int(table["bound"].argmin())]


def error_terms(
    error: float, bits: float, m: int, n: int, delta: float = 0.05, *, sample_bits: float = 0.0
) -> pd.Series[float]:
    """The same terms for a share of errors, whose range is 1."""
    complexity, sample = subsampled_terms(1.0, bits, m, n, delta, sample_bits=sample_bits)
    return pd.Series(
        {"empirical": error, "complexity": complexity, "sample": sample, "bound": error + complexity + sample}
    )


def row_of(
    each: Point,
    vocabulary: int,
    m: int,
    chosen: int,
    delta: float = 0.05,
    ks: Sequence[int] = (1, 10),
    alphas: Sequence[float] = ALPHAS,
) -> dict[str, float]:
    """A model as a row of a table: d, bits, the terms of its smallest bound on bits per token, true risk, errors.

    chosen: bits that name the model among those trained on the same documents; they were picked by looking at the
    draws, so both terms pay. plain: the least smoothed risk over alpha; true_high, top1_true_high, ...: upper ends of
    the 95 % intervals of the true risks; errors: top1 and its bound top1_bound, ...
    """
    n, bits = len(each.seen.lengths), each.bits + chosen
    mean = pd.Series(mean_bits(each.seen.logprobs, each.seen.lengths, alphas, vocabulary), index=list(alphas))
    found = tightest(over_alpha(mean, vocabulary, bits, m, n, delta, sample_bits=chosen))
    true = bits_per_dimension(each.unseen.logprobs, each.unseen.lengths, float(found["alpha"]), vocabulary)
    row = {"d": each.trained.size, "bits": each.bits, "plain": float(mean.min())}
    row |= {str(name): float(value) for name, value in found.items()}
    row |= {"true": float(true.mean()), "true_high": _high(true)}
    for k in ks:
        error = float(each.seen.errors(k).mean())
        bound = error_terms(error, bits, m, n, delta, sample_bits=chosen)["bound"]
        row |= {f"top{k}": error, f"top{k}_bound": bound, f"top{k}_true_high": _high(each.unseen.errors(k))}
    return row


def _high(losses: Tensor) -> float:
    return float(losses.mean() + 1.96 * losses.std() / len(losses) ** 0.5)


def falls_by(before: pd.Series[float], after: pd.Series[float]) -> tuple[float, float]:
    """By how much the mean loss falls, and the lower end of its 95 % interval; paired by document, normal."""
    fall = before.to_numpy(dtype=np.float64) - after.to_numpy(dtype=np.float64)
    mean = float(fall.mean())
    return mean, mean - 1.96 * float(fall.std(ddof=1)) / math.sqrt(len(fall))


@dataclass(frozen=True)
class SweetSpot:
    """Where a curve is lowest.

    index      of the lowest value, the first of several
    above_low  by how much the first value exceeds it; above_high: by how much the last one does
    """

    index: int
    above_low: float
    above_high: float

    @property
    def inside(self) -> bool:
        """Both ends lie above the lowest value: less and more are worse."""
        return self.above_low > 0 and self.above_high > 0


def sweet_spot(values: Sequence[float]) -> SweetSpot:
    """The lowest point of a curve and how far its ends lie above it. Raises BadInput for fewer than three values."""
    if len(values) < 3:
        raise BadInput(f"{len(values)} values have no inside: a sweet spot takes three or more.")
    heights = np.asarray(values, dtype=np.float64)
    index = int(heights.argmin())
    return SweetSpot(index, float(heights[0] - heights[index]), float(heights[-1] - heights[index]))


def pareto(table: pd.DataFrame, x: str, y: str) -> NDArray[np.bool_]:
    """Which rows no other row beats: none is as small in both columns and smaller in one."""
    a, b = table[x].to_numpy(), table[y].to_numpy()
    beaten = (a[None] <= a[:, None]) & (b[None] <= b[:, None]) & ((a[None] < a[:, None]) | (b[None] < b[:, None]))
    return np.asarray(~beaten.any(axis=1), dtype=np.bool_)


def drawn_beyond(
    seen: pd.DataFrame, unseen: pd.DataFrame, trained_on: int, m: int, n: int, generator: np.random.Generator
) -> pd.DataFrame:
    """Losses of n uniform draws from m documents, of which ``trained_on`` are those that were trained on.

    seen: losses of uniform draws from the documents trained on, one a row; unseen: of new documents. A draw is one of
    the first kind with probability trained_on / m, and otherwise one of the rest, which the model has never met: a new
    document. With m far above ``trained_on`` the bound becomes that of a test set.
    """
    if m < trained_on:
        raise BadParameter(f"m={m}: at least the {trained_on} documents that were trained on.")
    if not 1 <= n <= min(len(seen), len(unseen)):
        raise BadParameter(f"n={n}: losses of {len(seen)} old and {len(unseen)} new documents are at hand.")
    old = int(generator.binomial(n, trained_on / m))
    return pd.concat([seen.iloc[:old], unseen.iloc[: n - old]], ignore_index=True)


def bits_at(risk: float, risks: Sequence[float], bits: Sequence[float]) -> float:
    """How many bits a family of models takes to reach a risk: its curve, interpolated in log bits.

    The curve is first made monotone: a risk is reached with the fewest bits of any model that is as good. Raises
    BadInput for a risk that no model of the family reaches.
    """
    order = np.argsort(bits)
    cost, reached = np.log(np.asarray(bits)[order]), np.minimum.accumulate(np.asarray(risks)[order])
    if risk < reached[-1]:
        raise BadInput(f"a risk of {risk:.3f} is below the best of the family, {reached[-1]:.3f}.")
    if risk >= reached[0]:
        return float(np.exp(cost[0]))
    keep = np.concatenate([[True], np.diff(reached) < 0])
    return float(np.exp(np.interp(-risk, -reached[keep], cost[keep])))


def common_risk(curves: Sequence[Sequence[float]]) -> float:
    """The lowest risk that every family reaches: the largest of their minima."""
    return max(min(each) for each in curves)


def common_levels(curves: Sequence[Sequence[float]], many: int) -> list[float]:
    """So many risks, evenly spaced, from the lowest that every family reaches to the highest that all have a model at
    or above of. Above it, a family whose smallest code is better would be charged for that code. Raises BadInput where
    the families have no risk in common.
    """
    low, high = common_risk(curves), min(max(each) for each in curves)
    if high < low:
        raise BadInput(
            f"one family reaches {low:.3f} at best and another {high:.3f} at worst: no risk is common to all."
        )
    return [float(each) for each in np.linspace(low, high, many)]


def bits_at_levels(tables: Mapping[str, pd.DataFrame], many: int = 5) -> pd.DataFrame:
    """Bits that each family takes at `common_levels` of its risks: a row a level, a column a family, from low to high.

    tables: of each family, with the columns ``plain``, its risks, and ``bits``.
    """
    levels = common_levels([list(each["plain"]) for each in tables.values()], many)
    columns = {
        name: [bits_at(level, list(each["plain"]), list(each["bits"])) for level in levels]
        for name, each in tables.items()
    }
    return pd.DataFrame(columns, index=pd.Index(levels, name="risk"))


def pairs_in_order(needed: pd.DataFrame) -> tuple[int, int]:
    """Over all rows and pairs of columns: how often the right one is the smaller, and how many there are."""
    pairs = list(combinations(needed.columns, 2))
    below = sum(int((needed[right] < needed[left]).sum()) for left, right in pairs)
    return below, len(pairs) * len(needed)


def code_of_data(bits: float, scores: Scores, tokens: float) -> float:
    """Bits of the model and of documents of so many tokens under it: a compression of the documents (section 7.1).

    The model's bits per token are those of the scored draws, taken for all.
    """
    if tokens <= 0:
        raise BadParameter(f"tokens={tokens}: at least one token.")
    return bits - float(scores.logprobs.double().mean()) / math.log(2) * tokens
