"""From text to right-padded batches, and back from characters to tokens.

Prompt and target are tokenised together, as a model would meet them, and told apart by character offsets. Rows are
padded on the right and carry no attention mask into the model: under causal attention no real token can see what
stands to its right, so the mask would only cost the fast attention kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from paramem.errors import BadInput, EmptyPrompt, EmptyTarget, PromptTooLong, SubjectNotInPrompt

_TENSORS = ("input_ids", "prompt_lengths", "lengths")


class Rewrite(Protocol):
    """Something put around a prompt before the model reads it."""

    def around(self, prompt: str) -> tuple[str, str]:
        """What comes before this prompt and what comes after it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Right-padded rows; the target of row `b` is `input_ids[b, prompt_lengths[b]:lengths[b]]`, or empty."""

    input_ids: Tensor  # [B, T] long
    prompt_lengths: Tensor  # [B] long
    lengths: Tensor  # [B] long
    prompts: tuple[str, ...] = ()  # as given, before any rewrite
    targets: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def attention_mask(self) -> Tensor:
        """`[B, T]` long, 1 at real tokens."""
        return (self._columns < self.lengths[:, None]).long()

    @property
    def target_mask(self) -> Tensor:
        """`[B, T]` bool, true at target tokens."""
        return (self._columns >= self.prompt_lengths[:, None]) & (self._columns < self.lengths[:, None])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        moved = {name: getattr(self, name).to(device) for name in _TENSORS}
        return replace(self, **moved)

    def repeat(self, times: int) -> Batch:
        """A one-row batch as many rows (corrupted runs, candidates); raises `BadInput` for several rows."""
        if len(self) != 1:
            raise BadInput(f"only a batch of one row can be repeated, this one has {len(self)}")
        many = {name: getattr(self, name).repeat_interleave(times, 0) for name in _TENSORS}
        targets = None if self.targets is None else self.targets * times
        return replace(self, prompts=self.prompts * times, targets=targets, **many)

    def rows(self, index: Tensor) -> Batch:
        """Some rows, cut to their longest."""
        lengths = self.lengths[index]
        chosen = [int(row) for row in index]
        return Batch(
            input_ids=self.input_ids[index, : int(lengths.max())],
            prompt_lengths=self.prompt_lengths[index],
            lengths=lengths,
            prompts=tuple(self.prompts[row] for row in chosen) if self.prompts else (),
            targets=None if self.targets is None else tuple(self.targets[row] for row in chosen),
        )

    def cut(self, lengths: Tensor) -> Batch:
        """At most the first so many tokens of each row; what is cut off has no text any more."""
        return replace(
            self,
            input_ids=self.input_ids[:, : int(lengths.max())],
            prompt_lengths=self.prompt_lengths.minimum(lengths),
            lengths=self.lengths.minimum(lengths),
            prompts=(),
            targets=None,
        )

    @classmethod
    def join(cls, batches: Sequence[Batch]) -> Batch:
        """Rows of several batches as one, padded to the widest; rows of a batch without targets have none."""
        width, targets = max(batch.input_ids.shape[1] for batch in batches), [batch.targets for batch in batches]
        return cls(
            input_ids=torch.cat([nn.functional.pad(b.input_ids, (0, width - b.input_ids.shape[1])) for b in batches]),
            prompt_lengths=torch.cat([batch.prompt_lengths for batch in batches]),
            lengths=torch.cat([batch.lengths for batch in batches]),
            prompts=tuple(prompt for batch in batches for prompt in batch.prompts),
            targets=None if None in targets else tuple(target for some in targets for target in some or ()),
        )

    @property
    def _columns(self) -> Tensor:
        return torch.arange(self.input_ids.shape[1], device=self.input_ids.device)


def as_tuple(texts: str | Sequence[str], name: str) -> tuple[str, ...]:
    """One text or several as a tuple; raises `BadInput` when there is none or one is no text."""
    many = (texts,) if isinstance(texts, str) else tuple(texts)
    if not many:
        raise BadInput(f"no {name} given")
    for text in many:
        if not isinstance(text, str):
            raise BadInput(f"{name} must be text, not {type(text).__name__}: {text!r}")
    return many


def joined(prompt: str, target: str) -> str:
    """Prompt and target with one space between, unless one of them brings it."""
    gap = "" if not prompt or prompt[-1].isspace() or target[:1].isspace() else " "
    return prompt + gap + target


def wrapped(prompt: str, rewrites: Sequence[Rewrite]) -> tuple[str, int]:
    """The prompt inside its rewrites (the last is outermost), and the character at which the original begins."""
    begin = 0
    for rewrite in rewrites:
        before, after = rewrite.around(prompt)
        prompt, begin = before + prompt + after, begin + len(before)
    return prompt, begin


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompts: str | Sequence[str],
    targets: str | Sequence[str] | None = None,
    *,
    max_length: int,
    rewrites: Sequence[Rewrite] = (),
    device: torch.device | str = "cpu",
) -> Batch:
    """Tokenise prompts, with their targets if given, into a `Batch`.

    Special tokens are added as the tokenizer itself adds them in front; what it would add at the end is left out, for
    the text goes on. Raises `EmptyPrompt`, `EmptyTarget`, `PromptTooLong`, `BadInput`.
    """
    prompts = as_tuple(prompts, "prompts")
    inner = [wrapped(prompt, rewrites)[0] for prompt in prompts]
    texts, marks = inner, [len(text) for text in inner]
    if targets is not None:
        targets = as_tuple(targets, "targets")
        if len(targets) != len(prompts):
            raise BadInput(f"{len(prompts)} prompts but {len(targets)} targets: give one target for each prompt")
        texts = [joined(prompt, target) for prompt, target in zip(inner, targets, strict=True)]
    rows, prompt_lengths = [], []
    for index, (ids, spans) in enumerate(_tokenize(tokenizer, texts)):
        # A token that reaches beyond the prompt's last character belongs to the target.
        prompt_lengths.append(sum(end <= marks[index] for _, end in spans))
        rows.append(ids)
        _check_row(index, prompts, targets, len(ids), prompt_lengths[-1], max_length)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    width = max(map(len, rows))
    return Batch(
        input_ids=torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device),
        prompt_lengths=torch.tensor(prompt_lengths, device=device),
        lengths=torch.tensor([len(row) for row in rows], device=device),
        prompts=prompts,
        targets=targets,
    )


def text_batches(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    batch_tokens: int,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Running text in batches of about `batch_tokens` tokens, rows of like length together, cut at the context."""
    ids = sorted((row[:max_length] for row, _ in _tokenize(tokenizer, as_tuple(texts, "texts"))), key=len)
    pad, start = tokenizer.pad_token_id or 0, 0
    while start < len(ids):
        stop = start + 1
        while stop < len(ids) and len(ids[stop]) * (stop + 1 - start) <= batch_tokens:
            stop += 1
        rows, width = ids[start:stop], len(ids[stop - 1])
        lengths = torch.tensor([len(row) for row in rows], device=device)
        padded = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
        yield Batch(input_ids=padded, prompt_lengths=lengths, lengths=lengths)
        start = stop


