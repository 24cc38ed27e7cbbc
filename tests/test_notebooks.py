"""Committed notebooks: what strict nbval sees (a changed digit, a flipped claim) and what it does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from conftest import DEMO, ROOT, edit_json, put_notebook
from paramem.checks import check_project
from paramem.claims import MIME
from paramem.errors import BadInput
from paramem.notebooks import check_notebook, execute_in_place, refresh, selected, sync
from paramem.project import Project
from paramem.taxonomy import load_taxonomy


def found(project: Project) -> list[str]:
    return [finding.what for finding in check_notebook(project, "editing/demo", load_taxonomy(project))]


def code(data: Any) -> list[Any]:
    return [cell for cell in data["cells"] if cell["cell_type"] == "code"]


def nbval(path: Path) -> subprocess.CompletedProcess[str]:
    """Strict nbval as `make test-notebooks` calls it."""
    options = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(ROOT / "tests/nbval.cfg")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=path.parent, timeout=120)


def flip_holds(data: Any) -> None:
    bundle = code(data)[-1]["outputs"][0]["data"]
    bundle[MIME]["holds"] = False
    bundle["text/plain"] = ["doe2022facts.works: does not hold (success = 0.95)"]


def change_digit(data: Any) -> None:
    code(data)[2]["outputs"][0]["text"] = ["0.96\n"]


def test_an_executed_notebook_passes_and_tampered_ones_do_not(executed: Project) -> None:
    """The control and both tamperings in one go: executing is what costs time."""
    folder = executed.notebooks / "editing"
    tampered = folder / "tampered.ipynb"
    tampered.write_text((folder / "demo.ipynb").read_text())
    edit_json(tampered, change_digit)
    edit_json(tampered, flip_holds)
    result = nbval(folder)
    failed = re.findall(r"^FAILED .*?(\w+\.ipynb)::Cell (\d+)", result.stdout, re.M)
    assert failed == [("tampered.ipynb", "2"), ("tampered.ipynb", "3")], result.stdout
    assert result.returncode == 1


def test_an_executed_checkout_has_no_findings(executed: Project) -> None:
    assert [each for each in map(str, check_project(executed)) if "method" not in each] == []


def test_changed_inputs_and_claims_are_found(executed: Project) -> None:
    listed, entries = executed.taxonomy / "notebooks.yaml", executed.taxonomy / "editing.yaml"
    (executed.root / "data.json").write_text("[]")
    (executed.root / "other.json").write_text("[]")
    assert found(executed) == [], "the control: files that are not declared do not matter"
    before = listed.read_text()
    listed.write_text(before + "    inputs: [data*.json]\n")
    assert any("inputs" in text and "make notebooks ARGS=editing/demo" in text for text in found(executed))
    assert [seconds is None for _, seconds in refresh(executed, [], stale_only=True)] == [False]
    assert found(executed) == []
    assert [seconds is None for _, seconds in refresh(executed, [], stale_only=True)] == [True]
    (executed.root / "other.json").write_text("[1]")
    assert found(executed) == []
    (executed.root / "data.json").write_text("[1]")
    assert any("its inputs" in text for text in found(executed))
    (executed.root / "data.json").write_text("[]")
    assert found(executed) == []
    entries.write_text(entries.read_text().replace("The box keeps a fact.", "The box loses a fact."))
    assert any("its claims in taxonomy/" in text for text in found(executed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_holds, "results/editing/demo.json disagree"),
        (lambda data: code(data)[-1].update(outputs=[]), "does not state doe2022facts.works"),
        (lambda data: code(data)[0].update(execution_count=None), "execution counts are [None, 2, 3, 4]"),
        (lambda data: code(data)[1].update(execution_count=7), "execution counts are [1, 7, 3, 4]"),
        (lambda data: [cell.update(outputs=[], execution_count=None) for cell in code(data)], "execution counts"),
        (lambda data: code(data)[2].update(source=["1 + 1"]), "differs from its .py half"),
        (lambda data: code(data)[2].update(source=["1 + 1"]), "its code changed after it was executed"),
        (
            lambda data: code(data)[2]["outputs"].append(
                {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
            ),
            "stores an error: ValueError: no",
        ),
        (lambda data: code(data)[2]["outputs"][0].update(text=["/home/me/x.txt\n"]), "a path of one machine: /home/me"),
        (lambda data: code(data)[2]["outputs"][0].update(text=["hf_" + "a" * 30]), "access token: hf_aaa..."),
        (lambda data: data["metadata"]["paramem"].pop("inputs"), "make notebooks ARGS=editing/demo"),
        (lambda data: data["metadata"]["kernelspec"].update(display_name="conda"), "kernelspec is not"),
        (lambda data: code(data)[2].pop("outputs"), "not a valid notebook"),
        (lambda data: data["cells"][1].update(id=data["cells"][0]["id"]), "not a valid notebook"),
        (lambda data: data["metadata"].update(padding="x" * 1_000_000), "more than 1,000,000"),
    ],
)
def test_what_nbval_lets_pass_is_found(executed: Project, change: Callable[[Any], None], message: str) -> None:
    assert found(executed) == [], "the control"
    edit_json(executed.notebook_path("editing/demo"), change)
    assert any(message in text for text in found(executed)), found(executed)


def test_an_image_may_spell_anything(executed: Project) -> None:
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "AA/home/meAA=="}}
    edit_json(executed.notebook_path("editing/demo"), lambda data: code(data)[2]["outputs"].append(picture))
    assert found(executed) == []


def test_a_claim_needs_its_results(executed: Project) -> None:
    executed.results_path("editing/demo").unlink()
    assert any("has claims and no results/editing/demo.json" in text for text in found(executed))


def test_a_pair_without_its_source_is_found(executed: Project) -> None:
    executed.notebook_path("editing/demo").with_suffix(".py").unlink()
    assert "has no .py half" in found(executed)


def test_sync_goes_one_way_and_keeps_outputs_and_ids(executed: Project) -> None:
    path = executed.notebook_path("editing/demo")
    before = nbformat.read(path, as_version=4)
    source = path.with_suffix(".py")
    source.write_text(source.read_text().replace("# # A demonstration", "# # Another title"))
    assert sync(executed, []) == ["editing/demo"]
    after = nbformat.read(path, as_version=4)
    assert after.cells[0].source == "# Another title"
    assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]
    assert [cell.get("outputs") for cell in after.cells] == [cell.get("outputs") for cell in before.cells]
    assert found(executed) == [], "prose may change without running again"
    assert sync(executed, []) == []


def test_executing_twice_gives_the_same_bytes(executed: Project) -> None:
    path = executed.notebook_path("editing/demo")
    before = path.read_bytes()
    assert [seconds for _, seconds in refresh(executed, [], stale_only=True)] == [None]
    execute_in_place(path, timeout=60)
    assert path.read_bytes() == before


def test_a_notebook_that_raises_is_left_as_it_was(executed: Project) -> None:
    path = executed.notebook_path("editing/demo")
    source = path.with_suffix(".py")
    source.write_text(source.read_text().replace('print(f"{success:.2f}")', "1 / 0"))
    sync(executed, [])
    before = path.read_bytes()
    with pytest.raises(BadInput, match="ZeroDivisionError"):
        execute_in_place(path, timeout=60)
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_selecting_notebooks(demo: Project) -> None:
    put_notebook(demo)
    assert selected(demo, ["notebooks/editing/demo.ipynb"]) == ["editing/demo"]
    with pytest.raises(BadInput, match=r"no notebook 'nothing'; there are: editing/demo"):
        selected(demo, ["nothing"])
    demo.notebook_path("other").write_text(
        json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    with pytest.raises(BadInput, match=r"has no \.py half"):
        sync(demo, ["other"])


def test_every_notebook_of_this_repository_can_be_run_with_parameters(repository: Project) -> None:
    from paramem.fresh import is_fresh
    from paramem.parameters import read_parameters
    from paramem.plan import read_cells

    taxonomy = load_taxonomy(repository)
    for name in taxonomy.notebooks:
        known = read_parameters(read_cells(repository.notebook_path(name)), name)
        if taxonomy.testbeds_of(name):
            drawn = is_fresh(str(known["model"].default))  # its name says the seed
            assert {"model", "profile"} | (set() if drawn else {"seed"}) <= known.keys(), f"{name}: parameters cell"
            assert known["model"].default == taxonomy.testbeds_of(name)[0], f"{name}: the default testbed leads its set"


def test_the_demo_is_what_the_other_tests_assume() -> None:
    assert "success: float = 0.95" in DEMO
