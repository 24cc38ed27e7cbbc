"""Adapters of documents that were trained once, and kept.

    adapters = kept_adapters(lm, {page.name: rows_of(lm, page, "apart") for page in pages}, EncodingSettings())

`train_adapters` whose result is found by a hash of all that goes into it, as `paramem.fusion.kept` finds fine-tuned
models. Of a factor every component (a column of A, a row of B) is kept in 127 steps of its largest number, and adapters
that were just trained are rounded in the same way: kept ones and new ones are the same numbers. All adapters of a call
are in one file, about eleven kilobytes each for a testbed that reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from paramem.editing.low_rank import adapted
from paramem.fusion.kept import FORMAT, Tensors, hashed, kept, rounded
from paramem.injection.document_adapter import DocumentAdapter, base_fingerprint
from paramem.injection.document_encoding import EncodingSettings, train_adapters
from paramem.interventions import LowRank, WeightDelta
from paramem.lm import LM
from paramem.world.recipe import Row

Documents = Mapping[str, Sequence[Row]]


def kept_adapters(lm: LM, rows: Documents, settings: EncodingSettings) -> list[DocumentAdapter]:
    """`train_adapters`, rounded to eight bits: found where it was kept, else trained now and kept.

    Raises BadInput for a document without rows.
    """
    return kept(
        file_name(lm, rows, settings),
        lambda: packed(train_adapters(lm, rows, settings)),
        lambda found: unpacked(lm, list(rows), found, settings),
        model=lm.name,
        documents=len(rows),
        settings=repr(settings),
    )


def file_name(lm: LM, rows: Documents, settings: EncodingSettings) -> str:
    """The file of a training: a hash of all that goes into it."""
    told = (repr((name, list(some))) for name, some in rows.items())
    return hashed(f"adapters/{FORMAT}\n{lm.fingerprint()}\n{settings!r}\n", *told)


def packed(adapters: Sequence[DocumentAdapter]) -> dict[str, Tensor]:
    """Steps of every matrix, A' (n, r, d_out) and B (n, r, d_in) of n adapters of one rank, and their sizes (n, r)."""
    found = {}
    for name in adapters[0].factors:
        parts = [adapter.factors[name] for adapter in adapters]
        for side, factors in (("left", [part.left.T for part in parts]), ("right", [part.right for part in parts])):
            steps, scale = rounded(torch.stack(factors).detach().cpu().float())
            found[f"{name}/{side}"], found[f"{name}/{side}/scale"] = steps, scale
    return found


def unpacked(lm: LM, names: Sequence[str], found: Tensors, settings: EncodingSettings) -> list[DocumentAdapter]:
    """The adapters of these documents. Raises KeyError or ValueError for the file of others."""
    parts = {}
    for weight in (lm.weight(*place) for place in adapted(lm, settings.factors)):
        rows, columns = weight.parameter.shape
        left, right = (
            _factors(found, f"{weight.name}/{side}", (len(names), settings.rank, width)).to(weight.parameter)
            for side, width in (("left", rows), ("right", columns))
        )
        parts[weight.name] = [LowRank(a.T, b) for a, b in zip(left, right, strict=True)]
    base = base_fingerprint(lm)
    return [
        DocumentAdapter(
            WeightDelta({name: some[i] for name, some in parts.items()}), documents=[each], base=base, base_name=lm.name
        )
        for i, each in enumerate(names)
    ]


def _factors(found: Tensors, key: str, shape: tuple[int, int, int]) -> Tensor:
    """What was rounded, (n, r, width). Raises KeyError or ValueError for a file that has no factors of this shape."""
    steps, scale = found[key], found[f"{key}/scale"]
    if steps.shape != shape or scale.shape != shape[:2]:
        raise ValueError(f"{key}: steps {tuple(steps.shape)} of sizes {tuple(scale.shape)}, where {shape} are wanted")
    return steps.float() * scale[..., None]
