"""Target states that several editors ask for, found once.

    with sharing() as shared:                       # inside, what is looked for again is there already
        memit(lm, requests, ...)                    # finds the states
        emmet(lm, requests, ...)                    # uses them
    shared.spared                                   # and the seconds that this would have taken

Editors that look for the same states (one place, layer and settings, one model with all its weights as they are) differ
in what they write only. Edits do not know of each other, so states are kept edit by edit, whatever batch they are
found in. Nothing is kept beyond the context: what an editor costs outside of it is its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

import torch

Found = TypeVar("Found")


@dataclass(kw_only=True, eq=False)
class Shared:
    """kept: question -> edit -> what was found, and its share of the seconds that this took, by `clock_of`.
    spared: every question that was answered from what is kept, with the seconds that were not spent.
    peaks: question -> memory while it was answered, for whoever measures that."""

    kept: dict[Hashable, dict[Hashable, tuple[object, float]]] = field(default_factory=dict)
    spared: list[tuple[Hashable, float]] = field(default_factory=list)
    peaks: dict[Hashable, float] = field(default_factory=dict)


_shared: ContextVar[Shared | None] = ContextVar("shared_targets", default=None)


@contextmanager
def sharing() -> Iterator[Shared]:
    """Within this context `each_once` finds everything once; one context in another is the outer one."""
    shared = _shared.get() or Shared()
    token = _shared.set(shared)
    try:
        yield shared
    finally:
        _shared.reset(token)


def current() -> Shared:
    """What is shared here; where nothing is, a place that nobody looks at."""
    return _shared.get() or Shared()


def each_once(
    about: Callable[[], Hashable],
    edits: Sequence[Hashable],
    find: Callable[[list[int]], Sequence[Found]],
    device: torch.device,
) -> list[Found]:
    """One answer for each edit: those that are kept, and of the others what ``find`` says, given their numbers.

    about: what is asked of them, with the model; two questions that differ in anything have to differ here.
    """
    shared = _shared.get()
    if shared is None:
        return list(find(list(range(len(edits)))))
    asked = about()
    kept = shared.kept.setdefault(asked, {})
    known = [edit for edit in edits if edit in kept]
    missing = [i for i, edit in enumerate(edits) if edit not in kept]
    if known:
        shared.spared.append((asked, sum(kept[edit][1] for edit in known)))
    if missing:
        clock = clock_of(device)
        start = clock()
        found = find(missing)
        seconds = (clock() - start) / len(missing)
        kept |= {edits[i]: (each, seconds) for i, each in zip(missing, found, strict=True)}
    return [kept[edit][0] for edit in edits]  # type: ignore[misc]


def clock_of(device: torch.device) -> Callable[[], float]:
    """CPU seconds of this process, which others do not disturb, or wall seconds where an accelerator works."""
    if device.type != "cuda":
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock
