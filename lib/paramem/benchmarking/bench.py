"""All editors on all tasks, on one ground.

    bench = benchmark(lm, tasks_for(lm), editors("main"), layer=0, materials=materials_for(lm))
    bench.numbers()                            # one row per editor, task and measure, with interval and passport
    bench.table("counterfact", "generated")    # editors beside each other, one protocol
    bench.refused                              # (editor, task) -> why it could not be run

Every edit is made on the clean model, asked all its probes and taken off again. What the unedited model says is asked
once per task. An editor that can make no edit of a task (nothing was meta-learned for this model, the model has no old
answer to start from) is listed with the reason that it gives. One that cannot make some of them leaves the model as it
is there, and these count as edits that failed. Edits that were made and cannot be asked after (with what they put
before a prompt it exceeds the context) are listed apart; any other error is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from paramem.benchmarking.configurations import configuration_of
from paramem.benchmarking.costs import Cost, Meter
from paramem.benchmarking.stories import fluency_rows, stories
from paramem.benchmarking.tasks import TASKS, Measure, Protocol
from paramem.editing.sharing import sharing
from paramem.errors import BadInput, BadParameter, ParamemError, PromptTooLong
from paramem.evaluation import Baseline, Fluency, Metric, Summary, baseline, compare, summarise
from paramem.evaluation.evaluate import evaluate_together
from paramem.evaluation.knowedit import knowedit_columns
from paramem.evaluation.summary import STATISTICS
from paramem.facts import EditRequest, Fact
from paramem.interventions import WeightDelta
from paramem.registry import Method, methods

if TYPE_CHECKING:
    from paramem.interventions import Intervention
    from paramem.models import LM

Tasks = Mapping[str, Sequence[EditRequest]]
RESAMPLES = 1000
SHORT = Fluency(new_tokens=30)  # testbeds read at most 128 tokens at once
TOLD = 4  # edits of a task after which texts are told; a text takes as many forwards as it has tokens


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What editors may need beside the edits: ordinary text, and facts that the model knows and nobody edits."""

    texts: Sequence[str] = ()
    facts: Sequence[Fact] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """What `benchmark` found.

    frames   (editor, task) -> the tidy table of `evaluate`, with KnowEdit's columns
    costs    editor -> cost per edit, over all tasks that it was run on
    refused  (editor, task) -> why it made no edit
    missing  (editor, task) -> the requests that it did not make an edit of, with the reason of each
    unasked  (editor, task) -> why the edits were made and could not be asked after
    """

    frames: Mapping[tuple[str, str], pd.DataFrame]
    costs: Mapping[str, Cost]
    refused: Mapping[tuple[str, str], str]
    missing: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    unasked: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def editors(self) -> tuple[str, ...]:
        """Those that were run, in the order of the call."""
        return tuple(dict.fromkeys(editor for editor, _ in self.frames))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the survey's order."""
        asked = {task for _, task in self.frames}
        return tuple(task for task in TASKS if task in asked)

    @cached_property
    def after(self) -> Mapping[tuple[str, str], Mapping[tuple[str, str], pd.DataFrame]]:
        """(editor, task) -> (protocol, group) -> what the edited models said; taken apart once for all questions."""
        return {
            key: {
                (str(protocol), str(group)): rows
                for (protocol, group), rows in frame[frame["state"].eq("after")].groupby(["protocol", "group"])
            }
            for key, frame in self.frames.items()
        }

    @cached_property
    def _means(self) -> dict[tuple[str, str, Measure], pd.Series]:
        return {}

    def means(self, editor: str, task: str, measure: Measure) -> pd.Series:
        """What the edited models score, the mean over the probes of every edit that has some, by request."""
        if (editor, task, measure) not in self._means:
            rows = self.after[editor, task].get((measure.protocol, measure.group), self.frames[editor, task].iloc[:0])
            rows = rows if measure.subgroup == "all" else rows[rows["subgroup"].eq(measure.subgroup)]
            self._means[editor, task, measure] = rows.groupby("request", sort=True)[measure.column].mean().dropna()
        return self._means[editor, task, measure]

    @cached_property
    def metrics(self) -> Mapping[tuple[str, str, str, Measure], Metric]:
        """(editor, task, state, measure) -> number with interval and passport."""
        found = {}
        for (editor, task), frame in self.frames.items():
            for (state, measure), metric in metrics_of(frame, TASKS[task].measures).items():
                found[editor, task, state, measure] = metric
        return found

    def numbers(self, state: str = "after") -> pd.DataFrame:
        """One row per editor, task and measure: value, interval, passport."""
        return pd.DataFrame(
            {"editor": editor, "task": task, "measure": measure.name, "better": measure.better} | metric.as_dict()
            for (editor, task, at, measure), metric in self.metrics.items()
            if at == state
        )

    def table(self, task: str, protocol: Protocol, *, before: bool = True) -> pd.DataFrame:
        """Editors as rows, the task's measures in one protocol as columns; the first row is the unedited model.

        Raises PassportMismatch rather than put numbers side by side that came about differently.
        """
        if task not in self.tasks:
            raise BadParameter(f"no edits of the task {task!r} were made; there are {', '.join(self.tasks)}")
        ran = [editor for editor in self.editors if (editor, task) in self.frames]
        columns: dict[str, dict[str, float]] = {}
        for measure in TASKS[task].of(protocol):
            found = {e: m for e in ran if (m := self.metrics.get((e, task, "after", measure)))}
            if not found:
                continue
            compare({editor: Summary((metric,)) for editor, metric in found.items()})
            columns[measure.name] = {editor: metric.value for editor, metric in found.items()}
            earlier = self.metrics.get((ran[0], task, "before", measure))
            if before and earlier is not None:
                columns[measure.name]["(before)"] = earlier.value
        rows = ["(before)", *ran] if before else ran
        return pd.DataFrame(columns).reindex(rows)


