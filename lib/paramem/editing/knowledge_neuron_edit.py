r"""KN edit: overwrite the value slots of the neurons that express a fact (dai2021neurons).

1. ``wordings``      the edited prompt, and the relation's other templates with the edit's subject
2. ``located``       the refined knowledge neurons of what the model answers now, without those that the relation shares
3. ``rewritten``     take the old answer's direction out of their value slots, and put the new answer's in

=========================  ======================  ==========================================================
paper                      code                    shape
=========================  ======================  ==========================================================
Attr(w_i^(l))              `integrated_gradients`  (prompts, layers, d_mlp)
FFN^(val)_i                value slot              column i of the down projection, (d_model,)
t, t'                      ``old``, ``new``        ids of first answer tokens; e(t), e(t') rows of the head
lambda_1, lambda_2         ``take``, ``give``
=========================  ======================  ==========================================================

Nothing is optimised, and nothing looks at what the edit does: whether it succeeds depends on whether neurons were found
that speak for this fact and not for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from paramem.detection.knowledge_neurons import (
    KnowledgeNeuronSettings,
    activations,
    adapt_sharing,
    coarse_neurons,
    integrated_gradients,
    refine,
    update_slots,
)
from paramem.detection.neurons import Asked, Neuron, answer_logits, ask_prompts
from paramem.editing.requests import check_requests
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest, Fact, fill
from paramem.interventions import WeightDelta
from paramem.models import LM

DEPARTURES = {
    "model": (
        "a masked model whose answers are one word at the mask",
        "a causal model: old and new answer count by their first tokens, read at the prompt's last token",
        "what follows the first token of a name is usually certain; where it is not, the edit is not made",
    ),
    "wordings": (
        "a fact comes with its prompts, four or more, and is edited if it is answered in them",
        "the relation's wordings come from other facts of that relation; without any, the edited prompt stands alone",
        "a request names one prompt only; as in the paper, these wordings may be the ones that the edit is tried on",
    ),
    "old answer": (
        "only facts that the model answers rightly are updated",
        "what the model answers first is taken out, whether it is right or not",
        "an editor has to do something for every request; for facts that are answered rightly it is the same",
    ),
    "relation's neurons": (
        "the released code leaves out neurons of more than 10 % of the relation's facts, and gives up if none is left",
        "the same share, counted over `peers` other facts in one prompt each; if none is left, the least shared stay",
        "attributing every fact of a relation for each edit would cost more than all other editors together",
    ),
    "sign": (
        "e(t') is added to each slot whatever the neuron's activation",
        "with the sign of the activation at the prompt's last token, unless `signed=False`",
        "a gated neuron is negative as often as positive, and adding to its slot would then push the new answer away",
    ),
}


@dataclass(frozen=True, kw_only=True)
class KnowledgeNeuronEditSettings:
    """take, give: how much of the old answer's direction leaves a slot and of the new one's enters it, in lengths of
    the slot. relation_share: neurons that more than this share of the relation's facts have stay as they are; None
    leaves none out. peers: facts of the relation that this is counted over. search: how neurons are found."""

    take: float = 1.0
    give: float = 8.0
    signed: bool = True
    relation_share: float | None = 0.1
    peers: int = 20
    search: KnowledgeNeuronSettings = field(default_factory=KnowledgeNeuronSettings)

    def __post_init__(self) -> None:
        if self.relation_share is not None and not 0 <= self.relation_share <= 1:
            raise BadParameter(f"relation_share={self.relation_share}: a share from 0 to 1, or None to leave none out.")
        if self.peers < 1:
            raise BadParameter(f"peers={self.peers}: at least one, or relation_share=None.")


class Located(NamedTuple):
    """The neurons of one edit, those with positive and those with negative activation, most attributed first."""

    positive: list[Neuron]
    negative: list[Neuron]


def knowledge_neuron_edit(
    lm: LM,
    requests: Sequence[EditRequest],
    settings: KnowledgeNeuronEditSettings | None = None,
    facts: Sequence[Fact] = (),
) -> WeightDelta:
    """All edits, each of its own neurons, which are looked for in the model as it is.

    facts: what else is known, for the relation's wordings and for what the relation's facts share.
    Raises BadInput when no neuron speaks for an answer, and what `check_requests` raises.
    """
    settings, many = settings or KnowledgeNeuronEditSettings(), check_requests(lm, requests)
    return sum(knowledge_neuron_edit_each(lm, many, settings, facts), WeightDelta({}))


def knowledge_neuron_edit_each(
    lm: LM, requests: Sequence[EditRequest], settings: KnowledgeNeuronEditSettings, facts: Sequence[Fact] = ()
) -> list[WeightDelta]:
    """Every request as an edit of its own; their neurons are looked for side by side."""
    found = located(lm, requests, settings, facts)
    return [rewritten(lm, request, each, settings) for request, each in zip(requests, found, strict=True)]


def wordings(request: EditRequest, facts: Sequence[Fact]) -> tuple[str, ...]:
    """The edited prompt, then the wordings of other facts of its relation in its language, about its subject."""
    forms = dict.fromkeys([request.template])
    for fact in _of_relation(request, facts):
        forms |= dict.fromkeys((fact.template, *fact.paraphrases))
    return tuple(fill(form, request.subject) for form in forms)


def located(
    lm: LM, requests: Sequence[EditRequest], settings: KnowledgeNeuronEditSettings, facts: Sequence[Fact] = ()
) -> list[Located]:
    """The knowledge neurons of each edit's present answer. Raises BadInput where there are none."""
    forms = [wordings(request, facts) for request in requests]
    asked = _as_answered(lm, requests, forms)
    scores = integrated_gradients(lm, asked, settings.search)
    active = activations(lm, asked)
    shared = {name: _shared(lm, name, facts, settings) for name in {each.relation for each in requests}}
    sizes, found = [len(each) for each in forms], []
    for request, score, state in zip(requests, torch.split(scores, sizes), torch.split(active, sizes), strict=True):
        neurons = _without(_refined(score, settings.search), shared[request.relation], settings)
        if not neurons:
            raise BadInput(f"edit {request.id!r}: no neuron of {lm.name} speaks for what it answers {request.prompt!r}")
        ahead = [neuron for neuron in neurons if not settings.signed or state[:, *neuron].mean() >= 0]
        found.append(Located(ahead, [neuron for neuron in neurons if neuron not in ahead]))
    return found


