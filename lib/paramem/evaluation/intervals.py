"""Intervals for means over requests: Wilson's for shares, the bootstrap's for everything else.

And choices that do not see the items that they are judged by.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as students_t

from paramem.decisions import Decision
from paramem.errors import BadParameter

Interval = tuple[float, float]


class Span(NamedTuple):
    """A mean and its 95 % interval, and on which side of a limit it lies.

    An interval that straddles the limit decides nothing, unless it is so narrow that what lies beyond the limit would
    be too small to speak of.
    """

    mean: float
    low: float
    high: float

    def above(self, limit: float = 0.0, *, negligible: float = 0.0) -> Decision:
        """Holds where the whole interval lies above the limit; does not where none of it lies `negligible` above it."""
        holds = bool(self.low > limit)
        return Decision(holds, holds or bool(self.high <= limit + negligible))

    def below(self, limit: float = 0.0, *, negligible: float = 0.0) -> Decision:
        """Holds where the whole interval lies below the limit; does not where none of it lies `negligible` below it."""
        return Span(-self.mean, -self.high, -self.low).above(-limit, negligible=negligible)


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share: never empty, never outside [0, 1], right also at 0 and at n.

    >>> [round(end, 3) for end in wilson(10, 10)]
    [0.722, 1.0]
    """
    _check_confidence(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise BadParameter(f"{successes} successes of {n}: a share needs n >= 1 and 0 <= successes <= n")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / n + spread / (4 * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(
    values: Sequence[float] | NDArray[np.float64],
    generator: np.random.Generator,
    *,
    weights: Sequence[float] | NDArray[np.float64] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap of the (weighted) mean, resampling whole requests.

    values [n] are the means of the requests, weights [n] the numbers of probes behind them (equal when None). Probes of
    one request are not independent, so they are never resampled apart.
    """
    _check_confidence(confidence)
    means = np.asarray(values, dtype=np.float64)
    sizes = np.ones_like(means) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(means):
        raise BadParameter("there is nothing to resample: values is empty")
    drawn = generator.integers(0, len(means), size=(resamples, len(means)))
    resampled = (means * sizes)[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def span(values: ArrayLike, seed: int = 0) -> Span:
    """The mean of the values that are numbers, and its interval over them. Raises BadParameter when none is."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    low, high = bootstrap(numbers, np.random.default_rng(seed))
    return Span(float(numbers.mean()), low, high)


def over_edits(values: ArrayLike) -> Span:
    """The mean over edits with its 95 % interval: Wilson's where every edit counts fully or not, else the bootstrap's.

    Raises BadParameter without a value.
    """
    found = span(values)
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if np.isin(numbers, (0.0, 1.0)).all():
        return Span(found.mean, *wilson(float(numbers.sum()), len(numbers)))
    return found


def paired(one: ArrayLike, other: ArrayLike, seed: int = 0) -> Span:
    """``one`` minus ``other``, item by item; items that are no number on either side do not count."""
    return span(np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64), seed)


def grouped(values: ArrayLike, groups: Sequence[object] | ArrayLike, seed: int = 0) -> Span:
    """The mean of the values that are numbers, and its interval over groups of them, which are drawn whole.

    groups [n]: what an item shares with others, such as the adapter that five questions are asked under. Where all
    items count fully, or none does, nothing says how alike the items of a group are: the interval is Wilson's.
    Raises BadParameter where fewer than two groups have a number.
    """
    numbers = np.asarray(values, dtype=np.float64)
    kept = ~np.isnan(numbers)
    numbers, (_, number) = numbers[kept], np.unique(np.asarray(groups)[kept], return_inverse=True)
    sizes = np.bincount(number)
    if len(sizes) < 2:
        raise BadParameter(f"{len(sizes)} groups of items: an interval over groups needs two at least")
    if np.ptp(numbers) == 0 and numbers[0] in (0, 1):
        return Span(float(numbers[0]), *wilson(float(numbers.sum()), len(numbers)))
    means = np.bincount(number, weights=numbers) / sizes
    low, high = bootstrap(means, np.random.default_rng(seed), weights=sizes.astype(np.float64))
    return Span(float(numbers.mean()), low, high)


def unpaired(one: ArrayLike, other: ArrayLike, seed: int = 0, resamples: int = 2000) -> Span:
    """Mean of ``one`` less mean of ``other``, which are about different items, and its 95 % bootstrap interval.

    For values that are no mere 0 or 1; either side is resampled by itself. Raises BadParameter for an empty side.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (one, other)]
    if not all(len(side) for side in sides):
        raise BadParameter(f"{len(sides[0])} against {len(sides[1])} items: a difference needs some on both sides")
    draw = np.random.default_rng(seed)
    means = [side[draw.integers(0, len(side), (resamples, len(side)))].mean(1) for side in sides]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return Span(float(sides[0].mean() - sides[1].mean()), float(low), float(high))


def apart(one: ArrayLike, other: ArrayLike) -> Span:
    """The share of ``one`` less that of ``other``, which are about different items, with Newcombe's 95 % interval."""
    return difference(over_edits(one), over_edits(other))


def difference(one: Span, other: Span) -> Span:
    """One mean less another that is independent of it, and an interval made of theirs: distances add up in squares.

    Of Wilson's intervals it makes Newcombe's (his method 10).
    """
    gap = one.mean - other.mean
    below = ((one.mean - one.low) ** 2 + (other.high - other.mean) ** 2) ** 0.5
    above = ((one.high - one.mean) ** 2 + (other.mean - other.low) ** 2) ** 0.5
    return Span(gap, gap - below, gap + above)


def clustered(values: ArrayLike, owners: Sequence[Collection[Hashable]]) -> Span:
    r"""The mean of items that may depend on each other where they share an owner, and its 95 % interval.

    owners [n]: whom each item is about, one or several; G of them in all. Every pair of items that share one counts,

        s^2 = G / (G - 1) / n^2 \sum_{i, j share an owner} (x_i - m) (x_j - m),

    and no less than the pairs of each item with itself; the interval is m +- t s, Student's t with G - 1 degrees of
    freedom. Raises BadParameter where values and owners do not fit, and for fewer than two owners.
    """
    x, variance, _, groups = _clusters(values, owners)
    half = float(students_t.ppf(0.975, groups - 1)) * variance**0.5
    return Span(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def clustered_share(values: ArrayLike, owners: Sequence[Collection[Hashable]]) -> Span:
    """As `clustered`, of items that are 0 or 1: Wilson's interval of as many independent items as vary like these.

    Where all are alike nothing is seen to vary, and owners are counted in place of items.
    """
    x, variance, alone, groups = _clusters(values, owners)
    if not np.isin(x, (0.0, 1.0)).all():
        raise BadParameter("a share is asked for, and some values are neither 0 nor 1: take `clustered`")
    n = max(1.0, len(x) * alone / variance) if alone else float(min(groups, len(x)))
    return Span(float(x.mean()), *wilson(float(x.mean()) * n, n))


def _clusters(
    values: ArrayLike, owners: Sequence[Collection[Hashable]]
) -> tuple[NDArray[np.float64], float, float, int]:
    """The values, the variance of their mean with and without dependence, and the number of owners."""
    x = np.asarray(values, dtype=np.float64)
    names = {name: i for i, name in enumerate(dict.fromkeys(name for some in owners for name in some))}
    if x.shape != (len(owners),) or not all(owners) or len(names) < 2:
        raise BadParameter(f"{x.shape} values, {len(owners)} items, {len(names)} owners: two owners at least")
    about = np.zeros((len(x), len(names)))
    for i, some in enumerate(owners):
        about[i, [names[name] for name in some]] = 1.0
    off, scale = x - x.mean(), len(names) / (len(names) - 1) / len(x) ** 2
    shared, alone = float(off @ ((about @ about.T) > 0) @ off), float(off @ off)
    return x, scale * max(shared, alone), scale * alone, len(names)


def chosen_on_the_other_half(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each item, the choice that is best for other items: (items, choices) -> (items,).

    Items at even places get the column of largest mean over the items at odd places, and the other way round, so that
    what is chosen is not judged by what it was chosen on. A nan does not count.
    Raises BadParameter for fewer than two items.
    """
    if values.ndim != 2 or len(values) < 2:
        raise BadParameter(f"values has shape {values.shape}: it takes two items or more, and their choices")
    even = np.arange(len(values)) % 2 == 0
    from_odd, from_even = (int(np.nanmean(values[half], axis=0).argmax()) for half in (~even, even))
    return np.where(even, from_odd, from_even)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise BadParameter(f"confidence is {confidence}; it lies between 0 and 1, as in 0.95")