def editors(names: str = "all") -> tuple[Method, ...]:
    """Registered editors: "all", "main" (no variants), "variants" (nothing else), or names with commas between.

    Raises BadParameter for a name that is none.
    """
    known = {each.name: each for each in methods("editor")}
    main = [name for name, each in known.items() if each.variant_of is None]
    groups = {"all": list(known), "main": main, "variants": [name for name in known if name not in main], "": []}
    wanted: list[str] = []
    for name in (each.strip() for each in names.split(",")):
        wanted += groups.get(name, [name])
    if unknown := [name for name in wanted if name not in known]:
        raise BadParameter(
            f"no editor is called {unknown[0]!r}; there are {', '.join(known)}, and 'main', 'variants' or 'all'"
        )
    return tuple(known[name] for name in dict.fromkeys(wanted))


@sharing()
def benchmark(
    lm: LM,
    tasks: Tasks,
    chosen: Sequence[Method],
    *,
    layer: int,
    materials: Materials | None = None,
    fluency: Fluency | None = SHORT,
    batch_size: int | None = None,
) -> Bench:
    """Run every editor on every task. layer: the traced one, see `configurations`. fluency: None to leave it out.

    Target states that several editors look for are found once, and charged to each of them (`Meter`).
    """
    if not tasks or not chosen:
        raise BadInput("nothing to run: benchmark(lm, tasks_for(lm, ...), editors(...)) needs both")
    grounds = {task: _Ground.of(lm, requests, fluency, batch_size) for task, requests in tasks.items()}
    frames: dict[tuple[str, str], pd.DataFrame] = {}
    listed: dict[str, dict[tuple[str, str], Any]] = {"refused": {}, "missing": {}, "unasked": {}}
    costs: dict[str, Cost] = {}
    for method in chosen:
        run = _Run.of(lm, method, tasks, grounds, layer, materials or Materials())
        told = run.with_texts(lm, tasks, grounds, fluency)
        frames.update({(method.name, task): knowedit_columns(frame) for task, frame in told})
        for kind, found in listed.items():
            found.update({(method.name, task): why for task, why in getattr(run, kind).items()})
        if run.made:
            costs[method.name] = run.meter.cost(lm, [edit for edits in run.made.values() for edit in edits])
    return Bench(frames=frames, costs=costs, **listed)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ground:
    """What the unedited model says to one task."""

    before: Baseline
    told: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, lm: LM, requests: Sequence[EditRequest], fluency: Fluency | None, batch_size: int | None) -> _Ground:
        told = [] if fluency is None else fluency_rows(stories(lm, requests[:TOLD], None, fluency), "before")
        return cls(before=baseline(lm, requests, batch_size=batch_size), told=told)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """One editor's edits by task, what the edited models say, and what it could not do; see `Bench`."""

    meter: Meter
    made: dict[str, list[Intervention]]
    frames: dict[str, pd.DataFrame]
    refused: dict[str, str]
    missing: dict[str, dict[str, str]]
    unasked: dict[str, str]

    @classmethod
    def of(
        cls, lm: LM, method: Method, tasks: Tasks, grounds: Mapping[str, _Ground], layer: int, materials: Materials
    ) -> _Run:
        run = cls(meter=Meter(device=lm.device), made={}, frames={}, refused={}, missing={}, unasked={})
        with run.meter.running():
            found = _made(lm, method, tasks, layer, materials)
        asked: dict[str, _Asked] = {}
        for task, requests in tasks.items():
            failed = {one.id: each for one, each in zip(requests, found[task], strict=True) if isinstance(each, str)}
            if len(failed) == len(requests):
                run.refused[task] = next(iter(failed.values()))
                continue
            edits = [WeightDelta({}) if isinstance(each, str) else each for each in found[task]]
            asked[task] = requests, edits, grounds[task].before
            if failed:
                run.missing[task] = failed
        for task, answer in _answers(lm, asked, method.name).items():
            if isinstance(answer, str):
                run.unasked[task] = answer
                run.missing.pop(task, None)
            else:
                run.frames[task], run.made[task] = answer, asked[task][1]
        return run

    def with_texts(
        self, lm: LM, tasks: Tasks, grounds: Mapping[str, _Ground], fluency: Fluency | None
    ) -> Iterator[tuple[str, pd.DataFrame]]:
        """(task, table); the texts of all tasks are generated together."""
        if fluency is None or not self.made:
            yield from self.frames.items()
            return
        pairs = [pair for task, edits in self.made.items() for pair in zip(tasks[task][:TOLD], edits, strict=False)]
        told = stories(lm, [request for request, _ in pairs], [edit for _, edit in pairs], fluency)
        for task, frame in self.frames.items():
            own = {request.id for request in tasks[task]}
            rows = fluency_rows([story for story in told if story.request.id in own], "after")
            yield task, _with_rows(frame, [*grounds[task].told, *rows], fluency.seed)


