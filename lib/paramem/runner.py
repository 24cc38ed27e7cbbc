"""Run notebooks headless: one subprocess each, results kept by content, resumed, timed, interrupted without loss.

A run is done when its folder holds a result file with its key and an output with the hash that the file names;
everything else is run (again). One process at a time works on a folder of results. Threads hand runs to subprocesses of
their own session, so that one dead run harms no other, a timeout can take a whole process tree down, and Ctrl-C reaches
this process alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeAlias

from paramem.claims import Outcome
from paramem.errors import Unwritable
from paramem.fingerprints import file_hash
from paramem.kernels import QUIET
from paramem.plan import Run
from paramem.project import Project
from paramem.results import load_json
from paramem.worker import FAILED, LOG, OUTPUT, RESULT

Status: TypeAlias = Literal["cached", "ok", "failed", "timeout", "killed", "interrupted"]
DONE: frozenset[Status] = frozenset({"cached", "ok"})
TIMEOUTS = {"default": 900.0, "full": 7200.0, "paper": 172_800.0}
LOCK = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # file systems that know no locks: there, none is held
_TRIES = 2
_CELLS = re.compile(rb"(\d+)/(\d+) \[")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What became of one run.

    Attributes:
        seconds: of the execution, also when it is cached.
        problem: one line for a user; empty when it is done.
    """

    run: Run
    status: Status
    seconds: float = 0.0
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    problem: str = ""
    folder: Path

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.status in DONE


@dataclass(kw_only=True)
class Batch:
    """The state of `execute` that a progress display reads: what runs now, and how far (cells done, cells in all)."""

    total: int
    finished: list[Finished] = field(default_factory=list)
    active: dict[Run, tuple[int, int]] = field(default_factory=dict)
    interrupted: bool = False


def folder_of(run: Run, out: Path) -> Path:
    """Where a run's files go."""
    return out.joinpath(*run.notebook.split("/"), run.label)


def check_writable(folder: Path) -> None:
    """Raise Unwritable before any work where ``folder`` cannot be made or written."""
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise Unwritable(
            f"cannot write results below {folder}: {error.strerror or error}. Choose another folder with --out."
        ) from error


def cached(run: Run, folder: Path) -> Finished | None:
    """The finished run with this key in its folder, if the result file and the output agree."""
    result = load_json(folder / RESULT)
    if not isinstance(result, dict) or result.get("status") != "ok" or result.get("key") != run.key:
        return None
    output = folder / OUTPUT
    if not output.is_file() or file_hash(output) != result.get("output_sha256"):
        return None
    return _finished(run, "cached", result, folder)


