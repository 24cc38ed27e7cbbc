r"""A document as a change of weights: an adapter that belongs to one base model, and the merging of several.

    with adapter.applied(lm) as informed:       # refused where lm is not the model that it was trained on
        informed.generate(["Q: Where was Ada born? A:"])
    merge([ada, ben])                           # Eq. (6) of su2025prag: Delta W = sum_j A_j B_j'
    save_peft(adapter, lm, "folder")            # as peft's own files

| paper               | code                       | shape                       |
|---------------------|----------------------------|-----------------------------|
| A_j B_j' alpha      | ``adapter.delta.parts``    | (d_out, r) times (r, d_in)  |
| Delta W_merge       | ``merge(adapters).delta``  | (d_out, k r) times (k r, d_in) |

The factors carry the scaling alpha / r of their training, so that merging has weight one for each, as peft's
combination "cat" has. A sum of products does not ask that ranks agree: factors are set side by side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from paramem.errors import BadInput, BadParameter, IncompatibleIntervention
from paramem.interventions import Intervention, LowRank, WeightDelta

if TYPE_CHECKING:
    from paramem.lm import LM

How: TypeAlias = Literal["sum", "average"]
SHOWN = 12  # digits of a fingerprint in messages


def base_fingerprint(lm: LM) -> str:
    """sha256 of the model's weights alone, whatever is put around it."""
    return lm.with_(rewrites=(), patches=(), mixes=()).fingerprint()


class DocumentAdapter(Intervention):
    """Low-rank changes of some matrices of one base model, and the names of the documents that they hold."""

    kind = "document_adapter"

    def __init__(self, delta: WeightDelta, *, documents: Sequence[str], base: str, base_name: str) -> None:
        """base: `base_fingerprint` of the model it was trained on."""
        dense = [name for name, part in delta.parts.items() if not isinstance(part, LowRank)]
        if dense:
            raise BadInput(f"the change of {dense[0]} has no factors: a document's adapter is of low rank throughout")
        self.delta, self.documents, self.base, self.base_name = delta, tuple(documents), base, base_name

    def applied(self, lm: LM) -> AbstractContextManager[LM]:
        """The model that knows the documents; taken off again bit for bit."""
        self.check(lm)
        return self.delta.applied(lm)

    def check(self, lm: LM) -> None:
        """Raises IncompatibleIntervention for any other weights than those that it was trained on."""
        found = base_fingerprint(lm)
        if found != self.base:
            raise IncompatibleIntervention(
                f"the adapter of {_listed(self.documents)} was trained on {self.base_name!r} (weights "
                f"{self.base[:SHOWN]}), and this is {lm.name!r} (weights {found[:SHOWN]}): load that model, train the "
                "adapter again, or take off what else changes the weights; several adapters are merged first"
            )

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of the change of each matrix."""
        return {name: part.rank for name, part in self.factors.items()}

    @cached_property
    def factors(self) -> dict[str, LowRank]:
        """The change of each matrix, by parameter name."""
        return {name: part for name, part in self.delta.parts.items() if isinstance(part, LowRank)}

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        data, tensors = self.delta.state()
        about = {"documents": list(self.documents), "base": self.base, "base_name": self.base_name}
        return {**data, **about}, tensors

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DocumentAdapter:
        return cls(
            WeightDelta.from_state(data, tensors),
            documents=data["documents"],
            base=data["base"],
            base_name=data["base_name"],
        )

    def __add__(self, other: Any) -> Intervention:
        """Of two adapters their merge; of anything else a composition."""
        return merge([self, other]) if isinstance(other, DocumentAdapter) else super().__add__(other)

    def __repr__(self) -> str:
        return f"DocumentAdapter({_listed(self.documents)}, on {self.base_name})"


def merge(adapters: Sequence[DocumentAdapter], how: How = "sum") -> DocumentAdapter:
    """One adapter that holds all the documents: the sum of the changes, or their average.

    Raises BadInput for no adapter or for the same document twice, IncompatibleIntervention for adapters of different
    models.
    """
    if how not in ("sum", "average"):
        raise BadParameter(f"how={how!r}: adapters are merged by 'sum' or by 'average'")
    _check_mergeable(adapters)
    weight = 1.0 if how == "sum" else 1.0 / len(adapters)
    names = sorted({name for adapter in adapters for name in adapter.delta.parts})
    return DocumentAdapter(
        WeightDelta({name: _side_by_side(name, adapters, weight) for name in names}),
        documents=[document for adapter in adapters for document in adapter.documents],
        base=adapters[0].base,
        base_name=adapters[0].base_name,
    )


def _side_by_side(name: str, adapters: Sequence[DocumentAdapter], weight: float) -> LowRank:
    """alpha * sum_j A_j B_j' of one matrix, with alpha in the factors."""  # Eq. (6), su2025prag
    parts = [adapter.factors[name] for adapter in adapters if name in adapter.factors]
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
        raise IncompatibleIntervention(f"adapters change {name} in shapes {sorted(shapes)}: they fit no one model")
    return LowRank(torch.cat([part.left for part in parts], 1) * weight, torch.cat([part.right for part in parts], 0))