_Asked = tuple[Sequence[EditRequest], "list[Intervention]", Baseline]


def _answers(lm: LM, asked: Mapping[str, _Asked], name: str) -> dict[str, pd.DataFrame | str]:
    """The table of every task, in forwards that all share; where a prompt is too long, task by task, with the reason in
    the place of its table."""
    try:
        return dict(zip(asked, evaluate_together(lm, list(asked.values()), name=name), strict=True))
    except PromptTooLong as error:
        if len(asked) == 1:
            return dict.fromkeys(asked, str(error))
        return {task: _answers(lm, {task: each}, name)[task] for task, each in asked.items()}


def _made(
    lm: LM, method: Method, tasks: Tasks, layer: int, materials: Materials
) -> dict[str, list[Intervention | str]]:
    """The edits of every task, all in one call; where one of them fails, one by one, with the reason in its place."""
    several = [request for requests in tasks.values() for request in requests]
    found: list[Intervention | str] = []
    try:
        found += edits_of(lm, method, several, layer=layer, materials=materials)
    except ParamemError:
        for request in several:
            try:
                found += edits_of(lm, method, [request], layer=layer, materials=materials)
            except ParamemError as error:
                found.append(str(error))
    each = iter(found)
    return {task: [next(each) for _ in requests] for task, requests in tasks.items()}


def edits_of(
    lm: LM, method: Method, requests: Sequence[EditRequest], *, layer: int, materials: Materials
) -> list[Intervention]:
    """Each request as an edit of its own on the model as it is, with the editor's fixed configuration."""
    given: dict[str, Any] = configuration_of(method.name).arguments(method, lm, layer)
    return method.edit_each(lm, requests, texts=materials.texts, facts=materials.facts, known="keep", **given)


def metrics_of(
    frame: pd.DataFrame, measures: Sequence[Measure], *, resamples: int = RESAMPLES
) -> dict[tuple[str, Measure], Metric]:
    """(state, measure) -> its number, for the measures that the table has rows for."""
    wanted = {measure.column for measure in measures}
    slim = frame.drop(columns=[s.column for s in STATISTICS if s.column not in wanted], errors="ignore")
    asked = {(m.protocol, m.group, m.subgroup, m.column) for m in measures}
    found = {metric.passport.key: metric for metric in summarise(slim, resamples=resamples, only=asked).metrics}
    places = {(key[0], key[1], key[2], key[3], key[-1]): metric for key, metric in found.items()}
    result = {}
    for state in ("before", "after"):
        for m in measures:
            metric = places.get((m.group, m.subgroup, m.column, m.protocol, state))
            if metric is not None:
                result[state, m] = metric
    return result


def joined(bench: Bench, editor: str, tasks: Sequence[str]) -> pd.DataFrame:
    """The tables of one editor over several tasks as one. Raises BadInput where it was not run on all of them."""
    missing = [task for task in tasks if (editor, task) not in bench.frames]
    if missing:
        raise BadInput(f"{editor} was not run on {missing[0]}: {bench.refused.get((editor, missing[0]), 'no edits')}")
    return pd.concat([bench.frames[editor, task] for task in tasks], ignore_index=True)


def _with_rows(frame: pd.DataFrame, rows: Sequence[Mapping[str, Any]], seed: int) -> pd.DataFrame:
    """Rows of generated texts, with what all rows of the table share."""
    first = frame.iloc[0]
    shared = {name: first[name] for name in ("edit", "model", "model_hash")}
    hashes = dict(zip(frame["request"], frame["request_hash"], strict=True))
    more = pd.DataFrame([{**row, **shared, "request_hash": hashes[row["request"]]} for row in rows])
    return pd.concat([frame, more], ignore_index=True).assign(seed=seed)


def materials_for(
    lm: LM, tasks: Tasks, dataset: str = "world", text: str = "world", *, n_texts: int = 1000
) -> Materials:
    """Ordinary text, and facts of subjects that no edit of these tasks is about.

    In a world those are facts of the training side; of files, the facts that held before their other edits.
    """
    from paramem.material import facts_for, part_of, text_for

    edited = {request.subject for requests in tasks.values() for request in requests}
    names = [name.strip() for name in dataset.split(",")]
    facts = [fact for name in names for fact in facts_for(lm, name) if fact.subject not in edited]
    if dataset == "world":
        facts = [fact for fact in facts if part_of(fact.subject) == "train"]
    return Materials(texts=text_for(lm, text, n=n_texts), facts=tuple(facts))
