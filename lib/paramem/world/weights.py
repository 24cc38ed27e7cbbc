"""Weights and training states on disk: safetensors only, replaced atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from paramem.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps per parameter


@dataclass(frozen=True, kw_only=True)
class State:
    """A training state as read back: `meta` is whatever was stored beside the tensors."""

    parameters: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]


def save_weights(model: PreTrainedModel, path: Path) -> tuple[int, str]:
    """Store the parameters (tied ones once) in fp16; returns the file's size in bytes and its sha256."""
    tensors = {name: p.detach().to(torch.float16).contiguous() for name, p in model.named_parameters()}
    data = save(tensors, metadata={"format": "pt"})
    write_atomically(path, data)
    return len(data), hashlib.sha256(data).hexdigest()


@contextmanager
def with_fp16_rounding(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the parameters are what `save_weights` stores; afterwards they are what they were."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    try:
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.to(torch.float16).to(p.dtype))
        yield
    finally:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(before[name])


def save_state(
    path: Path, parameters: Mapping[str, Tensor], optim: torch.optim.Optimizer, meta: Mapping[str, Any]
) -> None:
    """Store full-precision parameters, AdamW's moments and `meta` (JSON) in one file."""
    tensors = {f"parameter/{name}": p.detach() for name, p in parameters.items()}
    for name, p in parameters.items():
        for key in MOMENTS:
            tensors[f"{key}/{name}"] = optim.state[p][key]
    write_atomically(path, save(tensors, metadata={"meta": json.dumps(dict(meta))}))


def load_state(path: Path) -> State:
    parameters: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["meta"])
        for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
            group, name = key.split("/", 1)
            if group == "parameter":
                parameters[name] = file.get_tensor(key)
            else:
                moments.setdefault(name, {})[group] = file.get_tensor(key)
    return State(parameters=parameters, moments=moments, meta=meta)
