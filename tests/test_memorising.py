"""Memorising: risks against draws, codes against weights, and bounds that are caught when they do not pay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paramem.bounds.coding import Code
from paramem.bounds.memorising import (
    Drinks,
    Regime,
    Told,
    bounds,
    course,
    judge,
    leaning,
    memorised,
    smoothed_bounds,
    theta_0,
    trained_in_full,
)
from paramem.bounds.risk import finite_hypothesis_bound
from paramem.bounds.smoothing import ALPHAS
from paramem.errors import BadParameter

SMALL = Drinks(names=10, noise=0.5)
REGIME = Regime(width=4, dimension=60, steps=200, batch=20, lr=0.2)
SHAPE = REGIME.shape(SMALL)
START = theta_0(SHAPE, 0)


def told(m: int, many: int, source: Drinks = SMALL) -> list[Told]:
    return [source.draw(m, 77, sample=i) for i in range(many)]


def test_documents_follow_the_town_but_for_the_noise_and_read_as_they_say() -> None:
    source = Drinks(noise=0.2)
    drawn = source.draw(20_000, 0)
    towns = drawn.ids[:, 1] - 3
    assert float((towns == drawn.drinks).double().mean()) == pytest.approx(0.8, abs=0.01)
    assert int(drawn.ids.max()) < source.vocabulary
    assert source.text(source.draw(1, 0))[0].split()[-1] in ("tea", "coffee")
    assert torch.equal(source.draw(5, 1).ids, source.draw(5, 1).ids)
    assert not torch.equal(source.draw(50, 1).ids, source.draw(50, 1, sample=1).ids)
    assert len({tuple(row) for row in source.everybody().ids.tolist()}) == 2 * 30 * 30
    for call in (lambda: Drinks(noise=0.6), lambda: Drinks(names=0), lambda: source.draw(0, 0)):
        with pytest.raises(BadParameter):
            call()


def test_the_true_risk_is_the_mean_over_new_documents() -> None:
    source = Drinks(names=10, noise=0.3)
    theta = trained_in_full(told(100, 3, source), SHAPE, Regime(width=4, steps=60, batch=50, lr=0.1), START)
    new = source.draw(20_000, 5)
    found = judge(SHAPE, theta, [new] * 3, source)
    np.testing.assert_allclose(found.empirical, found.true, atol=0.01)
    np.testing.assert_allclose(found.empirical_bits, found.true_bits, atol=0.02)
    other = judge(SHAPE, theta, [new] * 3, Drinks(names=10, noise=0.0))
    assert np.abs(found.empirical - other.true).max() > 0.02, "the control: of another distribution it is not"
    assert found.true_bits.shape == (len(ALPHAS), 3)


def test_every_model_is_its_start_and_the_numbers_in_its_code() -> None:
    for _, numbers, theta in memorised(told(20, 2), SHAPE, REGIME, START, (0, 60)):
        for row, weights in zip(numbers, theta, strict=True):
            values = Code.unpack(REGIME.code(row).pack()).values()
            w = torch.from_numpy(values.astype(np.float32))
            assert torch.allclose(START + REGIME.projector(SHAPE)(w), weights, atol=1e-6)
    assert torch.unique(numbers).tolist() == [-1.0, 0.0, 1.0]
    assert not torch.allclose(theta[0], theta[1])
    assert REGIME.bits(numbers)[0] > REGIME.code(numbers[0]).bits


def test_a_stack_trains_each_model_as_if_it_were_alone() -> None:
    both, alone = (list(memorised(told(20, many), SHAPE, REGIME, START, (40,))) for many in (2, 1))
    assert torch.equal(both[0][1][:1], alone[0][1])


def test_memorised_coins_break_the_bound_that_does_not_pay_and_no_other() -> None:
    documents, marks = told(30, 12), (20, 200)
    table = course(documents, SMALL, REGIME, START, marks)
    last = table[table["step"] == 200]
    assert (table["bound"] >= table["true"]).all()
    assert (last["unpaid"] < last["true"]).mean() > 0.5
    assert (table["bpd_bound"] >= table["bpd_true"]).all()
    assert last["true"].to_numpy() == pytest.approx(0.5)  # coins: whatever a model says
    assert last["empirical"].mean() < table.loc[table["step"] == 20, "empirical"].mean()
    assert last["passes"].iloc[0] == pytest.approx(200 * 20 / 30)


def test_a_start_that_met_the_documents_breaks_what_is_paid_for_the_rest() -> None:
    documents = told(60, 8)
    met = trained_in_full(documents, SHAPE, Regime(width=4, steps=300, batch=60, lr=0.05), START)
    own, other = (judge(SHAPE, each, documents, SMALL) for each in (met, met.roll(1, 0)))
    assert (bounds(own.empirical, 0.0, 60, 0.05) < own.true).mean() > 0.9
    assert (bounds(other.empirical, 0.0, 60, 0.05) >= other.true).mean() > 0.5
    assert torch.equal(leaning(SHAPE, met, documents[0].ids)[:1], leaning(SHAPE, met[:1], documents[0].ids))


def test_bounds_are_those_of_one_model_after_another() -> None:
    risks, bits = np.array([0.1, 0.3]), np.array([10.0, 100.0])
    assert bounds(risks, bits, 50, 0.1).tolist() == [
        finite_hypothesis_bound(r, 1.0, c, 50, 0.1) for r, c in zip(risks, bits, strict=True)
    ]
    found = judge(SHAPE, START[None], told(50, 1), SMALL)
    value, true = smoothed_bounds(found, 40.0, 50, 0.05)
    assert value[0] >= found.empirical_bits.min()
    assert true[0] in found.true_bits
