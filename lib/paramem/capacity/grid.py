"""The models that the capacity notebook asks: which there are, how they were trained, where their weights are.

    cells()                                       # every cell: a shape, a number of people, a way of telling
    models, people = load(cell, seed=0)           # shipped weights, and what they were told
    python -m paramem.capacity.grid [CELL ...]    # train cells again, all seeds of a cell in one stack

Weights lie in ``trained/<cell>.safetensors`` as float16, one row a seed. What a cell is called says all
about it, so the file of another recipe cannot be taken for it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from paramem.capacity.biographies import SYMBOLS, Biographies, people_for
from paramem.capacity.stacked import Architecture, Shape, Stack
from paramem.capacity.training import Junk, Telling, trained
from paramem.errors import BadParameter, CorruptFile
from paramem.files import write_atomically

FOLDER = Path(__file__).parent / "trained"
SEEDS = (0, 1, 2)
HEADS = {8: 2, 12: 3}
RATES = {100: 0.03, 1000: 0.02}  # learning rate by exposures, chosen on people and seeds from 9000 on
STEPS_AN_EPOCH = {100: 8, 1000: 4}
LOADS = (1.6, 2.4, 3.2, 4.8)  # bits a parameter that there are to know
JUNK_RATIO = 1.6  # bits a parameter that the people of the junk cells hold

TUNED_WIDTH = 12  # the largest that rates were chosen at
HEAD_SIZE, LARGEST_BATCH = 64, 2048  # of widths that `HEADS` does not name

Data: TypeAlias = Literal["clean", "strangers", "strangers, marked", "repeated"]


@dataclass(frozen=True, order=True)
class Cell:
    """One place of the grid: `ratio` is what there is to know, in bits a parameter."""

    architecture: Architecture
    width: int
    exposures: int
    ratio: float
    data: Data = "clean"
    layers: int = 2

    @property
    def shape(self) -> Shape:
        heads = HEADS.get(self.width) or max(1, self.width // HEAD_SIZE)
        return Shape(architecture=self.architecture, width=self.width, heads=heads, layers=self.layers)

    @property
    def parts(self) -> int:
        """Tokens of a name: the fewest with which at most half of all names are taken."""
        size = self.shape.parameters()
        return next(n for n in range(2, 9) if 2 * people_for(self.ratio, size, n) <= SYMBOLS**n)

    @property
    def people(self) -> int:
        return people_for(self.ratio, self.shape.parameters(), self.parts)

    @property
    def telling(self) -> Telling:
        """How the people are told: so that everybody is met once in the same number of steps, whoever else there is."""
        batch = min(LARGEST_BATCH, max(1, self.people // STEPS_AN_EPOCH[self.exposures]))
        plain = Telling(exposures=self.exposures, batch=batch, lr=rate_for(self.width, self.exposures))
        if self.data == "clean":
            return plain
        kind: Junk = "repeated" if self.data == "repeated" else "strangers"
        return replace(plain, junk=kind, marked="marked" in self.data)

    @property
    def name(self) -> str:
        data = "" if self.data == "clean" else f"-{self.data.replace(', ', '-')}"
        deep = "" if self.layers == 2 else f"-l{self.layers}"
        return f"{self.architecture}-d{self.width}{deep}-x{self.exposures}-r{round(100 * self.ratio)}{data}"


def rate_for(width: int, exposures: int) -> float:
    """The learning rate of a width: as chosen up to `TUNED_WIDTH`, above it in inverse proportion to the width.

    Adam moves every weight by about the rate, so that what a step changes in a sum over the width grows with it;
    1 / width keeps that change alike, as in maximal-update scaling of hidden matrices. `paramem.capacity.rates` tests
    the rule.
    """
    return RATES[exposures] * min(1.0, TUNED_WIDTH / width)


@cache
def cells() -> tuple[Cell, ...]:
    """Every cell. What is told 1000 times costs ten times as much, so that the largest loads and experts are not."""
    found: list[Cell] = []
    for exposures, most in ((1000, 3), (100, 4)):
        found += [Cell("gpt2", 8, exposures, ratio) for ratio in LOADS]
        found += [Cell("gpt2", 12, exposures, ratio) for ratio in LOADS[:most]]
        found += [Cell("llama", 12, exposures, ratio) for ratio in LOADS[: most - 1]]
    found += [Cell("moe", 8, 100, ratio) for ratio in LOADS[:3]]
    kinds: tuple[Data, ...] = ("strangers", "strangers, marked", "repeated")
    return (*found, *(Cell("gpt2", 12, 100, JUNK_RATIO, data) for data in kinds))


def cell(name: str) -> Cell:
    """The cell of that name; raises BadParameter for any other."""
    for each in cells():
        if each.name == name:
            return each
    raise BadParameter(f"no cell {name!r} in the grid; there are {', '.join(each.name for each in cells())}")


def told(where: Cell, seed: int) -> Biographies:
    """The people of a cell and seed: the same whatever the architecture, if there are as many."""
    return Biographies.drawn(people=where.people, seed=seed, parts=where.parts)


def train(where: Cell, seeds: Sequence[int] = SEEDS, *, device: torch.device | str = "cpu") -> Stack:
    """Train one model a seed, all in one stack."""
    people = [told(where, seed) for seed in seeds]
    return trained(where.shape, people, seeds, where.telling, device=device)


def load(where: Cell, seed: int) -> tuple[Stack, Biographies]:
    """The shipped model of a seed, as a stack of one, and its people.

    Raises BadParameter when that seed is not shipped, CorruptFile when the file is not what was written.
    """
    if seed not in SEEDS:
        raise BadParameter(f"seed {seed} is not shipped, only {SEEDS}: train it with paramem.capacity.grid.train")
    path = FOLDER / f"{where.name}.safetensors"
    if not path.is_file():
        raise BadParameter(
            f"no weights of {where.name} in {FOLDER.name}/: python -m paramem.capacity.grid {where.name}"
        )
    try:
        with safe_open(path, "pt") as file:
            flat = file.get_tensor("flat")
    except SafetensorError as error:
        raise CorruptFile(
            f"{path.name} is no safetensors file ({error}): restore it, or train the cell again"
        ) from error
    return Stack(where.shape, flat[seed : seed + 1].float()), told(where, seed)


def write(where: Cell, folder: Path = FOLDER) -> float:
    """Train a cell for all seeds and store it; returns the seconds it took."""
    start = time.perf_counter()
    models = train(where)
    seconds = time.perf_counter() - start
    note = {"cell": where.name, "seconds": f"{seconds:.0f}", "torch": torch.__version__, "cpu": platform.machine()}
    folder.mkdir(exist_ok=True)
    weights = save({"flat": models.flat.half()}, metadata={"paramem": json.dumps(note)})
    write_atomically(folder / f"{where.name}.safetensors", weights)
    return seconds


def main() -> None:
    """Train the cells named on the command line, or all of them, and store them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("cells", nargs="*", help="names of cells; all of them by default")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.cells or [each.name for each in cells()]:
        print(f"{name}: {write(cell(name)):.0f} s", flush=True)


if __name__ == "__main__":
    main()
