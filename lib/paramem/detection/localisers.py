r"""Localisers of a memorised sequence, as graded by chang2023localization: one score per neuron (section 4).

1. ``zero_out``: how much the memorisation loss rises without the neuron (equation 7);
2. ``activations``: its activation times the length of its value vector (equation 8);
3. ``slimming``: the mask value it keeps when a sparse mask is learned for the sequence (equation 9);
4. ``hard_concrete``: the same with a mask that is pushed to 0 or 1 (equations 10 to 12 and 17).

``localise`` is one of them by name. Integrated gradients and log-probability increase have modules of their own;
``all_localisers`` puts all six side by side.

==============  ============  =================================================
paper           code          shape
==============  ============  =================================================
h_i^l, v_i^l    ``h``, ``v``  activation at a token; (d_mlp, d_model) per layer
l^mem(x)        ``loss``      mean over the object's tokens, one per fact
m^l             ``m``         (facts, layers, d_mlp)
lambda, beta    ``sparsity``, ``beta``
A^l(i)          the result    (facts, layers, d_mlp)
==============  ============  =================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from paramem.arch import Site
from paramem.detection.ablation import ablate_each, value_vectors
from paramem.detection.knowledge_neurons import integrated_gradients
from paramem.detection.neuron_attribution import tidy, value_scores
from paramem.detection.neurons import at_a_time, require_known
from paramem.errors import BadParameter
from paramem.facts import Fact
from paramem.models import LM
from paramem.tokens import Batch

DEPARTURES = {
    "sequence": (
        "a sentence or a passage is memorised, and the loss is over all its tokens but a prefix",
        "a fact: the prompt is the prefix and the object the suffix",
        "facts are what the other localisers here explain, and their objects are known to be nowhere else",
    ),
    "hyperparameters": (
        "learning rate, epochs and lambda of the masks are tuned on five sequences for each model, values not given",
        "tuned once on five facts of one testbed that are not measured; the settings' defaults",
        "the paper finds both methods sensitive to them",
    ),
    "zero-out and integrated gradients": (
        "the loss is over all tokens of the suffix",
        "over the object's first token, as log-probability increase is, which the paper does not have",
        "it is what the modules shared with the other notebooks measure; planted objects have one token",
    ),
    "a tenth of a percent": (
        "0.1 % of the neurons, drawn anew for every sequence; as many are named in each layer",
        "two or three neurons of a testbed, drawn again where they cannot hold the fact; one of each layer is named, "
        "and where shares are compared as many as were planted, over all layers",
        "layers of a few hundred neurons have no tenth of a percent",
    ),
}

TUNED = {"slimming": (0.01, 1e-3), "hard-concrete": (0.05, 1e-2)}  # learning rate, lambda
STRETCH = (-0.1, 1.1)  # gamma, zeta of the hard concrete distribution
Name = Literal["zero-out", "activations", "slimming", "hard-concrete"]


@dataclass(frozen=True, kw_only=True)
class LocaliserSettings:
    """method: which one. steps, lr, sparsity (lambda): of the learned masks, None for the tuned values of the method.
    beta, start: temperature and first value of log m of the hard concrete masks. rows: most rows in one forward."""

    method: Name = "slimming"
    steps: int = 60
    lr: float | None = None
    sparsity: float | None = None
    beta: float = 2 / 3
    start: float = 2.0
    seed: int = 0
    rows: int = 256

    def __post_init__(self) -> None:
        wrong = (self.lr is not None and self.lr <= 0) or (self.sparsity is not None and self.sparsity < 0)
        if self.steps < 1 or self.rows < 1 or wrong or self.beta <= 0:
            raise BadParameter(
                f"steps={self.steps}, rows={self.rows}, lr={self.lr}, sparsity={self.sparsity}, beta={self.beta}: at "
                "least one step and row, positive lr and beta, no negative sparsity"
            )

    def tuned(self, method: str) -> tuple[float, float]:
        """Learning rate and lambda of a method with masks."""
        lr, sparsity = TUNED[method]
        return (lr if self.lr is None else self.lr, sparsity if self.sparsity is None else self.sparsity)


def localise(lm: LM, facts: Sequence[Fact], settings: LocaliserSettings | None = None) -> pd.DataFrame:
    """The scores of one method as tidy rows: fact, layer, neuron, score. Raises BadInput for facts not known."""
    settings = settings or LocaliserSettings()
    return tidy(_METHODS[settings.method](lm, facts, settings), facts)


def all_localisers(
    lm: LM, facts: Sequence[Fact], settings: LocaliserSettings | None = None, *, leave_out: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Every localiser's scores (facts, layers, d_mlp) by name, most expensive last."""
    settings = settings or LocaliserSettings()
    others: dict[str, Callable[[], Tensor]] = {
        "log increase": lambda: value_scores(lm, facts),
        "integrated gradients": lambda: integrated_gradients(lm, require_known(lm, facts)),
    }
    runs = {**others, **{name: _bound(name, lm, facts, settings) for name in _METHODS}}
    return {name: run() for name, run in runs.items() if name not in leave_out}


def _bound(name: str, lm: LM, facts: Sequence[Fact], settings: LocaliserSettings) -> Callable[[], Tensor]:
    return lambda: _METHODS[name](lm, facts, settings)


