"""What edits moved in a whole world: by what a fact shares with the edit, as a picture, and beside a sample.

    asked = ask_all(lm, facts, kinds=FORMS)
    moved = ripple_each(lm, asked, requests, edits)     # every fact after every edit, in turning forms
    by_class(moved)                                     # share of answers that changed, per edit and class
    cells(moved_by_one_edit, request)                   # relations x subjects, for `plots.ripple_strips`

A fact counts only in forms that the unedited model answered rightly: elsewhere there is nothing that could be lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from paramem.errors import BadInput
from paramem.evaluation.intervals import bootstrap
from paramem.evaluation.ripple import Asked, ripple
from paramem.facts import EditRequest
from paramem.interventions import Intervention
from paramem.models import LM

FORMS = ("template", "paraphrase", "withheld", "inverse", "consequence")
CLASSES = {
    "subject": "same subject",
    "relation": "same relation",
    "object": "same object",
    "nothing": "nothing shared",
}


def ripple_each(
    lm: LM, asked: Asked, requests: Sequence[EditRequest], edits: Sequence[Intervention], *, turning: bool = True
) -> pd.DataFrame:
    """Rows of `ripple` for every edit alone, with its request's id in column ``edit``.

    turning: each edit asks every fact in one form, the next edit in the next one (`Asked.one_form_each`), so that a
    batch of edits covers all forms at the price of one; False asks every form after every edit.
    """
    if len(requests) != len(edits):
        raise BadInput(f"{len(edits)} edits for {len(requests)} requests: one is needed for each")
    frames = []
    for number, (request, edit) in enumerate(zip(requests, edits, strict=True)):
        part = asked.one_form_each(number) if turning else asked
        frames.append(ripple(lm, asked.facts, edit, request=request, before=part).assign(edit=request.id))
    return pd.concat(frames, ignore_index=True)


def by_class(moved: pd.DataFrame) -> pd.DataFrame:
    """Share of answers that changed and mean loss of the right answer's probability: edit, shares, moved, loss, n.

    Answers that were wrong before are left out, and so is the edited fact itself.
    """
    rows = moved[moved["correct_before"] & (moved["shares"] != "fact")]
    rows = rows.assign(moved=~rows["same"].astype(bool), loss=-rows["shift"])
    table = rows.groupby(["edit", "shares"], sort=False).agg(
        moved=("moved", "mean"), loss=("loss", "mean"), n=("moved", "size")
    )
    return table.reset_index()


def class_intervals(tables: Mapping[str, pd.DataFrame], column: str = "moved", *, seed: int = 0) -> pd.DataFrame:
    """Means over edits with 95 % bootstrap intervals, each edit with equal weight: editor, shares, mean, low, high.

    tables: editor -> ``by_class``.
    """
    rows = []
    for editor, table in tables.items():
        for name in CLASSES:
            values = table.loc[table["shares"] == name, column].to_numpy(dtype=float)
            if len(values):
                low, high = bootstrap(values, np.random.default_rng(seed))
                rows.append({"editor": editor, "shares": name, "mean": values.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def sides(table: pd.DataFrame, column: str = "moved") -> pd.DataFrame:
    """``by_class`` with a row an edit and a column a class, nan where an edit has no such fact: ready for `paired`."""
    return table.pivot(index="edit", columns="shares", values=column).reindex(columns=list(CLASSES))


def in_sample(moved: pd.DataFrame, requests: Sequence[EditRequest], group: str = "relation") -> np.ndarray:
    """Which rows speak of a fact that the edit's own locality probes of ``group`` ask for, whatever the wording."""
    templates = moved.loc[moved["kind"] == "template", ["fact", "prompt"]].drop_duplicates()
    facts = dict(zip(templates["prompt"], templates["fact"], strict=True))
    wanted = {
        (request.id, facts[probe.prompt])
        for request in requests
        for probe in request.locality.get(group, ())
        if probe.prompt in facts
    }
    return np.array([key in wanted for key in zip(moved["edit"], moved["fact"], strict=True)])


def any_of_as_many(moved: pd.Series, n: int) -> float:
    """The chance that one of ``n`` rows drawn at random, none twice, is among those that moved: nothing is drawn.

    Raises BadInput for more rows than there are.
    """
    if not 0 <= n <= len(moved):
        raise BadInput(f"{n} of {len(moved)} rows cannot be drawn")
    total, still = len(moved), len(moved) - int(moved.sum())
    return 1.0 - float(np.prod([(still - i) / (total - i) for i in range(min(n, still + 1))]))


def known_in(asked: Asked, requests: Sequence[EditRequest], kind: str) -> frozenset[str]:
    """Ids of the requests whose fact the model answers rightly in every question of that kind, and that have one."""
    found: dict[tuple[str, str | None], list[bool]] = {}
    for index, own, probe in asked.questions:
        if own == kind:
            fact, place = asked.facts[index], asked.place[probe.prompt, probe.target]
            found.setdefault((fact.subject, fact.relation), []).append(bool(asked.answers.exact[place]))
    return frozenset(r.id for r in requests if all(found.get((r.subject, r.relation), [False])))


def cells(moved: pd.DataFrame, request: EditRequest) -> pd.DataFrame:
    """Loss of the right answer's probability after one edit, 0 to 1: a row a relation, a column a subject.

    The relation with most subjects gives the columns: the edited subject first, then those whose object is the old or
    the new one, then all others. Relations of these subjects have a row each; facts about other things fill further
    rows from the left. Cells without a fact, or whose fact was not known, are nan. The edited fact is the first cell of
    its row where its subject has a column (its place is in ``attrs["edited"]``: row, column).
    """
    known = moved[moved["correct_before"]]
    loss = (-known["shift"]).clip(0, 1).groupby([known["relation"], known["subject"]], sort=False).mean()
    objects = moved.groupby(["relation", "subject"], sort=False)["object"].first()
    relations = list(dict.fromkeys(moved["relation"]))
    subjects = {name: list(objects[name].index) for name in relations}
    wide = max(relations, key=lambda name: len(subjects[name]))
    ends = (request.target_new, request.target_true)
    shared = {who for who in subjects[wide] if objects.get((request.relation, who)) in ends}
    columns = sorted(subjects[wide], key=lambda who: (who != request.subject, who not in shared))
    aligned = [name for name in relations if set(subjects[name]) <= set(columns)]
    aligned.sort(key=lambda name: name != request.relation)
    grid = {name: [loss.get((name, who), np.nan) for who in columns] for name in aligned}
    edited = (0, 0) if request.relation in aligned and columns[0] == request.subject else None
    rest = [(name, who) for name in relations if name not in aligned for who in subjects[name]]
    for start in range(0, len(rest), len(columns)):
        part = rest[start : start + len(columns)]
        if (request.relation, request.subject) in part:
            edited = (len(grid), part.index((request.relation, request.subject)))
        values = [loss.get(key, np.nan) for key in part]
        grid["other things" + " " * (start // len(columns))] = values + [np.nan] * (len(columns) - len(part))
    table = pd.DataFrame(grid, index=columns).T
    table.attrs["edited"] = edited
    return table
