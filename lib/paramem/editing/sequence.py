"""Edits one after the other, each made on the model that the earlier ones left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from paramem.errors import BadInput
from paramem.facts import EditRequest
from paramem.interventions import Intervention

if TYPE_CHECKING:
    from paramem.lm import LM


def in_sequence(
    lm: LM, requests: Sequence[EditRequest], edit: Callable[[LM, EditRequest], Intervention]
) -> Intervention:
    """The sum of all edits; the model itself is as before when this returns, also when an edit raises."""
    total: Intervention | None = None
    for request in requests:
        if total is None:
            total = edit(lm, request)
            continue
        with total.applied(lm) as edited:
            step = edit(edited, request)
        total = total + step
    if total is None:
        raise BadInput("there is no edit to make: pass at least one request")
    return total