@torch.no_grad()
def activations(lm: LM, facts: Sequence[Fact], settings: LocaliserSettings | None = None) -> Tensor:
    """A(i) = mean over the object's tokens of |h_i| |v_i|, where each is predicted: (facts, layers, d_mlp)."""
    settings = settings or LocaliserSettings()
    sites = [Site("mlp_hidden", layer) for layer in range(lm.n_layers)]
    norms = torch.stack([value_vectors(lm, layer).detach().norm(dim=1) for layer in range(lm.n_layers)])
    parts = []
    for batch in _batches(lm, facts, settings.rows):
        states = lm.states(batch, sites)
        weight = batch.target_mask[:, 1:].to(lm.dtype)
        weight = (weight / weight.sum(1, keepdim=True))[:, None]  # [facts, 1, tokens]
        h = torch.stack([(weight @ states[site][:, :-1].abs())[:, 0] for site in sites], 1)
        parts.append(h * norms)  # Eq. (8)
    return torch.cat(parts)


def zero_out(lm: LM, facts: Sequence[Fact], settings: LocaliserSettings | None = None) -> Tensor:
    """The rise of the loss when a neuron is dropped at every token, exactly: (facts, layers, d_mlp)."""
    settings = settings or LocaliserSettings()
    return ablate_each(lm, facts, where="all", rows=settings.rows)  # Eq. (7)


def slimming(lm: LM, facts: Sequence[Fact], settings: LocaliserSettings | None = None) -> Tensor:
    """min over m of l^mem + lambda |m|_1, m from 1 and clipped to [0, 1]: (facts, layers, d_mlp)."""
    settings = settings or LocaliserSettings()
    lr, sparsity = settings.tuned("slimming")
    parts = []
    for batch in _batches(lm, facts, settings.rows):
        m = torch.ones(len(batch), lm.n_layers, lm.d_mlp, dtype=lm.dtype, device=lm.device, requires_grad=True)
        optimiser = torch.optim.Adam([m], lr=lr)
        for _ in range(settings.steps):
            loss = _loss(lm, batch, m) + sparsity * m.abs().sum((1, 2))  # Eq. (9)
            (m.grad,) = torch.autograd.grad(loss.sum(), [m])
            optimiser.step()
            with torch.no_grad():
                m.clamp_(0, 1)
        parts.append(m.detach())
    return torch.cat(parts)


def hard_concrete(lm: LM, facts: Sequence[Fact], settings: LocaliserSettings | None = None) -> Tensor:
    """sigma(log m) of masks learned to be nearly binary: (facts, layers, d_mlp)."""
    settings = settings or LocaliserSettings()
    lr, sparsity = settings.tuned("hard-concrete")
    shape, done, parts = (lm.n_layers, lm.d_mlp), 0, []
    for batch in _batches(lm, facts, settings.rows):
        draws = [torch.Generator().manual_seed(settings.seed * 100_003 + done + i) for i in range(len(batch))]
        log_m = torch.full((len(batch), *shape), settings.start, dtype=lm.dtype, device=lm.device, requires_grad=True)
        optimiser = torch.optim.Adam([log_m], lr=lr)
        for _ in range(settings.steps):
            u = torch.stack([torch.rand(shape, generator=draw, dtype=torch.float64) for draw in draws]).to(log_m)
            penalty = sparsity * l0(log_m, settings.beta).sum((1, 2))
            loss = _loss(lm, batch, hard_mask(log_m, u, settings.beta)) + penalty  # Eq. (12)
            (log_m.grad,) = torch.autograd.grad(loss.sum(), [log_m])
            optimiser.step()
        parts.append(log_m.detach().sigmoid())
        done += len(batch)
    return torch.cat(parts)


def hard_mask(log_m: Tensor, u: Tensor, beta: float) -> Tensor:
    """A sample of the mask: binary concrete (equation 11), stretched and clipped to [0, 1] (appendix A.4)."""
    low, high = STRETCH
    concrete = ((u.logit() + log_m) / beta).sigmoid()
    return (concrete * (high - low) + low).clamp(0, 1)


def l0(log_m: Tensor, beta: float) -> Tensor:
    """The probability that a mask value is not zero, sigma(log m - beta log(-gamma / zeta)) (equation 17)."""
    low, high = STRETCH
    return (log_m - beta * log(-low / high)).sigmoid()


def _batches(lm: LM, facts: Sequence[Fact], rows: int) -> list[Batch]:
    """Prompts with their objects as targets; facts that the model does not know are refused."""
    require_known(lm, facts, rows=rows)
    batch = lm.encode([fact.prompt for fact in facts], [fact.object for fact in facts])
    return [batch.rows(index) for index in at_a_time(lm, batch, rows)]


def _loss(lm: LM, batch: Batch, m: Tensor) -> Tensor:
    """l^mem under masks (facts, layers, d_mlp), one per fact (equation 6)."""

    def masked(layer: int) -> Callable[[Tensor], Tensor]:
        return lambda h: h * m[:, layer, None]

    with lm.hooked(patch={Site("mlp_hidden", layer): masked(layer) for layer in range(lm.n_layers)}):
        return -lm.score_batch(batch).mean_logprob


_METHODS: dict[str, Callable[[LM, Sequence[Fact], LocaliserSettings], Tensor]] = {
    "activations": activations,
    "slimming": slimming,
    "hard-concrete": hard_concrete,
    "zero-out": zero_out,
}
