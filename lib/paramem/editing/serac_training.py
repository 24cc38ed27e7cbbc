"""What SERAC learns from edits of training subjects: a scope classifier and a counterfactual model (mitchell2022serac).

1. ``train_scope``           binary cross-entropy: other wordings of an edit's prompt are in its scope, other facts not
2. ``train_counterfactual``  - log P of the new object, given the edit and its prompt in other wordings

The model that is to be edited takes no part: of it, the tokenizer is used.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from paramem.editing.scope import Kind, ScopeClassifier, new_network
from paramem.editing.serac import context
from paramem.editing.trained import Card, Trained
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.interventions.routed import untrained, vocabulary_hash
from paramem.models import LM

FLOOR = 1e-6  # probabilities are kept so far from 1 where a logarithm of the rest is taken


@dataclass(frozen=True, kw_only=True)
class SeracShape:
    """What is fixed before training; `paramem.editing.train` has the defaults that shipped networks were made with.

    scope             kind of classifier, see `paramem.editing.scope`
    width             of the classifier's token vectors
    hidden, layers    of the counterfactual model
    compared          training edits in a step of the classifier: every input is compared with all of them
    edits             training edits in a step of the counterfactual model
    foreign           share of a step's edits whose object is a random word or two, so that objects are read, not known
    steps_scope, steps_answers    optimiser steps of either
    lr_scope, lr      of Adam, falling linearly to a twentieth from half of the steps on
    """

    scope: Kind = "embedding"
    width: int = 64
    hidden: int = 64
    layers: int = 2
    compared: int = 64
    edits: int = 64
    foreign: float = 0.3
    steps_scope: int = 1000
    steps_answers: int = 1000
    lr_scope: float = 5e-3
    lr: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.width, self.hidden, self.layers, self.compared, self.edits)
        if min(*counts, self.steps_scope, self.steps_answers) < 1:
            raise BadParameter(f"{self}: every size and number of steps is at least 1.")


def rate(step: int, steps: int) -> float:
    """The share of the learning rate at a step: a short warm-up, then constant, then a fall."""
    return min(1.0, (step + 1) / 20) * min(1.0, max(0.05, 2 * (steps - step) / steps))


@dataclass(frozen=True, kw_only=True, eq=False)
class Lessons:
    """Training edits, and the texts in and out of the scope of each."""

    requests: tuple[EditRequest, ...]
    objects: Mapping[str | None, tuple[str, ...]]  # relation -> new objects that training edits have
    by_relation: Mapping[str | None, tuple[EditRequest, ...]]
    words: tuple[str, ...]  # of their prompts and objects

    @classmethod
    def of(cls, requests: Sequence[EditRequest]) -> Lessons:
        """Raises BadInput where there are fewer than two subjects."""
        if len({request.subject for request in requests}) < 2:
            raise BadInput(f"{len(requests)} training edits of fewer than two subjects: nothing is out of scope.")
        objects: dict[str | None, set[str]] = {}
        for request in requests:
            objects.setdefault(request.relation, set()).add(request.target_new)
        words = {word for each in requests for word in f"{each.prompt} {each.target_new}".split()}
        pools = {name: tuple(sorted(found)) for name, found in objects.items()}
        groups = {name: tuple(each for each in requests if each.relation == name) for name in pools}
        return cls(requests=tuple(requests), objects=pools, by_relation=groups, words=tuple(sorted(words)))

    def inside(self, request: EditRequest) -> list[str]:
        """Its own prompt, other wordings, other names of the subject."""
        others = (*request.paraphrases, *request.portability.get("alias", ()))
        return [request.prompt, *(probe.prompt for probe in others)]

    def outside(self, request: EditRequest) -> list[str]:
        """What the request's own probes say must stay, as far as it speaks of training subjects."""
        subjects = {each.subject for each in self.requests}
        probes = [probe for found in request.locality.values() for probe in found]
        return [probe.prompt for probe in probes if probe.subject is None or probe.subject in subjects]

    def draw(self, n: int, rng: random.Random, foreign: float = 0.0) -> list[EditRequest]:
        """Edits of all relations alike, with objects redrawn among those of their relation or, in the share
        ``foreign``, among all words."""
        drawn = []
        for each in (rng.choice(self.by_relation[rng.choice(list(self.objects))]) for _ in range(n)):
            words = " ".join(rng.choices(self.words, k=rng.choice((1, 1, 2))))
            new = words if rng.random() < foreign else rng.choice(self.objects[each.relation])
            drawn.append(each.model_copy(update={"target_new": new}))
        return drawn


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
    optimiser = torch.optim.Adam(network.parameters(), lr=shape.lr_scope)
    outside = {request.id: lessons.outside(request) for request in lessons.requests}
    for step in range(shape.steps_scope):
        for group in optimiser.param_groups:
            group["lr"] = shape.lr_scope * rate(step, shape.steps_scope)
        drawn = lessons.draw(shape.compared, rng)
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
    """The counterfactual model's: a Llama whose context has room for the edit before what the base model can read."""
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
    small = LM.of(untrained(lm, config, shape.seed), lm.tokenizer, name=f"{lm.name}-counterfactual")
    rng = random.Random(f"serac/answers/{shape.seed}")
    small.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(small.model.parameters(), lr=shape.lr, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(shape.steps_answers):
        for group in optimiser.param_groups:
            group["lr"] = shape.lr * rate(step, shape.steps_answers)
        drawn = lessons.draw(shape.edits, rng, shape.foreign)
        prompts = [context(request) + rng.choice(lessons.inside(request)) for request in drawn]
        batch = small.encode(prompts, [request.target_new for request in drawn])
        loss = -small.score_batch(batch).mean_logprob.mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(small.model.parameters(), 1.0)
        optimiser.step()
    return config, {name: tensor.detach() for name, tensor in small.model.named_parameters()}


def learn(lm: LM, requests: Sequence[EditRequest], shape: SeracShape) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors as ``serac`` takes them in a `Trained`; raises BadInput with too little to learn from."""
    lessons = Lessons.of(requests)
    described, scope = train_scope(lm, lessons, shape)
    config, weights = train_counterfactual(lm, lessons, shape)
    tensors = {f"scope/{name}": tensor for name, tensor in scope.items()}
    tensors |= {f"model/{name}": tensor for name, tensor in weights.items()}
    return {"scope": described, "config": config, "vocabulary": vocabulary_hash(lm)}, tensors


def train(lm: LM, requests: Sequence[EditRequest], shape: SeracShape) -> Trained:
    """What ``learn`` makes, with its card; raises BadInput."""
    start = time.process_time()
    settings, tensors = learn(lm, requests, shape)
    card = Card(
        method="serac",
        model=lm.name,
        model_hash=lm.fingerprint(),
        recipe="",
        settings={**settings, "shape": asdict(shape)},
        seconds=round(time.process_time() - start, 1),
        held_out="",
    )
    return Trained(card=card, tensors=tensors)
