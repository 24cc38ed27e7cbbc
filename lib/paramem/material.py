"""What a notebook works on: facts that the model knows, edits to make on it, text of the kind it was trained on.

The word ``"world"`` stands for the world that a bundled testbed was trained on; anything else is a file, a folder or
a hub id in one of the published formats, so that the same notebook runs on a testbed and on a downloaded model.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from paramem.errors import BadInput
from paramem.facts import EditRequest, Fact, FrozenDict
from paramem.readers import read_facts, read_requests

if TYPE_CHECKING:
    from paramem.models import LM
    from paramem.world import World
    from paramem.world.task_facts import Task


def facts_for(lm: LM, dataset: str = "world") -> tuple[Fact, ...]:
    """The facts of the testbed's world, or of a file or hub id (known_1000, CounterFact, ...)."""
    return world_behind(lm).facts if dataset == "world" else read_facts(dataset)


def known_facts(lm: LM, facts: Iterable[Fact], n: int, seed: int = 0, *, batch_size: int = 256) -> list[Fact]:
    """``n`` facts in random order whose object the model completes by itself, every token of it (meng2022rome,
    appendix B.1).

    Raises BadInput when it knows fewer than ``n``.
    """
    shuffled = sorted(facts, key=lambda fact: fact.id)
    random.Random(seed).shuffle(shuffled)
    chosen: list[Fact] = []
    for start in range(0, len(shuffled), batch_size):
        part = shuffled[start : start + batch_size]
        exact = lm.score([fact.prompt for fact in part], [fact.object for fact in part]).exact.tolist()
        chosen += [fact for fact, known in zip(part, exact, strict=True) if known]
        if len(chosen) >= n:
            return chosen[:n]
    raise BadInput(
        f"{lm.name} completes {len(chosen)} of {len(shuffled)} facts, and {n} are asked for. Ask for fewer "
        "(-p n_facts=...), or give facts that it was trained on."
    )


Part: TypeAlias = Literal["all", "train", "learn", "validation", "test"]


def part_of(subject: str) -> Literal["train", "test"]:
    """The side of the split that a subject's edits are on: 7 in 10 subjects are for training, the others for tests.

    Editors that learn to edit see edits of the training side alone; it goes by subject, so that no fact of a tested
    subject was seen either.
    """
    return "train" if zlib.crc32(subject.encode()) % 10 < 7 else "test"


def in_part(subject: str, part: Part) -> bool:
    """Whether a subject's edits belong to a part. Of the training side, every tenth subject or so is for validation:
    settings may be chosen on it, and networks learn from the rest alone."""
    if part in ("all", part_of(subject)):
        return True
    kept_back = zlib.crc32(subject.encode()) // 10 % 10 == 0
    return part_of(subject) == "train" and part == ("validation" if kept_back else "learn")


def edits_for(
    lm: LM,
    dataset: str = "world",
    *,
    n: int | None = None,
    seed: int = 0,
    relations: str = "all",
    part: Part = "all",
    task: Task | None = None,
) -> list[EditRequest]:
    """``n`` edits (all by default) in random order with every probe that comes with them.

    relations: "all", names with commas between, or, in a world, "people" or "map" for those of people or of the rest.
    part: edits of all subjects, or of one side of the split that editors are trained and tested on (`in_part`).
    task: in a world, edits of one of KnowEdit's tasks ("insertion", "question", ...) in place of counterfactual ones.
    Raises BadInput when there are fewer than ``n``, or when the task cannot be asked here.
    """
    if task is not None:  # made one by one: no more of them than are wanted
        requests = _of_task(lm, dataset, task, seed, part, n if relations == "all" else None)
    elif dataset == "world":
        requests = list(world_behind(lm).edit_requests(None, seed))
    else:
        requests = list(read_requests(dataset))
        random.Random(seed).shuffle(requests)
    wanted = _relations(lm, dataset, relations)
    found = [request for request in requests if wanted is None or request.relation in wanted]
    found = [request for request in found if in_part(request.subject, part)]
    if n is not None and len(found) < n:
        raise BadInput(
            f"{dataset} holds {len(found)} edits of relations {relations!r}{_on(part)}, and {n} are wanted: ask for "
            "fewer (-p n_edits=...)."
        )
    return found[:n]


def _of_task(lm: LM, dataset: str, task: Task, seed: int, part: Part, n: int | None) -> list[EditRequest]:
    from paramem.world.tasks import task_requests

    if dataset != "world":
        raise BadInput(f"task={task!r} chooses among the edits of a world; {dataset!r} holds those of its own task.")
    return list(task_requests(world_behind(lm), task, n, seed, part))


def of_unseen_subjects(requests: Iterable[EditRequest]) -> list[EditRequest]:
    """The requests with those probes of what must stay only whose subject is on the test side of the split.

    An editor that learned to edit was trained to keep other facts as they are, those of training subjects: that these
    stay says little about facts that it never saw. Probes whose subject is not known stay.
    """
    kept = []
    for request in requests:
        groups = {
            name: tuple(each for each in probes if each.subject is None or part_of(each.subject) == "test")
            for name, probes in request.locality.items()
        }
        kept.append(request.model_copy(update={"locality": FrozenDict({n: p for n, p in groups.items() if p})}))
    return kept


def _on(part: Part) -> str:
    uses = {"train": "training", "learn": "learning", "validation": "validation", "test": "tests"}
    return "" if part == "all" else f" whose subjects are for {uses[part]}"


def _relations(lm: LM, dataset: str, names: str) -> set[str] | None:
    if names == "all" or (names in ("people", "map") and dataset != "world"):
        return None
    if names in ("people", "map"):
        size = world_behind(lm).size
        return set(size.personal if names == "people" else size.impersonal)
    return {name.strip() for name in names.split(",")}


def text_for(lm: LM, source: str = "world", *, n: int = 2000, seed: int = 1) -> list[str]:
    """``n`` passages of ordinary text: documents of the testbed's world, or the non-empty lines of a text file."""
    if source == "world":
        return world_behind(lm).sample_text(n, seed)
    path = Path(source)
    if not path.is_file():
        raise BadInput(
            f"no text file {source!r}. Give a file with one passage a line, or 'world' for a bundled testbed."
        )
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line][:n]


def world_behind(lm: LM) -> World:
    """The world of a bundled testbed. Raises BadInput for any other model, whose training text is not known here."""
    from paramem.world import testbeds, world_of

    if lm.name.split("@")[0] not in {card.name for card in testbeds()}:
        raise BadInput(
            f"{lm.name!r} is not a bundled testbed, so there is no world behind it. Name its data: -p dataset=PATH "
            "(CounterFact, known_1000, ...) and, for second moments, -p text=FILE."
        )
    return world_of(lm.name)


def checkpoints_of(name: str) -> dict[int, str]:
    """Training step to name, in order, for a bundled testbed: the checkpoints that were kept, and the finished model.

    Raises BadInput for a model that has none.
    """
    from paramem.world import testbeds

    for card in testbeds():
        if card.name == name and card.checkpoints:
            kept = {int(step.removeprefix("step")): f"{name}@{step}" for step in card.checkpoints}
            return dict(sorted({**kept, card.steps: name}.items()))
    trails = ", ".join(card.name for card in testbeds() if card.checkpoints)
    raise BadInput(f"no checkpoints of {name!r} are bundled; there are some of {trails}")
