r"""Second moments of MLP keys, C = E[k k^T]: what a layer is usually asked, so that an edit can keep out of its way.

meng2022rome, section 3.1 and appendix E.5: uncentred, over every token of ordinary text, collected once per model and
layer. The file of a computed C is named by a hash of the model's weights, the layer and the text, so a stale one is
never read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from paramem.arch import Site
from paramem.errors import BadInput, BadParameter
from paramem.files import write_atomically
from paramem.models import LM


def cache_folder() -> Path:
    """``$PARAMEM_CACHE``, or ``paramem`` in the user's cache folder; an empty variable counts as unset."""
    if own := os.environ.get("PARAMEM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paramem"


@torch.no_grad()
def second_moment(lm: LM, layer: int, texts: Sequence[str], *, batch_tokens: int = 4096) -> Tensor:
    """C = mean over all tokens of k k^T, (d_mlp, d_mlp) float64; k is the input of the layer's down projection.

    Each text is read on its own from its beginning, cut at the model's context. Raises BadInput when there is no text.
    """
    if not 0 <= layer < lm.n_layers:
        raise BadParameter(f"layer={layer}: {lm.name} has layers 0 to {lm.n_layers - 1}; choose one of these.")
    if not texts:
        raise BadInput(
            "second_moment: no texts. Pass text of the kind that the model was trained on, 10,000 tokens or more."
        )
    site = Site("mlp_hidden", layer)
    total = torch.zeros(lm.d_mlp, lm.d_mlp, dtype=torch.float64, device=lm.device)
    count = 0
    for batch in lm.text_batches(texts, batch_tokens=batch_tokens):
        keys = lm.states(batch, [site])[site]
        keys = keys[batch.attention_mask.bool()]  # (tokens, d_mlp): padding is no text
        total += (keys.T @ keys).double()
        count += len(keys)
    return total / count


def cached_second_moment(lm: LM, layer: int, texts: Sequence[str], *, folder: Path | None = None) -> Tensor:
    """``second_moment``, kept on disk. A folder that cannot be written costs the cache, not the result."""
    digest = hashlib.sha256("\x00".join(texts).encode()).hexdigest()
    name = hashlib.sha256(f"{lm.fingerprint()} {lm.dtype} {layer} {digest}".encode()).hexdigest()[:24]
    path = (folder or cache_folder() / "second-moments") / f"{name}.safetensors"
    if path.exists():
        try:
            return load_file(path, device=str(lm.device))["C"]
        except (SafetensorError, KeyError, OSError):
            pass  # a damaged file is computed again and replaced
    C = second_moment(lm, layer, texts)
    with suppress(OSError):  # a read-only cache: the caller has C all the same
        write_atomically(path, save({"C": C.contiguous()}, metadata={"model": lm.name, "layer": str(layer)}))
    return C
