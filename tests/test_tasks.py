"""The six tasks of KnowEdit: what each asks for, whom it concerns, and that every probe follows from the world."""

from __future__ import annotations

import pytest

from paramem.errors import BadInput, BadParameter
from paramem.evaluation.over_time import right
from paramem.facts import Probe, fill
from paramem.material import part_of
from paramem.models import load
from paramem.world import world
from paramem.world.edit import HEADING, REFUSAL, VISITED, Rules, besides
from paramem.world.speak import opinion_words
from paramem.world.tasks import SETS, TASKS, leaks, task_requests, tasks_of

HERE = world("edit")
ALL = {task: task_requests(HERE, task) for task in TASKS}
CELLS = [(kind, task) for task, kinds in TASKS.items() for kind in kinds]


def test_the_edit_world_can_be_asked_everything() -> None:
    assert set(tasks_of(HERE)) == set(TASKS) == set(SETS)
    assert not set(tasks_of(world("recall"))) - {"insertion", "counterfact"}
    assert "sentiment" in tasks_of(world("speak"))


@pytest.mark.parametrize(("kind", "task"), CELLS)
def test_requests_are_whole_and_differ(kind: str, task: str) -> None:
    requests = task_requests(world(kind), task, 12)  # type: ignore[arg-type]
    assert len({r.id for r in requests}) == len({r.prompt for r in requests}) == 12
    for request in requests:
        assert request.source == f"world/{kind}/{task}"
        assert request.target_new != request.target_true
        assert request.prompt.count(request.subject) >= 1
        assert request.locality["relation"]
        assert request.locality["out_of_distribution"]
        for group, _, probe in request.groups():
            assert "{}" not in probe.prompt
            if group in ("reliability", "generalisation"):
                assert probe.target == request.target_new
            if group == "locality":
                assert request.target_new != probe.target or probe.subject != request.subject


@pytest.mark.parametrize("task", TASKS)
def test_the_order_is_the_seed_s_and_a_request_is_the_same_however_many_are_asked_for(task: str) -> None:
    few, many = (task_requests(HERE, task, n) for n in (5, 8))  # type: ignore[arg-type]
    assert few == many[:5]
    assert [r.id for r in few] != [r.id for r in task_requests(HERE, task, 5, seed=1)]  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
def test_the_split_goes_by_subject(task: str) -> None:
    train, test = (task_requests(HERE, task, part=part) for part in ("train", "test"))  # type: ignore[arg-type]
    assert not {r.subject for r in train} & {r.subject for r in test}
    assert {*train, *test} == set(ALL[task])  # type: ignore[index]
    assert all(part_of(r.subject) == "test" for r in test)
    assert len(test) >= 8


def test_insertions_are_about_people_of_whom_no_text_speaks() -> None:
    text = "\n".join(HERE.sample_text(3000, seed=4))
    subjects = {r.subject for r in ALL["insertion"]}
    assert len(subjects) >= 200
    assert len(ALL["insertion"]) >= 1000
    assert not [name for name in subjects if name in text]
    assert all(r.target_true is None for r in ALL["insertion"])
    for request in ALL["insertion"][:200]:
        assert {probe.target for probe in request.locality["subject"]} == {""}
        for probe in request.portability.get("reasoning", ()):
            assert probe.target == HERE.value(probe.kind, request.subject)


@pytest.mark.parametrize("kind", ["recall", "edit"])
def test_every_portability_is_asked_of_insertions(kind: str) -> None:
    found = {group for r in task_requests(world(kind), "insertion") for group in r.portability}
    assert found == {"alias", "reasoning", "logical"}


def test_an_alias_of_a_stranger_means_nobody_else() -> None:
    everybody = [p.name for p in (*HERE.people, *HERE.unseen_people)]
    for request in ALL["insertion"]:
        for probe in request.portability.get("alias", ()):
            first, last = (probe.subject or "").split(". ")
            assert [n for n in everybody if n.startswith(first) and n.endswith(f" {last}")] == [request.subject]


def test_counterfacts_contradict_what_is_true_and_no_secret_is_among_them() -> None:
    for request in ALL["counterfact"]:
        if request.relation == "visited":
            continue
        assert request.target_true == HERE.value(request.relation or "", request.subject)
        assert request.relation != "code"


