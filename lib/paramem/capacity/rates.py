"""The learning rate of a width, and the sweep that tests the rule.

    rate_for(64, exposures=100)                      # the rule: as chosen at width 12, times 12 / width
    swept([16, 32], factors=(0.5, 1, 2))             # bits a parameter at multiples of that rate, seeds of their own
    python -m paramem.capacity.rates 16 24 32        # the same from a terminal

Seeds from 9000 on draw people, weights and orders that no result uses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd
import torch

from paramem.capacity.grid import JUNK_RATIO, Cell, rate_for, told
from paramem.capacity.training import losses, trained
from paramem.models import usable_device

SEEDS = (9000, 9001)
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def swept(
    widths: Iterable[int],
    factors: Sequence[float] = FACTORS,
    *,
    layers: int = 2,
    exposures: int = 100,
    load: float = JUNK_RATIO,
    seeds: Sequence[int] = SEEDS,
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """A row a width and multiple of its rate: width, parameters, factor, rate, known (bits a parameter, mean of seeds).

    exposures, load: of the people told; fewer exposures make it cheaper, and take another rate.
    """
    rows = []
    for width in widths:
        cell = Cell("gpt2", width, exposures, load, layers=layers)
        people = [told(cell, seed) for seed in seeds]
        for factor in factors:
            rate = factor * rate_for(width, exposures)
            models = trained(cell.shape, people, seeds, replace(cell.telling, lr=rate), device=device)
            known = sum(losses(models, people).ratio) / len(seeds)
            sizes = {"width": width, "layers": layers, "parameters": cell.shape.parameters()}
            rows.append(sizes | {"factor": factor, "rate": rate, "known": known})
    return pd.DataFrame(rows)


def best_factors(table: pd.DataFrame) -> pd.DataFrame:
    """Width to the best multiple of the rule's rate, what it holds, and what the rule's own rate holds of that."""
    best = table.loc[table.groupby("width")["known"].idxmax()].set_index("width")
    ruled = table[table["factor"] == 1].set_index("width")["known"]
    return best[["factor", "rate", "known"]].assign(share_of_the_rule=ruled / best["known"])


def main() -> None:
    """Sweep the rate at some widths and print both tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("widths", nargs="*", type=int, default=[16, 24, 32])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table = swept(asked.widths, layers=asked.layers, device=usable_device(asked.device))
    print(table.round(4).to_string(index=False))
    print(best_factors(table).round(4).to_string())


if __name__ == "__main__":
    main()
