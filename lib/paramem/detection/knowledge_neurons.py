r"""Knowledge neurons: the feed-forward neurons that express a fact (dai2021neurons).

1. ``integrated_gradients``  attribute the answer's probability to every neuron of every layer, for one prompt
2. ``coarse_neurons``        keep those above a share of the largest attribution
3. ``refine``                keep those that are found in most of the fact's paraphrases
4. ``adapt_sharing``         set that share so that a relation's facts have a handful of neurons each

What is found is suppressed or amplified (``NeuronPatch``), or its value slots are rewritten: ``erase_slots`` clears
them, ``update_slots`` takes the old answer's embedding out and puts the new one's in.

=========================  ======================  ==========================================================
paper                      code                    shape
=========================  ======================  ==========================================================
w-bar_i^(l)                ``activations``         (prompts, layers, d_mlp), at the prompt's last token
P_x(alpha w-bar^(l))       ``_climb``              p(answer) with layer l's activations scaled by alpha
m                          ``settings.steps``      points alpha on the way from 0 to 1
Attr(w_i^(l))              ``integrated_gradients``  (prompts, layers, d_mlp)
t, p%                      ``threshold``, ``sharing``
FFN^(val)_i                column i of the down projection, (d_model,)
=========================  ======================  ==========================================================

A layer's activations reach the answer through the residual stream after the layer, so what is followed for each alpha
is one vector of the stream, at one token; dP/dw = W^T dP/dh turns the stream's gradient into all neurons' at once. The
rows of all layers climb together, and the tokens before the last one are read once (`paramem.last_token`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import pandas as pd
import torch
from torch import Tensor

from paramem.detection.ablation import value_vectors
from paramem.detection.neurons import Asked, Neuron, ask_prompts, at_a_time, by_layer, require_known
from paramem.errors import BadInput, BadParameter
from paramem.facts import Fact, fill
from paramem.interventions import LowRank, WeightDelta
from paramem.last_token import LastToken, equal_lengths, last_token
from paramem.models import LM

DEPARTURES = {
    "model": (
        "a masked model, asked for the word at the mask",
        "a causal model, asked for the first token of the object; neurons are taken at the prompt's last token",
        "there the answer is read; it is what public ports of the method to GPT-2 do as well",
    ),
    "jointly scaled": (
        "the activation of one neuron is scaled, and the gradient integrated along the way",
        "all neurons of a layer are scaled together, as in the authors' released code",
        "one neuron at a time would cost a whole path for each of thousands of neurons",
    ),
    "points": (
        "a Riemann sum of 20 points",
        "points='right' takes k/m for k = 1..m, 'ends' takes m points from 0 to 1 with both ends",
        "the released code and its ports place the points differently; the sums differ by a term of order 1/m",
    ),
    "embedding": (
        "updating a fact moves value slots by word embeddings, lambda_1 = 1 and lambda_2 = 8",
        "by rows of the output head, brought to the length of the slot, as the released code scales them",
        "the head is what reads the stream; in models with tied embeddings the two are the same",
    ),
    "sharing": (
        "neurons shared by more than p percent of the prompts, p adapted in steps of 5 % until 2 to 5 are left",
        "the same, with at least p instead of more than p, and one p for each relation",
        "with four to six paraphrases a strict bound would jump by a whole prompt",
    ),
}


@dataclass(frozen=True, kw_only=True)
class KnowledgeNeuronSettings:
    """steps, points: the path of the integral. threshold: t, in units of the largest attribution. sharing: p, to start
    with. fewest, most: the mean number of neurons a fact should keep. rows: most rows in one forward."""

    steps: int = 20
    points: Literal["right", "ends"] = "right"
    threshold: float = 0.2
    sharing: float = 0.7
    sharing_step: float = 0.05
    fewest: float = 2.0
    most: float = 5.0
    rows: int = 4096

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rows < 1 or (self.points == "ends" and self.steps < 2):
            raise BadParameter(
                f"steps={self.steps}, rows={self.rows}: at least one step and row, two steps with 'ends'"
            )
        if not (0 < self.threshold <= 1 and 0 < self.sharing <= 1 and 0 < self.sharing_step <= 1):
            raise BadParameter(
                f"threshold={self.threshold}, sharing={self.sharing}, sharing_step={self.sharing_step}: shares lie "
                "above 0 and at most at 1"
            )

    def alphas(self) -> Tensor:
        """The points of the path, increasing, (steps,)."""
        if self.points == "ends":
            return torch.linspace(0, 1, self.steps, dtype=torch.float64)
        return torch.arange(1, self.steps + 1, dtype=torch.float64) / self.steps


@torch.no_grad()
def integrated_gradients(lm: LM, asked: Asked, settings: KnowledgeNeuronSettings | None = None) -> Tensor:
    """Attr(w_i^(l)) = w-bar_i / m * sum over alpha of dP(alpha w-bar^(l)) / dw_i: (prompts, layers, d_mlp).

    Summed over a layer this tends to P(w-bar) - P(0), the whole of what the layer's neurons do for the answer at the
    last token.
    """
    settings = settings or KnowledgeNeuronSettings()
    scores = torch.empty(len(asked), lm.n_layers, lm.d_mlp, device=lm.device, dtype=lm.dtype)
    cells = lm.n_layers * settings.steps
    for index in equal_lengths(asked.batch, max(1, lm.fitting_rows(settings.rows, 1) // cells)):
        scores[index] = _attributed(lm, asked.rows(index), settings)
    return scores


@torch.no_grad()
def activations(lm: LM, asked: Asked, *, rows: int = 1024) -> Tensor:
    """w-bar: every neuron's activation at the prompt's last token, (prompts, layers, d_mlp)."""
    sites, parts = lm.arch.sites("mlp_hidden"), []
    for index in at_a_time(lm, asked.batch, rows):
        batch = asked.rows(index).batch
        states = lm.states(batch, sites)
        places = (torch.arange(len(batch), device=lm.device), batch.prompt_lengths - 1)
        parts.append(torch.stack([states[site][places] for site in sites], 1))
    return torch.cat(parts)


def _attributed(lm: LM, asked: Asked, settings: KnowledgeNeuronSettings) -> Tensor:
    """`integrated_gradients` of prompts of one length."""
    sites = lm.arch.sites("mlp_hidden")
    with lm.hooked(capture=sites) as states:
        there = last_token(lm, asked.batch)
    active = torch.stack([states[site][:, 0] for site in sites])  # (layers, B, d_mlp)
    down = [value_vectors(lm, layer).detach().T for layer in range(lm.n_layers)]
    said = [each @ W.T for each, W in zip(active, down, strict=True)]  # what the neurons add to the stream
    alphas = settings.alphas().to(active)
    gradients = [torch.zeros_like(each) for each in said]
    rows = lm.fitting_rows(settings.rows, 1)  # rows climb at the last token alone
    for cells in torch.split(torch.arange(lm.n_layers * settings.steps), max(1, rows // len(asked))):
        starts = {}
        for layer in sorted(set((cells // settings.steps).tolist())):
            alpha = alphas[cells[cells // settings.steps == layer] % settings.steps]
            starts[layer] = there.states[layer + 1] + (alpha[:, None, None] - 1) * said[layer]
        for layer, gradient in zip(starts, _climb(lm, there, starts, asked.answers), strict=True):
            gradients[layer] += gradient.sum(0)
    return torch.stack([a * (g @ W) / settings.steps for a, g, W in zip(active, gradients, down, strict=True)], dim=1)


def _climb(lm: LM, there: LastToken, starts: Mapping[int, Tensor], answers: Tensor) -> tuple[Tensor, ...]:
    """dP(answer)/dh for vectors of the stream right after each layer, ``starts[layer]`` (variants, B, d_model).

    Variants that start higher join those that come from below, so every block runs once.
    """
    with torch.enable_grad():
        leaves = [start.detach().requires_grad_(True) for start in starts.values()]
        joining, hidden = dict(zip(starts, leaves, strict=True)), None
        for layer in range(min(starts), lm.n_layers):
            hidden = None if hidden is None else there.forward(hidden, layer, layer + 1)
            if layer in joining:
                new = joining[layer].flatten(0, 1)
                hidden = new if hidden is None else torch.cat([hidden, new])
        assert hidden is not None
        wanted = answers.repeat(len(hidden) // len(answers))
        probability = lm.unembed(hidden).softmax(-1).gather(1, wanted[:, None])
        return torch.autograd.grad(probability.sum(), leaves)


def coarse_neurons(scores: Tensor, threshold: float) -> set[Neuron]:
    """The neurons of one prompt (layers, d_mlp) whose attribution reaches ``threshold`` x the largest one."""
    bound = threshold * scores.max()
    return {(int(layer), int(i)) for layer, i in ((scores >= bound) & (scores > 0)).nonzero().tolist()}


def refine(found: Sequence[set[Neuron]], sharing: float) -> dict[Neuron, float]:
    """The neurons in at least a share ``sharing`` of the prompts' coarse sets, with that share; most shared first.

    Raises BadInput for fewer than two prompts: there are no paraphrases to refine over.
    """
    if len(found) < 2:
        raise BadInput(
            f"{len(found)} prompts: there are no paraphrases to refine over. Give the fact templates in `paraphrases`, "
            "or use integrated_gradients and coarse_neurons of its one prompt."
        )
    counts: dict[Neuron, int] = {}
    for neurons in found:
        for neuron in neurons:
            counts[neuron] = counts.get(neuron, 0) + 1
    kept = {neuron: n / len(found) for neuron, n in counts.items() if n >= sharing * len(found) - 1e-9}
    return dict(sorted(kept.items(), key=lambda item: (-item[1], item[0])))


def adapt_sharing(facts: Sequence[Sequence[set[Neuron]]], settings: KnowledgeNeuronSettings) -> float:
    """p in steps from ``settings.sharing``, until the facts keep ``fewest`` to ``most`` neurons in the mean.

    Facts as one coarse set a prompt. Where no step does it, the last one before it would turn back is taken.
    """
    sharing = settings.sharing
    direction = 0
    while True:
        mean = sum(len(refine(found, sharing)) for found in facts) / len(facts)
        turn = (mean > settings.most) - (mean < settings.fewest)
        following = sharing + turn * settings.sharing_step
        if not turn or turn == -direction or not 0 < following <= 1:
            return sharing
        sharing, direction = following, turn


class Item(NamedTuple):
    """Prompts that ask for the same thing, and its answer. Items of one kind (facts: of one relation) share p."""

    id: str
    kind: str
    prompts: tuple[str, ...]
    answer: str


def item_of(fact: Fact) -> Item:
    """The fact in its template and in each paraphrase."""
    forms = (fact.template, *fact.paraphrases)
    return Item(fact.id, fact.relation, tuple(fill(form, fact.subject) for form in forms), fact.object)


def ask_items(lm: LM, items: Sequence[Item]) -> Asked:
    """Every prompt of every item, in their order."""
    pairs = [(prompt, item.answer) for item in items for prompt in item.prompts]
    return ask_prompts(lm, [prompt for prompt, _ in pairs], [answer for _, answer in pairs])


def shared_neurons(
    lm: LM, items: Sequence[Item], settings: KnowledgeNeuronSettings | None = None, *, scores: Tensor | None = None
) -> pd.DataFrame:
    """The refined neurons of each item: item, kind, layer, neuron, sharing, score (mean over its prompts), by
    decreasing score within an item. Raises BadInput for an item of one prompt.

    scores: ``integrated_gradients(lm, ask_items(lm, items), settings)``, where they are there already.
    """
    settings = settings or KnowledgeNeuronSettings()
    scores = integrated_gradients(lm, ask_items(lm, items), settings) if scores is None else scores
    groups = torch.split(scores, [len(item.prompts) for item in items])
    found = [[coarse_neurons(each, settings.threshold) for each in some] for some in groups]
    kinds = sorted({item.kind for item in items})
    sharing = {
        kind: adapt_sharing([c for c, i in zip(found, items, strict=True) if i.kind == kind], settings)
        for kind in kinds
    }
    rows = [
        (item.id, item.kind, *neuron, share, float(mean[neuron]))
        for item, coarse, mean in zip(items, found, (some.mean(0) for some in groups), strict=True)
        for neuron, share in refine(coarse, sharing[item.kind]).items()
    ]
    table = pd.DataFrame(rows, columns=["item", "kind", "layer", "neuron", "sharing", "score"])
    order = {item.id: place for place, item in enumerate(items)}
    table = table.sort_values("score", ascending=False, kind="stable")
    return table.sort_values("item", key=lambda ids: ids.map(order), kind="stable", ignore_index=True)


def knowledge_neurons(lm: LM, facts: Sequence[Fact], settings: KnowledgeNeuronSettings | None = None) -> pd.DataFrame:
    """The refined neurons of each fact: fact, relation, layer, neuron, sharing, score.

    Raises BadInput when the model does not know a fact, or when a fact has no paraphrases.
    """
    settings = settings or KnowledgeNeuronSettings()
    require_known(lm, facts, rows=settings.rows)
    table = shared_neurons(lm, [item_of(fact) for fact in facts], settings)
    return table.rename(columns={"item": "fact", "kind": "relation"})


def neuron_sets(table: pd.DataFrame, wanted: Sequence[Fact] | Sequence[Item]) -> list[list[Neuron]]:
    """The neurons of a table, one list for each fact or item in their order; empty where one kept none."""
    name = "fact" if "fact" in table else "item"
    groups = {key: list(zip(rows["layer"], rows["neuron"], strict=True)) for key, rows in table.groupby(name)}
    return [[(int(layer), int(i)) for layer, i in groups.get(each.id, [])] for each in wanted]


def relation_neurons(sets: Sequence[Iterable[Neuron]], share: float = 0.1, *, fewest: int = 1) -> list[Neuron]:
    """The neurons that at least this share of a relation's facts have among theirs, and at least ``fewest`` of them.

    Most frequent first. With fewest=2 the neurons of a single fact are not yet the relation's.
    """
    counts: dict[Neuron, int] = {}
    for neurons in sets:
        for neuron in set(neurons):
            counts[neuron] = counts.get(neuron, 0) + 1
    kept = [neuron for neuron, n in counts.items() if n >= max(fewest, share * len(sets))]
    return sorted(kept, key=lambda neuron: (-counts[neuron], neuron))


def erase_slots(lm: LM, neurons: Iterable[Neuron]) -> WeightDelta:
    """Set the value slots of neurons to zero."""
    return _change_slots(lm, neurons, lambda slots: -slots)


def update_slots(
    lm: LM, neurons: Iterable[Neuron], old: int, new: int, *, take: float = 1.0, give: float = 8.0
) -> WeightDelta:
    """Take the old answer's direction out of each value slot and put the new answer's in.

    slot - take * e(old) + give * e(new), where e is the token's row of the head at the length of the slot; ``take`` and
    ``give`` are lambda_1 and lambda_2. ``old`` and ``new`` are token ids.
    """
    head = cast(Tensor, lm.arch.head.weight).detach()
    directions = torch.nn.functional.normalize(head[[old, new]].to(lm.dtype), dim=1)  # (2, d_model)
    change = give * directions[1] - take * directions[0]
    return _change_slots(lm, neurons, lambda slots: change[:, None] * slots.norm(dim=0))


def _change_slots(lm: LM, neurons: Iterable[Neuron], change: Callable[[Tensor], Tensor]) -> WeightDelta:
    """Add ``change(slots)`` to the value slots (d_model, neurons) of each layer. Raises BadParameter."""
    parts = {}
    for layer, indices in by_layer(neurons).items():
        name, _, transposed = lm.weight(layer, "down")
        W = value_vectors(lm, layer).detach().T
        if not 0 <= indices[0] <= indices[-1] < W.shape[1]:
            raise BadParameter(f"neurons {indices} of layer {layer}: {lm.name} has {W.shape[1]} there")
        picked = torch.eye(W.shape[1], dtype=W.dtype, device=W.device)[indices]
        update = LowRank(change(W[:, indices]), picked)
        parts[name] = update.T if transposed else update
    return WeightDelta(parts)
