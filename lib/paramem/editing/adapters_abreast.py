"""Adapters of many edits trained side by side: row i of a forward meets the adapters of edit i (hu2021lora,
zhang2023adalora).

What peft trains one edit at a time (`paramem.editing.low_rank`) is trained here for all edits at once, from the
initial values that peft draws, with its update and, for AdaLoRA, its schedule, scores and thresholds. Adam works on
each number by itself and no loss has terms of two edits, so each edit comes out as it would alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from paramem.editing.low_rank import NAME, LowRankSettings, adapted, asked, fresh_adapters
from paramem.facts import EditRequest
from paramem.interventions import LowRank, WeightDelta
from paramem.models import LM

Place = tuple[int, str]
BETAS = (0.85, 0.85)  # peft's smoothing of sensitivity and of its uncertainty


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """The adapters of one matrix for all edits: x A_i' (E_i) B_i' scale is added to what edit i's rows answer.

    Every edit has equally many rows, one by default, and those of one edit stand together.

    A (edits, r, d_in), B (edits, d_out, r); E (edits, r, 1) for AdaLoRA, None for LoRA
    """

    A: Tensor
    B: Tensor
    E: Tensor | None
    scale: float

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained."""
        return [self.A, self.B] if self.E is None else [self.A, self.B, self.E]

    def added(self, x: Tensor) -> Tensor:
        """What is added to the answers to x, (rows, tokens, d_in)."""
        right = self.A if self.E is None else self.A * self.E
        mine = x.reshape(len(self.A), -1, x.shape[-1])
        change = mine @ right.transpose(1, 2) @ self.B.transpose(1, 2) * self.scale
        return change.view(*x.shape[:-1], -1)

    def not_orthogonal(self) -> Tensor:
        """|B'B - I| + |A A' - I| in Frobenius norm, (edits,)."""
        eye = torch.eye(self.A.shape[1], dtype=self.A.dtype, device=self.A.device)
        grams = (self.B.transpose(1, 2) @ self.B, self.A @ self.A.transpose(1, 2))
        return sum(((gram - eye).flatten(1).norm(dim=1) for gram in grams), torch.zeros_like(self.A[:, 0, 0]))

    @torch.no_grad()
    def factors(self, edit: int) -> LowRank:
        """One edit's update (d_out, d_in), without triplets that were pruned."""
        if self.E is None:
            return LowRank(self.B[edit] * self.scale, self.A[edit].clone())
        kept = self.E[edit, :, 0] != 0
        return LowRank(self.B[edit][:, kept] * self.scale, (self.A[edit] * self.E[edit])[kept])


def adapters_each(
    lm: LM, requests: Sequence[EditRequest], settings: LowRankSettings, *, batch_size: int = 16
) -> list[WeightDelta]:
    """Every request as an edit of its own; the model itself stays as it is. Requests must have been checked."""
    from paramem.editing.targets import alike

    found: dict[int, WeightDelta] = {}
    for some in alike(lm, requests, batch_size):
        found |= dict(zip(some, _trained(lm, [requests[i] for i in some], settings), strict=True))
    return [found[i] for i in range(len(requests))]


def _trained(lm: LM, requests: Sequence[EditRequest], settings: LowRankSettings) -> list[WeightDelta]:
    places, n = adapted(lm, settings), len(requests)
    adapters = initial(lm, places, settings, n)
    parameters = [parameter for adapter in adapters.values() for parameter in adapter.parameters]
    losses = _losses(lm, requests, places[0][0], settings)
    budget = _Budget(settings=settings, adapters=list(adapters.values())) if settings.adapter == "adalora" else None
    optimiser, done = torch.optim.Adam(parameters, lr=settings.lr), torch.zeros(n, dtype=torch.bool, device=lm.device)
    with attached(lm, adapters):
        for step in range(1, settings.steps + 1):
            loss = losses()
            if budget is not None:
                loss = loss + settings.orthogonal * _mean_not_orthogonal(adapters)
            else:
                done |= loss.detach() < settings.stop_below
                if done.all():
                    break
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss.sum(), parameters), strict=True):
                parameter.grad = gradient
            _step(optimiser, parameters, done)
            if budget is not None and settings.allocate:
                budget.allocate(step)
    return [WeightDelta(dict(stored(lm, adapters, edit))) for edit in range(n)]


def initial(lm: LM, places: Sequence[Place], settings: LowRankSettings, n: int) -> dict[Place, Adapter]:
    """As peft draws them, the same for every edit."""
    found = {}
    with fresh_adapters(lm, places, settings):
        for place in places:
            module: Any = lm.arch.linear(*place)
            drawn: tuple[Tensor, ...]
            if settings.adapter == "adalora":
                drawn = (module.lora_A[NAME], module.lora_B[NAME], module.lora_E[NAME])
                scale = module.scaling[NAME] / (float(module.ranknum[NAME].detach()) + 1e-5)
            else:
                drawn = (module.lora_A[NAME].weight, module.lora_B[NAME].weight)
                scale = module.scaling[NAME]
            mine = [each.detach().repeat(n, 1, 1).requires_grad_(True) for each in drawn]
            found[place] = Adapter(A=mine[0], B=mine[1], E=mine[2] if len(mine) > 2 else None, scale=float(scale))
    return found


