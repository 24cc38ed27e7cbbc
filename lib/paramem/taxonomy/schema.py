"""The fields of every file below `taxonomy/`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from paramem.bibtex import KEY
from paramem.urls import is_url


def _key(value: str) -> str:
    if not KEY.fullmatch(value):
        raise ValueError("use lower-case letters, digits, '-', '_' and ':', starting with a letter or digit")
    return value


def _path(value: str) -> str:
    if not all(KEY.fullmatch(part) for part in value.split("/")):
        raise ValueError("use lower-case names joined by '/', as in editing/rome")
    return value


def _url(value: str) -> str:
    if not is_url(value):
        raise ValueError("give an http or https address, as in https://github.com/kmeng01/rome")
    return value


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("the text is empty; remove the field or fill it in")
    return value


Key = Annotated[str, AfterValidator(_key)]
Path = Annotated[str, AfterValidator(_path)]
Url = Annotated[str, AfterValidator(_url)]
Text = Annotated[str, Field(min_length=1), AfterValidator(_text)]

Status = Literal["planned", "survey", "out of reach"]


class Schema(BaseModel):
    """Base of all: unknown fields and guessed types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Category(Schema):
    """A node of the tree. Its full name joins the ids from the root: ``detection/causal-tracing``.

    Attributes:
        part: the heading that a top category stands under; None below the top.
    """

    id: Key
    part: Text | None = None
    title: Text
    about: Text
    children: tuple[Category, ...] = ()


class Correction(Schema):
    """A later value, given by the authors themselves."""

    value: float
    source: Text
    date: Text | None = None


class Reported(Schema):
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


class Claim(Schema):
    """A claim of a paper, in our own words.

    Attributes:
        says: the statement.
        origin: ``ours`` for a statement about the paper's method that the paper itself does not make; it is measured
            and shown like the others, and never counted as a reproduction.
        where: where it stands in the paper; None where that was not read.
        notebook: the notebook that measures it.
        testbeds: those of the notebook's testbeds that are asked, because the others lack what it speaks of; empty
            where all are. This is settled before measuring; one that is asked and cannot tell counts as undecided.
        reported: the paper's numbers.
        measured: the measured quantities to set beside them on the scoreboard; the first one when none is named.
        status: set only where nothing is measured; ``reason`` says why. Both follow from the entry's status where it
            has one.
        contradicted_by: papers that report otherwise.
    """

    says: Text
    origin: Literal["paper", "ours"] = "paper"
    where: str | None = None
    notebook: Path | None = None
    testbeds: tuple[Text, ...] = ()
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
    def _explained(self) -> Claim:
        if self.status is not None and not self.reason:
            raise ValueError(f"status {self.status!r} needs a reason")
        if self.status is None and self.reason:
            raise ValueError("a reason goes with a status; set status: not attempted, or remove it")
        if self.testbeds and self.notebook is None:
            raise ValueError("testbeds go with a notebook; name it, or remove testbeds")
        if self.origin == "ours" and (self.where is not None or self.reported):
            raise ValueError("what stands in the paper or is reported there is not ours; remove origin: ours")
        return self


