r"""PMET: optimise what attention and the MLP should say, and write the MLP's part (li2023pmet).

The state after a block is the sum of what attention added, what the MLP added, and the stream below. MEMIT asks the MLP
to bring all that is missing in the sum. PMET lets attention and MLP change side by side while it looks for the target,
keeps the MLP's part as the value to write, and forgets attention's.

1. ``component_states``  the wanted outputs of attention and MLP of the last edited layer, found together
2. from the lowest edited layer upwards (`paramem.editing.spreading`): read the keys, and take a share of what the
   MLP's output lacks: with n layers left, 1 / sqrt(n) of it
3. insert with MEMIT's least squares (`paramem.editing.memit.least_squares_delta`)

==============  ==============  =============================================================================
paper           code            shape
==============  ==============  =============================================================================
delta_a         (not kept)      (edits, d_model), change of attention's output
delta_m         in ``v_mlp``    (edits, d_model), change of the MLP's output
R               ``R``           (d_model, edits), one layer's share of what is missing
==============  ==============  =============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from paramem.arch import Site
from paramem.editing.least_squares import each_alone
from paramem.editing.memit import least_squares_delta
from paramem.editing.requests import check_requests
from paramem.editing.spreading import SpreadSettings, moment_of, write, write_each
from paramem.editing.targets import Place, States, optimise_states
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.interventions import Dense, LowRank, WeightDelta
from paramem.models import LM

DEPARTURES = {
    "sequential blocks": (
        "the models of the released configurations, GPT-J and GPT-NeoX, run attention and MLP of a block side by side",
        "in blocks that run one after the other, the MLP reads attention's changed output during the optimisation; its "
        "target is its present output plus its own change all the same",
        "the part of the MLP's change that attention's would bring about is not the MLP's to write",
    ),
    "constants": (
        "the released configurations weight the second moment by 6,000 for GPT-J",
        "`balance` times the width of the keys; 0.37, as 6,000 to GPT-J's 16,384, is the default",
        "as for MEMIT: the number grows with the width",
    ),
    "clamp": (
        "the released configuration holds each change within 0.75 of the norm of what it changes",
        "within 4 of it, ROME's constant",
        "testbeds are edited in their lowest layers, where these outputs are short; the number is ROME's for the same "
        "output of the MLP, and was not searched for",
    ),
    "prefixes": (
        "keys and losses are averaged over sampled prefixes, as in ROME",
        "the prompt alone by default; `contexts` takes any templates",
        "as for ROME in this project",
    ),
}


@dataclass(frozen=True, kw_only=True)
class PmetSettings(SpreadSettings):
    """components: what is optimised beside each other; "mlp" leaves attention alone. balance: lambda in units of the
    width of the keys. clamp: largest change of each output in units of its norm."""

    steps: int = 30
    lr: float = 0.2
    kl: float = 1.0
    clamp: float = 4.0
    ease: float = 0.1
    stop_kl: float = 0.01
    spread: Literal["even", "root"] = "root"
    components: Literal["both", "mlp"] = "both"
    balance: float = 0.37

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance <= 0:
            raise BadParameter(f"balance={self.balance}: a positive number.")


def component_states(lm: LM, requests: Sequence[EditRequest], settings: PmetSettings) -> States:
    """The outputs of attention and MLP (or the MLP alone, last in either case) at which the model says the object."""
    places: list[Place] = ["attn_out", "mlp_out"] if settings.components == "both" else ["mlp_out"]
    return optimise_states(lm, requests, settings.last, places, settings)


def pmet(
    lm: LM,
    requests: Sequence[EditRequest],
    settings: PmetSettings,
    moments: Mapping[int, Tensor] | None = None,
    *,
    v_mlp: Tensor | None = None,
) -> WeightDelta:
    """All edits at once. moments: layer to ``cached_second_moment(lm, layer, texts)``. v_mlp: wanted outputs of the MLP
    that were found before for these edits, (edits, d_model).

    Raises what `check_requests` raises, BadInput without the second moment of an edited layer or with a singular one.
    """
    requests = check_requests(lm, requests, settings.layers)
    second = {layer: moment_of(moments, layer, "pmet") for layer in settings.layers}
    v_mlp = component_states(lm, requests, settings).after[-1] if v_mlp is None else v_mlp

    def solve(layer: int, K: Tensor, R: Tensor) -> Dense | LowRank:
        return least_squares_delta(second[layer], K, R, settings.balance * lm.d_mlp)

    return write(lm, requests, v_mlp, Site("mlp_out", settings.last), settings, solve)


def pmet_each(
    lm: LM, requests: Sequence[EditRequest], settings: PmetSettings, moments: Mapping[int, Tensor] | None = None
) -> list[WeightDelta]:
    """Every request as an edit of its own on the model as it is, computed side by side."""
    many = check_requests(lm, requests, settings.layers, together=False)
    second = {layer: moment_of(moments, layer, "pmet") for layer in settings.layers}
    v_mlp = component_states(lm, many, settings).after[-1]

    def solve(layer: int, K: Tensor, R: Tensor) -> Sequence[Dense | LowRank]:
        return each_alone(second[layer], K, R, settings.balance * lm.d_mlp)

    return write_each(lm, many, v_mlp, Site("mlp_out", settings.last), settings, solve)
