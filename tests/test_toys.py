"""Models of ten weights: their true risks are exact, their codes are codes, and unpaid search breaks its promise."""

from __future__ import annotations

import numpy as np
import pytest

from paramem.bounds.risk import finite_hypothesis_bound
from paramem.bounds.toys import SignModels, examples, failure_table, failures, searched
from paramem.errors import BadParameter


def test_there_are_all_of_them() -> None:
    assert len(SignModels.all(4)) == 3**4
    assert len(SignModels.all(5, most=2)) == 1 + 5 * 2 + 10 * 4
    with pytest.raises(BadParameter, match="inputs=20"):
        SignModels.all(20)


def test_code_lengths_are_those_of_a_prefix_free_code() -> None:
    models = SignModels.all(6)
    for bits in (models.uniform_bits, models.sparse_bits):
        assert np.exp2(-bits).sum() <= 1 + 1e-9
    assert np.exp2(-(models.sparse_bits - 2)).sum() > 1, "the control: two bits less are no code"
    assert models.sparse_bits[np.abs(models.weights).sum(1).argmin()] == 1, "the empty model costs one bit"


def test_true_risks_are_what_many_examples_show() -> None:
    models, truth = SignModels.all(4), np.array([1, 0, -1, 0], dtype=np.float32)
    generator = np.random.default_rng(0)
    x, y = examples(40_000, generator, truth=truth, noise=0.1, inputs=4)
    assert np.abs(models.errors(x, y) - models.true_errors(truth, 0.1)).max() < 0.015
    assert models.true_errors(truth, 0.1).min() == pytest.approx(0.1)
    assert (models.true_errors(None) == 0.5).all()
    x, y = examples(40_000, generator, inputs=4)
    for alpha in (0.5, 0.01):
        assert np.abs(models.bits(x, y, alpha) - models.true_bits(alpha)).max() < 0.1
    assert models.true_bits(0.5).min() >= 1, "nothing predicts a coin in less than one bit"


def test_search_that_is_paid_for_keeps_the_promise_and_unpaid_search_does_not() -> None:
    models, m, delta = SignModels.all(5), 100, 0.1
    found = searched(models, m, 200, np.random.default_rng(0), models.uniform_bits, delta)
    assert failures(found["bound"], found["true"])[0] <= delta * 200
    unpaid = found["empirical"] + finite_hypothesis_bound(0.0, 1.0, 0.0, m, delta)
    assert failures(unpaid, found["true"])[0] > 2 * delta * 200, "the control"


def test_failures_are_shares_with_intervals() -> None:
    table = failure_table({("coin", "paid"): failures(np.array([0.4, 0.6, 0.7, 0.8]), 0.5)})
    row = table.iloc[0]
    assert (row["mean"], row["repetitions"]) == (0.25, 4)
    assert row["low"] < 0.25 < row["high"]
