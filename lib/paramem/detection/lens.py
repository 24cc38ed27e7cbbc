r"""The logit lens on hidden states, and neurons named by the final projection (davies2025feature).

Reading states. ``logit_lens`` passes the residual stream after every block through the final norm and the head, as if
the model stopped there: rank and probability of the answer, and whether the top token is already the model's own
(geva2020keyvalue, section 5.2, counts the latter).

Reading weights:

1. ``token_names``: a row of the up projection (or of the gate) times the head; its top token is the neuron's name;
2. ``clamp``: the neuron is set to a high activation in prompts that ask for something else;
3. ``feature_neurons``: both, for the neurons that are named after an answer of the given facts.

====================  ==================  ==========================================================
paper                 code                shape
====================  ==================  ==========================================================
up-projection weight  ``weight``          (neurons, d_model)
LM head               ``head``            (vocabulary, d_model)
top token             ``name``            the head's row with the largest product
clamped activation    ``level``           one number per layer, see ``FeatureSettings``
====================  ==================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import pandas as pd
import torch
from torch import Tensor

from paramem.arch import Site
from paramem.detection.ablation import value_vectors
from paramem.detection.causal_tracing import token_roles
from paramem.detection.neurons import Asked, NeuronPatch, answer_logits, ask, at_a_time
from paramem.errors import BadParameter
from paramem.facts import Fact
from paramem.models import LM, log_probs

DEPARTURES = {
    "clamped state": (
        "the output of the up projection is clamped",
        "the neuron's input to the down projection is clamped",
        "in gated layers the two differ by the gate's factor, and models without a gate have only the latter",
    ),
    "clamped value": (
        "a value is chosen by hand for each example neuron",
        "`level` times the layer's largest activation in the prompts",
        "hundreds of neurons are clamped, and their layers have different scales",
    ),
    "which neurons": (
        "single neurons are shown, such as one for dogs",
        "every neuron that is named after the first token of an answer",
        "a share needs all of them, and a permuted control needs several names",
    ),
}


@dataclass(frozen=True, kw_only=True)
class LensSettings:
    """site: the stream after a block, or what its MLP or attention adds to it. rows: most prompts in one forward."""

    site: Literal["resid_post", "mlp_out", "attn_out"] = "resid_post"
    rows: int = 256

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise BadParameter(f"rows={self.rows}: at least one prompt goes through the model at once")


@torch.no_grad()
def logit_lens(lm: LM, facts: Sequence[Fact], settings: LensSettings | None = None) -> pd.DataFrame:
    """One row per fact, token and layer: role, rank and probability of the fact's answer, top token, ``decided``.

    rank: the answer's place, 1 if it is on top. ``decided``: the top token is the one on top after the
    last block, at the same position.
    """
    settings = settings or LensSettings()
    asked = ask(lm, facts)
    sites = [Site(settings.site, layer) for layer in range(lm.n_layers)]
    last = Site("resid_post", lm.n_layers - 1)
    frames = []
    for index in at_a_time(lm, asked.batch, settings.rows, everywhere=True):
        part = asked.rows(index)
        states = lm.states(part.batch, {*sites, last})
        final = lm.unembed(states[last]).argmax(-1)
        for site in sites:
            frames.append(_readings(lm, states[site], final, part, [facts[i] for i in index.tolist()], site.layer))
    table = pd.concat(frames, ignore_index=True)
    order = {fact.id: place for place, fact in enumerate(facts)}
    return table.sort_values(
        ["fact", "layer", "token"], key=lambda c: c.map(order) if c.name == "fact" else c
    ).reset_index(drop=True)


def _readings(lm: LM, states: Tensor, final: Tensor, asked: Asked, facts: Sequence[Fact], layer: int) -> pd.DataFrame:
    """The lens at one layer; states (facts, tokens, d_model), final (facts, tokens)."""
    logits = lm.unembed(states)
    answer = logits.gather(-1, asked.answers[:, None, None].expand(*logits.shape[:2], 1))
    values = {
        "rank": (logits > answer).sum(-1) + 1,
        "probability": logits.softmax(-1).gather(-1, asked.answers[:, None, None].expand_as(answer))[..., 0].double(),
        "decided": logits.argmax(-1) == final,
    }
    frames = []
    for row, fact in enumerate(facts):
        length = int(asked.batch.lengths[row])
        roles = token_roles(length, lm.subject_span(fact.prompt, fact.subject))
        cells = {name: value[row, :length].cpu().numpy() for name, value in values.items()}
        frames.append(pd.DataFrame({"fact": fact.id, "token": range(length), "role": roles, "layer": layer, **cells}))
    return pd.concat(frames)


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """How neurons are named and clamped.

    role: the matrix whose rows are read; "down" reads what a neuron writes instead of what it reads.
    level: the clamped activation, in units of the layer's largest activation in the prompts.
    prompts: how many of the facts' prompts each neuron is clamped in, none of them asking for the neuron's name.
    neurons: how many neurons are clamped: evenly over those that are named after an answer, and where these are fewer,
        the next ones by the probability that they give to an answer.
    rows: most prompts in one forward.
    """

    role: Literal["up", "gate", "down"] = "up"
    level: float = 1.0
    prompts: int = 8
    neurons: int = 300
    rows: int = 256

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.rows < 1 or self.neurons < 2:
            raise BadParameter(
                f"prompts={self.prompts}, rows={self.rows}, neurons={self.neurons}: at least one prompt, one row and "
                "two neurons, whose names can be swapped, are needed"
            )


def weight_rows(lm: LM, layer: int, role: str) -> Tensor:
    """One row per neuron (neurons, d_model): of the up projection or the gate, or the columns of the down projection.

    Raises BadParameter where the family has no such matrix.
    """
    if role == "down":
        return value_vectors(lm, layer).detach()
    _, weight, transposed = lm.weight(layer, role)
    return weight.detach().T if transposed else weight.detach()


def token_names(weight: Tensor, head: Tensor, among: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The token each row stands for, its probability in the softmax over the row's products, and whether it is on top.

    among: the only tokens to choose from, `[n]` ids; without them every name is on top. (neurons,) each.
    """
    shares = (weight @ head.T).softmax(-1)
    among = torch.arange(shares.shape[1], device=shares.device) if among is None else among
    probability, place = shares[:, among].max(-1)
    return among[place], probability, probability == shares.amax(-1)


