"""What the neuron-level detectors share: facts asked of a model, neurons switched row by row, control sets.

A neuron is a coordinate of `mlp_hidden`, named by the pair (layer, index). The answer of a fact is the first token of
its object; a detector that locates an answer needs a model that gives it (`require_known`).

    asked = ask(lm, facts)
    answer_probabilities(lm, asked)                                  # [facts]
    answer_probabilities(lm, asked, neurons=sets, scale=0.0)         # each fact with its own neurons suppressed
    with NeuronPatch.at(sets[0]).applied(lm) as without: ...         # the same for whatever is run inside
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from paramem.arch import Site
from paramem.errors import BadInput, BadParameter
from paramem.facts import Fact
from paramem.hooks import Patch, current_layout
from paramem.interventions import NeuronPatch
from paramem.interventions.hidden import Where, token_mask
from paramem.interventions.neurons import Neuron, by_layer
from paramem.models import LM
from paramem.tokens import Batch

__all__ = [
    "Asked",
    "Neuron",
    "NeuronPatch",
    "answer_logits",
    "answer_probabilities",
    "answer_tokens",
    "ask",
    "ask_prompts",
    "at_a_time",
    "by_layer",
    "known_only",
    "other_facts",
    "random_like",
    "require_known",
    "row_patches",
    "top_neurons",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Prompts `[B, T]` as the model reads them, without their answers, and each one's first answer token `[B]`."""

    batch: Batch
    answers: Tensor

    def __len__(self) -> int:
        return len(self.batch)

    def rows(self, index: Tensor) -> Asked:
        """Some of them."""
        return Asked(batch=self.batch.rows(index), answers=self.answers[index])


def ask(lm: LM, facts: Sequence[Fact]) -> Asked:
    """Each fact in its own template."""
    return ask_prompts(lm, [fact.prompt for fact in facts], [fact.object for fact in facts])


def ask_prompts(lm: LM, prompts: Sequence[str], objects: Sequence[str]) -> Asked:
    """Prompts and the first token of the object after each. Raises EmptyTarget, PromptTooLong, BadInput.

    Prompt and object are tokenised together, so that the token is the one that the model would have to say.
    """
    both = lm.encode(prompts, objects)
    answers = both.input_ids.gather(1, both.prompt_lengths[:, None])[:, 0]
    width = int(both.prompt_lengths.max())
    batch = replace(both, input_ids=both.input_ids[:, :width], lengths=both.prompt_lengths, targets=None)
    return Asked(batch=batch, answers=answers)


def at_a_time(
    lm: LM, batch: Batch, most: int, *, layers: int | None = None, everywhere: bool = False
) -> tuple[Tensor, ...]:
    """Places of a batch's rows, as many together as fit (`LM.fitting_rows`) and at most ``most``, in their order.

    layers: whose states are kept, all of them by default. everywhere: logits are read at every token, not at one.
    """
    tokens = batch.input_ids.shape[1]
    rows = lm.fitting_rows(most, tokens, layers=layers or lm.n_layers, read=tokens if everywhere else 1)
    return torch.split(torch.arange(len(batch), device=lm.device), rows)


def answer_tokens(lm: LM, facts: Sequence[Fact]) -> Tensor:
    """The first token of each fact's object after its prompt, `[facts]`."""
    return ask(lm, facts).answers


def require_known(lm: LM, facts: Sequence[Fact], *, rows: int = 1024) -> Asked:
    """The facts as asked, if the model's most probable next token is the answer for every one of them.

    Raises BadInput, naming those that it does not know: there is no place to find of an answer that is not there.
    """
    asked = ask(lm, facts)
    known = _known(lm, asked, rows)
    if not known.all():
        wrong = [fact for fact, right in zip(facts, known.tolist(), strict=True) if not right]
        named = "; ".join(f"{fact.prompt!r} -> {fact.object!r}" for fact in wrong[:3])
        raise BadInput(
            f"{lm.name} does not answer {len(wrong)} of {len(facts)} facts: {named}{' ...' * (len(wrong) > 3)}. "
            "What it does not say cannot be located; take facts from material.known_facts, or filter with known_only."
        )
    return asked


def known_only(lm: LM, facts: Sequence[Fact], *, rows: int = 1024) -> tuple[list[Fact], int]:
    """The facts whose answer is the model's most probable next token, and how many were left out."""
    if not facts:
        return [], 0
    known = _known(lm, ask(lm, facts), rows).tolist()
    return [fact for fact, right in zip(facts, known, strict=True) if right], len(facts) - sum(known)


def _known(lm: LM, asked: Asked, rows: int = 1024) -> Tensor:
    return answer_logits(lm, asked, rows=rows).argmax(-1) == asked.answers


