r"""AlphaEdit: many facts at once, in directions that the keys to be kept do not have (fang2024alphaedit).

MEMIT pays for what it does to old keys. AlphaEdit takes directions away instead: the change of a layer is projected on
what is left when the directions of the keys to keep are removed, and the penalty goes. What the layer answers to a key
without a part in the free directions cannot change. Which keys these are depends on what C was counted over: keys of
subjects that are rare in ordinary text have a part in these directions, and what the layer answers to them does change;
``share_inside`` measures how large it is.

1. ``null_space``       U: the directions in which keys over ordinary text have next to no energy; P = U U'
2. ``target_states``    as MEMIT (`paramem.editing.memit`)
3. from the lowest edited layer upwards (`paramem.editing.spreading`): read the keys, take a share of what is missing
4. ``projected_delta``  insert: Delta = R K' P (K_p K_p' P + K K' P + ridge I)^-1
5. in a sequence of batches, the keys written so far join K_p, so that later batches leave them alone

==============  ==============  =============================================================================
paper           code            shape
==============  ==============  =============================================================================
K_0 K_0'        ``C``           (d_mlp, d_mlp), second moment of the keys to keep
P               ``U @ U.T``     (d_mlp, d_mlp), U (d_mlp, m) orthonormal
K_1             ``K``           (d_mlp, edits), keys of this batch in one layer
K_p K_p'        ``written``     (d_mlp, d_mlp), sum over the keys of earlier batches
R               ``R``           (d_model, edits), one layer's share of what is missing
==============  ==============  =============================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from paramem.arch import Site
from paramem.editing.least_squares import as_part, factorise
from paramem.editing.memit import target_states
from paramem.editing.requests import check_requests
from paramem.editing.sequence import smaller
from paramem.editing.spreading import SpreadSettings, moment_of, write, write_each
from paramem.editing.targets import Lookups
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.interventions import Dense, LowRank, WeightDelta
from paramem.models import LM

DEPARTURES = {
    "keys to keep": (
        "the keys of the knowledge that is to be preserved (abstract)",
        "those of all tokens of ordinary text, whose second moment ROME and MEMIT have, too",
        "what a model knows is not listed; subjects' own keys hold more of their energy in the directions that this "
        "leaves free than ordinary tokens do, so facts beside the edited ones are not held exactly",
    ),
    "threshold": (
        "directions whose eigenvalue lies below an absolute number, 0.02 in the released configurations",
        "the directions of smallest eigenvalue that together hold at most `energy` of the trace",
        "eigenvalues scale with the width and the norm of keys, shares do not",
    ),
    "ridge": (
        "the released code adds a number to the diagonal, 10 or 1 by model",
        "`ridge` times the mean squared norm of the keys to keep",
        "so that it means the same for keys of any norm",
    ),
    "keys of earlier batches": (
        "read from the edited model after all layers of a batch have been written",
        "the same; `remember=False` leaves them out",
        "the sum matters in sequences only, and the variant shows what it does",
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
class AlphaEditSettings(SpreadSettings):
    """energy: share of the trace of C that may lie in the directions that are free. ridge: what is added to the
    diagonal, in units of the trace of C. batch: edits written at once, the next batch on the model that this one left;
    None for all. remember: keep the keys of earlier batches. clamp: largest |z - h| in units of |h|."""

    steps: int = 25
    clamp: float = 1.5
    energy: float = 0.01
    ridge: float = 0.01
    batch: int | None = None
    remember: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.energy < 1 or self.ridge <= 0:
            raise BadParameter(f"energy={self.energy}, ridge={self.ridge}: a share between 0 and 1, a positive number.")
        if self.batch is not None and self.batch < 1:
            raise BadParameter(f"batch={self.batch}: at least one edit, or None for all at once.")


def null_space(C: Tensor, energy: float) -> Tensor:
    """U, (d_mlp, m): eigenvectors of C of smallest eigenvalue that together hold at most ``energy`` of its trace.

    Raises BadInput when not even one direction does.
    """
    vectors: Tensor
    values, vectors = torch.linalg.eigh(C.double())  # ascending
    held = values.clamp(min=0).cumsum(0)
    free = int((held <= energy * held[-1]).sum())
    if free == 0:
        raise BadInput(
            f"no direction of the keys holds less than {energy:g} of their energy: nothing can be written beside them. "
            "Raise energy, or edit another layer."
        )
    return vectors[:, :free]


def share_inside(U: Tensor, K: Tensor) -> Tensor:
    """Which share of each key's squared norm lies in the free directions, (n,); U (d_mlp, m), K (d_mlp, n)."""
    K = K.double()
    return (U.T @ K).square().sum(0) / K.square().sum(0)


