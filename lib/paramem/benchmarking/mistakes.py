"""Kinds of wrong answers (zhang2024knowedit, section 4.5 and Figure 5), told apart by rules over words.

The survey sorts by hand into four kinds. Here every freely generated answer to an edit's own prompt or a paraphrase is
sorted by the first rule that fits:

===============  ====================================================================================
right            it begins with the target
meaningless      it holds no word, or one word again and again
unchanged        it begins with the old answer, as if there had been no edit
missing          some words of the target and nothing else
partial          some words of the target beside others, or the old answer's beside the target's
irrelevant       anything else
===============  ====================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from paramem.evaluation.answers import begins_with
from paramem.evaluation.knowedit import SUCCESS

DEPARTURES = {
    "judge": ("people read the answers", "rules over words", "so that a run gives the same counts again"),
    "unchanged": (
        "an answer that keeps the old object counts as partial replacement or as irrelevant",
        "a kind of its own",
        "an edit that did nothing is another failure than one that did something else",
    ),
    "length": ("whole generations are read", "as many tokens as the target has, and one", "what follows is no answer"),
}
KINDS = ("right", "meaningless", "unchanged", "missing", "partial", "irrelevant")
_WORD = re.compile(r"\w+")


def kind_of(answer: str, wanted: Sequence[str], old: str | None) -> str:
    """One of `KINDS`; `wanted` are all accepted forms of the target.

    >>> [
    ...     kind_of(said, ["Norvane Group"], "Lyon")
    ...     for said in ("Norvane Group.", "Lyon.", "Norvane.", "Norvane City", "red")
    ... ]
    ['right', 'unchanged', 'missing', 'partial', 'irrelevant']
    """
    if begins_with(answer, wanted):
        return "right"
    said = [word.casefold() for word in _WORD.findall(answer)]
    if not said or (len(said) > 1 and len(set(said)) == 1):
        return "meaningless"
    if old and begins_with(answer, [old]):
        return "unchanged"
    target = {word.casefold() for text in wanted for word in _WORD.findall(text)}
    shared = [word for word in said if word in target]
    if not shared:
        return "irrelevant"
    return "missing" if len(shared) == len(said) else "partial"


def mistakes(frame: pd.DataFrame, aliases: dict[tuple[str, int], tuple[str, ...]] | None = None) -> pd.DataFrame:
    """One row per generated answer after the edit: request, probe, answer, target, old answer, kind.

    aliases  (request, probe) -> other accepted forms of the target
    """
    rows = frame[frame["state"].eq("after") & frame["protocol"].eq("generated") & frame["group"].isin(SUCCESS)]
    found = []
    for row in rows.itertuples():
        other = (aliases or {}).get((str(row.request), int(str(row.probe))), ())
        old = row.rival if isinstance(row.rival, str) else None
        kind = kind_of(str(row.answer), [str(row.target), *other], old)
        found.append(
            {
                "request": row.request,
                "probe": row.probe,
                "answer": row.answer,
                "target": row.target,
                "old": old,
                "kind": kind,
            }
        )
    return pd.DataFrame(found, columns=["request", "probe", "answer", "target", "old", "kind"])


def counts(by_editor: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Editors as rows, kinds as columns: how many answers."""
    table = {name: frame["kind"].value_counts() for name, frame in by_editor.items()}
    return pd.DataFrame(table).T.reindex(columns=list(KINDS)).fillna(0).astype(int)
