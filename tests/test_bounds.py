"""Bounds: parity with published numbers, what they must be monotone in, how often they hold."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramem.bounds.risk import (
    bits_of_choice,
    catoni_bound,
    convexity_bound,
    finite_hypothesis_bound,
    hoeffding_samples,
    kl_bound,
    mcallester_bound,
    prefix_free_bits,
    subsampled_bound,
)
from paramem.bounds.smoothing import (
    ALPHAS,
    best_smoothed_bound,
    bits_per_dimension,
    mean_bits,
    smoothed_bits,
    smoothed_interval,
)
from paramem.errors import BadInput, BadParameter
from parity import GOLDEN

CASES = json.loads((GOLDEN / "bounds.json").read_text())["settings"]
UNIT = (kl_bound, mcallester_bound, convexity_bound, catoni_bound)
risks = st.floats(0.0, 1.0)
bits = st.floats(0.0, 1e6)
deltas = st.floats(1e-9, 0.999)
counts = st.integers(1, 10**8)


@pytest.mark.parametrize("each", CASES, ids=lambda each: f"alpha {each['alpha']}")
def test_parity_with_the_published_code(each: dict[str, float]) -> None:
    complexity = each["prefix_bits"] + each["misc_extra_bits"]  # the file's bits are prefix-free already
    m, n, delta = int(each["data_size"]), int(each["sample_size"]), each["epsilon"]
    assert complexity * math.log(2) == pytest.approx(each["divergence_nats"], rel=1e-12)
    length = smoothed_interval(each["alpha"], int(each["V"])).length
    assert length == pytest.approx(each["Delta"], rel=1e-12)
    ours = {
        "bpd_bound": subsampled_bound(each["empirical_bpd"], length, complexity, m, n, delta),
        "top1err_bound_with_train_err_0_68": subsampled_bound(0.68, 1.0, complexity, m, n, delta),
        "mcallester": mcallester_bound(0.68, complexity, m, delta),
        "convexity": convexity_bound(0.68, complexity, m, delta),
        "pac_bayes_opt_acc": catoni_bound(0.68, complexity, m, delta),
    }
    for name, value in ours.items():
        assert value == pytest.approx(each[name], abs=1e-9), name
    assert finite_hypothesis_bound(each["empirical_bpd"], length, complexity, m, delta) < each["bpd_bound"] - 0.1


def test_the_end_of_a_code_is_paid_for() -> None:
    end = math.log2(math.pi**2 / 6)
    assert prefix_free_bits(1024.0) == pytest.approx(1024 + 2 * 10 + end)
    assert prefix_free_bits(1024.0, 7) == pytest.approx(1024 + 2 * 10 + 7 + end)
    assert prefix_free_bits(0.0) == pytest.approx(end)


def test_the_prior_is_one_and_without_the_end_it_is_not() -> None:
    """2^C codes of every length C: their probabilities 2^-bits sum to at most 1 (Kraft's inequality)."""
    lengths = np.arange(1, 200_000, dtype=float)
    sum_of = lambda bits: float(np.exp2(lengths - bits).sum())  # noqa: E731
    assert 0.9999 < sum_of(np.array([prefix_free_bits(each) for each in lengths])) <= 1
    assert sum_of(lengths + 2 * np.log2(lengths)) > 1.6, "the control: C + 2 log2 C alone"
    assert sum_of(lengths) > 1e5, "the control: C alone"


def test_hoeffding_needs_14979_documents_for_a_gap_of_one_hundredth() -> None:
    assert hoeffding_samples(gap=0.01, delta=0.05) == 14979
    assert hoeffding_samples(gap=0.01, delta=0.05, loss_range=2.0) > 4 * 14978
    shown = finite_hypothesis_bound(0.0, 1.0, 0.0, 14979, 0.05)
    assert shown <= 0.01 < finite_hypothesis_bound(0.0, 1.0, 0.0, 14978, 0.05)


@settings(deadline=None)
@given(risks, bits, counts, counts, deltas)
def test_the_subsampled_bound_falls_with_documents_and_rises_with_bits_and_certainty(
    risk: float, complexity: float, m: int, n: int, delta: float
) -> None:
    m, n = max(m, n), min(m, n)
    here = subsampled_bound(risk, 1.0, complexity, m, n, delta)
    assert here >= risk
    assert subsampled_bound(risk, 1.0, complexity + 1, m, n, delta) >= here
    assert subsampled_bound(risk, 1.0, complexity, m, n, delta / 2) >= here
    assert subsampled_bound(risk, 2.0, complexity, m, n, delta) >= here
    assert subsampled_bound(risk, 1.0, complexity, 4 * m, 4 * n, delta) <= here
    assert here >= finite_hypothesis_bound(risk, 1.0, complexity, m, delta) - 1e-12


@pytest.mark.parametrize("bound", UNIT, ids=lambda bound: bound.__name__)
@settings(deadline=None)
@given(risk=risks, complexity=bits, m=st.integers(2, 10**8), delta=deltas)
def test_bounds_on_errors_are_monotone_and_above_the_empirical_risk(bound, risk, complexity, m, delta) -> None:
    here = bound(risk, complexity, m, delta)
    assert here >= risk - 1e-12
    assert bound(risk, complexity + 1, m, delta) >= here - 1e-9
    assert bound(risk, complexity, m, delta / 2) >= here - 1e-9
    assert bound(risk, complexity, 4 * m, delta) <= here + 1e-9


@settings(deadline=None)
@given(risks, bits, counts, deltas)
def test_chernoff_is_never_worse_than_hoeffding(risk: float, complexity: float, m: int, delta: float) -> None:
    hoeffding = min(1.0, finite_hypothesis_bound(risk, 1.0, complexity, m, delta))
    assert kl_bound(risk, complexity, m, delta) <= hoeffding + 1e-12


def test_the_bounds_hold_as_often_as_they_promise_and_without_the_bits_they_do_not() -> None:
    """The best of 64 coins of equal bias, chosen by its tosses: six bits pay for the choice."""
    generator, coins, m, delta, truth = np.random.default_rng(0), 64, 200, 0.2, 0.5
    tosses = generator.binomial(m, truth, size=(4000, coins)).min(axis=1) / m
    paid = bits_of_choice(coins)
    for bound in (
        lambda risk, c: finite_hypothesis_bound(risk, 1.0, c, m, delta),
        lambda r, c: kl_bound(r, c, m, delta),
    ):
        covered = np.mean([bound(float(risk), paid) >= truth for risk in tosses])
        naive = np.mean([bound(float(risk), 0.0) >= truth for risk in tosses])
        assert covered >= 1 - delta
        assert naive < 1 - delta, "the control: a choice that is not paid for breaks the promise"


@settings(deadline=None)
@given(st.lists(st.floats(-60, 0), min_size=1, max_size=30), st.floats(1e-6, 0.99), st.integers(2, 60000))
def test_a_document_s_bits_lie_in_the_interval_whatever_the_model_says(
    logprobs: list[float], alpha: float, vocabulary: int
) -> None:
    interval = smoothed_interval(alpha, vocabulary)
    said = torch.tensor(logprobs, dtype=torch.float64)
    [bpd] = bits_per_dimension(said, torch.tensor([len(said)]), alpha, vocabulary).tolist()
    assert interval.low - 1e-9 <= bpd <= interval.high + 1e-9
    ends = smoothed_bits(torch.tensor([0.0, -math.inf]), alpha, vocabulary).tolist()
    assert ends == pytest.approx([interval.low, interval.high], abs=1e-9), "both ends are reached"


def test_bits_per_dimension_are_means_over_documents_and_not_over_tokens() -> None:
    sure, unsure = torch.zeros(9), torch.full((1,), -10.0)
    each = bits_per_dimension(torch.cat([sure, unsure]), torch.tensor([9, 1]), 0.1, 100)
    assert each[0] == pytest.approx(float(smoothed_bits(sure, 0.1, 100).mean()))
    pooled = float(smoothed_bits(torch.cat([sure, unsure]), 0.1, 100).mean())
    assert float(each.mean()) > pooled + 0.5


def test_means_over_documents_are_the_same_for_all_alphas_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 20, (50,), generator=generator)
    said = -torch.rand(int(lengths.sum()), generator=generator) * 4
    each = [float(bits_per_dimension(said, lengths, alpha, 100).mean()) for alpha in ALPHAS]
    assert mean_bits(said, lengths, ALPHAS, 100) == pytest.approx(each, abs=1e-12)
    pooled = [float(smoothed_bits(said, alpha, 100).mean()) for alpha in ALPHAS]
    assert mean_bits(said, lengths, ALPHAS, 100) != pytest.approx(pooled, abs=1e-3), "the control: over tokens"
    with pytest.raises(BadParameter, match=r"alpha=0\.0"):
        mean_bits(said, lengths, [0.0], 100)
    with pytest.raises(BadInput, match="no token"):
        mean_bits(said, lengths * 0, ALPHAS, 100)