def projected_delta(U: Tensor, K: Tensor, R: Tensor, written: Tensor | None, ridge: float) -> Dense | LowRank:
    """Delta = R K' P (K_p K_p' P + K K' P + ridge I)^-1 with P = U U', in coordinates of U, where it is symmetric.

    Delta = Delta P, so keys orthogonal to U keep their answers to the bit of the arithmetic.
    """
    seen = U.T @ K.double()  # (m, n)
    kept = seen @ seen.T + ridge * torch.eye(U.shape[1], dtype=torch.float64, device=U.device)
    if written is not None:
        kept = kept + U.T @ written @ U
    inside = torch.cholesky_solve(seen, factorise(kept))  # (m, n)
    return as_part(R.double(), (U @ inside).T, R)


class Found(TypedDict, total=False):
    """What is known beforehand.

    z: target states of these edits, found on the model as it is, (edits, d_model), in place of those that each batch
    would look for. earlier: layer to K_p K_p' of edits that were made before and are to be kept.
    """

    z: Tensor | None
    earlier: Mapping[int, Tensor] | None


def alphaedit(
    lm: LM,
    requests: Sequence[EditRequest],
    settings: AlphaEditSettings,
    moments: Mapping[int, Tensor] | None = None,
    **found: Unpack[Found],
) -> WeightDelta:
    """All edits, ``settings.batch`` at a time. moments: layer to ``cached_second_moment(lm, layer, texts)``.

    Raises what `check_requests` raises, BadInput without the second moment of an edited layer or with one that leaves
    no direction free.
    """
    *_, (_, total) = alphaedit_steps(lm, requests, settings, moments, **found)
    return total


def alphaedit_steps(
    lm: LM,
    requests: Sequence[EditRequest],
    settings: AlphaEditSettings,
    moments: Mapping[int, Tensor] | None = None,
    **found: Unpack[Found],
) -> Iterator[tuple[int, WeightDelta]]:
    """As `alphaedit`, batch by batch: how many edits are made, and all of them as one change."""
    requests = check_requests(lm, requests, settings.layers)
    second = {layer: moment_of(moments, layer, "alphaedit") for layer in settings.layers}
    free = {layer: null_space(C, settings.energy) for layer, C in second.items()}
    ridge = {layer: settings.ridge * float(C.trace()) for layer, C in second.items()}
    written: dict[int, Tensor | None] = dict.fromkeys(settings.layers) | dict(found.get("earlier") or {})
    z = found.get("z")

    def solve(layer: int, K: Tensor, R: Tensor) -> Dense | LowRank:
        return projected_delta(free[layer], K, R, written[layer], ridge[layer])

    size = settings.batch or len(requests)
    total = WeightDelta({})
    for start in range(0, len(requests), size):
        batch = requests[start : start + size]
        with total.applied(lm) as edited:
            wanted = target_states(edited, batch, settings).after[0] if z is None else z[start : start + size]
            step = write(edited, batch, wanted, Site("resid_post", settings.last), settings, solve)
            with step.applied(edited) as after:
                if settings.remember and start + size < len(requests):
                    _remember(after, batch, settings, written)
        total = WeightDelta({name: smaller(part) for name, part in (total + step).parts.items()})
        yield start + len(batch), total


def _remember(
    lm: LM, batch: Sequence[EditRequest], settings: AlphaEditSettings, written: dict[int, Tensor | None]
) -> None:
    """Add K K' of a batch that was just written, layer by layer."""
    sites = [Site("mlp_hidden", layer) for layer in settings.layers]
    found = Lookups.of(lm, batch, settings.contexts).states(lm, *sites)
    for layer, keys in zip(settings.layers, found, strict=True):
        K = keys.mean(1).double()
        before = written[layer]
        written[layer] = K.T @ K if before is None else before + K.T @ K


def alphaedit_each(
    lm: LM, requests: Sequence[EditRequest], settings: AlphaEditSettings, moments: Mapping[int, Tensor] | None = None
) -> list[WeightDelta]:
    """Every request as an edit of its own on the model as it is, computed side by side; nothing to remember."""
    many = check_requests(lm, requests, settings.layers, together=False)
    second = {layer: moment_of(moments, layer, "alphaedit") for layer in settings.layers}
    free = {layer: null_space(C, settings.energy) for layer, C in second.items()}
    z = target_states(lm, many, settings).after[0]

    def solve(layer: int, K: Tensor, R: Tensor) -> Sequence[Dense | LowRank]:
        """For one key, s = U'k, the inverse is a number: r s' U' / (s's + ridge)."""
        seen = free[layer].T @ K.double()  # (m, n)
        weights = R.double() / (seen.square().sum(0) + settings.ridge * float(second[layer].trace()))
        directions = (free[layer] @ seen).T
        return [as_part(weights[:, [i]], directions[[i]], R) for i in range(K.shape[1])]

    return write_each(lm, many, z, Site("resid_post", settings.last), settings, solve)
