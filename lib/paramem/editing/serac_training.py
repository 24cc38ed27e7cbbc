"""What SERAC learns from edits of training subjects: a scope classifier and a counterfactual model (mitchell2022serac).

1. ``train_scope``           binary cross-entropy: other wordings of an edit's prompt are in its scope, other facts are not
2. ``train_counterfactual``  - log P of the new object, given the edit and its prompt in other wordings

The model that is to be edited takes no part: of it, the tokenizer is used.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paramem.editing.scope import Kind, ScopeClassifier, new_network
from paramem.editing.serac import context
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.interventions.routed import untrained, vocabulary_hash
from paramem.models import LM

FLOOR = 1e-6  # probabilities are kept so far from 1 where a logarithm of the rest is taken


@dataclass(frozen=True, kw_only=True)
class SeracShape:
    """What is fixed before training.

    scope             kind of classifier, see `paramem.editing.scope`
    width             of the classifier's token vectors
    hidden, layers    of the counterfactual model
    steps_scope, steps_answers    optimiser steps of either
    edits             training edits in a step
    lr                of Adam, falling linearly to a twentieth from half of the steps on
    """

    scope: Kind = "embedding"
    width: int = 64
    hidden: int = 64
    layers: int = 2
    steps_scope: int = 400
    steps_answers: int = 500
    edits: int = 64
    lr: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.hidden, self.layers, self.steps_scope, self.steps_answers, self.edits) < 1:
            raise BadParameter(f"{self}: every size and number of steps is at least 1.")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at a step."""
        return self.lr * min(1.0, (step + 1) / 20) * min(1.0, max(0.05, 2 * (steps - step) / steps))


@dataclass(frozen=True, kw_only=True, eq=False)
class Lessons:
    """Training edits, and the texts in and out of the scope of each."""

    requests: tuple[EditRequest, ...]
    objects: Mapping[str | None, tuple[str, ...]]  # relation -> new objects that training edits have

    @classmethod
    def of(cls, requests: Sequence[EditRequest]) -> Lessons:
        """Raises BadInput where there are fewer than two subjects."""
        if len({request.subject for request in requests}) < 2:
            raise BadInput(f"{len(requests)} training edits of fewer than two subjects: nothing is out of scope.")
        objects: dict[str | None, set[str]] = {}
        for request in requests:
            objects.setdefault(request.relation, set()).add(request.target_new)
        return cls(requests=tuple(requests), objects={name: tuple(sorted(found)) for name, found in objects.items()})

    def inside(self, request: EditRequest) -> list[str]:
        """Its own prompt, other wordings, other names of the subject."""
        others = (*request.paraphrases, *request.portability.get("alias", ()))
        return [request.prompt, *(probe.prompt for probe in others)]

    def outside(self, request: EditRequest) -> list[str]:
        """What the request's own probes say must stay, as far as it speaks of training subjects."""
        subjects = {each.subject for each in self.requests}
        probes = [probe for found in request.locality.values() for probe in found]
        return [probe.prompt for probe in probes if probe.subject is None or probe.subject in subjects]

    def draw(self, n: int, rng: random.Random) -> list[EditRequest]:
        """Edits with objects redrawn among those of their relation."""
        chosen = rng.sample(self.requests, min(n, len(self.requests)))
        pools = [self.objects[each.relation] if each.relation is not None else (each.target_new,) for each in chosen]
        return [
            each.model_copy(update={"target_new": rng.choice(pool)}) for each, pool in zip(chosen, pools, strict=True)
        ]


def scope_loss(logsims: Tensor, inside: Tensor) -> Tensor:
    """Binary cross-entropy of log-probabilities [inputs, edits] with the pairs that are in scope (bool, same shape).

    Summed over the edits that an input is compared with: it is out of the scope of nearly all of them.
    """
    outside = (-logsims.exp().clamp(max=1 - FLOOR)).log1p()
    return -(torch.where(inside, logsims, outside).sum(1)).mean()


def train_scope(lm: LM, lessons: Lessons, shape: SeracShape) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The classifier's description and weights."""
    described = {"kind": shape.scope, "vocabulary": len(lm.tokenizer), "width": shape.width}
    network = new_network(shape.scope, len(lm.tokenizer), shape.width, shape.seed)
    reader, rng = ScopeClassifier(network, lm.tokenizer), random.Random(f"serac/scope/{shape.seed}")
    optimiser = torch.optim.Adam(network.parameters(), lr=shape.lr)
    outside = {request.id: lessons.outside(request) for request in lessons.requests}
    for step in range(shape.steps_scope):
        for group in optimiser.param_groups:
            group["lr"] = shape.rate(step, shape.steps_scope)
        drawn = lessons.draw(shape.edits, rng)
        prompts = [request.prompt for request in drawn]
        texts = [rng.choice(lessons.inside(request)) for request in drawn]
        texts += [rng.choice(outside[request.id]) for request in drawn if outside[request.id]]
        within = [set(lessons.inside(request)) for request in drawn]
        inside = torch.tensor([[text in scope for scope in within] for text in texts])
        loss = scope_loss(network.all_logsims(reader.read(prompts), reader.read(texts)), inside)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return described, {name: tensor.detach() for name, tensor in network.state_dict().items()}


def configuration(lm: LM, shape: SeracShape) -> dict[str, Any]:
    """The counterfactual model's: a Llama whose context has room for the edit in front of anything the base model reads."""
    return {
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 2 * shape.hidden,
        "max_position_embeddings": 2 * lm.max_length,
        "tie_word_embeddings": True,
        "pad_token_id": None,
    }


def train_counterfactual(lm: LM, lessons: Lessons, shape: SeracShape) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The counterfactual model's configuration and weights."""
    config = configuration(lm, shape)
    small = LM.of(untrained(lm, config, shape.seed).to(lm.device), lm.tokenizer, name=f"{lm.name}-counterfactual")
    rng = random.Random(f"serac/answers/{shape.seed}")
    small.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(small.model.parameters(), lr=shape.lr, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(shape.steps_answers):
        for group in optimiser.param_groups:
            group["lr"] = shape.rate(step, shape.steps_answers)
        drawn = lessons.draw(shape.edits, rng)
        prompts = [context(request) + rng.choice(lessons.inside(request)) for request in drawn]
        batch = small.encode(prompts, [request.target_new for request in drawn])
        loss = -small.score_batch(batch).mean_logprob.mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(small.model.parameters(), 1.0)
        optimiser.step()
    return config, {name: tensor.detach() for name, tensor in small.model.named_parameters()}


def learn(lm: LM, requests: Sequence[EditRequest], shape: SeracShape) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors as ``serac`` takes them in a `Trained`; raises BadInput where there is nothing to learn from."""
    lessons = Lessons.of(requests)
    described, scope = train_scope(lm, lessons, shape)
    config, weights = train_counterfactual(lm, lessons, shape)
    tensors = {f"scope/{name}": tensor for name, tensor in scope.items()}
    tensors |= {f"model/{name}": tensor for name, tensor in weights.items()}
    return {"scope": described, "config": config, "vocabulary": vocabulary_hash(lm)}, tensors
