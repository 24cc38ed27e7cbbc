r"""Neuron-level attribution: a neuron's worth is what it adds to the answer's log-probability (yu2023attribution).

1. ``value_scores``: at the last token, how much does log p(answer) rise when one neuron's output is added to the
   state that its MLP reads? One forward, no gradients. The first neurons of this order are the value neurons.
2. ``attention_scores``: the same for attention, whose neurons are one coordinate of one head at one token.
3. ``query_scores``: most neurons in front of these do not speak of the answer themselves; they count by what they add
   to the inner product that a value neuron of attention reads.

==========================  ===========================  ====================================================
paper                       code                         shape
==========================  ===========================  ====================================================
h^(l-1) + A^l               ``base``                     (facts, d_model), the state in front of the MLP's output
fc2_k, the subvalue         ``value_vectors``            (d_mlp, d_model)
m_k, the coefficient        ``m``                        (facts, d_mlp), an entry of `mlp_hidden`
v = m_k fc2_k               a neuron's output            (d_model,)
p(w | x)                    ``Lens.log_prob``            final norm and head on any vector x
Imp(v)                      log increase                 log p(w | v + h^(l-1) + A^l) - log p(w | h^(l-1) + A^l)
row k of W_v, the subkey    ``value_keys``               (heads, d_head, d_model)
alpha W_o (W_v h)           attention's neurons          (tokens, heads, d_head) of them in a layer
==========================  ===========================  ====================================================

The paper compares seven other static scores (``SCORES``); they differ in what they look at: the neuron alone or in its
context, its size, or only the answer's place among the tokens that it promotes. Places count from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
import torch
from torch import Tensor

from paramem import norms
from paramem.arch import Site
from paramem.attention import attn_norm, head_outputs, head_values, patterns, value_keys
from paramem.detection.ablation import value_vectors
from paramem.detection.neurons import Asked, at_a_time, require_known
from paramem.detection.recall import project
from paramem.errors import BadParameter
from paramem.facts import Fact
from paramem.last_token import equal_lengths
from paramem.lm import log_probs
from paramem.models import LM

DEPARTURES = {
    "scale of the final norm": (
        "p(w | x) applies the unembedding to any vector x; the released code divides by the final state's scale and "
        "leaves the norm's bias out",
        "the scale is the final state's by default, each vector's own as a setting, and the bias is added",
        "with the bias, the final state's reading is exactly what the model says",
    ),
    "norm in front of the subkey": (
        "the released code multiplies the subkey by the weight of attention's norm",
        "the same, and the norm's centring with it",
        "the shares of all parts of a state then add up to one, which is tested",
    ),
    "query score": (
        "a neuron feeds one value neuron by the inner product of its output with the value neuron's subkey",
        "this part of the inner product is divided by the whole of it, multiplied by the value neuron's score, and "
        "added over the value_neurons attention neurons of highest score (30) at their own tokens; "
        "query='inner product' adds the plain inner products",
        "one ranking for each fact, in which a value neuron counts by what it gives; its score is close to "
        "proportional to its inner product, so where the product is small, and shares are large, the weight is small "
        "too",
    ),
    "attention": (
        "the score of an attention neuron leaves W_v h without a bias",
        "a bias of the value projection, where there is one, belongs to the neuron",
        "GPT-2 has one",
    ),
}

Score = Literal[
    "log increase", "increase", "log probability", "norm", "coefficient", "rank", "coefficient x norm",
    "coefficient x rank",
]  # fmt: skip
SCORES: tuple[Score, ...] = get_args(Score)


@dataclass(frozen=True, kw_only=True)
class AttributionSettings:
    """How neurons are scored.

    score: what the order is made of; all but the first are the paper's comparisons.
    scale: what the final norm divides by, the final state's scale or that of each vector itself.
    query: what is added over value neurons, the shares in their inner products, weighted with their scores, or the
        plain inner products.
    value_neurons: value neurons of attention whose query neurons are looked for, per fact.
    rows: most facts in one forward.
    """

    score: Score = "log increase"
    scale: Literal["final", "own"] = "final"
    query: Literal["share", "inner product"] = "share"
    value_neurons: int = 30
    rows: int = 256

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise BadParameter(f"score={self.score!r}: the scores are {', '.join(SCORES)}")
        if self.query not in ("share", "inner product"):
            raise BadParameter(f"query={self.query!r}: neurons are added up by their 'share' or 'inner product'")
        if self.rows < 1 or self.value_neurons < 1:
            raise BadParameter(f"rows={self.rows}, value_neurons={self.value_neurons}: both are at least 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Lens:
    """Reads vectors of the residual stream as log-probabilities of one answer.

    scale: `[1]`, what the final norm divides by; None for each vector's own.
    """

    lm: LM
    answer: Tensor
    scale: Tensor | None

    def logits(self, x: Tensor) -> Tensor:
        """`[..., d_model]` to `[..., V]`."""
        if self.scale is None:
            return self.lm.unembed(x)
        norm = self.lm.arch.final_norm
        found: Tensor = self.lm.arch.head(norms.direction(norm, x) / self.scale + norms.bias(norm))
        return found

    def with_each(self, base: Tensor, m: Tensor, vectors: Tensor, promoted: Tensor) -> Tensor:
        """log p(w | base + m_k vectors_k), `[neurons]`; promoted: the vectors' logits without scale and biases."""
        if self.scale is None:
            return log_probs(self.logits(base + m[:, None] * vectors))[:, self.answer]
        # Logits are linear in the vector while the scale is fixed, so every neuron's row is one multiplication.
        return log_probs(self.logits(base) + (m / self.scale)[:, None] * promoted)[:, self.answer]

    def score(self, kind: Score, base: Tensor, m: Tensor, vectors: Tensor, promoted: Tensor) -> Tensor:
        """The score of each neuron `[neurons]` of coefficients m and vectors `[neurons, d_model]`, in its context
        base."""
        if kind == "coefficient":
            return m.abs()
        if kind in ("norm", "coefficient x norm"):
            size: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
            return size if kind == "norm" else m.abs() * size
        if kind in ("rank", "coefficient x rank"):
            place = _place(m.sign()[:, None] * promoted, self.answer)
            return (torch.ones_like(m) if kind == "rank" else m.abs()) / place
        if kind == "log probability":
            return self.with_each(torch.zeros_like(base), m, vectors, promoted)
        before, after = log_probs(self.logits(base))[self.answer], self.with_each(base, m, vectors, promoted)
        return after - before if kind == "log increase" else after.exp() - before.exp()