def test_the_choice_of_alpha_is_paid_for_once() -> None:
    generator = torch.Generator().manual_seed(0)
    said, lengths = -torch.rand(1000, generator=generator) * 4, torch.full((50,), 20)
    best = best_smoothed_bound(said, lengths, 1000, 500.0, 10_000, 0.05)
    by_hand = [
        subsampled_bound(
            float(bits_per_dimension(said, lengths, a, 1000).mean()),
            smoothed_interval(a, 1000).length,
            500.0 + math.ceil(math.log2(len(ALPHAS))),
            10_000,
            50,
            0.05,
            sample_bits=math.ceil(math.log2(len(ALPHAS))),
        )
        for a in ALPHAS
    ]
    assert best.bound == pytest.approx(min(by_hand))
    assert best.alpha == ALPHAS[int(np.argmin(by_hand))]
    alone = best_smoothed_bound(said, lengths, 1000, 500.0, 10_000, 0.05, alphas=[best.alpha])
    assert alone.bound < best.bound, "an alpha fixed beforehand costs nothing"
    assert not best.vacuous
    assert best_smoothed_bound(said, lengths, 1000, 1e7, 10_000, 0.05).vacuous


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: finite_hypothesis_bound(0.1, 1.0, 10, 100, 0.0), "delta=0.0"),
        (lambda: finite_hypothesis_bound(0.1, 1.0, 10, 100, 1.0), "delta=1.0"),
        (lambda: finite_hypothesis_bound(0.1, 1.0, -1, 100, 0.05), "complexity_bits=-1"),
        (lambda: finite_hypothesis_bound(0.1, math.inf, 10, 100, 0.05), "smoothed"),
        (lambda: finite_hypothesis_bound(math.nan, 1.0, 10, 100, 0.05), "empirical_risk=nan"),
        (lambda: finite_hypothesis_bound(0.1, 1.0, 10, 0, 0.05), "m=0"),
        (lambda: subsampled_bound(0.1, 1.0, 10, 100, 101, 0.05), "n=101"),
        (lambda: kl_bound(1.5, 10, 100, 0.05), "between 0 and 1"),
        (lambda: prefix_free_bits(-3), "compressed_bits=-3"),
        (lambda: bits_of_choice(0), "n_choices=0"),
        (lambda: hoeffding_samples(0.0, 0.05), "gap=0.0"),
        (lambda: smoothed_interval(0.0, 10), "alpha=0.0"),
        (lambda: smoothed_interval(0.5, 1), "vocabulary=1"),
        (lambda: bits_per_dimension(torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.5, 10), "no documents"),
        (lambda: bits_per_dimension(torch.zeros(2), torch.tensor([2, 0]), 0.5, 10), "no token"),
        (lambda: bits_per_dimension(torch.zeros(2), torch.tensor([3]), 0.5, 10), "3 tokens in all"),
        (lambda: best_smoothed_bound(torch.zeros(3), torch.tensor([3]), 10, 5, 9, 0.1, subsample=False), "1 documents"),
    ],
)
def test_what_no_theorem_covers_is_refused(call, message: str) -> None:
    with pytest.raises((BadParameter, BadInput), match=message):
        call()


