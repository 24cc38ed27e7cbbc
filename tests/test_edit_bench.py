"""The edit bench: what is typed is understood, tried out, shown, and taken off again."""

from __future__ import annotations

import pytest

from grounds import REQUEST, UNTOUCHED
from known import FACTS, TEXTS, knowing
from paramem.benchmarking import Materials
from paramem.errors import BadInput, BadParameter, EmptyTarget, SubjectNotInPrompt
from paramem.evaluation.edit_bench import EditBench, read_settings
from paramem.plots import ripple_strips

FIRM = "steps=60, lr=1e-2"  # what it takes to change a model of two dozen dimensions


@pytest.fixture(scope="module")
def bench() -> EditBench:
    return EditBench.of(knowing("gpt2"), FACTS, Materials(texts=TEXTS["en"], facts=UNTOUCHED))


def test_a_known_fact_is_recognised_in_any_wording(bench: EditBench) -> None:
    for prompt in ("Ann Lyon was born in", "In France Ann Lyon was born in"):
        request = bench.typed(f" {prompt} ", "Ann Lyon", "Paris")
        assert (request.relation, request.target_true, request.prompt) == ("born", "Lyon", prompt)
        [probe] = request.paraphrases
        assert probe.prompt != prompt
        assert probe.target == "Paris"


def test_what_is_not_known_is_edited_all_the_same(bench: EditBench) -> None:
    request = bench.typed("Anna works for", "Anna", "Paris")
    assert (request.relation, request.target_true, request.paraphrases) == (None, None, ())
    tried = bench.attempt("ft-m", request, layer=1, settings=FIRM)
    assert tried.answers["kind"].tolist()[0] == "edit"
    assert tried.answers["after"][0].startswith("Paris")


def test_an_edit_is_made_asked_and_taken_off(bench: EditBench) -> None:
    before = bench.lm.fingerprint()
    tried = bench.attempt(
        "ft-m", bench.typed(REQUEST.prompt, REQUEST.subject, REQUEST.target_new), layer=1, settings=FIRM
    )
    assert bench.lm.fingerprint() == before
    edit = tried.answers.iloc[0]
    assert edit["before"].startswith("Lyon")
    assert edit["after"].startswith("Paris")
    assert set(tried.answers["kind"]) == {"edit", "other wording", "same subject", "same relation"}
    assert len(tried.moved) == len(FACTS)
    assert "'Paris'" in tried.sentence
    maps, bars, classes, title = tried.strips()
    assert title == tried.sentence
    figure = ripple_strips(maps, bars, classes, title, xlabel="share")
    assert len(figure.axes) == 2


def test_settings_reach_the_editor(bench: EditBench) -> None:
    request = bench.typed(REQUEST.prompt, REQUEST.subject, REQUEST.target_new)
    weak = bench.attempt("ft-m", request, layer=1, settings="steps=1, lr=1e-6")
    assert weak.answers["after"][0] == weak.answers["before"][0], "one tiny step does not change the answer"
    assert not weak.moved["shift"].abs().max() > 0.01
    same = bench.attempt("ft-m", request, layer=1, settings={"steps": 1, "lr": 1e-6})
    assert same.answers.equals(weak.answers)


def test_settings_are_read_as_values_and_nothing_else() -> None:
    assert read_settings("") == {}
    assert read_settings("steps=40, keys='original', contexts=('{}',)") == {
        "steps": 40,
        "keys": "original",
        "contexts": ("{}",),
    }
    for bad in ("40", "steps=open('x')", "steps=1)(", "**{'a': 1}", "steps"):
        with pytest.raises(BadParameter, match="write name=value"):
            read_settings(bad)


def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(bench: EditBench) -> None:
    before = bench.lm.fingerprint()
    with pytest.raises(SubjectNotInPrompt, match="Berlin"):
        bench.typed(REQUEST.prompt, "Berlin", "Paris")
    with pytest.raises(EmptyTarget, match="empty target"):
        bench.typed(REQUEST.prompt, REQUEST.subject, "  ")
    request = bench.typed(REQUEST.prompt, REQUEST.subject, "Lyon")
    with pytest.raises(BadInput, match="already"):
        bench.attempt("ft-m", request, layer=1)
    wanted = bench.typed(REQUEST.prompt, REQUEST.subject, "Paris")
    with pytest.raises(BadParameter, match="no setting 'stepz'"):
        bench.attempt("ft-m", wanted, layer=1, settings="stepz=3")
    with pytest.raises(BadParameter, match="layer 99"):
        bench.attempt("ft-m", wanted, layer=99)
    assert bench.lm.fingerprint() == before
