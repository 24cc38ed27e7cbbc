"""What a few edits do to everything else a model can (zhang2024knowedit, section 4.3 and Table 5).

asked = batteries(lm, n=40)                        # skill -> questions with their accepted answers
before = answered(lm, asked)
with edit.applied(lm) as edited:
    lost = changed(before, answered(edited, asked))  # per skill: before, after, difference with its interval
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from paramem.benchmarking.bench import Materials
from paramem.benchmarking.configurations import configuration_of
from paramem.benchmarking.tasks import spread
from paramem.evaluation import ask, bootstrap
from paramem.facts import EditRequest
from paramem.registry import Method

if TYPE_CHECKING:
    from paramem.models import LM


class Question(NamedTuple):
    """A prompt and every answer that is right for it."""

    prompt: str
    answers: tuple[str, ...]


Batteries = Mapping[str, Sequence[Question]]


def batteries(lm: LM, n: int = 40) -> dict[str, tuple[Question, ...]]:
    """Skill -> at most `n` questions, spread evenly, that the testbed's own card measures; empty for other models."""
    from paramem.errors import BadInput
    from paramem.material import world_behind

    try:
        here = world_behind(lm)
    except BadInput:
        return {}
    if here.kind == "edit":
        from paramem.world.editing import battery

        found = {name: [Question(p.prompt, p.answers) for p in probes] for name, (probes, _) in battery(here).items()}
    elif here.kind == "speak":
        from paramem.world.speaking import battery as spoken

        found = {name: [Question(i.prompt, i.answers) for i in items] for name, (items, _) in spoken(here).items()}
    else:
        found = {"facts": [Question(fact.prompt, fact.probe().answers) for fact in here.facts]}
    return {name: spread(questions, n) for name, questions in found.items() if questions}


def answered(lm: LM, asked: Batteries) -> dict[str, np.ndarray]:
    """Skill -> for each question whether the model's greedy answer is one of the right ones; one forward for all."""
    pairs = [(q.prompt, text) for questions in asked.values() for q in questions for text in q.answers]
    hits = iter(ask(lm, pairs).exact.tolist())
    return {
        name: np.array([max([next(hits) for _ in q.answers]) for q in questions], dtype=np.float64)
        for name, questions in asked.items()
    }


def changed(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], *, seed: int = 0) -> pd.DataFrame:
    """Per skill and over all: share right before and after, and the paired difference with its 95 % interval.

    The line "all skills" gives every question the same weight.
    """
    sides = {name: (before[name], after[name]) for name in before}
    sides["all skills"] = (np.concatenate(list(before.values())), np.concatenate(list(after.values())))
    rows = []
    for name, (one, other) in sides.items():
        low, high = bootstrap(other - one, np.random.default_rng(seed))
        rows.append(
            {"skill": name, "n": len(one), "before": one.mean(), "after": other.mean(),
             "difference": (other - one).mean(), "low": low, "high": high}
        )  # fmt: skip
    return pd.DataFrame(rows)


def after_edits(
    lm: LM,
    method: Method,
    requests: Sequence[EditRequest],
    asked: Batteries,
    before: Mapping[str, np.ndarray],
    *,
    layer: int,
    materials: Materials,
) -> pd.DataFrame:
    """What edits in sequence did to the skills, see `changed`; the editor is set as in the benchmark."""
    given: dict[str, Any] = configuration_of(method.name).arguments(method, lm, layer)
    edit = method.edit_sequence(lm, requests, texts=materials.texts, facts=materials.facts, known="keep", **given)
    with edit.applied(lm) as edited:
        return changed(before, answered(edited, asked))
