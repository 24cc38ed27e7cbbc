"""One edit asked in many ways: every form asks for the same fact, and clashing edits cannot both be true."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from paramem.editing.rome import RomeSettings, rome
from paramem.errors import BadInput, BadParameter
from paramem.evaluation.intervals import paired, unpaired
from paramem.evaluation.robustness import ask_forms, clashing, forms, paired_forms, there_and_back
from paramem.material import edits_for
from paramem.models import LM, load
from paramem.world import world
from paramem.world.edit import HEADING, Rules
from paramem.world.tasks import task_requests

HERE = world("edit")
PERSONAL = [r for r in task_requests(HERE, "counterfact") if r.relation in HERE.size.personal]


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("gpt2-small-s0", device="cpu")


@pytest.mark.parametrize("request_", PERSONAL[:12], ids=lambda r: r.id)
def test_every_form_ends_in_the_edited_question(request_: Any) -> None:
    found = forms(HERE, request_, random.Random(0))
    assert {"edit", "other wording", "distractor", "question", "dialogue", "biography"} <= set(found)
    questions = {probe.prompt for probe in found["question"]}
    for form, probes in found.items():
        for probe in probes:
            assert probe.target == request_.target_new
            assert form == "alias" or request_.subject in probe.prompt
            if form == "distractor":
                assert probe.prompt.endswith(f". {request_.prompt}")
            if form == "dialogue":
                assert probe.prompt.count("Q: ") == 3
                assert any(probe.prompt.endswith(question) for question in questions)
            if form == "biography":
                assert probe.prompt.startswith(HEADING.replace("{}", request_.subject))


def test_what_stands_in_front_is_true_and_about_others() -> None:
    statements = {f"{f.prompt} {f.object}": f for f in HERE.facts}
    for request in PERSONAL[:30]:
        for probe in forms(HERE, request, random.Random(1))["distractor"]:
            before = probe.prompt.removesuffix(f" {request.prompt}").removesuffix(".")
            assert statements[before].subject != request.subject
            assert statements[before].relation == request.relation


def test_a_world_without_questions_is_asked_in_its_own_forms() -> None:
    here = world("recall")
    request = next(r for r in here.edit_requests() if r.relation == "plays")
    assert set(forms(here, request, random.Random(0))) <= {"edit", "other wording", "distractor", "alias"}
    with pytest.raises(BadInput, match="no stated fact"):
        forms(here, request.model_copy(update={"subject": "Nobody"}), random.Random(0))


def test_forms_are_asked_of_each_edit_alone(lm: LM) -> None:
    here = world("recall")
    requests = edits_for(lm, relations="plays")[:3]
    asked = [forms(here, request, random.Random(0)) for request in requests]
    edits = [rome(lm, request, RomeSettings(layer=0, covariance=False)) for request in requests]
    names = [request.id for request in requests]
    table, control = ask_forms(lm, edits, asked, names), ask_forms(lm, [None] * 3, asked, names)
    on_prompt = table[table["form"] == "edit"]["right"]
    assert on_prompt.mean() > 0.5
    assert control[control["form"] == "edit"]["right"].sum() == 0
    mean, low, high = paired_forms(table, "edit", ["other wording"])
    assert low <= mean <= high


def test_differences_have_intervals_that_can_exclude_zero() -> None:
    mean, low, high = unpaired([1.0, 0.9] * 10, [0.1, 0.2] * 10)
    assert 0 < low < mean < high
    same = unpaired([0.5, 0.1] * 10, [0.1, 0.5] * 10)
    assert same[1] < 0 < same[2]
    assert paired([1.0, 2.0], [1.0, 2.0]) == (0, 0, 0)
    with pytest.raises(BadParameter, match="needs some on both sides"):
        unpaired([], [1.0])


@pytest.mark.parametrize("kind", ["recall", "edit"])
def test_clashing_edits_share_a_person_and_nobody_else_is_in_two_pairs(kind: str) -> None:
    here = world(kind)
    pairs = clashing(here, 8)
    for first, second in pairs:
        assert first.target_new == second.subject
        assert second.target_new != first.subject
        assert first.target_true == here.value("married_to", first.subject)
        assert here.value("married_to", first.target_new) != first.subject
    people = [name for first, second in pairs for name in (first.subject, second.subject)]
    assert len(set(people)) == len(people)
    with pytest.raises(BadInput, match="couples"):
        clashing(here, 100)


@pytest.mark.parametrize("kind", ["recall", "edit"])
def test_as_many_edits_clash_as_there_are_couples(kind: str) -> None:
    here = world(kind)
    married = [fact for fact in here.facts if fact.relation == "married_to"]
    pairs = clashing(here, len(married))
    for role in (0, 1):
        assert {pair[role].subject for pair in pairs} == {fact.subject for fact in married}
    for first, second in pairs:
        assert first.target_new == second.subject != first.subject
        assert second.target_new not in (second.target_true, first.subject, first.target_true)
    assert pairs[:8] == clashing(here, 8)
    with pytest.raises(BadInput, match="couples"):
        clashing(here, len(married) + 1)


def test_a_trip_goes_to_a_new_city_and_back_to_the_likelier_one() -> None:
    def score(prompts: list[str], targets: list[str]) -> Any:
        import torch

        return SimpleNamespace(logprob=torch.tensor([float(len(t)) for t in targets]))  # longer names are likelier

    for trip in there_and_back(HERE, SimpleNamespace(score=score), 6):  # type: ignore[arg-type]
        two = Rules(HERE).visits[trip.away.subject]
        assert {trip.back.target_new, trip.other} == set(two)
        assert len(trip.back.target_new) >= len(trip.other)
        assert trip.away.target_new not in two
        assert trip.away.prompt == trip.back.prompt
    with pytest.raises(BadInput, match="travellers"):
        there_and_back(HERE, SimpleNamespace(score=score), 1000)  # type: ignore[arg-type]
