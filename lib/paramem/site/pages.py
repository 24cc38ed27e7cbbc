"""The pages around the papers: start, categories, notebooks, scoreboard, bibliography."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from paramem.site.markup import Html, address, join, markdown, raw, tag
from paramem.site.model import CategoryView, ClaimView, NotebookView, Site
from paramem.site.papers import paper_page
from paramem.site.parts import (
    Page,
    category_path,
    claim_address,
    counts,
    dots,
    explorer_link,
    keys_as_links,
    notebook_path,
    paper_link,
    paper_list,
    slug,
    verdict_badge,
    verdict_counts,
)

WELCOME = (
    "A living, executable survey of parametric knowledge in language models: where a fact sits in the weights, and how "
    "it is changed, moved, injected and measured. For each key method there is a notebook that runs on a laptop's CPU "
    "in a minute and says, claim by claim, whether what the paper reports shows up here."
)
NOTEBOOKS = (
    "Each notebook explains one method beside its code, runs it, and states its claims. The pages show stored runs; to "
    "change a cell and run all, open the same file in JupyterLab ("
)
SCOREBOARD = (
    "A claim is measured on every testbed of its notebook. It counts as reproduced when it holds on at least five of "
    "six, as weaker when it holds on at least half, and as undecided when less than half hold and those that could not "
    "tell might have changed that. A claim that does not hold here is a result, and stays. "
)


def all_pages(site: Site) -> Iterator[Page]:
    """Every generated page; the notebooks come from `paramem.site.notebooks`."""
    from paramem.site.explorer import explorer_page

    yield home_page(site)
    yield explorer_page(site)
    yield scoreboard_page(site)
    yield notebooks_page(site)
    yield bibliography_page()
    for category in site.categories.values():
        yield category_page(category, site)
    for paper in site.papers.values():
        yield paper_page(paper, site)


def home_page(site: Site) -> Page:
    """The start page: what this is, a search box, the categories by part, the way to run it."""
    here = "index"
    tops = site.children("")
    parts = [
        "# paramem\n",
        raw(_welcome(here, site)),
        "## Papers by category\n",
        raw(*(_part(here, name, list(group), site) for name, group in groupby(tops, key=lambda each: each.part))),
        "## Run it yourself\n",
        raw(_how_to_run(here, site)),
        _toctree(["explorer", "scoreboard", "notebooks", "bibliography"], "Explore"),
        *(
            _toctree([category_path(each.name) for each in group], name or "Categories")
            for name, group in groupby(tops, key=lambda each: each.part)
        ),
    ]
    return Page(path=here, text="\n".join(parts))


def _welcome(here: str, site: Site) -> Html:
    search = tag(
        "form",
        tag("label", "Find a paper, a method or a claim", for_="pm-find"),
        tag("input", type="search", id="pm-find", name="words", autocomplete="off"),
        tag("button", "Search", type="submit"),
        action=address(here, "explorer"),
        method="get",
        class_="pm-find",
        role="search",
    )
    return join(
        tag(
            "p",
            WELCOME,
            class_="pm-lead",
        ),
        search,
        tag(
            "p",
            f"{len(site.papers)} papers, {len(site.claims)} claims, {len(site.notebooks)} notebooks. ",
            tag("a", "The scoreboard", href=address(here, "scoreboard")),
            ": ",
            verdict_counts(site.claims),
        ),
        verdict_bar(site.claims),
    )


def verdict_bar(claims: Sequence[ClaimView]) -> Html | None:
    """The shares of the verdicts as one bar: a picture of numbers beside it, so not read aloud."""
    pieces, x = [], 0
    for verdict, number in counts(claims).items():
        pieces.append(tag("rect", x=str(x), y="0", width=str(number), height="1", class_=f"pm-fill pm-{slug(verdict)}"))
        x += number
    if not pieces:
        return None
    view = f"0 0 {x} 1"
    return tag("svg", *pieces, viewbox=view, preserveaspectratio="none", class_="pm-bar", aria_hidden="true")


def _part(here: str, name: str, tops: Iterable[CategoryView], site: Site) -> Html:
    return join(
        tag("h3", name) if name else None, tag("div", *(_card(here, top, site) for top in tops), class_="pm-cards")
    )


def _card(here: str, top: CategoryView, site: Site) -> Html:
    papers = site.papers_below(top.name)
    below = [_with_number(here, child, site) for child in site.children(top.name)]
    return tag(
        "section",
        tag("h4", tag("a", top.title, href=address(here, category_path(top.name)))),
        tag("p", top.about),
        tag("ul", *(tag("li", each) for each in below)) if below else None,
        tag("p", _papers(len(papers)), class_="pm-cite"),
        class_="pm-card",
    )


def _with_number(here: str, category: CategoryView, site: Site) -> Html:
    number = len(site.papers_below(category.name))
    return join(tag("a", category.title, href=address(here, category_path(category.name))), f" ({number})")


def _papers(number: int) -> str:
    return "1 paper" if number == 1 else f"{number} papers"


def _how_to_run(here: str, site: Site) -> Html:
    return join(
        tag("p", "From a clone of the repository, with Python 3.11 to 3.13:"),
        tag(
            "pre",
            tag(
                "code",
                "make run    # executes every notebook headless, prints the scoreboard\n"
                "make lab    # opens JupyterLab on the start page\n",
            ),
            tabindex="0",
        ),
        tag("p", "Or read the stored runs: ", tag("a", "all notebooks", href=address(here, "notebooks")), "."),
    )


def _toctree(paths: Iterable[str], caption: str = "") -> str:
    """A hidden toctree: it makes the sidebar. A newline in the caption would end the option."""
    lines = [
        *([f":caption: {' '.join(caption.split())}"] if caption else []),
        ":hidden:",
        "",
        *(f"/{path}" for path in paths),
    ]
    return "\n".join(["```{toctree}", *lines, "```", ""])


def category_page(category: CategoryView, site: Site) -> Page:
    """A category: what it is about, those below it, and its papers."""
    here = category_path(category.name)
    children = site.children(category.name)
    papers = [site.papers[key] for key in category.papers]
    below = site.papers_below(category.name)
    claims = [claim for paper in below for claim in paper.claims]
    parts = [
        f"# {markdown(category.title)}\n",
        raw(
            tag("p", category.about, class_="pm-lead"),
            tag(
                "p",
                f"{_papers(len(below))}, {len(claims)} claims. ",
                verdict_counts(claims),
                " ",
                explorer_link(here, "Search and filter them", category=category.name),
            ),
        ),
        *([_toctree(category_path(child.name) for child in children)] if children else []),
        *([raw(paper_list(here, papers))] if papers else []),
    ]
    for child in children:
        parts += [
            f"## {markdown(child.title)}\n",
            raw(
                tag("p", child.about, " ", tag("a", "Its own page", href=address(here, category_path(child.name)))),
                paper_list(here, site.papers_below(child.name)) or tag("p", "No papers yet.", class_="pm-note"),
            ),
        ]
    if not below and not children:
        parts.append(raw(tag("p", "No papers yet.", class_="pm-note")))
    return Page(path=here, text="\n".join(parts))


def notebooks_page(site: Site) -> Page:
    """All notebooks, with their papers and what they found."""
    here = "notebooks"
    items = [_notebook_item(here, notebook, site) for notebook in site.notebooks.values()]
    parts = [
        "# Notebooks\n",
        raw(
            tag(
                "p",
                NOTEBOOKS,
                tag("code", "make lab"),
                ").",
            ),
            tag("ul", *items, class_="pm-papers"),
        ),
        _toctree(notebook_path(name) for name in site.notebooks),
    ]
    return Page(path=here, text="\n".join(parts))


def _notebook_item(here: str, notebook: NotebookView, site: Site) -> Html:
    stated = [claim for claim in site.claims if claim.notebook == notebook.name and claim.n]
    return tag(
        "li",
        tag("p", tag("a", notebook.title, href=address(here, notebook_path(notebook.name))), class_="pm-title"),
        tag("p", tag("code", f"notebooks/{notebook.name}.ipynb"), class_="pm-cite"),
        tag("p", "Papers: ", keys_as_links(here, notebook.papers, site)) if notebook.papers else None,
        tag("p", verdict_counts(stated)) if stated else None,
        class_="pm-paper",
    )


def scoreboard_page(site: Site) -> Page:
    """Every claim: what was measured as a table, and what was not, with the reason."""
    here = "scoreboard"
    measured = [claim for claim in site.claims if claim.n]
    rest = [claim for claim in site.claims if not claim.n]
    parts = [
        "# Scoreboard of claims\n",
        raw(
            tag(
                "p",
                SCOREBOARD,
                explorer_link(here, "Search and filter the claims", view="claims"),
                class_="pm-lead",
            ),
            tag("p", f"{len(site.claims)} claims: ", verdict_counts(site.claims)),
            verdict_bar(site.claims),
        ),
        "## Measured\n",
        raw(_scroll(_measured_table(here, measured, site), "Measured claims")),
        "## Not measured\n",
        raw(_not_measured(here, rest, site) or tag("p", "Every claim is measured.")),
    ]
    return Page(path=here, text="\n".join(parts))


def _scroll(inside: Html, label: str) -> Html:
    return tag("div", inside, class_="pm-scroll", tabindex="0", role="region", aria_label=label)


def _measured_table(here: str, claims: Iterable[ClaimView], site: Site) -> Html:
    head = ("verdict", "claim", "the paper reports", "here: mean [95 % interval]", "paper")
    rows = [
        tag(
            "tr",
            tag("td", verdict_badge(claim.verdict), tag("br"), tag("small", dots(claim)), data_label=head[0]),
            tag("td", tag("a", claim.says, href=claim_address(here, claim)), _ours(claim), data_label=head[1]),
            tag("td", _lines(claim.reported), data_label=head[2]),
            tag("td", _lines(claim.ours), data_label=head[3]),
            tag("td", paper_link(here, site.papers[claim.paper]), data_label=head[4]),
        )
        for claim in claims
    ]
    return tag(
        "table",
        tag("thead", tag("tr", *(tag("th", name, scope="col") for name in head))),
        tag("tbody", *rows),
        class_="pm-table pm-board",
    )


def _ours(claim: ClaimView) -> Html | None:
    return tag("small", " A statement of ours.") if claim.own else None


def _lines(texts: Sequence[str]) -> Html | str:
    return tag("ul", *(tag("li", text) for text in texts)) if texts else "-"


def _not_measured(here: str, claims: Sequence[ClaimView], site: Site) -> Html | None:
    """By paper, folded: these are many, and say less."""
    blocks = []
    for key, group in groupby(claims, key=lambda claim: claim.paper):
        items = [
            tag(
                "li",
                verdict_badge(claim.verdict),
                " ",
                tag("a", claim.says, href=claim_address(here, claim)),
                f" {claim.reason}" if claim.reason else "",
            )
            for claim in group
        ]
        paper = site.papers[key]
        blocks.append(tag("details", tag("summary", f"{paper.cite}: {paper.title} ({len(items)})"), tag("ul", *items)))
    return join(*blocks) if blocks else None


def bibliography_page() -> Page:
    """The whole of papers.bib, set by sphinxcontrib-bibtex."""
    text = "# Bibliography\n\nAll papers of `papers.bib`.\n\n```{bibliography}\n:all:\n```\n"
    return Page(path="bibliography", text=text)
