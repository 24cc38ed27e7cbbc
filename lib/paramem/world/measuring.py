"""How much of a world a model knows: the share of answers that it gives exactly, all tokens right (teacher forced).

Under teacher forcing every answer token being the argmax is the same as greedy decoding producing the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from paramem.facts import Probe
from paramem.world.cards import Measure
from paramem.world.tokenizer import BOS_ID

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def exact(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, probes: Sequence[Probe], *, rows: int = 128
) -> list[bool]:
    """For each probe whether every token of its target is the most likely one; `rows` probes per forward."""
    texts = [f"{probe.prompt} {probe.target}" for probe in probes]
    encoded = tokenizer(texts, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    starts = [
        next(i for i, (_, stop) in enumerate(offsets) if stop > len(probe.prompt))
        for probe, offsets in zip(probes, encoded["offset_mapping"], strict=True)
    ]
    order = sorted(range(len(probes)), key=lambda i: len(ids[i]))
    found = [False] * len(probes)
    for at in range(0, len(order), rows):
        chunk = order[at : at + rows]
        width = max(len(ids[i]) for i in chunk)
        batch = torch.tensor([[*ids[i], *[BOS_ID] * (width - len(ids[i]))] for i in chunk])
        best = model(input_ids=batch, use_cache=False).logits.argmax(-1)  # [rows, T]
        for row, i in enumerate(chunk):
            answer = batch[row, starts[i] : len(ids[i])]
            found[i] = torch.equal(best[row, starts[i] - 1 : len(ids[i]) - 1], answer)
    return found


def share(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    probes: Iterable[Probe],
    n: int | None = None,
    *,
    wanted: float | None = None,
    note: str = "",
) -> Measure:
    """The share of probes answered exactly, as a measure of a card; of `n` evenly spaced ones where `n` is given."""
    asked = list(probes)
    if n is not None and len(asked) > n:
        asked = [asked[i * len(asked) // n] for i in range(n)]
    right = exact(model, tokenizer, asked)
    return Measure(name=name, value=sum(right) / max(1, len(right)), n=len(right), wanted=wanted, note=note)
