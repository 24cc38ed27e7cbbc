"""The rows of the tidy table: one per probe, model state and protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, nan
from typing import Any

from torch import Tensor

from paramem.evaluation.answers import begins_with, shared
from paramem.evaluation.fluency import generation_entropy
from paramem.evaluation.plan import Item, Plan, fluency_prompts
from paramem.evaluation.saying import Said
from paramem.facts import EditRequest


def table_rows(plan: Plan, requests: Sequence[EditRequest], said: Said, own: Said | None) -> Iterator[dict[str, Any]]:
    """Rows for what one model state said; `own` is what the unedited model said, None when `said` is just that."""
    state = "before" if own is None else "after"
    for item in plan.items:
        common = _common(item, state)
        yield common | {"protocol": "teacher_forced"} | _forced(item, said, own)
        if said.texts:
            yield common | {"protocol": "generated"} | _free(item, said, own)
    for request in requests if said.stories else ():
        for number, prompt in enumerate(fluency_prompts(request)):
            yield {
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
                "answer": said.stories[prompt],
                "entropy": generation_entropy(said.stories[prompt]),
            }


def _common(item: Item, state: str) -> dict[str, Any]:
    return {
        "request": item.request.id,
        "source": item.request.source,
        "state": state,
        "group": item.group,
        "subgroup": item.subgroup,
        "kind": item.probe.kind,
        "probe": item.number,
        "prompt": item.probe.prompt,
        "target": item.probe.target,
        "rival": item.rival,
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
        n = len(earlier) - 1 if known else 1
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
