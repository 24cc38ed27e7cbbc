"""Build the bundled testbeds: `python -m paramem.world.build [NAMES] [--all] [--out DIR] [--force]`.

A testbed that is already there with the same recipe is skipped; one that was interrupted continues.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paramem.errors import BadParameter, Interrupted, ParamemError
from paramem.world.cards import FOLDER, TestbedCard, read_card

if TYPE_CHECKING:
    from paramem.world.recipe import Recipe

# Each module has `recipe(name) -> Recipe`; it is imported only when one of its testbeds is asked for.
SOURCES: dict[str, str] = {
    **dict.fromkeys(("gpt2-s0", "gpt2-s1", "gpt2-s2"), "paramem.world.recall"),
    **dict.fromkeys(("llama-s0", "llama-s1", "llama-s2"), "paramem.world.recall"),
    **dict.fromkeys(("gpt2-small-s0", "gpt2-large-s0"), "paramem.world.recall"),
    **dict.fromkeys(("gpt2-small-s1", "llama-small-s0", "llama-small-s1"), "paramem.world.recall"),
    "reason-s0": "paramem.world.reason",
    **dict.fromkeys(("reason-short-gpt2-s0", "reason-short-gpt2-s1"), "paramem.world.reason"),
    **dict.fromkeys(("reason-short-llama-s0", "reason-short-llama-s1"), "paramem.world.reason"),
    **dict.fromkeys(("read-s0", "read-s1", "read-gpt2-s0", "read-gpt2-s1"), "paramem.world.read"),
    **dict.fromkeys(("speak-s0", "speak-s1", "speak-gpt2-s0"), "paramem.world.speak"),
    **dict.fromkeys(("edit-gpt2-s0", "edit-gpt2-s1", "edit-llama-s0", "edit-llama-s1"), "paramem.world.edit"),
    **dict.fromkeys(("grammar-gpt2-s0", "grammar-gpt2-s1"), "paramem.world.grammar"),
    **dict.fromkeys(("grammar-llama-s0", "grammar-llama-s1"), "paramem.world.grammar"),
}


def recipe_of(name: str) -> Recipe:
    """The recipe of a bundled testbed; BadParameter lists the names there are."""
    if name not in SOURCES:
        raise BadParameter(f"no testbed is called {name!r}; there are {', '.join(SOURCES)}")
    recipe: Recipe = importlib.import_module(SOURCES[name]).recipe(name)
    return recipe


def build(name: str, out: Path = FOLDER, *, force: bool = False, progress: bool = True) -> tuple[TestbedCard, bool]:
    """Build one testbed into `out/name`; returns its card and whether anything was trained."""
    from paramem.world.recipe import recipe_hash
    from paramem.world.training import train

    recipe, folder = recipe_of(name), out / name
    if not force and is_built(folder, recipe_hash(recipe)):
        return read_card(folder), False
    train(recipe, folder, progress=progress)
    return read_card(folder), True


def is_built(folder: Path, fingerprint: str) -> bool:
    """Whether `folder` holds the whole result of the recipe with this hash."""
    if not (folder / "card.json").exists() or not (folder / "model.safetensors").exists():
        return False
    try:
        card = read_card(folder)
    except ParamemError:
        return False
    parts = [folder / f"{name}.safetensors" for name in card.checkpoints]
    return card.recipe == fingerprint and all(part.exists() for part in parts)


def measure_again(name: str, out: Path = FOLDER) -> TestbedCard:
    """Measure a built testbed anew and rewrite its card; the weights stay as they are."""
    from transformers.utils.logging import disable_progress_bar

    from paramem.world.training import remeasure

    disable_progress_bar()  # type: ignore[no-untyped-call]  # loading takes no time worth showing
    return remeasure(recipe_of(name), out / name, read_card(out / name))


def summary(card: TestbedCard) -> str:
    """One line per measure, with its target."""
    size = f"{card.parameters:,} parameters, {card.steps} steps, {card.tokens:,} tokens"
    lines = [f"{card.name}: {size}, {card.seconds:.0f} s"]
    for m in card.measures:
        wanted = "" if m.wanted is None else f"  wanted {'<=' if m.at_most else '>='} {m.wanted:g}"
        missed = "  MISSED" if m.met is False else ""
        lines.append(f"  {m.name:<44} {m.value:.3f}  n={m.n}{wanted}{missed}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m paramem.world.build", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="testbeds to build")
    parser.add_argument("--all", action="store_true", help="build every testbed")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the testbeds")
    parser.add_argument("--force", action="store_true", help="train also where the same recipe was already built")
    parser.add_argument("--measure", action="store_true", help="only measure again and rewrite the cards")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    names = list(SOURCES) if options.all else options.names
    if not names:
        parser.error(f"name testbeds or say --all; there are {', '.join(SOURCES)}")
    try:
        for name in names:
            if options.measure:
                print(summary(measure_again(name, options.out)))
                continue
            card, trained = build(name, options.out, force=options.force, progress=not options.quiet)
            print(summary(card) if trained else f"{name}: already built")
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    except ParamemError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
