"""Mixing the logits of several models.

With an expert, its untuned version and a base model: `LogitsMix(((1.0, expert), (-1.0, untuned)))` on the base. With
the same model under a `PromptRewrite` as a term, it contrasts what the model says with and without a context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from paramem.errors import BadInput, BadParameter, IncompatibleIntervention
from paramem.interventions.base import Intervention, Size
from paramem.interventions.prompt import Rewriting
from paramem.interventions.storage import rebuild

if TYPE_CHECKING:
    from paramem.lm import LM
    from paramem.tokens import Batch

Combine: TypeAlias = "Callable[[Tensor, Sequence[Tensor]], Tensor]"


@dataclass(frozen=True, eq=False)
class LogitsMix(Intervention):
    """`base_weight * logits + sum of weight * logits of the terms' models`, token by token.

    The models share a vocabulary; each reads the prompt with its own rewrites. Terms are saved by their model's name.
    """

    kind = "logits_mix"

    terms: tuple[tuple[float, LM], ...]
    base_weight: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not self.terms:
            raise BadParameter("a mix needs at least one term (weight, LM)")

    @property
    def models(self) -> tuple[LM, ...]:
        return tuple(lm for _, lm in self.terms)

    @contextmanager
    def applied(self, lm: LM) -> Iterator[LM]:
        """A model whose logits, scores and generations are mixed."""
        vocabulary = lm.tokenizer.get_vocab()
        for other in self.models:
            if other.tokenizer.get_vocab() != vocabulary or other.arch.vocabulary != lm.arch.vocabulary:
                raise IncompatibleIntervention(
                    f"models {lm.name!r} and {other.name!r} have different vocabularies: their logits cannot be mixed"
                )
        yield lm.with_(mixes=(*lm.mixes, self))

    def combine(self, own: Tensor, others: Sequence[Tensor]) -> Tensor:
        """The mixed logits, given those of the model itself and of the terms in order; all of one shape."""
        mixed = self.base_weight * own
        for (weight, _), other in zip(self.terms, others, strict=True):
            mixed = mixed + weight * other.to(own)
        return mixed

    def continuing(self, prompts: Sequence[str]) -> tuple[tuple[LM, ...], Combine]:
        """What is mixed while these prompts are continued: the other models, and how their logits come together."""
        return self.models, self.combine

    def mixed(self, lm: LM, batch: Batch, own: Tensor, at: tuple[Tensor, Tensor] | None) -> Tensor:
        """The mixed logits of a batch encoded by `lm`: at the places `at`, or everywhere."""
        return self.combine(own, [self._term(lm, other, batch, at) for other in self.models])

    def _term(self, lm: LM, other: LM, batch: Batch, at: tuple[Tensor, Tensor] | None) -> Tensor:
        if other.rewrites == lm.rewrites:
            batch = batch.to(other.device)
            return other.logits(batch) if at is None else other.logits_at(batch, *(t.to(other.device) for t in at))
        if at is None or not batch.prompts:
            raise BadInput(
                f"model {other.name!r} reads other prompts than {lm.name!r}: their logits meet only at target tokens; "
                "use score, next_logprobs, generate, or logits_at on a batch made by encode"
            )
        own = other.encode(batch.prompts, batch.targets)
        rows, columns = (t.to(other.device) for t in at)
        behind = columns - batch.prompt_lengths.to(other.device)[rows]
        if bool((behind < -1).any()) or not torch.equal(_target_ids(own), _target_ids(batch).to(other.device)):
            raise BadInput(f"the rewrites of model {other.name!r} change how targets are split into tokens")
        return other.logits_at(own, rows, own.prompt_lengths[rows] + behind)

    def size(self) -> Size:
        distinct = {id(lm.model): lm.model for lm in self.models}
        return sum((Size.of(*model.parameters()) for model in distinct.values()), Size())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        terms = [
            {
                "weight": weight,
                "model": lm.name,
                "dtype": str(lm.dtype).removeprefix("torch."),
                "rewrites": [{"kind": rewrite.kind, "data": rewrite.state()[0]} for rewrite in lm.rewrites],
                "fingerprint": lm.fingerprint(),
            }
            for weight, lm in self.terms
        ]
        return {"terms": terms, "base_weight": self.base_weight}, {}

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LogitsMix:
        return cls(tuple((term["weight"], _load_term(term)) for term in data["terms"]), base_weight=data["base_weight"])


def _target_ids(batch: Batch) -> Tensor:
    return batch.input_ids[batch.target_mask]


def _load_term(term: Mapping[str, Any]) -> LM:
    from paramem.models import load

    lm = load(term["model"], dtype=term["dtype"])
    rewrites = [rebuild(each["kind"], each["data"], {}) for each in term["rewrites"]]
    lm = lm.with_(rewrites=tuple(each for each in rewrites if isinstance(each, Rewriting)))
    if lm.fingerprint() != term["fingerprint"]:
        raise IncompatibleIntervention(
            f"model {term['model']!r} is no longer the one that was mixed: its weights differ"
        )
    return lm
