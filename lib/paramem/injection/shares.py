"""Answers as shares: person by person, because the answers about one person are not independent, and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from paramem.errors import BadParameter
from paramem.evaluation.intervals import wilson


def by_person(right: Tensor | NDArray[np.bool_], persons: Sequence[str]) -> NDArray[np.float64]:
    """``[persons]`` the share of each one's questions that are right, of all questions person by person.

    Raises BadParameter where the questions are not as many for each.
    """
    if not persons or right.ndim != 1 or len(right) % len(persons):
        raise BadParameter(f"{tuple(right.shape)} answers are not as many for each of {len(persons)} people")
    shares: NDArray[np.float64] = np.asarray(right, dtype=np.float64).reshape(len(persons), -1).mean(1)
    return shares


def share_table(asked: Mapping[str, Mapping[str, Tensor]]) -> pd.DataFrame:
    """One row for each corpus and each way of asking: mean, and Wilson's 95 % interval over all that was asked."""
    rows = []
    for how, by_corpus in asked.items():
        for corpus, right in by_corpus.items():
            low, high = wilson(int(right.sum()), len(right))
            rows.append(
                {"corpus": corpus, "asked": how, "mean": float(right.double().mean()), "low": low, "high": high}
            )
    return pd.DataFrame(rows)
