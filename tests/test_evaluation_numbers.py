"""Means, intervals and passports: what a summarised number is, and when two of them may stand side by side."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from edits import NAMES, REQUESTS, always, nothing, probe, request
from families import make_lm
from paramem.errors import BadInput, BadParameter, PassportMismatch
from paramem.evaluation import (
    bootstrap,
    compare,
    evaluate,
    generation_entropy,
    ngram_entropy,
    summarise,
    wilson,
)
from paramem.evaluation.intervals import (
    apart,
    chosen_on_the_other_half,
    clustered,
    clustered_share,
    difference,
    grouped,
    over_edits,
    span,
    unpaired,
)
from paramem.evaluation.summary import Summary

LM = make_lm("gpt2")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return evaluate(LM, REQUESTS, [always(LM, token) for token in (5, 6, 7, 8)], name="A")


@pytest.fixture(scope="module")
def summary(frame: pd.DataFrame) -> Summary:
    return summarise(frame)


def table(values: dict[str, list[float]], **columns: object) -> pd.DataFrame:
    """A table of `evaluate` with given values of one column, request by request."""
    rows = [
        {"request": name, "probe": place, "same": value, "test": ""}
        for name, several in values.items()
        for place, value in enumerate(several)
    ]
    constant = {
        "request_hash": "h",
        "state": "after",
        "group": "locality",
        "subgroup": "relation",
        "protocol": "generated",
        "eligible": True,
        "edit": "A",
        "model": "m",
        "model_hash": "0",
        "seed": 0,
    }
    return pd.DataFrame(rows).assign(**(constant | columns))


def test_a_repeated_text_has_less_entropy_than_a_diverse_one() -> None:
    repeated, diverse = "Lyon is Lyon is Lyon is Lyon is", "Ann was born in Lyon and works in Paris"
    assert generation_entropy(repeated) < generation_entropy(diverse)
    assert generation_entropy("Lyon Lyon Lyon Lyon") == 0
    assert generation_entropy("") == generation_entropy("Lyon") == 0


def test_entropy_of_distinct_ngrams_is_the_logarithm_of_their_number() -> None:
    words = list("abcdefghi")
    assert ngram_entropy(words, 2) == pytest.approx(3)
    assert ngram_entropy(words, 3) == pytest.approx(math.log2(7))
    assert generation_entropy(" ".join(words)) == pytest.approx(3 / 3 + 2 * math.log2(7) / 3)
    assert ngram_entropy(["x"] * 9, 2) == 0


def test_wilson_knows_its_published_values() -> None:
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize("bad", [(3, 2, 0.95), (-1, 2, 0.95), (0, 0, 0.95), (1, 2, 1.0), (1, 2, 0.0)])
def test_shares_that_are_none_are_refused(bad: tuple[float, int, float]) -> None:
    with pytest.raises(BadParameter):
        wilson(*bad)


def test_intervals_shrink_with_n_and_grow_with_confidence() -> None:
    def width(ends: tuple[float, float]) -> float:
        return ends[1] - ends[0]

    sample = np.random.default_rng(0).normal(size=4000)
    for n in (200, 2000):
        assert width(wilson(n * 0.8, n)) > width(wilson(n * 8, n * 10))
        small, large = (bootstrap(sample[:size], np.random.default_rng(1)) for size in (n // 10, n))
        assert width(small) > width(large)
    assert width(wilson(8, 10, 0.99)) > width(wilson(8, 10, 0.9))
    assert width(bootstrap([0.5] * 9, np.random.default_rng(0))) == 0


def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bootstrap(generator.exponential(size=40), generator, resamples=400)
        hits += low <= 1 <= high
    assert 0.85 < hits / 200 < 0.99


def test_the_bootstrap_is_drawn_from_the_generator_given() -> None:
    values = list(np.random.default_rng(0).normal(size=30))
    first, again, other = (bootstrap(values, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    with pytest.raises(BadParameter, match="empty"):
        bootstrap([], np.random.default_rng(0))


def test_a_choice_does_not_see_the_half_it_is_judged_by() -> None:
    values = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, np.nan], [0.0, 1.0]])
    assert chosen_on_the_other_half(values).tolist() == [1, 0, 1, 0], "even items prefer 0, odd ones 1"
    noise = np.random.default_rng(0).standard_normal((400, 50))
    chosen = noise[np.arange(400), chosen_on_the_other_half(noise)].mean()
    assert abs(chosen) < 0.1 < noise.mean(0).max(), "the control: the best column of noise looks good on itself"
    with pytest.raises(BadParameter, match="two items or more"):
        chosen_on_the_other_half(noise[:1])


def test_items_of_a_group_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(20), 5)
    alike = np.repeat(rng.normal(size=20), 5)
    apart = rng.permutation(alike)
    wide, narrow = grouped(alike, people), grouped(apart, people)
    assert wide.mean == pytest.approx(narrow.mean) == pytest.approx(alike.mean())
    assert wide.high - wide.low > 1.7 * (narrow.high - narrow.low), "five alike are one"
    one_each = grouped(alike[::5], people[::5])
    assert wide.high - wide.low == pytest.approx(one_each.high - one_each.low, rel=0.1)
    uneven = grouped([1.0, 0.0, 0.0, 0.0], ["a", "b", "b", "b"])
    assert uneven.mean == 0.25, "the mean is over items"
    assert (uneven.low, uneven.high) == (0, 1)
    assert grouped([*alike, np.nan], [*people, 99]) == grouped(alike, people)
    assert grouped([1.0] * 48, [*range(12)] * 4) == over_edits([1.0] * 48)
    with pytest.raises(BadParameter, match="1 groups"):
        grouped([1.0, 0.0], ["a", "a"])


def test_averaging_order_is_a_choice_and_is_recorded() -> None:
    values = table({"a": [1.0], "b": [0.0, 0.0, 0.0]})
    by_request = summarise(values).metric("locality")
    by_probe = summarise(values, averaging="probe").metric("locality")
    assert (by_request.value, by_probe.value) == (0.5, 0.25)
    assert (by_request.passport.averaging, by_probe.passport.averaging) == ("request", "probe")
    with pytest.raises(PassportMismatch, match="averaging"):
        compare({"one": by_request, "two": by_probe})


def test_probes_of_one_test_count_once() -> None:
    values = table({"a": [1.0, 0.0, 1.0, 0.0, 1.0]})
    values["test"] = ["1/OR", "1/OR", "2/AND", "2/AND", ""]
    found = summarise(values).metric("locality")
    assert found.value == pytest.approx(2 / 3)  # passed, failed, passed
    assert found.passport.n_probes == 3


def test_shares_get_wilsons_interval_and_means_the_bootstrap() -> None:
    shares, means = table({"a": [1.0], "b": [1.0]}), table({"a": [1.0, 0.0], "b": [1.0, 1.0]})
    assert (summarise(shares).metric("locality").low, 1.0) == wilson(2, 2)
    assert summarise(means).metric("locality").low == 0.5
    with pytest.raises(BadInput, match="Wilson"):
        summarise(means, interval="wilson")
    divergence = shares.rename(columns={"same": "kl"})
    with pytest.raises(BadInput, match="Wilson"):
        summarise(divergence, interval="wilson")  # ones, but no shares


def test_every_number_has_a_passport_and_can_be_found(frame: pd.DataFrame, summary: Summary) -> None:
    rows = summary.frame()
    assert not rows.drop(columns=["value", "low", "high"]).isna().any(axis=None)
    assert (rows["low"] <= rows["value"] + 1e-12).all()
    assert (rows["value"] <= rows["high"] + 1e-12).all()
    assert not rows.duplicated(["group", "subgroup", "statistic", "protocol", "level", "against", "state"]).any()
    picked = after_rows(frame, "locality", "teacher_forced").groupby("request")["same"].mean().mean()
    found = summary.metric("locality", protocol="teacher_forced", level="sequence", against="own answer")
    assert found.value == pytest.approx(picked)
    assert "against own answer" in str(found)
    assert float(found) == found.value
    assert set(rows[rows["state"] == "before"]["against"]) == {"target", "rival"}


def after_rows(frame: pd.DataFrame, group: str, protocol: str) -> pd.DataFrame:
    return frame[(frame["state"] == "after") & (frame["group"] == group) & (frame["protocol"] == protocol)]


def test_a_number_must_be_named_until_it_is_the_only_one(summary: Summary) -> None:
    with pytest.raises(BadInput, match="numbers fit; say which protocol"):
        summary.metric("locality")
    with pytest.raises(BadInput, match="no number has"):
        summary.metric("honesty")
    with pytest.raises(BadParameter, match="no field 'colour'"):
        summary.select(colour="red")


def test_numbers_that_came_about_alike_stand_side_by_side(summary: Summary) -> None:
    other = summarise(evaluate(LM, REQUESTS, nothing(LM), name="B"))
    side_by_side = compare({"A": summary, "B": other})
    assert len(side_by_side) == len(summary.metrics)
    local = side_by_side[(side_by_side["group"] == "locality") & (side_by_side["against"] == "own answer")]
    assert (local[local["statistic"] == "same"]["B"] == 1).all()
    assert (local[local["statistic"] == "same"]["A"] < 1).all()


def test_numbers_of_other_protocols_models_or_data_are_refused(summary: Summary) -> None:
    forced, free = (
        summary.metric("locality", protocol=protocol, level="token", against="own answer")
        for protocol in ("teacher_forced", "generated")
    )
    with pytest.raises(PassportMismatch, match=r"differ in statistic|differ in protocol"):
        compare({"one": forced, "two": free})
    compare({"one": forced, "two": free}, may_differ=("protocol",))
    own, truth = (
        summary.metric("locality", protocol="generated", level="token", against=against)
        for against in ("own answer", "target")
    )
    with pytest.raises(PassportMismatch, match=r"token_same.*token_accuracy"):
        compare({"one": own, "two": truth})
    elsewhere = summarise(evaluate(make_lm("gpt2", seed=1), REQUESTS, nothing(make_lm("gpt2", seed=1))))
    with pytest.raises(PassportMismatch, match="model_hash"):
        compare({"one": summary, "two": elsewhere})
    compare({"one": summary, "two": elsewhere}, may_differ=("model",))
    fewer = summarise(evaluate(LM, REQUESTS[:2], nothing(LM)))
    with pytest.raises(PassportMismatch, match="data_hash"):
        compare({"one": summary, "two": fewer})
    changed = (request(0, paraphrases=[probe(f"{NAMES[0]} is in", "Lyon")]), *REQUESTS[1:])
    with pytest.raises(PassportMismatch, match="data_hash"):
        compare({"one": summary, "two": summarise(evaluate(LM, changed, nothing(LM)))})


def test_a_number_that_one_result_lacks_is_not_passed_over(summary: Summary) -> None:
    with pytest.raises(PassportMismatch, match="has no number"):
        compare({"one": summary, "two": summary.select("locality")})
    compare({"one": summary.select("locality"), "two": summary.select("locality")})


def test_comparisons_that_cannot_be_meant_are_refused(summary: Summary) -> None:
    with pytest.raises(BadParameter, match="no field 'colour'"):
        compare({"one": summary}, may_differ=("colour",))
    with pytest.raises(BadInput, match="nothing to compare"):
        compare({})
    with pytest.raises(BadInput, match="may differ"):
        compare({"one": summary, "two": summary}, may_differ=("state",))


def test_tables_that_mix_models_edits_or_probes_are_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(BadInput, match="2 values of model_hash"):
        summarise(pd.concat([frame, frame.assign(model_hash="1")]))
    with pytest.raises(BadInput, match="2 values of edit"):
        summarise(pd.concat([frame, frame.assign(edit="B")]))
    with pytest.raises(BadInput, match="twice"):
        summarise(pd.concat([frame, frame]))
    with pytest.raises(BadInput, match="empty"):
        summarise(frame.iloc[:0])
    with pytest.raises(BadParameter, match="averaging is 'mean'"):
        summarise(frame, averaging="mean")  # type: ignore[arg-type]


def test_a_difference_of_other_items_has_an_interval_that_shrinks() -> None:
    draw = np.random.default_rng(0)
    small, large = (unpaired(draw.normal(1, 1, n), draw.normal(0, 1, n)) for n in (20, 2000))
    assert small.high - small.low > 5 * (large.high - large.low)
    assert large.low > 0.8
    same = unpaired(np.ones(5), np.ones(4))
    assert same == (0.0, 0.0, 0.0)
    with pytest.raises(BadParameter, match="0 against 2"):
        unpaired(np.zeros(0), np.ones(2))


def test_newcombes_interval_of_unpaired_shares() -> None:
    """56/70 against 48/80: the example of Newcombe's paper on differences of proportions, method 10."""
    one, other = [1.0] * 56 + [0.0] * 14, [1.0] * 48 + [0.0] * 32
    found = apart(one, other)
    assert found.mean == pytest.approx(0.2)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)
    back = apart(other, one)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    assert difference(over_edits(one), over_edits(other)) == found


