"""What `paramem run` will run: notebooks times testbeds times seeds, every parameter checked before anything starts."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias, get_args

from paramem.errors import BadInput, BadParameter
from paramem.fingerprints import run_key
from paramem.parameters import Parameter, check_parameters, read_parameters
from paramem.project import Project
from paramem.taxonomy import Taxonomy, load_taxonomy

Profile: TypeAlias = Literal["default", "full", "paper"]
PROFILES: tuple[str, ...] = get_args(Profile)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for.

    Attributes:
        notebooks: names or paths; when empty, all notebooks that have the parameters the request sets.
        parameters: overrides, as given.
        seeds: one run for each; the notebook's own seed when empty.
        model: a bundled testbed, a folder or a hub id in place of each notebook's testbeds.
    """

    notebooks: tuple[str, ...] = ()
    profile: Profile = "default"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    model: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One notebook on one model.

    Attributes:
        parameters: what is passed on, beyond the notebook's defaults.
        testbed: the model's name; empty for a notebook without a ``model`` parameter.
        canonical: nothing but model and profile was changed, so the committed results apply.
    """

    notebook: str
    source: Path
    parameters: Mapping[str, Any]
    testbed: str
    label: str
    key: str
    canonical: bool

    def __str__(self) -> str:
        """``editing/rome on gpt2-s0``."""
        return f"{self.notebook} on {self.label}" if self.testbed else self.notebook


def plan(request: Request, project: Project) -> list[Run]:
    """All runs of a request, in the order of the notebooks.

    Raises:
        BadInput: an unknown notebook or profile. BadParameter: a parameter that does not fit.
    """
    if request.profile not in PROFILES:
        raise BadParameter(f"profile {request.profile!r}: choose one of {', '.join(PROFILES)}")
    overrides = {name: _located(value, project) for name, value in request.parameters.items()}
    model = overrides.pop("model", _located(request.model, project))
    if request.model is not None and request.parameters.get("model", request.model) != request.model:
        raise BadParameter(f"two models given: --model {request.model} and -p model={model}")
    if "profile" in overrides:
        raise BadParameter("-p profile=... and --profile say the same; use --profile")
    if request.profile == "paper" and model is None:
        raise BadParameter("profile paper runs on a real checkpoint; name it, as in -p model=gpt2-xl")
    taxonomy = load_taxonomy(project)
    runs: list[Run] = []
    for name in _selected(request.notebooks, project):
        runs += _runs_of(name, request, model, overrides, project, taxonomy)
    if not runs:
        _refuse(_wanted(request, model, overrides), project)
    return runs


def tour_of(project: Project) -> tuple[str, ...]:
    """The notebooks that `taxonomy/notebooks.yaml` marks for a first run, in its order."""
    return tuple(name for name, entry in load_taxonomy(project).notebooks.items() if entry.tour)


def _wanted(request: Request, model: str | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter that the request sets, whichever option set it."""
    wanted = dict(overrides)
    wanted |= {} if model is None else {"model": model}
    return wanted | ({"seed": request.seeds[0]} if request.seeds else {})


def _refuse(wanted: Mapping[str, Any], project: Project) -> NoReturn:
    """Say why no notebook takes the parameters: a name that none has, or names that no one notebook has together."""
    names = project.notebook_names()
    known = {name: read_parameters(read_cells(project.notebook_path(name)), name) for name in names}
    check_parameters(
        functools.reduce(operator.or_, known.values()), wanted, f"the set of notebooks ({', '.join(names)})"
    )
    raise BadParameter(f"no notebook has all of the parameters {', '.join(wanted)}; name the notebooks to run")


def _selected(wanted: Sequence[str], project: Project) -> list[str]:
    names = project.notebook_names()
    if not names:
        raise BadInput(f"no notebooks below {project.notebooks}")
    return list(dict.fromkeys(_resolve(each, names, project) for each in wanted)) if wanted else list(names)


