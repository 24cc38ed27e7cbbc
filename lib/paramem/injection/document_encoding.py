"""One low-rank adapter for each document, all of them trained side by side.

    adapters = train_adapters(lm, {page.name: rows_of(lm, page) for page in pages}, EncodingSettings())

A step's forward holds some rows of every document, and each document's rows meet its own factors. No loss has terms of
two documents, Adam works on each number by itself, the factors start alike, and which rows a step takes depends on how
many there are and on the seed: a document's adapter comes out as it would alone, up to rounding. The base model's
weights stay as they are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from paramem.editing.adapters_abreast import attached, initial, stored
from paramem.editing.low_rank import LowRankSettings, adapted
from paramem.errors import BadInput, BadParameter
from paramem.fusion.training import token_losses
from paramem.injection.document_adapter import DocumentAdapter, base_fingerprint
from paramem.interventions import WeightDelta
from paramem.lm import LM
from paramem.world.recipe import Row, Stage, collate

Matrices: TypeAlias = Literal["attention", "mlp", "down"]


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """How the adapter of a document is trained.

    matrices     those that get factors: the feed-forward ones
    rank, alpha  of the factors; the change is scaled by alpha / rank
    passes       how often each row of a document is seen
    rows         of a document in one step
    documents    of one forward; changes nothing but the memory it takes
    """

    matrices: Matrices = "mlp"
    rank: int = 2
    alpha: float = 32.0
    passes: float = 8
    rows: int = 2
    lr: float = 3e-3
    warmup: float = 0.1
    decay_from: float = 0.5
    documents: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.matrices not in get_args(Matrices):
            raise BadParameter(f"matrices={self.matrices!r}: one of {', '.join(map(repr, get_args(Matrices)))}")
        positive = (self.rank, self.alpha, self.passes, self.rows, self.lr, self.documents)
        if not all(0 < value < math.inf for value in positive):
            raise BadParameter(f"{self}: rank, alpha, passes, rows, lr and documents are positive numbers")
        if not (0 <= self.warmup <= 1 and 0 <= self.decay_from <= 1):
            raise BadParameter(f"{self}: warmup and decay_from are shares of the steps, from 0 to 1")

    @property
    def factors(self) -> LowRankSettings:
        """What `paramem.editing.low_rank` needs to know to place and draw the factors."""
        return LowRankSettings(matrices=self.matrices, rank=self.rank, alpha=self.alpha, seed=self.seed)


def train_adapters(
    lm: LM,
    rows: Mapping[str, Sequence[Row]],
    settings: EncodingSettings,
    *,
    watch: Callable[[int, Tensor], None] | None = None,
) -> list[DocumentAdapter]:
    """The adapter of every document, in the order given; documents with equally many rows go together.

    watch: called with the step and the losses of the documents in it. Raises BadInput for a document without rows.
    """
    for name, some in rows.items():
        if not some:
            raise BadInput(f"document {name!r} has nothing to train on: an empty passage has no adapter; leave it out")
    base, found = base_fingerprint(lm), {}
    for names in _batches(rows, settings.documents):
        deltas = _trained(lm, [rows[name] for name in names], settings, watch)
        for name, delta in zip(names, deltas, strict=True):
            found[name] = DocumentAdapter(delta, documents=[name], base=base, base_name=lm.name)
    return [found[name] for name in rows]


def _batches(rows: Mapping[str, Sequence[Row]], size: int) -> Iterator[list[str]]:
    """Names of documents with equally many rows, at most ``size`` of them."""
    by_number: dict[int, list[str]] = {}
    for name, some in rows.items():
        by_number.setdefault(len(some), []).append(name)
    for names in by_number.values():
        yield from (names[start : start + size] for start in range(0, len(names), size))


def plan(n_rows: int, settings: EncodingSettings) -> list[tuple[float, list[int]]]:
    """(learning rate, which rows) of every step: passes over all rows in random order."""
    rng = random.Random(f"documents/order/{settings.seed}")
    width = min(settings.rows, n_rows)
    steps = max(1, round(settings.passes * n_rows / width))
    order: list[int] = []
    while len(order) < steps * width:
        order += rng.sample(range(n_rows), n_rows)
    warmup = max(1, round(settings.warmup * steps))
    stage = Stage(steps=steps, lr=settings.lr, warmup=warmup, decay_from=settings.decay_from)
    return [(stage.learning_rate(step), order[step * width : (step + 1) * width]) for step in range(steps)]


def _trained(
    lm: LM,
    documents: Sequence[Sequence[Row]],
    settings: EncodingSettings,
    watch: Callable[[int, Tensor], None] | None,
) -> list[WeightDelta]:
    n = len(documents)
    adapters = initial(lm, adapted(lm, settings.factors), settings.factors, n)
    parameters = [parameter for adapter in adapters.values() for parameter in adapter.parameters]
    optimiser = torch.optim.Adam(parameters, lr=settings.lr)
    with attached(lm, adapters):
        for step, (rate, chosen) in enumerate(plan(len(documents[0]), settings)):
            ids, weights = collate([rows[i] for rows in documents for i in chosen])
            losses = document_losses(lm, ids.to(lm.device), weights.to(lm.device), n)
            for group in optimiser.param_groups:
                group["lr"] = rate
            for parameter, gradient in zip(parameters, torch.autograd.grad(losses.sum(), parameters), strict=True):
                parameter.grad = gradient
            optimiser.step()
            if watch is not None:
                watch(step, losses.detach())
    return [WeightDelta(dict(stored(lm, adapters, document))) for document in range(n)]


def document_losses(lm: LM, ids: Tensor, weights: Tensor, n: int) -> Tensor:
    """Mean next-token loss of each of n documents, (n,), of ids (n b, T), b rows a document."""
    losses, w, rows = token_losses(lm, ids, weights)
    owner = rows // (len(ids) // n)
    total = losses.new_zeros(2, n).index_add(1, owner, torch.stack([losses * w, w]))
    return total[0] / total[1]
