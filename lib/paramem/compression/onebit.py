r"""OneBit: a sign for each weight and a value for each row and column (xu2024onebit).

Steps: 1. `svid` splits ``W`` into signs and a rank-one matrix of magnitudes, 2. `one_bit` puts that into a model,
3. `distil` trains signs and values until the model says what the full one says.

| paper | code | shape |
|---|---|---|
| W_sign | signs | [d_out, d_in] of +1 and -1 |
| a, b (h, g once trained) | a, b | [d_out], [d_in] |
| L_CE, L_MSE, alpha | the two terms of `_loss`, alpha | |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from paramem.arch import Site, WeightRef
from paramem.compression.modules import Group, compressed, delta_to, matrices, oriented
from paramem.errors import BadParameter
from paramem.interventions import WeightDelta
from paramem.lm import log_probs
from paramem.models import LM
from paramem.tokens import Batch

DEPARTURES = {
    "layer norm": (
        "a layer norm follows every one-bit layer",
        "none",
        "an intervention changes weights and adds no module, so that it comes off again",
    ),
    "decomposition": (
        "non-negative matrix factorisation (scikit-learn)",
        "singular value decomposition of |W|",
        "its first pair of vectors is the best rank-one approximation and non-negative by itself; the paper names both",
    ),
    "data": (
        "132 thousand texts of 2048 tokens sampled from the teacher, 50 epochs",
        "forty steps in the notebook, on text of the kind that the model was trained on",
        "sampling from a model of a small world gives that text back, and a notebook has a minute",
    ),
}


@dataclass(frozen=True, kw_only=True)
class DistilSettings:
    """How the one-bit model learns from the full one. Paper: Adam with betas (0.9, 0.98), cosine schedule, alpha 1.

    start: the signs that training begins with, those of the weights, or drawn by chance: the control that shows what
    training alone does. Values are those of the decomposition in either case.
    """

    group: Group = "all"
    start: Literal["signs", "chance"] = "signs"
    steps: int = 200
    rows: int = 64
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.98)
    alpha: float = 1.0
    seed: int = 0
    sites: tuple[str, ...] = field(default=("resid_post",))

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rows < 1:
            raise BadParameter(f"{self.steps} steps of {self.rows} rows: both are at least 1")


def svid(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sign-value-independent decomposition: signs ``[m, n]``, a ``[m]`` and b ``[n]`` with ``W ~ signs * outer(a, b)``.

    Eq. (4), xu2024onebit; a zero counts as positive. By Proposition 2 this is never farther from ``W`` than its best
    rank-one approximation. Raises BadParameter when W is no matrix.
    """
    if W.ndim != 2:
        raise BadParameter(f"a tensor of shape {tuple(W.shape)} has no rows and columns to decompose")
    signs = torch.where(W < 0, -1.0, 1.0).to(W.dtype)
    left, values, right = torch.linalg.svd(W.abs(), full_matrices=False)
    scale = values[0].sqrt()
    return signs, left[:, 0].abs() * scale, right[0].abs() * scale


def one_bit_matrix(W: Tensor) -> Tensor:
    """What a linear layer computes with after `svid`."""
    signs, a, b = svid(W)
    return signs * torch.outer(a, b)


def residuals(W: Tensor) -> tuple[float, float]:
    """Relative Frobenius distances of ``W`` to its decomposition, and to its best rank-one approximation."""
    left, values, right = torch.linalg.svd(W, full_matrices=False)
    rank_one = values[0] * torch.outer(left[:, 0], right[0])
    return tuple(float((W - near).norm() / W.norm()) for near in (one_bit_matrix(W), rank_one))  # type: ignore[return-value]


def average_bits(rows: int, columns: int) -> float:
    """Bits a weight with 16-bit values: 1 for the sign, and the two vectors shared out."""
    return 1 + 16 * (rows + columns) / (rows * columns)


def one_bit(lm: LM, group: Group = "all") -> WeightDelta:
    """The intervention that puts the decomposition, untrained, in the place of every matrix of the group."""
    return compressed(lm, group, one_bit_matrix)


