"""One row per probe, model state and protocol: what a model answers before and after edits.

Two protocols stand side by side: "teacher_forced" and "generated" (see `answers`). Two references do, too, and they are
not the same thing: `correct` and `token_accuracy` compare with the right answer, `same` and `token_same` with what the
unedited model said. Locality is reported in the literature in either way under one name; here both columns are there.

Each state costs one forward over all pairs and one generation over all prompts, however many probes there are. What the
unedited model says is computed once for all requests and is reused over editors: pass `before=baseline(lm, requests)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pandas as pd
import torch

from paramem.errors import BadInput
from paramem.evaluation.answers import Pair, ask, encode_pairs
from paramem.evaluation.fluency import Fluency
from paramem.evaluation.plan import Plan, request_hash
from paramem.evaluation.rows import table_rows
from paramem.evaluation.saying import Asking, Said, answer_lengths, say
from paramem.evaluation.side_by_side import can_share, say_each
from paramem.facts import EditRequest
from paramem.interventions import Intervention
from paramem.interventions.prompt import Rewriting
from paramem.models import LM, Batch

Method = Callable[[LM, EditRequest], Intervention]
Edits = Intervention | Sequence[Intervention] | Mapping[str, Intervention] | Method | None
# Log-probabilities of whole vocabularies kept for the KL column: at most so many numbers (1 GiB in float32).
KEPT_AT_MOST = 2**28


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """What the unedited model says to every probe, with the settings that edited models are then asked with."""

    requests: Mapping[str, str]  # id -> hash
    said: Said
    met: Mapping[Pair, bool]  # condition -> whether the unedited model meets it, teacher-forced
    batch: Batch
    how: Asking
    model: str
    model_hash: str

    def eligible(self, plan: Plan) -> dict[tuple[str, int], bool]:
        """(request, number of the probe) -> whether its conditions are met."""
        return {(item.request.id, item.number): all(self.met[pair] for pair in item.conditions) for item in plan.items}


def baseline(
    lm: LM,
    requests: EditRequest | Sequence[EditRequest],
    *,
    generated: bool = True,
    kl: bool = True,
    fluency: Fluency | None = None,
    answer_tokens: int | None = None,
    batch_size: int | None = None,
) -> Baseline:
    """Ask the unedited model everything once.

    generated      also let the model answer freely
    answer_tokens  for at most so many tokens; those of the right answer and one more when None
    kl             keep next-token distributions, for the KL divergence after an edit
    fluency        also generate texts and measure their entropy; slow, so off by default
    batch_size     rows per forward; all at once, within a memory bound, when None
    """
    many = (requests,) if isinstance(requests, EditRequest) else tuple(requests)
    plan = Plan.of(many)
    batch = encode_pairs(lm, plan.pairs)
    how = Asking(
        lengths=answer_lengths(plan, batch, answer_tokens) if generated else None,
        keep_next=kl and _can_keep(lm, len(plan.pairs)),
        fluency=fluency,
        batch_size=batch_size,
    )
    conditions = plan.conditions
    met = ask(lm, conditions, batch_size=batch_size).exact.tolist() if conditions else []
    return Baseline(
        requests={request.id: request_hash(request) for request in many},
        said=say(lm, plan, many, batch, how),
        met=dict(zip(conditions, met, strict=True)),
        batch=batch,
        how=how,
        model=lm.name,
        model_hash=lm.fingerprint(),
    )


def evaluate(
    lm: LM,
    requests: EditRequest | Sequence[EditRequest],
    interventions: Edits = None,
    *,
    before: Baseline | None = None,
    name: str | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """The tidy table of what edits did, and of what the model said before.

    interventions  one for all requests (applied once, every request is asked of the same edited model); one per
                   request, in their order or by id (each applied alone); a method, called with the model and each
                   request; or None
    before         the baseline of these requests, or of more, on this model; when it is None, `settings` are those of
                   `baseline`
    name           how the table calls the edits
    """
    if before is None:
        before = baseline(lm, requests, **settings)
    elif settings:
        raise BadInput(f"{', '.join(sorted(settings))} belong to the baseline: pass them to baseline(...)")
    many = (requests,) if isinstance(requests, EditRequest) else tuple(requests)
    plan = Plan.of(many)
    _check_baseline(lm, many, before)
    return _table(before, plan, many, _said(lm, before, plan, many, interventions), name or _label(interventions))


def evaluate_together(
    lm: LM, sets: Sequence[tuple[Sequence[EditRequest], Sequence[Intervention], Baseline]], *, name: str
) -> list[pd.DataFrame]:
    """The table of `evaluate` for each (requests, an edit for each, their baseline), all in shared forwards."""
    states: list[tuple[Baseline, tuple[EditRequest, ...], Intervention]] = []
    for requests, edits, before in sets:
        _check_baseline(lm, tuple(requests), before)
        states += [(before, group, edit) for group, edit in _states(lm, tuple(requests), edits)]
    said = iter(_each_said(lm, states))
    return [
        _table(before, Plan.of(requests), tuple(requests), islice(said, len(requests)), name)
        for requests, _, before in sets
    ]


Told = tuple[Plan, tuple[EditRequest, ...], Said]  # a plan, its requests, what the edited model says


def _table(
    before: Baseline, plan: Plan, many: tuple[EditRequest, ...], told: Iterable[Told], name: str
) -> pd.DataFrame:
    rows = list(table_rows(plan, many, before.said, None))
    for asked, group, said in told:
        rows += table_rows(asked, group, said, before.said)
    return _finished(pd.DataFrame(rows), before, plan, name)


def _said(lm: LM, before: Baseline, plan: Plan, many: tuple[EditRequest, ...], interventions: Edits) -> Iterator[Told]:
    """In the order of the requests; edits of one request each are asked side by side where they fit."""
    states = _states(lm, many, interventions)
    if isinstance(interventions, (Sequence, Mapping)) and before.how.fluency is None:
        yield from _each_said(lm, [(before, group, edit) for group, edit in states])
        return
    for group, edit in states:
        asked = plan if len(group) == len(many) else Plan.of(group)
        yield asked, group, _edited(lm, before, asked, group, edit)


def _each_said(lm: LM, states: Sequence[tuple[Baseline, tuple[EditRequest, ...], Intervention]]) -> Iterator[Told]:
    """What the model says to each group of requests under its edit, in shared forwards where edits `can_share`."""
    together = [] if lm.patches else [i for i, (*_, edit) in enumerate(states) if can_share(lm, edit)]
    plans = [Plan.of(group) for _, group, _ in states]
    found: dict[int, Said] = {}
    if len(together) > 1:
        batches = [_read(lm, states[i][0], plans[i], states[i][2]) for i in together]
        hows, edits = [states[i][0].how for i in together], [states[i][2] for i in together]
        found = dict(zip(together, say_each(lm, [plans[i] for i in together], edits, batches, hows), strict=True))
    for i, (before, group, edit) in enumerate(states):
        yield plans[i], group, found[i] if i in found else _edited(lm, before, plans[i], group, edit)


def _read(lm: LM, before: Baseline, plan: Plan, edit: Intervention) -> Batch:
    """The pairs of a plan as the edited model reads them."""
    return encode_pairs(lm.with_(rewrites=(edit,)), plan.pairs) if isinstance(edit, Rewriting) else _rows(before, plan)


def _rows(before: Baseline, plan: Plan) -> Batch:
    """The rows of the baseline that ask this plan."""
    return before.batch.rows(torch.tensor([before.said.place[pair] for pair in plan.pairs]))


def _finished(frame: pd.DataFrame, before: Baseline, plan: Plan, label: str) -> pd.DataFrame:
    eligible = before.eligible(plan)
    probes = zip(frame["request"], frame["probe"], frame["group"], strict=True)
    return frame.assign(
        eligible=[group == "fluency" or eligible[request, probe] for request, probe, group in probes],
        request_hash=frame["request"].map(dict(before.requests)),
        edit=label,
        model=before.model,
        model_hash=before.model_hash,
        seed=before.how.fluency.seed if before.how.fluency else 0,
    )


def _edited(lm: LM, before: Baseline, plan: Plan, requests: Sequence[EditRequest], edit: Intervention) -> Said:
    with edit.applied(lm) as edited:
        if edited.rewrites == lm.rewrites:  # the rows are those of the baseline: no need to tokenise again
            batch = _rows(before, plan)
        else:
            batch = encode_pairs(edited, plan.pairs)
        return say(edited, plan, requests, batch, before.how)


def _can_keep(lm: LM, n: int) -> bool:
    numbers = n * int(lm.model.config.vocab_size)
    if numbers > KEPT_AT_MOST:
        warnings.warn(
            f"{n:,} pairs times the vocabulary are too many numbers to keep: the KL column stays empty; evaluate fewer "
            "requests at a time, or pass kl=False",
            stacklevel=3,
        )
    return numbers <= KEPT_AT_MOST


def _check_baseline(lm: LM, requests: Sequence[EditRequest], before: Baseline) -> None:
    for request in requests:
        if before.requests.get(request.id) != request_hash(request):
            raise BadInput(
                f"the baseline does not know request {request.id!r} in this form; make one with baseline(lm, requests)"
            )
    if lm.fingerprint() != before.model_hash:
        raise BadInput(
            f"the baseline belongs to model {before.model!r} with other weights than {lm.name!r} has now; make one "
            "with baseline(lm, requests), outside of any applied edit"
        )


def _label(interventions: Edits) -> str:
    if interventions is None:
        return "none"
    if isinstance(interventions, Intervention):
        return type(interventions).__name__
    if callable(interventions):
        return str(getattr(interventions, "__name__", type(interventions).__name__))
    values = interventions.values() if isinstance(interventions, Mapping) else interventions
    return ", ".join(sorted({type(edit).__name__ for edit in values}))


def _states(
    lm: LM, requests: tuple[EditRequest, ...], edits: Edits
) -> Iterator[tuple[tuple[EditRequest, ...], Intervention]]:
    """(requests to ask, edit to put on), one for each edited state of the model."""
    if edits is None:
        return
    if isinstance(edits, Intervention):
        yield requests, edits
    elif isinstance(edits, Mapping):
        missing = [request.id for request in requests if request.id not in edits]
        if missing:
            raise BadInput(f"there is no edit for request {missing[0]!r} ({len(missing)} of {len(requests)} lack one)")
        yield from (((request,), edits[request.id]) for request in requests)
    elif callable(edits):
        yield from (((request,), edits(lm, request)) for request in requests)
    else:
        if len(edits) != len(requests):
            raise BadInput(f"{len(edits)} edits for {len(requests)} requests; one is needed for each, or one for all")
        yield from (((request,), edit) for request, edit in zip(requests, edits, strict=True))
