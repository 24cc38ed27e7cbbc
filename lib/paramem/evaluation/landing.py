r"""Where edits land in the weights, and what stands there (zhang2024knowedit, section 5.1).

1. ``matrix_changes``    how much of the change lies in which layer and matrix
2. ``column_changes``    how much each value vector moved: column i of a down projection belongs to neuron i
3. ``share_of_top``      the part of the squared change in the k columns that moved most; ``gini``, ``stable_rank``
4. ``read_columns``      the k columns that moved most, before and after, through the final norm and the head
5. ``hit``               whether a token is among those that one of these columns promotes most (Hit@n)

A change of the same size in random directions (``random_like``) is the yardstick: hardly anything is concentrated by
itself. What was located for a fact (``located_columns``) can be held against what an edit of it changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.errors import BadInput, BadParameter, ParamemError
from paramem.interventions import Dense, WeightDelta
from paramem.models import LM

DEPARTURES = {
    "columns": (
        "the five columns of the updated value matrix that changed most",
        "the same, of the down projection that changed most in the mean square of its entries",
        "MEMIT and MEND update several layers; their most changed one is where most of the edit lies",
    ),
    "logits": (
        "columns are mapped by the embedding matrix",
        "by the final norm and the head, after which their length no longer matters",
        "this is how the model reads its residual stream, and head and embeddings may differ",
    ),
    "hits": (
        "Hit@10 and Hit@50 of the new knowledge in the output logits; how five columns are joined is not said",
        "a hit is the target's first token among the first n of at least one of the columns",
        "an edit needs one place that promotes the answer",
    ),
}
ROLES = ("q", "k", "v", "qkv", "attn_out", "gate", "up", "down")


class Columns(NamedTuple):
    """Value vectors of one layer that an edit moved most, most moved first. before, after: logits (columns, vocab)."""

    layer: int
    neurons: list[int]
    before: Tensor
    after: Tensor


def places(lm: LM) -> dict[str, tuple[int, str]]:
    """Parameter name -> (layer, role) of every weight matrix in the blocks that the architecture names."""
    found: dict[str, tuple[int, str]] = {}
    for layer in range(lm.n_layers):
        for role in ROLES:
            try:
                name = lm.weight(layer, role).name
            except ParamemError:
                continue  # the family has no such matrix
            found.setdefault(name, (layer, role))
    return found


def matrix_changes(lm: LM, delta: WeightDelta) -> pd.DataFrame:
    """One row per changed matrix: layer, role, norm (Frobenius), share (of the squared change), relative (to the norm
    of the matrix itself). Changes of other parameters (biases, embeddings) have layer -1 and their name as role."""
    known, rows = places(lm), []
    for name, part in delta.parts.items():
        layer, role = known.get(name, (-1, name))
        norm = float(part.dense().norm())
        rows.append({"layer": layer, "role": role, "norm": norm, "of": float(lm.model.get_parameter(name).norm())})
    table = pd.DataFrame(rows, columns=["layer", "role", "norm", "of"])
    total = (table["norm"] ** 2).sum()
    table = table.assign(share=table["norm"] ** 2 / total if total else 0.0, relative=table["norm"] / table["of"])
    return table.drop(columns="of").sort_values(["layer", "role"], ignore_index=True)


def value_change(lm: LM, delta: WeightDelta, layer: int) -> Tensor | None:
    """The change of a layer's down projection as (d_model, d_mlp), whatever the family's layout; None without one."""
    name, _, transposed = lm.weight(layer, "down")
    if name not in delta.parts:
        return None
    change = delta.dense(name)
    return change.T if transposed else change


def column_changes(lm: LM, delta: WeightDelta) -> Tensor:
    """How far each value vector moved: (layers, d_mlp), zero where a layer's down projection is as it was."""
    rows = []
    for layer in range(lm.n_layers):
        change = value_change(lm, delta, layer)
        rows.append(torch.zeros(lm.d_mlp, dtype=lm.dtype) if change is None else change.norm(dim=0).cpu())
    return torch.stack(rows)


