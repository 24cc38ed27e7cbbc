"""The runner: what is done is never lost or repeated, what failed is never taken for done, bad input stops it early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from conftest import DEMO, edit_json, enter, make_checkout, put_notebook
from paramem import fingerprints, runner
from paramem.errors import BadInput, BadParameter, Unwritable
from paramem.parameters import read_parameters
from paramem.plan import Request, Run, plan, read_cells
from paramem.project import Project
from paramem.runner import Batch, Finished, cached, execute, folder_of

HEAD = """\
    # ---
    # jupyter:
    #   kernelspec:
    #     display_name: Python 3 (ipykernel)
    #     language: python
    #     name: python3
    # ---

"""
WORKS = HEAD + "    # %%\n    1 + 1\n"
FAILS = HEAD + "    # %%\n    1 / 0\n"
SLEEPS = HEAD + "    # %%\n    import time\n    time.sleep(600)\n"
# kills its own kernel at the first try and finishes at the second, which a file tells apart
DIES_ONCE = (
    HEAD
    + """\
    # %%
    import os, pathlib, signal
    mark = pathlib.Path("died")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""
)
DIES = HEAD + "    # %%\n    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path, dict[str, Finished]]:
    """One real batch with a run of every fate."""
    project = make_checkout(tmp_path_factory.mktemp("batch") / "check {out}")  # papermill formats braces in paths
    for name, source in {
        "good": DEMO, "fails": FAILS, "sleeps": SLEEPS, "dies-once": DIES_ONCE, "dies": DIES
    }.items():  # fmt: skip
        put_notebook(project, source, name)
    with pytest.MonkeyPatch.context() as patch:
        enter(project, patch)
        out = project.root / "runs"
        seen: list[tuple[int, int]] = []
        runs = {run.notebook: run for run in plan(Request(), project)}
        slow = [runs.pop("sleeps")]
        with ThreadPoolExecutor() as pool:
            stopped = pool.submit(execute, slow, project, project.root / "slow", timeout=15)
            done = execute(
                list(runs.values()), project, out, jobs=4, timeout=120, watch=lambda b: seen.extend(b.active.values())
            )
            finished = [*done.finished, *stopped.result().finished]
    assert any(total for _, total in seen), "the display never learned how many cells there are"
    return project, out, {each.run.notebook: each for each in finished}


def test_a_good_run_is_done_and_carries_its_claims(batch: tuple[Project, Path, dict[str, Finished]]) -> None:
    good = batch[2]["good"]
    assert good.status == "ok"
    assert good.outcomes["doe2022facts.works"].holds
    assert good.outcomes["doe2022facts.works"].measured == {"success": 0.95}
    assert (good.folder / "output.ipynb").is_file()


def test_an_exception_is_a_failure_with_its_cell_and_message(batch: tuple[Project, Path, dict[str, Finished]]) -> None:
    fails = batch[2]["fails"]
    assert (fails.status, fails.done) == ("failed", False)
    assert fails.problem.startswith("cell 1: ZeroDivisionError")
    assert (fails.folder / "failed.ipynb").is_file()
    assert not (fails.folder / "output.ipynb").exists()


def test_a_killed_kernel_gets_one_more_try(batch: tuple[Project, Path, dict[str, Finished]]) -> None:
    assert batch[2]["dies-once"].status == "ok"
    assert batch[2]["dies"].status == "killed"
    assert "the kernel died" in batch[2]["dies"].problem


def test_a_timeout_takes_the_kernel_down_too(batch: tuple[Project, Path, dict[str, Finished]]) -> None:
    assert batch[2]["sleeps"].status == "timeout"
    assert "--timeout" in batch[2]["sleeps"].problem
    folder = str(batch[2]["sleeps"].folder)
    assert not [p for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or ())]


