r"""KnowledgeEditor: a hyper-network reads an edit and turns its gradient into a weight update (decao2021editing).

The hyper-network sees words and no activations: the text "x [SEP] y [SEP] a" of the prompt, the present answer and the
wanted one. For each matrix it says which entries of the gradient count and what to add to them, both of rank one.

1. ``conditions``  a bidirectional LSTM over the text; its last states, through one layer
2. ``signals``     condition -> alpha, beta (d_out), gamma, delta (d_in) and eta, by a net of each matrix's own
3. ``update``      scale sigmoid(eta) (softmax(alpha) gamma^T * gradient + softmax(beta) delta^T), * entry by entry

A mask of rank one times a gradient that is a sum of outer products is a sum of outer products again, of
softmax(alpha) * delta_j and gamma * u_j for each token j. So an update has one term for each token and one more, and
nothing of a matrix's size is ever built.

Training, ``train``: the loss of the edit, also in other wordings, subject to a bound on the divergence from the
unedited model on other facts (a Lagrangian whose multiplier climbs while the bound is broken), and the bound is
tightened while most edits succeed. Steps and symbols follow the authors' released code.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from paramem.editing.meta_training import History, Losses, Schedule
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

DEPARTURES = {
    "matrices": (
        "every weight matrix of the model but embeddings (the released code)",
        "the up and down projections of the last three MLPs by default, `layers` and `roles` choose",
        "these are the matrices of the comparison in mitchell2021mend (section 5), and a network has to stay small",
    ),
    "embeddings": (
        "the words are embedded by a copy of the model's own embeddings, which is trained (the released code)",
        "by the model's own, as they are",
        "the copy would be larger than everything else that is learned",
    ),
    "present answer": (
        "y is what the model predicts for x",
        "the request's true object where it names one, else what the model generates",
        "for the facts that are edited here the two are the same, and generating costs a forward per token",
    ),
    "first steps": (
        "all signals start at random, and a softmax over a matrix's rows makes masks of mean 1 / rows",
        "gamma starts at a negative constant and the softmax is scaled to mean 1, so that the first update is a "
        "gradient step of size `step_size`, from where the scale is learned too",
        "training takes hundreds of steps here and hundreds of thousands there",
    ),
    "bound": (
        "the bound starts at 1e-3 and is multiplied by 0.8 after an epoch in which 9 of 10 edits succeed, down to 1e-5",
        "it starts at `bound`, is multiplied by 0.8 every `patience` steps in which they do, down to `tightest`",
        "short of epochs; the divergence is that of a whole distribution, as there",
    ),
}
METHOD = "ke"


@dataclass(frozen=True, kw_only=True)
class KnowledgeEditorSettings:
    """scale: multiplies the update; 1.0 is what was trained."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise BadParameter(f"scale={self.scale}: a positive factor of the learned update.")


@dataclass(frozen=True, kw_only=True)
class KnowledgeEditorTraining:
    """What is fixed before training.

    layers, roles     the edited matrices; the last three layers where none are named
    hidden            units of the LSTM on each side
    condition         width of the condition
    inner             width of each matrix's own net
    step_size         the first update is minus this times the gradient, and noise
    bound, tightest   largest divergence on unrelated facts, at first and at last
    patience          steps between two looks at whether it can be tightened
    lr_multiplier     learning rate of the Lagrangian's multiplier
    """

    layers: tuple[int, ...] = ()
    roles: tuple[str, ...] = ("up", "down")
    hidden: int = 32
    condition: int = 48
    inner: int = 12
    step_size: float = 0.1
    bound: float = 0.05
    tightest: float = 1e-3
    patience: int = 20
    lr_multiplier: float = 0.1
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=120, lr=3e-3))

    def places(self, lm: LM) -> tuple[Place, ...]:
        """The edited matrices of a model."""
        return places_of(lm, self.layers or last_layers(lm, 3), self.roles)


