"""What SERAC learns from edits of training subjects: a scope classifier and a counterfactual model (mitchell2022serac).

1. ``train_scope``           binary cross-entropy: other wordings of an edit's prompt are in its scope, other facts not
2. ``train_counterfactual``  - log P of the new object and of the end behind it, given the edit and its prompt in other
                             wordings

The model that is to be edited takes no part: of it, the tokenizer is used. So networks for two models of one tokenizer
differ by their seed alone, which `paramem.editing.train` derives from the model's name.
"""

from __future__ import annotations

import json
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
from paramem.interventions.routed import TOKENS, untrained, vocabulary_hash
from paramem.interventions.token_rows import only_seen
from paramem.models import LM

FLOOR = 1e-6  # probabilities are kept so far from 1 where a logarithm of the rest is taken


@dataclass(frozen=True, kw_only=True)
class ScopeShape:
    """One classifier. width: of its token vectors. compared: training edits in a step, every input of which is compared
    with all of them. steps, lr: of Adam, falling linearly to a twentieth from half of the steps on."""

    width: int = 64
    compared: int = 64
    steps: int = 600
    lr: float = 5e-3

    def __post_init__(self) -> None:
        if min(self.width, self.compared, self.steps) < 1:
            raise BadParameter(f"{self}: every size and number of steps is at least 1.")


@dataclass(frozen=True, kw_only=True)
class SeracShape:
    """What is fixed before training; `paramem.editing.train` has what shipped networks were made with.

    scopes            kinds of classifier to train, see `paramem.editing.scope`; the settings of each
    hidden, layers    of the counterfactual model
    edits             training edits in a step of it
    foreign           share of a step's edits whose object is a random word or two, so that objects are read, not known
    steps, lr         of AdamW, falling as for a classifier
    """

    scopes: tuple[Kind, ...] = ("embedding", "cross")
    embedding: ScopeShape = ScopeShape()
    cross: ScopeShape = ScopeShape(compared=16, steps=600, lr=2e-3)
    hidden: int = 64
    layers: int = 2
    edits: int = 32
    foreign: float = 0.3
    steps: int = 700
    lr: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.hidden, self.layers, self.edits, self.steps) < 1 or not self.scopes:
            raise BadParameter(f"{self}: every size and number of steps is at least 1, and one classifier is trained.")

    def of(self, kind: Kind) -> ScopeShape:
        """The settings of one classifier."""
        return self.embedding if kind == "embedding" else self.cross


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


def train_scope(
    lm: LM, lessons: Lessons, kind: Kind, shape: ScopeShape, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The classifier's description and weights, of the tokens that it saw."""
    vocabulary = len(lm.tokenizer)
    network = new_network(kind, vocabulary, shape.width, seed)
    before = network.tokens.weight.detach().clone()
    reader, rng = ScopeClassifier(network, lm.tokenizer), random.Random(f"serac/scope/{seed}")
    optimiser = torch.optim.Adam(network.parameters(), lr=shape.lr)
    outside = {request.id: lessons.outside(request) for request in lessons.requests}
    for step in range(shape.steps):
        for group in optimiser.param_groups:
            group["lr"] = shape.lr * rate(step, shape.steps)
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
    weights = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    moved = (weights["tokens.weight"] != before).any(1).nonzero()[:, 0]
    described = {"kind": kind, "vocabulary": vocabulary, "width": shape.width, "seed": seed}
    return described, only_seen(weights, "tokens.weight", moved)


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
        "seed": shape.seed,
    }


def ending(lm: LM) -> str:
    """What stands behind an answer: a full stop, and the token that ends a text where the tokenizer has one."""
    return f".{lm.tokenizer.eos_token or ''}"


def train_counterfactual(lm: LM, lessons: Lessons, shape: SeracShape) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The counterfactual model's configuration and weights, of the tokens that it saw.

    Vectors of other tokens stay as they were drawn: as parts of the softmax they would only learn never to be said.
    """
    config, end = configuration(lm, shape), ending(lm)
    small = LM.of(untrained(lm, config), lm.tokenizer, name=f"{lm.name}-counterfactual")
    rng = random.Random(f"serac/answers/{shape.seed}")
    small.model.requires_grad_(True)
    own = dict(small.model.named_parameters())
    seen = tokens_of(lm, lessons)
    kept = torch.zeros(len(own[TOKENS]), 1, device=lm.device).index_fill_(0, seen.to(lm.device), 1.0)
    handle = own[TOKENS].register_hook(lambda gradient: gradient * kept)  # type: ignore[no-untyped-call]
    others = [parameter for name, parameter in own.items() if name != TOKENS]
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.01}, {"params": [own[TOKENS]]}]
    optimiser = torch.optim.AdamW(groups, lr=shape.lr, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(shape.steps):
        for group in optimiser.param_groups:
            group["lr"] = shape.lr * rate(step, shape.steps)
        drawn = lessons.draw(shape.edits, rng, shape.foreign)
        prompts = [context(request) + rng.choice(lessons.inside(request)) for request in drawn]
        batch = small.encode(prompts, [request.target_new + end for request in drawn])
        loss = -small.score_batch(batch).mean_logprob.mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(small.model.parameters(), 1.0)
        optimiser.step()
    handle.remove()
    return config, only_seen({name: tensor.detach() for name, tensor in own.items()}, TOKENS, seen)


def tokens_of(lm: LM, lessons: Lessons) -> Tensor:
    """The tokens of all texts that the counterfactual model may be given to learn from, in order."""
    texts = [text for request in lessons.requests for text in (context(request), *lessons.inside(request))]
    texts += [f"{word} {word}{ending(lm)}" for word in lessons.words]  # also as they stand inside a text
    return torch.tensor(sorted({number for row in lm.tokenizer(texts)["input_ids"] for number in row}))


def learn(lm: LM, requests: Sequence[EditRequest], shape: SeracShape) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors as ``serac`` takes them in a `Trained`; raises BadInput with too little to learn from."""
    lessons, tensors, scopes = Lessons.of(requests), dict[str, Tensor](), {}
    for kind in shape.scopes:
        scopes[kind], scope = train_scope(lm, lessons, kind, shape.of(kind), shape.seed)
        tensors |= {f"{kind}/{name}": tensor for name, tensor in scope.items()}
    config, weights = train_counterfactual(lm, lessons, shape)
    tensors |= {f"model/{name}": tensor for name, tensor in weights.items()}
    return {"scopes": scopes, "config": config, "vocabulary": vocabulary_hash(lm)}, tensors


def train(lm: LM, requests: Sequence[EditRequest], shape: SeracShape) -> Trained:
    """What ``learn`` makes, with its card; raises BadInput."""
    start = time.process_time()
    settings, tensors = learn(lm, requests, shape)
    card = Card(
        method="serac",
        model=lm.name,
        model_hash=lm.fingerprint(),
        recipe="",
        settings={**settings, "shape": json.loads(json.dumps(asdict(shape)))},
        seconds=round(time.process_time() - start, 1),
        held_out="",
        bits=8,
    )
    return Trained(card=card, tensors=tensors)
