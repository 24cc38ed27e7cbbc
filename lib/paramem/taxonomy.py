"""What we say about each paper: where it belongs, what it claims, which notebook measures it.

`taxonomy/taxonomy.yaml` is the tree of categories in reading order, `taxonomy/notebooks.yaml` names the notebooks and
the testbeds each runs on, and every other file of the folder holds papers, one entry per key of `papers.bib`.
Bibliographic data (title, authors, year, venue) has its one home in the bibliography and is not repeated here.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from paramem.errors import BadInput
from paramem.project import Project
from paramem.yamls import load_yaml

KEY = re.compile(r"[a-z0-9][a-z0-9:_-]*")
_TREE, _NOTEBOOKS = "taxonomy.yaml", "notebooks.yaml"


def _key(value: str) -> str:
    if not KEY.fullmatch(value):
        raise ValueError("use lower-case letters, digits, '-', '_' and ':', starting with a letter or digit")
    return value


def _path(value: str) -> str:
    if not all(KEY.fullmatch(part) for part in value.split("/")):
        raise ValueError("use lower-case names joined by '/', as in editing/rome")
    return value


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s<>\"'\\]+", value):
        raise ValueError("give an http or https address")
    return value


Key = Annotated[str, AfterValidator(_key)]
NotebookName = Annotated[str, AfterValidator(_path)]
Url = Annotated[str, AfterValidator(_url)]
Text = Annotated[str, Field(min_length=1)]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Category(_Schema):
    """A node of the tree. Its full name joins the ids from the root: ``detection/causal-tracing``."""

    id: Key
    title: Text
    about: Text
    children: tuple[Category, ...] = ()


class Correction(_Schema):
    """A later value, given by the authors themselves."""

    value: float
    source: Text
    date: Text | None = None


class Reported(_Schema):
    """A number as a paper reports it.

    Attributes:
        where: section, table or figure.
        version: which version of the paper was read.
        corrected: a value the authors published later; it is the one to compare with.
    """

    quantity: Text
    value: float
    unit: str = ""
    setting: str = ""
    where: Text
    version: str = ""
    corrected: Correction | None = None

    def __str__(self) -> str:
        """The number with what it depends on."""
        value = f"{self.quantity} {self.value:g}{self.unit}"
        if self.corrected is not None:
            value += f" (corrected: {self.corrected.value:g}{self.unit})"
        return f"{value} [{self.setting}]" if self.setting else value


class Claim(_Schema):
    """A claim of a paper, in our own words.

    Attributes:
        says: the statement.
        where: where it stands in the paper; None where that was not read.
        notebook: the notebook that measures it.
        reported: the paper's numbers.
        measured: the measured quantities to set beside them on the scoreboard; the first one when none is named.
        status: set only where nothing is measured; ``reason`` says why.
        contradicted_by: papers that report otherwise.
    """

    says: Text
    where: str | None = None
    notebook: NotebookName | None = None
    reported: tuple[Reported, ...] = ()
    measured: Text | tuple[Text, ...] = ()
    status: Literal["not attempted", "not at this scale"] | None = None
    reason: str = ""
    contradicted_by: tuple[Key, ...] = ()

    @property
    def quantities(self) -> tuple[str, ...]:
        """``measured`` as names."""
        return (self.measured,) if isinstance(self.measured, str) else self.measured

    @model_validator(mode="after")
    def _measured_or_explained(self) -> Claim:
        if self.status is None and self.notebook is None:
            raise ValueError("name the notebook that measures it, or set status: not attempted")
        if self.status is not None and not self.reason:
            raise ValueError(f"status {self.status!r} needs a reason")
        return self


class Entry(_Schema):
    """Everything we say about one paper."""

    category: Annotated[str, AfterValidator(_path)]
    also: tuple[Annotated[str, AfterValidator(_path)], ...] = ()
    summary: Text
    tags: tuple[Key, ...] = ()
    links: dict[Key, Url] = {}
    code_licence: str | None = None
    notebooks: tuple[NotebookName, ...] = ()
    methods: tuple[Key, ...] = ()
    contradicts: tuple[Key, ...] = ()
    claims: dict[Key, Claim] = {}


class NotebookEntry(_Schema):
    """A notebook and what its runs depend on.

    Attributes:
        testbeds: a named set of testbeds, or testbeds; empty for a notebook without a ``model`` parameter.
        papers: the papers it reads; a claim's notebook lists the claim's paper here.
        inputs: files (globs from the root) whose content its outputs depend on.
    """

    title: Text
    testbeds: Key | tuple[Annotated[str, Field(min_length=1)], ...] = ()
    papers: tuple[Key, ...] = ()
    inputs: tuple[Text, ...] = ()


class _NotebookFile(_Schema):
    testbeds: dict[Key, tuple[Text, ...]] = {}
    notebooks: dict[NotebookName, NotebookEntry] = {}


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """The whole folder, read and checked file by file (`paramem.checks` checks what they say about each other)."""

    categories: tuple[Category, ...]
    entries: Mapping[str, Entry]
    homes: Mapping[str, str]  # bib key -> the file of its entry
    notebooks: Mapping[str, NotebookEntry]
    testbed_sets: Mapping[str, tuple[str, ...]]

    @functools.cached_property
    def claims(self) -> dict[str, Claim]:
        """Every claim by its full id, ``key.claim``."""
        return {f"{key}.{name}": claim for key, entry in self.entries.items() for name, claim in entry.claims.items()}

    def claims_of(self, notebook: str) -> tuple[str, ...]:
        """The ids of the claims that a notebook has to measure."""
        return tuple(
            claim_id for claim_id, claim in self.claims.items() if claim.notebook == notebook and claim.status is None
        )

    def testbeds_of(self, notebook: str) -> tuple[str, ...]:
        """The testbeds a notebook runs on in the full profile, the default one first."""
        entry = self.notebooks.get(notebook)
        if entry is None:
            return ()
        return self.testbed_sets[entry.testbeds] if isinstance(entry.testbeds, str) else entry.testbeds

    def category_names(self) -> Iterator[tuple[str, Category]]:
        """Every category with its full name, in reading order."""

        def walk(nodes: tuple[Category, ...], prefix: str) -> Iterator[tuple[str, Category]]:
            for node in nodes:
                yield prefix + node.id, node
                yield from walk(node.children, f"{prefix}{node.id}/")

        return walk(self.categories, "")


def load_taxonomy(project: Project | None = None) -> Taxonomy:
    """Read the taxonomy of a checkout; read again only when a file changed.

    Raises:
        BadInput: a file breaks its schema, with file, entry, field, value and remedy.
    """
    folder = (project or Project.find()).taxonomy
    files = tuple(sorted(folder.glob("*.yaml")))
    return _load(folder, tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@functools.lru_cache(maxsize=4)
def _load(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> Taxonomy:
    entries: dict[str, Entry] = {}
    homes: dict[str, str] = {}
    for file, _, _ in files:
        if file.name in (_TREE, _NOTEBOOKS):
            continue
        for key, data in _mapping(file).items():
            if key in entries:
                raise BadInput(f"{file}: entry {key} stands in {homes[key]} too; keep one")
            entries[_checked_key(file, key)] = _validated(Entry, data, file, key)
            homes[key] = file.name
    tree = load_yaml(folder / _TREE)
    if not isinstance(tree, list):
        raise BadInput(f"{folder / _TREE}: expected a list of categories")
    listed = _validated(_NotebookFile, _mapping(folder / _NOTEBOOKS), folder / _NOTEBOOKS, "file")
    for name, notebook in listed.notebooks.items():
        if isinstance(notebook.testbeds, str) and notebook.testbeds not in listed.testbeds:
            raise BadInput(
                f"{folder / _NOTEBOOKS}: notebook {name}: unknown testbed set {notebook.testbeds!r}; "
                f"known: {', '.join(listed.testbeds) or 'none'}"
            )
    return Taxonomy(
        categories=tuple(
            _validated(Category, node, folder / _TREE, f"category {i + 1}") for i, node in enumerate(tree)
        ),
        entries=entries,
        homes=homes,
        notebooks=listed.notebooks,
        testbed_sets=listed.testbeds,
    )


def _mapping(file: Path) -> dict[str, Any]:
    data = load_yaml(file)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise BadInput(f"{file}: expected a mapping of names to entries, found {type(data).__name__}")
    return data


def _checked_key(file: Path, key: str) -> str:
    if not KEY.fullmatch(key):
        raise BadInput(f"{file}: key {key!r} is not a bib key; lower-case letters, digits, '-', '_' and ':' only")
    return key


_REMEDIES = {
    "extra_forbidden": "no such field; remove it or correct its name (known: {known})",
    "missing": "the field is required",
    "string_type": "expected text; quote it",
    "string_too_short": "the text is empty; remove the field or fill it in",
}

_Model = TypeVar("_Model", bound=BaseModel)


def _validated(model: type[_Model], data: Any, file: Path, entry: str) -> _Model:
    """Validate through JSON, where strict mode still takes lists for tuples and whole numbers for floats."""
    try:
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        lines = [_line(model, problem, file, entry) for problem in error.errors(include_url=False)]
        raise BadInput("\n".join(lines)) from None


def _line(model: type[BaseModel], problem: Mapping[str, Any], file: Path, entry: str) -> str:
    loc = problem["loc"]
    field = ".".join(str(part) for part in loc) or "(whole entry)"
    known = ", ".join(model.model_fields) if len(loc) == 1 else "see its siblings"
    remedy = _REMEDIES.get(problem["type"], problem["msg"].removeprefix("Value error, ")).format(known=known)
    value = "" if problem["type"] in ("missing", "value_error") and not loc else f", value {problem['input']!r:.60}"
    return f"{file}: entry {entry}, field {field}{value}: {remedy}"