def _resolve(wanted: str, names: Sequence[str], project: Project) -> str:
    """A notebook's name for a name, or for a path of either half."""
    given = re.sub(r"\.(ipynb|py)$", "", wanted)
    below = Path(given).resolve()
    options = [given, given.removeprefix("notebooks/")]
    if below.is_relative_to(project.notebooks):
        options.append(below.relative_to(project.notebooks).as_posix())
    for option in options:
        if option in names:
            return option
    close = difflib.get_close_matches(options[1], names, n=2, cutoff=0.4)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(names)}"
    raise BadInput(f"no notebook {wanted!r}. {hint}")


def read_cells(path: Path) -> list[dict[str, Any]]:
    """A notebook's cells with their sources joined.

    Raises:
        BadInput: the file is not a notebook of format 4.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        cells = data["cells"]
        return [cell | {"source": "".join(cell["source"])} for cell in cells]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is not a notebook (format 4): {error}") from error


def _runs_of(
    name: str, request: Request, model: str | None, overrides: dict[str, Any], project: Project, taxonomy: Taxonomy
) -> list[Run]:
    path = project.notebook_path(name)
    cells = read_cells(path)
    known = read_parameters(cells, name)
    wanted = _wanted(request, model, overrides)
    if not request.notebooks and not wanted.keys() <= known.keys():
        return []  # a sweep over all notebooks goes over those that take its parameters
    checked = check_parameters(known, wanted, name)
    values = {key: checked[key] for key in overrides}
    if "profile" in known and request.profile != known["profile"].default:
        values["profile"] = request.profile
    entry = taxonomy.notebooks.get(name)
    make = functools.partial(
        _run, name, path, cells, known, values, bool(overrides), project, entry.inputs if entry else ()
    )
    return [
        make(testbed, seed)
        for testbed in _testbeds(name, request, model, known, taxonomy)
        for seed in request.seeds or (None,)
    ]


def _testbeds(
    name: str, request: Request, model: str | None, known: Mapping[str, Parameter], taxonomy: Taxonomy
) -> tuple[str, ...]:
    if "model" not in known:
        return ("",)
    if model is not None:
        return (str(known["model"].read(model)),)
    if request.profile == "full":
        return taxonomy.testbeds_of(name) or (known["model"].default,)
    return (known["model"].default,)


def _run(
    name: str,
    path: Path,
    cells: list[dict[str, Any]],
    known: Mapping[str, Parameter],
    values: Mapping[str, Any],
    overridden: bool,
    project: Project,
    inputs: Sequence[str],
    testbed: str,
    seed: int | None,
) -> Run:
    passed = dict(values)
    if testbed and testbed != known["model"].default:
        passed["model"] = testbed
    if seed is not None:
        passed["seed"] = seed
    complete = {each.name: each.default for each in known.values()} | passed
    profile = str(passed.get("profile", ""))
    digest = hashlib.sha256(json.dumps(passed, sort_keys=True, default=repr).encode()).hexdigest()[:8]
    parts = [re.sub(r"[^A-Za-z0-9@._-]+", "_", testbed) or "run", profile, "" if seed is None else f"seed{seed}"]
    parts.append(f"p{digest}" if overridden else "")
    return Run(
        notebook=name,
        source=path,
        parameters=passed,
        testbed=testbed,
        label="-".join(part for part in parts if part),
        key=run_key(project, cells, complete, testbed or None, inputs, _files_among(complete)),
        canonical=not overridden and seed is None,
    )


def _located(value: Any, project: Project) -> Any:
    """A path given relative to the user's folder, made absolute: a notebook runs in its own folder."""
    if not isinstance(value, str) or not re.search(r"[/\\.]", value) or (project.testbeds / value).is_dir():
        return value
    path = Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value


def _files_among(parameters: Mapping[str, Any]) -> list[Path]:
    """Parameters that name files: their content belongs into the key."""
    texts = (value for value in parameters.values() if isinstance(value, str) and len(value) < 1000)
    return [Path(text) for text in texts if Path(text).is_absolute() and Path(text).is_file()]
