"""The mechanics of committed notebooks: pairs in sync, outputs that belong to their sources.

The ``.py`` half is the source and is carried over one way. Strict nbval compares outputs, but passes a notebook without
any, ignores pictures and never sees a stale pair: what it cannot see is checked here.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paramem.claims import claims_in
from paramem.errors import BadInput, ParamemError
from paramem.findings import Finding
from paramem.fingerprints import file_hash
from paramem.kernels import kernel_config
from paramem.parameters import read_parameters
from paramem.plan import read_cells
from paramem.project import Project
from paramem.results import changed_rows, read_results
from paramem.taxonomy import Taxonomy, load_taxonomy

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
MAX_BYTES = 1_000_000
_MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|Users|var|opt|mnt|private|work|srv)/[\w.-]+|[A-Z]:\\\\?Users"
)
_SECRET = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|ghp_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b")


def source_hash(cells: Iterable[Mapping[str, Any]]) -> str:
    """Hash of the code that outputs depend on; prose may be polished without running again."""
    code = [(cell["source"].rstrip(), sorted(_tags(cell))) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:20]


def inputs_hash(project: Project, name: str, taxonomy: Taxonomy) -> str:
    """Hash of what outputs depend on beyond the code: the declared input files, and the claims that cards show."""
    entry = taxonomy.notebooks.get(name)
    files = {
        path.relative_to(project.root).as_posix(): file_hash(path)
        for pattern in (entry.inputs if entry else ())
        for path in project.root.glob(pattern)
        if path.is_file()
    }
    claims = {claim_id: taxonomy.claims[claim_id].model_dump(mode="json") for claim_id in taxonomy.claims_of(name)}
    for dumped in claims.values():
        if dumped["origin"] == "paper":  # the rule, which cards do not mention
            del dumped["origin"]
        if not dumped["testbeds"]:
            del dumped["testbeds"]
    return hashlib.sha256(json.dumps([files, claims], sort_keys=True).encode()).hexdigest()[:20]


def _tags(cell: Mapping[str, Any]) -> Sequence[str]:
    return cell.get("metadata", {}).get("tags", ())  # type: ignore[no-any-return]


def selected(project: Project, names: Sequence[str]) -> list[str]:
    """The notebooks called ``names``, or all; those with only a ``.py`` half yet are among them.

    Raises:
        BadInput: there is no such notebook.
    """
    halves = {path.relative_to(project.notebooks).with_suffix("").as_posix() for path in _sources(project)}
    known = sorted(halves | set(project.notebook_names()))
    cleaned = [re.sub(r"^notebooks/|\.(ipynb|py)$", "", name) for name in names]
    for name in cleaned:
        if name not in known:
            raise BadInput(f"no notebook {name!r}; there are: {', '.join(known) or 'none'}")
    return cleaned or known


def _sources(project: Project) -> Iterator[Path]:
    for path in sorted(project.notebooks.rglob("*.py")):
        if ".ipynb_checkpoints" not in path.parts:
            yield path


def sync(project: Project, names: Sequence[str]) -> list[str]:
    """Carry ``.py`` halves over to ``.ipynb`` halves that differ from them; outputs and cell ids stay.

    Returns:
        The notebooks that were updated.
    """
    from jupytext.cli import jupytext

    updated = []
    for name in selected(project, names):
        path = project.notebook_path(name)
        if not path.with_suffix(".py").is_file():
            raise BadInput(f"{path} has no .py half; make it with: jupytext --to py:percent {path.name}")
        if path.is_file() and _same_cells(path):
            continue
        jupytext(["--quiet", "--update", "--to", "ipynb", str(path.with_suffix(".py"))])
        updated.append(name)
    return updated


def _same_cells(path: Path) -> bool:
    import jupytext

    def shape(cells: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, list[str]]]:
        return [(cell["cell_type"], cell["source"].rstrip(), sorted(_tags(cell))) for cell in cells]

    return shape(read_cells(path)) == shape(jupytext.read(path.with_suffix(".py"), fmt="py:percent").cells)


def refresh(
    project: Project, names: Sequence[str], *, timeout: float = 300.0, stale_only: bool = False
) -> Iterator[tuple[str, float | None]]:
    """Sync and execute committed notebooks in place; yields each with its seconds (None where it was left alone).

    Args:
        timeout: seconds allowed to one cell.
        stale_only: leave those alone whose outputs belong to their code and inputs.

    Raises:
        BadInput: a notebook raised; it is left as it was.
    """
    sync(project, names)
    for name in selected(project, names):
        path = project.notebook_path(name)
        now = {"source": source_hash(read_cells(path)), "inputs": inputs_hash(project, name, load_taxonomy(project))}
        if stale_only and _stored(path) == now:
            yield name, None
            continue
        started = time.monotonic()
        execute_in_place(path, timeout=timeout, project=project)
        yield name, time.monotonic() - started


def _stored(path: Path) -> dict[str, str]:
    """The hashes that `execute_in_place` left in the notebook's metadata."""
    metadata = json.loads(path.read_text(encoding="utf-8")).get("metadata", {})
    return dict(metadata.get("paramem", {}))


