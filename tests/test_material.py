"""What notebooks work on: known facts are known, edits are of the relations asked for, errors say what to give."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from families import make_lm
from paramem.errors import BadInput
from paramem.facts import EditRequest, Fact
from paramem.material import (
    Part,
    edits_for,
    facts_for,
    in_part,
    known_facts,
    of_unseen_subjects,
    part_of,
    text_for,
    world_behind,
)
from paramem.models import load


@pytest.fixture(scope="module")
def testbed():
    return load("gpt2-small-s0", device="cpu")


def test_known_facts_are_completed_by_the_model_and_the_others_are_not_among_them(testbed) -> None:
    wrong = [fact.model_copy(update={"id": f"x{fact.id}", "object": "Nowhere"}) for fact in facts_for(testbed)[:40]]
    chosen = known_facts(testbed, [*wrong, *facts_for(testbed)[:200]], 60)
    assert len(chosen) == 60
    assert not {fact.id for fact in wrong} & {fact.id for fact in chosen}
    assert bool(testbed.score([f.prompt for f in chosen], [f.object for f in chosen]).exact.all())


def test_the_seed_chooses(testbed) -> None:
    one, again, other = (known_facts(testbed, facts_for(testbed), 10, seed) for seed in (0, 0, 1))
    assert one == again != other


def test_too_few_known_facts_are_an_error(testbed) -> None:
    with pytest.raises(BadInput, match="0 of 1 facts"):
        known_facts(testbed, [Fact(id="1", subject="Ann", relation="r", object="Nowhere", template="{} is in")], 1)


def test_edits_are_of_the_relations_asked_for(testbed) -> None:
    people = edits_for(testbed, n=50, relations="people")
    assert {edit.relation for edit in people} <= set(world_behind(testbed).size.personal)
    named = edits_for(testbed, relations="capital, currency")
    assert {edit.relation for edit in named} == {"capital", "currency"}
    assert len(edits_for(testbed)) > len(named)
    with pytest.raises(BadInput, match="ask for fewer"):
        edits_for(testbed, n=10_000)


def test_text_comes_from_the_world_or_a_file(testbed, tmp_path: Path) -> None:
    assert len(text_for(testbed, n=7)) == 7
    (tmp_path / "text.txt").write_text("one\n\n two \nthree\n", encoding="utf-8")
    assert text_for(testbed, str(tmp_path / "text.txt"), n=2) == ["one", "two"]
    with pytest.raises(BadInput, match="no text file"):
        text_for(testbed, str(tmp_path / "missing.txt"))


def test_another_model_has_no_world() -> None:
    with pytest.raises(BadInput, match="not a bundled testbed"):
        facts_for(make_lm("gpt2"))


@pytest.fixture(scope="module")
def edits_of(testbed) -> dict[str, list[EditRequest]]:
    """All edits of each part."""
    return {part: list(edits_for(testbed, part=part)) for part in get_args(Part)}


def test_the_two_sides_of_the_split_share_no_subject(testbed, edits_of) -> None:
    train, test = edits_of["train"], edits_of["test"]
    everyone = {request.subject for request in edits_of["all"]}
    assert not {each.subject for each in train} & {each.subject for each in test}
    assert {each.subject for each in (*train, *test)} == everyone
    assert 0.5 < len(train) / (len(train) + len(test)) < 0.9
    with pytest.raises(BadInput, match="for tests"):
        edits_for(testbed, part="test", n=len(everyone) * 10)


def test_validation_is_a_tenth_of_the_training_side(edits_of) -> None:
    parts = {part: {each.subject for each in edits} for part, edits in edits_of.items()}
    assert parts["learn"] | parts["validation"] == parts["train"]
    assert not parts["learn"] & parts["validation"]
    assert 0.03 < len(parts["validation"]) / len(parts["train"]) < 0.2
    assert all(in_part(subject, "all") for subject in parts["test"])
    assert not any(in_part(subject, part) for subject in parts["test"] for part in ("train", "learn", "validation"))


def test_people_and_the_map_share_no_relation(testbed) -> None:
    kinds = {kind: {each.relation for each in edits_for(testbed, relations=kind)} for kind in ("people", "map", "all")}
    assert kinds["people"]
    assert kinds["map"]
    assert not kinds["people"] & kinds["map"]
    assert kinds["people"] | kinds["map"] <= kinds["all"]


def test_edits_of_a_task_come_from_the_world_alone(testbed) -> None:
    inserted = edits_for(testbed, task="insertion", n=20, part="test")
    assert all(edit.source == "world/recall/insertion" and edit.target_true is None for edit in inserted)
    assert {part_of(edit.subject) for edit in inserted} == {"test"}
    with pytest.raises(BadInput, match="counterfact"):
        edits_for(testbed, task="sanitation")
    with pytest.raises(BadInput, match="of a world"):
        edits_for(testbed, "counterfact.json", task="insertion")


def test_what_must_stay_is_asked_of_subjects_that_no_editor_was_trained_on(testbed) -> None:
    plain = edits_for(testbed, part="test", n=60)
    unseen = of_unseen_subjects(plain)
    sides = [
        {
            part_of(probe.subject)
            for one in some
            for probes in one.locality.values()
            for probe in probes
            if probe.subject
        }
        for some in (plain, unseen)
    ]
    assert sides == [{"train", "test"}, {"test"}]
    assert [one.probe() for one in unseen] == [one.probe() for one in plain]
    assert all(any(one.locality.values()) for one in unseen)
