"""What a cell of the grid costs before it is told: multiplications of matrices, bytes, and whether a device has them.

    work = Work.of(cell)          # steps, tokens, FLOPs of the whole training, bytes at its largest
    check_fits([cell], device)    # BadParameter where the device has fewer bytes than the largest cell needs

FLOPs are those of the matrix products, two for a multiplication and an addition; the backward has two products for
each of the forward. Bytes are the numbers of the training (weights, gradient, two moments of Adam, a mask of decay)
and what a step keeps for its backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from paramem.capacity.biographies import ATTRIBUTES
from paramem.capacity.grid import Cell
from paramem.capacity.stacked import Shape
from paramem.errors import BadParameter

FLOAT = 4  # bytes
PER_PARAMETER = 5  # numbers that the training keeps for each weight
MARGIN = 1.25  # what kernels and a fragmented memory take besides, as a factor


@dataclass(frozen=True)
class Work:
    """The cost of telling one model of a cell.

    steps   of training
    tokens  read in all of them
    flops   of matrix products, forward and backward, in all of them
    memory  bytes at the largest
    """

    steps: int
    tokens: int
    flops: float
    memory: int

    @classmethod
    def of(cls, cell: Cell) -> Work:
        """Counted from the shape and the telling; nothing is run."""
        shape, telling, length = cell.shape, cell.telling, cell.parts + ATTRIBUTES
        rows = telling.batch * (1 if telling.junk == "none" else 1 + telling.junk_rows)
        steps = telling.steps(cell.people)
        numbers = PER_PARAMETER * shape.parameters() + kept_for_backward(shape, rows, length)
        flops = 3.0 * steps * forward_flops(shape, rows, length)
        return cls(steps, steps * rows * length, flops, FLOAT * numbers)


def forward_flops(shape: Shape, rows: int, length: int) -> int:
    """Of one forward of so many rows of so many tokens, one model."""
    d, h, tokens = shape.width, shape.hidden, rows * length
    experts = 2 * d * shape.experts + 2 * d * h * shape.experts * 2 + 2 * shape.experts * d
    feed_forward = {"gpt2": 2 * 2 * d * h, "llama": 3 * 2 * d * h, "moe": experts}[shape.architecture]
    attention = 2 * d * 4 * d + 2 * 2 * length * d
    return tokens * (shape.layers * (attention + feed_forward) + 2 * d * shape.vocabulary)


def kept_for_backward(shape: Shape, rows: int, length: int) -> int:
    """Numbers that a step of GPT-2 keeps between forward and backward, one model: an estimate from above.

    Per token and layer: inputs, normalised inputs and outputs of two norms, queries, keys and values (turned and not),
    what attention and the feed-forward layer mix, weights of attention; once: logits, their logarithms and gradients.
    """
    d, h = shape.width, shape.hidden
    layer = 14 * d + 2 * h + 3 * shape.heads * length
    return rows * length * (shape.layers * layer + 4 * d + 4 * shape.vocabulary)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device now; None where that cannot be asked."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def check_fits(cells: Sequence[Cell], device: torch.device, *, free: int | None = None) -> None:
    """Nothing, where every cell fits into the memory of the device. Raises BadParameter, naming the largest, else.

    free: bytes, in the place of what the device says.
    """
    free = free_memory(device) if free is None else free
    needs = {cell: MARGIN * Work.of(cell).memory for cell in cells}
    if free is None or not needs or max(needs.values()) <= free:
        return
    largest = max(needs, key=lambda cell: needs[cell])
    fitting = dict.fromkeys(f"{cell.width}x{cell.layers}" for cell in cells if needs[cell] <= free)
    raise BadParameter(
        f"{largest.name} ({largest.shape.parameters():,} parameters) needs about {_gib(needs[largest])} and {device} "
        f"has {_gib(free)} free: free some, or name the sizes that fit, as in large={' '.join(fitting) or 'none'!r}"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