def _place(logits: Tensor, answer: Tensor) -> Tensor:
    """The answer's place, 1 for the largest logit, `[neurons, V]` to `[neurons]`."""
    return (logits > logits[:, answer, None]).sum(-1) + 1


def promoted_tokens(lm: LM, vectors: Tensor) -> Tensor:
    """What vectors promote: their part of the logits, without scale and biases, `[..., d_model]` to `[..., V]`."""
    return project(lm, norms.direction(lm.arch.final_norm, vectors))


@torch.no_grad()
def value_scores(lm: LM, facts: Sequence[Fact], settings: AttributionSettings | None = None) -> Tensor:
    """The score of every neuron for every fact's answer at its prompt's last token: `[facts, layers, d_mlp]`.

    Raises BadInput for facts that the model does not know.
    """
    settings = settings or AttributionSettings()
    asked = require_known(lm, facts, rows=settings.rows)
    parts = at_a_time(lm, asked.batch, settings.rows)
    return torch.cat([_value_scores(lm, asked.rows(index), settings) for index in parts])


def _value_scores(lm: LM, asked: Asked, settings: AttributionSettings) -> Tensor:
    layers = range(lm.n_layers)
    sites = [Site(kind, layer) for kind in ("mlp_hidden", "mlp_out", "resid_post") for layer in layers]
    states = lm.states(asked.batch, sites)
    rows, last = torch.arange(len(asked), device=lm.device), asked.batch.prompt_lengths - 1
    at = {site: state[rows, last] for site, state in states.items()}
    lenses = list(_lenses(lm, asked, at[Site("resid_post", lm.n_layers - 1)], settings))
    found = []
    for layer in layers:
        m, base = at[Site("mlp_hidden", layer)], at[Site("resid_post", layer)] - at[Site("mlp_out", layer)]
        found.append(_scored(lm, lenses, base, m, value_vectors(lm, layer), settings.score))
    return torch.stack(found, 1)


