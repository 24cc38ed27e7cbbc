"""The large grid: GPT-2 of up to 32 million parameters, where an accelerator is, each size kept when it is done.

    device = usable_device("auto")
    cells = chosen("auto", profile="full", device=device)     # none without an accelerator, or in a default run
    budget(cells)                                             # what they cost, counted beforehand
    asked_large(cells, seed=0, device=device)                 # a row a cell: told now, or read from the last time
    python -m paramem.capacity.large --device cuda            # the same from a terminal

Weights are not kept, measurements are: a file for each cell, in the user's cache, written when its training is over. A
file is named by everything that decides what is in it (recipe, sources, seed, kind of device, version of torch), so
that an interrupted run goes on with the first cell that is not there, and what another recipe measured is not taken.
No GPU was at hand when this was written: the path was run on a CPU, with small sizes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from paramem.capacity import biographies, bits, stacked, training
from paramem.capacity.grid import LOADS, Cell, told, train
from paramem.capacity.training import losses
from paramem.capacity.work import Work, check_fits
from paramem.editing.statistics import cache_folder
from paramem.errors import BadParameter
from paramem.files import write_atomically
from paramem.models import usable_device

Size = tuple[int, int]  # width, layers
LARGE: tuple[Size, ...] = ((64, 2), (128, 4), (256, 6), (512, 10))  # from 0.1 to 32 million parameters
EXPOSURES = 100


def large_cells(sizes: Sequence[Size] = LARGE, loads: Sequence[float] = LOADS) -> tuple[Cell, ...]:
    """GPT-2 of these sizes at every load, told 100 times, the cheapest first; no verdict rests on them."""
    cells = [Cell("gpt2", width, EXPOSURES, ratio, layers=layers) for width, layers in sizes for ratio in loads]
    return tuple(sorted(cells, key=lambda cell: (cell.shape.parameters(), cell.ratio)))


def chosen(large: str, *, profile: str, device: torch.device) -> tuple[Cell, ...]:
    """The cells of the large grid that a run tells.

    large: "none"; sizes as width x layers, "64x2 128x4", on any device; or "auto": all sizes in the profiles full and
    paper where the device is no CPU, and none otherwise. Raises BadParameter for anything else.
    """
    if large == "none":
        return ()
    if large == "auto":
        return large_cells() if profile in ("full", "paper") and device.type != "cpu" else ()
    try:
        sizes = [(int(width), int(layers)) for width, layers in (each.split("x") for each in large.split())]
    except ValueError:
        sizes = []
    if not sizes or min(min(size) for size in sizes) < 1:
        raise BadParameter(f"large={large!r}: sizes are width x layers, as in '64x2 128x4'; or 'auto', or 'none'")
    return large_cells(sizes)


def budget(cells: Sequence[Cell] = ()) -> pd.DataFrame:
    """What telling each size costs (all of `LARGE` by default): tokens and PFLOP of its loads together, most bytes."""
    rows = [{"width": c.width, "layers": c.layers, "parameters": c.shape.parameters(), "people, up to": c.people,
             "rate": c.telling.lr, "million tokens": (work := Work.of(c)).tokens / 1e6, "PFLOP": work.flops / 1e15,
             "GiB": work.memory / 2**30} for c in cells or large_cells()]  # fmt: skip
    by = ["width", "layers", "parameters", "rate"]
    totals = {"people, up to": "max", "million tokens": "sum", "PFLOP": "sum", "GiB": "max"}
    return pd.DataFrame(rows).groupby(by, as_index=False).agg(totals)


def asked_large(
    cells: Sequence[Cell], seed: int, device: torch.device, *, folder: Path | None = None, verbose: bool = False
) -> pd.DataFrame:
    """What a model of each cell knows, a row a cell; those that were measured before are read, the rest are told now.

    Columns: width, layers, parameters, people, rate, there and known in bits a parameter, share, seconds. Raises
    BadParameter before anything is told where the device lacks memory. A folder that cannot be written costs the
    resuming, not the result.
    """
    paths = {cell: (folder or cache_folder() / "capacity") / _file_name(cell, seed, device) for cell in cells}
    rows = {cell: row for cell, path in paths.items() if (row := _kept(path)) is not None}
    check_fits([cell for cell in cells if cell not in rows], device)
    for cell, path in paths.items():
        if cell not in rows:
            rows[cell] = measured(cell, seed, device)
            with suppress(OSError):
                write_atomically(path, json.dumps(rows[cell]).encode())
        if verbose:
            print(json.dumps(rows[cell]), file=sys.stdout, flush=True)
    return pd.DataFrame([rows[cell] for cell in cells], columns=COLUMNS)


COLUMNS = ["width", "layers", "parameters", "people", "rate", "there", "known", "share", "seconds"]


def measured(cell: Cell, seed: int, device: torch.device) -> dict[str, float]:
    """Tell a cell's people to a model of its own and ask it; the model is not kept."""
    start = time.perf_counter()
    try:
        models = train(cell, [seed], device=device)
        known = losses(models, [told(cell, seed)], marked=cell.telling.marked)
    except torch.OutOfMemoryError as error:
        raise BadParameter(
            f"{cell.name} does not fit into what is free on {device} ({str(error).splitlines()[0]}): free some "
            "memory, or leave this size out with large='...'; what is done is kept"
        ) from error
    (ratio,) = known.ratio
    sizes = {"width": cell.width, "layers": cell.layers, "parameters": known.parameters, "people": cell.people}
    knows = {"rate": cell.telling.lr, "there": known.most, "known": ratio, "share": ratio / known.most}
    return sizes | knows | {"seconds": round(time.perf_counter() - start, 1)}


def _file_name(cell: Cell, seed: int, device: torch.device) -> str:
    sources = [Path(str(module.__file__)).read_bytes() for module in (biographies, bits, stacked, training)]
    recipe = [asdict(cell.shape), asdict(cell.telling), cell.people, cell.parts, device.type, torch.__version__]
    digest = hashlib.sha256(json.dumps(recipe).encode() + b"".join(sources)).hexdigest()[:16]
    return f"{cell.name}-s{seed}-{digest}.json"


def _kept(path: Path) -> dict[str, float] | None:
    """What a file says, or None where there is none, or one that is damaged: it is then measured again."""
    try:
        row = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) and set(row) == set(COLUMNS) else None


def main() -> None:
    """Tell the large grid and print what is known, a line of JSON a cell; another call goes on where one stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sizes", default="auto", help="width x layers, as in '64x2 128x4'; all of them by default")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    device = usable_device(asked.device)
    cells = large_cells() if asked.sizes == "auto" else chosen(asked.sizes, profile="full", device=device)
    print(budget(cells).to_string(index=False, float_format="{:.4g}".format), flush=True)
    asked_large(cells, asked.seed, device, verbose=True)


if __name__ == "__main__":
    main()
