"""Magnitude pruning: the smallest weights become zero (as in namburi2023compression).

Steps: 1. rank by absolute value, 2. `pruned`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from paramem.compression.modules import Group, check_share, compressed, delta_to, matrices, oriented
from paramem.interventions import WeightDelta
from paramem.models import LM

Scope: TypeAlias = Literal["matrix", "group"]


@dataclass(frozen=True, kw_only=True)
class PruneSettings:
    """sparsity is the share that becomes zero: of every matrix, or of all matrices of the group ranked together."""

    sparsity: float
    group: Group = "all"
    scope: Scope = "matrix"

    def __post_init__(self) -> None:
        check_share("sparsity", self.sparsity)


def pruned(W: Tensor, sparsity: float) -> Tensor:
    """``W`` with the share ``sparsity`` of its entries of smallest absolute value set to zero (rounded down)."""
    check_share("sparsity", sparsity)
    out = W.clone().flatten()
    out[out.abs().argsort(stable=True)[: int(sparsity * out.numel())]] = 0
    return out.view_as(W)


def prune(lm: LM, settings: PruneSettings) -> WeightDelta:
    """The intervention that prunes a group of modules."""
    if settings.scope == "matrix":
        return compressed(lm, settings.group, lambda W: pruned(W, settings.sparsity))
    refs = matrices(lm, settings.group)
    weights = [oriented(ref) for ref in refs]
    together = pruned(torch.cat([W.flatten() for W in weights]), settings.sparsity)
    parts = torch.split(together, [W.numel() for W in weights])
    return delta_to({r.name: p.view_as(W) for r, p, W in zip(refs, parts, weights, strict=True)}, refs)
