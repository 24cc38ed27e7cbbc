r"""Changes of one matrix that write some keys and leave others alone: the algebra that batch editors share.

==============  ==============  =============================================================================
in the papers   code            shape
==============  ==============  =============================================================================
W               ``W``           (d_out, d_in)
C               ``C``           (d_in, d_in), second moment of the keys to keep
K               ``K``           (d_in, n), the keys to write, one a column
R               ``R``           (d_out, n), what is still missing at each of them: V - W K
==============  ==============  =============================================================================

One formula covers all: ``R (D + mu)^-1 K' C^-1`` with ``D = K' C^-1 K``. With mu = lambda it is least squares under
the penalty lambda C (MEMIT), because R K' (lambda C + K K')^-1 = R (D + lambda)^-1 K' C^-1; with mu = 0 it stores every
pair exactly (EMMET, and ROME for one key). Everything is computed in double precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramem.errors import BadInput
from paramem.interventions import Dense, LowRank


def factorise(C: Tensor) -> Tensor:
    """The Cholesky factor of C; raises BadInput when C is singular."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(C)
    if info.item():
        raise BadInput(
            f"the second moment C ({C.shape[0]} x {C.shape[0]}) is singular: estimate it from more tokens "
            "than it has rows, and from more varied text."
        )
    return factor


def normal_solution(C: Tensor | None, K: Tensor, R: Tensor, lam: float) -> Dense | LowRank:
    """R K' (lam C + K K')^-1, the minimum of |D K - R|^2 + lam tr(D C D'); C=None stands for the identity.

    Solved in the smaller of the two dimensions. Raises BadInput where lam C + K K' is singular.
    """
    d_in, n = K.shape
    if n > d_in:
        full = torch.eye(d_in, dtype=torch.float64, device=K.device) if C is None else C.double()
        factor = factorise(lam * full + K.double() @ K.double().T)
        return Dense((R.double() @ torch.cholesky_solve(K.double(), factor).T).to(R.dtype))
    return _inner(C, K, R, lam)


def exact_solution(C: Tensor | None, K: Tensor, R: Tensor) -> Dense | LowRank:
    """R (K' C^-1 K)^-1 K' C^-1: of all changes that map K to R the one that disturbs C least.

    Where keys depend on each other (two of them are equal, or there are more than d_in) no change may do that; then it
    comes as near as any, in the least-squares sense, and of those that do disturbs C least.
    """
    return _inner(C, K, R, 0.0)


def summed_solution(C: Tensor | None, K: Tensor, R: Tensor) -> Dense | LowRank:
    """The sum of what `exact_solution` finds for each key by itself: each pair is stored as if it were the only one.

    What the keys have in common, the rest of K' C^-1 K beside its diagonal, is written several times over.
    """
    directions = _whitened(C, K.double())
    alone = (K.double() * directions).sum(0)  # k' C^-1 k of each key
    return as_part(R.double() / alone, directions.T, R)


def each_alone(C: Tensor | None, K: Tensor, R: Tensor, mu: Tensor | float) -> list[Dense | LowRank]:
    """For each key by itself r (k' C^-1 k + mu)^-1 k' C^-1, where C is taken apart once for all; mu: one, or (n,)."""
    directions = _whitened(C, K.double())
    weights = R.double() / ((K.double() * directions).sum(0) + mu)
    return [as_part(weights[:, [i]], directions.T[[i]], R) for i in range(K.shape[1])]


def _inner(C: Tensor | None, K: Tensor, R: Tensor, mu: float) -> Dense | LowRank:
    """R (K' C^-1 K + mu)^-1 K' C^-1."""
    K64, R64 = K.double(), R.double()
    directions = _whitened(C, K64)
    root = _inverse_root(K64.T @ directions, mu)
    return as_part(R64 @ root, root.T @ directions.T, R)


def _whitened(C: Tensor | None, K: Tensor) -> Tensor:
    """C^-1 K, (d_in, n)."""
    return K if C is None else torch.cholesky_solve(K, factorise(C.double()))


def _inverse_root(D: Tensor, mu: float) -> Tensor:
    """S with S S' = (D + mu)^-1, over the directions in which D + mu is not numerically zero; (n, rank)."""
    values, vectors = torch.linalg.eigh((D + D.T) / 2)
    values = values + mu
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps * 64
    root: Tensor = vectors[:, kept] / values[kept].sqrt()
    return root


def as_part(left: Tensor, right: Tensor, like: Tensor) -> Dense | LowRank:
    """The product in the precision of ``like``; factored where that is smaller."""
    if right.shape[0] * (left.shape[0] + right.shape[1]) < left.shape[0] * right.shape[1]:
        return LowRank(left.to(like.dtype), right.to(like.dtype))
    return Dense((left @ right).to(like.dtype))