def test_items_that_share_an_owner_do_not_count_as_several() -> None:
    values = np.random.default_rng(1).normal(size=40)
    alone = clustered(values, [{i} for i in range(40)])
    half = 2.0227 * values.std(ddof=1) / 40**0.5  # Student's t with 39 degrees of freedom
    assert alone.high - alone.mean == pytest.approx(half, rel=1e-3)
    twice = clustered(np.repeat(values, 2), [{i} for i in range(40) for _ in range(2)])
    assert twice == pytest.approx(alone)
    control = span(np.repeat(values, 2))
    assert control.high - control.low < 0.8 * (twice.high - twice.low)
    with pytest.raises(BadParameter, match="two owners"):
        clustered([1.0, 2.0], [{0}, {0}])
    with pytest.raises(BadParameter, match="3 items"):
        clustered([1.0, 2.0], [{0}, {1}, {2}])


def test_intervals_over_owners_cover_the_mean_where_items_have_two_owners() -> None:
    draw, covered, control = np.random.default_rng(0), [], []
    for _ in range(200):
        people, pairs = draw.normal(size=28), [tuple(draw.choice(28, 2, replace=False)) for _ in range(140)]
        values = np.array([people[list(pair)].sum() for pair in pairs]) + draw.normal(size=140)
        for found, hits in ((clustered(values, pairs), covered), (over_edits(values), control)):
            hits.append(found.low <= 0 <= found.high)
    assert np.mean(covered) > 0.88
    assert np.mean(control) < 0.75


def test_a_share_over_owners_is_wilsons_of_fewer_items() -> None:
    values, own = [1.0, 1.0, 0.0, 1.0], [{0}, {1}, {2}, {3}]
    assert clustered_share(values, own) == pytest.approx((0.75, *wilson(3, 4)))
    pairs = [{i} for i in range(4) for _ in range(2)]
    assert clustered_share(np.repeat(values, 2), pairs) == pytest.approx((0.75, *wilson(3, 4)))
    assert clustered_share(np.ones(8), pairs) == pytest.approx((1.0, *wilson(4, 4)))
    with pytest.raises(BadParameter, match="neither 0 nor 1"):
        clustered_share([0.5, 1.0], [{0}, {1}])
