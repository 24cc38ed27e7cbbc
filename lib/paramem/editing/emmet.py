r"""EMMET: store many facts exactly, as ROME stores one (gupta2024emmet).

ROME and MEMIT keep the outputs of old keys and set those of new ones; ROME sets them by an equality, for one fact,
MEMIT by least squares, for many. EMMET is the equality for many.

1. ``target_states``  as MEMIT (`paramem.editing.memit`)
2. from the lowest edited layer upwards (`paramem.editing.spreading`): read the keys, take a share of what is missing
3. ``equality_delta``  insert: Delta = R (K' C^-1 K)^-1 K' C^-1

==============  ==============  =============================================================================
paper           code            shape
==============  ==============  =============================================================================
K_E             ``K``           (d_mlp, edits), keys of the edits in one layer
V_E - W K_E     ``R``           (d_model, edits), one layer's share of what is missing
C_0             ``C``           (d_mlp, d_mlp), second moment of the keys to keep
==============  ==============  =============================================================================

For one edit in one layer this is ROME's update. With ``ridge`` = lambda it is MEMIT's, whose penalty is lambda C: the
two differ by this number alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from paramem.arch import Site
from paramem.editing.least_squares import each_alone, exact_solution, normal_solution, summed_solution
from paramem.editing.memit import target_states
from paramem.editing.requests import check_requests
from paramem.editing.spreading import SpreadSettings, moment_of, write, write_each
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.interventions import Dense, LowRank, WeightDelta
from paramem.models import LM

DEPARTURES = {
    "dependent keys": (
        "the released code adds 0.1 to the diagonal of K' (lambda C)^-1 K wherever there are two edits or more, with "
        "lambda = 10,000 for GPT-J",
        "nothing by default; where the equality cannot hold (two edits have one key, or there are more edits than the "
        "key has dimensions) it is met in the least-squares sense",
        "with that number the update is MEMIT's with lambda = 1,000, no equality: `ridge` has the variant",
    ),
    "layers": (
        "one layer in the released configuration",
        "`layers`, one or several, the target shared over them as in MEMIT",
        "so that the two can be compared over the same layers",
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
        "as for ROME in this project",
    ),
}


@dataclass(frozen=True, kw_only=True)
class EmmetSettings(SpreadSettings):
    """ridge: what is added to the diagonal of K' C^-1 K, in units of the width of the keys; 0 for the equality.
    together: solve for all edits at once; False sums what each would be alone, in one layer ROME's updates. clamp:
    largest |z - h| in units of |h|."""

    steps: int = 25
    clamp: float = 1.5
    ridge: float = 0.0
    together: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ridge < 0:
            raise BadParameter(f"ridge={self.ridge}: zero for the equality, or a positive number.")


def equality_delta(C: Tensor, K: Tensor, R: Tensor, ridge: float = 0.0) -> Dense | LowRank:
    """Delta = R (K' C^-1 K + ridge)^-1 K' C^-1.

    At ridge 0, Delta K = R where the keys allow it, and of all changes that do this it disturbs C least.
    """
    return normal_solution(C, K, R, ridge) if ridge else exact_solution(C, K, R)


def emmet(
    lm: LM,
    requests: Sequence[EditRequest],
    settings: EmmetSettings,
    moments: Mapping[int, Tensor] | None = None,
    *,
    z: Tensor | None = None,
) -> WeightDelta:
    """All edits at once. moments: layer to ``cached_second_moment(lm, layer, texts)``. z: target states of these edits
    that were found before, (edits, d_model).

    Raises what `check_requests` raises, BadInput without the second moment of an edited layer or with a singular one.
    """
    requests = check_requests(lm, requests, settings.layers)
    second = {layer: moment_of(moments, layer, "emmet") for layer in settings.layers}
    z = target_states(lm, requests, settings).after[0] if z is None else z

    def solve(layer: int, K: Tensor, R: Tensor) -> Dense | LowRank:
        if not settings.together:
            return summed_solution(second[layer], K, R)
        return equality_delta(second[layer], K, R, settings.ridge * lm.d_mlp)

    return write(lm, requests, z, Site("resid_post", settings.last), settings, solve)


def emmet_each(
    lm: LM, requests: Sequence[EditRequest], settings: EmmetSettings, moments: Mapping[int, Tensor] | None = None
) -> list[WeightDelta]:
    """Every request as an edit of its own on the model as it is, computed side by side."""
    many = check_requests(lm, requests, settings.layers, together=False)
    second = {layer: moment_of(moments, layer, "emmet") for layer in settings.layers}
    z, mu = target_states(lm, many, settings).after[0], settings.ridge * lm.d_mlp if settings.together else 0.0

    def solve(layer: int, K: Tensor, R: Tensor) -> Sequence[Dense | LowRank]:
        return each_alone(second[layer], K, R, mu)

    return write_each(lm, many, z, Site("resid_post", settings.last), settings, solve)
