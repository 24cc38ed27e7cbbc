"""What many edited models say, each to its own questions, in forwards that they share.

A model state of its own for each edit makes as many forwards as there are edits, each of a dozen rows. Edits that
`paramem.interventions.abreast` can run give every row the weights of its own edit instead, and all questions about all
edits share forwards and steps of generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from paramem.evaluation.answers import Answers, ask_chunk, chunks_of, joined_answers
from paramem.evaluation.plan import Plan
from paramem.evaluation.saying import Asking, Said, Tokens, read_off, targets_of
from paramem.generation import Sampling, decode, end_tokens, generate_tokens
from paramem.interventions import Intervention
from paramem.interventions.abreast import abreast
from paramem.models import LM, Batch

PROMPTS_AT_ONCE = 64  # rows of one generation; a forward of one new token has as many tokens as rows
Waiting = list[tuple[int, str]]  # plan, prompt


def say_each(
    lm: LM, plans: Sequence[Plan], edits: Sequence[Intervention], batches: Sequence[Batch], how: Asking
) -> list[Said]:
    """What the model says to ``plans[i]`` under ``edits[i]``, all of which `fits`; batches: the pairs of each plan.

    Texts for fluency are not told. The answers are those of `say`, edit by edit, up to rounding.
    """
    sizes = [len(batch) for batch in batches]
    owners = torch.arange(len(plans)).repeat_interleave(torch.tensor(sizes))
    answers = _asked(lm, edits, Batch.join(batches), owners, how)
    rows = torch.split(torch.arange(len(owners)), sizes)
    each = [answers.rows(some.tolist()) for some in rows]
    wanted = [targets_of(batch) for batch in batches]
    spoken = _spoken(lm, plans, edits, each, wanted, how) if how.lengths is not None else [{} for _ in plans]
    return [
        Said(
            place=plan.place,
            answers=own,
            wanted=targets,
            texts=dict(zip(said, decode(lm, list(said), list(said.values())), strict=True)) if said else {},
            tokens=said,
            stories={},
        )
        for plan, own, targets, said in zip(plans, each, wanted, spoken, strict=True)
    ]


@torch.no_grad()
def _asked(lm: LM, edits: Sequence[Intervention], batch: Batch, owners: Tensor, how: Asking) -> Answers:
    parts, chunks = [], list(chunks_of(lm, batch, how.batch_size))
    for chunk in chunks:
        present, own = torch.unique(owners[chunk], return_inverse=True)
        with abreast(lm, [edits[i] for i in present.tolist()], own) as edited:
            parts.append(ask_chunk(edited, batch.rows(chunk), how.keep_next))
    return joined_answers(parts, torch.cat(chunks))


def _spoken(
    lm: LM,
    plans: Sequence[Plan],
    edits: Sequence[Intervention],
    answers: Sequence[Answers],
    wanted: Sequence[Sequence[Tokens]],
    how: Asking,
) -> list[dict[str, Tokens]]:
    """For each plan the greedy answer to every prompt: read off the forced targets, or generated."""
    lengths, ends = how.lengths or {}, end_tokens(lm)
    known: list[dict[str, Tokens]] = []
    waiting: Waiting = []
    for number, (plan, own, targets) in enumerate(zip(plans, answers, wanted, strict=True)):
        known.append(read_off(plan, own, targets, lengths, ends))
        waiting += [(number, prompt) for prompt in plan.prompts if prompt not in known[-1]]
    for number, prompt, tokens in _generated(lm, edits, waiting, lengths, how):
        known[number][prompt] = tokens
    return known


def _generated(
    lm: LM, edits: Sequence[Intervention], waiting: Waiting, lengths: Mapping[str, int], how: Asking
) -> list[tuple[int, str, Tokens]]:
    """The prompts' own continuations, those of like length together: then little is padded and few rows wait."""
    found = []
    ordered = sorted(waiting, key=lambda each: (lengths[each[1]], len(each[1])))
    size = how.batch_size or PROMPTS_AT_ONCE
    for start in range(0, len(ordered), size):
        chunk = ordered[start : start + size]
        present = sorted({number for number, _ in chunk})
        sampling = Sampling(max_new_tokens=max(lengths[prompt] for _, prompt in chunk))
        with abreast(lm, [edits[i] for i in present], [present.index(number) for number, _ in chunk]) as edited:
            said = generate_tokens(edited, [prompt for _, prompt in chunk], sampling)
        for (number, prompt), tokens in zip(chunk, said, strict=True):
            found.append((number, prompt, tokens[: lengths[prompt]]))
    return found