def distil(lm: LM, texts: Sequence[str], settings: DistilSettings | None = None) -> WeightDelta:
    """One-bit weights that were trained, from `svid` or from random signs on, to predict and represent what the full
    model does.

    Signs are trained through latent weights with a straight-through gradient (Eq. 3), values directly. The model itself
    is left as it was. Raises BadParameter for fewer texts than a step has rows.
    """
    settings = settings or DistilSettings()
    if len(texts) < settings.rows:
        raise BadParameter(f"{len(texts)} texts for steps of {settings.rows} rows: give more texts")
    refs = matrices(lm, settings.group)
    latent = {name: W.requires_grad_() for name, W in _started(refs, settings).items()}
    values = {ref.name: [v.clone().requires_grad_() for v in svid(oriented(ref))[1:]] for ref in refs}
    learned = [*latent.values(), *(v for pair in values.values() for v in pair)]
    adam = torch.optim.Adam(learned, lr=settings.lr, betas=settings.betas)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.steps)
    for batch in _batches(lm, texts, settings):
        loss = _loss(lm, batch, _stored(refs, latent, values), settings)
        for tensor, gradient in zip(learned, torch.autograd.grad(loss, learned), strict=True):
            tensor.grad = gradient
        adam.step()
        schedule.step()
    with torch.no_grad():
        return delta_to({ref.name: _matrix(latent[ref.name], *values[ref.name]) for ref in refs}, refs)


def _started(refs: list[WeightRef], settings: DistilSettings) -> dict[str, Tensor]:
    """The latent weights of every matrix, as large as the weights, with their signs or with others."""
    found = {ref.name: oriented(ref).clone() for ref in refs}
    if settings.start == "chance":
        generator = torch.Generator().manual_seed(settings.seed)
        for W in found.values():
            W.mul_(torch.randint(0, 2, W.shape, generator=generator) * 2 - 1)
    return found


def _matrix(latent: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``signs * outer(a, b)``; the gradient passes through the signs as if they were the latent weights."""
    signs = torch.where(latent < 0, -1.0, 1.0).to(latent.dtype)
    return (signs + latent - latent.detach()) * torch.outer(a, b)


def _stored(refs: list[WeightRef], latent: dict[str, Tensor], values: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Every matrix as its parameter stores it."""
    made = {ref.name: _matrix(latent[ref.name], *values[ref.name]) for ref in refs}
    return {ref.name: made[ref.name].T if ref.transposed else made[ref.name] for ref in refs}


def _loss(lm: LM, batch: Batch, weights: dict[str, Tensor], settings: DistilSettings) -> Tensor:
    """Eq. (9): cross entropy to the full model's predictions, and distance of normalised hidden states."""
    sites = [site for kind in settings.sites for site in lm.arch.sites(kind)]
    with torch.no_grad():
        wanted, states = _forward(lm, batch, {}, sites)
    said, own = _forward(lm, batch, weights, sites)
    real = torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
    entropy = -(log_probs(wanted).exp() * log_probs(said)).sum(-1)[real].mean()
    pairs = zip(states, own, strict=True)
    apart = sum(((F.normalize(t, dim=-1) - F.normalize(s, dim=-1))[real]).square().sum(-1).mean() for t, s in pairs)
    return entropy + settings.alpha * apart


def _forward(lm: LM, batch: Batch, weights: dict[str, Tensor], sites: list[Site]) -> tuple[Tensor, list[Tensor]]:
    """Logits and hidden states with some parameters replaced."""
    seen: dict[Site, Tensor] = {}
    handles = []
    for site in sites:
        point = lm.arch.hook_point(site)

        def keep(module: torch.nn.Module, given: object, out: object, site: Site = site) -> None:
            seen[site] = out[0] if isinstance(out, tuple) else out  # type: ignore[assignment]

        handles.append(point.module.register_forward_hook(keep))
    try:
        # embeddings and not ids, because some families warn about ids that look padded
        given = {"inputs_embeds": lm.arch.tokens(batch.input_ids), "use_cache": False}
        out = torch.func.functional_call(lm.model, weights, (), given)
    finally:
        for handle in handles:
            handle.remove()
    return out.logits, [seen[site] for site in sites]


def _batches(lm: LM, texts: Sequence[str], settings: DistilSettings) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.steps):
        rows = torch.randperm(len(texts), generator=generator)[: settings.rows].tolist()
        yield lm.encode([texts[row] for row in rows])
