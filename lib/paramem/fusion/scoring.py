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

So one right half of an answer is accurate and covers partially; a right half beside a wrong one is not accurate and
covers partially; a refusal is right exactly where neither side holds the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Literal, TypeAlias

from paramem.errors import BadInput
from paramem.fusion.documents import Snippet
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
    has. Raises BadInput where there are not as many answers as parts.
    """
    if len(answers) != len(question.asked):
        raise BadInput(f"{len(answers)} answers to the {len(question.asked)} parts of {question.texts[0]!r}")
    return frozenset(_stated(answer, snippet, objects) for answer, snippet in zip(answers, question.asked, strict=True))


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


def wrong(gen: Knowledge, ref: Knowledge) -> frozenset[str]:
    """The objects that an answer states and no source has."""
    return frozenset(thing for _, attribute, thing in gen - ref if thing != UNKNOWN and attribute != OTHER)
