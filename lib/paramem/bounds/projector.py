r"""A random subspace of many parameters that is never written down (lotfi2023nonvacuous, section 5).

theta = theta_0 + P w with P of shape (D, d), D parameters and d numbers to learn. P = Q1 (x) Q2, the Kronecker product
of two matrices with orthonormal columns, about sqrt(D) x sqrt(d) each. With w written as a matrix Omega (d1, d2), row
by row,

    P w = vec(Q1 Omega Q2^T)        P^T v = vec(Q1^T Theta Q2)

so that applying P takes O(D sqrt d) operations and O(D) memory, where P itself would have D d entries. Q1 and Q2 follow
from a seed: they cost no bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from paramem.errors import BadInput, BadParameter

DEPARTURES = {
    "shape": (
        "Q1 and Q2 are sqrt(D) x sqrt(d)",
        "a x d1 and b x d2, the nearest whole numbers with a b >= D and d1 d2 >= d; what is beyond D and d is cut off",
        "D and d are hardly ever squares; the columns of P are orthonormal up to the rows that are cut off",
    ),
}


@dataclass(frozen=True, eq=False)
class KroneckerProjector:
    """P = Q1 (x) Q2, its first ``n_parameters`` rows and ``dimension`` columns.

    left   Q1, (a, d1), orthonormal columns
    right  Q2, (b, d2), orthonormal columns
    """

    left: Tensor
    right: Tensor
    n_parameters: int
    dimension: int

    @classmethod
    def random(
        cls, n_parameters: int, dimension: int, seed: int, *, dtype: torch.dtype = torch.float32
    ) -> KroneckerProjector:
        """The projector that follows from the seed: Gaussian matrices, orthogonalised by QR.

        The signs of QR are fixed (a positive diagonal), so that another library gives the same matrices.
        """
        if not 1 <= dimension <= n_parameters:
            raise BadParameter(f"dimension={dimension}: between 1 and the number of parameters, {n_parameters}.")
        a = math.isqrt(n_parameters - 1) + 1
        b = math.ceil(n_parameters / a)
        d1 = min(math.isqrt(dimension - 1) + 1, a)
        d2 = math.ceil(dimension / d1)
        if d2 > b:
            d1, d2 = math.ceil(dimension / b), b
        generator = torch.Generator().manual_seed(seed)
        left, right = _orthonormal(a, d1, generator).to(dtype), _orthonormal(b, d2, generator).to(dtype)
        return cls(left, right, n_parameters, dimension)

    def __call__(self, w: Tensor) -> Tensor:
        """P w, (..., n_parameters), of w (..., dimension); differentiable."""
        self._check(w, self.dimension)
        rows, columns = self.left.shape[1], self.right.shape[1]
        padded = torch.nn.functional.pad(w, (0, rows * columns - w.shape[-1]))
        omega = torch.unflatten(padded, -1, (rows, columns))
        theta: Tensor = (self.left @ omega @ self.right.T).flatten(-2)
        return theta[..., : self.n_parameters]

    def transpose(self, v: Tensor) -> Tensor:
        """P^T v, (..., dimension), of v (..., n_parameters): the gradient in w, of one in theta."""
        self._check(v, self.n_parameters)
        columns = len(self.right)
        whole, rest = divmod(v.shape[-1], columns)  # rows of Theta that v fills, and of the one that is cut off
        theta = torch.unflatten(v[..., : whole * columns], -1, (whole, columns))
        omega: Tensor = (self.left[:whole].T @ theta) @ self.right  # Q1 first: it reads Theta row by row, once
        if rest:
            last = v[..., whole * columns :] @ self.right[:rest]
            omega = omega + self.left[whole][:, None] * last[..., None, :]
        return omega.flatten(-2)[..., : self.dimension]

    def _check(self, vector: Tensor, length: int) -> None:
        if not vector.ndim or vector.shape[-1] != length:
            raise BadInput(f"a vector of shape {tuple(vector.shape)} where the projector takes ({length},)")


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    gaussian = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    orthonormal: Tensor = q * r.diagonal().sign()
    return orthonormal
