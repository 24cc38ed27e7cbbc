"""The Kronecker projector against the matrix that it stands for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from paramem.bounds.projector import KroneckerProjector
from paramem.errors import BadInput, BadParameter


def dense(projector: KroneckerProjector) -> torch.Tensor:
    whole = torch.kron(projector.left, projector.right)
    return whole[: projector.n_parameters, : projector.dimension]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 3))
def test_it_is_the_kronecker_product_and_its_transpose(n_parameters: int, dimension: int, seed: int) -> None:
    dimension = min(dimension, n_parameters)
    projector = KroneckerProjector.random(n_parameters, dimension, seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(dimension, generator=generator, dtype=torch.float64)
    v = torch.randn(n_parameters, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(projector(w), dense(projector) @ w)
    torch.testing.assert_close(projector.transpose(v), dense(projector).T @ v)
    torch.testing.assert_close(projector(w) @ v, w @ projector.transpose(v))


def test_its_columns_are_orthonormal_where_nothing_is_cut_off_and_nearly_so_elsewhere() -> None:
    whole = dense(KroneckerProjector.random(144, 16, 0, dtype=torch.float64))
    torch.testing.assert_close(whole.T @ whole, torch.eye(16, dtype=torch.float64))
    cut = dense(KroneckerProjector.random(9_990, 16, 0, dtype=torch.float64))
    off = (cut.T @ cut - torch.eye(16, dtype=torch.float64)).abs().max()
    assert 0 < off < 0.02
    gaussian = torch.randn(144, 16, dtype=torch.float64) / 12
    assert (gaussian.T @ gaussian - torch.eye(16)).abs().max() > 0.05, "the control: random columns are not"


def test_the_gradient_in_w_is_the_transpose_of_that_in_theta() -> None:
    projector = KroneckerProjector.random(1_000, 30, 1, dtype=torch.float64)
    w = torch.zeros(30, dtype=torch.float64, requires_grad=True)
    target = torch.randn(1_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = ((projector(w) - target) ** 2).sum() / 2
    (gradient,) = torch.autograd.grad(loss, [w])
    torch.testing.assert_close(gradient, projector.transpose(-target))


def test_many_vectors_at_once_are_each_on_its_own() -> None:
    projector = KroneckerProjector.random(1_003, 30, 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    w, v = (torch.randn(2, 3, n, generator=generator, dtype=torch.float64) for n in (30, 1_003))
    torch.testing.assert_close(projector(w)[1, 2], projector(w[1, 2]))
    torch.testing.assert_close(projector.transpose(v)[0, 1], projector.transpose(v[0, 1]))


def test_the_seed_decides() -> None:
    one, again, other = (KroneckerProjector.random(500, 20, seed) for seed in (0, 0, 1))
    assert torch.equal(one.left, again.left)
    assert torch.equal(one.right, again.right)
    assert not torch.equal(one.left, other.left)


def test_nothing_as_large_as_the_matrix_is_ever_made() -> None:
    projector = KroneckerProjector.random(1_000_000, 10_000, 0)
    assert projector.left.numel() + projector.right.numel() < 1_000_000
    w = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert float(projector(w).norm()) == pytest.approx(float(w.norm()), rel=1e-3)


class Watched(TorchDispatchMode):
    """The largest tensor that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.numel())
        return found


@pytest.mark.parametrize("which", ["forward", "transpose"])
def test_time_grows_with_d_sqrt_d_and_memory_with_the_parameters_alone(which: str) -> None:
    """Counted, not timed: multiplications and additions of matrix products, and the largest tensor."""
    flops, largest = {}, {}
    for n, d in [(40_000, 100), (40_000, 400), (160_000, 400)]:
        projector = KroneckerProjector.random(n, d, 0)
        apply, given = (projector, torch.ones(d)) if which == "forward" else (projector.transpose, torch.ones(n))
        with FlopCounterMode(display=False) as counter, Watched() as watch:
            apply(given)
        flops[n, d], largest[n, d] = counter.get_total_flops(), watch.largest
    assert flops[40_000, 400] / flops[40_000, 100] == pytest.approx(2, rel=0.15), "four times d: twice the work"
    assert flops[160_000, 400] / flops[40_000, 400] == pytest.approx(4, rel=0.15), "four times D: four times"
    assert flops[160_000, 400] < 2.3 * 160_000 * 20 < 2 * 160_000 * 400, "the last would be the dense matrix"
    assert all(most <= 1.01 * n for (n, _), most in largest.items())


def test_bad_input() -> None:
    with pytest.raises(BadParameter, match="dimension=11"):
        KroneckerProjector.random(10, 11, 0)
    with pytest.raises(BadParameter, match="dimension=0"):
        KroneckerProjector.random(10, 0, 0)
    with pytest.raises(BadInput, match=r"\(3,\) where the projector takes \(2,\)"):
        KroneckerProjector.random(10, 2, 0)(torch.zeros(3))