def test_only_the_done_runs_are_cached(batch: tuple[Project, Path, dict[str, Finished]]) -> None:
    project, out, finished = batch
    again = {run.notebook: run for run in plan(Request(), project)}
    known = {name: cached(run, folder_of(run, out)) is not None for name, run in again.items()}
    assert known == {"good": True, "fails": False, "sleeps": False, "dies-once": True, "dies": False}
    assert all(again[name].key == finished[name].run.key for name in again)


@pytest.mark.parametrize("damage", ["output", "key", "status", "cut off", "gone"])
def test_a_damaged_result_is_run_again(
    batch: tuple[Project, Path, dict[str, Finished]], damage: str, tmp_path: Path
) -> None:
    run, folder = batch[2]["good"].run, batch[2]["good"].folder
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("output.ipynb", "result.json"):
        (copy / name).write_bytes((folder / name).read_bytes())
    assert cached(run, copy) is not None
    if damage == "output":
        (copy / "output.ipynb").write_bytes(b"{}")
    elif damage == "cut off":
        (copy / "result.json").write_text((copy / "result.json").read_text()[:-20])
    elif damage == "gone":
        (copy / "output.ipynb").unlink()
    else:
        edit_json(copy / "result.json", lambda data: data.update({damage: "other"}))
    assert cached(run, copy) is None


def test_a_child_that_says_it_is_done_but_exits_badly_is_not_believed(demo: Project, tmp_path: Path) -> None:
    put_notebook(demo)
    [run] = plan(Request(), demo)
    (tmp_path / "output.ipynb").write_text("{}")
    digest = runner.file_hash(tmp_path / "output.ipynb")
    result = {"status": "ok", "key": run.key, "seconds": 1, "claims": [], "error": None, "output_sha256": digest}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert runner._judge(run, 0, tmp_path).status == "ok"
    assert runner._judge(run, 1, tmp_path).status == "failed"
    assert runner._judge(run, -9, tmp_path).status == "killed"


def key_of(project: Project, **request: object) -> str:
    runner_caches_off()
    return plan(Request(**request), project)[0].key  # type: ignore[arg-type]


def runner_caches_off() -> None:
    for function in (fingerprints.library_hash, fingerprints.model_hash, fingerprints._file_hash):
        function.cache_clear()


def test_the_key_follows_everything_a_run_depends_on_and_nothing_else(demo: Project) -> None:
    path = put_notebook(demo)
    before = key_of(demo)
    edit_json(path, lambda data: data["cells"][-1].update(outputs=[], execution_count=7, id="another"))
    assert key_of(demo) == before, "outputs and ids do not matter"
    assert key_of(demo, parameters={"success": "0.95"}) == before, "the default, said aloud, is the default"

    changes = [key_of(demo, parameters={"success": "0.2"}), key_of(demo, model="bed-b"), key_of(demo, seeds=(3,))]
    edit_json(path, lambda data: data["cells"][-1].update(source="pass"))
    changes.append(key_of(demo))
    (demo.testbeds / "bed-a" / "model.safetensors").write_bytes(b"weights")
    changes.append(key_of(demo))
    (demo.library / "module.py").write_text("x = 1")
    changes.append(key_of(demo))
    (demo.testbeds / "bed-b" / "model.safetensors").write_bytes(b"weights")
    assert key_of(demo) == changes[-1], "another model's weights do not matter"
    assert len({before, *changes}) == len(changes) + 1


def test_declared_inputs_are_part_of_the_key(demo: Project) -> None:
    put_notebook(demo)
    listed = demo.taxonomy / "notebooks.yaml"
    listed.write_text(listed.read_text() + "    inputs: [data/*.json]\n")
    before = key_of(demo)
    (demo.root / "data").mkdir()
    (demo.root / "data" / "facts.json").write_text("[]")
    assert key_of(demo) != before


