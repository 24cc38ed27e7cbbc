"""Pieces that several kinds of page show: verdicts, links, lists of papers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlencode

from paramem.claims import VERDICTS
from paramem.site.markup import Html, address, tag
from paramem.site.model import ClaimView, PaperView, Site

STATUS_WORDS = {
    "notebook": "has a notebook",
    "planned": "notebook planned",
    "survey": "survey",
    "out of reach": "out of reach at this scale",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page before Sphinx has seen it: ``path`` without suffix, ``text`` in Markdown."""

    path: str
    text: str


def paper_path(key: str) -> str:
    """The page of a paper. Keys may hold a colon, which file names and addresses do not like."""
    return f"papers/{key.replace(':', '.')}"


def category_path(name: str) -> str:
    """The page of a category. Its folder holds those below it."""
    return f"categories/{name}"


def notebook_path(name: str) -> str:
    """The page of a notebook."""
    return f"notebooks/{name}"


def explorer_link(here: str, label: str, **filters: str) -> Html:
    """A link to the explorer with filters set."""
    return tag("a", label, href=f"{address(here, 'explorer')}#{urlencode(filters)}")


def paper_link(here: str, paper: PaperView, label: str | None = None) -> Html:
    """A link to a paper's page, named by its citation."""
    return tag("a", label or paper.cite, href=address(here, paper_path(paper.key)), title=paper.title)


def keys_as_links(here: str, keys: Iterable[str], site: Site) -> Html:
    """Papers by citation, with commas between; keys without a page stay text."""
    links = [paper_link(here, site.papers[key]) if key in site.papers else tag("code", key) for key in keys]
    return Html(", ".join(links))


def notebook_link(here: str, name: str, site: Site) -> Html:
    """A link to a notebook's page."""
    return tag("a", site.notebooks[name].title, href=address(here, notebook_path(name)))


def claim_address(here: str, claim: ClaimView) -> str:
    """Where a claim stands on its paper's page."""
    return address(here, f"{paper_path(claim.paper)}#{claim_anchor(claim.id)}")


def claim_anchor(claim_id: str) -> str:
    """The place of a claim (``meng2022rome.early-site``) on its page, as docutils spells the name of a label."""
    return re.sub(r"[^a-z0-9]+", "-", f"claim-{claim_id}").strip("-")


def verdict_badge(verdict: str, number: int | None = None) -> Html:
    """The verdict as a word on a colour; the word alone says it. With a number, how many claims have it."""
    return tag("span", verdict if number is None else f"{number} {verdict}", class_=f"pm-verdict pm-{slug(verdict)}")


def slug(text: str) -> str:
    """``not reproduced`` as ``not-reproduced``."""
    return text.replace(" ", "-")


def dots(claim: ClaimView) -> Html | None:
    """k of n as filled and empty dots, those that could not tell half filled, and in words."""
    if not claim.n:
        return None
    against = claim.n - claim.k - claim.undecided
    words = f" holds on {claim.k} of {claim.n} testbeds" + (f", {claim.undecided} undecided" if claim.undecided else "")
    return tag(
        "span",
        tag("span", "●" * claim.k + "◐" * claim.undecided + "○" * against, class_="pm-dots", aria_hidden="true"),
        words,
        class_="pm-held",
    )


def counts(claims: Iterable[ClaimView]) -> dict[str, int]:
    """How many claims have which verdict, in the order of `VERDICTS`, zeros left out."""
    found = Counter(claim.verdict for claim in claims)
    return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}


def verdict_counts(claims: Iterable[ClaimView]) -> Html | None:
    """``3 reproduced, 1 weaker`` as badges."""
    badges = [verdict_badge(verdict, number) for verdict, number in counts(claims).items()]
    return tag("span", *_spaced(badges), class_="pm-counts") if badges else None


def _spaced(parts: Iterable[Html]) -> Iterable[Html]:
    for part in parts:
        yield part
        yield Html(" ")


def paper_item(here: str, paper: PaperView) -> Html:
    """A paper in a list: title, citation, summary, what became of its claims."""
    state = (
        verdict_counts(paper.claims) if paper.notebooks else tag("span", STATUS_WORDS[paper.status], class_="pm-status")
    )
    return tag(
        "li",
        tag("p", tag("a", paper.title, href=address(here, paper_path(paper.key))), class_="pm-title"),
        tag("p", paper.cite, f", {paper.venue}" if paper.venue else "", class_="pm-cite"),
        tag("p", paper.summary),
        tag("p", state),
        class_="pm-paper",
    )


def paper_list(here: str, papers: Iterable[PaperView]) -> Html | None:
    """Papers, one below the other."""
    items = [paper_item(here, paper) for paper in papers]
    return tag("ul", *items, class_="pm-papers") if items else None
