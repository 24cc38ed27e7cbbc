"""The ``paramem`` command. Every heavy import sits inside the command that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paramem import cli_add, cli_literature
from paramem.cli_literature import console_for
from paramem.errors import BadParameter, ParamemError

if TYPE_CHECKING:
    from rich.console import Console

    from paramem.plan import Run
    from paramem.report import Review
    from paramem.runner import Batch

app = typer.Typer(
    name="paramem",
    help="A living, executable survey of parametric knowledge in language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Names = Annotated[list[str] | None, typer.Argument(help="Notebooks by name (editing/rome) or path; all when none.")]


@app.command()
def run(
    notebooks: Names = None,
    profile: Annotated[
        str, typer.Option(help="default: one testbed; full: all of them; paper: real models.")
    ] = "default",
    parameter: Annotated[list[str] | None, typer.Option("-p", "--parameter", help="name=value, repeatable.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds to sweep, as in 0,1,2 or 0-4.")] = "",
    model: Annotated[str | None, typer.Option(help="A bundled testbed, a local folder or a hub id.")] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", help="Notebooks at a time.")] = 1,
    timeout: Annotated[float | None, typer.Option(help="Wall seconds allowed to one run.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs"),
    force: Annotated[bool, typer.Option("--force/--resume", help="Run also what is done already.")] = False,
    tour: Annotated[bool, typer.Option("--tour", help="With no notebook named: a few of every part.")] = False,
) -> None:
    """Execute notebooks headless and compare their claims with the committed results.

    Exit code 0: all as committed. 1: a notebook failed or a claim changed. 2: bad input. 130: interrupted.
    """
    from paramem.plan import Request, plan, tour_of
    from paramem.project import Project
    from paramem.runner import TIMEOUTS, check_writable, execute

    project, console = Project.find(), console_for()
    request = Request(
        notebooks=tuple(notebooks or (tour_of(project) if tour else ())),
        profile=profile,  # type: ignore[arg-type]  # plan refuses what is no profile
        parameters=_pairs(parameter or []),
        seeds=_seeds(seeds),
        model=model,
    )
    runs = plan(request, project)
    if jobs < 1:
        raise BadParameter(f"--jobs {jobs}: at least one")
    for folder in [out, project.results] if profile == "full" else [out]:
        check_writable(folder)
    limit = timeout if timeout is not None else TIMEOUTS[profile]
    with _Progress(console) as progress:
        batch = execute(runs, project, out, jobs=jobs, timeout=limit, force=force, watch=progress)
    raise typer.Exit(_conclude(batch, profile, runs, project.root, out, console))


def _pairs(given: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise BadParameter(f"-p {text!r}: write name=value")
        if name in pairs:
            raise BadParameter(f"-p {name} is given twice")
        pairs[name] = value
    return pairs


def _seeds(text: str) -> tuple[int, ...]:
    seeds: list[int] = []
    try:
        for part in text.split(",") if text else ():
            first, dash, last = part.partition("-")
            seeds += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        raise BadParameter(f"--seeds {text!r}: write numbers, as in 0,1,2 or 0-4") from None
    return tuple(dict.fromkeys(seeds))


class _Progress:
    """A bar over the runs, and under it what each active run is at; plain lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.total = self.bars.add_task("runs")
        self.tasks: dict[Run, object] = {}
        self.told = 0

    def __enter__(self) -> _Progress:
        self.bars.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.bars.stop()

    def __call__(self, batch: Batch) -> None:
        self.bars.update(self.total, total=batch.total, completed=len(batch.finished))
        for each in batch.finished[self.told :]:
            self.console.print(
                f"{each.status:>11}  {each.run}  {each.seconds:.0f} s  {each.problem}", markup=False, highlight=False
            )
        self.told = len(batch.finished)
        active = dict(batch.active)
        for run in [run for run in self.tasks if run not in active]:
            self.bars.remove_task(self.tasks.pop(run))  # type: ignore[arg-type]
        for run, (cells, total) in active.items():
            if run not in self.tasks:
                self.tasks[run] = self.bars.add_task(f"  {run}", total=None)
            self.bars.update(self.tasks[run], completed=cells, total=total or None)  # type: ignore[arg-type]


