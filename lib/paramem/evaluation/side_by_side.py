"""What many edited models say, each to its own questions, in forwards that they share.

A model state of its own for each edit makes as many forwards as there are edits, each of a dozen rows. Edits that
`paramem.interventions.abreast` can run give every row the weights of its own edit instead, and all questions about all
edits share forwards and steps of generation. So do edits that are text around a prompt: their rows are other prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from paramem.errors import PromptTooLong
from paramem.evaluation.answers import Answers, ask_chunk, chunks_of, joined_answers
from paramem.evaluation.plan import Plan
from paramem.evaluation.saying import Asking, Said, Tokens, read_off, targets_of
from paramem.generation import Sampling, decode, end_tokens, generate_tokens
from paramem.interventions import Intervention, ModulePatch, WeightDelta
from paramem.interventions.abreast import abreast, fits
from paramem.interventions.prompt import Rewriting
from paramem.models import LM, Batch

ROWS_APART = 64  # of many edits: a forward more is cheaper than as many short rows padded to long ones
PROMPTS_AT_ONCE = 64  # rows of one generation; a forward of one new token has as many tokens as rows
Waiting = list[tuple[int, str]]  # plan, prompt
Lengths = Sequence[Mapping[str, int]]  # for each plan: prompt to the tokens of its free answer


def say_each(
    lm: LM, plans: Sequence[Plan], edits: Sequence[Intervention], batches: Sequence[Batch], hows: Sequence[Asking]
) -> list[Said]:
    """What the model says to ``plans[i]`` under ``edits[i]``, each `can_share`; batches: the pairs of each plan as the
    edited model reads them; hows: they differ in the lengths of answers, if at all.

    Texts for fluency are not told. The answers are those of `say`, edit by edit, up to rounding.
    """
    sizes = [len(batch) for batch in batches]
    owners = torch.arange(len(plans)).repeat_interleave(torch.tensor(sizes))
    answers = _asked(lm, edits, Batch.join(batches), owners, hows[0])
    rows = torch.split(torch.arange(len(owners)), sizes)
    each = [answers.rows(some.tolist()) for some in rows]
    wanted = [targets_of(batch) for batch in batches]
    free = hows[0].lengths is not None
    spoken = _spoken(lm, plans, edits, each, wanted, hows) if free else [{} for _ in plans]
    return [
        Said(
            place=plan.place,
            answers=own,
            wanted=targets,
            texts=_texts(lm, edit, said),
            tokens=said,
            stories={},
        )
        for plan, edit, own, targets, said in zip(plans, edits, each, wanted, spoken, strict=True)
    ]


def can_share(lm: LM, edit: Intervention) -> bool:
    """Whether the edited model can answer beside others, in shared forwards of the model as it is."""
    return fits(lm, edit) or (isinstance(edit, Rewriting) and not lm.rewrites)


def as_read(edit: Intervention, prompt: str) -> str:
    """The prompt as the model under this edit reads it."""
    return edit.reading(prompt) if isinstance(edit, Rewriting) else prompt


def inside(edit: Intervention) -> Intervention:
    """What the edit changes in the model, for `abreast`: of text around prompts, nothing."""
    return WeightDelta({}) if isinstance(edit, Rewriting) else edit


def _texts(lm: LM, edit: Intervention, said: Mapping[str, Tokens]) -> dict[str, str]:
    if not said:
        return {}
    return dict(zip(said, decode(lm, [as_read(edit, each) for each in said], list(said.values())), strict=True))


@torch.no_grad()
def _asked(lm: LM, edits: Sequence[Intervention], batch: Batch, owners: Tensor, how: Asking) -> Answers:
    parts, chunks = [], list(chunks_of(lm, batch, how.batch_size, apart=ROWS_APART))
    for chunk in chunks:
        present, own = torch.unique(owners[chunk], return_inverse=True)
        with abreast(lm, [inside(edits[i]) for i in present.tolist()], own) as edited:
            parts.append(ask_chunk(edited, batch.rows(chunk), how.keep_next))
    return joined_answers(parts, torch.cat(chunks))


def _spoken(
    lm: LM,
    plans: Sequence[Plan],
    edits: Sequence[Intervention],
    answers: Sequence[Answers],
    wanted: Sequence[Sequence[Tokens]],
    hows: Sequence[Asking],
) -> list[dict[str, Tokens]]:
    """For each plan the greedy answer to every prompt: read off the forced targets, or generated."""
    lengths, ends = [how.lengths or {} for how in hows], end_tokens(lm)
    known: list[dict[str, Tokens]] = []
    waiting: Waiting = []
    for number, (plan, own, targets) in enumerate(zip(plans, answers, wanted, strict=True)):
        # a patch may act on fed tokens otherwise than on generated ones: what it says is not read off
        patched = isinstance(edits[number], ModulePatch)
        known.append({} if patched else read_off(plan, own, targets, lengths[number], ends))
        waiting += [(number, prompt) for prompt in plan.prompts if prompt not in known[-1]]
    for number, prompt, tokens in _generated(lm, edits, waiting, lengths, hows[0].batch_size):
        known[number][prompt] = tokens
    return known


def _generated(
    lm: LM, edits: Sequence[Intervention], waiting: Waiting, lengths: Lengths, batch_size: int | None
) -> list[tuple[int, str, Tokens]]:
    """The prompts' own continuations, those of like length together: then little is padded and few rows wait."""
    found = []
    ordered = sorted(waiting, key=lambda each: (lengths[each[0]][each[1]], len(each[1])))
    size = batch_size or PROMPTS_AT_ONCE
    for start in range(0, len(ordered), size):
        chunk = ordered[start : start + size]
        for (number, prompt), tokens in zip(chunk, _continued(lm, edits, chunk, lengths), strict=True):
            found.append((number, prompt, tokens[: lengths[number][prompt]]))
    return found


def _continued(lm: LM, edits: Sequence[Intervention], chunk: Waiting, lengths: Lengths) -> list[Tokens]:
    present = sorted({number for number, _ in chunk})
    sampling = Sampling(max_new_tokens=max(lengths[number][prompt] for number, prompt in chunk))
    owners = [present.index(number) for number, _ in chunk]
    try:
        with abreast(lm, [inside(edits[i]) for i in present], owners) as edited:
            return generate_tokens(edited, [as_read(edits[number], prompt) for number, prompt in chunk], sampling)
    except PromptTooLong:  # a long prompt may have room for its own answer, and none for the longest of the others
        if len(chunk) == 1:
            raise
        half = len(chunk) // 2
        return [tokens for some in (chunk[:half], chunk[half:]) for tokens in _continued(lm, edits, some, lengths)]
