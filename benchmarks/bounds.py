"""What bounds cost: the projector beside a copy of its parameters, a SubLoRA step beside a LoRA step, a certificate
beside the forwards of its documents; measured in one run on one thread.

    python benchmarks/bounds.py [--repeats 9]

The limit of the projector is the memory bandwidth: the time of one copy of D numbers in the same run. With d = 1,000
its 2 D sqrt d operations take longer than three of them on one core, in any order: there the unit is the larger
of its two matrix products. Ratios, so that a busy machine does not matter; the exit status is 1 when one exceeds its
budget. Under a minute of CPU time; `--size huge` takes two.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
import typer
from core import Measured, measure, show

from paramem.bounds.ground import certified, fresh_lm, score
from paramem.bounds.projector import KroneckerProjector
from paramem.bounds.source import Source
from paramem.bounds.sublora import SubLora, SubLoraSettings

N_PARAMETERS, DOCUMENTS = 4_000_000, 10_000
COPIES, PRODUCTS = 3.0, 1.3  # at most


@torch.no_grad()
def projecting(repeats: int) -> Iterator[Measured]:
    v = torch.randn(N_PARAMETERS)
    room = torch.empty_like(v)
    for d in (100, 1_000):
        projector, w = KroneckerProjector.random(N_PARAMETERS, d, 0), torch.randn(d)
        left, right = projector.left, projector.right
        theta, narrow = torch.randn(len(left), len(right)), torch.randn(left.shape[1], len(right))
        applied = {"P w": partial(projector, w), "P^T v": partial(projector.transpose, v)}
        products = {"P w": partial(torch.matmul, left, narrow), "P^T v": partial(torch.matmul, left.T, theta)}
        for name, thing in applied.items():
            what = f"{name}, D = {N_PARAMETERS:,}, d = {d:,}"
            if d == 100:
                yield measure(what, "copy of D numbers", COPIES, thing, lambda: room.copy_(v), repeats)
            else:
                yield measure(what, "its larger matrix product", PRODUCTS, thing, products[name], repeats)


def steps(size: str, repeats: int) -> Iterator[Measured]:
    lm, documents = fresh_lm("gpt2", size, 0), Source().draw(1000, 0)
    batch = documents.batch(np.arange(32))
    models = [SubLora.of(lm, SubLoraSettings(rank=8, dimension=d)) for d in (1000, None)]

    def step(model: SubLora, w: torch.Tensor) -> None:
        (w.grad,) = torch.autograd.grad(model.loss(w, batch), [w])

    ours, lora = (torch.zeros(model.dimension, requires_grad=True) for model in models)
    yield measure(
        f"SubLoRA step, {size}, {len(models[1].start):,} numbers through 1,000",
        "LoRA step on the same rows",
        1.3,
        lambda: step(models[0], ours),
        lambda: step(models[1], lora),
        repeats,
    )


@torch.no_grad()
def certificates(size: str, repeats: int) -> Iterator[Measured]:
    lm, documents = fresh_lm("gpt2", size, 0), Source().draw(DOCUMENTS, 0)
    rows = np.arange(DOCUMENTS)
    unseen = score(lm, documents, rows[:100])

    def forwards() -> None:
        for _, batch in documents.batches(rows):
            lm.model(input_ids=batch.input_ids, use_cache=False)  # not kept: room for all logits takes time of its own

    yield measure(
        f"bounds on bits and errors from {DOCUMENTS:,} documents, {size}",
        "plain forwards of these documents",
        1.2,
        lambda: certified(score(lm, documents, rows), unseen, 4000.0, 50_000, n_choices=1),
        forwards,
        max(2, repeats // 4),
    )


def main(size: str = "large", repeats: int = 9) -> None:
    """Print the table of ratios; exit 1 when one exceeds its budget."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = [*projecting(4 * repeats), *steps(size, repeats)]
    for each in dict.fromkeys(("small", size)):  # on a small model what is not a forward weighs most
        found += certificates(each, repeats)
    raise typer.Exit(int(show(f"bounds, gpt2 {size}", found)))


if __name__ == "__main__":
    typer.run(main)