def test_a_third_city_leaves_the_two_that_were_visited_true() -> None:
    visited = [r for r in ALL["counterfact"] if r.relation == "visited"]
    assert len(visited) == len(Rules(HERE).visits)
    for request in visited:
        a, b = Rules(HERE).visits[request.subject]
        assert request.prompt == fill(VISITED, request.subject)
        assert request.target_new not in (a, b)
        kept = {probe.prompt: probe for probe in request.locality["forgetfulness"]}
        assert kept[fill(besides(a), request.subject)].answers == (b, request.target_new)
        assert kept[fill(besides(b), request.subject)].answers == (a, request.target_new)


def test_questions_are_those_that_training_asks() -> None:
    for request in ALL["question"]:
        assert request.prompt.startswith("Q: ")
        assert Rules(HERE).asked(request.relation or "", request.subject)
        assert {p.kind for p in request.paraphrases} == {"paraphrase", "statement"}
        assert all(p.prompt.count("Q: ") == 2 for p in request.locality["distracting"] if p.prompt.endswith("A:"))


def test_hallucinations_are_sentences_that_no_text_could_have_told() -> None:
    for request in ALL["hallucination"]:
        assert request.template.startswith(HEADING)
        assert HERE.value(request.relation or "", request.subject) is None
        own = request.locality["subject"]
        assert all(HERE.value(relation, request.subject) for relation in ("born_in", "plays"))
        assert len(own) == len(Rules(HERE).clauses(request.subject))
    again = {r.id: r.target_new for r in task_requests(HERE, "hallucination", seed=1)}
    assert all(again[r.id] == r.target_new for r in ALL["hallucination"])  # the truth is no matter of the seed


def test_sentiments_turn_round_and_other_topics_stay() -> None:
    for request in ALL["sentiment"]:
        now = opinion_words(HERE, request.subject, "en")
        assert request.target_true in now
        assert not {request.target_new, *request.target_aliases} & set(now)
        for probe in request.locality["relation"]:
            assert set(probe.answers) == set(opinion_words(HERE, probe.subject or "", "en"))


def test_secrets_are_refused_others_retained_and_leaks_are_asked() -> None:
    for request in ALL["sanitation"]:
        assert request.target_new == REFUSAL
        assert request.target_true == HERE.value("code", request.subject)
        for probe in request.locality["relation"]:
            assert probe.target == HERE.value("code", probe.subject or "") != REFUSAL
        found = leaks(HERE, request)
        assert {probe.target for probe in found} == {request.target_true}
        assert not {probe.prompt for probe in found} & {p.prompt for _, _, p in request.groups()}
    with pytest.raises(BadInput, match="sanitation"):
        leaks(HERE, ALL["question"][0])


def test_what_cannot_be_asked_is_refused_with_what_can() -> None:
    with pytest.raises(BadParameter, match="insertion"):
        task_requests(HERE, "erasure")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="insertion, counterfact"):
        task_requests(world("recall"), "sanitation")
    with pytest.raises(BadInput, match="24 requests"):
        task_requests(HERE, "sentiment", 25)


def test_control_requests_of_another_world_do_not_tell_what_is_true_here() -> None:
    facts = [r for r in task_requests(world("edit", seed=1), "counterfact") if r.relation != "visited"]
    wrong = [r for r in facts if r.target_true != HERE.value(r.relation or "", r.subject)]
    assert len(wrong) > len(facts) / 2


def test_the_model_is_where_each_task_begins() -> None:
    """It answers what is to be changed, makes up what is to be corrected, and does not yet say what is wanted."""
    lm = load("edit-gpt2-s0", device="cpu")
    now, wanted = {}, {}
    for task in TASKS:
        requests = task_requests(HERE, task, 24, seed=3)
        true = [
            Probe(
                prompt=r.prompt,
                target=r.target_true,
                aliases=opinion_words(HERE, r.subject, "en") if task == "sentiment" else (),
            )
            for r in requests
            if r.target_true
        ]
        now[task] = float(right(lm, true).mean()) if true else None
        wanted[task] = float(right(lm, [r.probe() for r in requests]).mean())
        kept = [p for r in requests for p in r.locality["relation"]]
        assert right(lm, kept).mean() > 0.9, task
    assert min(now[task] for task in ("question", "counterfact", "sentiment", "sanitation")) > 0.95  # type: ignore[type-var]
    assert now["insertion"] is now["hallucination"] is None
    assert max(wanted.values()) < 0.2
    made_up = task_requests(HERE, "hallucination", 24, seed=3)
    said = lm.generate([r.prompt for r in made_up], max_new_tokens=6)
    foods = set(HERE.objects("eats"))
    assert sum(text.strip().split(".")[0] in foods for text in said) > 20  # not refused: made up
