"""`paramem check`: what the files of a checkout say about each other, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from paramem import registry, report
from paramem.bibliography import Paper, load_papers
from paramem.errors import ParamemError
from paramem.notebooks import Finding, check_notebook
from paramem.project import Project
from paramem.results import read_results
from paramem.taxonomy import Taxonomy, load_taxonomy


def check_project(project: Project) -> list[Finding]:
    """All findings; empty when everything agrees. A file that cannot be read is a finding, and ends the rest."""
    try:
        taxonomy, papers = load_taxonomy(project), load_papers(project)
    except ParamemError as error:
        return [Finding(where="taxonomy", what=line) for line in str(error).splitlines()]
    findings = [*check_papers(taxonomy, papers), *check_links(taxonomy), *check_files(project, taxonomy)]
    for name in project.notebook_names():
        findings += check_notebook(project, name, taxonomy)
    return findings + check_readme(project, taxonomy)


def check_papers(taxonomy: Taxonomy, papers: Mapping[str, Paper]) -> Iterator[Finding]:
    """Bibliography against taxonomy, both ways, and every bib key named anywhere."""
    for key in taxonomy.entries.keys() - papers.keys():
        yield Finding(where=f"taxonomy/{taxonomy.homes[key]}", what=f"{key} is not in papers.bib")
    for key in papers.keys() - taxonomy.entries.keys():
        yield Finding(where="papers.bib", what=f"{key} has no entry in taxonomy/")
    for key, entry in taxonomy.entries.items():
        for other in entry.contradicts:
            yield from _unknown(f"taxonomy entry {key}", "contradicts", [other], papers)
        for name, claim in entry.claims.items():
            yield from _unknown(f"claim {key}.{name}", "contradicted_by", claim.contradicted_by, papers)
    for name, notebook in taxonomy.notebooks.items():
        yield from _unknown(f"notebook {name}", "papers", notebook.papers, papers)
    for method in registry.methods():
        yield from _unknown(f"method {method.name}", "paper", [method.paper], papers)
    seen: dict[str, str] = {}
    for paper in papers.values():
        title = "".join(character for character in paper.title.lower() if character.isalnum())
        if title in seen:
            yield Finding(where="papers.bib", what=f"{paper.key} and {seen[title]} have the same title; keep one")
        seen[title] = paper.key


def _unknown(where: str, field: str, named: Iterable[str], known: Mapping[str, object]) -> Iterator[Finding]:
    for name in named:
        if name not in known:
            yield Finding(where=where, what=f"{field}: {name!r} does not exist")


def check_links(taxonomy: Taxonomy) -> Iterator[Finding]:
    """Categories, methods and notebooks that entries name; a claim's notebook lists the claim's paper, and back."""
    categories = dict(taxonomy.category_names())
    methods = {method.name: method for method in registry.methods()}
    named: set[str] = set()
    for key, entry in taxonomy.entries.items():
        where = f"taxonomy/{taxonomy.homes[key]}: {key}"
        yield from _unknown(where, "category", [entry.category, *entry.also], categories)
        yield from _unknown(where, "methods", entry.methods, methods)
        yield from _unknown(where, "notebooks", entry.notebooks, taxonomy.notebooks)
        named |= set(entry.methods)
        for name in entry.methods:
            if name in methods and methods[name].paper != key:
                yield Finding(where=where, what=f"methods: {name} is by {methods[name].paper} in the registry")
        for name, claim in entry.claims.items():
            if claim.notebook is not None and claim.notebook not in entry.notebooks:
                yield Finding(where=where, what=f"claim {name} is measured in {claim.notebook}; list it in 'notebooks'")
        for notebook in entry.notebooks:
            if notebook in taxonomy.notebooks and key not in taxonomy.notebooks[notebook].papers:
                yield Finding(
                    where=f"taxonomy/notebooks.yaml: {notebook}", what=f"papers: add {key}, whose entry names it"
                )
    for name, listed in taxonomy.notebooks.items():
        for key in listed.papers:
            if key in taxonomy.entries and name not in taxonomy.entries[key].notebooks:
                yield Finding(
                    where=f"taxonomy/{taxonomy.homes[key]}: {key}", what=f"notebooks: add {name}, which lists it"
                )
    for name in methods.keys() - named:
        yield Finding(
            where=f"method {name}", what=f"no entry lists it under 'methods' (its paper is {methods[name].paper})"
        )


def check_files(project: Project, taxonomy: Taxonomy) -> Iterator[Finding]:
    """Notebooks, results and testbeds on disk against those that the taxonomy names."""
    files, listed = set(project.notebook_names()), set(taxonomy.notebooks)
    for name in sorted(listed - files):
        yield Finding(where=f"taxonomy/notebooks.yaml: {name}", what=f"there is no notebooks/{name}.ipynb")
    for name in sorted(files - listed):
        yield Finding(where=f"notebooks/{name}.ipynb", what="not listed in taxonomy/notebooks.yaml")
    for path in sorted(project.notebooks.rglob("*.py")):
        if not path.with_suffix(".ipynb").is_file() and ".ipynb_checkpoints" not in path.parts:
            yield Finding(
                where=path.relative_to(project.root).as_posix(), what="has no .ipynb half; make it: make sync"
            )
    for path in sorted(project.results.rglob("*.json")):
        if path.relative_to(project.results).with_suffix("").as_posix() not in listed:
            yield Finding(where=path.relative_to(project.root).as_posix(), what="belongs to no listed notebook")
    for name in sorted(listed & files):
        for testbed in taxonomy.testbeds_of(name):
            if not (project.testbeds / testbed.split("@")[0]).is_dir():
                yield Finding(where=f"taxonomy/notebooks.yaml: {name}", what=f"there is no bundled testbed {testbed!r}")
        yield from _testbed_rows(project, name, taxonomy)


def _testbed_rows(project: Project, name: str, taxonomy: Taxonomy) -> Iterator[Finding]:
    where = f"results/{name}.json"
    try:
        results = read_results(project.results_path(name))
    except ParamemError as error:
        yield Finding(where=where, what=str(error))
        return
    if results is None:
        return
    expected = set(taxonomy.testbeds_of(name))
    for claim_id in set(taxonomy.claims_of(name)) - results.claims.keys():
        yield Finding(where=where, what=f"{claim_id} is missing; run: paramem run {name} --profile full")
    for claim_id in results.claims.keys() - set(taxonomy.claims_of(name)):
        remedy = f"run again: paramem run {name} --profile full"
        yield Finding(where=where, what=f"{claim_id} is no claim that the taxonomy gives this notebook; {remedy}")
    for claim_id, result in results.claims.items():
        claim = taxonomy.claims.get(claim_id)
        yield from _unknown(f"claim {claim_id}", "measured", claim.quantities if claim else (), result.quantities)
        if expected and set(result.rows) != expected:
            yield Finding(where=where, what=f"{claim_id} was not measured on exactly {sorted(expected)}")


def check_readme(project: Project, taxonomy: Taxonomy) -> list[Finding]:
    """The README's generated scoreboard against the results."""
    try:
        text = project.readme.read_text(encoding="utf-8")
        lines = report.scores(taxonomy, report.committed_results(project))
        current = report.with_scoreboard(text, lines) == text
    except ParamemError as error:
        return [Finding(where="README.md", what=str(error))]
    return [] if current else [Finding(where="README.md", what="the scoreboard is stale; run: paramem show --write")]
