"""What the site shows, gathered from taxonomy, bibliography, results and registry. Pages are made from this alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from paramem import registry
from paramem.bibliography import Paper, load_papers
from paramem.claims import UNMEASURED, held_on, show
from paramem.project import Project
from paramem.report import Score, committed_results, scores
from paramem.results import ClaimResult, NotebookResults
from paramem.taxonomy import Disagreement, Entry, Taxonomy, load_taxonomy

STATUSES = ("notebook", "planned", "survey", "out of reach")


@dataclass(frozen=True, kw_only=True)
class TestbedRow:
    """One claim on one testbed, as text; ``found`` is yes, no or undecided."""

    __test__ = False  # not a test, whatever its name begins with

    testbed: str
    found: str
    measured: tuple[tuple[str, str], ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class ClaimView:
    """A claim with what the paper reports and what was found.

    Attributes:
        verdict: one of `paramem.claims.VERDICTS`.
        ours: measured quantities over the testbeds, one text each.
        k, n, undecided: holds on ``k`` of ``n`` testbeds, undecided on some of the others; n is 0 where nothing is
            counted.
        contradicted_by: bib keys.
        own: a statement of ours, which the paper does not make.
    """

    name: str
    paper: str
    says: str
    where: str
    notebook: str
    verdict: str
    reason: str = ""
    reported: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    k: int = 0
    n: int = 0
    undecided: int = 0
    rows: tuple[TestbedRow, ...] = ()
    contradicted_by: tuple[str, ...] = ()
    own: bool = False

    @property
    def held(self) -> str:
        """``1 of 4, 2 undecided``; empty where nothing is counted."""
        return held_on(self.k, self.n, self.undecided) if self.n else ""

    @property
    def id(self) -> str:
        """As notebooks state it: ``meng2022rome.early-site``."""
        return f"{self.paper}.{self.name}"


@dataclass(frozen=True, kw_only=True)
class PaperView:
    """Everything that a paper's page shows.

    Attributes:
        status: one of `STATUSES`.
        links: label and address.
        related: bib keys.
        disagreements: with whom, whichever side says so.
    """

    key: str
    title: str
    cite: str
    authors: tuple[str, ...]
    year: int
    venue: str
    posted: int | None
    links: tuple[tuple[str, str], ...]
    bibtex: str
    categories: tuple[str, ...]
    summary: str
    computes: str
    status: str
    reason: str
    tags: tuple[str, ...]
    notebooks: tuple[str, ...]
    methods: tuple[registry.Method, ...]
    claims: tuple[ClaimView, ...]
    corrections: tuple[str, ...]
    related: tuple[str, ...]
    disagreements: tuple[Disagreement, ...]


@dataclass(frozen=True, kw_only=True)
class CategoryView:
    """A node of the tree: ``name`` joins the ids from the root, ``papers`` are those that name it first or also."""

    name: str
    title: str
    about: str
    part: str
    papers: tuple[str, ...]

    @property
    def depth(self) -> int:
        """0 for a top category."""
        return self.name.count("/")


@dataclass(frozen=True, kw_only=True)
class NotebookView:
    """A notebook, its papers and its testbeds."""

    name: str
    title: str
    papers: tuple[str, ...]
    testbeds: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Site:
    """The whole content, in reading order."""

    papers: Mapping[str, PaperView]
    categories: Mapping[str, CategoryView]
    notebooks: Mapping[str, NotebookView]
    tags: Mapping[str, str] = field(default_factory=dict)  # tag to its meaning

    @cached_property
    def claims(self) -> tuple[ClaimView, ...]:
        """All claims, paper by paper."""
        return tuple(claim for paper in self.papers.values() for claim in paper.claims)

    def children(self, name: str) -> tuple[CategoryView, ...]:
        """The categories directly below ``name``."""
        return tuple(each for each in self.categories.values() if each.name.rpartition("/")[0] == name)

    def papers_below(self, name: str) -> tuple[PaperView, ...]:
        """The papers of a category and of those below it, each once."""
        names = [each for each in self.categories if each == name or each.startswith(f"{name}/")]
        keys = dict.fromkeys(key for each in names for key in self.categories[each].papers)
        return tuple(self.papers[key] for key in keys)


def gather(project: Project) -> Site:
    """Read a checkout.

    Raises:
        BadInput: a file of it cannot be used; `paramem check` says more.
    """
    return arrange(
        load_taxonomy(project), load_papers(project), committed_results(project), frozenset(project.notebook_names())
    )


def arrange(
    taxonomy: Taxonomy, papers: Mapping[str, Paper], results: Mapping[str, NotebookResults], present: frozenset[str]
) -> Site:
    """The content from what was read. What one file names and another lacks is left out: `paramem check` says so.

    Args:
        present: the notebooks on disk.
    """
    categories = dict(taxonomy.category_names())
    keys = [key for key in taxonomy.reading_order if key in papers and taxonomy.entries[key].category in categories]
    claims = _claims(taxonomy, results)
    return Site(
        papers={key: _paper(key, taxonomy, papers[key], claims[key]) for key in keys},
        categories={
            name: CategoryView(
                name=name,
                title=node.title,
                about=node.about,
                part=node.part or "",
                papers=tuple(key for key in keys if name in _categories(taxonomy.entries[key])),
            )
            for name, node in categories.items()
        },
        notebooks={
            name: NotebookView(
                name=name,
                title=entry.title,
                papers=tuple(key for key in entry.papers if key in keys),
                testbeds=taxonomy.testbeds_of(name),
            )
            for name, entry in taxonomy.notebooks.items()
            if name in present and name != "index"  # the site's start page stands for it
        },
        tags=taxonomy.tags,
    )


def _categories(entry: Entry) -> tuple[str, ...]:
    return (entry.category, *entry.also)


def _claims(taxonomy: Taxonomy, results: Mapping[str, NotebookResults]) -> dict[str, list[ClaimView]]:
    """Bib key to its claims."""
    views: dict[str, list[ClaimView]] = {key: [] for key in taxonomy.entries}
    for line in scores(taxonomy, results):
        measured = results.get(line.notebook)
        views[line.claim.partition(".")[0]].append(_claim(line, measured.claims.get(line.claim) if measured else None))
    return views


def _claim(line: Score, found: ClaimResult | None) -> ClaimView:
    paper, _, name = line.claim.partition(".")
    counted = found if line.holds else None
    return ClaimView(
        name=name,
        paper=paper,
        says=line.says,
        where=line.where,
        notebook=line.notebook,
        verdict=line.verdict or UNMEASURED,
        reason=line.reason,
        reported=tuple(filter(None, line.reported.split("; "))),
        ours=tuple(filter(None, line.ours.split("; "))),
        k=counted.k if counted else 0,
        n=counted.n if counted else 0,
        undecided=counted.undecided if counted else 0,
        rows=tuple(_rows(counted)) if counted else (),
        contradicted_by=line.contradicted_by,
        own=line.origin == "ours",
    )


def _rows(found: ClaimResult) -> Iterator[TestbedRow]:
    for testbed, row in found.rows.items():
        measured = tuple((name.replace("_", " "), show(value)) for name, value in row.measured.items())
        answer = ("yes" if row.holds else "no") if row.decided else str(row.decision)
        yield TestbedRow(testbed=testbed, found=answer, measured=measured, note=row.note)


def _paper(key: str, taxonomy: Taxonomy, paper: Paper, claims: Iterable[ClaimView]) -> PaperView:
    entry = taxonomy.entries[key]
    methods = {method.name: method for method in registry.methods()}
    return PaperView(
        key=key,
        title=paper.title or key,
        cite=paper.cite(),
        authors=tuple(_name(author) for author in paper.authors),
        year=paper.year,
        venue=paper.venue,
        posted=paper.posted,
        links=tuple(_links(entry, paper)),
        bibtex=paper.bibtex,
        categories=_categories(entry),
        summary=entry.summary,
        computes=entry.computes or "",
        status=entry.state,
        reason=entry.reason or "",
        tags=entry.tags,
        notebooks=entry.notebooks,
        methods=tuple(methods[name] for name in entry.methods if name in methods),
        claims=tuple(claims),
        corrections=entry.corrections,
        related=taxonomy.related(key),
        disagreements=taxonomy.disagreements(key),
    )


def _name(author: str) -> str:
    """``Meng, Kevin`` as it is read."""
    last, comma, first = author.partition(", ")
    return f"{first} {last}" if comma else author


def _links(entry: Entry, paper: Paper) -> Iterator[tuple[str, str]]:
    if paper.eprint:
        yield f"arXiv:{paper.eprint}", f"https://arxiv.org/abs/{paper.eprint}"
    if paper.doi:
        yield f"doi:{paper.doi}", f"https://doi.org/{paper.doi}"
    if paper.url and "arxiv.org/" not in paper.url:
        yield "paper", paper.url
    for name, url in entry.links.items():
        licence = f" ({entry.code_licence} licence)" if name == "code" and entry.code_licence else ""
        yield name + licence, url
