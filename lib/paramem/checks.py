"""`paramem check`: what the files of a checkout say about each other, both ways."""

from __future__ import annotations

from collections.abc import Iterator

from paramem.bibliography import Bibliography, read_papers
from paramem.errors import ParamemError
from paramem.findings import Finding, unknown
from paramem.formatting import check_layout
from paramem.fresh import is_fresh
from paramem.literature import (
    check_bibliography,
    check_filled_in,
    check_links,
    check_papers,
    check_sources,
    check_vocabulary,
)
from paramem.notebooks import check_notebook
from paramem.pages import check_generated
from paramem.project import Project
from paramem.results import read_results
from paramem.taxonomy import Reading, Taxonomy, read_sources, read_taxonomy
from paramem.taxonomy.reading import NOTEBOOKS


def check_project(project: Project) -> list[Finding]:
    """All findings; empty when everything agrees.

    What could not be read is a finding, and the rest is checked without it.
    """
    findings = check_literature(project)
    reading, bibliography = read_taxonomy(project), read_papers(project)
    if NOTEBOOKS not in reading.broken:
        findings += check_files(project, reading.taxonomy, reading)
    for name in project.notebook_names():
        known = _known_to(name, reading, bibliography)
        findings += check_notebook(project, name, reading.taxonomy if known else None)
    if reading.findings or bibliography.findings or _emptied(reading, bibliography):
        return findings  # pages and tables are made of all papers
    return findings + check_generated(project)


def _known_to(name: str, reading: Reading, bibliography: Bibliography) -> bool:
    """Whether all that a notebook is compared with could be read: its papers, and the files that it reads itself."""
    listed = reading.taxonomy.notebooks.get(name)
    if NOTEBOOKS in reading.broken or reading.unread:
        return False
    if listed is None:
        return not reading.broken
    if reading.broken & set(listed.papers):
        return False
    literature = any(pattern.startswith(("taxonomy/", "papers.bib")) for pattern in listed.inputs)
    return not literature or not (reading.findings or bibliography.findings or _emptied(reading, bibliography))


def _emptied(reading: Reading, bibliography: Bibliography) -> bool:
    """A bibliography without any entry, beside a taxonomy with some."""
    return bool(reading.taxonomy.homes) and not bibliography.file.entries and not bibliography.findings


def check_literature(project: Project) -> list[Finding]:
    """Bibliography, taxonomy and source documents: each on its own, then against each other."""
    reading, bibliography = read_taxonomy(project), read_papers(project)
    sources, source_findings = read_sources(project)
    findings = [*bibliography.findings, *reading.findings, *source_findings, *check_vocabulary(reading)]
    broken = reading.broken | bibliography.broken
    findings += [*check_filled_in(reading.taxonomy), *check_links(reading.taxonomy, {*broken, *reading.unread})]
    if _emptied(reading, bibliography):
        findings.append(Finding(where=project.bib.name, what="it holds no entry; get it back: git restore papers.bib"))
        return findings
    if project.bib.name in broken:
        return findings
    findings += check_papers(reading.taxonomy, bibliography.papers, broken, whole=not reading.unread)
    if not broken and not reading.findings and not bibliography.findings:
        findings += check_layout(project)
    return [*findings, *check_bibliography(bibliography.papers), *check_sources(sources, bibliography)]


def check_files(project: Project, taxonomy: Taxonomy, reading: Reading | None = None) -> Iterator[Finding]:
    """Notebooks, results and testbeds on disk against those that the taxonomy names.

    Args:
        reading: what could not be read, so that no result is told to belong to nothing because of it.
    """
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
            if not is_fresh(testbed) and not (project.testbeds / testbed.split("@")[0]).is_dir():
                yield Finding(where=f"taxonomy/notebooks.yaml: {name}", what=f"there is no bundled testbed {testbed!r}")
        yield from _testbed_rows(project, name, taxonomy, reading)


def _testbed_rows(project: Project, name: str, taxonomy: Taxonomy, reading: Reading | None) -> Iterator[Finding]:
    where = f"results/{name}.json"
    try:
        results = read_results(project.results_path(name))
    except ParamemError as error:
        yield Finding(where=where, what=str(error))
        return
    if results is None:
        return
    expected, declared = set(taxonomy.testbeds_of(name)), set(taxonomy.claims_of(name))
    lost = reading.broken if reading else frozenset()
    if reading and reading.unread:  # any paper may stand there
        lost |= {claim_id.partition(".")[0] for claim_id in results.claims.keys() - declared}
    for claim_id in sorted(declared - results.claims.keys()):
        yield Finding(where=where, what=f"{claim_id} is missing; run: paramem run {name} --profile full")
    for claim_id in sorted(results.claims.keys() - declared):
        if claim_id.partition(".")[0] in lost:
            continue
        remedy = f"run again: paramem run {name} --profile full"
        yield Finding(where=where, what=f"{claim_id} is no claim that the taxonomy gives this notebook; {remedy}")
    for claim_id, result in results.claims.items():
        claim = taxonomy.claims.get(claim_id)
        yield from unknown(f"claim {claim_id}", "measured", claim.quantities if claim else (), result.quantities)
        counted = set(taxonomy.testbeds_asked(claim_id)) if claim else expected
        if expected and set(result.rows) != counted:
            yield Finding(where=where, what=f"{claim_id} was not measured on exactly {sorted(counted)}")