def names(lm: LM, role: str = "up", among: Tensor | None = None) -> pd.DataFrame:
    """Every neuron with its name: layer, neuron, name (a token id), probability, ``top`` (see `token_names`)."""
    head = cast(Tensor, lm.arch.head.weight).detach()
    frames = []
    for layer in range(lm.n_layers):
        name, probability, top = token_names(weight_rows(lm, layer, role), head, among)
        columns = {"layer": layer, "neuron": range(len(name)), "name": name.tolist(), "top": top.tolist()}
        frames.append(pd.DataFrame({**columns, "probability": probability.double().cpu().numpy()}))
    return pd.concat(frames, ignore_index=True)


def feature_neurons(lm: LM, facts: Sequence[Fact], settings: FeatureSettings | None = None) -> pd.DataFrame:
    """Neurons named after the first token of an answer, and what clamping each does to the named token.

    Columns: layer, neuron, name (as text), ``top`` (no other token of the vocabulary comes before the name),
    probability (of the name in the row's softmax), ``effect`` (change of the name's log-probability by clamping, mean
    over prompts) and ``other_effect`` (change of another neuron's name: the control). Raises BadParameter when all
    names are the same.
    """
    settings = settings or FeatureSettings()
    asked = ask(lm, facts)
    answers = torch.tensor(sorted(set(asked.answers.tolist())), device=lm.device)
    table = _spread(names(lm, settings.role, answers), settings.neurons)
    other = _another_name(table["name"].tolist())
    levels = clamp_levels(lm, asked, settings)
    plain = log_probs(answer_logits(lm, asked, rows=settings.rows))
    effects = []
    columns = (table[name].tolist() for name in ("layer", "neuron", "name"))
    for layer, neuron, name, swapped in zip(*columns, other, strict=True):
        fit = (asked.answers != name) & (asked.answers != swapped)
        index = fit.nonzero()[: settings.prompts, 0]
        change = clamp(lm, asked.rows(index), (layer, neuron), levels[layer], settings) - plain[index]
        effects.append(change[:, [name, swapped]].double().mean(0).tolist())
    table[["effect", "other_effect"]] = effects
    table["name"] = [str(lm.tokenizer.decode([i])) for i in table["name"]]
    return table


def _spread(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """``n`` rows: evenly over those on top, or these and the most probable of the others; in order of place."""
    top = table[table["top"]]
    if len(top) > n:
        return top.iloc[[i * len(top) // n for i in range(n)]].reset_index(drop=True)
    others = table[~table["top"]].sort_values("probability", ascending=False, kind="stable")
    return pd.concat([top, others.head(n - len(top))]).sort_values(["layer", "neuron"]).reset_index(drop=True)


def _another_name(given: Sequence[int]) -> list[int]:
    """For each neuron the name of the next one with another name, half a round further: names permuted."""
    if len(set(given)) < 2:
        raise BadParameter(
            f"{len(set(given))} different names among the answers: give facts with more answers, or read another matrix"
        )
    order = [*given[len(given) // 2 :], *given[: len(given) // 2]]
    return [next(n for n in order[i:] + order[:i] if n != own) for i, own in enumerate(given)]


@torch.no_grad()
def clamp_levels(lm: LM, asked: Asked, settings: FeatureSettings) -> list[float]:
    """The activation neurons are clamped to, per layer: ``level`` x the largest one at any token of the prompts."""
    sites = [Site("mlp_hidden", layer) for layer in range(lm.n_layers)]
    largest = [0.0] * lm.n_layers
    for index in at_a_time(lm, asked.batch, settings.rows):
        batch = asked.batch.rows(index)
        states, real = lm.states(batch, sites), batch.attention_mask.bool()
        largest = [max(old, float(states[site][real].max())) for old, site in zip(largest, sites, strict=True)]
    return [settings.level * value for value in largest]


def clamp(lm: LM, asked: Asked, neuron: tuple[int, int], value: float, settings: FeatureSettings) -> Tensor:
    """Log-probabilities after the prompts (prompts, vocabulary) with one neuron set to ``value`` at the last token."""
    layer, index = neuron
    patch = NeuronPatch(
        neurons={layer: [index]}, values={layer: torch.tensor([value], dtype=lm.dtype, device=lm.device)}, where="last"
    )
    with patch.applied(lm) as clamped:
        return log_probs(answer_logits(clamped, asked, rows=settings.rows))


def kept_names(before: pd.DataFrame, after: pd.DataFrame) -> pd.Series:
    """Share of neurons with the same name in two models, by layer; both as `names` gives them."""
    both = before.merge(after, on=["layer", "neuron"], suffixes=("_before", "_after"))
    return (both["name_before"] == both["name_after"]).groupby(both["layer"]).mean()