def most_changed_layer(lm: LM, delta: WeightDelta) -> int:
    """The layer whose value vectors moved most. Raises BadInput when none did."""
    moved = column_changes(lm, delta).square().sum(1)
    if not float(moved.max()) > 0:
        raise BadInput(
            f"{delta!r} changes no down projection of {lm.name}: there are no value vectors to look at. Use "
            "matrix_changes for edits of other matrices."
        )
    return int(moved.argmax())


def share_of_top(changes: Tensor, k: int) -> float:
    """Share of the squared change in the ``k`` columns (columns,) that moved most. Raises BadParameter, BadInput."""
    if not 1 <= k <= len(changes):
        raise BadParameter(f"k={k}: there are {len(changes)} columns")
    squares = changes.double().square().sort(descending=True).values
    if not float(squares.sum()) > 0:
        raise BadInput("nothing changed in these columns, so no share of it lies anywhere")
    return float(squares[:k].sum() / squares.sum())


def gini(changes: Tensor) -> float:
    """How unevenly the squared change is spread over columns: 0 when all moved alike, near 1 when one did."""
    squares = np.sort(changes.double().square().cpu().numpy())
    n, total = len(squares), squares.sum()
    if not total > 0:
        raise BadInput("nothing changed in these columns, so nothing is spread unevenly")
    return float(2 * (np.arange(1, n + 1) * squares).sum() / (n * total) - (n + 1) / n)


def stable_rank(change: Tensor) -> float:
    """|D|_F^2 / |D|_2^2: 1 for a change of rank one, at most the rank."""
    values = torch.linalg.svdvals(change.double())
    return float(values.square().sum() / values[0].square())


def random_like(delta: WeightDelta, generator: torch.Generator) -> WeightDelta:
    """Normal entries in every tensor that ``delta`` changes, with the norm of its change there."""
    parts = {}
    for name, part in delta.parts.items():
        change = part.dense()
        drawn = torch.randn(change.shape, generator=generator, dtype=torch.float64).to(change)
        parts[name] = Dense(drawn * (change.norm() / drawn.norm()))
    return WeightDelta(parts)


@torch.no_grad()
def read_columns(lm: LM, delta: WeightDelta, k: int = 5) -> Columns:
    """The ``k`` value vectors that moved most in the most changed layer, mapped to logits before and after the edit.

    Raises BadInput when no value vector moved.
    """
    layer = most_changed_layer(lm, delta)
    _, parameter, transposed = lm.weight(layer, "down")
    W = parameter.detach().T if transposed else parameter.detach()
    change = value_change(lm, delta, layer)
    assert change is not None
    neurons = change.norm(dim=0).argsort(descending=True, stable=True)[:k].tolist()
    before = W[:, neurons].T
    return Columns(layer, neurons, lm.unembed(before), lm.unembed(before + change[:, neurons].T.to(before)))


def hit(logits: Tensor, token: int, n: int) -> bool:
    """Whether ``token`` is among the first ``n`` of at least one row of logits (columns, vocab)."""
    return bool((logits.topk(n, dim=1).indices == token).any())


def first_token(lm: LM, prompt: str, target: str) -> int:
    """The id of the first token of ``target`` after ``prompt``."""
    batch = lm.encode([prompt], [target])
    return int(batch.input_ids[0, batch.prompt_lengths[0]])


def located_columns(scores: Tensor, layer: int, k: int) -> frozenset[int]:
    """The ``k`` neurons of a layer that a localiser scores highest; scores (layers, d_mlp)."""
    return frozenset(scores[layer].argsort(descending=True, stable=True)[:k].tolist())


def found_again(located: Iterable[int], changed: Iterable[int]) -> float:
    """Share of the located neurons that are among the changed ones."""
    one, other = frozenset(located), frozenset(changed)
    if not one:
        raise BadInput("no neuron was located, so none can be found again")
    return len(one & other) / len(one)
