"""Sweeps over bounds: the terms add up to the bound, choices are paid for, curves are read off right."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramem.bounds.ground import Scores, Training, certified, fresh_lm, train
from paramem.bounds.risk import bits_of_choice, subsampled_bound
from paramem.bounds.smoothing import ALPHAS, best_smoothed_bound
from paramem.bounds.source import Source, unigram_bits
from paramem.bounds.study import (
    bits_at,
    bits_at_levels,
    code_of_data,
    common_levels,
    common_risk,
    drawn_beyond,
    error_terms,
    falls_by,
    over_alpha,
    pairs_in_order,
    pareto,
    point,
    row_of,
    scaled,
    smoothed_risks,
    sweet_spot,
    tightest,
)
from paramem.bounds.study_figures import families, front, stacked
from paramem.bounds.windows import Windowed, permuted
from paramem.errors import BadInput, BadParameter

V = 50


def scores(n: int = 200, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (n,), generator=generator)
    tokens = int(lengths.sum())
    logprobs = -3 * torch.rand(tokens, generator=generator)
    return Scores(logprobs, torch.randint(0, 5, (tokens,), generator=generator), lengths)


def test_the_tightest_row_is_the_bound_that_the_library_gives() -> None:
    some = scores()
    table = over_alpha(smoothed_risks(some, V).mean(), V, 500, 10_000, 200, sample_bits=4)
    best = tightest(table)
    theirs = best_smoothed_bound(some.logprobs, some.lengths, V, 500, 10_000, 0.05, sample_bits=4)
    assert best["bound"] == pytest.approx(theirs.bound, abs=1e-12)
    assert best["alpha"] == theirs.alpha
    assert len(table) == len(ALPHAS)
    added = table["empirical"] + table["complexity"] + table["sample"]
    assert np.allclose(table["bound"], added)
    by_range = table.sort_values("alpha")["loss_range"]
    assert by_range.is_monotonic_decreasing, "a larger alpha narrows the range"


def test_a_row_agrees_with_the_certificate() -> None:
    source, seed = Source(), 10_000
    documents, unseen = source.draw(300, seed), source.draw(100, seed, sample=1)
    lm = fresh_lm("gpt2", "tiny", seed)
    rows = np.random.default_rng(0).integers(300, size=150)
    training = Training(rank=2, dimension=40, levels=3, batch=4, steps=3, quantised_steps=1)
    each = point(lm, documents, training, seed, rows, unseen)
    assert each.bits == train(lm, documents, training, seed).bits, "training is a function of its arguments"
    row = row_of(each, source.vocabulary, 300, bits_of_choice(8))
    card = certified(each.seen, each.unseen, each.bits, 300, n_choices=8)
    assert row["bound"] == pytest.approx(card.loc["BPD", "bound"])
    assert row["true"] == pytest.approx(card.loc["BPD", "true"])
    assert row["true_high"] == pytest.approx(card.loc["BPD", "true_high"])
    assert row["top1_bound"] == pytest.approx(card.loc["top-1", "bound"])
    assert row["top10_true_high"] == pytest.approx(card.loc["top-10", "true_high"])
    assert row["plain"] <= row["empirical"]
    assert row_of(each, source.vocabulary, 300, 0)["bound"] < row["bound"], "the control: a choice that nobody paid for"


def test_what_is_not_paid_for_makes_the_number_smaller() -> None:
    risks = smoothed_risks(scores(), V).mean()
    paid, unpaid = (tightest(over_alpha(risks, V, 500, 10_000, 200, paid=each))["bound"] for each in (True, False))
    assert unpaid < paid
    only = tightest(over_alpha(risks, V, 500 + bits_of_choice(len(risks)), 10_000, 200, paid=False))["bound"]
    assert unpaid < only < paid, "the choice counts in both terms"


def test_error_terms_add_up() -> None:
    terms = error_terms(0.3, 100, 5_000, 400, sample_bits=3)
    assert terms["bound"] == pytest.approx(subsampled_bound(0.3, 1.0, 100, 5_000, 400, 0.05, sample_bits=3))


def test_a_sweet_spot_has_worse_ends() -> None:
    spot = sweet_spot(pd.Series([3.0, 1.0, 2.5], index=[10, 20, 30]))
    assert (spot.index, spot.above_low, spot.above_high, spot.inside) == (1, 2.0, 1.5, True)
    assert not sweet_spot([1.0, 2.0, 3.0]).inside
    assert not sweet_spot([2.0, 1.0, 1.0]).inside, "a flat end is no worse"
    with pytest.raises(BadInput, match="2 values"):
        sweet_spot([1.0, 2.0])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_nobody_beats(points: list[tuple[int, int]]) -> None:
    table = pd.DataFrame(points, columns=["x", "y"])
    front = pareto(table, "x", "y")
    for (x, y), on in zip(points, front, strict=True):
        assert on != any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)
    assert front.any()


def test_bits_at_a_risk_are_read_off_the_curve() -> None:
    bits, risks = [100.0, 1_000.0, 10_000.0], [6.0, 4.0, 5.0]  # the last is worse than the one before: no gain
    assert bits_at(6.0, risks, bits) == pytest.approx(100)
    assert bits_at(7.0, risks, bits) == pytest.approx(100)
    assert bits_at(4.0, risks, bits) == pytest.approx(1_000)
    assert bits_at(5.0, risks, bits) == pytest.approx(math.sqrt(100 * 1_000)), "halfway, in logarithms"
    assert bits_at(5.0, risks[::-1], bits[::-1]) == bits_at(5.0, risks, bits)
    with pytest.raises(BadInput, match="below the best"):
        bits_at(3.9, risks, bits)
    assert common_risk([risks, [3.0, 4.5]]) == 4.0


def test_beyond_the_training_documents_most_draws_are_new() -> None:
    old, new = pd.DataFrame({0.1: np.zeros(500)}), pd.DataFrame({0.1: np.ones(500)})
    share = {
        m: float(drawn_beyond(old, new, 1_000, m, 400, np.random.default_rng(0))[0.1].mean())
        for m in (1_000, 2_000, 10**7)
    }
    assert share[1_000] == 0.0
    assert 0.4 < share[2_000] < 0.6
    assert share[10**7] > 0.99
    with pytest.raises(BadParameter, match="m=999"):
        drawn_beyond(old, new, 1_000, 999, 10, np.random.default_rng(0))
    with pytest.raises(BadParameter, match="n=501"):
        drawn_beyond(old, new, 1_000, 2_000, 501, np.random.default_rng(0))


def test_levels_are_those_that_every_family_has_models_around() -> None:
    few, many = ([6.0, 4.0], [100.0, 1_000.0]), ([5.0, 3.0], [100.0, 1_000.0])
    assert common_levels([few[0], many[0]], 3) == [4.0, 4.5, 5.0]
    tables = {
        name: pd.DataFrame({"plain": risks, "bits": bits})
        for name, (risks, bits) in zip("ab", (few, many), strict=True)
    }
    needed = bits_at_levels(tables, 3)
    assert list(needed.index) == [4.0, 4.5, 5.0]
    assert needed.loc[4.0].tolist() == pytest.approx([1_000, math.sqrt(100 * 1_000)])
    assert needed.loc[5.0].tolist() == pytest.approx([math.sqrt(100 * 1_000), 100])
    assert (needed.diff().dropna() < 0).all().all(), "a larger error takes fewer bits"
    assert pairs_in_order(needed) == (3, 3)
    assert pairs_in_order(needed[["b", "a"]]) == (0, 3), "the control: the other way round"
    with pytest.raises(BadInput, match="no risk is common"):
        common_levels([[6.0, 5.5], [5.0, 3.0]], 3)


def test_a_fall_is_paired() -> None:
    generator = np.random.default_rng(0)
    hard = pd.Series(generator.normal(0, 10, 400))
    mean, low = falls_by(hard, hard - 0.1 + generator.normal(0, 0.1, 400))
    assert mean == pytest.approx(0.1, abs=0.02)
    assert low > 0, "documents differ by far more than the models do"
    unpaired_low = mean - 1.96 * math.sqrt(2) * float(hard.std()) / 20
    assert unpaired_low < 0, "the control: without pairing nothing shows"


def test_the_code_of_the_data_counts_the_model_once() -> None:
    certain = Scores(torch.full((10,), -math.log(2.0)), torch.zeros(10), torch.tensor([10]))
    assert code_of_data(100.0, certain, 50.0) == pytest.approx(150.0)
    with pytest.raises(BadParameter, match="tokens=0"):
        code_of_data(100.0, certain, 0)


def test_rates_rise_with_the_weights_that_a_number_moves() -> None:
    lm = fresh_lm("llama", "tiny", 0)
    few, many = (scaled(Training(rank=2, dimension=d), lm).lr for d in (20, 200))
    alone = scaled(Training(rank=2, dimension=None), lm).lr
    assert few is not None
    assert many is not None
    assert alone is not None
    assert few > many > alone
    assert few / many == pytest.approx(10**0.75)


def test_windows_move_tokens_within_them_and_nowhere_else() -> None:
    source, seed = Source(), 10_000
    kept = source.draw(200, seed)
    assert np.array_equal(Windowed(window=1).draw(200, seed).ids, kept.ids), "a window of one changes nothing"
    moved = {w: Windowed(window=w).draw(200, seed) for w in (3, 64)}
    for window, found in moved.items():
        assert np.array_equal(found.lengths, kept.lengths)
        assert (found.ids[:, 0] == kept.ids[:, 0]).all()
        for row, (a, b) in enumerate(zip(kept.ids, found.ids, strict=True)):
            length = int(kept.lengths[row])
            assert (b[length - 1 :] == a[length - 1 :]).all(), "the last <s> and the padding stay"
            for start in range(1, length - 1, window):
                end = min(start + window, length - 1)
                assert sorted(a[start:end]) == sorted(b[start:end])
        assert unigram_bits(found, source.vocabulary) == unigram_bits(kept, source.vocabulary)
    assert (moved[3].ids != kept.ids).any()
    assert (moved[64].ids != kept.ids).sum() > (moved[3].ids != kept.ids).sum(), "the wider, the more moves"
    outside = np.array([sorted(a[1:4]) != sorted(b[1:4]) for a, b in zip(kept.ids, moved[64].ids, strict=True)])
    assert outside.mean() > 0.8, "the control: the whole document's window carries tokens out of a narrow one"


def test_windows_are_shuffled_independently() -> None:
    one = Source().draw(1, 10_000)
    twice = type(one)(np.repeat(one.ids, 50, axis=0), np.repeat(one.lengths, 50))
    found = permuted(twice, 64, np.random.default_rng(0))
    assert len(np.unique(found.ids, axis=0)) == 50


def test_bad_windows() -> None:
    with pytest.raises(BadParameter, match="window=0"):
        Windowed(window=0)
    with pytest.raises(BadParameter, match="order='shuffled'"):
        Windowed(window=2, order="shuffled")


def table_of(kinds: list[str]) -> pd.DataFrame:
    made = pd.DataFrame({"kind": kinds, "d": [10, 20, 10, 20], "empirical": [5.0, 3.0, 4.0, 3.5]})
    made = made.assign(added=[1.0, 2.0, 1.5, 3.0], complexity=[0.8, 1.8, 1.3, 2.8], sample=0.2)
    made["bound"] = made["empirical"] + made["added"]
    return made.assign(on_front=pareto(made, "added", "empirical"))


def test_figures_show_every_model_and_where_bounds_are_vacuous() -> None:
    made = table_of(["a", "a", "b", "b"])
    drawn = front({"bits per dimension": (made, 8.2)}, "a title")
    axis = drawn.axes[0]
    assert sum(len(each.get_offsets()) for each in axis.collections if len(each.get_offsets()) > 1) == 4
    assert any("8.20" in text.get_text() for text in axis.texts)
    assert any("5.00" in text.get_text() for text in axis.texts), "the smallest sum"
    bars = stacked({"d": (made.iloc[:2], "d")}, "a title", guess=8.2, ylabel="bits")
    heights = [patch.get_height() for patch in bars.axes[0].patches]
    assert sum(heights) == pytest.approx(made["bound"].iloc[:2].sum())
    lines = families({"risk": (made, "d", "empirical")}, "t", lines="kind", levels={"risk": (4.0, "vacuous")})
    assert [len(line.get_xdata()) for line in lines.axes[0].lines[:2]] == [2, 2]
    assert lines.axes[0].get_title() == "dotted: vacuous"
