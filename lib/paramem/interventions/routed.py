"""Answers of a second, small model in the place of the model's own, for prompts in the scope of a stored edit.

A classifier compares a prompt with every stored edit. Where the likeliest is likely enough, the small model reads that
edit in front of the prompt and answers; everywhere else the model's own logits are handed on, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from paramem.errors import BadInput, BadParameter, IncompatibleIntervention
from paramem.interventions.base import Intervention, Size
from paramem.interventions.logits import Combine, LogitsMix
from paramem.interventions.prompt import Rewriting, halves
from paramem.interventions.token_rows import drawn, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from paramem.editing.scope import ScopeClassifier
    from paramem.lm import LM
    from paramem.tokens import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Routed(Intervention):
    """A memory of edits, a classifier of their scope, and a small model that answers in it.

    keys        the edits as the classifier reads them
    templates   the edits as the small model reads them, each with one `{prompt}`
    threshold   probability from which a prompt counts as in scope
    scope       the classifier's description, see `paramem.editing.scope`
    config      the small model's configuration, and the seed that its token vectors were drawn with
    tensors     the weights of both, under "scope/..." and "model/...", perhaps of seen tokens only (`token_rows`)
    vocabulary  hash of the vocabulary that both read
    """

    kind = "routed"

    keys: tuple[str, ...]
    templates: tuple[str, ...]
    threshold: float = 0.5
    scope: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    vocabulary: str

    def __post_init__(self) -> None:
        if not self.keys or len(self.keys) != len(self.templates):
            raise BadParameter(f"{len(self.keys)} keys for {len(self.templates)} templates: one for each, at least one")
        for template in self.templates:
            halves(template)

    @contextmanager
    def applied(self, lm: LM) -> Iterator[LM]:
        """A model that answers in scope as the small one does; raises `IncompatibleIntervention`."""
        if vocabulary_hash(lm) != self.vocabulary:
            raise IncompatibleIntervention(
                f"the small model reads another vocabulary than {lm.name!r}: train one on this model's tokenizer"
            )
        gate = self.gate(lm)
        answering = _last_small_model(lm, self.config, part(self.tensors, "model")).with_(rewrites=(gate,))
        yield lm.with_(mixes=(*lm.mixes, _Route(((1.0, answering),), gate=gate)))

    def gate(self, lm: LM) -> Gate:
        """What decides for each prompt; `choose` tells the number of the edit in whose scope it is."""
        from paramem.editing.scope import classifier

        return Gate(self, classifier(self.scope, part(self.tensors, "scope"), lm.tokenizer))

    def size(self) -> Size:
        texts = sum(len(text.encode()) for text in (*self.keys, *self.templates))
        return Size.of(*self.tensors.values()) + Size(0, texts)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        data = {"keys": list(self.keys), "templates": list(self.templates), "threshold": self.threshold}
        rest = {"scope": dict(self.scope), "config": dict(self.config), "vocabulary": self.vocabulary}
        return {**data, **rest}, dict(self.tensors)

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Routed:
        return cls(
            keys=tuple(data["keys"]),
            templates=tuple(data["templates"]),
            threshold=data["threshold"],
            scope=data["scope"],
            config=data["config"],
            tensors=dict(tensors),
            vocabulary=data["vocabulary"],
        )


@dataclass(frozen=True, eq=False)
class Gate(Rewriting):
    """In front of a prompt, the edit in whose scope it is. Lives while the edit is on; `Routed` is what is saved."""

    routed: Routed
    classifier: ScopeClassifier
    _seen: dict[str, tuple[float, int]] = field(default_factory=dict)

    def probabilities(self, prompts: Sequence[str]) -> list[tuple[float, int]]:
        """For each prompt the probability of the likeliest edit, and its number."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._seen]
        if new:
            best = self.classifier.probabilities(new, self.routed.keys).max(dim=1)
            found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            self._seen.update(zip(new, found, strict=True))
        return [self._seen[prompt] for prompt in prompts]

    def choose(self, prompts: Sequence[str]) -> list[int | None]:
        """The edit in whose scope each prompt is, None outside of every scope."""
        return [edit if p >= self.routed.threshold else None for p, edit in self.probabilities(prompts)]

    def around(self, prompt: str) -> tuple[str, str]:
        [chosen] = self.choose([prompt])
        return ("", "") if chosen is None else halves(self.routed.templates[chosen])

    def fingerprint(self) -> str:
        return self.routed.fingerprint()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return self.routed.state()

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Gate:
        raise BadInput("a gate is not saved: save the edit that it belongs to")


