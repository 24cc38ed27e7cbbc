"""What can be said about the world: relations with their templates, questions and inverses in two languages.

A template holds one `{}` for the subject and ends where the object follows; the full stop comes after the object. The
first template of a relation is its canonical form and is never withheld. `path` names the relations that a two-step
relation composes. The texts live in `data/relations.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from paramem.errors import BadParameter

LANGUAGES = ("en", "es")


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One relation.

    head       kind of its subjects: "person", "city", "country" or "company"
    range      kind of its objects: "city", "country", "company", "person", "instrument", "code", ...
    templates  language -> templates, canonical first
    questions  language -> question templates ("Q: Where was {} born? A:")
    inverse    language -> template of the inverse statement, the object in place of `{}`; empty where the object does
               not determine the subject
    path       for two-step relations, the relations to follow one after the other
    """

    id: str
    head: str
    range: str
    templates: Mapping[str, tuple[str, ...]]
    questions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inverse: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()


QUESTION = {"en": ("Q:", "A:"), "es": ("P:", "R:")}


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((files("paramem.world") / "data" / "relations.json").read_text(encoding="utf-8"))
    return table


@cache
def all_relations() -> Mapping[str, Relation]:
    """Every relation by id, in the order of the table."""
    relations = {}
    for name, row in _table()["relations"].items():
        asked = {k: tuple(f"{QUESTION[k][0]} {q} {QUESTION[k][1]}" for q in v) for k, v in row["questions"].items()}
        relations[name] = Relation(
            id=name,
            head=row["head"],
            range=row["range"],
            templates={language: tuple(texts) for language, texts in row["templates"].items()},
            questions=asked,
            inverse=row.get("inverse", {}),
            path=tuple(row.get("path", ())),
        )
    return relations


def relation(name: str) -> Relation:
    """The relation of that id."""
    found = all_relations().get(name)
    if found is None:
        raise BadParameter(f"unknown relation {name!r}; the relations are {', '.join(all_relations())}")
    return found


@cache
def lexicon(kind: str) -> Mapping[str, Mapping[str, str]]:
    """Words of a kind ("instrument", "field", "animal", "food", "product", "topic"): English -> {language: word}."""
    return {en: {"en": en, "es": es} for en, es in _table()["lexicon"][kind].items()}


@cache
def opinion_table() -> Mapping[str, Any]:
    """Wordings of opinions: `templates[language]` (one `{}` for the topic) and `words[language][positive|negative]`."""
    table: Mapping[str, Any] = _table()["opinions"]
    return table
