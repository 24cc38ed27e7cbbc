"""Which matrices of a model are compressed, and how a compressed matrix becomes an intervention.

    compressed(lm, "feed-forward", lambda W: W.clamp(-1, 1))   # W is [d_out, d_in] in every family

Embeddings, norms and biases are never touched. A delta is the difference to the present weights, so what stands in the
model while it is applied is the compressed matrix up to the last bit of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from paramem.arch import WeightRef
from paramem.errors import BadParameter
from paramem.interventions import Dense, WeightDelta
from paramem.models import LM

Group: TypeAlias = Literal["attention", "feed-forward", "all"]
ROLES: Mapping[str, tuple[str, ...]] = {
    "attention": ("q", "k", "v", "qkv", "attn_out"),
    "feed-forward": ("gate", "up", "down"),
}


def matrices(lm: LM, group: Group) -> list[WeightRef]:
    """The weight matrices of a group, layer by layer; raises BadParameter for an unknown group."""
    if group not in get_args(Group):
        raise BadParameter(f"no group of modules {group!r}; there are {', '.join(get_args(Group))}")
    wanted = [role for name, roles in ROLES.items() if group in (name, "all") for role in roles]
    there = [role for role in wanted if role in lm.arch.layout.weights]
    return [lm.weight(layer, role) for layer in range(lm.n_layers) for role in there]


def oriented(ref: WeightRef) -> Tensor:
    """The matrix as ``[d_out, d_in]``, in float32 or the model's own precision if that is higher."""
    stored = _exact(ref)
    return stored.T if ref.transposed else stored


def delta_to(targets: Mapping[str, Tensor], refs: list[WeightRef]) -> WeightDelta:
    """What turns each matrix into its target ``[d_out, d_in]``."""
    parts = {}
    for ref in refs:
        target = targets[ref.name].T if ref.transposed else targets[ref.name]
        parts[ref.name] = Dense((target - _exact(ref)).contiguous())
    return WeightDelta(parts)


@torch.no_grad()
def compressed(lm: LM, group: Group, compress: Callable[[Tensor], Tensor]) -> WeightDelta:
    """Every matrix of the group replaced by what ``compress`` makes of it."""
    refs = matrices(lm, group)
    return delta_to({ref.name: compress(oriented(ref)) for ref in refs}, refs)


def _exact(ref: WeightRef) -> Tensor:
    stored = ref.parameter.detach()
    return stored.to(torch.promote_types(stored.dtype, torch.float32))


def check_share(name: str, value: float) -> None:
    """Raises BadParameter when a share is outside [0, 1]."""
    if not 0 <= value <= 1:
        raise BadParameter(f"{name} is {value}: it is a share, from 0 for nothing to 1 for everything")
