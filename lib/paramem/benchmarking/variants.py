"""Variants beside the method that they are variants of: each edit by itself, and all edits as one change.

Some variants differ only where several edits meet (`Method.sequel`): an update solved for all keys at once or summed,
earlier keys remembered or forgotten. Their numbers are of one model that holds all edits, and stand in a table of their
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paramem.benchmarking.bench import Bench, Materials
from paramem.benchmarking.configurations import configuration_of
from paramem.benchmarking.tasks import task_of
from paramem.editing.sharing import sharing
from paramem.errors import ParamemError
from paramem.evaluation import baseline, evaluate
from paramem.evaluation.knowedit import knowedit_columns
from paramem.facts import EditRequest
from paramem.registry import Method, methods

if TYPE_CHECKING:
    import pandas as pd

    from paramem.models import LM


def variants_of(chosen: Sequence[Method], *, sequel: bool = False) -> tuple[Method, ...]:
    """The registered variants of these methods; sequel: those that differ only where several edits are made."""
    names = {each.name for each in chosen}
    return tuple(each for each in methods("editor") if each.variant_of in names and each.sequel == sequel)


def beside(bench: Bench, others: Bench) -> Bench:
    """The runs of `others` with, in front of each variant's, that of its method on the same edits, out of `bench`."""
    asked = {task: set(frame["request"]) for (_, task), frame in others.frames.items()}
    frames: dict[tuple[str, str], pd.DataFrame] = {}
    known = {each.name: each for each in methods("editor")}
    for (editor, task), frame in sorted(others.frames.items(), key=lambda item: known[item[0][0]].variant_of or ""):
        main = known[editor].variant_of or editor
        if (main, task) in bench.frames:
            whole = bench.frames[main, task]
            frames[main, task] = whole[whole["request"].isin(asked[task])].reset_index(drop=True)
        frames[editor, task] = frame
    return Bench(frames=frames, costs=others.costs, refused=others.refused)


@sharing()
def together(
    lm: LM, requests: Sequence[EditRequest], chosen: Sequence[Method], *, layer: int, materials: Materials
) -> Bench:
    """All requests, of one task, as one change by each editor; an editor that cannot is listed with its reason."""
    task, before = task_of(requests[0]), baseline(lm, requests)
    frames: dict[tuple[str, str], pd.DataFrame] = {}
    refused: dict[tuple[str, str], str] = {}
    for each in chosen:
        given: dict[str, Any] = configuration_of(each.name).arguments(each, lm, layer)
        try:
            edit = each.edit(lm, requests, texts=materials.texts, facts=materials.facts, known="keep", **given)
        except ParamemError as error:
            refused[each.name, task] = str(error)
            continue
        frames[each.name, task] = knowedit_columns(evaluate(lm, requests, edit, before=before, name=each.name))
    return Bench(frames=frames, costs={}, refused=refused)
