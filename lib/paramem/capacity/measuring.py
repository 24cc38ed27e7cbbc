"""What the models of the grid know, as tables: by cell, with fewer bits a weight, and person by person.

asked = ask(seed=0)                      # cell -> what its model knows
summary(asked)                           # one row a cell: people, what there is to know, what is known
quantised(models, bits=4)                # the same models on 16 levels a channel
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from paramem.capacity.bits import name_bits
from paramem.capacity.grid import Cell, load, told, train
from paramem.capacity.stacked import Stack
from paramem.capacity.training import Known, losses
from paramem.compression.rounding import round_to_nearest
from paramem.errors import BadParameter
from paramem.evaluation.intervals import Span

DEPARTURES = {
    "quantisation": (
        "GPTQ, which corrects each weight for the errors of those before it",
        "round to nearest, a grid for each output channel (for each token in the embedding)",
        "needs no data; how much GPTQ would keep of these models was not measured",
    ),
}


def ask(
    cells: Iterable[Cell],
    seed: int,
    *,
    anew: bool = False,
    bits: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[Cell, Known]:
    """What each cell's model of a seed knows; trained now on a device if ``anew``, rounded to ``bits`` a weight."""
    found = {}
    for cell in cells:
        models, people = (train(cell, [seed], device=device), told(cell, seed)) if anew else load(cell, seed)
        models = models if bits is None else quantised(models, bits)
        found[cell] = losses(models, [people], marked=cell.telling.marked)
    return found


@torch.no_grad()
def quantised(models: Stack, bits: int) -> Stack:
    """The models with every matrix rounded; norms and biases stay."""
    rounded = {}
    for name, tensor in models.tensors.items():
        if models.shape.is_matrix(name):
            # matrices are stored [inputs, outputs], so that a channel is a column; the embedding has a row for a token
            rows = tensor if name == "embed" else tensor.mT
            near = round_to_nearest(rows, bits)
            rounded[name] = near if name == "embed" else near.mT
    return models.replaced(rounded)


def summary(asked: Mapping[Cell, Known]) -> pd.DataFrame:
    """One row a cell; ``there`` and ``known`` in bits a parameter, ``share`` is the one by the other."""
    rows = [
        {
            "architecture": cell.architecture,
            "width": cell.width,
            "parameters": cell.shape.parameters(),
            "exposures": cell.exposures,
            "data": cell.data,
            "people": cell.people,
            "there": known.most,
            "known": known.ratio[0],
            "share": known.ratio[0] / known.most,
        }
        for cell, known in asked.items()
    ]
    return pd.DataFrame(rows)


def peak(asked: Mapping[Cell, Known], *, architecture: str, exposures: int, most: float = 9.0) -> dict[int, float]:
    """Width to the highest bits a parameter over all numbers of people (of at most ``most`` bits a parameter).

    Clean cells alone. Raises BadParameter when there are none of that kind.
    """
    found: dict[int, float] = {}
    for cell, known in asked.items():
        wanted = (cell.architecture, cell.exposures, cell.data) == (architecture, exposures, "clean")
        if wanted and cell.ratio <= most:
            found[cell.width] = max(found.get(cell.width, -np.inf), known.ratio[0])
    if not found:
        raise BadParameter(f"no cell of {architecture!r} told {exposures} times was asked")
    return found


def person_bits(known: Known) -> NDArray[np.float64]:
    """``[N]`` bits that a model holds about each person, the names' share divided evenly."""
    people = known.names.shape[1]
    names = name_bits(people=people, name_pool=known.pool, name_loss=float(known.names.mean())) / people
    return known.by_person().numpy() + names


def ahead(one: Known, other: Known, seed: int = 0, resamples: int = 2000) -> Span:
    """Bits a parameter of one model less those of another, and the 95 % bootstrap interval over their people."""
    draw = np.random.default_rng(seed)
    scaled = [person_bits(known) * len(known.names[0]) / known.parameters for known in (one, other)]
    means = [each[draw.integers(0, len(each), (resamples, len(each)))].mean(1) for each in scaled]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return Span(float(scaled[0].mean() - scaled[1].mean()), float(low), float(high))