class Entry(Schema):
    """Everything we say about one paper, but what the bibliography says.

    Attributes:
        category, also: where a reader looks for it first, and where else.
        status: why it has no notebook; None where it has one. ``reason`` goes with ``out of reach``.
        summary: one sentence, in our own words.
        computes: what its method computes, from which input to which output; only a survey may leave it out.
        links: code and project pages; the paper's own address follows from the bibliography.
        code_licence: of the linked code, where known; ``none`` where the repository has no licence.
        related: neighbours, named on one side only and shown on both.
        contradicts: paper to what they disagree on; named by the paper that disagrees and shown on both sides.
        corrections: of the paper's text or numbers; a corrected number of a claim stands with the claim.
    """

    category: Path
    also: tuple[Path, ...] = ()
    status: Status | None = None
    reason: Text | None = None
    summary: Text
    computes: Text | None = None
    tags: tuple[Key, ...] = ()
    links: dict[Key, Url] = {}
    code_licence: Text | None = None
    notebooks: tuple[Path, ...] = ()
    methods: tuple[Key, ...] = ()
    related: tuple[Key, ...] = ()
    contradicts: dict[Key, Text] = {}
    corrections: tuple[Text, ...] = ()
    claims: dict[Key, Claim] = {}

    @property
    def state(self) -> str:
        """``notebook``, or why there is none."""
        return self.status or "notebook"

    @model_validator(mode="after")
    def _has_a_notebook_or_says_why_not(self) -> Entry:
        if self.status is None and not self.notebooks:
            raise ValueError("name its notebooks, or set status: planned, survey or out of reach")
        if self.status is not None and self.notebooks:
            raise ValueError(f"it has a notebook, so remove status: {self.status}")
        if self.computes is None and self.status != "survey":
            raise ValueError("field computes: the field is required; only a survey may leave it out")
        if (self.reason is not None) != (self.status == "out of reach"):
            raise ValueError("a reason goes with status: out of reach, and only with it")
        return self

    @model_validator(mode="after")
    def _claims_are_measured_or_explained(self) -> Entry:
        for name, claim in self.claims.items():
            if self.status is None and claim.status is None and claim.notebook is None:
                raise ValueError(
                    f"claim {name}: name the notebook that measures it, or set status: not attempted and a reason"
                )
        return self

    @model_validator(mode="after")
    def _nothing_stands_twice(self) -> Entry:
        if "paper" in self.links:
            raise ValueError("links.paper follows from papers.bib (eprint, url or doi); remove it here")
        for field in ("also", "tags", "notebooks", "methods", "related"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field} names something twice: {', '.join(values)}")
        if self.category in self.also:
            raise ValueError(f"also repeats the category {self.category}")
        return self


class NotebookEntry(Schema):
    """A notebook and what its runs depend on.

    Attributes:
        testbeds: a named set of testbeds, or testbeds; empty for a notebook without a ``model`` parameter.
        papers: the papers it reads; a claim's notebook lists the claim's paper here.
        inputs: files (globs from the root) whose content its outputs depend on.
        tour: whether it is among those that a newcomer's first run executes.
    """

    title: Text
    testbeds: Key | tuple[Text, ...] = ()
    papers: tuple[Key, ...] = ()
    inputs: tuple[Text, ...] = ()
    tour: bool = False


class NotebookFile(Schema):
    """The file `notebooks.yaml`."""

    testbeds: dict[Key, tuple[Text, ...]] = {}
    notebooks: dict[Path, NotebookEntry] = {}

    @model_validator(mode="after")
    def _sets_exist(self) -> NotebookFile:
        for name, notebook in self.notebooks.items():
            if isinstance(notebook.testbeds, str) and notebook.testbeds not in self.testbeds:
                known = ", ".join(self.testbeds) or "none"
                raise ValueError(f"notebook {name}: unknown testbed set {notebook.testbeds!r}; known: {known}")
        return self


class TagFile(Schema):
    """The file `tags.yaml`: each tag and what it means."""

    tags: dict[Key, Text] = {}


class SourceDocument(Schema):
    """A document that papers were taken from.

    Attributes:
        read: when it was read, or which version.
    """

    title: Text
    url: Url | None = None
    read: Text


class Row(Schema):
    """One line of a source document, as it is printed there, and what became of it.

    Attributes:
        section, heading: where the document prints it.
        title, link: as printed, wrong ones too; a link is text, and nobody follows it.
        method, printed_group, group: of a table of methods: the name, the printed group, the right one.
        key: its entry in the bibliography; a row without one says in ``left_out`` why.
        defects: what is wrong with the row as printed. ``repaired`` says what was done about it.
    """

    section: Text | None = None
    heading: Text | None = None
    title: Text | None = None
    link: Text | None = None
    method: Text | None = None
    printed_group: Text | None = None
    group: Text | None = None
    key: Key | None = None
    left_out: Text | None = None
    defects: tuple[Text, ...] = ()
    repaired: Text | None = None

    @model_validator(mode="after")
    def _says_what_became_of_it(self) -> Row:
        if self.title is None and self.method is None:
            raise ValueError("give its title or, in a table of methods, its method, as printed")
        if (self.key is None) == (self.left_out is None):
            raise ValueError("give the key of its bibliography entry, or left_out with the reason, and not both")
        if self.repaired is not None and not self.defects:
            raise ValueError("repaired goes with defects; name what was wrong")
        return self


class Source(Schema):
    """A source document with all its rows, in its own order."""

    document: SourceDocument
    note: Text | None = None
    rows: tuple[Row, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The papers taken from it, each once, in its order."""
        return tuple(dict.fromkeys(row.key for row in self.rows if row.key is not None))