def _losses(lm: LM, requests: Sequence[EditRequest], start: int, settings: LowRankSettings) -> Callable[[], Tensor]:
    """What is minimised, (edits,), of the model with whatever is attached to it."""
    batch = lm.encode([r.prompt for r in requests], [r.target_new for r in requests])
    rows, columns, tokens = asked(batch, settings.objective)
    with torch.no_grad():
        blocks = lm.blocks(batch, read=(rows, columns))
    share = (1.0 / torch.bincount(rows, minlength=len(batch)))[rows]

    def losses() -> Tensor:
        hidden = blocks.forward(blocks.resid_pre[start], start)
        said = lm.unembed(hidden[rows, columns]).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        return said.new_zeros(len(batch)).index_add(0, rows, -said * share)

    return losses


def _step(optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor], done: Tensor) -> None:
    """One step; edits that are done stay where they are."""
    still = [parameter.detach()[done].clone() for parameter in parameters]
    optimiser.step()
    with torch.no_grad():
        for parameter, old in zip(parameters, still, strict=True):
            parameter[done] = old


def _mean_not_orthogonal(adapters: Mapping[Place, Adapter]) -> Tensor:
    """Mean over all P and Q of a matrix each, (edits,)."""
    return torch.stack([adapter.not_orthogonal() for adapter in adapters.values()]).mean(0) / 2


@contextmanager
def attached(lm: LM, adapters: Mapping[Place, Adapter]) -> Iterator[None]:
    """The model with the adapters; its own weights are not touched."""
    with ExitStack() as stack:
        for place, adapter in adapters.items():
            module: nn.Module = lm.arch.linear(*place)
            stack.callback(module.register_forward_hook(_adding(adapter)).remove)
        yield


def _adding(adapter: Adapter) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    return lambda _, given, answer: answer + adapter.added(given[0])


def stored(lm: LM, adapters: Mapping[Place, Adapter], edit: int) -> Iterator[tuple[str, LowRank]]:
    """One edit's updates by parameter name, in the stored layout."""
    for place, adapter in adapters.items():
        update, found = adapter.factors(edit), lm.weight(*place)
        if update.rank:
            yield found.name, update.T if found.transposed else update


@dataclass(kw_only=True, eq=False)
class _Budget:
    """Which triplets stay, each edit by its own scores: AdaLoRA's sensitivity, smoothed, times its uncertainty."""

    settings: LowRankSettings
    adapters: Sequence[Adapter]
    smooth: dict[int, Tensor] = field(default_factory=dict)
    unsure: dict[int, Tensor] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)

    def allocate(self, step: int) -> None:
        """After the step of this number, counted from 1; the schedule is peft's for an interval of one step."""
        s = self.settings
        first, last = int(s.warm_up * s.steps), s.steps - max(1, int(s.settle * s.steps))
        if step < last:
            self._look()
        if first < step <= last:
            left = (1 - (step - first) / (last - first)) ** 3
            triplets = s.rank * len(self.adapters), s.init_rank * len(self.adapters)
            self._prune(triplets[1] - int((triplets[1] - triplets[0]) * left + triplets[0]))
        elif step > last:
            self._mask()

    @torch.no_grad()
    def _look(self) -> None:
        for adapter in self.adapters:
            for parameter in adapter.parameters:
                key = id(parameter)
                assert parameter.grad is not None
                seen = (parameter * parameter.grad).abs()
                zero = torch.zeros_like(seen)
                smooth = BETAS[0] * self.smooth.get(key, zero) + (1 - BETAS[0]) * seen
                off = (seen - smooth).abs()
                self.smooth[key] = smooth
                self.unsure[key] = BETAS[1] * self.unsure.get(key, zero) + (1 - BETAS[1]) * off

    def _prune(self, n: int) -> None:
        """Take the ``n`` triplets of lowest score away from each edit."""
        scores = [self._scores(adapter) for adapter in self.adapters]
        lowest = torch.cat(scores, 1).kthvalue(n, dim=1, keepdim=True).values  # (edits, 1)
        self.kept = [score > lowest for score in scores]
        self._mask()

    def _scores(self, adapter: Adapter) -> Tensor:
        """(edits, r): of the singular value, and the means over both vectors."""
        A, B, E = (self.smooth[id(each)] * self.unsure[id(each)] for each in adapter.parameters)
        return E[:, :, 0] + A.mean(2) + B.mean(1)

    @torch.no_grad()
    def _mask(self) -> None:
        for adapter, kept in zip(self.adapters, self.kept, strict=True):
            assert adapter.E is not None
            adapter.E.masked_fill_(~kept[:, :, None], 0.0)
