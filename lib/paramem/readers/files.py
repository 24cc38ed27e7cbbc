"""From a path or a hub id to raw JSON: local file, folder with one data file, or ``owner/name[:file]`` on the hub."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from paramem.errors import BadInput, BadRecord
from paramem.hub import looks_like_id, snapshot

MAX_BYTES = 2**30
_TABLES = {".parquet": "parquet", ".csv": "csv"}  # read by the `datasets` library
_ENDINGS = (".json", ".jsonl", *_TABLES)


def locate(source: str | os.PathLike[str]) -> Path:
    """The one data file that `source` stands for.

    Raises BadInput when there is none or more than one, HubUnavailable when a hub id cannot be fetched.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _only_file(path, str(source))
    repo, _, inner = str(source).partition(":")
    if (path.suffix in _ENDINGS and not inner) or not looks_like_id(repo) or "/" not in repo:
        raise BadInput(
            f"there is no file or folder {str(source)!r} (looked from {Path.cwd().name!r}), and it is not a hub id, "
            "which has the form owner/name or owner/name:folder/file.json; check the spelling"
        )
    patterns = [inner] if inner else [f"*{ending}" for ending in _ENDINGS]
    folder = snapshot(repo, kind="dataset", patterns=patterns)
    return folder / inner if inner and (folder / inner).is_file() else _only_file(folder, str(source))


def _only_file(folder: Path, source: str) -> Path:
    found = sorted(path for path in folder.rglob("*") if path.suffix in _ENDINGS and path.is_file())
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadInput(f"{source!r} holds no {' or '.join(_ENDINGS)} file; give the path of one")
    names = [str(path.relative_to(folder)) for path in found]
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    raise BadInput(f"{source!r} holds {len(found)} data files ({shown}); name one of them")


def load(path: Path, limit: int | None = None, max_bytes: int = MAX_BYTES) -> Any:
    """The parsed content of a .json file, or the list of records of a .jsonl file (`limit` of them at most).

    A .jsonl file is read line by line; a .json file must be parsed whole, so its size is limited to `max_bytes`.
    """
    if path.suffix == ".jsonl":
        return list(islice(_lines(path), limit))
    if path.suffix in _TABLES:
        return _table(path, limit)
    size = path.stat().st_size
    if size > max_bytes:
        raise BadRecord(
            path,
            "(file)",
            "(size)",
            f"{size / 2**20:,.1f} MiB is more than the {max_bytes / 2**20:,.1f} MiB that are parsed in one piece; "
            "write one record per line to a .jsonl file and pass limit=..., or raise max_bytes",
        )
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise BadRecord(path, "(file)", f"line {error.lineno}", _not_json(error)) from error
    except RecursionError as error:
        raise BadRecord(path, "(file)", "(content)", "nested too deeply to be one of the known formats") from error


def _table(path: Path, limit: int | None) -> list[Any]:
    """The rows of a parquet or csv file as records."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        with tempfile.TemporaryDirectory() as cache:
            rows = load_dataset(_TABLES[path.suffix], data_files=str(path), split="train", cache_dir=cache)
            return list(islice((dict(row) for row in rows), limit))
    except (DatasetGenerationError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        raise BadRecord(
            path, "(file)", "(content)", f"not a {path.suffix[1:]} file that can be read: {cause}"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8; convert the file (iconv -t utf-8), or unpack it if it is compressed"
        raise BadRecord(path, "(file)", "(encoding)", reason) from error
    except OSError as error:
        raise BadInput(f"{path.name!r} cannot be read: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for index, line in enumerate(line for line in lines if line.strip()):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise BadRecord(path, index, "(line)", _not_json(error)) from error
    except UnicodeDecodeError as error:
        raise BadRecord(path, "(file)", "(encoding)", "the file is not UTF-8; convert it (iconv -t utf-8)") from error


def _not_json(error: json.JSONDecodeError) -> str:
    if error.doc.startswith("version https://git-lfs"):
        return "this is a Git LFS pointer and not the data; run `git lfs pull` where it came from"
    where = f"line {error.lineno}, column {error.colno}"
    return f"not JSON ({error.msg} at {where}); one record per line belongs in a file that ends in .jsonl"
