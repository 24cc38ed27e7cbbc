"""The algebra of batch editors: normal equations, constraints, and where one method becomes another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramem.editing.emmet import equality_delta
from paramem.editing.least_squares import exact_solution, normal_solution
from paramem.editing.memit import least_squares_delta
from paramem.editing.rome import rank_one_delta
from paramem.errors import BadInput
from paramem.interventions import Dense, LowRank


def problem(seed: int, d_out: int, d_in: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """C (d_in, d_in) positive definite, K (d_in, n), R (d_out, n)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((d_in, 3 * d_in), (d_in, n), (d_out, n))
    text, K, R = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return text @ text.T / (3 * d_in), K, R


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 9), st.integers(1, 14), st.floats(0.1, 100))
def test_memit_solves_its_normal_equation(seed: int, d_out: int, d_in: int, n: int, lam: float) -> None:
    C, K, R = problem(seed, d_out, d_in, n)
    delta = least_squares_delta(C, K, R, lam).dense()
    torch.testing.assert_close(delta @ (lam * C + K @ K.T), R @ K.T, rtol=1e-8, atol=1e-8)
    if delta.norm() > 1e-6:
        assert not torch.allclose(1.01 * delta @ (lam * C + K @ K.T), R @ K.T, rtol=1e-8, atol=1e-8), "the control"


@pytest.mark.parametrize("n", [3, 12])
def test_no_other_change_has_a_lower_objective(n: int) -> None:
    C, K, R = problem(1, 4, 8, n)
    best, lam, generator = least_squares_delta(C, K, R, 2.0).dense(), 2.0, torch.Generator().manual_seed(0)

    def objective(delta: torch.Tensor) -> float:
        return float(((delta @ K - R) ** 2).sum() + lam * torch.trace(delta @ C @ delta.T))

    for size in (1e-3, 1e-1):
        for _ in range(10):
            step = size * torch.randn(best.shape, generator=generator, dtype=torch.float64)
            assert objective(best + step) > objective(best)
    assert objective(best) < objective(torch.zeros_like(best)), "the control"


def test_the_two_sides_of_the_identity_agree_where_keys_are_few_and_where_they_are_many() -> None:
    for n in (5, 6, 7, 30):  # around the width, 6
        C, K, R = problem(n, 4, 6, n)
        direct = R @ K.T @ torch.linalg.inv(0.7 * C + K @ K.T)
        torch.testing.assert_close(normal_solution(C, K, R, 0.7).dense(), direct, rtol=1e-8, atol=1e-8)
        without = R @ K.T @ torch.linalg.inv(0.7 * torch.eye(6, dtype=torch.float64) + K @ K.T)
        torch.testing.assert_close(normal_solution(None, K, R, 0.7).dense(), without, rtol=1e-8, atol=1e-8)


def test_one_key_tends_to_rome_as_the_weight_of_kept_keys_falls() -> None:
    C, K, R = problem(3, 4, 6, 1)
    W = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    rome = rank_one_delta(W, C, K[:, 0], (W @ K + R)[:, 0]).dense()
    distances = [float((least_squares_delta(C, K, R, lam).dense() - rome).norm()) for lam in (10.0, 1e-1, 1e-3, 1e-9)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 1e-2
    assert distances[-1] < 1e-8 * float(rome.norm())


def test_one_key_under_equality_is_rome() -> None:
    C, K, R = problem(4, 4, 6, 1)
    W = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    rome = rank_one_delta(W, C, K[:, 0], (W @ K + R)[:, 0]).dense()
    torch.testing.assert_close(equality_delta(C, K, R).dense(), rome, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(equality_delta(C, K, R, 0.1).dense(), rome, rtol=1e-3), (
        "the control: with a ridge it is not"
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 8))
def test_equality_stores_every_pair_exactly_and_disturbs_C_least(seed: int, d_out: int, n: int) -> None:
    C, K, R = problem(seed, d_out, 8, n)
    best = equality_delta(C, K, R).dense()
    torch.testing.assert_close(best @ K, R, rtol=1e-6, atol=1e-6)
    if n < 8:
        noise = torch.randn(best.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rival = best + noise - noise @ K @ torch.linalg.pinv(K)  # stores the pairs as well
        torch.testing.assert_close(rival @ K, R, rtol=1e-5, atol=1e-5)
        assert torch.trace(rival @ C @ rival.T) > torch.trace(best @ C @ best.T)


def test_a_ridge_on_the_equality_is_memits_penalty() -> None:
    C, K, R = problem(5, 4, 8, 5)
    for ridge in (0.1, 3.0):
        inverse, eye = torch.linalg.inv(C), torch.eye(5, dtype=torch.float64)
        by_hand = R @ torch.linalg.inv(K.T @ inverse @ K + ridge * eye) @ K.T @ inverse
        torch.testing.assert_close(equality_delta(C, K, R, ridge).dense(), by_hand, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(least_squares_delta(C, K, R, ridge).dense(), by_hand, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(least_squares_delta(C, K, R, 0.1).dense(), least_squares_delta(C, K, R, 3.0).dense())


def test_equal_keys_with_different_values_are_met_half_way() -> None:
    C, K, R = problem(6, 4, 8, 3)
    K = torch.cat([K, K[:, :1]], 1)
    R = torch.cat([R, R[:, :1] + 2.0], 1)
    delta = exact_solution(C, K, R).dense()
    torch.testing.assert_close(delta @ K[:, 0], R[:, 0] + 1.0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(delta @ K[:, 1:3], R[:, 1:3], rtol=1e-6, atol=1e-6)


def test_more_keys_than_dimensions_are_met_in_the_least_squares_sense() -> None:
    C, K, R = problem(7, 4, 6, 20)
    best = exact_solution(C, K, R).dense()
    torch.testing.assert_close(best, R @ torch.linalg.pinv(K), rtol=1e-6, atol=1e-8)
    assert (best @ K - R).norm() > 1e-2, "the control: they cannot be met"


def test_a_change_is_factored_where_that_is_smaller_and_keeps_the_weights_precision() -> None:
    C, K, R = problem(8, 20, 30, 2)
    few = normal_solution(C, K, R.float(), 1.0)
    assert isinstance(few, LowRank)
    assert few.left.dtype == few.right.dtype == torch.float32
    C, K, R = problem(8, 20, 30, 15)
    assert isinstance(normal_solution(C, K, R, 1.0), Dense)


def test_a_singular_second_moment_is_refused() -> None:
    C, K, R = problem(9, 4, 6, 2)
    for solve in (exact_solution, lambda C, K, R: normal_solution(C, K, R, 1.0)):
        with pytest.raises(BadInput, match="singular"):
            solve(torch.zeros_like(C), K, R)
