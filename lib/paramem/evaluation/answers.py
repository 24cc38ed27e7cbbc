"""What a model answers: any number of (prompt, target) pairs, scored in one forward.

Teacher-forced means that the target's own tokens are fed, and each position is asked whether the next one would have
been chosen; generated means that the model is left to itself. The first is kinder: after a wrong token it puts the
model back on the right way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paramem.models import LM, Batch, log_probs

Pair = tuple[str, str]
# One forward reads at most so many tokens and keeps so many logits. More at once is slower on a CPU, whose caches are
# exceeded long before (1,106 questions of about 15 tokens: 4.4 s in one piece, 1.5 s in pieces of this size).
TOKENS_AT_ONCE = {"cpu": 2**12, "cuda": 2**16}
LOGITS_AT_ONCE = 2**25


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Teacher-forced answers of N pairs; all tensors on the CPU.

    tokens  per pair, the most probable token at each target position, given the target up to there, and after it
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

    def rows(self, places: Sequence[int]) -> Answers:
        """Some of them, in the order asked for."""
        names = ("logprob", "mean_logprob", "exact", "token_accuracy")
        some = torch.tensor(places, dtype=torch.long)
        return Answers(
            **{name: getattr(self, name)[some] for name in names},
            tokens=tuple(self.tokens[place] for place in places),
            next=None if self.next is None else self.next[some],
        )


def encode_pairs(lm: LM, pairs: Sequence[Pair]) -> Batch:
    """The pairs as one batch of rows."""
    return lm.encode([prompt for prompt, _ in pairs], [target for _, target in pairs])


@torch.no_grad()
def ask(lm: LM, pairs: Sequence[Pair] | Batch, *, keep_next: bool = False, batch_size: int | None = None) -> Answers:
    """Score all pairs in one forward; many pairs, or more than `batch_size` rows, in pieces of rows of like length."""
    batch = pairs if isinstance(pairs, Batch) else encode_pairs(lm, pairs)
    chunks = list(chunks_of(lm, batch, batch_size))
    if len(chunks) == 1:
        return ask_chunk(lm, batch, keep_next)
    order = torch.cat(chunks)
    return joined_answers([ask_chunk(lm, batch.rows(chunk), keep_next) for chunk in chunks], order)


def chunks_of(lm: LM, batch: Batch, batch_size: int | None, *, apart: int | None = None) -> Iterator[Tensor]:
    """Row numbers of each forward, rows of like length together, so that little is padded.

    apart: from so many rows on, rows that are longer by a quarter get a forward of their own.
    """
    lengths, starts = batch.lengths.tolist(), batch.prompt_lengths.tolist()
    most_tokens = TOKENS_AT_ONCE.get(lm.device.type, TOKENS_AT_ONCE["cpu"])
    vocabulary = int(lm.model.config.vocab_size)
    held: list[int] = []
    logits = 0
    for row in sorted(range(len(batch)), key=lengths.__getitem__):
        more = (lengths[row] - starts[row] + 1) * vocabulary
        full = (len(held) + 1) * lengths[row] > most_tokens or logits + more > LOGITS_AT_ONCE
        longer = apart is not None and len(held) >= apart and lengths[row] > 1.25 * lengths[held[0]]
        if held and (full or longer or len(held) == batch_size):
            yield torch.tensor(held)
            held, logits = [], 0
        held.append(row)
        logits += more
    yield torch.tensor(held)


def ask_chunk(lm: LM, batch: Batch, keep_next: bool) -> Answers:
    """Score a batch in one forward."""
    # From each prompt's last token to its target's last: the places that say the target's tokens, and what follows it.
    columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    asked = (columns >= batch.prompt_lengths[:, None] - 1) & (columns < batch.lengths[:, None])
    rows, columns = asked.nonzero(as_tuple=True)
    logprobs = log_probs(lm.logits_at(batch, rows, columns))  # [M + N, V], M target tokens in all
    scored = (columns < batch.lengths[rows] - 1).to(logprobs.device)
    labels = batch.input_ids[rows, (columns + 1).clamp(max=batch.input_ids.shape[1] - 1)].to(logprobs.device)
    found = (logprobs.gather(1, labels[:, None])[:, 0] * scored).cpu()
    chosen = logprobs.argmax(1)
    right = ((chosen == labels) & scored).cpu().to(found.dtype)
    rows, chosen = rows.cpu(), chosen.cpu()
    lengths = (batch.lengths - batch.prompt_lengths).cpu()
    total = torch.zeros(len(batch), dtype=found.dtype).index_add(0, rows, found)
    hits = torch.zeros(len(batch), dtype=found.dtype).index_add(0, rows, right)
    starts = torch.cat([lengths.new_zeros(1), (lengths + 1).cumsum(0)[:-1]])
    return Answers(
        logprob=total,
        mean_logprob=total / lengths,
        exact=hits == lengths,
        token_accuracy=hits / lengths,
        tokens=tuple(tuple(chosen[start : start + n + 1].tolist()) for start, n in zip(starts, lengths, strict=True)),
        next=logprobs[starts.to(logprobs.device)].cpu() if keep_next else None,
    )


def joined_answers(parts: Sequence[Answers], order: Tensor) -> Answers:
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


def contains(text: str, answer: str) -> bool:
    """Whether a text holds an answer anywhere, as whole words; letter case and spacing are ignored.

    >>> contains("He lives in New  York.", "new york"), contains("Newton", "new")
    (True, False)
    """
    said, wanted = (" ".join(each.split()).casefold() for each in (text, answer))
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", said) is not None


def shared(first: Sequence[int], second: Sequence[int], n: int) -> float:
    """Share of the first `n` places at which two token sequences agree; a place that one of them lacks disagrees.

    Both ending before place `n` agree about what is not there.
    """
    n = max(1, n)
    missing = max(0, n - max(len(first), len(second)))
    agree = sum(a == b for a, b in zip(first[:n], second[:n], strict=False))
    return (agree + missing) / n