def execute_in_place(path: Path, *, timeout: float, project: Project | None = None) -> None:
    """Execute a notebook and store outputs without times, so that the same results give the same file.

    Raises:
        BadInput: a cell raised or ran out of time, with the cell and the error; the file is left as it was.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    project = project or Project.find(path.parent)
    name = path.resolve().relative_to(project.notebooks.resolve()).with_suffix("").as_posix()
    inputs = inputs_hash(project, name, load_taxonomy(project))  # before it runs: what changes meanwhile is a change
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    try:
        with kernel_config() as config:
            NotebookClient(
                notebook,
                timeout=timeout,
                kernel_name="python3",
                record_timing=False,
                store_widget_state=False,  # it carries random ids and a copy of every figure
                resources=place,
                config=config,
            ).execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise BadInput(f"{path}: {str(error).strip()[-2000:]}") from error
    notebook.metadata["kernelspec"] = dict(KERNEL)
    notebook.metadata.setdefault("language_info", {}).pop("version", None)
    notebook.metadata["paramem"] = {"source": source_hash(notebook.cells), "inputs": inputs}
    part = path.with_name(f".{path.name}.part")
    nbformat.write(notebook, part)
    part.replace(path)


def check_notebook(project: Project, name: str, taxonomy: Taxonomy | None) -> list[Finding]:
    """Everything about one committed notebook that strict nbval would let pass.

    Args:
        taxonomy: None where it could not be read: then the notebook is checked on its own.
    """
    path = project.notebook_path(name)
    where = path.relative_to(project.root).as_posix()
    try:
        texts = [*_format_problems(path), *_pair_problems(path), *_output_problems(path, project)]
        if taxonomy is not None:
            texts += [*_input_problems(project, name, taxonomy), *_claim_problems(project, name, taxonomy)]
    except ParamemError as error:
        texts = [str(error)]
    return [Finding(where=where, what=text) for text in texts]


def _nbformat() -> Any:
    """nbformat, without the seconds that its schema library spends on a grammar for addresses no notebook holds."""
    grammar = "rfc3987_syntax"
    spared = grammar not in sys.modules
    if spared:
        sys.modules[grammar] = None  # type: ignore[assignment]  # makes the import fail, which jsonschema expects
    try:
        import nbformat
    finally:
        if spared:
            del sys.modules[grammar]
    return nbformat


def _format_problems(path: Path) -> Iterator[str]:
    nbformat = _nbformat()
    if path.stat().st_size > MAX_BYTES:
        yield f"{path.stat().st_size:,} bytes, more than {MAX_BYTES:,}; make its pictures smaller"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            notebook = json.loads(path.read_text(encoding="utf-8"))
            nbformat.validate(notebook)
    except (nbformat.ValidationError, ValueError, Warning) as error:
        yield f"not a valid notebook: {str(error).splitlines()[0]}"
        return
    if notebook["metadata"].get("kernelspec") != KERNEL:
        yield f"kernelspec is not {KERNEL}; JupyterLab would rewrite both halves on the first save"


def _pair_problems(path: Path) -> Iterator[str]:
    if not path.with_suffix(".py").is_file():
        yield "has no .py half"
    elif not _same_cells(path):
        yield "differs from its .py half; carry it over with: make sync"


def _output_problems(path: Path, project: Project) -> Iterator[str]:
    cells = read_cells(path)
    code = [cell for cell in cells if cell["cell_type"] == "code" and cell["source"].strip()]
    counts = [cell.get("execution_count") for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield f"execution counts are {counts}, not 1 to {len(code)}: execute it top to bottom with: make notebooks"
    if _stored(path).get("source") != source_hash(cells):
        yield "its code changed after it was executed; execute it with: make notebooks"
    left = [number for number, cell in enumerate(cells, start=1) if re.search(r"\bTODO\b", cell["source"])]
    if left:
        yield f"still to be written (TODO) in cell {', '.join(map(str, left))} from the top"
    for number, cell in enumerate(code, start=1):
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                yield f"cell {number} stores an error: {output['ename']}: {output['evalue']}"
        text = cell["source"] + "\n" + "\n".join(_texts(cell))
        for match in [*_MACHINE_PATH.findall(text), *_own_paths(text, project)]:
            yield f"cell {number} holds a path of one machine: {match}"
        for match in _SECRET.findall(text):
            yield f"cell {number} holds what looks like an access token: {match[:6]}..."


def _input_problems(project: Project, name: str, taxonomy: Taxonomy) -> Iterator[str]:
    if _stored(project.notebook_path(name)).get("inputs") != inputs_hash(project, name, taxonomy):
        yield (
            "its inputs, or its claims in taxonomy/, changed after it was executed; "
            f"execute it with: make notebooks ARGS={name}"
        )


def _own_paths(text: str, project: Project) -> list[str]:
    own = {str(project.root), sys.prefix, str(Path.home())} - {"/"}
    return [path for path in sorted(own) if re.search(rf"(?<![\w.]){re.escape(path)}(?=/|\s|$)", text)]


def _texts(cell: Mapping[str, Any]) -> Iterator[str]:
    """The texts among a cell's outputs (a picture's base64 may spell anything)."""
    for output in cell.get("outputs", ()):
        yield "".join(output.get("text", ""))
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/") or kind == "image/svg+xml":
                yield "".join(data) if isinstance(data, list | str) else json.dumps(data)


def _claim_problems(project: Project, name: str, taxonomy: Taxonomy) -> Iterator[str]:
    path = project.notebook_path(name)
    found = claims_in(json.loads(path.read_text(encoding="utf-8")), name)
    declared = set(taxonomy.claims_of(name))
    for claim_id in sorted(found.keys() - declared):
        yield f"states {claim_id}, which the taxonomy does not give it"
    parameters = read_parameters(read_cells(path), name)
    default = parameters["model"].default if "model" in parameters else None
    missing = sorted(set(taxonomy.claims_of(name, default)) - found.keys())
    if missing:
        yield f"does not state {', '.join(missing)}, which the taxonomy gives it"
    committed = read_results(project.results_path(name))
    if committed is None and declared:
        yield f"has claims and no results/{name}.json; measure them with: paramem run {name} --profile full"
    if committed is not None and default is not None:
        for change in changed_rows(committed, default, found, frozenset(taxonomy.claims_of(name, default))):
            yield f"its stored output and results/{name}.json disagree: {change}"