class Signals(NamedTuple):
    """What the hyper-network says of one matrix, a row for each edit: (edits, d_out or d_in or 1)."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    delta: Tensor
    eta: Tensor


def initial(lm: LM, settings: KnowledgeEditorTraining) -> dict[str, Tensor]:
    """Networks whose first update is a gradient step of size ``step_size``, and noise.

    Names: "separator", "lstm/weight_ih_l0", "condition/weight", "down.3/in/weight", "down.3/out/weight", ...
    """
    generator = torch.Generator().manual_seed(settings.schedule.seed)

    def linear(name: str, d_in: int, d_out: int, gain: float = 1.0) -> dict[str, Tensor]:
        spread = gain * d_in**-0.5
        weight = spread * (2 * torch.rand(d_out, d_in, generator=generator) - 1)
        return {f"{name}/weight": weight, f"{name}/bias": torch.zeros(d_out)}

    tensors = {"separator": 0.1 * torch.randn(lm.d_model, generator=generator)}
    spread = settings.hidden**-0.5
    for name, tensor in _lstm(lm.d_model, settings.hidden).named_parameters():
        tensors[f"lstm/{name}"] = spread * (2 * torch.rand(tensor.shape, generator=generator) - 1)
    tensors |= linear("condition", 2 * settings.hidden, settings.condition)
    for place, (d_in, d_out) in sizes(lm, settings.places(lm)).items():
        tensors |= linear(f"{place}/in", settings.condition, settings.inner)
        tensors |= linear(f"{place}/out", settings.inner, 2 * (d_in + d_out) + 1, gain=0.1)
        tensors[f"{place}/out/bias"][2 * d_out : 2 * d_out + d_in] = -2.0  # gamma; sigmoid(eta) is 1/2 at first
        tensors[f"{place}/log_scale"] = torch.tensor(settings.step_size).log()
    return tensors


def _lstm(width: int, hidden: int) -> nn.LSTM:
    return nn.LSTM(width, hidden, batch_first=True, bidirectional=True, device="meta")


def edit_texts(lm: LM, requests: Sequence[EditRequest], separator: Tensor) -> tuple[Tensor, Tensor]:
    """Embedded texts "x [SEP] y [SEP] a", (edits, longest, d_model), and their lengths."""
    rows = []
    for request, present in zip(requests, _present(lm, requests), strict=True):
        parts = []
        for text in (request.prompt, f" {present}", f" {request.target_new}"):
            ids = torch.tensor(lm.tokenizer(text, add_special_tokens=False)["input_ids"], device=lm.device)
            parts += [lm.arch.tokens(ids).to(separator), separator[None]]
        rows.append(torch.cat(parts[:-1]))
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def _present(lm: LM, requests: Sequence[EditRequest]) -> list[str]:
    """What the model answers now: the true object where a request names it."""
    unknown = [each.prompt for each in requests if each.target_true is None]
    generated = iter(lm.generate(unknown, max_new_tokens=4) if unknown else [])
    return [each.target_true if each.target_true is not None else next(generated).strip() for each in requests]


def conditions(tensors: Mapping[str, Tensor], texts: Tensor, lengths: Tensor) -> Tensor:
    """The condition of each edit, (edits, condition): the LSTM's last states of both directions, through one layer."""
    own = {name.removeprefix("lstm/"): tensor for name, tensor in tensors.items() if name.startswith("lstm/")}
    lstm = _lstm(texts.shape[-1], own["weight_hh_l0"].shape[1])
    packed = pack_padded_sequence(texts, lengths, batch_first=True, enforce_sorted=False)
    _, (last, _) = functional_call(lstm, own, (packed,))
    both = torch.cat([last[0], last[1]], -1)
    return torch.tanh(nn.functional.linear(both, tensors["condition/weight"], tensors["condition/bias"]))


def signals(tensors: Mapping[str, Tensor], place: Place, condition: Tensor, d_in: int, d_out: int) -> Signals:
    """What one matrix's own net makes of the conditions."""
    inner = nn.functional.linear(condition, tensors[f"{place}/in/weight"], tensors[f"{place}/in/bias"]).tanh()
    said = nn.functional.linear(inner, tensors[f"{place}/out/weight"], tensors[f"{place}/out/bias"])
    return Signals(*torch.split(said, [d_out, d_out, d_in, d_in, 1], dim=-1))  # alpha, beta, gamma, delta, eta


def gated(gradient: Terms, said: Signals, scale: Tensor | float = 1.0) -> Terms:
    """scale sigmoid(eta) (softmax(alpha) gamma^T * gradient + softmax(beta) delta^T), as tokens + 1 outer products.

    The softmax is over the d_out rows and scaled to mean 1.
    """
    rows = said.alpha.shape[-1]
    size = scale * rows * said.eta.sigmoid()[:, None]  # (edits, 1, 1)
    left = torch.cat([said.alpha.softmax(-1)[:, None] * gradient.left, said.beta.softmax(-1)[:, None]], 1)
    return Terms(size * left, torch.cat([said.gamma[:, None] * gradient.right, said.delta[:, None]], 1))


