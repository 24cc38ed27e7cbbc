"""The ``paramem`` command. Every heavy import sits inside the command that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from paramem.errors import ParamemError

app = typer.Typer(
    name="paramem",
    help="A living, executable survey of parametric knowledge in language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def lab(arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to JupyterLab, after --.")] = None) -> None:
    """Open JupyterLab on the notebooks."""
    import os

    from paramem.project import Project

    project = Project.find()
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={project.root}"]
    start = ["--LabApp.default_url=/lab/tree/notebooks/index.ipynb"]
    os.chdir(project.root)
    os.execv(sys.executable, command + start + list(arguments or []))


@app.command()
def testbeds(
    names: Annotated[list[str] | None, typer.Argument(help="Testbeds to train; all of them when none is named.")] = None,
) -> None:
    """Train the bundled models again; an interrupted training goes on where it stopped."""
    from paramem.world.build import main as build

    raise typer.Exit(build(list(names or [])))


def main() -> None:
    """Run the command; an error of ours becomes one message and exit code 2, an interruption 130."""
    try:
        app(standalone_mode=True)
    except ParamemError as error:
        typer.secho(f"paramem: {error}", fg="red", err=True)
        raise SystemExit(2) from None


__all__ = ["Path", "app", "main"]
