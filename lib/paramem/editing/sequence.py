"""Edits one after the other, each made on the model that the earlier ones left.

    for made in running(lm, requests, lambda now, some: fine_tune(now, some, settings)):
        made.n, made.total      # how many edits, and all of them as one intervention

What is carried from edit to edit does not grow with their number where the edits are changes of weights: factors are
set side by side only until they hold more numbers than the matrix they change, which then is kept instead. So the
hundredth edit costs what the first one did, in time and in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from paramem.editing.requests import check_requests
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest, FrozenDict, Probe
from paramem.interventions import Intervention, WeightDelta
from paramem.interventions.delta import Dense, LowRank, Part
from paramem.models import LM


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """One step of a sequence.

    n        edits made so far, this step's included
    edits    those of this step
    step     what this step added; total: all steps together
    seconds  what this step took
    """

    n: int
    edits: tuple[EditRequest, ...]
    step: Intervention
    total: Intervention
    seconds: float


def running(
    lm: LM,
    requests: Sequence[EditRequest],
    edit: Callable[[LM, tuple[EditRequest, ...]], Intervention],
    *,
    size: int = 1,
) -> Iterator[Made]:
    """The sequence step by step, ``size`` edits in each; the model itself is unedited whenever a step is handed out.

    edit: makes the edits of a step on the model that it is given. Two edits of one fact may follow each other: the
    later one counts. Raises BadInput without a request, BadParameter, and what ``edit`` raises.
    """
    if size < 1:
        raise BadParameter(f"size={size}: a step makes at least one edit.")
    many = check_requests(lm, requests, together=False)
    total: Intervention | None = None
    for start in range(0, len(many), size):
        some, started = many[start : start + size], time.perf_counter()
        if total is None:
            step = edit(lm, some)
        else:
            with total.applied(lm) as edited:
                step = edit(edited, some)
        total = plus(total, step)
        yield Made(n=start + len(some), edits=some, step=step, total=total, seconds=time.perf_counter() - started)


def in_sequence(
    lm: LM, requests: Sequence[EditRequest], edit: Callable[[LM, EditRequest], Intervention]
) -> Intervention:
    """The sum of all edits; the model itself is as before when this returns, also when an edit raises."""
    if not requests:
        raise BadInput("there is no edit to make: pass at least one request")
    *_, last = running(lm, requests, lambda now, some: edit(now, some[0]))
    return last.total


def plus(total: Intervention | None, step: Intervention) -> Intervention:
    """Both together; sums of weight changes are kept in the smaller of the two forms."""
    if total is None:
        return step
    both: Intervention = total + step
    if isinstance(both, WeightDelta):
        return WeightDelta({name: smaller(part) for name, part in both.parts.items()})
    return both


def smaller(part: Part) -> Part:
    """The part itself, or as a whole matrix where its factors hold more numbers than that."""
    if isinstance(part, LowRank) and part.left.numel() + part.right.numel() > part.shape[0] * part.shape[1]:
        return Dense(part.dense())
    return part


def asking_unedited(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests without the probes of locality that another one of them gives a new answer.

    After a sequence of edits these say nothing of what leaked: their facts were edited on purpose.
    """
    edited = tuple({request.prompt for request in requests})

    def kept(probes: Sequence[Probe]) -> tuple[Probe, ...]:
        return tuple(probe for probe in probes if not probe.prompt.endswith(edited))

    found = []
    for request in requests:
        groups = {name: kept(probes) for name, probes in request.locality.items()}
        locality = FrozenDict({name: probes for name, probes in groups.items() if probes})
        found.append(request.model_copy(update={"locality": locality}))
    return found