def update(
    tensors: Mapping[str, Tensor], texts: Tensor, lengths: Tensor, gradient: Update, scale: float = 1.0
) -> dict[Place, Terms]:
    """The update of every matrix, edit by edit."""
    condition, updates = conditions(tensors, texts, lengths), {}
    for place, terms in gradient.items():
        d_in, d_out = terms.right.shape[-1], terms.left.shape[-1]
        said = Signals(*(part.to(terms.left) for part in signals(tensors, place, condition, d_in, d_out)))
        updates[place] = gated(terms, said, scale * tensors[f"{place}/log_scale"].exp().to(terms.left))
    return updates


class Bound:
    """The Lagrangian L_e + multiplier (L_loc - bound), and the bound's way down."""

    def __init__(self, settings: KnowledgeEditorTraining, device: torch.device) -> None:
        self.settings, self.bound = settings, settings.bound
        self.multiplier = torch.ones((), device=device, requires_grad=True)

    def __call__(self, found: Losses) -> Tensor:
        return found.edit + self.multiplier * (found.unrelated - self.bound)

    def after_step(self, history: History) -> None:
        """The multiplier stays positive; every ``patience`` steps the bound is tightened if most edits succeeded."""
        with torch.no_grad():
            self.multiplier.clamp_(min=0)
        recent = history[-self.settings.patience :]
        if len(history) % self.settings.patience == 0 and sum(step[2] for step in recent) > 0.9 * len(recent):
            self.bound = max(self.settings.tightest, 0.8 * self.bound)


def train(
    lm: LM,
    requests: Sequence[EditRequest],
    settings: KnowledgeEditorTraining | None = None,
    *,
    history: History | None = None,
) -> Trained:
    """Learn KnowledgeEditor for a model from edits of some of its facts; the model stays as it is.

    history: filled with L_e, L_loc and success of every step. Raises BadInput for too few edits.
    """
    settings = settings or KnowledgeEditorTraining()
    places, start, bound = settings.places(lm), time.process_time(), Bound(settings, lm.device)
    tensors = {name: tensor.to(lm.device).requires_grad_(True) for name, tensor in initial(lm, settings).items()}

    def editor(drawn: Sequence[EditRequest], gradient: Update) -> Update:
        return update(tensors, *edit_texts(lm, drawn, tensors["separator"]), gradient)

    groups: list[dict[str, Any]] = [
        {"params": list(tensors.values())},
        {"params": [bound.multiplier], "lr": settings.lr_multiplier, "maximize": True},
    ]
    found = meta_train(lm, requests, places, editor, groups, bound, settings.schedule, bound.after_step)
    if history is not None:
        history.extend(found)
    seconds = time.process_time() - start
    card = new_card(METHOD, lm, requests, settings, seconds, places, last_bound=bound.bound)
    return Trained(card=card, tensors={name: tensor.detach() for name, tensor in tensors.items()})


def updates(
    lm: LM, requests: Sequence[EditRequest], settings: KnowledgeEditorSettings, trained: Trained
) -> dict[Place, Terms]:
    """The learned update of every request, each by itself.

    Raises BadInput where ``trained`` belongs to another method or to a model of other sizes.
    """
    places = trained.places(METHOD, lm)
    tensors = trained.tensors_on(lm.device)
    gradient = gradient_terms(lm, edit_batch(lm, requests), places)
    with torch.no_grad():
        return update(tensors, *edit_texts(lm, requests, tensors["separator"]), gradient, settings.scale)


def knowledge_editor(
    lm: LM, requests: Sequence[EditRequest], settings: KnowledgeEditorSettings, trained: Trained
) -> WeightDelta:
    """All edits in one update, the sum of their own ones. Raises what `check_requests` raises."""
    many = check_requests(lm, requests)
    return weight_delta(lm, updates(lm, many, settings, trained))


def knowledge_editor_each(
    lm: LM, requests: Sequence[EditRequest], settings: KnowledgeEditorSettings, trained: Trained
) -> list[WeightDelta]:
    """Every request as an edit of its own on the model as it is, all in one forward and backward."""
    many = check_requests(lm, requests, together=False)
    found = updates(lm, many, settings, trained)
    return [weight_delta(lm, of_edit(found, edit)) for edit in range(len(many))]