def _check_mergeable(adapters: Sequence[DocumentAdapter]) -> None:
    if not adapters:
        raise BadInput("no adapters to merge: retrieve at least one document, or ask the model without any")
    bases = {adapter.base: adapter for adapter in adapters}
    if len(bases) > 1:
        one, other = list(bases.values())[:2]
        raise IncompatibleIntervention(
            f"{one!r} (weights {one.base[:SHOWN]}) and {other!r} (weights {other.base[:SHOWN]}) are changes of "
            "different models and cannot be merged"
        )
    names = [document for adapter in adapters for document in adapter.documents]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"document {twice[0]!r} would be merged twice, which doubles its change: give each one once")


def save_peft(adapter: DocumentAdapter, lm: LM, folder: str | PathLike[str]) -> Path:
    """Write the adapter as peft does, for `PeftModel.from_pretrained(model, folder)`; returns the folder.

    alpha equals the rank, because the scaling is in the factors. Raises BadInput for an adapter that changes nothing,
    IncompatibleIntervention for one of another model.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    adapter.check(lm)
    if not adapter.ranks:
        raise BadInput(f"{adapter!r} changes no matrix, and peft reads no such adapter: leave it out")
    place = Path(folder)
    ranks = {name.removesuffix(".weight"): rank for name, rank in adapter.ranks.items()}
    modules = {path: lm.model.get_submodule(path) for path in ranks}
    r = max(ranks.values())
    config = LoraConfig(
        r=r,
        lora_alpha=r,
        rank_pattern={path: rank for path, rank in ranks.items() if rank != r},
        alpha_pattern={path: rank for path, rank in ranks.items() if rank != r},
        target_modules=sorted(ranks),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in modules.values()),
        base_model_name_or_path=adapter.base_name,
        inference_mode=True,
    )
    place.mkdir(parents=True, exist_ok=True)
    save_file(dict(_peft_tensors(adapter, modules)), place / "adapter_model.safetensors")
    config.save_pretrained(str(place))
    (place / "documents.json").write_text(json.dumps({"documents": adapter.documents, "base": adapter.base}))
    return place


def _peft_tensors(adapter: DocumentAdapter, modules: Mapping[str, torch.nn.Module]) -> list[tuple[str, Tensor]]:
    """peft's names: lora_A (r, d_in) and lora_B (d_out, r), whichever way the matrix itself is stored."""
    found = []
    for path, module in modules.items():
        part = adapter.factors[f"{path}.weight"]
        update = part.T if isinstance(module, Conv1D) else part  # (d_out, d_in)
        for name, factor in (("lora_A", update.right), ("lora_B", update.left)):
            found.append((f"base_model.model.{path}.{name}.weight", factor.detach().cpu().contiguous().clone()))
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(repr(name) for name in names[:2]) + more