def _conclude(batch: Batch, profile: str, runs: list[Run], root: Path, out: Path, console: Console) -> int:
    """Print and write what a batch found; the exit code."""
    import json

    from paramem import report
    from paramem.fingerprints import versions
    from paramem.pages import scoreboard_markdown
    from paramem.project import Project
    from paramem.results import write_atomically, write_results
    from paramem.taxonomy import load_taxonomy

    project = Project(root=root)
    taxonomy = load_taxonomy(project)
    console.print(report.runs_table(batch.finished))
    if batch.interrupted:
        done = sum(each.done for each in batch.finished)
        console.print(
            f"Interrupted: {done} of {len(runs)} runs are done and kept. The same command goes on from there."
        )
        return 130
    review = report.review(batch, profile, taxonomy, project, versions())
    committed = report.committed_results(project)
    # a run that is not written down only says what it found, beside the committed verdict
    counted = {**review.results, **committed, **review.writable}
    now = report.found_now(batch)
    lines = [line for line in report.scores(taxonomy, counted) if line.claim in now]
    if lines:
        console.print(report.scoreboard_table(lines, now, statements=console.width >= 130))
        write_atomically(out / "scoreboard.json", json.dumps(report.scoreboard_json(lines, review), indent=1) + "\n")
        write_atomically(out / "scoreboard.md", scoreboard_markdown(lines) + "\n")
    for name, results in review.writable.items():
        write_results(results, project.results_path(name))
        console.print(f"wrote results/{name}.json", markup=False)
    return _verdict(review, batch, out, console)


def _verdict(review: Review, batch: Batch, out: Path, console: Console) -> int:
    from rich.markup import escape

    for problem in review.problems:
        console.print(f"[red]failed[/]  {escape(problem)}", highlight=False)
    for change in review.changes:
        console.print(f"[red]changed[/] {escape(str(change))}", highlight=False)
    if not review.problems and not review.changes:
        same = f"{review.compared} claims, all as committed" if review.compared else "nothing committed to compare with"
        text = f"{len(batch.finished)} runs, {same}. Executed notebooks: {out}"
        console.print(text, markup=False, highlight=False)
        return 0
    return 1


cli_literature.register(app)
cli_add.register(app)


@app.command()
def check() -> None:
    """Check taxonomy, bibliography, notebooks, results and README against each other."""
    from paramem.checks import check_project
    from paramem.project import Project

    findings = check_project(Project.find())
    for finding in findings:
        typer.echo(str(finding), err=True)
    typer.echo(f"{len(findings)} findings" if findings else "everything agrees")
    raise typer.Exit(1 if findings else 0)


@app.command()
def sync(notebooks: Names = None) -> None:
    """Carry each notebook's .py half over to its .ipynb half; outputs and cell ids stay."""
    from paramem.notebooks import sync as carry_over
    from paramem.project import Project

    for name in carry_over(Project.find(), notebooks or []):
        typer.echo(f"updated {name}")


@app.command()
def notebooks(
    names: Names = None,
    timeout: Annotated[float, typer.Option(help="Seconds allowed to one cell.")] = 300.0,
    stale: Annotated[bool, typer.Option("--stale", help="Only those whose code changed since.")] = False,
) -> None:
    """Execute the committed notebooks in place, so that their outputs belong to their sources."""
    from paramem.notebooks import refresh
    from paramem.project import Project

    for name, seconds in refresh(Project.find(), names or [], timeout=timeout, stale_only=stale):
        typer.echo(f"{name}: {'left alone' if seconds is None else f'executed in {seconds:.0f} s'}")


@app.command()
def testbeds(
    names: Annotated[
        list[str] | None, typer.Argument(help="Testbeds to train; all of them when none is named.")
    ] = None,
) -> None:
    """Train the bundled models again; an interrupted training goes on where it stopped."""
    from paramem.world.build import main as build

    raise typer.Exit(build(list(names) if names else ["--all"]))


@app.command()
def site(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the build; build/site of the checkout by default.")
    ] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", help="Processes that read and write pages.")] = 2,
) -> None:
    """Build the web site of this checkout, offline; what did not change is not built again."""
    from paramem.project import Project
    from paramem.site.build import build

    project = Project.find()
    html = build(project, (out or project.root / "build" / "site").resolve(), jobs=jobs).html
    typer.echo(f"open {html / 'index.html'}, or serve it: {sys.executable} -m http.server -d {html}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Open JupyterLab on the start page; further options go to JupyterLab."""
    import os

    from paramem.project import Project

    root = Project.find().root
    options = [f"--ServerApp.root_dir={root}", "--LabApp.default_url=/lab/tree/notebooks/index.ipynb", *context.args]
    os.chdir(root)
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *options])


def main() -> None:
    """Run the command; an error of ours becomes one message and exit code 2."""
    try:
        app()
    except ParamemError as error:
        typer.secho(f"paramem: {error}", fg="red", err=True)
        raise SystemExit(2) from None


__all__ = ["app", "main"]
