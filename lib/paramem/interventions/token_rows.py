"""Tables of token vectors of which training saw only some rows: the others are drawn again instead of being kept.

A network that reads a model's vocabulary meets a few hundred of its words in training. The vectors of the rest stay as
they were drawn, which a seed says, so that a word that was never seen is still another word than any other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SEEN = "seen"  # under this name stand the numbers of the rows that are kept


def drawn(vocabulary: int, width: int, std: float, seed: int) -> Tensor:
    """Normal vectors (vocabulary, width): a function of the seed, made on the CPU."""
    return std * torch.randn(vocabulary, width, generator=torch.Generator().manual_seed(seed))


def only_seen(weights: Mapping[str, Tensor], name: str, seen: Tensor) -> dict[str, Tensor]:
    """The weights with those rows of the table alone; seen: (rows,) of whole numbers."""
    return {**weights, name: weights[name][seen], SEEN: seen.to(torch.int32)}


def whole(weights: Mapping[str, Tensor], name: str, table: Tensor) -> dict[str, Tensor]:
    """The weights with the whole table: kept rows where there are such, those of ``table`` for every other token.

    A table that was kept whole, or rows that do not fit, are handed on for the caller to compare sizes.
    """
    rest = {key: tensor for key, tensor in weights.items() if key != SEEN}
    if SEEN not in weights or name not in weights:
        return rest
    seen, rows = weights[SEEN].long(), weights[name].to(table)
    if rows.shape != (len(seen), table.shape[1]) or (len(seen) and int(seen.max()) >= len(table)):
        return rest
    return {**rest, name: table.index_copy(0, seen.to(table.device), rows)}
