r"""LoRA and AdaLoRA as editors: low-rank updates of some weight matrices, trained on the edit through `peft`.

- LoRA (hu2021lora): W + (alpha / r) B A, with B zero at the start.
- AdaLoRA (zhang2023adalora): W + (alpha / r) P Lambda Q with a diagonal Lambda, zero at the start. Steps: tune with
  more ranks than wanted (``warm_up``), then set the least important entries of Lambda to zero until ``rank`` a matrix
  are left on average (``allocate``), then tune what is left (``settle``).

==============  ==============  ======================================================================
paper           code            meaning
==============  ==============  ======================================================================
r               ``rank``        rank of a matrix; for AdaLoRA the average that is left (b^(T) / n)
alpha           ``alpha``       the update is scaled by alpha / r
r at the start  ``init_rank``   AdaLoRA's rank before anything is pruned
t_i, t_f        ``warm_up``, ``settle``  AdaLoRA's steps before and after the pruning, as shares of all
gamma           ``orthogonal``  weight of the penalty that keeps P and Q orthogonal
==============  ==============  ======================================================================

The objectives for a target t_1 .. t_n after the prompt x: ``masked``, each t_i after x and the ones before it;
``last-token``, each t_i at the last token of x, as if it followed at once; ``whole``, every token of x and the target.
The first numbers of zhang2024knowedit for AdaLoRA were of the second kind, the corrected ones are of the first.

What comes back is a `WeightDelta` of factors: the adapters are taken out again, and the model is what it was. Blocks
below the lowest adapted layer are run once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from paramem.editing.requests import check_requests
from paramem.errors import BadParameter
from paramem.facts import EditRequest
from paramem.interventions import LowRank, WeightDelta
from paramem.models import LM
from paramem.tokens import Batch

if TYPE_CHECKING:
    from peft import AdaLoraModel, LoraModel

DEPARTURES = {
    "task": (
        "adapters are trained on the examples of a task",
        "on the target of one edit, or of a batch of edits",
        "this is how zhang2024knowedit uses them as an editor",
    ),
    "hyperparameters": (
        "the paper's and peft's defaults are for thousands of steps on a task",
        "rank 8, alpha 32, learning rate 5e-3 and 70 steps, as in a popular toolkit's editing configuration, without "
        "its dropout",
        "an edit is one example; dropout would make it depend on one more seed",
    ),
    "matrices": (
        "LoRA adapts the queries' and values' projections in most of its experiments",
        "`matrices='attention'`: the same, and in families with one fused projection that whole one; 'mlp' and 'down' "
        "adapt feed-forward matrices",
        "the fused projection is one matrix",
    ),
    "allocation": (
        "AdaLoRA scores and prunes triplets after every step",
        "`allocate=False` leaves that out: the ranks then never change",
        "peft does so whenever update_and_allocate is not called, as in a popular toolkit's editor; a variant with its "
        "own row",
    ),
    "schedule": (
        "AdaLoRA's steps t_i and t_f and its interval are set by task",
        "shares of all steps, with an interval of one step",
        "the number of steps is a hyperparameter here",
    ),
    "scale after pruning": (
        "the update is P Lambda Q",
        "it is divided by the rank at the start, also after pruning, as in peft",
        "pruning then removes triplets and does not rescale those that stay",
    ),
}
Matrices: TypeAlias = Literal["attention", "mlp", "down"]
ROLES: dict[str, tuple[str, ...]] = {
    "attention": ("q", "v", "qkv"),
    "mlp": ("gate", "up", "down"),
    "down": ("down",),
}
NAME = "edit"  # of the adapter, while there is one


@dataclass(frozen=True, kw_only=True)
class LowRankSettings:
    """layers: the adapted ones, all when empty. stop_below: loss at which LoRA's training ends; AdaLoRA runs all its
    steps, because its ranks follow a schedule."""

    layers: tuple[int, ...] = ()
    matrices: Matrices = "attention"
    adapter: Literal["lora", "adalora"] = "lora"
    objective: Literal["masked", "last-token", "whole"] = "masked"
    rank: int = 8
    alpha: float = 32.0
    steps: int = 70
    lr: float = 5e-3
    stop_below: float = 1e-2
    init_rank: int = 12
    warm_up: float = 0.2
    settle: float = 0.4
    orthogonal: float = 0.5
    allocate: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.steps < 1 or self.lr <= 0 or self.alpha <= 0:
            raise BadParameter(
                f"rank={self.rank}, alpha={self.alpha}, steps={self.steps}, lr={self.lr}: all are positive."
            )
        if self.matrices not in ROLES:
            raise BadParameter(f"matrices={self.matrices!r}: one of {', '.join(ROLES)}.")
        if self.adapter == "adalora" and self.init_rank <= self.rank:
            raise BadParameter(
                f"init_rank={self.init_rank}, rank={self.rank}: AdaLoRA begins with more ranks than it keeps."
            )
        if self.warm_up < 0 or self.settle <= 0 or self.warm_up + self.settle >= 1:
            raise BadParameter(
                f"warm_up={self.warm_up}, settle={self.settle}: shares of the steps that leave some between them."
            )


def adapted(lm: LM, settings: LowRankSettings) -> list[tuple[int, str]]:
    """(layer, role) of every matrix that gets an adapter.

    Raises BadParameter for layers that do not exist, and for matrices none of which the model has under such a name.
    Families fuse some of them: those that are there count.
    """
    layers = settings.layers or tuple(range(lm.n_layers))
    roles = [role for role in ROLES[settings.matrices] if role in lm.arch.layout.weights]
    if not roles:
        wanted, there = " or ".join(ROLES[settings.matrices]), ", ".join(lm.arch.layout.weights)
        raise BadParameter(f"matrices={settings.matrices!r}: {lm.name} has no weight {wanted}; there are {there}.")
    for layer in layers:
        if not 0 <= layer < lm.n_layers:
            raise BadParameter(f"layer={layer}: {lm.name} has layers 0 to {lm.n_layers - 1}; choose one of these.")
    return [(layer, role) for layer in sorted(layers) for role in roles]


def asked(batch: Batch, objective: str) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens are asked for and where: rows, columns whose output is read, tokens, each (n,)."""
    if objective == "whole":
        wanted = batch.attention_mask.bool() & (torch.arange(batch.input_ids.shape[1], device=batch.lengths.device) > 0)
    else:
        wanted = batch.target_mask
    rows, columns = wanted.nonzero(as_tuple=True)
    read = batch.prompt_lengths[rows] - 1 if objective == "last-token" else columns - 1
    return rows, read, batch.input_ids[rows, columns]