@torch.no_grad()
def answer_logits(
    lm: LM,
    asked: Asked,
    neurons: Sequence[Iterable[Neuron]] | None = None,
    *,
    scale: float = 0.0,
    where: Where = "all",
    rows: int = 1024,
) -> Tensor:
    """Logits after each prompt `[B, V]`, in forwards of at most ``rows`` rows (`LM.fitting_rows`).

    neurons: for each row the neurons that are multiplied by ``scale`` in it; None for the model as it is.
    """
    if neurons is not None and len(neurons) != len(asked):
        raise BadInput(f"{len(neurons)} sets of neurons for {len(asked)} prompts: give one set for each")
    parts = []
    for index in at_a_time(lm, asked.batch, rows, layers=1):
        batch = asked.batch.rows(index)
        patch = {} if neurons is None else row_patches(lm, [neurons[i] for i in index.tolist()], scale, where)
        at = (torch.arange(len(batch), device=lm.device), batch.prompt_lengths - 1)
        parts.append(lm.run(batch, patch=patch, at=at).logits)
    return torch.cat(parts)


def answer_probabilities(
    lm: LM,
    asked: Asked,
    neurons: Sequence[Iterable[Neuron]] | None = None,
    *,
    scale: float = 0.0,
    where: Where = "all",
    rows: int = 1024,
) -> Tensor:
    """p(answer) after each prompt `[B]`; see `answer_logits`."""
    logits = answer_logits(lm, asked, neurons, scale=scale, where=where, rows=rows)
    return logits.softmax(-1).gather(1, asked.answers[:, None])[:, 0]


def row_patches(
    lm: LM, neurons: Sequence[Iterable[Neuron]], scale: float = 0.0, where: Where = "all"
) -> dict[Site, Patch]:
    """Patches for `LM.run` and `Blocks.forward` that multiply, in each row, this row's own neurons by ``scale``.

    Raises BadParameter for a neuron that the model does not have.
    """
    masks: dict[int, Tensor] = {}
    for row, found in enumerate(neurons):
        for layer, indices in by_layer(found).items():
            if not (0 <= layer < lm.n_layers and indices[0] >= 0 and indices[-1] < lm.d_mlp):
                raise BadParameter(
                    f"neurons {indices} of layer {layer}: {lm.name} has layers 0..{lm.n_layers - 1} of neurons "
                    f"0..{lm.d_mlp - 1}"
                )
            mask = masks.setdefault(layer, torch.zeros(len(neurons), lm.d_mlp, dtype=torch.bool, device=lm.device))
            mask[row, indices] = True
    return {Site("mlp_hidden", layer): _scaled(mask, scale, where) for layer, mask in masks.items()}


def _scaled(mask: Tensor, scale: float, where: Where) -> Patch:
    def patch(state: Tensor) -> Tensor:
        tokens = token_mask(where, current_layout(state), state.shape[1])
        return torch.where(mask.to(state.device)[:, None] & tokens[..., None], scale * state, state)

    return patch


def top_neurons(scores: Tensor | np.ndarray, k: int) -> list[Neuron]:
    """The ``k`` neurons of largest score (layers, d_mlp), in decreasing order; ties by layer and index.

    Raises BadParameter when there are fewer.
    """
    flat = torch.as_tensor(scores).flatten()
    if not 0 <= k <= len(flat):
        raise BadParameter(f"k={k}: there are {len(flat)} neurons")
    order = flat.argsort(descending=True, stable=True)[:k].tolist()
    width = torch.as_tensor(scores).shape[1]
    return [divmod(place, width) for place in order]


def random_like(
    lm: LM, neurons: Iterable[Neuron], generator: np.random.Generator, *, same_layers: bool = True
) -> list[Neuron]:
    """As many other neurons at random: of the same layers, as many in each (by default), or of any layer.

    None of ``neurons`` is drawn. Raises BadParameter when a layer has too few left.
    """
    taken = by_layer(neurons)
    if not same_layers:
        every = [(layer, i) for layer in range(lm.n_layers) for i in range(lm.d_mlp) if i not in taken.get(layer, ())]
        return [every[place] for place in _draw(generator, len(every), sum(map(len, taken.values())))]
    drawn: list[Neuron] = []
    for layer, indices in taken.items():
        free = np.setdiff1d(np.arange(lm.d_mlp), indices)
        drawn += [(layer, int(free[place])) for place in _draw(generator, len(free), len(indices))]
    return drawn


def _draw(generator: np.random.Generator, available: int, wanted: int) -> list[int]:
    if wanted > available:
        raise BadParameter(f"{wanted} other neurons are wanted and {available} are left: take a smaller set")
    return sorted(generator.choice(available, size=wanted, replace=False).tolist())


def other_facts(
    facts: Sequence[Fact], generator: np.random.Generator, *, same_relation: bool | None = None
) -> list[int]:
    """For each fact the place of another one, drawn at random, with another object and another subject.

    same_relation: True or False asks for another fact of the same relation or of another one; None takes any.
    Raises BadInput when a fact has no such counterpart.
    """
    chosen = []
    for fact in facts:
        fit = [
            place
            for place, other in enumerate(facts)
            if other.object != fact.object
            and other.subject != fact.subject
            and (same_relation is None or (other.relation == fact.relation) == same_relation)
        ]
        if not fit:
            raise BadInput(f"no counterpart for {fact.id!r} among {len(facts)} facts: give more of them")
        chosen.append(fit[int(generator.integers(len(fit)))])
    return chosen