def execute(
    runs: Sequence[Run],
    project: Project,
    out: Path,
    *,
    jobs: int = 1,
    timeout: float | None = None,
    force: bool = False,
    watch: Callable[[Batch], None] = lambda batch: None,
) -> Batch:
    """Execute the runs that are not done yet.

    Args:
        out: the folder of results.
        jobs: subprocesses at a time.
        timeout: wall seconds for one run.
        force: run also what is done.
        watch: called about twice a second and after every run.

    Returns:
        The batch, ``finished`` in the order of ``runs``. After Ctrl-C or SIGTERM, ``interrupted`` is set and the runs
        that were cut off or never started are marked so; what finished before stays on disk.

    Raises:
        Unwritable: before any work; also where another process is at work in ``out``.
    """
    check_writable(out)
    with _alone(out.resolve()):
        return _execute(runs, project, out.resolve(), jobs, timeout, force, watch)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder's lock: two batches in one folder would clear each other's files away.

    The lock goes with the process that holds it, however that ends; the file stays and says who holds it.
    """
    with (out / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Unwritable(
                f"{out} is in use by another paramem run, process {file.read().strip() or 'unknown'}. "
                "Wait for it, or choose another folder with --out."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise Unwritable(f"cannot lock {out / LOCK}: {error.strerror}") from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _execute(
    runs: Sequence[Run],
    project: Project,
    out: Path,
    jobs: int,
    timeout: float | None,
    force: bool,
    watch: Callable[[Batch], None],
) -> Batch:
    batch = Batch(total=len(runs))
    waiting: list[Run] = []
    for run in runs:
        done = None if force else cached(run, folder_of(run, out))
        batch.finished += [done] if done else []
        waiting += [] if done else [run]
    watch(batch)
    if waiting:
        _execute_waiting(waiting, batch, project, out, jobs, timeout, watch)
    order = {run: position for position, run in enumerate(runs)}
    batch.finished.sort(key=lambda each: order[each.run])
    return batch


def _execute_waiting(
    waiting: Sequence[Run],
    batch: Batch,
    project: Project,
    out: Path,
    jobs: int,
    timeout: float | None,
    watch: Callable[[Batch], None],
) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=jobs) as pool, _interruptible(stop):
        pending: set[Future[Finished]] = {
            pool.submit(_run_one, run, batch, project, folder_of(run, out), timeout, stop) for run in waiting
        }
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            batch.finished += [future.result() for future in done]
            watch(batch)
    batch.interrupted = stop.is_set()


@contextmanager
def _interruptible(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set ``stop`` instead of raising somewhere; only the main thread may install that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run_one(
    run: Run, batch: Batch, project: Project, folder: Path, timeout: float | None, stop: threading.Event
) -> Finished:
    """One run in its subprocess; a second try where the first was killed from outside.

    Whatever goes wrong on this side (a full disk, a result that cannot be read) fails this run alone.
    """
    finished = Finished(run=run, status="interrupted", problem="not started", folder=folder)
    batch.active[run] = (0, 0)
    try:
        for _ in range(_TRIES):
            if stop.is_set():
                break
            finished = _try(run, batch, project, folder, timeout, stop)
            if finished.status != "killed":
                break
    except Exception as error:
        finished = Finished(run=run, status="failed", problem=f"{type(error).__name__}: {error}", folder=folder)
    finally:
        batch.active.pop(run, None)
    return finished


def _try(
    run: Run, batch: Batch, project: Project, folder: Path, timeout: float | None, stop: threading.Event
) -> Finished:
    _clear(folder)
    job = folder / "job.json"
    details = {"name": run.notebook, "notebook": str(run.source), "folder": str(folder), "key": run.key}
    job.write_text(json.dumps(details | {"parameters": dict(run.parameters)}))
    started = time.monotonic()
    with (folder / LOG).open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "paramem.worker", str(job)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(project),
            start_new_session=True,
        )
        try:
            while child.poll() is None and not stop.is_set():
                seconds = time.monotonic() - started
                if timeout is not None and seconds > timeout:
                    problem = f"stopped after {timeout:g} s; allow more with --timeout"
                    return Finished(run=run, status="timeout", seconds=seconds, problem=problem, folder=folder)
                batch.active[run] = _cells_done(folder / LOG)
                time.sleep(0.1)
            if child.poll() is None:
                return Finished(run=run, status="interrupted", problem="cut off", folder=folder)
        finally:
            if child.poll() is None:
                _kill_tree(child)
    return _judge(run, child.returncode, folder)


def _judge(run: Run, code: int, folder: Path) -> Finished:
    """The status of a child that ended: its return value and its result file have to say the same."""
    if code < 0:
        problem = f"the run was killed by {signal.Signals(-code).name}"
        return Finished(run=run, status="killed", problem=problem, folder=folder)
    result = load_json(folder / RESULT) or {}
    done = cached(run, folder) if code == 0 else None
    if done is not None:
        return replace(done, status="ok")
    error = result.get("error")
    if not error or result.get("key") != run.key:
        return Finished(run=run, status="failed", problem=f"exit code {code}; see {folder / LOG}", folder=folder)
    where = "" if error["cell"] is None else f"cell {error['cell']}: "
    return Finished(
        run=run,
        status="killed" if error["killed"] else "failed",
        seconds=result["seconds"],
        problem=f"{where}{error['name']}: {error['message']}",
        folder=folder,
    )


def _finished(run: Run, status: Status, result: Mapping[str, Any], folder: Path) -> Finished:
    outcomes = (Outcome.from_json(payload, run.notebook) for payload in result["claims"])
    return Finished(
        run=run,
        status=status,
        seconds=result["seconds"],
        outcomes={outcome.claim: outcome for outcome in outcomes},
        folder=folder,
    )


def _environment(project: Project) -> dict[str, str]:
    """The child's environment: one thread, no progress bars in outputs, this checkout's files."""
    return QUIET | dict(os.environ) | {"PARAMEM_ROOT": str(project.root)}


def _clear(folder: Path) -> None:
    """Remove what earlier tries left, but keep a finished result until a newer one takes its place."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in [folder / FAILED, *folder.glob(".*.part*")]:
        leftover.unlink(missing_ok=True)
    if (load_json(folder / RESULT) or {}).get("status") != "ok":
        (folder / RESULT).unlink(missing_ok=True)


def _cells_done(log: Path) -> tuple[int, int]:
    """Cells done and in all, as papermill's progress bar last wrote them to the log."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 400))
        found = _CELLS.findall(file.read())
    return (int(found[-1][0]), int(found[-1][1])) if found else (0, 0)


def _kill_tree(child: subprocess.Popen[bytes]) -> None:
    """Kill a child and its kernel. The kernel leads a session of its own, so the group alone would leave it behind."""
    import psutil

    try:
        family = psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    child.wait()
