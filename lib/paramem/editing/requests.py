"""Whether edits can be made at all, asked before any weight changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from paramem.errors import BadInput, EmptyTarget
from paramem.facts import EditRequest

if TYPE_CHECKING:
    from paramem.lm import LM

ROWS = 256  # edits scored in one forward


def check_requests(
    lm: LM,
    requests: EditRequest | Sequence[EditRequest],
    layers: Sequence[int] = (),
    modules: Sequence[str] = ("down",),
    *,
    together: bool = True,
) -> tuple[EditRequest, ...]:
    """The requests as a tuple, if all of them can be made together.

    layers, modules  the weight matrices that the editor is going to change, by layer and role
    together         whether all of them are made on one model: then no two may speak of one fact

    Raises BadInput (no request; two that speak of one fact), EmptyTarget, SubjectNotInPrompt, BadParameter (a layer or
    a module that the model does not have).
    """
    many = (requests,) if isinstance(requests, EditRequest) else tuple(requests)
    if not many:
        raise BadInput("there is no edit to make: pass at least one request")
    for layer in layers:
        for module in modules:
            lm.weight(layer, module)
    for request in many:
        if not request.target_new.strip():
            raise EmptyTarget(f"edit {request.id!r} of {request.prompt!r} has an empty target: say what shall be true.")
        lm.subject_span(request.prompt, request.subject)
    if together:
        _refuse_contradictions(many)
    return many


def _refuse_contradictions(requests: Sequence[EditRequest]) -> None:
    seen: dict[tuple[str, ...], EditRequest] = {}
    for request in requests:
        facts: list[tuple[str, ...]] = [(request.prompt,)]
        if request.relation is not None:
            facts.append((request.subject, request.relation))
        for fact in facts:
            if fact in seen:
                raise BadInput(
                    f"edits {seen[fact].id!r} and {request.id!r} speak of one fact ({' / '.join(fact)}), with targets "
                    f"{seen[fact].target_new!r} and {request.target_new!r}: leave one out, or make them one after the "
                    "other, in two calls."
                )
            seen[fact] = request


def without_known(
    lm: LM, requests: Sequence[EditRequest], known: Literal["raise", "keep", "skip"] = "raise"
) -> tuple[EditRequest, ...]:
    """The requests, or those of them whose target is not yet what the model answers.

    Raises BadInput for a target that the model answers already (``known="raise"``), or when all of them are skipped.
    """
    if known == "keep":
        return tuple(requests)
    left = []
    for start in range(0, len(requests), ROWS):
        part = requests[start : start + ROWS]
        answered = lm.score([each.prompt for each in part], [each.target_new for each in part]).exact.tolist()
        for request, already in zip(part, answered, strict=True):
            if already and known == "raise":
                raise BadInput(
                    f"edit {request.id!r}: {lm.name} answers {request.prompt!r} with {request.target_new!r} already. "
                    "Choose another target, or pass known='keep' or known='skip'."
                )
            if not already:
                left.append(request)
    if not left:
        raise BadInput(f"{lm.name} answers all {len(requests)} edits as wanted already: there is nothing to edit.")
    return tuple(left)
