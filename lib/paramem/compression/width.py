"""Narrower feed-forward layers: the least important neurons are taken out whole (martra2025width).

Steps: 1. `importance` of every neuron from its weights, 2. keep the most important ones, 3. `narrow`: the others' rows
of the projections up (and of the gate) and columns of the projection down become zero, which is what a narrower layer
computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from paramem.compression.modules import check_share, delta_to, oriented
from paramem.errors import BadParameter
from paramem.interventions import WeightDelta
from paramem.models import LM

Criterion: TypeAlias = Literal["peak-to-peak", "largest", "norm product", "chance"]

DEPARTURES = {
    "biases": (
        "Llama's feed-forward layers, which have no biases",
        "in GPT-2 the removed neurons' biases stay, where nothing reads them",
        "their columns of the projection down are zero, so the layer computes what the narrower one would",
    ),
    "no gate": (
        "importance is the sum over gate and up projection",
        "where a family has no gate, of the up projection alone",
        "GPT-2 has one projection up",
    ),
}


@dataclass(frozen=True, kw_only=True)
class WidthSettings:
    """removed is the share of neurons taken out of every layer; seed decides only under criterion "chance"."""

    removed: float
    criterion: Criterion = "peak-to-peak"
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("removed", self.removed)
        if self.criterion not in get_args(Criterion):
            raise BadParameter(f"no criterion {self.criterion!r}; there are {', '.join(get_args(Criterion))}")


def importance(lm: LM, layer: int, settings: WidthSettings) -> Tensor:
    """``[d_mlp]``: how much a neuron counts.

    peak-to-peak: largest less smallest weight, as the paper's third version has it; largest: the largest absolute
    weight, as its first version says; both summed over the projections into the neuron. norm product: the norms of its
    weights in and out, multiplied.
    """
    into = [oriented(lm.weight(layer, role)) for role in ("gate", "up") if role in lm.arch.layout.weights]
    if settings.criterion == "chance":
        return torch.rand(lm.d_mlp, generator=torch.Generator().manual_seed(1000 * settings.seed + layer))
    if settings.criterion == "norm product":
        out = oriented(lm.weight(layer, "down"))
        return (torch.cat(into, 1).square().sum(1) * out.square().sum(0)).sqrt()
    if settings.criterion == "largest":
        return torch.stack([W.abs().amax(1) for W in into]).sum(0)
    return torch.stack([W.amax(1) - W.amin(1) for W in into]).sum(0)


@torch.no_grad()
def narrow(lm: LM, settings: WidthSettings) -> WeightDelta:
    """The intervention that takes the share ``removed`` of neurons (rounded down) out of every layer."""
    targets, refs = {}, []
    for layer in range(lm.n_layers):
        gone = importance(lm, layer, settings).argsort(stable=True)[: int(settings.removed * lm.d_mlp)]
        for role in ("gate", "up", "down"):
            if role not in lm.arch.layout.weights:
                continue
            ref = lm.weight(layer, role)
            W = oriented(ref).clone()
            if role == "down":
                W[:, gone] = 0
            else:
                W[gone] = 0
            targets[ref.name] = W
            refs.append(ref)
    return delta_to(targets, refs)
