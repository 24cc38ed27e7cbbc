"""Everything that one model state says to a plan: one forward over all pairs, and as little generation as possible.

The forward that scores the targets already shows much of what the model would say freely: along a target, the most
probable tokens are the greedy answer up to the first one that differs, and that one, too. Only prompts whose answer is
not known far enough in this way are continued by generation. Both give the same tokens (`tests` compare them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from paramem.evaluation.answers import Answers, Pair, ask
from paramem.evaluation.fluency import Fluency, generated_texts
from paramem.evaluation.plan import Plan, fluency_prompts
from paramem.facts import EditRequest
from paramem.models import LM, Batch

Tokens = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How models are asked.

    generated      also let the model answer freely, for `answer_tokens` tokens
    keep_next      keep next-token distributions, for the KL divergence
    fluency        also generate texts and measure their entropy
    batch_size     rows per forward; all at once, within a memory bound, when None
    """

    generated: bool
    answer_tokens: int
    keep_next: bool
    fluency: Fluency | None
    batch_size: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Said:
    """What one model state answers to a plan; `wanted` are the tokens of each pair's target."""

    place: Mapping[Pair, int]
    answers: Answers
    wanted: Sequence[Tokens]
    texts: Mapping[str, str]
    tokens: Mapping[str, Tokens]
    stories: Mapping[str, str]  # fluency prompt -> generated text

    def next(self, pair: Pair) -> Tensor | None:
        """[V] log-probabilities right after the prompt of `pair`."""
        return None if self.answers.next is None else self.answers.next[self.place[pair]]


def say(lm: LM, plan: Plan, requests: Sequence[EditRequest], batch: Batch, how: Asking) -> Said:
    """Ask a model state everything; `batch` holds the plan's pairs as rows, in order."""
    answers = ask(lm, batch, keep_next=how.keep_next, batch_size=how.batch_size)
    wanted = _targets(batch)
    texts, tokens = _answered(lm, plan, answers, wanted, how) if how.generated else ({}, {})
    return Said(
        place=plan.place,
        answers=answers,
        wanted=wanted,
        texts=texts,
        tokens=tokens,
        stories=_stories(lm, requests, how.fluency),
    )


def _targets(batch: Batch) -> list[Tokens]:
    ids, starts, ends = (part.tolist() for part in (batch.input_ids, batch.prompt_lengths, batch.lengths))
    return [tuple(row[start:end]) for row, start, end in zip(ids, starts, ends, strict=True)]


def _stories(lm: LM, requests: Sequence[EditRequest], fluency: Fluency | None) -> dict[str, str]:
    if fluency is None:
        return {}
    prompts = tuple(dict.fromkeys(prompt for request in requests for prompt in fluency_prompts(request)))
    return dict(zip(prompts, generated_texts(lm, prompts, fluency), strict=True))


def _answered(
    lm: LM, plan: Plan, answers: Answers, wanted: Sequence[Tokens], how: Asking
) -> tuple[dict[str, str], dict[str, Tokens]]:
    """The greedy answer to every prompt, as text and as tokens: read off the forced targets, or generated.

    It reaches as far as it is needed: over the right answer and one token more, or over `answer_tokens` tokens where
    other forms of the answer would be right as well, or none is known.
    """
    ends = end_tokens(lm)
    known: dict[str, Tokens] = {}
    # A patch may act on fed tokens otherwise than on generated ones, so patched models answer for themselves.
    if not lm.patches:
        needed = _needed(plan, wanted, how.answer_tokens)
        for (prompt, _), said, target in zip(plan.pairs, answers.tokens, wanted, strict=True):
            path = greedy_path(said, target)[: how.answer_tokens]
            stop = next((place for place, token in enumerate(path) if token in ends), None)
            if stop is not None or len(path) >= needed[prompt]:
                known[prompt] = path[:stop]
    texts = _decoded(lm, known)
    rest = [prompt for prompt in plan.prompts if prompt not in known]
    for start in range(0, len(rest), how.batch_size or max(1, len(rest))):
        chunk = rest[start : start + (how.batch_size or len(rest))]
        found = lm.generate(chunk, max_new_tokens=how.answer_tokens)
        texts |= zip(chunk, found, strict=True)
        known |= zip(chunk, _tokens_of(lm, chunk, found), strict=True)
    return texts, known


def greedy_path(said: Tokens, target: Tokens) -> Tokens:
    """The greedy answer as far as a forced target shows it.

    said    [n + 1] the most probable token at each of the target's n places, and after it
    target  [n] the tokens that were fed

    >>> greedy_path((5, 6, 7), (5, 6)), greedy_path((5, 8, 9), (5, 6)), greedy_path((4, 8, 9), (5, 6))
    ((5, 6, 7), (5, 8), (4,))
    """
    agreed = next((place for place, token in enumerate(target) if said[place] != token), len(target))
    return said[: agreed + 1]


def end_tokens(lm: LM) -> frozenset[int]:
    """The tokens at which the model ends its answer."""
    configured = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list | tuple) else [configured]
    return frozenset(token for token in (*several, lm.tokenizer.eos_token_id) if token is not None)


def _needed(plan: Plan, wanted: Sequence[Tokens], answer_tokens: int) -> dict[str, int]:
    """How many tokens of each prompt's answer the table needs."""
    place = plan.place
    needed: dict[str, int] = {}
    for item in plan.items:
        plain = item.probe.target and not item.probe.aliases
        tokens = min(answer_tokens, len(wanted[place[item.pair]])) if plain else answer_tokens
        needed[item.probe.prompt] = max(tokens, needed.get(item.probe.prompt, 0))
    return needed


def _decoded(lm: LM, tokens: Mapping[str, Tokens]) -> dict[str, str]:
    """Each prompt's answer as text. Decoders treat a first word apart, so the answer is decoded behind its prompt."""
    if not tokens:
        return {}
    batch = lm.encode(list(tokens))
    starts = [row[:length] for row, length in zip(batch.input_ids.tolist(), batch.lengths.tolist(), strict=True)]
    whole = _text(lm, [start + list(answer) for start, answer in zip(starts, tokens.values(), strict=True)])
    begun = _text(lm, starts)
    return {prompt: full[len(part) :] for prompt, full, part in zip(tokens, whole, begun, strict=True)}


def _text(lm: LM, rows: list[list[int]]) -> list[str]:
    decode = lm.tokenizer.batch_decode
    return list(decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _tokens_of(lm: LM, prompts: Sequence[str], texts: Sequence[str]) -> list[Tokens]:
    """The tokens of each continuation, tokenised behind its prompt as a target would be."""
    tokens: list[Tokens] = [()] * len(texts)
    said = [row for row, text in enumerate(texts) if text.strip()]
    if said:
        batch = lm.encode([prompts[row] for row in said], [texts[row] for row in said])
        for row, found in zip(said, _targets(batch), strict=True):
            tokens[row] = found
    return tokens
