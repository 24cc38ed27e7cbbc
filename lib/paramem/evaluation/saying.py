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
from paramem.generation import Sampling, decode, end_tokens, generate_tokens
from paramem.models import LM, Batch

Tokens = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How models are asked.

    lengths        prompt -> how many tokens of the free answer are looked at; None when there is none
    keep_next      keep next-token distributions, for the KL divergence
    fluency        also generate texts and measure their entropy
    batch_size     rows per forward; all at once, within a memory bound, when None
    """

    lengths: Mapping[str, int] | None
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
    wanted = targets_of(batch)
    texts, tokens = _answered(lm, plan, answers, wanted, how) if how.lengths is not None else ({}, {})
    return Said(
        place=plan.place,
        answers=answers,
        wanted=wanted,
        texts=texts,
        tokens=tokens,
        stories=_stories(lm, requests, how.fluency),
    )


def targets_of(batch: Batch) -> list[Tokens]:
    """The tokens of each row's target."""
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
    """The greedy answer to every prompt, as text and as tokens: read off the forced targets, or generated."""
    lengths = how.lengths or {}
    # A patch may act on fed tokens otherwise than on generated ones, so patched models answer for themselves.
    known = {} if lm.patches else read_off(plan, answers, wanted, lengths, end_tokens(lm))
    rest = [prompt for prompt in plan.prompts if prompt not in known]
    for start in range(0, len(rest), how.batch_size or max(1, len(rest))):
        chunk = rest[start : start + (how.batch_size or len(rest))]
        sampling = Sampling(max_new_tokens=max(lengths[prompt] for prompt in chunk))
        for prompt, tokens in zip(chunk, generate_tokens(lm, chunk, sampling), strict=True):
            known[prompt] = tokens[: lengths[prompt]]
    texts = decode(lm, list(known), list(known.values()))
    return dict(zip(known, texts, strict=True)), known


def read_off(
    plan: Plan, answers: Answers, wanted: Sequence[Tokens], lengths: Mapping[str, int], ends: frozenset[int]
) -> dict[str, Tokens]:
    """Prompt to greedy answer, of those prompts whose forced targets show it far enough."""
    known: dict[str, Tokens] = {}
    for (prompt, _), said, target in zip(plan.pairs, answers.tokens, wanted, strict=True):
        path = greedy_path(said, target)[: lengths[prompt]]
        stop = next((place for place, token in enumerate(path) if token in ends), None)
        if stop is not None or len(path) == lengths[prompt]:
            known[prompt] = path[:stop]
    return known


def greedy_path(said: Tokens, target: Tokens) -> Tokens:
    """The greedy answer as far as a forced target shows it.

    said    [n + 1] the most probable token at each of the target's n places, and after it
    target  [n] the tokens that were fed

    >>> greedy_path((5, 6, 7), (5, 6)), greedy_path((5, 8, 9), (5, 6)), greedy_path((4, 8, 9), (5, 6))
    ((5, 6, 7), (5, 8), (4,))
    """
    agreed = next((place for place, token in enumerate(target) if said[place] != token), len(target))
    return said[: agreed + 1]


def answer_lengths(plan: Plan, batch: Batch, answer_tokens: int | None) -> dict[str, int]:
    """How many tokens of each prompt's free answer are looked at: those of the right answer, and the one after it.

    Where other forms of the answer are right as well, or none is known: `answer_tokens`, by default as many as the
    longest right answer has, and one.
    """
    targets = (batch.lengths - batch.prompt_lengths).tolist()
    most = answer_tokens or max(targets) + 1
    lengths: dict[str, int] = {}
    for item in plan.items:
        plain = item.probe.target and not item.probe.aliases
        length = min(most, targets[plan.place[item.pair]] + 1) if plain else most
        lengths[item.probe.prompt] = max(length, lengths.get(item.probe.prompt, 0))
    return lengths
