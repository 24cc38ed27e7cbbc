"""Turn a hub id into a local folder, and fail within two seconds when there is no network.

`transformers` and `datasets` retry for 20 to 50 seconds when the hub cannot be reached. So an id is resolved to a
folder first: from the local cache, or by a download once a single connection has shown that the hub answers.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from paramem.errors import HubUnavailable, ModelNotFound

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def looks_like_id(name: str) -> bool:
    """Whether `name` has the form of a hub id: ``name`` or ``owner/name``."""
    return _ID.fullmatch(name) is not None


def hub_reachable(timeout: float = 1.0) -> bool:
    """One connection to the hub's host, within `timeout` seconds; behind a proxy the answer is left to the download."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    url = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if url.scheme in getproxies():
        return True
    answers: list[bool] = []

    def connect() -> None:
        with suppress(OSError), socket.create_connection((url.hostname or "", url.port or 443), timeout=timeout):
            answers.append(True)

    # In a thread, for looking up a name has no timeout of its own and may hang for many seconds.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answers)


def snapshot(repo: str, *, kind: str = "model", revision: str | None = None, patterns: Sequence[str] = ("*",)) -> Path:
    """The folder that holds the files of `repo` matching `patterns`; `kind` is "model" or "dataset".

    Raises HubUnavailable when it is not in the local cache and the hub cannot be reached, and ModelNotFound when the
    hub answers that there is no such repository or revision.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    def fetch(local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                repo_id=repo,
                repo_type=kind,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=local_files_only,
            )
        )

    try:
        return fetch(local_files_only=True)
    except LocalEntryNotFoundError as missing:
        if not hub_reachable():
            raise HubUnavailable(
                f"the {kind} {repo!r} is not in the local cache and the hub cannot be reached; with a network, run: "
                f"hf download {repo} --repo-type {kind}; without one, give a local path"
            ) from missing
    try:
        return fetch(local_files_only=False)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelNotFound(f"the hub has no {kind} {repo!r} at revision {revision or 'main'!r}") from error
    except OSError as error:
        raise HubUnavailable(f"downloading the {kind} {repo!r} failed: {error}; give a local path instead") from error
