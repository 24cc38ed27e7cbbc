"""What the bibliography, the taxonomy and the source documents say about each other, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from paramem import registry
from paramem.bibliography import Bibliography, Paper, key_problem, title_letters
from paramem.findings import Finding, unknown
from paramem.taxonomy import Entry, Reading, Source, Taxonomy
from paramem.taxonomy.reading import NOTEBOOKS, TAGS, TREE


def check_papers(
    taxonomy: Taxonomy, papers: Mapping[str, Paper], broken: Iterable[str] = (), *, whole: bool = True
) -> Iterator[Finding]:
    """Bibliography against taxonomy, both ways, and every bib key named anywhere.

    Args:
        broken: keys that are there but could not be read.
        whole: no file of entries is lost altogether, so that what is nowhere is missing.
    """
    lost = set(broken)
    known = {**papers, **dict.fromkeys(sorted(lost))}
    for key in sorted(taxonomy.homes.keys() - known.keys()):
        yield Finding(where=f"taxonomy/{taxonomy.homes[key]}", what=f"{key} is not in papers.bib")
    for key in papers:
        if whole and key not in taxonomy.homes and key not in lost:
            yield Finding(where="papers.bib", what=f"{key} has no entry in taxonomy/")
    for key, entry in taxonomy.entries.items():
        where = f"taxonomy/{taxonomy.homes[key]}: entry {key}"
        yield from unknown(where, "contradicts", entry.contradicts, known)
        yield from unknown(where, "related", entry.related, known)
        for name, claim in entry.claims.items():
            yield from unknown(f"claim {key}.{name}", "contradicted_by", claim.contradicted_by, known)
        yield from _one_sided(taxonomy, key, entry, where)
    for name, notebook in taxonomy.notebooks.items():
        yield from unknown(f"notebook {name}", "papers", notebook.papers, known)
    for method in registry.methods():
        yield from unknown(f"method {method.name}", "paper", [method.paper], known)


def _one_sided(taxonomy: Taxonomy, key: str, entry: Entry, where: str) -> Iterator[Finding]:
    """What is shown on both sides is written on one."""
    for field in ("related", "contradicts"):
        for other in getattr(entry, field):
            if other == key:
                yield Finding(where=where, what=f"{field}: names itself; remove it")
            elif other in taxonomy.entries and key in getattr(taxonomy.entries[other], field) and key > other:
                yield Finding(
                    where=where, what=f"{field}: {other} names {key} already, and both sides show it; keep one"
                )


def check_bibliography(papers: Mapping[str, Paper]) -> Iterator[Finding]:
    """Keys by the scheme; one entry for each paper."""
    for key, paper in papers.items():
        problem = key_problem(paper)
        if problem is not None:
            yield Finding(where=f"papers.bib, line {paper.entry.line}: entry {key}", what=problem)
    seen: dict[tuple[str, str], str] = {}
    told: set[tuple[str, str]] = set()
    for key, paper in papers.items():
        for field, value in {"title": title_letters(paper.title), **paper.numbers}.items():
            other = seen.setdefault((field, value), key) if value else key
            if other != key and (key, other) not in told:
                told.add((key, other))
                yield Finding(where="papers.bib", what=f"{key} and {other} have the same {field}; keep one")


def check_vocabulary(reading: Reading) -> Iterator[Finding]:
    """Categories, tags and files that entries name."""
    taxonomy, categories = reading.taxonomy, dict(reading.taxonomy.category_names())
    for key, entry in taxonomy.entries.items():
        where = f"taxonomy/{taxonomy.homes[key]}: entry {key}"
        if TREE not in reading.broken:
            yield from unknown(where, "category", [entry.category], categories, "taxonomy.yaml lists them")
            yield from unknown(where, "also", entry.also, categories, "taxonomy.yaml lists them")
        if TAGS not in reading.broken:
            yield from unknown(where, "tags", entry.tags, taxonomy.tags, "add it to tags.yaml with its meaning")
        home = f"{entry.category.split('/')[0]}.yaml"
        if home != taxonomy.homes[key]:
            yield Finding(where=where, what=f"category {entry.category}: the entry belongs in taxonomy/{home}")
    used = {tag for entry in taxonomy.entries.values() for tag in entry.tags}
    for tag in taxonomy.tags:
        if tag not in used and not reading.broken:
            yield Finding(where=f"taxonomy/{TAGS}", what=f"{tag!r} is a tag of no paper; remove it")


def check_filled_in(taxonomy: Taxonomy) -> Iterator[Finding]:
    """Texts that `paramem add` left to be written."""
    for key, entry in taxonomy.entries.items():
        where = f"taxonomy/{taxonomy.homes[key]}: entry {key}"
        texts = {"summary": entry.summary, "computes": entry.computes, "reason": entry.reason}
        for name, claim in entry.claims.items():
            texts |= {f"claims.{name}.says": claim.says, f"claims.{name}.where": claim.where}
        for field, text in texts.items():
            if text is not None and text.startswith("TODO"):
                yield Finding(where=where, what=f"field {field}: still to be written")


def check_links(taxonomy: Taxonomy, broken: Iterable[str] = ()) -> Iterator[Finding]:
    """Methods and notebooks that entries name; a claim's notebook lists the claim's paper, and back."""
    methods = {method.name: method for method in registry.methods()}
    named: set[str] = set()
    for key, entry in taxonomy.entries.items():
        where = f"taxonomy/{taxonomy.homes[key]}: {key}"
        yield from unknown(where, "methods", entry.methods, methods)
        if NOTEBOOKS not in broken:
            yield from unknown(where, "notebooks", entry.notebooks, taxonomy.notebooks)
        named |= set(entry.methods)
        for name in entry.methods:
            if name in methods and methods[name].paper != key:
                yield Finding(where=where, what=f"methods: {name} is by {methods[name].paper} in the registry")
        for name, claim in entry.claims.items():
            if claim.notebook is not None and claim.notebook not in entry.notebooks:
                yield Finding(where=where, what=f"claim {name} is measured in {claim.notebook}; list it in 'notebooks'")
    yield from _notebooks_and_papers(taxonomy)
    for name in sorted(methods.keys() - named):
        if methods[name].paper not in broken and not any(file.endswith(".yaml") for file in broken):
            yield Finding(
                where=f"method {name}", what=f"no entry lists it under 'methods' (its paper is {methods[name].paper})"
            )


def _notebooks_and_papers(taxonomy: Taxonomy) -> Iterator[Finding]:
    for key, entry in taxonomy.entries.items():
        for notebook in entry.notebooks:
            if notebook in taxonomy.notebooks and key not in taxonomy.notebooks[notebook].papers:
                yield Finding(
                    where=f"taxonomy/{NOTEBOOKS}: {notebook}", what=f"papers: add {key}, whose entry names it"
                )
    for name, listed in taxonomy.notebooks.items():
        for key in listed.papers:
            if key in taxonomy.entries and name not in taxonomy.entries[key].notebooks:
                yield Finding(
                    where=f"taxonomy/{taxonomy.homes[key]}: {key}", what=f"notebooks: add {name}, which lists it"
                )


def check_sources(sources: Mapping[str, Source], bibliography: Bibliography) -> Iterator[Finding]:
    """Every row's paper is in the bibliography."""
    known = {**bibliography.papers, **dict.fromkeys(sorted(bibliography.broken))}
    for name, source in sources.items():
        for number, row in enumerate(source.rows, start=1):
            if row.key is not None:
                yield from unknown(f"taxonomy/sources/{name}.yaml: row {number}", "key", [row.key], known)
