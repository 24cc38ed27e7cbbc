"""The child process of one run: ``python -m paramem.worker JOB.json``.

Papermill's own account of a run cannot be trusted (after a kernel's death its output claims that every cell completed),
so success means one thing only: `execute_notebook` returned. Then the output moves into place, and then the result
file, which carries the output's hash. The parent believes nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from paramem.claims import claims_in
from paramem.errors import BadInput
from paramem.fingerprints import file_hash
from paramem.kernels import kernel_config
from paramem.results import write_atomically

OUTPUT, RESULT, FAILED, LOG = "output.ipynb", "result.json", "failed.ipynb", "log.txt"


def work(job: dict[str, Any]) -> int:
    """Execute one notebook and write its result file; 0 when it ran to its end.

    Args:
        job: ``notebook`` (file), ``folder`` (of the results), ``parameters``, ``key``.
    """
    folder = Path(job["folder"])
    part = folder / f".{os.getpid()}.part.ipynb"
    started = time.monotonic()
    try:
        _execute(Path(job["notebook"]), part, job["parameters"])
        found = claims_in(json.loads(part.read_text(encoding="utf-8")), job["name"])
        error = None
    except Exception as problem:  # whatever a notebook raises is this run's result
        found, error = {}, _explain(problem)
    result = {
        "status": "failed" if error else "ok",
        "key": job["key"],
        "seconds": round(time.monotonic() - started, 1),
        "claims": [outcome.to_json() for outcome in found.values()],
        "error": error,
    }
    if part.exists():
        target = folder / (FAILED if error else OUTPUT)
        part.replace(target)
        result["output_sha256"] = file_hash(target)
    write_atomically(folder / RESULT, json.dumps(result, indent=1) + "\n")
    return 1 if error else 0


def _execute(notebook: Path, output: Path, parameters: dict[str, Any]) -> None:
    import papermill

    with kernel_config() as config:
        papermill.execute_notebook(
            _literal(notebook),
            _literal(output),
            parameters=parameters,
            cwd=str(notebook.parent),
            kernel_name="python3",
            config=config,
            progress_bar={"mininterval": 0, "disable": False},  # the parent reads "3/7" off the log
        )


def _literal(path: Path) -> str:
    """The path for papermill, which formats paths like templates."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _explain(problem: Exception) -> dict[str, Any]:
    """What a user needs of an exception: its name, its message, the cell, and whether a second try may help."""
    name = getattr(problem, "ename", type(problem).__name__)
    message = str(getattr(problem, "evalue", problem)).strip()
    if type(problem).__name__ == "DeadKernelError":
        message = "the kernel died (out of memory, or killed)"
    return {
        "name": name,
        "message": message[-2000:],
        "cell": getattr(problem, "exec_count", None),
        "killed": type(problem).__name__ == "DeadKernelError",
        "bad_input": isinstance(problem, BadInput),
    }


if __name__ == "__main__":
    sys.exit(work(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
