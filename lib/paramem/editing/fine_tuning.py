r"""Fine-tuning one layer's down projection on an edit: FT-L and FT-M, free or inside an L-infinity ball.

The two differ in one line, the objective for a target t_1 .. t_n after the prompt x (zhang2024knowedit, section 4.1):

- ``objective="last-token"`` (FT-L): - mean_i log P[t_i | x]. Every target token is asked for at the prompt's last
  token, as
  if it followed the prompt at once. With one target token this is the usual objective; with more it is another one.
- ``objective="masked"`` (FT-M): - mean_i log P[t_i | x, t_1 .. t_(i-1)]. Cross-entropy on the target, the prompt
  masked.

``bound`` keeps every weight within +-bound of its old value after each step (zhu2020modifying; FT+L in meng2022rome,
appendix E.1). The layers below the tuned one are constant, so a step starts at that layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from paramem.arch import Site
from paramem.editing.requests import check_requests
from paramem.editing.targets import alike
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.hooks import Blocks, Patch
from paramem.interventions import Dense, WeightDelta
from paramem.models import LM
from paramem.tokens import Batch

DEPARTURES = {
    "parameters": (
        "the survey tunes the layer's feed-forward network",
        "its down projection's matrix alone, without the bias",
        "this is what meng2022rome's baseline tunes (appendix E.1: 'changing only mlp_proj weights'), bias apart",
    ),
    "stopping": (
        "meng2022rome stops at a loss of 0.03 (appendix E.1), its released code at 0.01",
        "`stop_below`, 0.01 by default",
        "the paper and its code disagree; the stricter value is used for both objectives",
    ),
}


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings:
    """bound: largest change of any weight (L-infinity), None for free tuning. stop_below: loss at which tuning ends."""

    layer: int
    objective: Literal["last-token", "masked"] = "masked"
    steps: int = 25
    lr: float = 5e-4
    bound: float | None = None
    stop_below: float = 1e-2

    def __post_init__(self) -> None:
        if self.bound is not None and self.bound <= 0:
            raise BadParameter(f"bound={self.bound}: a positive number, or None for free tuning.")
        if self.steps < 1 or self.lr <= 0:
            raise BadParameter(f"steps={self.steps}, lr={self.lr}: at least one step and a positive learning rate.")


def target_log_probabilities(
    lm: LM, blocks: Blocks, batch: Batch, settings: FineTuneSettings, patch: Mapping[Site, Patch] | None = None
) -> Tensor:
    """log P of each target token where the objective asks for it, (target tokens of all rows,)."""
    hidden = blocks.forward(blocks.resid_pre[settings.layer], settings.layer, patch=patch)
    said = lm.unembed(hidden[_asked(batch, settings)]).log_softmax(-1)
    return said.gather(1, batch.input_ids[batch.target_mask][:, None])[:, 0]


def _asked(batch: Batch, settings: FineTuneSettings) -> tuple[Tensor, Tensor]:
    """(row, column) whose output is asked for each target token."""
    rows, columns = batch.target_mask.nonzero(as_tuple=True)
    return rows, columns - 1 if settings.objective == "masked" else batch.prompt_lengths[rows] - 1


def fine_tune(lm: LM, requests: Sequence[EditRequest], settings: FineTuneSettings) -> WeightDelta:
    """Tune on all requests at once; the model itself is as before when this returns.

    Raises what `check_requests` raises, and PromptTooLong.
    """
    check_requests(lm, requests, [settings.layer])
    name, W, _ = lm.weight(settings.layer, "down")
    batch = lm.encode([r.prompt for r in requests], [r.target_new for r in requests])
    weight = (1.0 / batch.target_mask.sum(1))[batch.target_mask.nonzero(as_tuple=True)[0]] / len(requests)
    with torch.no_grad():
        blocks = lm.blocks(batch, read=_asked(batch, settings))
    old, needed_grad = W.detach().clone(), W.requires_grad
    try:
        W.requires_grad_(True)
        optimiser = torch.optim.Adam([W], lr=settings.lr)
        for _ in range(settings.steps):
            loss = -(target_log_probabilities(lm, blocks, batch, settings) * weight).sum()
            if loss.item() < settings.stop_below:
                break
            (W.grad,) = torch.autograd.grad(loss, [W])
            optimiser.step()
            if settings.bound is not None:
                with torch.no_grad():
                    W.clamp_(old - settings.bound, old + settings.bound)
        return WeightDelta({name: Dense((W.detach() - old).clone())})
    finally:
        W.grad = None
        W.requires_grad_(needed_grad)
        with torch.no_grad():
            W.copy_(old)


def fine_tune_each(
    lm: LM, requests: Sequence[EditRequest], settings: FineTuneSettings, *, batch_size: int = 16
) -> list[WeightDelta]:
    """Every request tuned on its own, side by side: row i of a forward meets the weights of request i.

    The weights themselves stay as they are; each edit has a change D of its own, which Adam moves as it would move W,
    and which stands still once its loss is below ``stop_below``.
    """
    check_requests(lm, requests, [settings.layer], together=False)
    found: dict[int, WeightDelta] = {}
    for some in alike(lm, requests, batch_size):
        found |= dict(zip(some, _tuned(lm, [requests[i] for i in some], settings), strict=True))
    return [found[i] for i in range(len(requests))]


def _tuned(lm: LM, requests: Sequence[EditRequest], settings: FineTuneSettings) -> list[WeightDelta]:
    name, W, transposed = lm.weight(settings.layer, "down")
    batch = lm.encode([r.prompt for r in requests], [r.target_new for r in requests])
    owner = batch.target_mask.nonzero(as_tuple=True)[0]
    share = 1.0 / batch.target_mask.sum(1)[owner]
    with torch.no_grad():
        blocks = lm.blocks(batch, read=_asked(batch, settings))
    D = torch.zeros(len(requests), *W.shape, dtype=W.dtype, device=W.device, requires_grad=True)
    patch = _own_weights(D, settings.layer, transposed)
    optimiser, done = torch.optim.Adam([D], lr=settings.lr), torch.zeros(len(requests), dtype=torch.bool)
    for _ in range(settings.steps):
        said = target_log_probabilities(lm, blocks, batch, settings, patch)
        losses = torch.zeros(len(requests), dtype=said.dtype, device=said.device).index_add(0, owner, -said * share)
        done |= (losses.detach() < settings.stop_below).cpu()
        if done.all():
            break
        (D.grad,) = torch.autograd.grad(losses.sum(), [D])
        still = D.detach()[done].clone()
        optimiser.step()
        with torch.no_grad():
            if settings.bound is not None:
                D.clamp_(-settings.bound, settings.bound)
            D[done] = still
    return [WeightDelta({name: Dense(change.clone())}) for change in D.detach()]


def _own_weights(D: Tensor, layer: int, transposed: bool) -> dict[Site, Patch]:
    """Adds x D_i to what the down projection answers in row i; x is what it reads. D: (rows, *shape of W)."""
    read: list[Tensor] = []

    def reading(x: Tensor) -> Tensor:
        read[:] = [x]
        return x

    def answering(out: Tensor) -> Tensor:
        return out + read[0] @ (D if transposed else D.transpose(1, 2))

    return {Site("mlp_hidden", layer): reading, Site("mlp_out", layer): answering}
