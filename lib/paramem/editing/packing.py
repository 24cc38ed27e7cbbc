"""How learned tensors are kept in a file: in half precision, or matrices in eight bits with a scale for each row.

pack(tensors, 8)      a matrix w becomes whole numbers q of [-127, 127], and w ~ q * scale, row by row
unpack(stored)        float32 again; whole numbers, which are indices, are left as they are
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Bits: TypeAlias = Literal[8, 16]
SCALE = "|scale"  # ends the name of what the rows of a matrix are multiplied by
LARGEST = 127


def pack(tensors: Mapping[str, Tensor], bits: Bits) -> dict[str, Tensor]:
    """What is written: half precision, and with eight bits two tensors for each matrix."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous()
        if not values.is_floating_point():
            stored[name] = values
        elif bits == 8 and values.dim() == 2:
            scale = (values.float().abs().amax(1) / LARGEST).to(torch.float16)
            safe = scale.float().clamp(min=torch.finfo(torch.float16).tiny)
            stored[name] = (values / safe[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8)
            stored[name + SCALE] = safe.to(torch.float16)
        else:
            stored[name] = values.to(torch.float16)
    return stored


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is computed with."""
    found = {}
    for name, tensor in stored.items():
        if name + SCALE in stored:
            found[name] = tensor.float() * stored[name + SCALE].float()[:, None]
        elif not name.endswith(SCALE):
            found[name] = tensor.float() if tensor.is_floating_point() else tensor
    return found
