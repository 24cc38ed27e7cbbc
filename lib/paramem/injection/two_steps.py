"""Two-step questions about people of whom no consequence was stated, with the entity that each leaves out.

    questions = two_step_questions(lm, here, seed=0)
    questions[0].prompt, questions[0].entity, questions[0].answer
    # "Jarek Lindholm is a citizen of", "Osaka", "Japan"

The entity is what the last step is asked of: a birthplace on the way to a country, a country on the way to a language,
an employer on the way to a product. Only questions are kept all of whose single steps the model answers by itself, so
that a wrong answer is a failure to put steps together, and not of memory.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from paramem.detection.neurons import ask_prompts
from paramem.errors import BadInput
from paramem.evaluation.intervals import chosen_on_the_other_half
from paramem.facts import Probe, fill
from paramem.models import LM
from paramem.world.core import World
from paramem.world.reason import held_out, plan_of, single_steps, two_step

# Two-step relation -> a relation whose objects are entities that it has nothing to do with.
OTHER_KIND = {
    "birth_country": "works_for",
    "birth_language": "works_for",
    "employer_product": "born_in",
    "employer_city": "language",
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question in two steps.

    entity      what it goes through without naming it; `explicit` asks the last step of it by name
    other       another entity of the same kind, and the answer that would follow from it
    twin        another entity of the same kind with the same answer; None where there is none
    third       an answer that follows from neither
    steps       the single steps, asked one by one
    aside       a single step about the same person that does not go through the entity
    """

    person: str
    relation: str
    prompt: str
    answer: str
    entity: str
    explicit: str
    other: str
    other_answer: str
    twin: str | None
    third: str
    steps: tuple[Probe, ...]
    aside: Probe


def two_step_questions(lm: LM, here: World, *, seed: int = 0) -> list[Question]:
    """One question a held-out person and two-step relation, in changing wordings; see the module.

    Raises BadInput for a world without two-step relations of people, or a model that knows none of the steps.
    """
    name = lm.name.split("@")[0]
    if here.kind != "reason":
        raise BadInput(f"the world of {lm.name!r} is of kind {here.kind!r}: two-step questions are about 'reason' ones")
    rng, found = random.Random(seed), []
    for i, person in enumerate(held_out(here, plan_of(name).every)):
        for j, relation in enumerate(here.size.two_step):
            wordings = two_step(here, relation, [person])
            found.append(_question(here, wordings[(i + j) % len(wordings)], rng))
    steps = list(dict.fromkeys((step.prompt, step.target) for q in found for step in q.steps))
    exact = lm.score([prompt for prompt, _ in steps], [target for _, target in steps], batch_size=512).exact.tolist()
    known = dict(zip(steps, exact, strict=True))
    kept = [q for q in found if all(known[step.prompt, step.target] for step in q.steps)]
    if not kept:
        raise BadInput(
            f"{lm.name} answers the single steps of none of {len(found)} questions: it was not trained on them"
        )
    return kept


def _question(here: World, probe: Probe, rng: random.Random) -> Question:
    steps, person = tuple(single_steps(here, probe)), probe.subject or ""
    last = steps[-1]
    answers = {each: here.value(last.kind, each) or "" for each in here.objects(steps[-2].kind)}
    other = rng.choice([each for each, answer in answers.items() if answer != probe.target])
    twins = [each for each, answer in answers.items() if answer == probe.target and each != last.subject]
    aside = next(name for name in here.size.personal if name != steps[0].kind)
    return Question(
        person=person,
        relation=probe.kind,
        prompt=probe.prompt,
        answer=probe.target,
        entity=last.subject or "",
        explicit=last.prompt,
        other=other,
        other_answer=answers[other],
        twin=rng.choice(twins) if twins else None,
        third=rng.choice(sorted({*answers.values()} - {probe.target, answers[other]})),
        steps=steps,
        aside=Probe(
            prompt=fill(here.relation(aside).templates["en"][0], person),
            target=here.value(aside, person) or "",
            kind=aside,
            subject=person,
        ),
    )


def wrong_memories(here: World, questions: Sequence[Question], *, seed: int = 0) -> dict[str, list[str]]:
    """Words that are not the entity a question leaves out, one a question: kind to words.

    "word": of the sentences of the world, none that names a thing; "name": of another person; "other kind": an entity
    of a kind that the question has nothing to do with.
    """
    rng = random.Random(seed)
    templates = [text for relation in here.relations for text in relation.templates["en"]]
    words = sorted({word for text in templates for word in re.findall(r"[a-z]{3,}", text)})
    names = sorted({part for person in here.people for part in person.name.split()})
    return {
        "word": [rng.choice(words) for _ in questions],
        "name": [rng.choice([name for name in names if name not in q.person.split()]) for q in questions],
        "other kind": [rng.choice(here.objects(OTHER_KIND[q.relation])) for q in questions],
    }


def directions(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random directions as long as each memory in ``like`` ``[..., d_model]``."""
    drawn = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    length: Tensor = torch.linalg.vector_norm(like, dim=-1, keepdim=True)
    return F.normalize(drawn, dim=-1) * length


def first_tokens(lm: LM, questions: Sequence[Question], texts: Sequence[str]) -> Tensor:
    """The first token of a text after each question's prompt, ``[questions]``."""
    return ask_prompts(lm, [q.prompt for q in questions], texts).answers


def by_person(questions: Sequence[Question], values: ArrayLike) -> NDArray[np.float64]:
    """Means over each person's questions, ``[questions, ...]`` to ``[persons, ...]``; a nan does not count.

    The questions about one person hang together, so people are what is resampled and what choices are made on.
    """
    numbers = np.asarray(values, dtype=np.float64)
    of = np.array([q.person for q in questions])
    groups = [numbers[of == person] for person in dict.fromkeys(of.tolist())]
    counts = [np.sum(~np.isnan(group), axis=0) for group in groups]
    sums = [np.nansum(group, axis=0) for group in groups]
    return np.array([np.where(n > 0, total / np.maximum(n, 1), np.nan) for total, n in zip(sums, counts, strict=True)])


def chosen_on_other_people(questions: Sequence[Question], values: ArrayLike) -> NDArray[np.int64]:
    """For each question the choice that is best for other people: ``[questions, choices]`` to ``[questions]``."""
    chosen = chosen_on_the_other_half(by_person(questions, values))
    places = {person: place for place, person in enumerate(dict.fromkeys(q.person for q in questions))}
    return chosen[[places[q.person] for q in questions]]
