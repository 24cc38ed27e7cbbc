"""Long runs of edits: what is watched concerns no edit, and what is seen is what the model does."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from families import make_lm
from paramem.editing.first_token import first_state, first_token_subjects, key_norms, update_norms, without_start
from paramem.editing.grace import GraceSettings, grace
from paramem.editing.rome import RomeSettings, rome, subject_keys
from paramem.errors import BadInput
from paramem.evaluation.intervals import paired
from paramem.evaluation.over_time import (
    follow,
    follow_at_once,
    long_run,
    look_at,
    looked,
    nats,
    right,
    skills,
    unedited,
)
from paramem.facts import EditRequest, Probe
from paramem.interventions import WeightDelta
from paramem.material import edits_for, text_for
from paramem.models import LM, load

SETTINGS = RomeSettings(layer=0, covariance=False)


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("gpt2-small-s0", device="cpu")


def edit(now: LM, some: tuple[EditRequest, ...]) -> WeightDelta:
    return rome(now, some[0], SETTINGS)


def test_nobody_who_is_watched_is_edited(lm: LM) -> None:
    plan = long_run(lm, n=200)
    assert len({(r.subject, r.relation) for r in plan.edits}) == 200
    subjects = {request.subject for request in plan.edits}
    assert not subjects & {probe.subject for probes in plan.watched.values() for probe in probes}
    kinds = {request.source for request in plan.edits}
    assert kinds == {"world/recall/counterfact", "world/recall/insertion"}
    assert long_run(lm, n=50).edits == plan.edits[:50]
    assert long_run(lm, n=50, seed=1).edits != plan.edits[:50]
    with pytest.raises(BadInput, match="are wanted"):
        long_run(lm, n=10_000)


def test_a_thousand_distinct_edits_can_be_made_of_the_edit_world() -> None:
    from paramem.world import world

    tasks = pytest.importorskip("paramem.world.tasks")
    here = world("edit")
    reserved = {person.name for person in here.people[::4]}
    facts = [r for r in tasks.task_requests(here, "counterfact") if r.subject not in reserved]
    strangers = tasks.task_requests(here, "insertion")
    assert len({(r.subject, r.relation) for r in (*facts, *strangers)}) == len(facts) + len(strangers) > 1000


def test_looks_tell_what_the_edited_model_answers(lm: LM) -> None:
    plan = long_run(lm, n=4, each=12, texts=8)
    before = lm.fingerprint()
    run = follow(lm, plan, edit, checkpoints=(1, 4, 99), name="ROME", track="unedited facts")
    assert lm.fingerprint() == before
    assert [look.n for look in run.looks] == [1, 4]
    assert list(run.steps["n"]) == [1, 2, 3, 4]
    total = None
    for request in plan.edits:
        with total.applied(lm) if total else nullcontext(lm) as now:
            step = edit(now, (request,))
        total = step if total is None else total + step
    with total.applied(lm) as edited:
        expected = [
            edited.generate([r.prompt], max_new_tokens=6)[0].strip().startswith(r.target_new) for r in plan.edits
        ]
        assert run.looks[-1].hits["all edits"].tolist() == expected
        assert run.looks[-1].perplexity == pytest.approx(math.exp(np.mean(nats(edited, plan.texts))), rel=1e-4)
    first = unedited(lm, plan)
    assert run.looks[-1].change > run.looks[0].change > 0 == first.change
    assert run.steps["unedited facts"].iloc[-1] == run.looks[-1].share("unedited facts")
    table = looked([first, *run.looks])
    assert set(table["measure"]) >= {"unedited facts", "the map", "perplexity", "all edits"}
    [kept] = look_at(lm, plan, {4: total}, name="ROME")  # a sum that was made before is looked at alike
    assert {m: h.tolist() for m, h in kept.hits.items()} == {m: h.tolist() for m, h in run.looks[-1].hits.items()}
    assert kept.change == pytest.approx(run.looks[-1].change, rel=1e-5)


def test_skills_are_what_is_watched_beside_facts(lm: LM) -> None:
    look = unedited(lm, long_run(lm, n=2, each=6, texts=2))
    assert not len(skills(look)), "the recall world has none"
    more = replace(look, hits={**look.hits, "questions": np.array([True, False]), "refusals": np.array([True])})
    assert skills(more).tolist() == [True, False, True]


def test_a_codebook_is_given_the_whole_sequence(lm: LM) -> None:
    plan = long_run(lm, n=3, each=8, texts=4)
    found = follow_at_once(lm, plan, lambda now, some: grace(now, some, GraceSettings(layer=2)), checkpoints=(1, 3))
    assert [look.n for look in found] == [1, 3]
    assert found[-1].change == 0
    assert len(found[-1].hits["all edits"]) == 3
    with pytest.raises(BadInput, match="no checkpoint"):
        follow(lm, plan, edit, checkpoints=(9,))


def test_an_answer_counts_in_any_of_its_forms(lm: LM) -> None:
    fact = next(
        r for r in edits_for(lm, relations="people") if right(lm, [Probe(prompt=r.prompt, target=r.target_true)])
    )
    probes = [
        Probe(prompt=fact.prompt, target=fact.target_new, aliases=(str(fact.target_true),)),
        Probe(prompt=fact.prompt, target=fact.target_new),  # control: without that form it is wrong
    ]
    assert right(lm, probes).tolist() == [True, False]


def test_a_difference_is_taken_item_by_item() -> None:
    one, other = np.array([True] * 30 + [False] * 30), np.array([True] * 10 + [False] * 50)
    mean, low, high = paired(one, other)
    assert mean == pytest.approx(1 / 3)
    assert 0 < low < mean < high
    assert paired(one, one) == (0, 0, 0)


def test_a_model_can_be_read_without_its_start_token(lm: LM) -> None:
    bare = without_start(lm)
    with_start, without = (each.encode(["Paris is a city in"]).input_ids[0].tolist() for each in (lm, bare))
    assert with_start[1:] == without
    assert lm.encode(["Paris is a city in"]).input_ids[0].tolist() == with_start  # the model's own reading is as before
    with pytest.raises(BadInput, match="no start token"):
        without_start(bare)


def test_keys_at_the_first_position_are_their_own_prefixed_ones_only_behind_a_start(lm: LM) -> None:
    cities = first_token_subjects(lm, edits_for(lm, relations="in_country, continent"))
    assert cities
    assert all(len(lm.subject_span(r.prompt, r.subject)) == 1 and r.prompt.startswith(r.subject) for r in cities)
    settings = RomeSettings(layer=0, covariance=False, contexts=("{}", "The market opens at nine. {}"), steps=2)
    table = key_norms(lm, cities[:6], settings)
    keys = subject_keys(lm, cities[:6], settings)
    assert table["distance"].tolist() == pytest.approx((keys.bare - keys.average).norm(dim=1).tolist())
    assert len(update_norms(lm, cities[:3], settings, None)) == 3
    first, later = first_state(without_start(lm), text_for(lm, n=40), 0)
    assert first > 0 < later


def test_tiny_random_models_can_be_followed_on_a_data_set(tmp_path) -> None:
    lm = make_lm("llama")
    requests = [
        EditRequest(id=str(i), subject=s, template="{} was born in", target_new="Paris", target_true="Lyon")
        for i, s in enumerate(("Ann Lyon", "Paris capital", "Ann capital", "Paris Lyon"))
    ]
    path = tmp_path / "edits.jsonl"
    path.write_text("\n".join(r.model_dump_json() for r in requests))
    plan = long_run(lm, str(path), n=2, each=2)
    run = follow(
        lm,
        plan,
        lambda now, some: rome(now, some[0], RomeSettings(layer=1, steps=2, covariance=False)),
        checkpoints=(2,),
    )
    assert len(run.looks[0].hits["unedited facts"]) == 2