@dataclass(frozen=True, eq=False)
class _Route(LogitsMix):
    """The small model's logits in rows whose prompt is in scope, the model's own in the others."""

    gate: Gate = field(kw_only=True)

    def _in_scope(self, prompts: Sequence[str], like: Tensor) -> Tensor:
        return torch.tensor([edit is not None for edit in self.gate.choose(prompts)], device=like.device)

    def mixed(self, lm: LM, batch: Batch, own: Tensor, at: tuple[Tensor, Tensor] | None) -> Tensor:
        """Text without a prompt, as language modelling has it, is in nobody's scope."""
        inside = self._in_scope(batch.prompts, own) if batch.prompts else torch.zeros(0, dtype=torch.bool)
        if not bool(inside.any()):
            return own
        if at is None:
            raise BadInput(
                "the small model reads other prompts than the model itself: their logits meet only at target tokens; "
                "use score, next_logprobs, generate, or logits_at on a batch made by encode"
            )
        rows, columns = at
        taken = inside[rows]
        place = inside.cumsum(0) - 1
        small = batch.rows(inside.nonzero()[:, 0])
        other = self._term(lm, self.models[0], small, (place[rows[taken]], columns[taken]))
        return own.index_put((taken.nonzero()[:, 0],), other.to(own))

    def continuing(self, prompts: Sequence[str]) -> tuple[tuple[LM, ...], Combine]:
        chosen = self.gate.choose(prompts)
        if all(edit is None for edit in chosen):
            return (), lambda own, others: own

        def combine(own: Tensor, others: Sequence[Tensor]) -> Tensor:
            return torch.where(self._in_scope(prompts, own)[:, None], others[0].to(own), own)

        return self.models, combine

    def fingerprint(self) -> str:
        return self.gate.fingerprint()


TOKENS = "model.embed_tokens.weight"
# What the last small model was made of, and that model; the tensors are held, so that no other ones get their numbers.
_built: list[tuple[tuple[object, ...], Mapping[str, Tensor], LM]] = []


def _last_small_model(lm: LM, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LM:
    """`small_model`, kept for edits put on one after the other: all edits of one memory network share its tensors."""
    stamps = tuple((name, id(tensor), tensor._version) for name, tensor in sorted(weights.items()))
    made_of = (*stamps, *sorted(config.items()), lm.device, id(lm.tokenizer), lm.name)
    if not _built or _built[0][0] != made_of:
        _built[:] = [(made_of, weights, small_model(lm, config, weights))]
    return _built[0][2]


def small_model(lm: LM, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LM:
    """A small model of this configuration and weights that shares the tokenizer and the device of ``lm``.

    Raises IncompatibleIntervention when the weights are not those of such a model.
    """
    model = untrained(lm, config)
    own = dict(model.named_parameters())
    found = whole(weights, TOKENS, own[TOKENS].detach())
    if found.keys() != own.keys() or any(found[name].shape != own[name].shape for name in own):
        raise IncompatibleIntervention(f"the small model's weights do not fit its configuration {dict(config)}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(found[name])
    return type(lm).of(model, lm.tokenizer, name=f"{lm.name}-counterfactual")


def untrained(lm: LM, config: Mapping[str, Any]) -> PreTrainedModel:
    """A model of this configuration over the vocabulary of ``lm``, a function of the configuration's seed.

    Token vectors have entries of 1 / sqrt(hidden_size): one, and its logits, is then about as large before training as
    after it, so that words that training never sees are on a par with the others.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    arguments = {name: value for name, value in config.items() if name not in ("model_type", "seed")}
    described = AutoConfig.for_model(config["model_type"], vocab_size=lm.arch.vocabulary, **arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        model = AutoModelForCausalLM.from_config(described, dtype=torch.float32)  # type: ignore[no-untyped-call]
    width = config["hidden_size"]
    model.get_input_embeddings().weight.data.copy_(drawn(lm.arch.vocabulary, width, width**-0.5, config["seed"]))
    return cast("PreTrainedModel", model.to(lm.device))


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``name/``, without that."""
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}


def vocabulary_hash(lm: LM) -> str:
    """sha256 of the tokenizer's vocabulary."""
    return hashlib.sha256(json.dumps(sorted(lm.tokenizer.get_vocab().items())).encode()).hexdigest()
