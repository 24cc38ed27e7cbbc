r"""MEMIT: write many facts at once into several MLP layers (meng2022memit).

1. ``target_states``  z_i for every edit: where the residual stream after the last edited layer should be at the
   subject's last token, so that the model says the new object
2. from the lowest edited layer upwards (`paramem.editing.spreading`): read the keys K, and share what z lacks evenly
   over the layers that are left, R = (z - h) / (layers left)
3. ``least_squares_delta``  insert: Delta = R K' (lambda C + K K')^-1

==============  ==============  =============================================================================
paper           code            shape
==============  ==============  =============================================================================
z_i, h_i^L      ``z``           (edits, d_model): wanted and present state of the last edited layer
K_1             ``K``           (d_mlp, edits), one layer's keys at the subject's last tokens
R               ``R``           (d_model, edits), one layer's share of what is missing
C_0             ``lam * C``     (d_mlp, d_mlp), the second moment of keys over ordinary text, weighted
==============  ==============  =============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from paramem.arch import Site
from paramem.editing.least_squares import each_alone, normal_solution
from paramem.editing.requests import check_requests
from paramem.editing.spreading import SpreadSettings, moment_of, write, write_each
from paramem.editing.targets import States, optimise_states
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.interventions import Dense, LowRank, WeightDelta
from paramem.models import LM

DEPARTURES = {
    "weight of kept keys": (
        "the second moment is weighted by a number found for each model, 15,000 in the configuration for GPT-J",
        "`balance` times the width of the keys",
        "a key of ordinary text has k' C^-1 k equal to that width on average, so the number grows with it; "
        "15,000 is 0.9 times GPT-J's 16,384, and 0.9 is the default",
    ),
    "side by side": (
        "the released code optimises one edit after the other",
        "all edits of a batch in the same forwards; their losses are summed and share nothing",
        "the result is the same and takes a fraction of the time",
    ),
    "clamp": (
        "the released configuration holds |z - h| within 0.75 |h|",
        "within 1.5 |h|",
        "testbeds are edited in their lowest layers, where the stream is short; found in batches of 100 edits of "
        "subjects that no benchmark asks about, on llama-s0: 0.75 leaves most unmade, and 4 (ROME's constant) breaks "
        "the model",
    ),
    "prefixes": (
        "keys and losses are averaged over sampled prefixes, as in ROME",
        "the prompt alone by default; `contexts` takes any templates",
        "as for ROME in this project: with C from 10^4 tokens the prompt's own key serves better than the mean key",
    ),
    "covariance": (
        "C is part of the update",
        "`covariance=False` puts the identity in its place, weighted by the mean squared norm of the edits' keys",
        "a variant with its own row, because a popular toolkit drops C from ROME; `balance` means the same with and "
        "without C",
    ),
}


@dataclass(frozen=True, kw_only=True)
class MemitSettings(SpreadSettings):
    """balance: lambda in units of the width of the keys. clamp: largest |z - h| in units of |h|, the norm of the whole
    residual stream."""

    steps: int = 25
    clamp: float = 1.5
    balance: float = 0.9
    covariance: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance <= 0:
            raise BadParameter(f"balance={self.balance}: a positive number; EMMET is what is left at zero.")


def target_states(lm: LM, requests: Sequence[EditRequest], settings: SpreadSettings) -> States:
    """z: the state after the last edited layer at which the model says the new object."""
    return optimise_states(lm, requests, settings.last, ["resid_post"], settings)


def least_squares_delta(C: Tensor | None, K: Tensor, R: Tensor, lam: float) -> Dense | LowRank:
    """Delta = R K' (lam C + K K')^-1: the new pairs are met as far as the penalty lam C on old keys allows.

    The gradient of |Delta K - R|^2 + lam tr(Delta C Delta') is zero there. C=None stands for the identity.
    """
    return normal_solution(C, K, R, lam)


def memit(
    lm: LM,
    requests: Sequence[EditRequest],
    settings: MemitSettings,
    moments: Mapping[int, Tensor] | None = None,
    *,
    z: Tensor | None = None,
) -> WeightDelta:
    """All edits at once. moments: layer to ``cached_second_moment(lm, layer, texts)``; needed unless
    ``covariance=False``. z: target states of these edits that were found before, (edits, d_model).

    Raises what `check_requests` raises, BadInput without the second moment of an edited layer or with a singular one.
    """
    requests = check_requests(lm, requests, settings.layers)
    second = {each: moment_of(moments, each, "memit") if settings.covariance else None for each in settings.layers}
    z = target_states(lm, requests, settings).after[0] if z is None else z

    def solve(layer: int, K: Tensor, R: Tensor) -> Dense | LowRank:
        C = second[layer]
        width = lm.d_mlp if C is not None else float(K.double().square().sum(0).mean())  # mean of k' C^-1 k, in both
        return least_squares_delta(C, K, R, settings.balance * width)

    return write(lm, requests, z, Site("resid_post", settings.last), settings, solve)


def memit_each(
    lm: LM, requests: Sequence[EditRequest], settings: MemitSettings, moments: Mapping[int, Tensor] | None = None
) -> list[WeightDelta]:
    """Every request as an edit of its own on the model as it is, computed side by side."""
    many = check_requests(lm, requests, settings.layers, together=False)
    second = {each: moment_of(moments, each, "memit") if settings.covariance else None for each in settings.layers}
    z = target_states(lm, many, settings).after[0]

    def solve(layer: int, K: Tensor, R: Tensor) -> Sequence[Dense | LowRank]:
        C = second[layer]
        widths: Tensor | float = lm.d_mlp if C is not None else K.double().square().sum(0)
        return each_alone(C, K, R, settings.balance * widths)

    return write_each(lm, many, z, Site("resid_post", settings.last), settings, solve)
