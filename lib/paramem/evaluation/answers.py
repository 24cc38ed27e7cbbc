"""What a model answers: all (prompt, target) pairs are scored in one forward, all prompts continued in one generation.

Teacher-forced means that the target's own tokens are fed, and each position is asked whether the next one would have
been chosen; generated means that the model is left to itself. The first is kinder: after a wrong token it puts the
model back on the right way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paramem.models import LM, Batch, log_probs

Pair = tuple[str, str]
# Logits held at once: target tokens times vocabulary. Fewer rows than this are one forward.
LOGITS_AT_ONCE = 2**25


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Teacher-forced answers of N pairs; all tensors on the CPU.

    tokens  per pair, the most probable token at each target position, given the target up to there
    next    [N, V] log-probabilities right after the prompt, or None when they were not kept
    """

    logprob: Tensor  # [N] sum over the target's tokens, in nats
    mean_logprob: Tensor  # [N]
    exact: Tensor  # [N] bool, every target token is the most probable one
    token_accuracy: Tensor  # [N]
    tokens: tuple[tuple[int, ...], ...]
    next: Tensor | None

    def __len__(self) -> int:
        return len(self.tokens)


def encode_pairs(lm: LM, pairs: Sequence[Pair]) -> Batch:
    """The pairs as one batch of rows."""
    return lm.encode([prompt for prompt, _ in pairs], [target for _, target in pairs])


@torch.no_grad()
def ask(lm: LM, pairs: Sequence[Pair] | Batch, *, keep_next: bool = False, batch_size: int | None = None) -> Answers:
    """Score all pairs in one forward, or in several where logits would exceed a memory bound or `batch_size` rows."""
    batch = pairs if isinstance(pairs, Batch) else encode_pairs(lm, pairs)
    chunks = list(_chunks(lm, batch, batch_size))
    if len(chunks) == 1:
        return _ask(lm, batch, keep_next)
    order = torch.cat(chunks)
    return _joined([_ask(lm, batch.rows(chunk), keep_next) for chunk in chunks], order)


def _chunks(lm: LM, batch: Batch, batch_size: int | None) -> Iterator[Tensor]:
    """Row numbers, rows of like length together, so that little is padded."""
    lengths = batch.lengths.cpu()
    targets = (batch.lengths - batch.prompt_lengths).cpu()
    vocabulary = int(lm.model.config.vocab_size)
    if (batch_size or len(batch)) >= len(batch) and int(targets.sum()) * vocabulary <= LOGITS_AT_ONCE:
        yield torch.arange(len(batch))
        return
    held: list[int] = []
    room = 0
    for row in lengths.argsort(stable=True).tolist():
        need = int(targets[row]) * vocabulary
        if held and (len(held) == batch_size or room + need > LOGITS_AT_ONCE):
            yield torch.tensor(held)
            held, room = [], 0
        held.append(row)
        room += need
    yield torch.tensor(held)


def _ask(lm: LM, batch: Batch, keep_next: bool) -> Answers:
    rows, columns = batch.target_mask.nonzero(as_tuple=True)
    logprobs = log_probs(lm.logits_at(batch, rows, columns - 1))  # [M, V], M target tokens in all
    labels = batch.input_ids[rows, columns].to(logprobs.device)
    found = logprobs.gather(1, labels[:, None])[:, 0].cpu()
    chosen = logprobs.argmax(1)
    lengths = (batch.lengths - batch.prompt_lengths).cpu()
    rows = rows.cpu()
    total = torch.zeros(len(batch), dtype=found.dtype).index_add(0, rows, found)
    hits = torch.zeros(len(batch), dtype=found.dtype).index_add(0, rows, (chosen == labels).cpu().to(found.dtype))
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)[:-1]])
    return Answers(
        logprob=total,
        mean_logprob=total / lengths,
        exact=hits == lengths,
        token_accuracy=hits / lengths,
        tokens=tuple(tuple(chosen[start : start + n].tolist()) for start, n in zip(starts, lengths, strict=True)),
        next=logprobs[starts.to(logprobs.device)].cpu() if keep_next else None,
    )


def _joined(parts: Sequence[Answers], order: Tensor) -> Answers:
    """The answers of chunks, in the order of the pairs given."""
    back = order.argsort()
    tokens = [tokens for part in parts for tokens in part.tokens]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])[back]

    return Answers(
        **{name: joined(name) for name in ("logprob", "mean_logprob", "exact", "token_accuracy")},
        tokens=tuple(tokens[place] for place in back.tolist()),
        next=None if parts[0].next is None else joined("next"),
    )


def generate(
    lm: LM, prompts: Sequence[str], *, max_new_tokens: int, batch_size: int | None = None
) -> tuple[list[str], list[tuple[int, ...]]]:
    """Greedy continuations of the prompts, as texts and as tokens."""
    texts: list[str] = []
    step = batch_size or len(prompts)
    for start in range(0, len(prompts), step):
        texts += lm.generate(prompts[start : start + step], max_new_tokens=max_new_tokens)
    return texts, _tokens_of(lm, prompts, texts)


def _tokens_of(lm: LM, prompts: Sequence[str], texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens of each continuation, tokenised behind its prompt as a target would be."""
    tokens: list[tuple[int, ...]] = [()] * len(texts)
    said = [row for row, text in enumerate(texts) if text.strip()]
    if said:
        batch = lm.encode([prompts[row] for row in said], [texts[row] for row in said])
        ids, starts, ends = (part.tolist() for part in (batch.input_ids, batch.prompt_lengths, batch.lengths))
        for place, row in enumerate(said):
            tokens[row] = tuple(ids[place][starts[place] : ends[place]])
    return tokens


def begins_with(text: str, answers: Sequence[str]) -> bool:
    """Whether a generated text begins with one of the answers, as whole words; letter case and spacing are ignored.

    >>> begins_with(" New York, the city", ["New York"]), begins_with(" Newton", ["New"])
    (True, False)
    """
    said = " ".join(text.split()).casefold()
    for answer in answers:
        wanted = " ".join(answer.split()).casefold()
        if wanted and said.startswith(wanted):
            rest = said[len(wanted) :]
            if not (rest and rest[0].isalnum() and wanted[-1].isalnum()):
                return True
    return False


def shared(first: Sequence[int], second: Sequence[int], n: int) -> float:
    """Share of the first `n` places at which two token sequences agree; a place that one of them lacks disagrees.

    Both ending before place `n` agree about what is not there.
    """
    n = max(1, n)
    missing = max(0, n - max(len(first), len(second)))
    agree = sum(a == b for a, b in zip(first[:n], second[:n], strict=False))
    return (agree + missing) / n
