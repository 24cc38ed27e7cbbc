"""Where the checkout's files are: the one place that knows the folder layout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from paramem.errors import BadInput

_MARKS = ("papers.bib", "taxonomy")


@dataclass(frozen=True, kw_only=True)
class Project:
    """The folders of one checkout.

    Attributes:
        root: the folder that holds ``papers.bib`` and ``taxonomy/``.
    """

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """The checkout around ``start`` (default: the working folder, then this package's own checkout).

        ``PARAMEM_ROOT`` in the environment wins over both.

        Raises:
            BadInput: there is no checkout at any of these places.
        """
        named = os.environ.get("PARAMEM_ROOT")
        origin = Path(named).expanduser() if named else (start or Path.cwd())
        places = [origin] if named else [origin, *origin.resolve().parents, Path(__file__).resolve().parents[2]]
        for folder in places:
            if all((folder / mark).exists() for mark in _MARKS):
                return cls(root=folder.resolve())
        raise BadInput(
            f"no paramem checkout at {origin} or above it ({' and '.join(_MARKS)} not found). "
            "Run from a clone of the repository, or set PARAMEM_ROOT to its folder."
        )

    @property
    def bib(self) -> Path:
        """The bibliography."""
        return self.root / "papers.bib"

    @property
    def taxonomy(self) -> Path:
        """The folder of taxonomy files."""
        return self.root / "taxonomy"

    @property
    def notebooks(self) -> Path:
        """The folder of notebooks."""
        return self.root / "notebooks"

    @property
    def results(self) -> Path:
        """The folder of committed results, one JSON file per notebook."""
        return self.root / "results"

    @property
    def library(self) -> Path:
        """The folder of the library's sources."""
        return self.root / "lib" / "paramem"

    @property
    def testbeds(self) -> Path:
        """The folder of the bundled models."""
        return self.library / "world" / "testbeds"

    @property
    def readme(self) -> Path:
        """The README with the generated scoreboard."""
        return self.root / "README.md"

    def notebook_path(self, name: str) -> Path:
        """The ``.ipynb`` file of the notebook called ``name`` (``editing/rome``)."""
        return self.notebooks / f"{name}.ipynb"

    def results_path(self, name: str) -> Path:
        """The committed results of the notebook called ``name``."""
        return self.results / f"{name}.json"

    def notebook_names(self) -> tuple[str, ...]:
        """All notebooks, by their path below ``notebooks/`` without the suffix, sorted, the index first."""
        found = (
            path.relative_to(self.notebooks).with_suffix("").as_posix()
            for path in self.notebooks.rglob("*.ipynb")
            if ".ipynb_checkpoints" not in path.parts
        )
        return tuple(sorted(found, key=lambda name: (name != "index", "/" in name, name)))
