"""The explorer: one page with all papers and claims as data, filtered by `docs/site/_static/explorer.js`."""

from __future__ import annotations

from typing import Any

from paramem.site.markup import Child, Html, address, embedded_json, join, raw, tag
from paramem.site.model import STATUSES, ClaimView, PaperView, Site
from paramem.site.parts import STATUS_WORDS, Page, category_path, claim_address, counts, notebook_path, paper_path

HERE = "explorer"
SELECTS = (
    ("category", "Category"),
    ("method", "Method"),
    ("tag", "Tag"),
    ("status", "Notebook"),
)


def explorer_data(site: Site) -> dict[str, Any]:
    """What the script works on: papers with their claims, and the choices of each filter in reading order."""
    methods = {method.name: method.title for paper in site.papers.values() for method in paper.methods}
    tags = sorted({name for paper in site.papers.values() for name in paper.tags})
    statuses = {paper.status for paper in site.papers.values()}
    return {
        "choices": {
            "category": [[each.name, "\u2003" * each.depth + each.title] for each in site.categories.values()],
            "method": sorted(([name, title] for name, title in methods.items()), key=lambda pair: pair[1].lower()),
            "tag": [[name, name] for name in tags],
            "status": [[name, STATUS_WORDS[name]] for name in STATUSES if name in statuses],
            "verdict": [[verdict, verdict] for verdict in counts(site.claims)],
        },
        "papers": [_paper(paper, site) for paper in site.papers.values()],
    }


def _paper(paper: PaperView, site: Site) -> dict[str, Any]:
    return {
        "key": paper.key,
        "href": address(HERE, paper_path(paper.key)),
        "title": paper.title,
        "cite": paper.cite,
        "authors": ", ".join(paper.authors),
        "year": paper.year,
        "venue": paper.venue,
        "numbers": " ".join(label for label, _ in paper.links),
        "summary": paper.summary,
        "category": list(paper.categories),
        "method": [method.name for method in paper.methods],
        "tag": list(paper.tags),
        "status": [paper.status],
        "notebooks": [
            {"href": address(HERE, notebook_path(name)), "title": site.notebooks[name].title}
            for name in paper.notebooks
            if name in site.notebooks
        ],
        "claims": [_claim(claim) for claim in paper.claims],
    }


def _claim(claim: ClaimView) -> dict[str, Any]:
    return {
        "name": claim.name,
        "href": claim_address(HERE, claim),
        "says": claim.says,
        "own": claim.own,
        "verdict": claim.verdict,
        "holds": claim.held,
        "reported": "; ".join(claim.reported),
        "ours": "; ".join(claim.ours),
    }


def explorer_page(site: Site) -> Page:
    """The form, an empty list for the script to fill, the data, and the categories for who runs no script."""
    data = tag("script", embedded_json(explorer_data(site)), type="application/json", id="pm-data")
    shell = tag(
        "div",
        _form(),
        tag("p", id="pm-count", role="status", aria_live="polite"),
        tag("div", id="pm-results"),
        id="pm-explorer",
    )
    listed = [
        tag("li", tag("a", each.title, href=address(HERE, category_path(each.name)))) for each in site.children("")
    ]
    without = tag(
        "noscript", tag("p", "Searching needs JavaScript. Every paper is also listed by category:"), tag("ul", *listed)
    )
    script = tag("script", src="_static/explorer.js", defer=True)
    text = f"# Explorer\n\n{raw(without, shell, data, script)}"
    return Page(path=HERE, text=text)


def _form() -> Html:
    selects = [
        _field(label, tag("select", tag("option", "all", value=""), id=f"pm-{name}", name=name), f"pm-{name}")
        for name, label in SELECTS
    ]
    views = [
        tag(
            "label",
            tag("input", type="radio", name="view", value=value, checked=value == "papers"),
            f" {label}",
        )
        for value, label in (("papers", "papers"), ("claims", "claims"))
    ]
    return tag(
        "form",
        _field(
            "Search for",
            tag(
                "input",
                type="search",
                id="pm-words",
                name="words",  # a script of the theme empties every field called q
                autocomplete="off",
                placeholder="words, an author, a year, a key",
            ),
            "pm-words",
            "pm-wide",
        ),
        *selects,
        tag("fieldset", tag("legend", "Verdict on a claim"), tag("div", id="pm-verdicts"), class_="pm-wide"),
        tag("fieldset", tag("legend", "Show"), *views),
        tag("button", "Clear", type="reset"),
        id="pm-form",
        role="search",
        aria_label="Filter papers and claims",
    )


def _field(label: str, control: Child, for_: str, class_: str | None = None) -> Html:
    return tag("p", tag("label", label, for_=for_), join(control), class_=class_)
