"""Two editors on the same edits: paired differences, who is beaten by nobody, and the paper's table beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from paramem.benchmarking.bench import Bench
from paramem.benchmarking.tasks import TASKS, Measure, Protocol
from paramem.errors import BadInput, BadParameter
from paramem.evaluation.intervals import Span, over_edits, span

if TYPE_CHECKING:
    from paramem.taxonomy import Entry


SHARES = ("edit success", "portability", "locality")


def measure_of(task: str, name: str, protocol: Protocol) -> Measure:
    """A task's measure by name. Raises BadParameter when it has none of that name in that protocol."""
    found = [each for each in TASKS[task].of(protocol) if each.name == name]
    if not found:
        known = ", ".join(each.name for each in TASKS[task].of(protocol))
        raise BadParameter(f"the task {task!r} has no measure {name!r} in protocol {protocol!r}; it has {known}")
    return found[0]


def per_edit(bench: Bench, editor: str, tasks: Sequence[str], name: str, protocol: Protocol) -> pd.Series:
    """Mean over the probes of every edit, by request; edits without such probes are left out."""
    found = []
    for task in tasks:
        if (editor, task) not in bench.frames:
            raise BadInput(f"{editor} was not run on {task}: {bench.refused.get((editor, task), 'no such edits')}")
        found.append(bench.means(editor, task, measure_of(task, name, protocol)))
    return pd.Series(pd.concat(found), dtype=np.float64)


def mean(bench: Bench, editor: str, tasks: Sequence[str], name: str, protocol: Protocol = "generated") -> Span:
    """A measure of one editor over the edits of several tasks; nan where none of them has probes for it."""
    values = per_edit(bench, editor, tasks, name, protocol)
    return over_edits(values) if len(values) else Span(np.nan, np.nan, np.nan)


def difference(
    bench: Bench, one: str, other: str, tasks: Sequence[str], name: str, protocol: Protocol = "generated"
) -> Span:
    """`one` minus `other`, edit by edit."""
    sides = [per_edit(bench, editor, tasks, name, protocol) for editor in (one, other)]
    return span((sides[0] - sides[1]).dropna())


def within(
    bench: Bench, editor: str, tasks: Sequence[str], name: str, than: str, protocol: Protocol = "generated"
) -> Span:
    """One measure minus another of the same editor, edit by edit."""
    sides = [per_edit(bench, editor, tasks, each, protocol) for each in (name, than)]
    return span((sides[0] - sides[1]).dropna())


def shown(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """The table as text, rounded, with nothing where there is no number."""
    return table.map(lambda x: "" if pd.isna(x) else f"{x:.{digits}f}" if isinstance(x, float) else str(x))


def ran(bench: Bench, tasks: Sequence[str], names: Sequence[str] = ()) -> tuple[str, ...]:
    """The editors (of those named) that were run on all of these tasks, in the order of the run."""
    return tuple(
        editor
        for editor in bench.editors
        if (not names or editor in names) and all((editor, task) in bench.frames for task in tasks)
    )


def overview(bench: Bench, protocol: Protocol, names: Sequence[str] = SHARES, *, before: bool = False) -> pd.DataFrame:
    """Editors as rows; columns (task, measure) for the measures that are shares, one protocol throughout.

    before: the unedited model as the first row; empty where a measure compares with it.
    """
    parts = {}
    for task in bench.tasks:
        table = bench.table(task, protocol, before=before)
        shown = [name for name in names if name in table and measure_of(task, name, protocol).column != "kl"]
        parts[TASKS[task].title] = table[shown]
    return pd.concat(parts, axis=1).reindex([*(["(before)"] if before else []), *bench.editors])


def spans(bench: Bench, tasks: Sequence[str], names: Sequence[str], protocol: Protocol = "generated") -> pd.DataFrame:
    """One row per editor and measure over several tasks: mean, low, high; of editors that were run on all of them."""
    rows = []
    for editor in ran(bench, tasks):
        for name in names:
            values = per_edit(bench, editor, tasks, name, protocol)
            if len(values):
                rows.append({"editor": editor, "measure": name, "edits": len(values), **span(values)._asdict()})
    return pd.DataFrame(rows)


def front(points: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Those whom nobody beats in both coordinates, more being better: the Pareto front, from left to right.

    >>> front({"a": (1.0, 0.2), "b": (0.5, 0.9), "c": (0.4, 0.4)})
    ('b', 'a')
    """
    best = [
        name
        for name, (x, y) in points.items()
        if not any(u >= x and v >= y and (u, v) != (x, y) for u, v in points.values())
    ]
    return tuple(sorted(best, key=lambda name: points[name]))


def printed(entry: Entry) -> pd.DataFrame:
    """The numbers of the paper's Table 4 that its entry records: editor, set, quantity, as printed, as corrected later.

    These are another model's, on other data and by another protocol: a table of their own, never columns beside ours.
    """
    rows = {}
    for claim in entry.claims.values():
        for each in claim.reported:
            who, _, name = each.setting.partition(", ")
            quantity, _, editor = each.quantity.partition(" of ")  # where one claim speaks of several editors
            if each.where == "Table 4" and name:
                corrected = each.corrected.value if each.corrected else each.value
                rows[editor or who, name, quantity] = (each.value, corrected)
    found = [(*key, *values) for key, values in rows.items()]
    return pd.DataFrame(found, columns=["editor", "set", "quantity", "printed", "corrected"])


def as_corrected(paper: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `printed`, (set, quantity) by editor: as printed and, behind an arrow, as corrected later."""
    both = zip(paper["printed"], paper["corrected"], strict=True)
    texts = [f"{old:.1f}" if old == new else f"{old:.1f} → {new:.1f}" for old, new in both]
    table = paper.assign(text=texts).pivot(index=["set", "quantity"], columns="editor", values="text")
    return table.where(table.notna(), "")
