r"""MEND: small networks turn the gradient of an edit into a better update, one token at a time (mitchell2021mend).

The gradient of an edit's loss with respect to a matrix W is sum_j delta_j u_j^T over its tokens j. MEND maps each pair
(u_j, delta_j) to another pair, and the sum of these is the update: a map of vectors, where a map of whole gradients
would be unaffordable.

1. ``gradient_terms``    u and delta of every matrix and token                   (Algorithm 2, lines 2 to 5)
2. ``normalised``        each dimension to mean 0 and variance 1                 (appendix A)
3. ``transformed``       z = (u, delta) -> (u~, delta~)                          (Eq. 3a, b)
4. ``update``            W - alpha sum_j delta~_j u~_j^T                         (Eq. 2, and where alpha is introduced)

Training, ``train``: c_e L_e + L_loc, with L_e the edit's loss on another wording of it and L_loc the divergence from
the unedited model on unrelated facts (Eq. 4a, b). The model's own weights get no gradient.

==============  ==============  ======================================================================================
paper           code            shape
==============  ==============  ======================================================================================
u, delta        ``Terms``       (edits, tokens, d_in) and (edits, tokens, d_out)
V_1, V_2        ``V1, V2``      (rank, d_in + d_out), shared by all matrices of one shape
U_1, U_2        ``U1, U2``      (d_in + d_out, rank), zero at first: the network is then the identity
b               ``b``           (d_in + d_out,)
s, o            ``s1, o1, ...`` (d_in + d_out,), a scale and an offset of each matrix's own
alpha           ``step``        scalar, the learned step size of each matrix
==============  ==============  ======================================================================================
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from paramem.editing.meta_training import Examples, History, Schedule
from paramem.editing.meta_training import train as meta_train
from paramem.editing.outer_products import (
    Place,
    Terms,
    Update,
    edit_batch,
    gradient_terms,
    last_layers,
    of_edit,
    places_of,
    sizes,
    weight_delta,
)
from paramem.editing.requests import check_requests
from paramem.editing.trained import Trained, new_card
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.interventions import WeightDelta
from paramem.models import LM

METHOD = "mend"

DEPARTURES = {
    "matrices": (
        "the MLP weights of the last three blocks, 6 matrices (appendix C)",
        "the same by default, `layers` and `roles` choose; of a gated MLP the up and down projections",
        "a gate is a third matrix, which the paper's models do not have",
    ),
    "normalisation": (
        "each dimension of u and delta to mean 0 and variance 1 over the edit train set (appendix A)",
        "for each matrix by itself, from `counted` drawn edits before training; the released code keeps running sums "
        "over the matrices of one shape",
        "the gradients of neighbouring layers differ in size by more than their scales can learn in a short training",
    ),
    "activation": (
        "a ReLU after each layer",
        "a clamp at 0",
        "the same function, but its derivative at 0, where all units start, is 1 and not 0",
    ),
    "step sizes": (
        "a learned scalar per layer",
        "its logarithm is learned, with a learning rate of its own",
        "a step size stays positive, and moves by factors",
    ),
    "objective": (
        "L_e on an example drawn from the edit's equivalence neighbourhood (Algorithm 1)",
        "on the edit's own wording and a drawn one, together; L_loc along the answers of four facts of other subjects, "
        "half of them of the edit's own relation (`near`), where the paper draws any",
        "the paper's discussion (section 6) names harder negatives as what is missing; `near=0.0` is the paper's way",
    ),
    "length": (
        "up to 500,000 steps of 10 edits with early stopping (appendix C)",
        "a fixed number of steps in the hundreds, of 16 edits, with a higher learning rate that falls",
        "networks are rebuilt in a minute or two on one core; the cards say what they reach",
    ),
}

SHARED = ("V1", "U1", "b", "V2", "U2")
OWN = ("s1", "o1", "s2", "o2", "log_step", "u_mean", "u_std", "delta_mean", "delta_std")
SMALL = 1e-7  # added to standard deviations: a dimension may never move


@dataclass(frozen=True, kw_only=True)
class MendSettings:
    """step: multiplies every learned step size; 1.0 is what was trained."""

    step: float = 1.0

    def __post_init__(self) -> None:
        if self.step <= 0:
            raise BadParameter(f"step={self.step}: a positive factor of the learned step sizes.")


@dataclass(frozen=True, kw_only=True)
class MendTraining:
    """What is fixed before training.

    layers, roles   the edited matrices; the last three layers where none are named
    rank            of the networks' two layers
    step_size       every step size at first
    c_edit          weight of L_e beside L_loc
    lr_steps        learning rate of the step sizes' logarithms; that of everything else is the schedule's
    counted         edits from which means and variances are taken
    """

    layers: tuple[int, ...] = ()
    roles: tuple[str, ...] = ("up", "down")
    rank: int = 16
    step_size: float = 1e-3
    c_edit: float = 0.1
    lr_steps: float = 3e-2
    counted: int = 256
    schedule: Schedule = field(default_factory=lambda: Schedule(lr=2e-3))

    def places(self, lm: LM) -> tuple[Place, ...]:
        """The edited matrices of a model."""
        return places_of(lm, self.layers or last_layers(lm, 3), self.roles)


def normalised(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Each dimension to mean 0 and variance 1 over the training edits and their tokens."""
    return (values - mean) / (std + SMALL)