def _scored(lm: LM, lenses: Sequence[Lens], base: Tensor, m: Tensor, vectors: Tensor, kind: Score) -> Tensor:
    """Scores `[B, ..., neurons]` of coefficients m `[B, ..., neurons]` in contexts base `[B, d_model]`.

    A neuron costs a row of logits, so only so many are scored at a time as `LM.fitting_rows` allows.
    """
    flat, parts = m.reshape(len(m), -1, m.shape[-1]), []
    for index in torch.split(torch.arange(m.shape[-1], device=m.device), lm.fitting_rows(m.shape[-1], 1)):
        some, promoted = vectors[index], promoted_tokens(lm, vectors[index])
        parts.append(
            torch.stack(
                [
                    torch.stack([lens.score(kind, base[i], each, some, promoted) for each in flat[i][:, index]])
                    for i, lens in enumerate(lenses)
                ]
            )
        )
    return torch.cat(parts, -1).view(m.shape)


def _lenses(lm: LM, asked: Asked, final: Tensor, settings: AttributionSettings) -> Iterator[Lens]:
    for state, answer in zip(final, asked.answers, strict=True):
        scale = norms.scale(lm.arch.final_norm, state) if settings.scale == "final" else None
        yield Lens(lm=lm, answer=answer, scale=scale)


def neuron_attribution(lm: LM, facts: Sequence[Fact], settings: AttributionSettings | None = None) -> pd.DataFrame:
    """`value_scores` as tidy rows: fact, layer, neuron, score."""
    return tidy(value_scores(lm, facts, settings), facts)


def tidy(scores: Tensor, facts: Sequence[Fact]) -> pd.DataFrame:
    """Scores `[facts, layers, d_mlp]` as rows: fact, layer, neuron, score."""
    names = [[fact.id for fact in facts], range(scores.shape[1]), range(scores.shape[2])]
    index = pd.MultiIndex.from_product(names, names=["fact", "layer", "neuron"])
    return pd.DataFrame({"score": scores.flatten().double().cpu().numpy()}, index=index).reset_index()


def attention_neurons(lm: LM, facts: Sequence[Fact], settings: AttributionSettings | None = None) -> pd.DataFrame:
    """`attention_scores` as tidy rows: fact, layer, token (its place), head, neuron (coordinate of the head), score."""
    names, parts = ["layer", "token", "head", "neuron"], []
    for fact, scores in zip(facts, attention_scores(lm, facts, settings), strict=True):
        index = pd.MultiIndex.from_product([range(n) for n in scores.shape], names=names)
        cells = pd.DataFrame({"score": scores.flatten().double().cpu().numpy()}, index=index).reset_index()
        cells.insert(0, "fact", fact.id)
        parts.append(cells)
    return pd.concat(parts, ignore_index=True)


def query_neurons(lm: LM, facts: Sequence[Fact], settings: AttributionSettings | None = None) -> pd.DataFrame:
    """`query_scores` as tidy rows: fact, layer, neuron, score."""
    return tidy(query_scores(lm, facts, settings), facts)


@torch.no_grad()
def attention_scores(lm: LM, facts: Sequence[Fact], settings: AttributionSettings | None = None) -> list[Tensor]:
    """The score of attention's neurons: per fact `[layers, tokens, heads, d_head]`.

    A neuron is a coordinate of a head's values at one token, as the last token reads it.
    Raises BadInput for facts that the model does not know.
    """
    settings = settings or AttributionSettings()
    asked = require_known(lm, facts, rows=settings.rows)
    found: dict[int, Tensor] = {}
    for index in equal_lengths(asked.batch, _most(lm, asked, settings)):
        scores, _ = _attention_scores(lm, asked.rows(index), settings)
        found.update(zip(index.tolist(), scores, strict=True))
    return [found[i] for i in range(len(asked))]


