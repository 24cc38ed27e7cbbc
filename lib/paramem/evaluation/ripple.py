"""Ask a whole world again: every fact in every template, before and after an edit, and show what moved.

Instead of a sample of neighbours chosen beforehand, all facts are asked, and each is labelled by what it shares with
the edit: the fact itself, its subject, its relation, its object, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.errors import BadInput
from paramem.evaluation.answers import Answers, Pair, ask, encode_pairs
from paramem.facts import EditRequest, Fact, Probe
from paramem.interventions import Intervention
from paramem.models import LM, Batch

KINDS = ("template", "paraphrase", "withheld", "question", "inverse", "consequence")


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """The questions of a world and a model's answers to them."""

    facts: tuple[Fact, ...]
    kinds: tuple[str, ...]
    questions: tuple[tuple[int, str, Probe], ...]  # (index of the fact, kind, probe)
    place: dict[Pair, int]
    batch: Batch  # the pairs as rows
    answers: Answers
    model_hash: str

    def one_form_each(self, number: int) -> Asked:
        """Every fact asked once, each in another form: the forms of all facts turn with ``number``.

        With as many numbers as a fact has forms, counted from 0, each form of each fact is asked.
        """
        forms: dict[int, list[tuple[int, str, Probe]]] = {}
        for question in self.questions:
            forms.setdefault(question[0], []).append(question)
        chosen = tuple(own[(index + number) % len(own)] for index, own in sorted(forms.items()))
        pairs = dict.fromkeys((probe.prompt, probe.target) for _, _, probe in chosen)
        rows = [self.place[pair] for pair in pairs]
        place = {pair: i for i, pair in enumerate(pairs)}
        batch, answers = self.batch.rows(torch.tensor(rows)), self.answers.rows(rows)
        return replace(self, questions=chosen, place=place, batch=batch, answers=answers)


def ripple(
    lm: LM,
    facts: Iterable[Fact],
    edit: Intervention | None = None,
    *,
    request: EditRequest | None = None,
    kinds: Sequence[str] = ("template",),
    before: Asked | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """One row per fact and question, with columns `*_before` and `*_after`.

    kinds    which questions: "template" (the fact's own), "paraphrase", "withheld", "question", "inverse",
             "consequence"
    request  the edit, for the columns `shares`: what the fact has in common with it, and `says_new`: whether the first
             token of the answer is now that of the edit's new object
    before   `ask_all(lm, facts, kinds)`, computed once and reused over edits
    """
    asked = before or ask_all(lm, facts, kinds=kinds, batch_size=batch_size)
    if before is not None and lm.fingerprint() != before.model_hash:
        raise BadInput("`before` was asked of other weights; ask again with ask_all(lm, facts), outside of any edit")
    columns: dict[str, Any] = {
        "fact": [asked.facts[index].id for index, _, _ in asked.questions],
        "subject": [asked.facts[index].subject for index, _, _ in asked.questions],
        "relation": [asked.facts[index].relation for index, _, _ in asked.questions],
        "object": [asked.facts[index].object for index, _, _ in asked.questions],
        "kind": [kind for _, kind, _ in asked.questions],
        "prompt": [probe.prompt for _, _, probe in asked.questions],
        "target": [probe.target for _, _, probe in asked.questions],
    }
    if request is not None:
        columns["shares"] = [shares(asked.facts[index], request) for index, _, _ in asked.questions]
    columns |= _columns(asked, asked.answers, "before")
    if edit is not None:
        with edit.applied(lm) as edited:
            pairs = asked.batch if edited.rewrites == lm.rewrites else list(asked.place)
            answers = ask(edited, pairs, batch_size=batch_size)
        columns |= _columns(asked, answers, "after") | _moved(asked, answers)
        if request is not None:
            columns["says_new"] = _begins_with_new(asked, answers, lm, request)
    return pd.DataFrame(columns)


def ask_all(
    lm: LM, facts: Iterable[Fact], *, kinds: Sequence[str] = ("template",), batch_size: int | None = None
) -> Asked:
    """Ask a model all facts in all forms of the given kinds; equal questions are asked once."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise BadInput(f"there are no questions of kind {unknown[0]!r}; the kinds are {', '.join(KINDS)}")
    many = tuple(facts)
    questions = tuple((i, kind, probe) for i, fact in enumerate(many) for kind, probe in _questions(fact, kinds))
    if not questions:
        raise BadInput(f"none of the {len(many)} facts has a question of the kinds {', '.join(kinds)}")
    pairs = dict.fromkeys((probe.prompt, probe.target) for _, _, probe in questions)
    place = {pair: index for index, pair in enumerate(pairs)}
    batch = encode_pairs(lm, list(place))
    answers = ask(lm, batch, batch_size=batch_size)
    return Asked(
        facts=many,
        kinds=tuple(kinds),
        questions=questions,
        place=place,
        batch=batch,
        answers=answers,
        model_hash=lm.fingerprint(),
    )


def _questions(fact: Fact, kinds: Sequence[str]) -> list[tuple[str, Probe]]:
    forms = [(probe.kind, probe) for probe in fact.probes()]
    if fact.question is not None:
        forms.append(("question", fact.probe(fact.question, kind="question")))
    if fact.inverse is not None:
        forms.append(("inverse", fact.inverse))
    forms += [("consequence", probe) for probe in fact.consequences]
    return [(kind, probe) for kind, probe in forms if kind in kinds and probe.target]


def shares(fact: Fact, request: EditRequest) -> str:
    """The first of these that a fact has in common with an edit: "fact", "subject", "relation", "object", "nothing".

    "object" means the old or the new one.
    """
    subject, relation = fact.subject == request.subject, fact.relation == request.relation
    if subject and relation:
        return "fact"
    if subject:
        return "subject"
    if relation:
        return "relation"
    return "object" if fact.object in (request.target_new, request.target_true) else "nothing"


def _places(asked: Asked) -> Tensor:
    return torch.tensor([asked.place[probe.prompt, probe.target] for _, _, probe in asked.questions])


def _columns(asked: Asked, answers: Answers, state: str) -> dict[str, np.ndarray]:
    places = _places(asked)
    return {
        f"correct_{state}": answers.exact[places].numpy(),
        f"token_accuracy_{state}": answers.token_accuracy[places].numpy(),
        f"logprob_{state}": answers.logprob[places].numpy(),
    }


def _begins_with_new(asked: Asked, answers: Answers, lm: LM, request: EditRequest) -> np.ndarray:
    """Whether each answer's first token is the one that the edit's new object begins with after the edit's prompt."""
    edit = lm.encode([request.prompt], [request.target_new])
    wanted = int(edit.input_ids[0, edit.prompt_lengths[0]])
    return np.array([answers.tokens[place][0] == wanted for place in _places(asked).tolist()])


def _moved(asked: Asked, answers: Answers) -> dict[str, Any]:
    """Whether the most probable tokens changed, and by how much the answer's probability."""
    places = _places(asked)
    earlier, later = asked.answers.tokens, answers.tokens
    return {
        "same": np.array([earlier[place] == later[place] for place in places.tolist()]),
        "shift": (answers.logprob[places].exp() - asked.answers.logprob[places].exp()).numpy(),
    }
