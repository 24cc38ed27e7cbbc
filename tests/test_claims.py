"""Claims: what a card says equals what it stores, verdicts follow one rule, intervals are those of the textbooks."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import edit_json
from paramem.claims import (
    _T95,
    MIME,
    Card,
    Outcome,
    Verdict,
    claim,
    claims_in,
    mean_interval,
    outcome,
    share_interval,
    show,
    verdict,
)
from paramem.decisions import UNDECIDED, Decision, every
from paramem.errors import BadInput, BadParameter
from paramem.evaluation.intervals import Span
from paramem.project import Project
from paramem.results import (
    ClaimResult,
    Row,
    aggregate,
    changed_rows,
    changed_verdicts,
    read_results,
    write_results,
)
from paramem.taxonomy import Claim


@given(st.integers(1, 60), st.data())
def test_the_verdict_never_gets_worse_when_one_more_testbed_holds(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n - 1))
    order = [Verdict.NOT_REPRODUCED, Verdict.WEAKER, Verdict.REPRODUCED]
    assert order.index(verdict(k, n)) <= order.index(verdict(k + 1, n))


def test_the_verdict_rule_at_its_edges() -> None:
    assert [verdict(k, 6) for k in range(7)] == [
        *[Verdict.NOT_REPRODUCED] * 3, *[Verdict.WEAKER] * 2, *[Verdict.REPRODUCED] * 2
    ]  # fmt: skip
    assert (verdict(10, 12), verdict(9, 12)) == (Verdict.REPRODUCED, Verdict.WEAKER)
    for k, n in [(0, 0), (3, 2), (-1, 2)]:
        with pytest.raises(BadParameter):
            verdict(k, n)


def test_the_table_of_t_quantiles_against_the_integral() -> None:
    for degrees, quantile in enumerate(_T95, start=1):
        x = np.linspace(0, quantile, 20_001)
        constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
        inside = 2 * np.trapezoid(constant * (1 + x * x / degrees) ** (-(degrees + 1) / 2), x)
        assert inside == pytest.approx(0.95, abs=1e-4)
    assert len(_T95) == 30


def test_the_mean_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    draws = generator.normal(3.0, 2.0, size=(4000, 6))
    covered = [low <= 3.0 <= high for low, high in (mean_interval(list(row)) for row in draws)]  # type: ignore[misc]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)
    naive = [abs(row.mean() - 3.0) <= 1.96 * row.std(ddof=1) / math.sqrt(6) for row in draws]
    assert np.mean(naive) < 0.92, "the control: the normal quantile is too narrow for six testbeds"


def test_the_mean_interval_of_few_and_of_equal_values() -> None:
    assert mean_interval([1.0]) is None
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0)
    many = mean_interval([float(i % 2) for i in range(100)])
    assert many is not None
    assert many[1] - many[0] == pytest.approx(2 * 1.984 * statistics.stdev([i % 2 for i in range(100)]) / 10, rel=1e-3)


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_share_interval_stays_inside_and_around_the_share(k: int, more: int) -> None:
    n = k + more
    low, high = share_interval(k, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low - 1e-12 <= k / n <= high + 1e-12
        assert share_interval(0, n)[1] > 0, "never certain"


def test_the_share_interval_against_a_published_value() -> None:
    # Wilson's interval for 81 of 263, from Newcombe (1998), table I
    low, high = share_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_outcomes_take_what_notebooks_measure() -> None:
    found = outcome(
        "a.b",
        np.bool_(True),
        {"np": np.float32(0.123456), "torch": torch.tensor(2.0), "count": np.int64(3), "yes": True, "word": "x"},
    )
    assert found.holds is True
    assert dict(found.measured) == {"np": 0.123, "torch": 2.0, "count": 3, "yes": True, "word": "x"}
    assert isinstance(found.measured["count"], int)
    assert str(outcome("a.b", True, {"x": -0.0001}).measured["x"]) == "0.0"


@pytest.mark.parametrize("holds", [1, None, "yes", torch.tensor([True, False])[0:0]])
def test_holds_must_be_a_truth_value(holds: object) -> None:
    with pytest.raises(BadParameter, match="holds is"):
        outcome("a.b", holds)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, 2], None, np.array([1.0, 2.0]), 1j])
def test_measured_values_are_finite_scalars(value: object) -> None:
    with pytest.raises(BadParameter, match="measured 'x'"):
        outcome("a.b", True, {"x": value})


def test_a_card_shows_what_it_stores_and_escapes_the_rest() -> None:
    found = outcome("doe2022facts.works", False, {"success": 0.25}, note="<script>alert(1)</script>")
    card = Card(outcome=found, statement="<b>The box</b>", reported='0.9 "quoted"', place="Section 3")
    bundle = card._repr_mimebundle_()
    assert bundle["text/plain"].startswith("doe2022facts.works: does not hold (success = 0.25)")
    assert Outcome.from_json(bundle[MIME], "here") == found
    assert "<script>" not in bundle["text/html"]
    assert "<b>The box" not in bundle["text/html"]
    assert "does not hold here" in bundle["text/html"]
    assert "0.25" in bundle["text/html"]


def test_equal_up_to_rounding_is_equal_as_text() -> None:
    def text(value: float) -> str:
        return str(Card(outcome=outcome("a.b", True, {"x": value})))

    assert text(0.12301) == text(0.12299)
    assert text(0.123) != text(0.124), "the control"


def test_numbers_read_well() -> None:
    assert [show(value) for value in (0.5, 12.0, 3, True, "x", 1234567.5)] == [
        "0.5",
        "12",
        "3",
        "yes",
        "x",
        "1234567.5",
    ]


def test_claim_outside_a_notebook_prints_one_line(demo: Project, capsys: pytest.CaptureFixture[str]) -> None:
    claim("doe2022facts.works", True, measured={"success": 0.95})
    assert capsys.readouterr().out == "doe2022facts.works: holds (success = 0.95)\n"


def test_an_unknown_claim_is_refused_with_the_nearest(demo: Project) -> None:
    with pytest.raises(BadParameter, match=r"no claim 'doe2022facts\.work'.*Did you mean doe2022facts.works"):
        claim("doe2022facts.work", True)


def notebook(*payloads: object) -> dict:
    return {"cells": [{"outputs": [{"data": {MIME: payload}}]} for payload in payloads] + [{"source": "x"}]}


def test_claims_are_read_back_in_order_and_only_once() -> None:
    first, second = outcome("a.x", True, {"n": 1}), outcome("a.y", False)
    assert list(claims_in(notebook(first.to_json(), second.to_json()), "n").values()) == [first, second]
    with pytest.raises(BadInput, match="stated twice"):
        claims_in(notebook(first.to_json(), first.to_json()), "n")
    for wrong in ("text", {"claim": 3}, {"claim": "a.x"}, {"claim": "a.x", "holds": 1, "measured": {}}):
        with pytest.raises(BadInput, match="n: "):
            claims_in(notebook(wrong), "n")


def rows(*holds: bool) -> dict[str, Row]:
    return {f"bed-{i}": Row(holds=each, measured={"x": float(i), "word": "w"}) for i, each in enumerate(holds)}


def test_claims_are_counted_over_testbeds() -> None:
    result = ClaimResult.of(rows(True, True, False, True, True, True))
    assert (result.k, result.n, result.verdict) == (5, 6, Verdict.REPRODUCED)
    assert list(result.quantities) == ["x"], "words have no mean"
    assert (result.quantities["x"].mean, result.quantities["x"].low, result.quantities["x"].high) == (2.5, 0, 5)
    assert result.quantities["x"].interval == pytest.approx((0.5364, 4.4636), abs=2e-4)


def results(*holds: bool):
    return aggregate(
        "editing/demo",
        "full",
        {f"bed-{i}": {"a.b": outcome("a.b", each, {"x": 0.5})} for i, each in enumerate(holds)},
        versions={"python": "3.11"},
        seconds={"bed-0": 1.5},
    )


def test_results_survive_the_disk_and_refuse_an_edit_by_hand(demo: Project) -> None:
    path = demo.results_path("editing/demo")
    assert read_results(path) is None
    found = results(True, False, True)
    write_results(found, path)
    assert read_results(path) == found
    assert not list(path.parent.glob(".*"))

    edit_json(path, lambda data: data["claims"]["a.b"].update(verdict="reproduced"))
    with pytest.raises(BadInput, match="never typed by hand"):
        read_results(path)
    edit_json(path, lambda data: data["claims"]["a.b"]["rows"]["bed-0"].update(holds="perhaps"))
    with pytest.raises(BadInput, match=r"claims\.a\.b\.rows\.bed-0\.holds"):
        read_results(path)


def test_changes_are_found_and_only_changes() -> None:
    committed = results(True, False)
    same = {"a.b": outcome("a.b", True, {"x": 0.9})}
    assert changed_rows(committed, "bed-0", same) == [], "another number is no change, another verdict is"
    assert changed_rows(committed, "bed-7", same) == [], "a testbed that was never measured cannot change"
    [change] = changed_rows(committed, "bed-1", same)
    assert str(change) == "editing/demo: a.b on bed-1 was 'does not hold', is now 'holds'"
    [gone] = changed_rows(committed, "bed-0", {})
    assert gone.now == "not stated"
    assert changed_verdicts(committed, committed) == []
    [verdicts] = changed_verdicts(committed, results(True, True))
    assert (verdicts.was, verdicts.now) == ("weaker", "reproduced")


@pytest.mark.parametrize(("k", "paper", "ours"), [(6, "reproduced", "holds here"), (3, "weaker", "holds on some")])
def test_what_the_paper_does_not_say_is_never_reproduced(k: int, paper: str, ours: str) -> None:
    assert verdict(k, 6).of("paper") == paper
    assert verdict(k, 6).of("ours") == ours
    assert Verdict.NOT_ATTEMPTED.of("ours") == Verdict.NOT_ATTEMPTED


def test_a_statement_of_ours_has_no_place_in_the_paper() -> None:
    assert Claim(says="It holds.", origin="ours", notebook="world").origin == "ours"
    with pytest.raises(ValueError, match="remove origin: ours"):
        Claim(says="It holds.", origin="ours", where="Section 3", notebook="world")


# Three outcomes

OUTCOMES = (Decision(True), Decision(False), UNDECIDED)


@given(st.integers(1, 40), st.data())
def test_undecided_testbeds_only_turn_not_reproduced_into_undecided(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    u = data.draw(st.integers(0, n - k))
    two, three = verdict(k, n), verdict(k, n, u)
    assert three == two or (two, three) == (Verdict.NOT_REPRODUCED, Verdict.UNDECIDED)
    assert verdict(k, n, 0) == two
    if k + u < n:  # one that could not tell turns against it: never better for the claim
        assert (verdict(k, n, u), verdict(k, n, u + 1)) != (Verdict.UNDECIDED, Verdict.NOT_REPRODUCED)


def test_not_reproduced_is_said_only_where_the_undecided_could_not_change_it() -> None:
    found = {(k, u): verdict(k, 4, u) for k in range(5) for u in range(5 - k)}
    assert {pair for pair, word in found.items() if word == Verdict.NOT_REPRODUCED} == {(0, 0), (0, 1), (1, 0)}
    assert {pair for pair, word in found.items() if word == Verdict.UNDECIDED} == {
        (0, 2),
        (0, 3),
        (0, 4),
        (1, 1),
        (1, 2),
        (1, 3),
    }
    assert found[2, 2] == Verdict.WEAKER, "the control: what holds is never lost, and half of all is half of all"
    assert verdict(3, 4, 1) == verdict(3, 4) == Verdict.WEAKER, "three of the three that decided are not five of six"
    for k, n, u in [(3, 4, 2), (0, 4, -1), (0, 0, 0)]:
        with pytest.raises(BadParameter):
            verdict(k, n, u)


@pytest.mark.parametrize("one", OUTCOMES, ids=str)
@pytest.mark.parametrize("other", OUTCOMES, ids=str)
def test_a_compound_is_decided_where_what_is_open_could_not_change_it(one: Decision, other: Decision) -> None:
    def possible(each: Decision) -> set[bool]:
        return {each.holds} if each.decided else {True, False}

    worlds = [(a, b) for a in possible(one) for b in possible(other)]
    for found, results in (
        (one & other, {a and b for a, b in worlds}),
        (one | other, {a or b for a, b in worlds}),
        (~one, {not a for a, _ in worlds}),
        (every([one, other]), {a and b for a, b in worlds}),
    ):
        assert found == (Decision(results.pop()) if len(results) == 1 else UNDECIDED)


def test_a_criterion_about_nobody_decides_nothing_and_truth_values_join_in() -> None:
    assert every([]) == UNDECIDED
    assert (Decision(True) & False, True & Decision(True)) == (Decision(False), Decision(True))
    with pytest.raises(BadParameter, match="three outcomes"):
        all([Decision(True), UNDECIDED])
    with pytest.raises(BadParameter, match="what holds is decided"):
        Decision(True, decided=False)


def test_an_interval_that_straddles_its_limit_decides_nothing_unless_it_is_negligible() -> None:
    spans = {"above": Span(0.3, 0.1, 0.5), "around": Span(0.1, -0.2, 0.4), "below": Span(-0.3, -0.5, -0.1)}
    assert {name: str(each.above()) for name, each in spans.items()} == {
        "above": "holds", "around": "undecided", "below": "does not hold"
    }  # fmt: skip
    assert all(each.below() == ~each.above() for each in spans.values())
    narrow = Span(0.01, -0.03, 0.05)
    assert (narrow.above(), narrow.above(negligible=0.1)) == (UNDECIDED, Decision(False))
    assert narrow.below(negligible=0.1) == Decision(False), "neither is better"
    assert spans["around"].above(negligible=0.1) == UNDECIDED, "the control"
    assert Span(0.05, 0.01, 0.09).above(negligible=0.1) == Decision(True), "what holds is never taken away"
    assert Span(0.0, 0.0, 0.0).above() == Decision(False), "no difference at all is none"
    assert Span(np.nan, np.nan, np.nan).above() == UNDECIDED


def test_undecided_survives_the_card_and_the_disk(demo: Project) -> None:
    found = outcome("doe2022facts.works", UNDECIDED, {"gap": 0.1})
    assert found == outcome("doe2022facts.works", False, {"gap": 0.1}, decided=np.bool_(False))
    bundle = Card(outcome=found)._repr_mimebundle_()
    assert bundle["text/plain"] == "doe2022facts.works: undecided (gap = 0.1)"
    assert "undecided here" in bundle["text/html"]
    assert Outcome.from_json(bundle[MIME], "here") == found
    assert "decided" not in outcome("a.b", False).to_json(), "what was stored before reads as it did"
    for wrong in ({"holds": True, "decided": False}, {"holds": False, "decided": "no"}):
        with pytest.raises(BadInput, match="'decided'"):
            Outcome.from_json({"claim": "a.b", "measured": {}} | wrong, "here")
    with pytest.raises(BadParameter, match="what holds is decided"):
        outcome("a.b", True, decided=False)

    beds = {"bed-0": outcome("a.b", True), "bed-1": outcome("a.b", UNDECIDED), "bed-2": outcome("a.b", False)}
    aggregated = aggregate("n", "full", {bed: {"a.b": each} for bed, each in beds.items()}, versions={}, seconds={})
    path = demo.results_path("editing/demo")
    write_results(aggregated, path)
    assert read_results(path) == aggregated
    assert str(aggregated.claims["a.b"]) == "1 of 3, 1 undecided"
    assert aggregated.claims["a.b"].verdict == Verdict.UNDECIDED
    edit_json(path, lambda data: data["claims"]["a.b"]["rows"]["bed-1"].pop("decided"))
    with pytest.raises(BadInput, match="do not follow from the rows"):
        read_results(path)


def test_a_run_that_can_no_longer_tell_has_changed() -> None:
    committed = results(True, False)
    [change] = changed_rows(committed, "bed-1", {"a.b": outcome("a.b", UNDECIDED)})
    assert (change.was, change.now) == ("does not hold", "undecided")
    assert changed_rows(committed, "bed-1", {"a.b": outcome("a.b", False)}) == [], "the control"
