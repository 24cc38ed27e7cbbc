"""What GRACE leaves beside a layer: keys with balls around them, and what the layer puts out for a query inside one
(hartvigsen2022grace)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from paramem.arch import Site
from paramem.hooks import TokenLayout
from paramem.interventions import ModulePatch

SLACK = 1e-5  # of the query's norm


@dataclass(frozen=True, kw_only=True, eq=False)
class Codebook(ModulePatch):
    """Entries (key, value, radius, label). A prompt whose last token's query lies in the ball of its nearest key gets
    that entry's value as the module's output; every other prompt passes unchanged, bit for bit.

    The tokens of a cached prompt are not looked up again: forwards without the prompt's last token pass unchanged.
    """

    kind = "codebook"

    keys: Tensor
    values: Tensor
    radii: Tensor
    labels: tuple[str, ...]
    replace: Literal["last", "prompt"] = "last"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def widths(self) -> tuple[int, int]:
        return self.keys.shape[1], self.values.shape[1]

    def look_up(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For queries (n, width): the nearest entry, the distance to it, and whether its ball holds the query."""
        distance, nearest = distances(queries, self.keys.to(queries)).min(1)
        return nearest, distance, distance <= self.radii.to(queries)[nearest] + SLACK * queries.norm(dim=1)

    def transform(self, query: Tensor, state: Tensor, layout: TokenLayout) -> Tensor:
        last, width = layout.prompt_last, state.shape[1]
        rows = torch.arange(len(state), device=state.device)
        nearest, _, inside = self.look_up(query[rows, last.clamp(0, width - 1)])
        inside = inside & (last >= 0) & (last < width)
        columns = torch.arange(width, device=state.device)[None]
        first = last if self.replace == "last" else layout.first
        mask = inside[:, None] & (columns >= first[:, None]) & (columns <= last[:, None])
        return torch.where(mask[..., None], self.values.to(state)[nearest][:, None], state)

    def with_radius(self, radius: float) -> Codebook:
        """The same entries, all with one radius."""
        return replace(self, radii=torch.full_like(self.radii, radius))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        data = {"reads": str(self.reads), "writes": str(self.writes), "replace": self.replace}
        tensors = {"keys": self.keys, "values": self.values, "radii": self.radii}
        return data | {"labels": list(self.labels)}, tensors

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Codebook:
        return cls(
            reads=Site.parse(data["reads"]),
            writes=Site.parse(data["writes"]),
            keys=tensors["keys"],
            values=tensors["values"],
            radii=tensors["radii"],
            labels=tuple(data["labels"]),
            replace=data["replace"],
        )


def distances(queries: Tensor, keys: Tensor) -> Tensor:
    """Euclidean, (n, entries); without the matrix product that loses small distances to rounding."""
    return torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
