r"""What a linear probe reads in the states of a text's words: is the fact at the name, or only where it is said?

    at_name = probe(states_at_names(models, study), labels(study))  # [M, relations, people], cross-validated
    along = probe_along(models, study)                              # [M, places, relations, people], in its own text

The two probes of allenzhu2023extraction in a plain form (theirs is "nearly linear", Abstract): one reads the
state of the last word of a name that stands alone, one the states before each object of the biography. A fact that is
readable at the name is kept with the name; one that is readable only behind all other facts is kept with them.

| here | shape | what |
|---|---|---|
| states | [M, N, d] | one word's last state, of every model and person |
| places | 5 | before the first object, before the second, ... of the first text that the model was told |
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import KFold
from torch import Tensor

from paramem.capacity.stacked import Stack
from paramem.errors import BadParameter
from paramem.injection.storage import CORPORA, Study, stacked

FOLDS = 5
RIDGE = 0.1

# Where we do something else than the paper says: topic -> (what it says, what we do, why).
DEPARTURES: dict[str, tuple[str, str, str]] = {
    "probe": (
        "(nearly) linear probing, trained on the states of one half of the people",
        f"a ridge classifier on the last states, in {FOLDS} folds over all people",
        "80 people are few for a probe of 16 classes: its accuracy is a lower bound on what can be read",
    ),
}


@torch.no_grad()
def last_states(models: Stack, ids: Tensor) -> Tensor:
    """``[M, B, T, d]`` normalised states of the last layer; rows ``[B, T]`` are read by every model."""
    return models.states(ids.expand(len(models), -1, -1))[0]


def states_at_names(models: Stack, study: Study) -> Tensor:
    """``[M, N, d]``: the state of the last word of each name, with nothing but the name read."""
    rows = torch.tensor([study.words.row(name)[:-1] for name in study.people.names])
    return last_states(models, rows)[:, :, -1]


def states_along(models: Stack, study: Study, corpora: Sequence[str] = tuple(CORPORA)) -> Tensor:
    """``[M, N, places, d]``: the states before each object of the first text that each model was told of everybody.

    First texts state the facts in one order, whatever the telling.
    """
    told = [[texts[0] for texts in study.rows[corpus]] for corpus in corpora]
    at = torch.tensor([[study.places(ids) for ids, _ in rows] for rows in told]) - 1  # [M, N, places]
    m, n = torch.arange(len(told)), torch.arange(len(told[0]))
    return last_states(models, stacked(told)[0])[m[:, None, None], n[:, None], at]


def labels(study: Study, *, shuffled: bool = False) -> NDArray[np.int64]:
    """``[relations, N]`` what everybody's objects are; among the people at random if ``shuffled``."""
    people = study.people
    rng, found = random.Random(f"injection/labels/{study.seed}"), []
    for relation in people.relations:
        objects = [people.values[name][relation.id] for name in people.names]
        if shuffled:
            rng.shuffle(objects)
        found.append([sorted(set(objects)).index(each) for each in objects])
    return np.array(found)


def probe(states: Tensor, targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """``[M, relations, N]``: whether a linear classifier that was fitted to other people reads the object.

    Raises BadParameter where there are fewer people than folds, or not as many states as targets.
    """
    _, people, _ = states.shape
    if people != targets.shape[1] or people < FOLDS:
        raise BadParameter(f"{people} states and {targets.shape[1]} targets: as many of each, and {FOLDS} or more")
    found = np.zeros((len(states), *targets.shape), dtype=bool)
    folds = list(KFold(FOLDS, shuffle=True, random_state=0).split(np.arange(people)))
    for m, each in enumerate(states.double().numpy()):
        scaled = (each - each.mean(0)) / (each.std(0) + 1e-9)
        for r, target in enumerate(targets):
            for fit, held in folds:
                classifier = RidgeClassifier(alpha=RIDGE).fit(scaled[fit], target[fit])
                found[m, r, held] = classifier.predict(scaled[held]) == target[held]
    return found


def probe_along(models: Stack, study: Study, corpora: Sequence[str] = tuple(CORPORA)) -> NDArray[np.bool_]:
    """``[M, places, relations, N]``: the same before each object of the first text that each model was told."""
    states, targets = states_along(models, study, corpora), labels(study)
    return np.stack([probe(states[:, :, place], targets) for place in range(states.shape[2])], axis=1)
