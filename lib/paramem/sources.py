"""From a model's name to the folder that holds it, without importing torch, and without a network before it is needed.

A name is a bundled testbed (`gpt2-s0`), one of its checkpoints (`gpt2-s0@step0100`), a local folder, or a hub id.
"""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramem import hub
from paramem.errors import CorruptFile, HubUnavailable, ModelNotFound

TESTBEDS = Path(__file__).parent / "world" / "testbeds"
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model on disk: its folder, and the weights file when it is not the folder's own."""

    name: str
    folder: Path
    checkpoint: Path | None = None

    def config(self) -> dict[str, Any]:
        """The model's configuration as written; raises `ModelNotFound`, `CorruptFile`."""
        path = self.folder / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ModelNotFound(f"folder {self.folder} holds no model: it has no config.json") from error
        except (OSError, ValueError) as error:
            raise CorruptFile(f"{path} cannot be read: {error}") from error
        if not isinstance(config, dict):
            raise CorruptFile(f"{path} holds no configuration: {type(config).__name__} instead of an object")
        return config


def bundled_names() -> tuple[str, ...]:
    """The testbeds that come with the package, and their checkpoints."""
    names = []
    for config in sorted(TESTBEDS.glob("*/config.json")):
        folder = config.parent
        if (folder / "model.safetensors").is_file():
            names.append(folder.name)
        names += [f"{folder.name}@{path.stem}" for path in sorted(folder.glob("step*.safetensors"))]
    return tuple(names)


def resolve(name: str | os.PathLike[str], revision: str | None = None) -> Source:
    """Find a model; raises `ModelNotFound` or `HubUnavailable`, within two seconds when there is no network."""
    text = os.fspath(name)
    bundled = _bundled(text)
    if bundled is not None:
        return bundled
    path = Path(text).expanduser()
    if text and path.is_dir():
        return Source(name=text, folder=path)
    if not text or path.exists() or text.startswith((".", "~", os.sep)) or not hub.looks_like_id(text):
        what = "is a file, not a model folder" if path.is_file() else "does not exist, nor can it be a hub id"
        raise ModelNotFound(f"model {text!r} {what}. {_suggestion(text)}")
    try:
        return Source(name=text, folder=hub.snapshot(text, revision=revision, patterns=PATTERNS))
    except (ModelNotFound, HubUnavailable) as error:
        raise type(error)(
            f"model {text!r} is neither a bundled testbed nor a folder here, and {error}. {_suggestion(text)}"
        ) from error


def _bundled(name: str) -> Source | None:
    stem, _, step = name.partition("@")
    if name not in bundled_names():
        if step and (TESTBEDS / stem / "config.json").is_file():
            raise ModelNotFound(f"testbed {stem!r} has no checkpoint {step!r}. {_suggestion(name)}")
        return None
    folder = TESTBEDS / stem
    return Source(name=name, folder=folder, checkpoint=folder / f"{step}.safetensors" if step else None)


def _suggestion(name: str) -> str:
    names = bundled_names()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Bundled are: {', '.join(names) or 'none (make testbeds builds them)'}."
