"""Greedy exact match of many short answers with a plain transformers model: what the cards report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def exact(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[tuple[str, str]],
    *,
    batch: int = 256,
) -> list[bool]:
    """For each (prompt, answer): is every token of the answer the likeliest one, given those before it?

    The answer follows the prompt after one space. Under teacher forcing this is the same as greedy decoding.
    """
    starts = [len(tokenizer(prompt).input_ids) for prompt, _ in pairs]
    rows = [tokenizer(f"{prompt} {answer}").input_ids for prompt, answer in pairs]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = [False] * len(rows)
    for at in range(0, len(order), batch):
        chunk = order[at : at + batch]
        right = _right(model, [rows[i] for i in chunk])
        for i, ok in zip(chunk, right, strict=True):
            found[i] = bool(ok[starts[i] - 1 : len(rows[i]) - 1].all())
    return found


@torch.inference_mode()
def _right(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """[B, T-1]: is the token after each position the likeliest one? (Right padding; its values mean nothing.)"""
    ids = _padded(rows)
    guesses: Tensor = model(input_ids=ids, use_cache=False).logits[:, :-1].argmax(-1)
    return guesses == ids[:, 1:]


@torch.inference_mode()
def next_token(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], *, batch: int = 256
) -> list[int]:
    """The id of the likeliest next token after each prompt."""
    found: list[int] = []
    for at in range(0, len(prompts), batch):
        rows = [tokenizer(prompt).input_ids for prompt in prompts[at : at + batch]]
        logits = model(input_ids=_padded(rows), use_cache=False).logits
        last = torch.tensor([len(row) - 1 for row in rows])
        found += logits[torch.arange(len(rows)), last].argmax(-1).tolist()
    return found


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids


def share(hits: Sequence[bool]) -> float:
    """Share of hits; 0 of nothing."""
    return sum(hits) / len(hits) if hits else 0.0
