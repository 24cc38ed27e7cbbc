"""Answers as shares: person by person, because the answers about one person are not independent, and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from paramem.errors import BadParameter
from paramem.evaluation.intervals import clustered_share


def by_person(right: Tensor | NDArray[np.bool_], persons: Sequence[str]) -> NDArray[np.float64]:
    """``[persons]`` the share of each one's questions that are right, of all questions person by person.

    Raises BadParameter where the questions are not as many for each.
    """
    of_each = len(owners(right, persons)) // len(persons)
    shares: NDArray[np.float64] = np.asarray(right, dtype=np.float64).reshape(-1, of_each).mean(1)
    return shares


def owners(right: Tensor | NDArray[np.bool_], persons: Sequence[str]) -> list[tuple[str]]:
    """Whom each answer is about, as `clustered_share` takes it; answers come person by person.

    Raises BadParameter where they are not as many for each.
    """
    if not persons or right.ndim != 1 or len(right) % len(persons):
        raise BadParameter(f"{tuple(right.shape)} answers are not as many for each of {len(persons)} people")
    return [(person,) for person in persons for _ in range(len(right) // len(persons))]


def share_table(asked: Mapping[str, tuple[Sequence[str], Mapping[str, Tensor]]]) -> pd.DataFrame:
    """One row for each corpus and each way of asking: mean, and 95 % interval over people (`clustered_share`).

    asked: way of asking -> the people asked about, and for every corpus what is right, person by person.
    """
    rows = []
    for how, (persons, by_corpus) in asked.items():
        for corpus, right in by_corpus.items():
            found = clustered_share(right.double(), owners(right, persons))
            rows.append({"corpus": corpus, "asked": how, **found._asdict()})
    return pd.DataFrame(rows)
