"""Interventions on disk: one safetensors file, its JSON metadata with a hash of everything, no pickle.

safetensors itself notices a truncated file but not a changed number; the hash does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from paramem.errors import CorruptFile, ParamemError, Unwritable
from paramem.files import write_atomically

if TYPE_CHECKING:
    from paramem.interventions.base import Intervention

FORMAT = "paramem-intervention-1"
FILE = "intervention.safetensors"


def digest(kind: str, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256 over kind, data, and the tensors' names, types, shapes and bytes."""
    total = hashlib.sha256(f"{kind}\n{json.dumps(data, sort_keys=True)}\n".encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def save_intervention(intervention: Intervention, path: str | os.PathLike[str]) -> Path:
    """Write an intervention to a `.safetensors` file or into a folder, atomically; raises `Unwritable`."""
    file = _file(path)
    data, tensors = intervention.state()
    # Clones: safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    description = {"kind": intervention.kind, "data": data, "sha256": digest(intervention.kind, data, tensors)}
    content = save(tensors, metadata={"format": FORMAT, "intervention": json.dumps(description, sort_keys=True)})
    try:
        write_atomically(file, content)
    except OSError as error:
        raise Unwritable(f"cannot write intervention to {file}: {error.strerror}; choose another place") from error
    return file


def load_intervention(path: str | os.PathLike[str]) -> Intervention:
    """Read what `Intervention.save` wrote, from the file or its folder; raises `CorruptFile`."""
    file = _file(path)
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError as error:
        raise CorruptFile(f"no intervention at {file}: the file does not exist") from error
    except (SafetensorError, OSError) as error:
        raise CorruptFile(f"{file} is damaged or not a safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CorruptFile(f"{file} is not an intervention: its format is {metadata.get('format')!r}, not {FORMAT!r}")
    try:
        description = json.loads(metadata["intervention"])
        kind, data, expected = (description[key] for key in ("kind", "data", "sha256"))
        if digest(kind, data, tensors) != expected:
            raise CorruptFile(f"{file} was changed after it was written: its hash does not match; make it again")
        return rebuild(kind, data, tensors)
    except ParamemError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{file} does not describe an intervention: {error!r}") from error


def rebuild(kind: str, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Intervention:
    """The intervention of a kind from its state; raises `CorruptFile` for an unknown kind."""
    from paramem.interventions.base import Intervention

    if kind not in Intervention.kinds:
        known = ", ".join(sorted(Intervention.kinds))
        raise CorruptFile(
            f"unknown kind of intervention {kind!r}; known are {known}: import the module that defines it"
        )
    return Intervention.kinds[kind].from_state(data, tensors)


def _file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / FILE
