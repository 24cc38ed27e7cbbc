"""Print the notebooks, those that take longest first: workers that share them out then end at about the same time.

Usage: `python scripts/longest_first.py`. The time is that of the default testbed in `results/`; notebooks that measure
nothing come last.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]


def seconds(name: str, root: Path) -> float:
    """Wall seconds that the first testbed took when results were written, 0 without results."""
    file = root / "results" / f"{name}.json"
    measured = json.loads(file.read_text(encoding="utf-8"))["seconds"] if file.is_file() else {}
    return float(next(iter(measured.values()), 0.0))


def longest_first(root: Path = ROOT) -> list[str]:
    """Every notebook's path from the root."""
    names = [
        path.relative_to(root / "notebooks").with_suffix("").as_posix() for path in root.glob("notebooks/**/*.ipynb")
    ]
    shown = [name for name in names if ".ipynb_checkpoints" not in name]
    return [f"notebooks/{name}.ipynb" for name in sorted(shown, key=lambda name: (-seconds(name, root), name))]


if __name__ == "__main__":
    print(*longest_first(), sep="\n")
