r"""Whether what is said with a probability is true that often, and whether the probability tells true from false.

    reliability(confidence, right)                       # a row for each bin: what was promised, what came true
    calibration_error(confidence, right)                 # ECE over bins of equal mass
    calibration_error_of_a_calibrated(confidence)        # the ECE that chance alone gives, and its 95 % quantile
    discrimination(confidence, right)                    # AUROC
    resampled(lambda rows: calibration_error(confidence[rows], right[rows]), people)     # with its interval
    jackknifed(calibration_square(confidence, right), people)                            # without what chance adds

The expected calibration error is $\sum_b \frac{n_b}{n} |\bar y_b - \bar c_b|$ over bins $b$ of the answers sorted by
confidence, $n_b$ of them in each, $\bar c_b$ their mean confidence and $\bar y_b$ the share that is right. With as many
answers in every bin, none rests on a handful. A finite sample of a perfectly calibrated model has an error above zero,
so an error is held against that of answers drawn with the promised probabilities. That it is no larger than chance
makes it says little where answers are few. So what decides is the squared error, from which chance can be taken off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import brier_score_loss, roc_auc_score

from paramem.errors import BadInput, BadParameter
from paramem.evaluation.intervals import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]
BINS = 10


def reliability(confidence: ArrayLike, right: ArrayLike, *, bins: int = BINS) -> pd.DataFrame:
    """For each bin of equal mass, in order: ``confidence``, ``right`` (means) and ``n``. Raises BadInput."""
    c, y = _checked(confidence, right)
    parts = _binned(c, bins)
    return pd.DataFrame(
        {
            "confidence": [c[part].mean() for part in parts],
            "right": [y[part].mean() for part in parts],
            "n": [len(part) for part in parts],
        }
    )


def calibration_error(confidence: ArrayLike, right: ArrayLike, *, bins: int = BINS) -> float:
    """The expected calibration error over bins of equal mass. Raises BadInput."""
    c, y = _checked(confidence, right)
    return float(sum(abs(y[part].sum() - c[part].sum()) for part in _binned(c, bins)) / len(c))


def calibration_error_of_a_calibrated(
    confidence: ArrayLike, *, bins: int = BINS, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Mean and 95 % quantile of the error where every answer is right with the probability that it promises."""
    c, _ = _checked(confidence, np.zeros_like(np.asarray(confidence)))
    rng = np.random.default_rng(seed)
    errors = [calibration_error(c, rng.random(len(c)) < c, bins=bins) for _ in range(draws)]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def calibration_square(
    confidence: ArrayLike, right: ArrayLike, *, bins: int = 5
) -> Callable[[NDArray[np.int64]], float]:
    """The mean squared distance of promise and outcome over bins, less what chance adds to it, as a function of rows.

    Bins are of equal mass over all answers, and stay for some of them. Without what chance adds, the mean over samples
    is the error of endlessly many answers, so that of a calibrated model may be below zero. Its root is on the scale of
    the expected calibration error. Fewer bins tell more surely that it is small. Raises BadInput, BadParameter.
    """
    c, y = _checked(confidence, right)
    if 2 * bins > len(c):
        raise BadParameter(f"{bins} bins for {len(c)} answers: what chance adds takes two answers in a bin at least")
    label, gap = np.empty(len(c), dtype=np.int64), y - c
    for number, part in enumerate(_binned(c, bins)):
        label[part] = number

    def square(rows: NDArray[np.int64]) -> float:
        n = np.bincount(label[rows], minlength=bins)
        means = np.bincount(label[rows], gap[rows], bins) / n.clip(1)
        spread = np.bincount(label[rows], (gap[rows] - means[label[rows]]) ** 2, bins) / (n - 1).clip(1)
        return float((n * means**2 - spread).sum() / len(rows))

    return square


def brier(confidence: ArrayLike, right: ArrayLike) -> float:
    """Mean squared difference of confidence and outcome. Raises BadInput."""
    c, y = _checked(confidence, right)
    return float(brier_score_loss(y, c, pos_label=1))


def discrimination(confidence: ArrayLike, right: ArrayLike) -> float:
    """AUROC: the probability that a right answer has more confidence than a wrong one; nan where all are alike."""
    c, y = _checked(confidence, right)
    return float(roc_auc_score(y, c)) if 0 < y.sum() < len(y) else float("nan")


def resampled(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: Sequence[object] | ArrayLike,
    *,
    resamples: int = 400,
    seed: int = 0,
) -> Span:
    """A statistic of rows, and its 95 % bootstrap interval over groups of rows (people), which are drawn whole.

    statistic: from the numbers of rows to a value; resamples in which it is nan do not count. groups [n]: whose row it
    is. Raises BadInput where there are fewer than two groups, or the statistic is nan in most resamples.
    """
    _, number = np.unique(np.asarray(groups), return_inverse=True)
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    if len(members) < 2:
        raise BadInput(f"{len(members)} groups: an interval over groups needs two at least")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(members), size=(resamples, len(members)))
    values = np.array([statistic(np.concatenate([members[i] for i in chosen])) for chosen in drawn])
    if np.isnan(values).mean() > 0.5:
        raise BadInput("the statistic has no value in most resamples: are all answers right, or all wrong?")
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Span(float(statistic(np.arange(len(number)))), float(low), float(high))


def jackknifed(statistic: Callable[[NDArray[np.int64]], float], groups: Sequence[object] | ArrayLike) -> Span:
    """A statistic of rows, and a 95 % interval from its values without each group of rows (people) in turn.

    For a statistic from which chance is taken off: drawing rows with replacement would put it back. As `resampled`.
    """
    _, number = np.unique(np.asarray(groups), return_inverse=True)
    n, every = int(number.max()) + 1, np.arange(len(number))
    if n < 2:
        raise BadInput(f"{n} groups: an interval over groups needs two at least")
    without = np.array([statistic(every[number != i]) for i in range(n)])
    half = 1.96 * float(np.sqrt((n - 1) * without.var()))
    value = float(statistic(every))
    return Span(value, value - half, value + half)


def _binned(c: Floats, bins: int) -> list[NDArray[np.int64]]:
    if not 1 <= bins <= len(c):
        raise BadParameter(f"{bins} bins for {len(c)} answers: at least one bin, and one answer in each")
    return np.array_split(np.argsort(c, kind="stable"), bins)


def _checked(confidence: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    c, y = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if c.ndim != 1 or c.shape != y.shape or not len(c):
        raise BadInput(f"confidences of shape {c.shape} and outcomes of shape {y.shape}: one of each for every answer")
    if not (c.min() >= 0 and c.max() <= 1 + 1e-6):
        raise BadInput(f"confidences lie between {c.min():g} and {c.max():g}: they are probabilities")
    if not np.isin(y, (0, 1)).all():
        raise BadInput("outcomes are right or wrong, 1 or 0")
    return c.clip(0, 1), y