def transformed(z: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """h = z + relu(s1 * (U1 V1 z + b) + o1), g = h + relu(s2 * U2 V2 h + o2). Eq. (3a, b), mitchell2021mend.

    z: (..., d_in + d_out). A clamp stands for relu: at 0, where training starts, relu's derivative is 0 in torch and
    nothing would be learned.
    """
    h = z + (p["s1"] * (z @ p["V1"].mT @ p["U1"].mT + p["b"]) + p["o1"]).clamp(min=0)
    return h + (p["s2"] * (h @ p["V2"].mT @ p["U2"].mT) + p["o2"]).clamp(min=0)


def initial(shapes: Mapping[Place, tuple[int, int]], rank: int, step_size: float, seed: int) -> dict[str, Tensor]:
    """Networks that are the identity; shapes: place -> (d_in, d_out). Names: "512x128/V1", "down.3/s1".

    V_1 and V_2 are drawn as Xavier's uniform initialisation has it, U_1 and U_2 are zero (appendix A).
    """
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for d_in, d_out in sorted(set(shapes.values())):
        d, key = d_in + d_out, f"{d_in}x{d_out}"
        for number in "12":
            spread = (6 / (d + rank)) ** 0.5
            tensors[f"{key}/V{number}"] = spread * (2 * torch.rand(rank, d, generator=generator) - 1)
            tensors[f"{key}/U{number}"] = torch.zeros(d, rank)
        tensors[f"{key}/b"] = torch.zeros(d)
    for place, (d_in, d_out) in shapes.items():
        for name in ("s1", "s2"):
            tensors[f"{place}/{name}"] = torch.ones(d_in + d_out)
        for name in ("o1", "o2"):
            tensors[f"{place}/{name}"] = torch.zeros(d_in + d_out)
        tensors[f"{place}/log_step"] = torch.tensor(step_size).log()
        for name, width in (("u", d_in), ("delta", d_out)):
            tensors[f"{place}/{name}_mean"], tensors[f"{place}/{name}_std"] = torch.zeros(width), torch.ones(width)
    return tensors


def fit_normalisation(tensors: dict[str, Tensor], gradient: Update) -> None:
    """Means and standard deviations over the edits of ``gradient`` and their tokens, written into ``tensors``."""
    for place, (delta, u) in gradient.items():
        used = delta.ne(0).any(-1)  # (edits, tokens)
        for name, values in (("u", u[used]), ("delta", delta[used])):
            tensors[f"{place}/{name}_mean"] = values.mean(0).float()
            tensors[f"{place}/{name}_std"] = values.std(0).float()


def learned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that training changes: all but the normalisation."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(("_mean", "_std"))}


def update(tensors: Mapping[str, Tensor], gradient: Update, step: float = 1.0) -> dict[Place, Terms]:
    """- alpha sum_j delta~_j u~_j^T for every matrix, edit by edit. Eq. (2), mitchell2021mend.

    A token at which the loss does not depend on the matrix has no gradient, and gets no update.
    """
    updates = {}
    for place, (delta, u) in gradient.items():
        own = {name: tensors[f"{place}/{name}"].to(u) for name in OWN}
        shared = {name: tensors[f"{u.shape[-1]}x{delta.shape[-1]}/{name}"].to(u) for name in SHARED}
        z = torch.cat(
            [normalised(u, own["u_mean"], own["u_std"]), normalised(delta, own["delta_mean"], own["delta_std"])], -1
        )
        pseudo = transformed(z, own | shared)
        used = delta.ne(0).any(-1, keepdim=True)
        left = -step * own["log_step"].exp() * pseudo[..., u.shape[-1] :] * used
        updates[place] = Terms(left, pseudo[..., : u.shape[-1]] * used)
    return updates


def train(
    lm: LM, requests: Sequence[EditRequest], settings: MendTraining | None = None, *, history: History | None = None
) -> Trained:
    """Learn MEND for a model from edits of some of its facts; the model stays as it is.

    history: filled with L_e, L_loc and success of every step. Raises BadInput for too few edits.
    """
    settings = settings or MendTraining()
    places, schedule, start = settings.places(lm), settings.schedule, time.process_time()
    tensors = initial(sizes(lm, places), settings.rank, settings.step_size, schedule.seed)
    tensors = {name: tensor.to(lm.device) for name, tensor in tensors.items()}
    drawn = Examples(requests, schedule.seed).draw(settings.counted)
    fit_normalisation(tensors, gradient_terms(lm, edit_batch(lm, drawn), places))
    free = {name: tensor.requires_grad_(True) for name, tensor in learned(tensors).items()}
    groups: list[dict[str, Any]] = [
        {"params": [tensor for name, tensor in free.items() if not name.endswith("log_step")]},
        {"params": [tensor for name, tensor in free.items() if name.endswith("log_step")], "lr": settings.lr_steps},
    ]
    found = meta_train(
        lm,
        requests,
        places,
        lambda _, gradient: update(tensors, gradient),
        groups,
        lambda each: settings.c_edit * each.edit + each.unrelated,  # after Eq. (4), mitchell2021mend
        schedule,
    )
    if history is not None:
        history.extend(found)
    card = new_card(METHOD, lm, requests, settings, time.process_time() - start, places)
    return Trained(card=card, tensors={name: tensor.detach() for name, tensor in tensors.items()})


def updates(lm: LM, requests: Sequence[EditRequest], settings: MendSettings, trained: Trained) -> dict[Place, Terms]:
    """The learned update of every request, each by itself: the pure part of an edit.

    Raises BadInput where ``trained`` belongs to another method or to a model of other sizes.
    """
    places = trained.places(METHOD, lm)
    gradient = gradient_terms(lm, edit_batch(lm, requests), places)
    with torch.no_grad():
        return update(trained.tensors_on(lm.device), gradient, settings.step)


def mend(lm: LM, requests: Sequence[EditRequest], settings: MendSettings, trained: Trained) -> WeightDelta:
    """All edits in one update: the sum of their own ones (section 5.3). Raises what `check_requests` raises."""
    many = check_requests(lm, requests)
    return weight_delta(lm, updates(lm, many, settings, trained))


def mend_each(lm: LM, requests: Sequence[EditRequest], settings: MendSettings, trained: Trained) -> list[WeightDelta]:
    """Every request as an edit of its own on the model as it is, all in one forward and backward."""
    many = check_requests(lm, requests, together=False)
    found = updates(lm, many, settings, trained)
    return [weight_delta(lm, of_edit(found, edit)) for edit in range(len(many))]
