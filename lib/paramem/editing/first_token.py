"""Subjects that are the first token of their prompt: keys unlike all others, and what two keys in one update do.

yang2024fall: the states at a text's very first position are far from those at any other, because nothing stands before
it. An update that is built from prefixed keys and divided by the bare one then has a small denominator. Most testbeds
open every text with a start token; `without_start` takes it away.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pandas as pd
import torch

from paramem.arch import Site
from paramem.editing.requests import check_requests
from paramem.editing.rome import RomeSettings, rome_each, subject_keys
from paramem.errors import BadInput
from paramem.facts import EditRequest
from paramem.models import LM


def without_start(lm: LM) -> LM:
    """The same model, read without a start token. Raises BadInput where its tokenizer puts none in front."""
    bare = copy.deepcopy(lm.tokenizer)
    backend = getattr(bare, "backend_tokenizer", None)
    starts = lm.encode(["a"]).input_ids[0, 0].item() in lm.tokenizer.all_special_ids
    if backend is None or not starts:
        raise BadInput(f"{lm.name}: its texts have no start token that could be taken away.")
    from tokenizers.processors import ByteLevel

    backend.post_processor = ByteLevel(trim_offsets=True)
    return lm.with_(tokenizer=bare)


def first_token_subjects(lm: LM, requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests whose subject is one token and opens the prompt (behind the start token, where there is one)."""
    opens = [request for request in requests if request.template.startswith("{}")]
    spans = {request.id: lm.subject_span(request.prompt, request.subject) for request in opens}
    return [request for request in opens if len(spans[request.id]) == 1]


@torch.no_grad()
def key_norms(lm: LM, requests: Sequence[EditRequest], settings: RomeSettings) -> pd.DataFrame:
    """For each request the norms of its bare and its prefixed key, their distance and their cosine."""
    keys = subject_keys(lm, check_requests(lm, requests, [settings.layer], together=False), settings)
    return pd.DataFrame(
        {
            "request": [request.id for request in requests],
            "bare": keys.bare.norm(dim=1).tolist(),
            "prefixed": keys.average.norm(dim=1).tolist(),
            "distance": (keys.bare - keys.average).norm(dim=1).tolist(),
            "cosine": torch.cosine_similarity(keys.bare, keys.average, dim=1).tolist(),
        }
    )


def update_norms(
    lm: LM, requests: Sequence[EditRequest], settings: RomeSettings, C: torch.Tensor | None
) -> list[float]:
    """The norm of every request's own update."""
    name = lm.weight(settings.layer, "down").name
    return [float(delta.dense(name).norm()) for delta in rome_each(lm, requests, settings, C)]


def first_state(lm: LM, texts: Sequence[str], layer: int) -> tuple[float, float]:
    """Mean norm of the keys at the first position of texts, and at all later ones."""
    site, first, later = Site("mlp_hidden", layer), list[float](), list[float]()
    with torch.no_grad():
        for batch in lm.text_batches(texts):
            norms = lm.states(batch, [site])[site].norm(dim=-1)
            mask = batch.attention_mask.bool()
            first += norms[:, 0].tolist()
            later += norms[:, 1:][mask[:, 1:]].tolist()
    return sum(first) / len(first), sum(later) / len(later)
