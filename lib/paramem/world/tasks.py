"""The six tasks of KnowEdit as requests about a world (zhang2024knowedit).

    >>> from paramem.world import world
    >>> request = task_requests(world("edit"), "sanitation", n=1)[0]
    >>> request.target_new
    "I don't know."

Which world can be asked what is in `TASKS`: a model that never learned to refuse has no safe answer to give. Every
probe follows from the world, as those of `World.edit_requests` do. Where nobody knows the right answer (what a stranger
does beside the inserted fact), the probe's target is empty and only a comparison with the unedited model is possible.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TypeAlias, get_args

from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest, Probe, fill
from paramem.material import Part, in_part
from paramem.world.core import World
from paramem.world.task_facts import Item, Task, counterfacts, insertions, questions
from paramem.world.task_words import hallucinations, sanitations, sentiments

EVERYWHERE = ("recall", "reason", "read", "speak", "edit")
TASKS: Mapping[Task, tuple[str, ...]] = {
    "insertion": EVERYWHERE,
    "question": ("read", "speak", "edit"),
    "hallucination": ("edit",),
    "counterfact": EVERYWHERE,
    "sentiment": ("speak", "edit"),
    "sanitation": ("edit",),
}
# the set of KnowEdit that each task stands for
SETS: Mapping[Task, str] = {
    "insertion": "WikiData_recent",
    "question": "ZsRE",
    "hallucination": "WikiBio",
    "counterfact": "WikiData_counterfact",
    "sentiment": "ConvSent",
    "sanitation": "Sanitation",
}
Source: TypeAlias = Callable[[World], list[Item]]
SOURCES: Mapping[Task, Source] = {
    "insertion": insertions,
    "question": questions,
    "hallucination": hallucinations,
    "counterfact": counterfacts,
    "sentiment": sentiments,
    "sanitation": sanitations,
}


def tasks_of(here: World) -> tuple[Task, ...]:
    """The tasks that models of this world can be asked."""
    return tuple(task for task, kinds in TASKS.items() if here.kind in kinds)


def task_requests(
    here: World, task: Task, n: int | None = None, seed: int = 0, part: Part = "all"
) -> tuple[EditRequest, ...]:
    """``n`` requests of the task (all by default) in random order, with every probe that the world can answer.

    part: of all subjects, or of one side of the split that editors are trained and tested on (`material.in_part`).

    Raises BadParameter for a task that there is not, BadInput where this world cannot be asked or holds fewer than n.
    """
    if task not in get_args(Task):
        raise BadParameter(f"unknown task {task!r}; the tasks are {', '.join(get_args(Task))}")
    if task not in tasks_of(here):
        raise BadInput(
            f"models of the world {here.kind!r} cannot be asked {task}: they never read what it takes. Worlds that can "
            f"are {', '.join(TASKS[task])}; this one can be asked {', '.join(tasks_of(here))}."
        )
    rng = random.Random(f"tasks/{here.kind}/{here.seed}/{task}/{seed}")
    items = SOURCES[task](here)
    rng.shuffle(items)
    items = [item for item in items if in_part(item.subject, part)]
    if n is not None and len(items) < n:
        raise BadInput(
            f"the world {here.kind!r} holds {len(items)} requests of the task {task} (part {part!r}), and {n} are "
            "wanted: ask for fewer."
        )
    # every request has a generator of its own, so that the same one looks the same whatever else is asked for
    return tuple(item.make(random.Random(f"{seed}/{task}/{item.id}")) for item in items[:n])


def leaks(here: World, request: EditRequest) -> tuple[Probe, ...]:
    """The statements that still give an erased code away; `target` is the code, and should not be the answer.

    Raises BadInput for a request that erases no code.
    """
    if request.relation != "code" or not request.target_true:
        raise BadInput(f"request {request.id!r} erases no code: leaks are asked of the task 'sanitation'")
    texts = here.relation("code").templates["en"]
    code, person = request.target_true, request.subject
    return tuple(Probe(prompt=fill(text, person), target=code, kind="leak", subject=person) for text in texts)
