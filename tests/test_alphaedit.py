"""AlphaEdit: what it keeps, what it writes, and what it remembers."""

from __future__ import annotations

import pytest
import torch

from edits import request
from families import make_lm
from paramem.arch import Site
from paramem.editing.alphaedit import (
    AlphaEditSettings,
    alphaedit,
    alphaedit_steps,
    null_space,
    projected_delta,
    share_inside,
)
from paramem.editing.memit import MemitSettings, memit
from paramem.editing.targets import Lookups
from paramem.errors import BadInput, BadParameter
from test_least_squares import problem
from test_memit import EDITS, moments


def low_rank_moment(d_in: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A second moment, and the keys (d_in, 40) that it was counted over."""
    generator = torch.Generator().manual_seed(0)
    basis, weights = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((d_in, rank), (rank, 40))
    )
    keys = basis @ weights
    return keys @ keys.T / 40, keys


def test_the_null_space_is_orthonormal_and_holds_no_more_than_its_share() -> None:
    C, _ = low_rank_moment(12, 5)
    U = null_space(C, 1e-9)
    assert U.shape == (12, 7)
    torch.testing.assert_close(U.T @ U, torch.eye(7, dtype=torch.float64))
    for energy in (0.05, 0.3):
        wider = null_space(C, energy)
        assert float(torch.trace(wider.T @ C @ wider)) <= energy * float(C.trace())
    assert null_space(C, 0.3).shape[1] > 7
    with pytest.raises(BadInput, match="no direction"):
        null_space(torch.eye(4, dtype=torch.float64), 0.1)


def test_keys_to_keep_do_not_move_and_new_ones_do() -> None:
    _, K, R = problem(1, 6, 12, 4)
    C, kept = low_rank_moment(12, 5)
    delta = projected_delta(null_space(C, 1e-9), K, R, None, 1e-6).dense()
    assert (delta @ kept).norm() < 1e-9 * delta.norm() * kept.norm()
    torch.testing.assert_close(delta @ K, R, rtol=1e-3, atol=1e-3)
    plain = projected_delta(torch.eye(12, dtype=torch.float64), K, R, None, 1e-6).dense()
    assert (plain @ kept).norm() > 1e-2 * plain.norm() * kept.norm(), "the control: without the projection they move"


@pytest.mark.parametrize("with_earlier", [False, True])
def test_it_is_the_formula_of_the_paper(with_earlier: bool) -> None:
    C, K, R = problem(2, 6, 12, 4)
    _, earlier, _ = problem(3, 6, 12, 5)
    U = null_space(C, 0.2)
    P, eye = U @ U.T, torch.eye(12, dtype=torch.float64)
    written = earlier @ earlier.T if with_earlier else None
    sums = K @ K.T + (earlier @ earlier.T if with_earlier else 0)
    formula = R @ K.T @ P @ torch.linalg.inv(sums @ P + 0.3 * eye)
    torch.testing.assert_close(projected_delta(U, K, R, written, 0.3).dense(), formula, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(formula @ P, formula, rtol=1e-8, atol=1e-10)


def test_keys_written_earlier_move_less_when_they_are_remembered() -> None:
    _, K, R = problem(4, 6, 12, 2)
    _, earlier, _ = problem(5, 6, 12, 2)
    U = torch.eye(12, dtype=torch.float64)
    moved = [
        float((projected_delta(U, K, R, written, 0.01).dense() @ earlier).norm())
        for written in (None, earlier @ earlier.T, 100 * earlier @ earlier.T)
    ]
    assert moved == sorted(moved, reverse=True)
    assert moved[2] < 0.1 * moved[0]


def test_old_keys_of_the_model_move_less_than_under_least_squares_without_them() -> None:
    lm = make_lm("gpt2")
    second, name = moments(lm), lm.weight(1, "down").name
    edit = alphaedit(lm, EDITS, AlphaEditSettings(layers=(1,), steps=4), second).dense(name)
    rival = memit(lm, EDITS, MemitSettings(layers=(1,), steps=4, covariance=False)).dense(name)
    rival = rival * edit.norm() / rival.norm()  # of one size
    moved = [float(torch.trace(delta.T @ second[1] @ delta)) for delta in (edit, rival)]
    assert moved[0] < moved[1]


def test_batches_are_written_one_after_the_other_on_the_edited_model() -> None:
    lm = make_lm("gpt2")
    second, name = moments(lm), lm.weight(1, "down").name
    fingerprint = lm.fingerprint()
    one_by_one = AlphaEditSettings(layers=(0, 1), steps=4, batch=1, remember=False)
    first = alphaedit(lm, EDITS[:1], one_by_one, second)
    with first.applied(lm) as edited:
        second_step = alphaedit(edited, EDITS[1:2], one_by_one, second)
    both = alphaedit(lm, EDITS[:2], one_by_one, second)
    torch.testing.assert_close(both.dense(name), (first + second_step).dense(name), rtol=1e-8, atol=1e-10)
    remembering = alphaedit(lm, EDITS[:2], AlphaEditSettings(layers=(0, 1), steps=4, batch=1), second)
    assert not torch.allclose(remembering.dense(name), both.dense(name), rtol=1e-4), "earlier keys count"
    together = alphaedit(lm, EDITS[:2], AlphaEditSettings(layers=(0, 1), steps=4), second)
    assert not torch.allclose(together.dense(name), remembering.dense(name), rtol=1e-4)
    assert lm.fingerprint() == fingerprint


def test_steps_hand_out_every_sum_of_the_sequence() -> None:
    lm = make_lm("llama")
    second, name, one_by_one = (
        moments(lm),
        lm.weight(1, "down").name,
        AlphaEditSettings(layers=(0, 1), steps=4, batch=1),
    )
    fingerprint, sums = lm.fingerprint(), {}
    for n, total in alphaedit_steps(lm, EDITS, one_by_one, second):
        assert lm.fingerprint() == fingerprint
        sums[n] = total.dense(name)
    assert list(sums) == [1, 2, 3]
    torch.testing.assert_close(sums[2], alphaedit(lm, EDITS[:2], one_by_one, second).dense(name), rtol=0, atol=0)
    assert not torch.allclose(sums[2], sums[3], rtol=1e-3)


def test_a_sequence_goes_on_from_the_keys_of_edits_that_were_made_before() -> None:
    lm, site = make_lm("gpt2"), Site("mlp_hidden", 1)
    second, name, settings = moments(lm), lm.weight(1, "down").name, AlphaEditSettings(layers=(1,), steps=4, batch=1)
    both = alphaedit(lm, EDITS[:2], settings, second).dense(name)
    first = alphaedit(lm, EDITS[:1], settings, second)
    with first.applied(lm) as edited:
        K = Lookups.of(edited, EDITS[:1]).states(edited, site)[0][:, 0].double()
        alone = first.dense(name) + alphaedit(edited, EDITS[1:2], settings, second).dense(name)
        on = first.dense(name) + alphaedit(edited, EDITS[1:2], settings, second, earlier={1: K.T @ K}).dense(name)
    torch.testing.assert_close(on, both, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(alone, both, rtol=1e-4), "the control: without them it is another edit"


def test_the_share_of_a_key_inside_is_that_of_its_norm() -> None:
    U = torch.eye(4, dtype=torch.float64)[:, :2]
    K = torch.tensor([[3.0, 0.0], [0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(share_inside(U, K), torch.tensor([9 / 25, 0.0], dtype=torch.float64))


def test_bad_settings_and_missing_moments_are_refused() -> None:
    lm = make_lm("gpt2")
    for bad in ({"energy": 0.0}, {"energy": 1.0}, {"ridge": 0.0}, {"batch": 0}):
        with pytest.raises(BadParameter):
            AlphaEditSettings(layers=(1,), **bad)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="alphaedit: the second moment of layer 1"):
        alphaedit(lm, [request(0)], AlphaEditSettings(layers=(1,)), {})