def test_a_path_is_the_users_and_its_content_part_of_the_key(demo: Project) -> None:
    put_notebook(demo, DEMO.replace("seed: int = 0", 'seed: int = 0\n    dataset: str = "world"'))
    (demo.root / "facts.json").write_text("[]")
    (demo.root / "world").mkdir()
    first = plan(Request(parameters={"dataset": "facts.json"}), demo)[0]
    assert first.parameters["dataset"] == str(demo.root.resolve() / "facts.json")
    runner_caches_off()
    (demo.root / "facts.json").write_text("[1]")
    assert plan(Request(parameters={"dataset": "facts.json"}), demo)[0].key != first.key
    assert plan(Request(parameters={"dataset": "world"}), demo)[0].parameters["dataset"] == "world", "a word is a word"
    assert plan(Request(model="bed-b"), demo)[0].testbed == "bed-b"


def test_profiles_and_sweeps(demo: Project) -> None:
    put_notebook(demo)
    assert [run.testbed for run in plan(Request(), demo)] == ["bed-a"]
    full = plan(Request(profile="full"), demo)
    assert [(run.testbed, run.canonical) for run in full] == [("bed-a", True), ("bed-b", True)]
    assert full[1].parameters == {"profile": "full", "model": "bed-b"}
    swept = plan(Request(profile="full", seeds=(0, 1, 2)), demo)
    assert len(swept) == 6
    assert not any(run.canonical for run in swept)
    assert len({run.label for run in full + swept}) == 8, "every run has a folder of its own"
    with pytest.raises(BadParameter, match="-p model="):
        plan(Request(profile="paper"), demo)
    assert plan(Request(profile="paper", parameters={"model": "gpt2-xl"}), demo)[0].testbed == "gpt2-xl"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"parameters": {"sucess": "0.2"}}, "no parameter 'sucess'. Did you mean success?.*seed: int = 0"),
        ({"parameters": {"seed": "many"}}, "seed='many': expected int"),
        ({"parameters": {"seed": "1.5"}}, "expected int"),
        ({"parameters": {"seed": "True"}}, "expected int"),
        ({"parameters": {"success": "[1]"}}, "expected float"),
        ({"profile": "fast"}, "choose one of default, full, paper"),
        ({"notebooks": ("editing/demmo",)}, "Did you mean editing/demo"),
        ({"parameters": {"profile": "full"}}, "use --profile"),
        ({"model": "bed-a", "parameters": {"model": "bed-b"}}, "two models"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(demo: Project, request_: dict, message: str) -> None:
    put_notebook(demo)
    with pytest.raises(BadInput, match=message):
        plan(Request(**request_), demo)


def test_types_of_parameters() -> None:
    cell = {
        "cell_type": "code",
        "metadata": {"tags": ["parameters"]},
        "source": "a: int = 1\nb: float = 1\nc: list[int] = [1]\nd: str | None = None\n"
        "e = True\nf: tuple[str, ...] = ()",
    }
    known = read_parameters([cell], "here")
    assert known["b"].read("3") == 3.0
    assert isinstance(known["b"].read("3"), float)
    assert known["c"].read("[1, 2]") == [1, 2]
    assert known["d"].read("None") is None
    assert known["d"].read("x") == "x"
    assert known["e"].read("false") is False
    assert known["f"].read("('x',)") == ("x",)
    for name, wrong in {"a": "x", "b": "True", "c": "['x']", "e": "1", "f": "(1,)"}.items():
        with pytest.raises(BadParameter, match=name):
            known[name].read(wrong)
    assert read_parameters([], "here") == {}
    for source in ("a = b", "import os", "a = [", "a: Undefined = 1"):
        with pytest.raises(BadInput, match="parameters cell"):
            read_parameters([cell | {"source": source}], "here")
    with pytest.raises(BadInput, match="2 cells"):
        read_parameters([cell, cell], "here")


def test_a_notebook_is_found_by_name_and_by_path(demo: Project) -> None:
    path = put_notebook(demo)
    for wanted in ("editing/demo", "notebooks/editing/demo.ipynb", str(path), str(path.with_suffix(".py"))):
        assert [run.notebook for run in plan(Request(notebooks=(wanted,)), demo)] == ["editing/demo"]


def test_a_model_applies_to_notebooks_that_take_one(demo: Project) -> None:
    put_notebook(demo)
    put_notebook(demo, FAILS, "other")
    assert [run.notebook for run in plan(Request(model="bed-b"), demo)] == ["editing/demo"]
    with pytest.raises(BadParameter, match="other has no parameter 'model'"):
        plan(Request(notebooks=("other",), model="bed-b"), demo)


def test_a_sweep_over_all_notebooks_goes_over_those_that_take_its_parameters(demo: Project) -> None:
    put_notebook(demo)
    put_notebook(demo, FAILS, "other")
    sweeps = [{"parameters": {"success": "0.2"}}, {"seeds": (1,)}, {"parameters": {"success": "0.2"}, "seeds": (1,)}]
    for sweep in sweeps:
        assert [run.notebook for run in plan(Request(**sweep), demo)] == ["editing/demo"]  # type: ignore[arg-type]
        with pytest.raises(BadParameter, match="other has no parameter"):
            plan(Request(notebooks=("other",), **sweep), demo)  # type: ignore[arg-type]
    assert len(plan(Request(), demo)) == 2, "the control: nothing is asked for, nothing is skipped"
    with pytest.raises(BadParameter, match=r"other.* has no parameter 'sucess'. Did you mean success"):
        plan(Request(parameters={"sucess": "0.2"}), demo)
    put_notebook(demo, FAILS.replace("# %%", '# %% tags=["parameters"]\n    depth: int = 1\n\n    # %%'), "deep")
    with pytest.raises(BadParameter, match="no notebook has all of the parameters success, depth"):
        plan(Request(parameters={"success": "0.2", "depth": "2"}), demo)


def test_the_device_is_part_of_the_key(demo: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    put_notebook(demo)
    keys = {}
    for kind in ("cpu", "cuda", "cpu"):
        monkeypatch.setattr(fingerprints, "device_kind", lambda kind=kind: kind)
        keys.setdefault(kind, set()).add(key_of(demo))
    assert [len(each) for each in keys.values()] == [1, 1]
    assert keys["cpu"] != keys["cuda"]


def test_hidden_devices_count_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([self / "nvidia0"]))
    for value, kind in {"": "cpu", "-1": "cpu", "0": "cuda", "0,1": "cuda"}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert fingerprints.device_kind() == kind
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert fingerprints.device_kind() == "cuda"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([]))
    assert fingerprints.device_kind() == "cpu"