@pytest.mark.parametrize(
    ("call", "bad", "good"),
    [
        *((lambda m, f=f: f(0.1, 10, m, 0.05), bad, 2**53) for f in UNIT for bad in (math.nan, math.inf, 2**53 + 2)),
        *((lambda r, f=f: f(r, 10, 100, 0.05), bad, 1.0) for f in UNIT for bad in (1.001, math.nan, math.inf)),
        *((lambda d, f=f: f(0.1, 10, 100, d), bad, 1e-300) for f in UNIT for bad in (5e-324, math.nan)),
        *((lambda m: finite_hypothesis_bound(0.1, 1.0, 10, m, 0.05), bad, 2**53) for bad in (math.nan, math.inf)),
        *((lambda m: subsampled_bound(0.1, 1.0, 10, m, 100, 0.05), bad, 100) for bad in (math.nan, math.inf)),
        *((lambda n: subsampled_bound(0.1, 1.0, 10, 100, n, 0.05), bad, 100) for bad in (math.nan, math.inf)),
        (lambda d: subsampled_bound(0.1, 1.0, 10, 10**8, 1, d), 5e-324, 1e-300),
        (lambda d: hoeffding_samples(0.01, d), 5e-324, 1e-300),
        (lambda gap: hoeffding_samples(gap, 0.05), 1e-170, 1e-150),
        (lambda length: hoeffding_samples(0.01, 0.05, length), 1e160, 1e150),
        *((bits_of_choice, bad, 10**400) for bad in (math.nan, math.inf)),
        *((lambda step: catoni_bound(0.1, 10, 100, 0.05, step), bad, 1e-6) for bad in (0.0, -1.0, math.nan)),
        *((lambda alpha: sum(smoothed_interval(alpha, 300)), bad, 1e-300) for bad in (1e-320, math.nan)),
        *((lambda v: sum(smoothed_interval(0.1, v)), bad, 10**9) for bad in (math.nan, math.inf)),
    ],
)
def test_numbers_at_the_end_of_floats_are_refused_and_their_good_neighbours_are_not(call, bad, good) -> None:
    with pytest.raises(BadParameter) as caught:
        call(bad)
    assert str(bad) in str(caught.value)
    assert math.isfinite(call(good)), "the control"