def low_rank(lm: LM, requests: Sequence[EditRequest], settings: LowRankSettings) -> WeightDelta:
    """Train adapters on all requests at once; the model itself is as before when this returns.

    Raises BadInput, BadParameter, EmptyTarget, SubjectNotInPrompt (see `check_requests`), PromptTooLong.
    """
    places = adapted(lm, settings)
    many = check_requests(lm, requests, sorted({layer for layer, _ in places}))
    batch = lm.encode([r.prompt for r in many], [r.target_new for r in many])
    rows, columns, tokens = asked(batch, settings.objective)
    with torch.no_grad():
        blocks, start = lm.blocks(batch, read=(rows, columns)), places[0][0]
    share = (1.0 / torch.bincount(rows, minlength=len(batch)))[rows] / len(batch)
    with fresh_adapters(lm, places, settings) as tuner:
        parameters = [parameter for parameter in lm.model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.Adam(parameters, lr=settings.lr)
        for step in range(1, settings.steps + 1):
            hidden = blocks.forward(blocks.resid_pre[start], start)
            said = lm.unembed(hidden[rows, columns]).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            loss = -(said * share).sum()
            if settings.adapter == "adalora":
                loss = loss + settings.orthogonal * _not_orthogonal(lm, places)
            elif loss.item() < settings.stop_below:
                break
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if settings.adapter == "adalora" and settings.allocate:
                cast("AdaLoraModel", tuner).update_and_allocate(step)  # type: ignore[no-untyped-call]
        return WeightDelta(dict(_factors(lm, places)))


def low_rank_each(lm: LM, requests: Sequence[EditRequest], settings: LowRankSettings) -> list[WeightDelta]:
    """Every request as an edit of its own, trained side by side; raises as `low_rank`."""
    from paramem.editing.adapters_abreast import adapters_each

    many = check_requests(lm, requests, sorted({layer for layer, _ in adapted(lm, settings)}), together=False)
    if settings.adapter == "adalora" and lm.dtype != torch.float32:
        # In double precision peft's own steps come out some thousandths apart from these: there it makes them.
        return [low_rank(lm, [one], settings) for one in many]
    return adapters_each(lm, many, settings)


def ranks(delta: WeightDelta) -> dict[str, int]:
    """The rank that each matrix got, by parameter name; matrices whose update is zero have no part."""
    return {name: part.rank for name, part in delta.parts.items() if isinstance(part, LowRank)}


@contextmanager
def fresh_adapters(lm: LM, places: Sequence[tuple[int, str]], settings: LowRankSettings) -> Iterator[LoraModel]:
    """Fresh adapters in the model, which come out again; nothing else of it changes."""
    needed_grad = [parameter.requires_grad for parameter in lm.model.parameters()]
    parameters = list(lm.model.parameters())
    common: dict[str, Any] = {
        "target_modules": [lm.weight(*place).name.removesuffix(".weight") for place in places],
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "fan_in_fan_out": lm.weight(*places[0]).transposed,
    }
    with torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        tuner = _tuner(lm, settings, common)
    try:
        yield tuner
    finally:
        tuner.unload()
        for parameter, needed in zip(parameters, needed_grad, strict=True):
            parameter.requires_grad_(needed)
            parameter.grad = None


def _tuner(lm: LM, settings: LowRankSettings, common: dict[str, Any]) -> LoraModel:
    from peft import AdaLoraConfig, AdaLoraModel, LoraConfig, LoraModel  # a second, which nobody else has to wait

    if settings.adapter == "lora":
        return LoraModel(lm.model, LoraConfig(r=settings.rank, **common), NAME)
    config = AdaLoraConfig(
        init_r=settings.init_rank,
        target_r=settings.rank,
        tinit=int(settings.warm_up * settings.steps),
        tfinal=max(1, int(settings.settle * settings.steps)),
        deltaT=1,
        total_step=settings.steps,
        **common,
    )
    return AdaLoraModel(lm.model, config, NAME)  # type: ignore[no-untyped-call]


def _not_orthogonal(lm: LM, places: Sequence[tuple[int, str]]) -> Tensor:
    """Mean over all P and Q of the Frobenius norms of P^T P - I and Q Q^T - I."""
    found = []
    for place in places:
        module: Any = lm.arch.linear(*place)
        for factor in (module.lora_B[NAME].T, module.lora_A[NAME]):
            found.append((factor @ factor.T - torch.eye(len(factor), dtype=factor.dtype, device=factor.device)).norm())
    return torch.stack(found).mean()


@torch.no_grad()
def _factors(lm: LM, places: Sequence[tuple[int, str]]) -> Iterator[tuple[str, LowRank]]:
    """The updates of all matrices as factors in the stored layout, without triplets that were pruned."""
    for place in places:
        module: Any = lm.arch.linear(*place)
        if hasattr(module, "lora_E"):
            kept = module.lora_E[NAME][:, 0] != 0
            scale = module.scaling[NAME] / (module.ranknum[NAME] + 1e-5)
            left = module.lora_B[NAME][:, kept] * scale
            right = (module.lora_A[NAME] * module.lora_E[NAME])[kept]
        else:
            left = module.lora_B[NAME].weight * module.scaling[NAME]
            right = module.lora_A[NAME].weight
        if len(right):
            update = LowRank(left.detach().clone(), right.detach().clone())
            found = lm.weight(*place)
            yield found.name, update.T if found.transposed else update
