"""Fluency of many edited models: texts generated abreast where the edits allow it, else one model after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from paramem.errors import BadParameter, PromptTooLong
from paramem.evaluation.fluency import Fluency, generated_texts, generation_entropy
from paramem.evaluation.plan import fluency_prompts
from paramem.evaluation.side_by_side import as_read, can_share, inside
from paramem.facts import EditRequest
from paramem.interventions.abreast import abreast

if TYPE_CHECKING:
    from paramem.interventions import Intervention
    from paramem.models import LM


class Story(NamedTuple):
    """text: None where the context has no room for it."""

    request: EditRequest
    number: int
    prompt: str
    text: str | None


def stories(lm: LM, requests: Sequence[EditRequest], edits: Sequence[Intervention] | None, how: Fluency) -> list[Story]:
    """A text for every fluency prompt of every request, under its own edit (None: no edit)."""
    asked = [(i, number, prompt) for i, r in enumerate(requests) for number, prompt in enumerate(fluency_prompts(r))]
    texts = _texts(lm, [(i, prompt) for i, _, prompt in asked], edits, how)
    return [Story(requests[i], number, prompt, text) for (i, number, prompt), text in zip(asked, texts, strict=True)]


def _texts(
    lm: LM, asked: Sequence[tuple[int, str]], edits: Sequence[Intervention] | None, how: Fluency
) -> Iterator[str | None]:
    prompts = [prompt for _, prompt in asked]
    if edits is None:
        yield from _told(lm, prompts, how)
    elif all(can_share(lm, edit) for edit in edits):
        yield from _told_abreast(lm, asked, edits, how)
    else:
        for i, prompt in asked:
            with edits[i].applied(lm) as edited:
                yield from _told(edited, [prompt], how)


def _told_abreast(
    lm: LM, asked: Sequence[tuple[int, str]], edits: Sequence[Intervention], how: Fluency
) -> list[str | None]:
    """All texts in one generation; where a prompt has no room, the others have it still."""
    read = [as_read(edits[i], prompt) for i, prompt in asked]
    with abreast(lm, [inside(edit) for edit in edits], [i for i, _ in asked]) as edited:
        told = _told(edited, read, how, named=[prompt for _, prompt in asked])
    if told[0] is None and len(asked) > 1:
        half = len(asked) // 2
        return [text for some in (asked[:half], asked[half:]) for text in _told_abreast(lm, some, edits, how)]
    return [
        None if text is None else prompt + text[len(whole) :]
        for (_, prompt), whole, text in zip(asked, read, told, strict=True)
    ]


def _told(lm: LM, prompts: Sequence[str], how: Fluency, *, named: Sequence[str] | None = None) -> Sequence[str | None]:
    try:
        return generated_texts(lm, prompts, how, named=named)
    except (BadParameter, PromptTooLong):  # long prompts, or what an edit puts before them, leave no room
        return [None] * len(prompts)


def fluency_rows(told: Sequence[Story], state: str) -> list[dict[str, Any]]:
    """Rows of the tidy table of `evaluate` for generated texts; none if one of them has no room."""
    if any(text is None for *_, text in told):
        return []
    return [
        {
            "request": request.id,
            "source": request.source,
            "state": state,
            "group": "fluency",
            "subgroup": "generation",
            "kind": "generation_prompts",
            "probe": number,
            "prompt": prompt,
            "test": "",
            "protocol": "generated",
            "answer": text,
            "entropy": generation_entropy(text or ""),
            "eligible": True,
        }
        for request, number, prompt, text in told
    ]
