"""Exact match under teacher forcing is greedy decoding, whatever else is in the batch."""

from __future__ import annotations

from functools import cache

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paramem.world.exact import exact, next_token, share
from paramem.world.read import recipe
from paramem.world.training import build_model

PROMPTS = ("Ada Thorne was", "Q: Where was Ada Thorne born? A:", "Hugo Voss keeps a", "bread bread bread bread bread")


@cache
def tiny() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = recipe().tokenizer()
    return build_model(recipe(), tokenizer).train(False), tokenizer


def greedy(prompt: str, n: int) -> list[int]:
    """The plain loop: one token at a time, no batch, no cache."""
    model, tokenizer = tiny()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    start = ids.shape[1]
    with torch.inference_mode():
        for _ in range(n):
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, start:].tolist()


def test_what_greedy_decoding_writes_is_an_exact_match_and_nothing_else_is() -> None:
    model, tokenizer = tiny()
    words = [piece for piece in tokenizer.get_vocab() if piece.startswith("Ġ") and len(piece) > 1]
    written = {prompt: tokenizer.convert_ids_to_tokens(greedy(prompt, 3)) for prompt in PROMPTS}
    pairs = [
        (p, "".join(tokens).replace("Ġ", " ").strip()) for p, tokens in written.items() if set(tokens) <= set(words)
    ]
    assert pairs, "an untrained model that writes whole words somewhere is needed"
    wrong = [(prompt, f"{text.rsplit(' ', 1)[0]} bread") for prompt, text in pairs if not text.endswith("bread")]
    assert exact(model, tokenizer, pairs) == [True] * len(pairs)
    assert exact(model, tokenizer, wrong) == [False] * len(wrong)
    mixed = [pair for both in zip(pairs, wrong, strict=False) for pair in both]
    assert exact(model, tokenizer, mixed, batch=3) == [True, False] * (len(mixed) // 2)


def test_the_next_token_is_the_first_of_greedy_decoding() -> None:
    model, tokenizer = tiny()
    first = [greedy(prompt, 1)[0] for prompt in PROMPTS]
    assert next_token(model, tokenizer, PROMPTS) == first
    assert next_token(model, tokenizer, PROMPTS, batch=1) == first


def test_share_of_nothing_is_nothing() -> None:
    assert share([]) == 0
    assert share([True, False, True, True]) == 0.75
