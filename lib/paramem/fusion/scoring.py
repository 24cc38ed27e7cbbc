r"""Accuracy and coverage of an answer, exactly as zhang2024fusion defines them, decidable because the world is known.

Knowledge is a set of statements (entity, attribute, object), and a refusal states that the object is `UNKNOWN`:

    gen = stated(("Lyon", "cello"), question, objects)
    accurate(gen, reference(question, parametric))     # Eq. (2): K_gen within K_ref
    coverage(gen, gold(question))                      # Eq. (3): complete, partial, uncover

| paper    | here           | what                                                        |
|----------|----------------|-------------------------------------------------------------|
| K_gen    | `stated`       | what the answer says                                        |
| K_gold   | `gold`         | what the right answer says                                  |
| K_ref    | `reference`    | the snippets in the context and the parametric knowledge    |
| R_acc    | `accurate`     | Eq. (2)                                                     |
| R_cover  | `coverage`     | Eq. (3)                                                     |

A refused part says nothing where another part says something. So a right half beside a refused one is accurate and
covers partially; a right half beside a wrong one is not accurate and covers partially; and an answer that refuses as a
whole is right exactly where neither side holds the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Literal, NamedTuple, TypeAlias

from paramem.errors import BadInput
from paramem.fusion.documents import Cell, Snippet
from paramem.fusion.questions import Question
from paramem.world.read_rules import REFUSAL

Statement: TypeAlias = tuple[str, str, str]
Knowledge: TypeAlias = frozenset[Statement]
Coverage: TypeAlias = Literal["complete", "partial", "uncover"]
UNKNOWN = "?"
OTHER = "anything else"  # the attribute of what is no answer to the question


def gold(question: Question) -> Knowledge:
    """K_gold: what the right answer says."""
    refused = question.scenario == "S4"
    return frozenset((s.entity, s.attribute, UNKNOWN if refused else s.object) for s in question.asked)


def reference(question: Question, parametric: Set[Statement]) -> Knowledge:
    """K_ref: what stands in the context and in K_p, and that whatever is asked beyond them is unknown."""
    held = {(s.entity, s.attribute, s.object) for s in question.evidence} | parametric
    cells = {(entity, attribute) for entity, attribute, _ in held}
    return frozenset(held) | {(*s.cell, UNKNOWN) for s in question.asked if s.cell not in cells}


def stated(answers: Sequence[str], question: Question, objects: Mapping[str, Sequence[str]]) -> Knowledge:
    """K_gen: each answer says something of the attribute that its part of the question asks for.

    objects: attribute -> what it can be. An answer that is none of them, or has no words, is content that no source
    has. Refusals count where nothing else is said. Raises BadInput where there are not as many answers as parts.
    """
    if len(answers) != len(question.asked):
        raise BadInput(f"{len(answers)} answers to the {len(question.asked)} parts of {question.texts[0]!r}")
    said = frozenset(_stated(answer, snippet, objects) for answer, snippet in zip(answers, question.asked, strict=True))
    content = frozenset(each for each in said if each[2] != UNKNOWN)
    return content or said


def _stated(answer: str, snippet: Snippet, objects: Mapping[str, Sequence[str]]) -> Statement:
    if answer == REFUSAL:
        return (*snippet.cell, UNKNOWN)
    if answer in objects[snippet.attribute]:
        return (*snippet.cell, answer)
    return snippet.entity, OTHER, answer


def accurate(gen: Knowledge, ref: Knowledge) -> bool:
    """Whether the answer says nothing that the sources do not say."""
    return gen <= ref  # Eq. (2), zhang2024fusion


def coverage(gen: Knowledge, wanted: Knowledge) -> Coverage:
    """How much of the right answer is in the answer."""
    # Eq. (3), zhang2024fusion
    if wanted <= gen:
        return "complete"
    return "partial" if wanted & gen else "uncover"


def wrong(gen: Knowledge, ref: Knowledge) -> Knowledge:
    """What an answer states, with an object that the attribute can have, and no source says."""
    return frozenset(each for each in gen - ref if each[2] != UNKNOWN and each[1] != OTHER)


class Copying(NamedTuple):
    """Whether wrong objects could be copied from the context, whether one was, and how likely that is by chance."""

    possible: bool
    copied: bool
    chance: float


def copying(errors: Knowledge, question: Question, objects: Mapping[str, Sequence[str]]) -> Copying:
    """Compares wrong objects with those that stand in the context and could be the attribute's.

    chance: that at least one of as many wrong objects stands there if each is drawn from all that are wrong.
    """
    right: dict[Cell, str] = {snippet.cell: snippet.object for snippet in question.asked}
    shown = {snippet.object for snippet in question.evidence}
    possible, copied, none = False, False, 1.0
    for entity, attribute, thing in errors:
        others = set(objects[attribute]) - {right[entity, attribute]}
        possible |= bool(others & shown)
        copied |= thing in shown
        none *= 1 - len(others & shown) / len(others)
    return Copying(possible, copied, 1 - none)