def _most(lm: LM, asked: Asked, settings: AttributionSettings) -> int:
    """Facts in one forward, of which the states of all layers are kept."""
    return lm.fitting_rows(settings.rows, asked.batch.input_ids.shape[1], layers=lm.n_layers)


def _attention_scores(lm: LM, asked: Asked, settings: AttributionSettings) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Facts of one length: scores `[B, layers, T, heads, d_head]`, and the states entering blocks `[B, T, d_model]`."""
    blocks = lm.blocks(asked.batch)
    lenses = list(_lenses(lm, asked, blocks.resid_pre[-1][:, -1], settings))
    found = []
    for layer in range(lm.n_layers):
        read = patterns(blocks, layer)[:, :, -1].transpose(1, 2)  # [B, T, heads]
        m = read[..., None] * head_values(blocks, layer)  # [B, T, heads, d_head]
        outputs = head_outputs(lm.arch, layer).flatten(0, 1)  # [heads * d_head, d_model]
        scores = _scored(lm, lenses, blocks.resid_pre[layer][:, -1], m.flatten(2), outputs, settings.score)
        found.append(scores.view_as(m))
    return torch.stack(found, 1), blocks.resid_pre


@torch.no_grad()
def query_scores(lm: LM, facts: Sequence[Fact], settings: AttributionSettings | None = None) -> Tensor:
    """What neurons do for the answer by feeding the value neurons of attention: `[facts, layers, d_mlp]`.

    A neuron's share in a value neuron is its part of the inner product of subkey and normalised state, over the whole
    product; shares are weighted by the value neuron's score and added over value neurons and their tokens. With
    query="inner product" the parts themselves are added. Neurons at or above all value neurons get 0.
    Raises BadInput for facts that the model does not know.
    """
    settings = settings or AttributionSettings()
    asked = require_known(lm, facts, rows=settings.rows)
    outputs = [value_vectors(lm, layer) for layer in range(lm.n_layers)]
    found = torch.zeros(len(asked), lm.n_layers, lm.d_mlp, dtype=outputs[0].dtype, device=lm.device)
    for index in equal_lengths(asked.batch, _most(lm, asked, settings)):
        found[index] = _query_scores(lm, asked.rows(index), settings, outputs)
    return found


def _query_scores(lm: LM, asked: Asked, settings: AttributionSettings, outputs: Sequence[Tensor]) -> Tensor:
    """Facts of one length; outputs: each layer's value vectors `[d_mlp, d_model]`."""
    scores, states = _attention_scores(lm, asked, settings)
    hidden = lm.states(asked.batch, [Site("mlp_hidden", layer) for layer in range(lm.n_layers)])
    best = scores.flatten(1).topk(min(settings.value_neurons, scores[0].numel())).indices
    rows = torch.arange(len(asked), device=lm.device)[:, None].expand_as(best)
    places = torch.stack([rows, *torch.unravel_index(best, scores.shape[1:])], -1).flatten(0, 1)  # [n, 5]
    found = torch.zeros(len(asked), lm.n_layers, lm.d_mlp, dtype=scores.dtype, device=scores.device)
    for layer in range(1, lm.n_layers):
        row, _, token, head, k = chosen = places[places[:, 1] == layer].unbind(1)
        key, norm = value_keys(lm.arch, layer)[head, k], attn_norm(lm.arch, layer)  # key: [n, d_model]
        weight = torch.ones_like(scores[chosen])
        if settings.query == "share":
            weight = scores[chosen] / (norms.direction(norm, states[layer][row, token]) * key).sum(-1)
        for below in range(layer):
            part = key @ norms.direction(norm, outputs[below]).T * hidden[Site("mlp_hidden", below)][row, token]
            found[:, below].index_add_(0, row, weight[:, None] * part)
    return found
