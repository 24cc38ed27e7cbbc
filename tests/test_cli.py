"""The command as its user meets it: what it prints, its exit codes, errors as messages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import BEDS, ROOT, Result, put_notebook
from paramem import cli
from paramem.plan import Request, plan, tour_of
from paramem.project import Project
from paramem.results import read_results


def test_the_installed_command_is_this_one(demo: Project) -> None:
    """Once as a real process: the entry point, the exit code, no traceback."""
    put_notebook(demo)
    command = [str(Path(sys.executable).with_name("paramem")), "run", "-p", "sucess=1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "Did you mean success?" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_the_help_names_every_command(paramem: Callable[..., Result]) -> None:
    text = paramem("--help").stdout
    for name in ("run", "papers", "show", "check", "notebooks", "sync", "testbeds", "site", "lab"):
        assert f" {name} " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-p", "sucess=1"], "Did you mean success?"),
        (["run", "-p", "seed=many"], "expected int"),
        (["run", "-p", "novalue"], "write name=value"),
        (["run", "-p", "seed=1", "-p", "seed=2"], "given twice"),
        (["run", "--seeds", "a-b"], "write numbers"),
        (["run", "--profile", "fast"], "default, full, paper"),
        (["run", "--profile", "paper"], "-p model=gpt2-xl"),
        (["run", "nothing"], "no notebook 'nothing'"),
        (["run", "--out", "README.md/runs"], "cannot write results below README.md/runs"),
        (["run", "-j", "0"], "at least one"),
        (["show", "--format", "pdf"], "table, json or markdown"),
        (["notebooks", "nothing"], "no notebook 'nothing'"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_two(
    demo: Project, paramem: Callable[..., Result], arguments: list[str], message: str
) -> None:
    put_notebook(demo)
    result = paramem(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert not (demo.root / "runs").exists(), "nothing was started"


def test_a_full_run_writes_results_and_a_default_run_agrees(demo: Project, paramem: Callable[..., Result]) -> None:
    """One testbed is no verdict, two are; a default run agrees with them until the notebook says something else."""
    put_notebook(demo)
    one = paramem("run")
    assert one.returncode == 0, one.stdout + one.stderr
    [line] = json.loads((demo.root / "runs/scoreboard.json").read_text())["claims"]
    assert (line["holds"], line["verdict"]) == ("", "")
    assert "not measured on all testbeds" in (demo.root / "runs/scoreboard.md").read_text()
    assert "reproduced" not in (demo.root / "runs/scoreboard.md").read_text() + one.stdout

    full = paramem("run", "--profile", "full", "--jobs", "2")
    assert full.returncode == 0, full.stdout + full.stderr
    assert "nothing committed to compare with" in full.stdout
    results = read_results(demo.results_path("editing/demo"))
    assert results is not None
    assert (results.profile, tuple(results.seconds)) == ("full", BEDS)
    assert results.claims["doe2022facts.works"].k == 2
    assert set(results.versions) >= {"python", "torch"}
    assert "**reproduced**" in (demo.root / "runs/scoreboard.md").read_text()

    default = paramem("run")
    assert default.returncode == 0, default.stdout
    assert "1 runs, 1 claims, all as committed" in default.stdout
    assert "bed-a: holds" in default.stdout
    assert "cached" in default.stdout, "what ran before there were results to compare with is not run again"
    data = json.loads((demo.root / "runs/scoreboard.json").read_text())
    assert data["claims"][0]["holds"] == "2 of 2"
    assert data["changes"] == []

    flipped = paramem("run", "--out", "[red]other[", "-p", "success=0.1")
    assert flipped.returncode == 0, "another experiment is not compared"
    assert "Executed notebooks: [red]other[" in flipped.stdout, "a folder's name is text, and no markup"
    source = demo.notebook_path("editing/demo").with_suffix(".py")
    source.write_text(source.read_text().replace("success > 0.5", "success > 0.99"))
    assert paramem("sync").stdout == "updated editing/demo\n"
    changed = paramem("run")
    assert changed.returncode == 1
    assert "was 'holds', is now 'does not hold'" in changed.stdout


def test_show_papers_and_check(executed: Project, paramem: Callable[..., Result]) -> None:
    assert "reproduced" in paramem("show").stdout
    assert json.loads(paramem("show", "--format", "json").stdout)["claims"][0]["verdict"] == "reproduced"
    assert "| **reproduced** |" in paramem("show", "--format", "markdown").stdout
    assert "Doe and Roe 2022. Facts in a Box" in paramem("papers").stdout
    assert "no paper matches 'zebra'" in paramem("papers", "zebra").stdout
    executed.readme.write_text(executed.readme.read_text().replace("1 reproduced", "2 reproduced"))
    stale = paramem("check")
    assert stale.returncode == 1
    assert "README.md: it is stale; run: paramem show --write" in stale.stderr
    assert paramem("show", "--write").returncode == 0
    assert "README.md" not in paramem("check").stderr


FOREIGN = "Facts [/] in [red]a[/red] :key: [bold"


def test_foreign_text_is_printed_as_it_stands(demo: Project, paramem: Callable[..., Result]) -> None:
    """Markup in a title, a summary, a search or an error is text; unescaped, '[/]' raises and [red] is gone. A notebook
    that fails is exit code one, and its error is said."""
    from rich.console import Console
    from rich.errors import MarkupError

    with pytest.raises(MarkupError):
        Console().print(FOREIGN)  # the control
    demo.bib.write_text(demo.bib.read_text().replace("Facts in a {Box}", FOREIGN))
    entries = demo.taxonomy / "editing.yaml"
    entries.write_text(entries.read_text().replace("The box keeps a fact.", f"'{FOREIGN}'"))
    tree = demo.taxonomy / "taxonomy.yaml"
    tree.write_text(tree.read_text().replace("title: Locate, then edit", f"title: '{FOREIGN}'"))
    put_notebook(demo)
    listed = paramem("papers", "--claims")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count(FOREIGN) == 3, listed.stdout
    assert "no paper matches '[/]x'" in paramem("papers", "[/]x").stdout
    assert FOREIGN in paramem("show", "doe2022facts").stdout
    put_notebook(demo, "# %%\nraise ValueError('[/] no')\n")
    run = paramem("run")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "ValueError: [/] no" in run.stdout


def test_papers_are_listed_in_every_category_with_claims_and_notebooks(
    demo: Project, paramem: Callable[..., Result]
) -> None:
    entries = demo.taxonomy / "editing.yaml"
    assert paramem("papers").stdout.count("[doe2022facts") + paramem("papers").stdout.count("Doe and Roe 2022") == 1
    entries.write_text(entries.read_text().replace("  summary:", "  also: [editing]\n  summary:"))
    text = paramem("papers").stdout
    assert text.count("Doe and Roe 2022") == 2
    within = paramem("papers", "--category", "editing/locate-then-edit").stdout
    assert within.count("Doe and Roe 2022") == 1, "only the category that was asked for"
    assert "notebooks/editing/demo.ipynb" in text
    assert "works (editing/demo)" not in text
    assert "works (editing/demo): The box keeps a fact." in paramem("papers", "--claims").stdout


def test_show_one_paper_says_who_contradicts_it(executed: Project, paramem: Callable[..., Result]) -> None:
    assert "contradict" not in paramem("show", "doe2022facts").stdout
    entries = executed.taxonomy / "editing.yaml"
    text = entries.read_text().replace("      measured:", "      contradicted_by: [roe2023no]\n      measured:")
    text += "roe2023no:\n  category: editing\n  status: survey\n  summary: Against it.\n"
    text += "  contradicts: {doe2022facts: Whether boxes keep facts.}\n"
    entries.write_text(text)
    shown = paramem("show", "doe2022facts").stdout
    assert "reproduced" in shown
    assert "contradicted by roe2023no: Whether boxes keep facts." in shown
    assert "doe2022facts.works is contradicted by roe2023no" in shown
    other = paramem("show", "roe2023no").stdout
    assert "contradicts doe2022facts: Whether boxes keep facts." in other
    assert "reproduced" not in other, "only the paper's own claims"
    assert "*Contradicted by `roe2023no`.*" in paramem("show", "doe2022facts.works", "--format", "markdown").stdout
    wrong = paramem("show", "doe2022fact")
    assert (wrong.returncode, "Did you mean doe2022facts" in wrong.stderr) == (2, True)
    assert paramem("show", "doe2022facts", "--write").returncode == 2


def test_outside_a_checkout_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paramem: Callable[..., Result]
) -> None:
    monkeypatch.setenv("PARAMEM_ROOT", str(tmp_path))
    result = paramem("show")
    assert result.returncode == 2
    assert "set PARAMEM_ROOT" in result.stderr


def test_a_checkout_is_found_from_its_subfolders(demo: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARAMEM_ROOT")
    monkeypatch.chdir(demo.notebooks / "editing")
    assert Project.find().root == demo.root.resolve()
    monkeypatch.chdir("/")
    assert Project.find().root == ROOT, "an editable install knows its own checkout"


def test_the_command_itself_starts_fast() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import paramem.cli;"
        "heavy = {'torch', 'transformers', 'pandas', 'papermill', 'pydantic'} & set(sys.modules);"
        "assert not heavy, heavy; print(time.perf_counter() - start)"
    )
    best = min(float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3))
    assert best < 0.5


def test_seeds_are_read() -> None:
    assert cli._seeds("") == ()
    assert cli._seeds("3") == (3,)
    assert cli._seeds("0-2,7,1") == (0, 1, 2, 7)


def test_a_tour_is_the_notebooks_marked_for_it_unless_some_are_named(repository: Project) -> None:
    marked = plan(Request(notebooks=tour_of(repository)), repository)
    everything = plan(Request(), repository)
    assert 0 < len(marked) < len(everything)
    assert {run.notebook for run in marked} < {run.notebook for run in everything}
    parts = {run.notebook.split("/")[0] for run in everything if "/" in run.notebook}
    assert {run.notebook.split("/")[0] for run in marked if "/" in run.notebook} == parts, "every part is on the tour"


def test_the_tour_is_what_the_taxonomy_marks(demo: Project) -> None:
    listed = demo.taxonomy / "notebooks.yaml"
    assert tour_of(demo) == (), "the control: nothing is marked"
    listed.write_text(listed.read_text().replace("  editing/demo:\n", "  editing/demo:\n    tour: true\n"))
    assert tour_of(demo) == ("editing/demo",)
