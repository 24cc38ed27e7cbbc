"""One row per probe, model state and protocol: what a model answers before and after edits.

Two protocols stand side by side: "teacher_forced" and "generated" (see `answers`). Two references do, too, and they are
not the same thing: `correct` and `token_accuracy` compare with the right answer, `same` and `token_same` with what the
unedited model said. Locality is reported in the literature in either way under one name; here both columns are there.

Each state costs one forward over all pairs and one generation over all prompts, however many probes there are. What the
unedited model says is computed once for all requests and is reused over editors: pass `before=baseline(lm, requests)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, nan
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from paramem.errors import BadInput
from paramem.evaluation.answers import Answers, Pair, ask, begins_with, encode_pairs, generate, shared
from paramem.evaluation.fluency import Fluency, generated_texts, generation_entropy
from paramem.evaluation.plan import Item, Plan, fluency_prompts, request_hash
from paramem.facts import EditRequest
from paramem.interventions import Intervention
from paramem.models import LM, Batch

Method = Callable[[LM, EditRequest], Intervention]
Edits = Intervention | Sequence[Intervention] | Mapping[str, Intervention] | Method | None
# Log-probabilities of whole vocabularies kept for the KL column: at most so many numbers (1 GiB in float32).
KEPT_AT_MOST = 2**28


@dataclass(frozen=True, kw_only=True, eq=False)
class Said:
    """What one model state answers to a plan; `wanted` are the tokens of each pair's target."""

    place: Mapping[Pair, int]
    answers: Answers
    wanted: Sequence[tuple[int, ...]]
    texts: Mapping[str, str]
    tokens: Mapping[str, tuple[int, ...]]
    stories: Mapping[str, str]  # fluency prompt -> generated text

    def next(self, pair: Pair) -> Tensor | None:
        """[V] log-probabilities right after the prompt of `pair`."""
        return None if self.answers.next is None else self.answers.next[self.place[pair]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """What the unedited model says to every probe, with the settings that edited models are then asked with."""

    requests: Mapping[str, str]  # id -> hash
    plan: Plan
    said: Said
    held: Mapping[Pair, bool]  # condition -> whether the unedited model meets it, teacher-forced
    batch: Batch
    answer_tokens: int
    generated: bool
    fluency: Fluency | None
    batch_size: int | None
    model: str
    model_hash: str


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

    generated      also let the model answer freely, for `answer_tokens` tokens (the longest right answer when None)
    kl             keep next-token distributions, for the KL divergence after an edit
    fluency        also generate texts and measure their entropy; slow, so off by default
    batch_size     rows per forward; all at once, within a memory bound, when None
    """
    many = (requests,) if isinstance(requests, EditRequest) else tuple(requests)
    plan = Plan.of(many)
    batch = encode_pairs(lm, plan.pairs)
    longest = int((batch.lengths - batch.prompt_lengths).max())
    keep = kl and _can_keep(lm, len(plan.pairs))
    conditions = plan.conditions
    held = ask(lm, conditions, batch_size=batch_size).exact.tolist() if conditions else []
    settings: dict[str, Any] = {
        "answer_tokens": answer_tokens or longest,
        "generated": generated,
        "fluency": fluency,
        "batch_size": batch_size,
    }
    return Baseline(
        requests={request.id: request_hash(request) for request in many},
        plan=plan,
        said=_say(lm, plan, many, batch, keep_next=keep, **settings),
        held=dict(zip(conditions, held, strict=True)),
        batch=batch,
        model=lm.name,
        model_hash=lm.fingerprint(),
        **settings,
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
    rows = list(_rows(before, plan, many, before.said, "before"))
    for group, edit in _states(lm, many, interventions):
        asked = plan if len(group) == len(many) else Plan.of(group)
        rows += _rows(before, asked, group, _edited(lm, before, asked, group, edit), "after")
    return pd.DataFrame(rows).assign(
        edit=name or _label(interventions),
        model=before.model,
        model_hash=before.model_hash,
        seed=before.fluency.seed if before.fluency else 0,
    )


def _edited(lm: LM, before: Baseline, plan: Plan, requests: Sequence[EditRequest], edit: Intervention) -> Said:
    with edit.applied(lm) as edited:
        if edited.rewrites == lm.rewrites:  # the rows are those of the baseline: no need to tokenise again
            batch = before.batch.rows(torch.tensor([before.said.place[pair] for pair in plan.pairs]))
        else:
            batch = encode_pairs(edited, plan.pairs)
        return _say(
            edited,
            plan,
            requests,
            batch,
            keep_next=before.said.answers.next is not None,
            answer_tokens=before.answer_tokens,
            generated=before.generated,
            fluency=before.fluency,
            batch_size=before.batch_size,
        )


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


def _say(
    lm: LM,
    plan: Plan,
    requests: Sequence[EditRequest],
    batch: Batch,
    *,
    keep_next: bool,
    answer_tokens: int,
    generated: bool,
    fluency: Fluency | None,
    batch_size: int | None,
) -> Said:
    answers = ask(lm, batch, keep_next=keep_next, batch_size=batch_size)
    texts: Sequence[str] = ()
    tokens: Sequence[tuple[int, ...]] = ()
    if generated:
        texts, tokens = generate(lm, plan.prompts, max_new_tokens=answer_tokens, batch_size=batch_size)
    stories: dict[str, str] = {}
    if fluency is not None:
        prompts = tuple(dict.fromkeys(prompt for request in requests for prompt in fluency_prompts(request)))
        stories = dict(zip(prompts, generated_texts(lm, prompts, fluency), strict=True))
    return Said(
        place={pair: place for place, pair in enumerate(plan.pairs)},
        answers=answers,
        wanted=_targets(batch),
        texts=dict(zip(plan.prompts, texts, strict=False)),
        tokens=dict(zip(plan.prompts, tokens, strict=False)),
        stories=stories,
    )


def _targets(batch: Batch) -> list[tuple[int, ...]]:
    ids, starts, ends = (part.tolist() for part in (batch.input_ids, batch.prompt_lengths, batch.lengths))
    return [tuple(row[start:end]) for row, start, end in zip(ids, starts, ends, strict=True)]


def _rows(
    before: Baseline, plan: Plan, requests: Sequence[EditRequest], said: Said, state: str
) -> Iterator[dict[str, Any]]:
    after = state == "after"
    for item in plan.items:
        common = _common(item, before, state)
        yield common | {"protocol": "teacher_forced"} | _forced(item, said, before.said if after else None)
        if before.generated:
            yield common | {"protocol": "generated"} | _free(item, said, before.said if after else None)
    for request in requests if before.fluency else ():
        for number, prompt in enumerate(fluency_prompts(request)):
            yield {
                "request": request.id,
                "request_hash": before.requests[request.id],
                "source": request.source,
                "state": state,
                "group": "fluency",
                "subgroup": "generation",
                "kind": "generation_prompts",
                "probe": number,
                "prompt": prompt,
                "eligible": True,
                "test": "",
                "protocol": "generated",
                "answer": said.stories[prompt],
                "entropy": generation_entropy(said.stories[prompt]),
            }


def _common(item: Item, before: Baseline, state: str) -> dict[str, Any]:
    return {
        "request": item.request.id,
        "request_hash": before.requests[item.request.id],
        "source": item.request.source,
        "state": state,
        "group": item.group,
        "subgroup": item.subgroup,
        "kind": item.probe.kind,
        "probe": item.number,
        "prompt": item.probe.prompt,
        "target": item.probe.target,
        "rival": item.rival,
        "eligible": all(before.held[pair] for pair in item.conditions),
        "test": item.probe.test,
    }


def _forced(item: Item, said: Said, own: Said | None) -> dict[str, Any]:
    """Teacher-forced values; `own` is what the unedited model said, None for itself."""
    place, found = said.place[item.pair], said.answers
    row: dict[str, Any] = {"answer": None, "same": nan, "token_same": nan, "kl": nan, "entropy": nan}
    known = bool(item.probe.target)
    row["correct"] = float(found.exact[place]) if known else nan
    row["token_accuracy"] = float(found.token_accuracy[place]) if known else nan
    row["logprob"] = float(found.logprob[place]) if known else nan
    row["mean_logprob"] = mean = float(found.mean_logprob[place]) if known else nan
    row |= {"rival_mean_logprob": nan, "preferred": nan, "margin": nan}
    if item.rival_pair is not None:
        row["rival_mean_logprob"] = other = float(found.mean_logprob[said.place[item.rival_pair]])
        row |= {"preferred": float(mean > other), "margin": exp(mean) - exp(other)}
    if own is not None:
        earlier = own.answers.tokens[own.place[item.pair]]
        n = len(earlier) if known else 1
        row["token_same"] = shared(earlier, found.tokens[place], n)
        row["same"] = float(row["token_same"] == 1)
        row["kl"] = _divergence(own.next(item.pair), said.next(item.pair))
    return row


def _free(item: Item, said: Said, own: Said | None) -> dict[str, Any]:
    """Values of the freely generated answer; `own` is what the unedited model said, None for itself.

    Answers are compared over as many tokens as the right one has, and over all where none is known.
    """
    prompt, probe = item.probe.prompt, item.probe
    wanted, tokens = said.wanted[said.place[item.pair]], said.tokens[prompt]
    known = bool(probe.target)
    row: dict[str, Any] = {"answer": said.texts[prompt], "same": nan, "token_same": nan}
    row["correct"] = float(begins_with(said.texts[prompt], probe.answers)) if known else nan
    row["token_accuracy"] = shared(wanted, tokens, len(wanted)) if known else nan
    if own is not None:
        earlier = own.tokens[prompt]
        row["token_same"] = shared(earlier, tokens, len(wanted) if known else len(earlier))
        row["same"] = float(row["token_same"] == 1)
    return row


def _divergence(before: Tensor | None, after: Tensor | None) -> float:
    """KL(before || after) of next-token distributions, in nats."""
    if before is None or after is None:
        return nan
    return max(0.0, float((before.double().exp() * (before.double() - after.double())).sum()))
