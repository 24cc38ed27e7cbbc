"""What a run depends on, as one short key: equal keys mean that running again would only repeat what is there.

The key covers the notebook's cells (not its outputs), the parameters, the library's sources and data, the model's
files, declared input files, the versions that numbers depend on, and the kind of device. Computing it imports nothing
heavy.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paramem.project import Project

SCHEMA = 1
_PACKAGES = ("torch", "numpy", "transformers", "tokenizers")


def run_key(
    project: Project,
    cells: Iterable[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    model: str | None,
    inputs: Iterable[str] = (),
    files: Iterable[Path] = (),
) -> str:
    """The key of one run, 20 hexadecimal digits.

    Args:
        cells: the notebook's cells.
        parameters: all values it will run with.
        model: the model it loads, None where it loads none by parameter.
        inputs: globs, from the root, of other files it reads.
        files: files that parameters name.
    """
    facts = {
        "schema": SCHEMA,
        "cells": [
            (cell["cell_type"], cell["source"], sorted(cell.get("metadata", {}).get("tags", ()))) for cell in cells
        ],
        "parameters": parameters,
        "library": library_hash(project),
        "model": None if model is None else model_hash(project, model),
        "inputs": {
            path.relative_to(project.root).as_posix(): _file_hash(path)
            for pattern in inputs
            for path in sorted(project.root.glob(pattern))
            if path.is_file()
        },
        "files": {str(path): _file_hash(path) for path in files},
        "versions": versions(),
        "device": device_kind(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=repr).encode()).hexdigest()[:20]


@functools.cache
def versions() -> dict[str, str]:
    """Versions of python and of the packages that numbers depend on (the build tag dropped: +cpu is no difference)."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def device_kind() -> str:
    """``cuda`` or ``cpu``: what torch would choose, judged by device files: importing torch takes seconds."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    return "cuda" if not hidden and any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"


@functools.cache
def library_hash(project: Project) -> str:
    """Hash of the library's sources and data, without the bundled models (`model_hash` covers the one in use)."""
    return _tree_hash(
        path
        for path in project.library.rglob("*")
        if "__pycache__" not in path.parts and not path.is_relative_to(project.testbeds)
    )


@functools.cache
def model_hash(project: Project, model: str) -> str:
    """Hash of a bundled model's files, of a local folder's listing (names, sizes, times), or of a hub id's text."""
    bundled = project.testbeds / model.split("@")[0]
    if bundled.is_dir():
        return _tree_hash(bundled.rglob("*"))
    folder = Path(model).expanduser()
    if folder.is_dir():
        listing = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))]
        return hashlib.sha256(repr(listing).encode()).hexdigest()
    return f"hub:{model}"


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tree_hash(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file()):
        digest.update(f"{path.name}\0{_file_hash(path)}\0".encode())
    return digest.hexdigest()


@functools.cache
def _file_hash(path: Path) -> str:
    return file_hash(path)