def test_what_goes_wrong_around_one_run_fails_that_run_alone(demo: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    put_notebook(demo, WORKS, "a-bad")
    put_notebook(demo, WORKS, "b-good")
    clear = runner._clear

    def full_disk(folder: Path) -> None:
        if "a-bad" in folder.parts:
            raise OSError(28, "No space left on device")
        clear(folder)

    monkeypatch.setattr(runner, "_clear", full_disk)
    seen: list[Batch] = []
    batch = execute(plan(Request(), demo), demo, demo.root / "runs", timeout=120, watch=seen.append)
    assert [(each.run.notebook, each.status) for each in batch.finished] == [("a-bad", "failed"), ("b-good", "ok")]
    assert "OSError: [Errno 28] No space left" in batch.finished[0].problem
    assert batch.active == {}
    assert seen


def test_an_error_while_a_child_runs_takes_the_child_down(demo: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    put_notebook(demo, SLEEPS, "sleeps")

    def unreadable(log: Path) -> tuple[int, int]:
        raise PermissionError(13, "not readable")

    monkeypatch.setattr(runner, "_cells_done", unreadable)
    [finished] = execute(plan(Request(), demo), demo, demo.root / "runs", timeout=60).finished
    assert finished.status == "failed"
    assert not [child for child in psutil.Process().children(recursive=True) if "worker" in " ".join(child.cmdline())]


def test_two_batches_cannot_share_a_folder(demo: Project, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    out.mkdir()
    code = "import sys, pathlib; from paramem.runner import _alone\n"
    code += "with _alone(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Unwritable, match=rf"in use by another paramem run, process {other.pid}\..*--out"):
            execute([], demo, out)
        execute([], demo, tmp_path / "elsewhere")
        other.kill()
    execute([], demo, out)  # the control: the lock went with its process


def test_an_unwritable_folder_stops_before_any_work(demo: Project) -> None:
    put_notebook(demo)
    (demo.root / "file").write_text("")
    started = time.monotonic()
    with pytest.raises(Unwritable, match=r"file.*--out"):
        execute(plan(Request(), demo), demo, demo.root / "file" / "runs")
    assert time.monotonic() - started < 1


def test_what_is_not_a_notebook_is_said_so(demo: Project) -> None:
    path = demo.notebook_path("broken")
    path.write_text('{"cells": [')
    with pytest.raises(BadInput, match=r"broken.ipynb is not a notebook"):
        read_cells(path)


def test_ctrl_c_keeps_what_is_finished_and_kills_the_rest(demo: Project) -> None:
    put_notebook(demo, WORKS, "a-good")
    put_notebook(demo, SLEEPS, "b-sleeps")
    command = [sys.executable, "-m", "paramem", "run", "--out", "runs"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = demo.root / "runs/b-sleeps/run/log.txt"
    deadline = time.monotonic() + 60
    children: list[psutil.Process] = []
    while not (log.is_file() and len(children) >= 2) and time.monotonic() < deadline:
        time.sleep(0.1)
        children = psutil.Process(child.pid).children(recursive=True)
    os.kill(child.pid, signal.SIGINT)
    text, _ = child.communicate(timeout=20)
    assert child.returncode == 130, text
    assert "1 of 2 runs are done and kept" in text
    assert len(children) >= 2, "a worker and its kernel were never seen"
    psutil.wait_procs(children, timeout=5)
    assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    runs = {run.notebook: run for run in plan(Request(), demo)}
    assert cached(runs["a-good"], folder_of(runs["a-good"], demo.root / "runs")) is not None
    assert cached(runs["b-sleeps"], folder_of(runs["b-sleeps"], demo.root / "runs")) is None


def test_a_forced_run_that_is_cut_off_leaves_the_old_result(executed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    [run] = plan(Request(), executed)
    out = executed.root / "runs"
    folder = folder_of(run, out)
    folder.mkdir(parents=True)
    (folder / "output.ipynb").write_text("{}")
    digest = runner.file_hash(folder / "output.ipynb")
    result = {"status": "ok", "key": run.key, "seconds": 1, "claims": [], "error": None, "output_sha256": digest}
    (folder / "result.json").write_text(json.dumps(result))
    cut_off = execute([run], executed, out, timeout=0.01, force=True)
    assert cut_off.finished[0].status == "timeout"
    assert cached(run, folder) is not None


def test_a_second_batch_repeats_nothing(batch: tuple[Project, Path, dict[str, Finished]]) -> None:
    project, out, finished = batch
    runs = [run for run in plan(Request(), project) if run.notebook in ("good", "dies-once")]
    started = time.monotonic()
    second = execute(runs, project, out, timeout=60)
    assert [each.status for each in second.finished] == ["cached", "cached"]
    assert time.monotonic() - started < 1
    assert {each.run.notebook: each.outcomes for each in second.finished} == {
        name: finished[name].outcomes for name in ("good", "dies-once")
    }


def test_batches_hold_runs_not_their_values() -> None:
    """Two runs with equal fields are two runs: a batch tracks each by itself."""
    fields = {"notebook": "a", "source": Path("a"), "parameters": {}, "testbed": "", "label": "x", "key": "k"}
    first, second = Run(**fields, canonical=True), Run(**fields, canonical=True)
    assert first != second
    assert len({first: 1, second: 2}) == 2
    assert Batch(total=2).finished == []
