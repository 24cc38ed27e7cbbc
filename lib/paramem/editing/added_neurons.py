"""What T-Patcher leaves in a model: a few neurons beside those of one feed-forward layer (huang2023patcher)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers.activations import ACT2FN

from paramem.arch import Site
from paramem.hooks import TokenLayout
from paramem.interventions import ModulePatch


@dataclass(frozen=True, kw_only=True, eq=False)
class AddedNeurons(ModulePatch):
    """Neurons beside those of one feed-forward layer; they act at every token. No existing weight changes.

    `owners` says which edit, counted from 0, each neuron was added for.
    """

    kind = "added_neurons"

    keys: Tensor
    biases: Tensor
    values: Tensor
    activation: str
    owners: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.biases)

    @property
    def widths(self) -> tuple[int, int]:
        return self.keys.shape[1], self.values.shape[1]

    def inputs(self, queries: Tensor) -> Tensor:
        """q k_p + b_p for each neuron: (..., d_model) to (..., neurons)."""
        return queries @ self.keys.to(queries).T + self.biases.to(queries)

    def added(self, queries: Tensor) -> Tensor:
        """What the neurons add to the layer's output: (..., d_model) to (..., d_model)."""
        found: Tensor = ACT2FN[self.activation](self.inputs(queries)) @ self.values.to(queries)
        return found

    def transform(self, query: Tensor, state: Tensor, layout: TokenLayout) -> Tensor:
        return state + self.added(query)

    def of(self, edits: Iterable[int]) -> AddedNeurons:
        """The neurons of some edits. Those of the first n edits of a sequence are what there was after n edits."""
        wanted = set(edits)
        index = [place for place, owner in enumerate(self.owners) if owner in wanted]
        return replace(
            self,
            keys=self.keys[index],
            biases=self.biases[index],
            values=self.values[index],
            owners=tuple(self.owners[place] for place in index),
        )

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        data: dict[str, Any] = {"reads": str(self.reads), "writes": str(self.writes), "activation": self.activation}
        return data | {"owners": list(self.owners)}, {"keys": self.keys, "biases": self.biases, "values": self.values}

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AddedNeurons:
        return cls(
            reads=Site.parse(data["reads"]),
            writes=Site.parse(data["writes"]),
            keys=tensors["keys"],
            biases=tensors["biases"],
            values=tensors["values"],
            activation=data["activation"],
            owners=tuple(data["owners"]),
        )