def rewritten(lm: LM, request: EditRequest, found: Located, settings: KnowledgeNeuronEditSettings) -> WeightDelta:
    """slot - take * e(t) + give * e(t') for positive neurons, the opposite for negative ones."""
    asked = ask_prompts(lm, [request.prompt], [request.target_new])
    old, new = int(answer_logits(lm, asked).argmax()), int(asked.answers)
    total = WeightDelta({})
    for sign, neurons in ((1.0, found.positive), (-1.0, found.negative)):
        total = total + update_slots(lm, neurons, old, new, take=sign * settings.take, give=sign * settings.give)
    return total


def _as_answered(lm: LM, requests: Sequence[EditRequest], forms: Sequence[tuple[str, ...]]) -> Asked:
    """Every wording of every edit, each with what the model answers to the edited prompt."""
    prompts = [form for each in forms for form in each]
    targets = [request.target_new for request, each in zip(requests, forms, strict=True) for _ in each]
    asked = ask_prompts(lm, prompts, targets)
    firsts = ask_prompts(lm, [each.prompt for each in requests], [each.target_new for each in requests])
    answers = answer_logits(lm, firsts).argmax(-1)
    return replace(asked, answers=answers.repeat_interleave(torch.tensor([len(f) for f in forms], device=lm.device)))


def _refined(scores: Tensor, search: KnowledgeNeuronSettings) -> list[Neuron]:
    """The neurons of one edit from its wordings' attributions (wordings, layers, d_mlp), most attributed first."""
    coarse = [coarse_neurons(each, search.threshold) for each in scores]
    kept = refine(coarse, adapt_sharing([coarse], search)) if len(coarse) > 1 else coarse[0]
    return sorted(kept, key=lambda neuron: (-float(scores[:, *neuron].mean()), neuron))


def _shared(
    lm: LM, relation: str | None, facts: Sequence[Fact], settings: KnowledgeNeuronEditSettings
) -> dict[Neuron, float]:
    """The share of the relation's other facts in whose prompt a neuron is found."""
    peers = [fact for fact in facts if fact.relation == relation][: settings.peers]
    if settings.relation_share is None or not peers:
        return {}
    asked = ask_prompts(lm, [fact.prompt for fact in peers], [fact.object for fact in peers])
    counts: dict[Neuron, float] = {}
    for scores in integrated_gradients(lm, asked, settings.search):
        for neuron in coarse_neurons(scores, settings.search.threshold):
            counts[neuron] = counts.get(neuron, 0.0) + 1 / len(peers)
    return counts


def _without(neurons: list[Neuron], shared: dict[Neuron, float], settings: KnowledgeNeuronEditSettings) -> list[Neuron]:
    """Without what the relation shares; if that is all of them, the least shared stay."""
    if settings.relation_share is None or not neurons:
        return neurons
    least = min(shared.get(neuron, 0.0) for neuron in neurons)
    return [neuron for neuron in neurons if shared.get(neuron, 0.0) <= max(settings.relation_share, least) + 1e-9]


def _of_relation(request: EditRequest, facts: Sequence[Fact]) -> list[Fact]:
    """Other facts of the edit's relation, in the language of its template where one of them has that template."""
    same = [fact for fact in facts if fact.relation == request.relation and fact.subject != request.subject]
    languages = {fact.language for fact in same if request.template in (fact.template, *fact.paraphrases)}
    return [fact for fact in same if not languages or fact.language in languages]
