"""How kernels are started: quiet, closed to others, one thread."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

QUIET = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}


@contextmanager
def kernel_config() -> Iterator[Any]:
    """Settings for one kernel: sockets in a private folder instead of ports, which are open to every user.

    The folder has to be named: jupyter_client's default is a relative name, so that two kernels with the same working
    folder would talk on the same sockets.
    """
    from traitlets.config import Config

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory(prefix="paramem-", ignore_cleanup_errors=True) as folder:
        yield Config({"KernelManager": {"transport": "ipc", "ip": os.path.join(folder, "k")}})  # noqa: PTH118
