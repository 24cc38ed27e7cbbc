"""Continuing prompts token by token with a key-value cache.

Rows are padded on the left, so that all of them grow at the same column, with positions counted from each row's first
real token. A row's continuation does not depend on the rows beside it: sampling draws from a generator seeded by the
seed, the prompt and how often that prompt came before.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from paramem.errors import BadParameter, PromptTooLong
from paramem.hooks import TokenLayout, token_layout

if TYPE_CHECKING:
    from paramem.lm import LM


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to continue: greedily at temperature 0, else from the `top_k` most probable tokens (all by default).

    A continuation ends before the first `stop` text, at an end-of-text token, or after `max_new_tokens`. Draws follow
    from the seed and the prompts, or from what is `named` in their place, one text for each.
    """

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0
    stop: str | Sequence[str] | None = None
    named: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise BadParameter(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.temperature < 0:
            raise BadParameter(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise BadParameter(f"top_k must be at least 1, or None for all tokens, not {self.top_k}")
        if any(not text for text in self.stops):
            raise BadParameter("a stop text is empty: every continuation would end at once")

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def generate(lm: LM, prompts: Sequence[str], sampling: Sampling) -> list[str]:
    """The continuations of the prompts; raises `PromptTooLong` when prompt and new tokens exceed the context."""
    return _continued(lm, prompts, sampling).finished()


def generate_tokens(lm: LM, prompts: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
    """The continuations as tokens, without the end-of-text token."""
    return [tuple(tokens) for tokens in _continued(lm, prompts, sampling).new]


def decode(lm: LM, prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> list[str]:
    """The texts of continuations given as tokens."""
    texts = _Texts(lm, prompts, ())
    texts.new = [list(row) for row in tokens]
    return texts.finished()


def end_tokens(lm: LM) -> frozenset[int]:
    """The tokens at which a continuation ends."""
    return frozenset(_ends(lm))


def _continued(lm: LM, prompts: Sequence[str], sampling: Sampling) -> _Texts:
    generators = _generators(sampling.named or prompts, sampling.seed) if sampling.temperature else None
    texts = _Texts(lm, prompts, sampling.stops)
    with torch.no_grad():
        stream = _Stream(lm, prompts, sampling.max_new_tokens)
        chosen: Tensor | None = None
        for _ in range(sampling.max_new_tokens):
            chosen = choose(stream.step(chosen), sampling, generators)
            if texts.extend(chosen.tolist()):
                break
    return texts


def choose(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator] | None = None) -> Tensor:
    """The next token for logits `[B, V]`, as `[B]`; drawn by adding Gumbel noise when there are generators."""
    if generators is None:
        return logits.argmax(-1)
    logits = logits.double() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        lowest = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    draws = [torch.rand(logits.shape[-1], generator=generator, dtype=torch.float64) for generator in generators]
    return (logits - (-torch.stack(draws).log()).log().to(logits.device)).argmax(-1)


class _Stream:
    """One model reading its encoding of the prompts, then the tokens chosen; mixed models are streams within."""

    def __init__(self, lm: LM, prompts: Sequence[str], max_new_tokens: int) -> None:
        self.lm = lm
        batch = lm.encode(prompts)
        self.width = batch.input_ids.shape[1]
        self.pads = self.width - batch.lengths
        self._check(batch.lengths, prompts, max_new_tokens)
        columns = torch.arange(self.width, device=lm.device) - self.pads[:, None]
        self.ids = batch.input_ids.gather(1, columns.clamp(min=0))
        # Without padding no mask is passed, which keeps the fast attention kernel.
        self.mask = (columns >= 0).long() if bool(self.pads.any()) else None
        self.positions = columns.clamp(min=0)
        self.past = 0
        self.cache = DynamicCache(config=lm.model.config)
        self.mixes = [mix.continuing(prompts) for mix in lm.mixes]
        self.terms = [[_Stream(term, prompts, max_new_tokens) for term in models] for models, _ in self.mixes]

    def step(self, chosen: Tensor | None) -> Tensor:
        """Read the prompts (None) or one more token for each row; returns the next token's logits `[B, V]`."""
        if chosen is not None:
            self._append(chosen.to(self.ids.device))
        own = self._forward()
        for (_, combine), streams in zip(self.mixes, self.terms, strict=True):
            own = combine(own, [stream.step(chosen) for stream in streams])
        return own

    def _append(self, chosen: Tensor) -> None:
        self.past += self.ids.shape[1]
        self.ids = chosen[:, None]
        self.positions = self.positions[:, -1:] + 1
        if self.mask is not None:
            self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], dim=1)

    def _forward(self) -> Tensor:
        arch, last = self.lm.arch, torch.full_like(self.pads, self.ids.shape[1] - 1)
        layout = TokenLayout(self.pads - self.past, torch.full_like(self.pads, self.width - 1 - self.past), last)
        with token_layout(layout):
            hidden = arch.body(
                inputs_embeds=arch.tokens(self.ids),
                attention_mask=self.mask,
                position_ids=self.positions,
                past_key_values=self.cache,
                use_cache=True,
            ).last_hidden_state
            logits: Tensor = arch.head(hidden[:, -1])
        return logits

    def _check(self, lengths: Tensor, prompts: Sequence[str], max_new_tokens: int) -> None:
        row = int(lengths.argmax())
        if int(lengths[row]) + max_new_tokens > self.lm.max_length:
            raise PromptTooLong(
                f"prompt {row}, {prompts[row][:40]!r}, has {int(lengths[row])} tokens; with "
                f"max_new_tokens={max_new_tokens} it exceeds the context of {self.lm.max_length}: "
                "shorten the prompt or generate less"
            )


class _Texts:
    """The tokens and texts of the continuations, and which of them have ended."""

    def __init__(self, lm: LM, prompts: Sequence[str], stops: tuple[str, ...]) -> None:
        self.tokenizer, self.stops = lm.tokenizer, stops
        batch = lm.encode(prompts)
        self.prompts = [
            row[:length] for row, length in zip(batch.input_ids.tolist(), batch.lengths.tolist(), strict=True)
        ]
        self.new: list[list[int]] = [[] for _ in prompts]
        self.done = [False] * len(prompts)
        self.ends = set(_ends(lm))

    def extend(self, chosen: Sequence[int]) -> bool:
        """Take in one token per row; true when all rows have ended."""
        for row, token in enumerate(chosen):
            if not self.done[row]:
                self.done[row] = token in self.ends
                if not self.done[row]:
                    self.new[row].append(token)
                    self.done[row] = bool(self.stops) and any(stop in self._text(row) for stop in self.stops)
        return all(self.done)

    def finished(self) -> list[str]:
        texts = [self._text(row) for row in range(len(self.new))]
        for stop in self.stops:
            texts = [text.split(stop, 1)[0] for text in texts]
        return texts

    def _text(self, row: int) -> str:
        # Some decoders drop a leading space: decode with the prompt, then cut it off.
        start = self._decode(self.prompts[row])
        whole = self._decode(self.prompts[row] + self.new[row])
        return whole[len(start) :] if whole.startswith(start) else self._decode(self.new[row])

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _ends(lm: LM) -> Iterator[int]:
    config = getattr(lm.model, "generation_config", None)
    for value in (getattr(config, "eos_token_id", None), lm.tokenizer.eos_token_id):
        if value is not None:
            yield from value if isinstance(value, (list, tuple)) else (value,)


def _generators(prompts: Sequence[str], seed: int) -> list[torch.Generator]:
    seen: Counter[str] = Counter()
    generators = []
    for prompt in prompts:
        digest = hashlib.sha256(f"{seed}\n{seen[prompt]}\n{prompt}".encode()).digest()
        generators.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
        seen[prompt] += 1
    return generators
