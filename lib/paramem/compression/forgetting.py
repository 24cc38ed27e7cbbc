"""What a model is asked before and after it was compressed, and what it still answers.

    questions = questions_for(lm, n=100)          # facts told often and rarely, reworded, two steps on, in Spanish
    table = asked(lm, questions)                  # fact, group, exact, kind

``kind`` is whether the answer is at least of the right kind: begins like some answer to the same question about
somebody else. It is what is left of an answer when the fact is gone and the language is not.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from paramem.errors import BadParameter
from paramem.evaluation.answers import ask, encode_pairs
from paramem.facts import Fact, Probe
from paramem.interventions import Intervention
from paramem.material import world_behind
from paramem.models import LM
from paramem.world.core import World

FACTS, REWORDED, WITHHELD = "facts", "seen wording", "withheld wording"
FIRST_STEP, TWO_STEPS = "first step", "two steps"
RARE, OFTEN, SPANISH, OTHERS = "told rarely", "told often", "in Spanish", "map and marriages"


@dataclass(frozen=True)
class Question:
    """A prompt with its answer; ``fact`` is the id that questions of several groups share."""

    group: str
    fact: str
    relation: str
    prompt: str
    target: str


def questions_for(lm: LM, n: int = 100, seed: int = 0) -> list[Question]:
    """Up to ``n`` questions of every group that the testbed's world has.

    Wordings and languages are about the same ``n`` facts of people, and so are the first step and two steps among
    themselves. Every other group draws its own: from the map and marriages, from what has consequences, from what was
    told rarely or often.

    Raises BadParameter for n < 1, BadInput for a model that is no bundled testbed.
    """
    if n < 1:
        raise BadParameter(f"{n} facts cannot be asked; ask for at least one")
    here = world_behind(lm)
    facts = [fact for fact in here.facts if fact.relation in here.size.personal]
    chosen = _sample(facts, n, seed)
    found = [q for fact in chosen for q in _about(fact)]
    others = [fact for fact in here.facts if fact.relation not in here.size.personal]
    found += [_asked(OTHERS, f, f.probe()) for f in _sample(others, n, seed)]
    stepping = [fact for fact in facts if fact.consequences]
    found += [_asked(TWO_STEPS, f, f.consequences[0]) for f in _sample(stepping, n, seed)]
    found += [_asked(FIRST_STEP, f, f.probe()) for f in _sample(stepping, n, seed)]
    return found + _by_exposure(here, facts, n, seed) + _in_spanish(here, chosen)


def asked(lm: LM, questions: Sequence[Question]) -> pd.DataFrame:
    """One row a question, teacher-forced: group, fact, exact, kind."""
    pairs = encode_pairs(lm, [(q.prompt, q.target) for q in questions])
    answers = ask(lm, pairs)
    firsts = pairs.input_ids.gather(1, pairs.prompt_lengths[:, None])[:, 0].tolist()
    possible: dict[tuple[str, str], set[int]] = defaultdict(set)
    for question, first in zip(questions, firsts, strict=True):
        possible[question.group, question.relation].add(first)
    kind = [said[0] in possible[q.group, q.relation] for q, said in zip(questions, answers.tokens, strict=True)]
    columns = {"group": [q.group for q in questions], "fact": [q.fact for q in questions]}
    return pd.DataFrame(columns | {"exact": answers.exact.numpy().astype(float), "kind": np.array(kind, dtype=float)})


def forgetting(lm: LM, questions: Sequence[Question], edits: Mapping[tuple[str, float], Intervention]) -> pd.DataFrame:
    """`asked` under every intervention, with its key's two halves in the columns ``method`` and ``level``."""
    frames = []
    for (method, level), edit in edits.items():
        with edit.applied(lm) as changed:
            frames.append(asked(changed, questions).assign(method=method, level=level))
    return pd.concat(frames, ignore_index=True)


def by_fact(table: pd.DataFrame, group: str, column: str = "exact") -> pd.Series[float]:
    """The mean of a column for each fact of a group, over whatever methods and levels the table holds."""
    found: pd.Series[float] = table[table["group"] == group].groupby("fact")[column].mean()
    return found


def _about(fact: Fact) -> Iterable[Question]:
    yield _asked(FACTS, fact, fact.probe())
    if fact.paraphrases:
        yield _asked(REWORDED, fact, fact.probe(fact.paraphrases[0]))
    if fact.withheld:
        yield _asked(WITHHELD, fact, fact.probe(fact.withheld[0]))


def _asked(group: str, fact: Fact, probe: Probe) -> Question:
    return Question(group, fact.id, probe.kind or fact.relation, probe.prompt, probe.target)


def _sample(facts: Sequence[Fact], n: int, seed: int) -> list[Fact]:
    return random.Random(seed).sample(list(facts), min(n, len(facts)))


def _by_exposure(here: World, facts: Sequence[Fact], n: int, seed: int) -> list[Question]:
    """The worlds in which people are talked about one to three times as often as others."""
    if here.kind != "edit":
        return []
    from paramem.world.edit import Rules

    exposure = Rules(here).exposure
    groups = {RARE: min(exposure.values()), OFTEN: max(exposure.values())}
    return [
        _asked(group, fact, fact.probe())
        for group, times in groups.items()
        for fact in _sample([f for f in facts if exposure[f.subject] == times], n, seed)
    ]


def _in_spanish(here: World, chosen: Sequence[Fact]) -> list[Question]:
    """The same facts in the world's second language, where it was said in training."""
    if "es" not in here.size.languages:
        return []
    spanish = {fact.id.removesuffix("/es"): fact for fact in here.facts_in("es")}
    pairs = [(fact, spanish.get(fact.id)) for fact in chosen]
    return [Question(SPANISH, f.id, f.relation, s.prompt, s.object) for f, s in pairs if s is not None]
