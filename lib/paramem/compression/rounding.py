"""Round to nearest: every weight becomes the nearest of a few evenly spaced values.

Steps: 1. a grid for each output channel, 2. `round_to_nearest`, Eq. (1) of xu2024onebit; as in namburi2023compression
only weights are quantised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paramem.compression.modules import Group, compressed
from paramem.errors import BadParameter
from paramem.interventions import WeightDelta
from paramem.models import LM


@dataclass(frozen=True, kw_only=True)
class RoundSettings:
    """bits a weight; each output channel has a grid of its own, or the whole matrix has one."""

    bits: int
    group: Group = "all"
    per_channel: bool = True

    def __post_init__(self) -> None:
        _check_bits(self.bits)


def round_to_nearest(W: Tensor, bits: int, *, per_channel: bool = True) -> Tensor:
    """``W [..., d_out, d_in]`` on ``2 ** bits`` levels from the smallest to the largest weight of each row.

    per_channel: a grid for each row (output channel), or one for each matrix. Raises BadParameter for less than a bit.
    """
    _check_bits(bits)
    places = (-1,) if per_channel else (-2, -1)
    low, high = W.amin(places, keepdim=True), W.amax(places, keepdim=True)
    step = (high - low) / (2**bits - 1)
    step = torch.where(step > 0, step, torch.ones_like(step))  # a constant row is on its grid already
    return low + ((W - low) / step).round() * step


def quantise(lm: LM, settings: RoundSettings) -> WeightDelta:
    """The intervention that rounds the weights of a group of modules."""
    return compressed(
        lm, settings.group, lambda W: round_to_nearest(W, settings.bits, per_channel=settings.per_channel)
    )


def _check_bits(bits: int) -> None:
    if bits < 1:
        raise BadParameter(f"{bits} bits: a weight has at least 1, which leaves it two values")
