"""KnowEdit's six tasks as data: where their requests come from, and what is measured on them (zhang2024knowedit,
sections 3.4, 3.5 and 4.1).

    tasks = tasks_for(lm, "world", per_task=4)             # task -> edits of the testbed's world
    tasks = tasks_for(lm, "recent.json, convsent.json")    # the published sets, told apart by their schema
    for measure in TASKS["sentiment"].measures: print(measure)

A task asks the same questions in two protocols, and a measure belongs to one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest, FrozenDict

if TYPE_CHECKING:
    from paramem.models import LM

Protocol: TypeAlias = Literal["teacher_forced", "generated"]
PROTOCOLS: tuple[Protocol, ...] = ("teacher_forced", "generated")
T = TypeVar("T")
Better: TypeAlias = Literal["higher", "lower"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a task: the mean of a column over the rows of a group, see `evaluation.Passport`.

    group, subgroup  "edit success" is reliability and generalisation together, as in the survey
    where            the equation or section that defines it
    """

    name: str
    group: str
    column: str
    subgroup: str = "all"
    protocol: Protocol = "teacher_forced"
    better: Better = "higher"
    where: str = ""

    def __str__(self) -> str:
        part = self.group if self.subgroup == "all" else f"{self.group}/{self.subgroup}"
        return f"{self.name}: mean {self.column} of {part}, {self.protocol}, {self.better} is better"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One of the six tasks.

    kind     what happens to knowledge: "insertion", "modification" or "erasure"
    set      the survey's data set
    sources  the readers (and generators) whose requests belong here
    """

    name: str
    title: str
    kind: Literal["insertion", "modification", "erasure"]
    set: str
    sources: tuple[str, ...]
    measures: tuple[Measure, ...]

    def of(self, protocol: Protocol) -> tuple[Measure, ...]:
        """The measures of one protocol; fluency, which is always generated, is among both."""
        return tuple(m for m in self.measures if m.protocol == protocol or m.group == "fluency")


def _both(name: str, group: str, column: str, **more: str) -> Iterator[Measure]:
    for protocol in PROTOCOLS:
        yield Measure(name=name, group=group, column=column, protocol=protocol, **more)  # type: ignore[arg-type]


_FLUENCY = Measure(name="fluency", group="fluency", column="entropy", protocol="generated", where="section 3.5")
_SUCCESS = tuple(
    measure
    for name, group in (("edit success", "edit success"), ("reliability", "reliability"), ("paraphrase", "paraphrase"))
    for measure in _both(name, {"paraphrase": "generalisation"}.get(group, group), "correct", where="Eq. (10)")
)
_DEFINITIONS = (  # what else is called success
    *_both("tokens right", "edit success", "token_accuracy", where="the released code"),
    Measure(name="new beats old", group="edit success", column="preferred", where="meng2022rome, section 3.3"),
)
_PORTABILITY = (
    *_both("portability", "portability", "correct", where="section 4.1"),
    *(
        measure
        for part in ("alias", "reasoning", "logical")
        for measure in _both(part, "portability", "correct", subgroup=part, where="section 3.5")
    ),
)
_LOCALITY = (
    *_both("locality", "locality", "same", where="Eq. (11)"),
    *(
        measure
        for name, part in (
            ("other subjects", "relation"),
            ("same subject", "subject"),
            ("forgetfulness", "forgetfulness"),
            ("distracting", "distracting"),
            ("out of distribution", "out_of_distribution"),
        )
        for measure in _both(name, "locality", "same", subgroup=part, where="section 3.5")
    ),
)
_FACTS = (*_SUCCESS, *_DEFINITIONS, *_PORTABILITY, *_LOCALITY, _FLUENCY)
_LONG = (
    *_both("edit success", "edit success", "token_accuracy", where="Eq. (10), token by token"),
    *_both("whole text", "edit success", "correct", where="Eq. (10)"),
    *_LOCALITY,
    _FLUENCY,
)
_SENTIMENT = (
    Measure(name="edit success", group="edit success", column="sentiment", where="Eq. (12)"),
    Measure(
        name="edit success", group="edit success", column="correct", protocol="generated", where="Eq. (12), in words"
    ),
    Measure(name="KL", group="locality", column="kl", better="lower", where="Eq. (13)"),
    *_LOCALITY,
    _FLUENCY,
)
_ERASURE = (
    *_SUCCESS,
    Measure(name="says it still", group="edit success", column="leaked", protocol="generated", better="lower"),
    *_LOCALITY,
    _FLUENCY,
)

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="insertion", title="Knowledge insertion", kind="insertion", set="WikiData recent",
            sources=("wikidata_recent", "rippleedits"), measures=_FACTS,
        ),
        Task(
            name="question", title="Question answering", kind="modification", set="ZsRE",
            sources=("knowedit_zsre", "zsre"), measures=_FACTS,
        ),
        Task(
            name="hallucination", title="Hallucination", kind="modification", set="WikiBio",
            sources=("wikibio",), measures=_LONG,
        ),
        Task(
            name="counterfact", title="Counterfact", kind="modification", set="WikiData counterfact",
            sources=("wikidata_counterfact", "counterfact", "mquake"), measures=_FACTS,
        ),
        Task(
            name="sentiment", title="Sentiment", kind="modification", set="ConvSent",
            sources=("convsent",), measures=_SENTIMENT,
        ),
        Task(
            name="sanitation", title="Sanitation", kind="erasure", set="Sanitation",
            sources=("sanitation",), measures=_ERASURE,
        ),
    )
}  # fmt: skip
FACT_TASKS = ("insertion", "question", "counterfact")  # those with all four criteria


def task_of(request: EditRequest) -> str:
    """The task that a request belongs to, by its source; "world/..." is counterfact unless it names a task.

    Raises BadInput for a source that no task knows.
    """
    last = request.source.rpartition("/")[2]
    for task in TASKS.values():
        if last == task.name or last in task.sources or request.source in task.sources:
            return task.name
    if request.source.startswith("world"):
        return "counterfact"
    known = ", ".join(source for task in TASKS.values() for source in task.sources)
    raise BadInput(
        f"request {request.id!r} comes from {request.source!r}, which belongs to none of the six tasks; their sources "
        f"are {known}. Give the record one of these as its source."
    )


def few_probes(request: EditRequest, most: int) -> EditRequest:
    """The request with at most so many probes of each kind, spread evenly from the first to the last."""
    if most < 1:
        raise BadParameter(f"probes={most}: at least one of each kind.")
    groups = {
        field: FrozenDict((name, spread(probes, most)) for name, probes in getattr(request, field).items())
        for field in ("portability", "locality")
    }
    prompts = {"generation_prompts": request.generation_prompts[:1]}
    return request.model_copy(update={"paraphrases": spread(request.paraphrases, most), **groups, **prompts})


def spread(items: Sequence[T], most: int) -> tuple[T, ...]:
    """At most so many of them, evenly from the first to the last."""
    if len(items) <= most:
        return tuple(items)
    return tuple(items[round(i * (len(items) - 1) / max(1, most - 1))] for i in range(most))


def tasks_for(
    lm: LM, dataset: str = "world", *, per_task: int | Mapping[str, int] = 4, probes: int = 2, seed: int = 0
) -> dict[str, tuple[EditRequest, ...]]:
    """Task -> at most `per_task` edits, with at most `probes` questions of each kind; tasks without data are absent.

    per_task  one number for all tasks, or a number for each
    dataset  "world", or files and hub ids with commas between, in published formats. Of a world only edits of the test
             side are taken, and of what must stay only facts of such subjects: whatever was learned or chosen
             beforehand has seen neither.
    """
    numbers = dict(per_task) if isinstance(per_task, Mapping) else dict.fromkeys(TASKS, per_task)
    if numbers.keys() != TASKS.keys() or min(numbers.values()) < 1:
        raise BadParameter(f"per_task={per_task}: at least one edit of each of the tasks {', '.join(TASKS)}.")
    found: dict[str, list[EditRequest]] = {}
    for request in _requests(lm, dataset, numbers, seed):
        found.setdefault(task_of(request), []).append(request)
    return {
        name: tuple(few_probes(request, probes) for request in found[name][: numbers[name]])
        for name in TASKS
        if found.get(name)
    }


def _requests(lm: LM, dataset: str, numbers: Mapping[str, int], seed: int) -> Iterator[EditRequest]:
    from paramem.material import edits_for, of_unseen_subjects, world_behind
    from paramem.world.tasks import tasks_of

    if dataset == "world":
        for task in tasks_of(world_behind(lm)):
            found = edits_for(lm, "world", n=numbers[task], seed=seed, part="test", task=task)
            yield from of_unseen_subjects(found)
        return
    names = [name.strip() for name in dataset.split(",") if name.strip()]
    if not names:
        raise BadInput("dataset is empty: 'world', or files of edits with commas between (-p dataset=recent.json).")
    for name in names:
        yield from edits_for(lm, name, seed=seed)
