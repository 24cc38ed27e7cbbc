"""Finding papers, and one paper with everything that is known about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from paramem.bibliography import Paper
from paramem.claims import UNMEASURED, VERDICTS
from paramem.errors import BadParameter
from paramem.findings import nearest
from paramem.report import Score
from paramem.taxonomy import Category, Entry, Taxonomy
from paramem.taxonomy.schema import Status

STATES = ("notebook", *get_args(Status))


@dataclass(frozen=True, kw_only=True)
class Query:
    """What papers to look for; each part narrows the choice.

    Attributes:
        text: words that all occur in key, authors, title, venue, summary, tags or claims; case does not matter.
        category: a category or one that holds it.
        tags: all of them.
        status: ``notebook``, or why there is none.
    """

    text: str = ""
    category: str = ""
    tags: Sequence[str] = ()
    status: str = ""

    def checked(self, taxonomy: Taxonomy) -> Query:
        """This query.

        Raises:
            BadParameter: there is no such category, tag or status.
        """
        categories = dict(taxonomy.category_names())
        if self.category and self.category not in categories:
            raise BadParameter(_no("category", self.category, categories))
        for tag in self.tags:
            if tag not in taxonomy.tags:
                raise BadParameter(_no("tag", tag, taxonomy.tags))
        if self.status and self.status not in STATES:
            raise BadParameter(_no("status", self.status, STATES))
        return self


def _no(kind: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    return f"no {kind} {name!r}; {nearest(name, known) or 'there are: ' + ', '.join(known)}"


def find(query: Query, taxonomy: Taxonomy, papers: Mapping[str, Paper]) -> list[str]:
    """The papers that a query means, in reading order."""
    words = query.text.lower().split()
    inside = set(taxonomy.papers_in(query.category)) if query.category else set(taxonomy.entries)
    return [
        key
        for key in taxonomy.reading_order
        if key in inside
        and set(query.tags) <= set(taxonomy.entries[key].tags)
        and query.status in ("", taxonomy.entries[key].state)
        and all(word in _text(key, taxonomy.entries[key], papers.get(key)) for word in words)
    ]


def _text(key: str, entry: Entry, paper: Paper | None) -> str:
    said = [key, entry.summary, entry.computes or "", *entry.tags, *(claim.says for claim in entry.claims.values())]
    if paper is not None:
        said += [paper.title, " ".join(paper.authors), paper.venue, paper.cite(), paper.eprint]
    return " ".join(said).lower()


def by_category(keys: Sequence[str], taxonomy: Taxonomy, within: str = "") -> list[tuple[str, Category, list[str]]]:
    """Every category (of those ``within`` one) that holds one of the papers, in first or second place, in order."""
    found = [
        (name, category, [key for key in keys if name in (taxonomy.entries[key].category, *taxonomy.entries[key].also)])
        for name, category in taxonomy.category_names()
    ]
    return [
        (name, category, inside)
        for name, category, inside in found
        if inside and (not within or f"{name}/".startswith(f"{within}/"))
    ]


def paper_json(key: str, taxonomy: Taxonomy, paper: Paper | None, lines: Sequence[Score]) -> dict[str, Any]:
    """Everything about one paper as data."""
    entry = taxonomy.entries[key]
    data: dict[str, Any] = {"key": key, "entry": entry.model_dump(mode="json", exclude_defaults=True)}
    data["entry"]["claims"] = list(entry.claims)
    data["related"] = list(taxonomy.related(key))
    data["disagreements"] = [
        {"by": each.by, "against": each.against, "about": each.about} for each in taxonomy.disagreements(key)
    ]
    if paper is not None:
        data["bib"] = {"type": paper.entry.type, **paper.entry.fields}
        data["link"] = paper.link
        data["cite"] = paper.cite()
    return data


def counts(lines: Sequence[Score]) -> str:
    """How a paper's claims came out, in the order of `VERDICTS`: ``3 reproduced, 1 not attempted``."""
    verdicts = [line.verdict or UNMEASURED for line in lines]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts)