def subject_span(
    tokenizer: PreTrainedTokenizerBase, text: str, subject: str, *, rewrites: Sequence[Rewrite] = ()
) -> range:
    """Indices of the tokens that overlap the first occurrence of `subject` in `text`, counted as `encode` counts them.

    An occurrence as whole words goes before one inside a longer word ("Ann" in "Anna met Ann"). Raises
    `SubjectNotInPrompt`.
    """
    match = subject and (re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text) or re.search(re.escape(subject), text))
    if not match:
        raise SubjectNotInPrompt(f"subject {subject!r} does not occur in {text!r}; check spelling and case")
    whole, offset = wrapped(text, rewrites)
    begin, stop = match.start() + offset, match.end() + offset
    [(_, spans)] = _tokenize(tokenizer, [whole])
    inside = [index for index, (first, end) in enumerate(spans) if first < stop and end > begin]
    if not inside:
        raise SubjectNotInPrompt(
            f"no token covers subject {subject!r} in {text!r}: the tokenizer drops these characters"
        )
    return range(inside[0], inside[-1] + 1)


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Token ids and character spans of each text, special tokens at the end removed."""
    if not tokenizer.is_fast:
        raise BadInput(
            f"tokenizer {type(tokenizer).__name__} has no character offsets; a fast one (tokenizer.json) is needed"
        )
    encoded = tokenizer(list(texts), return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    rows = []
    for ids, spans, special in zip(
        encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True
    ):
        stop = len(ids)
        while stop and special[stop - 1] and 0 in special[:stop]:
            stop -= 1
        rows.append((list(ids[:stop]), list(spans[:stop])))
    return rows


def _check_row(
    index: int, prompts: Sequence[str], targets: Sequence[str] | None, length: int, prompt_length: int, max_length: int
) -> None:
    prompt = _short(prompts[index])
    if length > max_length:
        raise PromptTooLong(
            f"prompt {index}, {prompt}, has {length} tokens; the model's context is {max_length}: shorten it"
        )
    if prompt_length == 0:
        raise EmptyPrompt(
            f"prompt {index}, {prompt}, has no tokens and the tokenizer adds no start token: give it some text"
        )
    if targets is not None and (not targets[index].strip() or prompt_length == length):
        raise EmptyTarget(f"target {index}, {targets[index]!r}, of prompt {prompt} has no tokens")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:40]} ... {text[-12:]}")
