r"""Writing target states into several layers: what MEMIT and its relatives do once they know where states should be.

From the lowest edited layer to the highest, the keys are read and the state is compared with its target in the model
as it is by then, and the layer takes its share of what is missing, so that later layers see what earlier ones did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from paramem.arch import Site
from paramem.editing.targets import Lookups, TargetSettings
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.interventions import Dense, LowRank, WeightDelta
from paramem.models import LM

Solve = Callable[[int, Tensor, Tensor], Dense | LowRank]  # layer, K (d_mlp, n), R (d_model, n) -> a change of W

SolveEach = Callable[[int, Tensor, Tensor], Sequence[Dense | LowRank]]  # the same, one change for each column


@dataclass(frozen=True, kw_only=True)
class SpreadSettings(TargetSettings):
    """layers: the edited ones, upwards; targets are states of the last. spread: which share of what is missing a layer
    takes, with n layers left: 1/n ("even") or 1/sqrt(n) ("root"); the last layer takes all in either case."""

    layers: tuple[int, ...]
    spread: Literal["even", "root"] = "even"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise BadParameter(f"layers={self.layers!r}: one layer or more, each once, from the lowest to the highest.")

    @property
    def last(self) -> int:
        """The layer whose state has a target."""
        return self.layers[-1]

    def share(self, place: int) -> float:
        """What the layer at this place of ``layers`` takes of what is missing."""
        left = len(self.layers) - place
        return 1 / left if self.spread == "even" else left**-0.5


def write(
    lm: LM, requests: Sequence[EditRequest], z: Tensor, site: Site, settings: SpreadSettings, solve: Solve
) -> WeightDelta:
    """The changes of all edited layers that bring the states at ``site`` in the bare prompts to z, (edits, width).

    ``solve`` finds one layer's change from its keys, averaged over contexts, and its share of what is missing. The
    model is as before when this returns.
    """
    lookups = Lookups.of(lm, requests, settings.contexts)
    total = WeightDelta({})
    with ExitStack() as written:
        for place, layer in enumerate(settings.layers):
            keys, states = lookups.states(lm, Site("mlp_hidden", layer), site)
            missing = settings.share(place) * (z - states[:, 0])
            change = solve(layer, keys.mean(1).T, missing.T)
            name, _, transposed = lm.weight(layer, "down")
            step = WeightDelta({name: turned(change) if transposed else change})
            written.enter_context(step.applied(lm))
            total = total + step
    return total


def write_each(
    lm: LM, requests: Sequence[EditRequest], z: Tensor, site: Site, settings: SpreadSettings, solve: SolveEach
) -> list[WeightDelta]:
    """As `write`, every request as an edit of its own; each reads its states under what it has written so far."""
    lookups = Lookups.of(lm, requests, settings.contexts)
    totals = [WeightDelta({}) for _ in requests]
    for place, layer in enumerate(settings.layers):
        keys, states = lookups.states(lm, Site("mlp_hidden", layer), site, edits=totals)
        missing = settings.share(place) * (z - states[:, 0])
        name, _, transposed = lm.weight(layer, "down")
        changes = solve(layer, keys.mean(1).T, missing.T)
        steps = [WeightDelta({name: turned(change) if transposed else change}) for change in changes]
        totals = [total + step for total, step in zip(totals, steps, strict=True)]
    return totals


def turned(part: Dense | LowRank) -> Dense | LowRank:
    """The same change of the transposed matrix."""
    return part.T if isinstance(part, LowRank) else Dense(part.tensor.T.contiguous())


def moment_of(moments: Mapping[int, Tensor] | None, layer: int, name: str) -> Tensor:
    """The second moment of one layer's keys; raises BadInput when it was not given."""
    if moments is None or layer not in moments:
        raise BadInput(
            f"{name}: the second moment of layer {layer} is missing. Pass moments={{layer: cached_second_moment(lm, "
            "layer, texts)} for every edited layer."
        )
    return moments[layer]
