"""The page of a paper: its entry, its claims with verdicts and numbers, who agrees and who does not, how to cite it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from paramem.site.markup import Child, Html, address, join, markdown, raw, section, tag
from paramem.site.model import ClaimView, PaperView, Site, TestbedRow
from paramem.site.parts import (
    STATUS_WORDS,
    Page,
    category_path,
    claim_anchor,
    dots,
    explorer_link,
    keys_as_links,
    notebook_link,
    notebook_path,
    paper_path,
    verdict_badge,
)


def paper_page(paper: PaperView, site: Site) -> Page:
    """The whole page."""
    here = paper_path(paper.key)
    parts = ["---\norphan: true\n---\n", f"# {markdown(paper.title)}\n", raw(_head(here, paper, site))]
    parts.append(section("Run it", _notebooks(here, paper, site)))
    if paper.claims:
        parts.append("## Claims\n")
        for claim in paper.claims:
            parts += [f"({claim_anchor(claim.id)})=\n### `{claim.name}`\n", raw(claim_card(here, claim, site))]
    parts += [
        section("Corrections", _list(paper.corrections)),
        section("Papers that disagree", _list(_disagreements(here, paper, site))),
        section("Related papers", _list(_related(here, paper.related, site))),
        section("Cite", tag("pre", tag("code", paper.bibtex), class_="pm-bib", tabindex="0")),
    ]
    return Page(path=here, text="\n".join(part for part in parts if part))


def _list(items: Iterable[Child]) -> Html | None:
    listed = [tag("li", item) for item in items]
    return tag("ul", *listed) if listed else None


def _head(here: str, paper: PaperView, site: Site) -> Html:
    posted = f" (preprint {paper.posted})" if paper.posted and paper.posted != paper.year else ""
    where = f"{paper.venue} {paper.year}" if paper.venue else f"{paper.year}"
    tags = [tag("li", explorer_link(here, name, tag=name), title=site.tags.get(name)) for name in paper.tags]
    links = [tag("li", tag("a", label, href=url, rel="noopener external")) for label, url in paper.links]
    return join(
        *(_path(here, name, site) for name in paper.categories if name in site.categories),
        tag("p", ", ".join(paper.authors), class_="pm-authors"),
        tag("p", where, posted, " · ", tag("code", paper.key), class_="pm-cite"),
        tag("ul", *links, class_="pm-links", aria_label="Links") if links else None,
        tag("p", paper.summary, class_="pm-lead"),
        tag("p", tag("strong", "What it computes. "), paper.computes) if paper.computes else None,
        _status(paper),
        tag("ul", *tags, class_="pm-tags", aria_label="Tags") if tags else None,
    )


def _path(here: str, name: str, site: Site) -> Html:
    """A category with those above it, as links."""
    parts = name.split("/")
    names = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    items = [
        tag("li", tag("a", site.categories[each].title, href=address(here, category_path(each)))) for each in names
    ]
    return tag("nav", tag("ol", *items), class_="pm-path", aria_label=f"Category {name}")


def _status(paper: PaperView) -> Html | None:
    if paper.status == "notebook":
        return None
    said = {"planned": "No notebook yet: it is planned.", "survey": "A survey; it has no notebook of its own."}
    word = said.get(paper.status, f"{STATUS_WORDS[paper.status].capitalize()}.")
    return tag("p", word, f" {paper.reason}" if paper.reason else "", class_="pm-note")


def _notebooks(here: str, paper: PaperView, site: Site) -> Html:
    notebooks = _list(_notebook(here, name, site) for name in paper.notebooks if name in site.notebooks)
    methods = _list(
        join(method.title, ": ", tag("code", f"{method.module}.{method.function}"), _variant(method.variant))
        for method in paper.methods
    )
    return join(notebooks, tag("p", "In the library:") if methods else None, methods)


def _notebook(here: str, name: str, site: Site) -> Html:
    testbeds = site.notebooks[name].testbeds
    number = f", {_testbeds(testbeds)}" if testbeds else ""
    return join(notebook_link(here, name, site), " (", tag("code", f"notebooks/{name}.ipynb"), f"{number})")


def _testbeds(names: tuple[str, ...]) -> str:
    return f"{len(names)} testbeds" if len(names) != 1 else "1 testbed"


def _variant(variant: Mapping[str, object]) -> Html | None:
    settings = ", ".join(f"{name}={value!r}" for name, value in variant.items())
    return join(" with ", tag("code", settings)) if settings else None


def claim_card(here: str, claim: ClaimView, site: Site) -> Html:
    """A claim: verdict, statement, the paper's numbers beside ours, its place, and each testbed."""
    measured = claim.notebook in site.notebooks and claim.n > 0
    return tag(
        "article",
        tag("p", verdict_badge(claim.verdict), " ", dots(claim), class_="pm-head"),
        tag("p", claim.says, class_="pm-says"),
        _sides(claim),
        tag("p", claim.reason, class_="pm-note") if claim.reason and not claim.n else None,
        tag("p", *_spread(_sources(here, claim, site, measured)), class_="pm-sources"),
        _each_testbed(claim.rows) if claim.rows else None,
        class_="pm-claim",
    )


def _sides(claim: ClaimView) -> Html | None:
    sides = [
        tag("div", tag("h4", title), tag("ul", *(tag("li", text) for text in texts)))
        for title, texts in (
            ("The paper reports", claim.reported),
            ("Here: mean [95 % interval] over the testbeds", claim.ours),
        )
        if texts
    ]
    return tag("div", *sides, class_="pm-sides") if sides else None


def _sources(here: str, claim: ClaimView, site: Site, measured: bool) -> Iterator[Html]:
    if claim.own:
        yield Html("A statement of ours, not of the paper")
    elif claim.where:
        yield join("In the paper: ", claim.where)
    if measured:
        yield join("measured in ", tag("a", claim.notebook, href=address(here, notebook_path(claim.notebook))))
    if claim.contradicted_by:
        yield join("contradicted by ", keys_as_links(here, claim.contradicted_by, site))


def _spread(parts: Iterable[Html]) -> Iterator[Child]:
    for number, part in enumerate(parts):
        yield from ((" · ", part) if number else (part,))


def _each_testbed(rows: tuple[TestbedRow, ...]) -> Html:
    names = list(dict.fromkeys(name for row in rows for name, _ in row.measured))
    notes = any(row.note for row in rows)
    head = ["testbed", "holds", *names, *(["note"] if notes else [])]
    body = []
    for row in rows:
        values = dict(row.measured)
        cells = [
            row.found,
            *(values.get(name, "") for name in names),
            *([row.note] if notes else []),
        ]
        body.append(tag("tr", tag("th", row.testbed, scope="row"), *(tag("td", cell) for cell in cells)))
    table = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", name, scope="col") for name in head))),
        tag("tbody", *body),
        class_="pm-table",
    )
    return tag(
        "details",
        tag("summary", "Each testbed"),
        tag("div", table, class_="pm-scroll", tabindex="0", role="region", aria_label="Each testbed"),
    )


def _disagreements(here: str, paper: PaperView, site: Site) -> Iterator[Html]:
    for each in paper.disagreements:
        own = each.by == paper.key
        side = "This paper disagrees with " if own else "Disagreed with by "
        other = keys_as_links(here, [each.against if own else each.by], site)
        yield join(side, other, ": ", each.about)


def _related(here: str, keys: Iterable[str], site: Site) -> Iterator[Html]:
    for key in keys:
        if key in site.papers:
            yield join(keys_as_links(here, [key], site), ": ", site.papers[key].title)
