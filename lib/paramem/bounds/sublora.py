r"""SubLoRA: train a language model through so few numbers that they fit into a bound (lotfi2023nonvacuous, section 5).

    theta = theta_0 + LoRA(P w)                                                                        Eq. (4)

1. ``SubLora.of``   theta_0, the initial LoRA factors and the projector P follow from a seed and cost no bits
2. ``fit``          gradient descent on w, then on w and a codebook of levels together, quantised in the forward
3. ``Compressed``   the levels and an arithmetic code of w: every bit that a bound pays for; ``rebuilt`` makes the model
   again from these bytes, the configuration and the seed

==============  ==============  =============================================================================
paper           code            shape
==============  ==============  =============================================================================
w               ``w``           (d,), what is learned
P w             ``P w``         (D,), the change of all factors U (a, r), V (r, b) of the adapted matrices, flattened
theta           ``weights(w)``  name -> matrix, W_0 + U V
==============  ==============  =============================================================================

``dimension=None`` leaves P out (LoRA only); ``rank=None`` leaves LoRA out, and P w is added to every parameter of the
model (subspace only).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from paramem.bounds import packed
from paramem.bounds.coding import Code, encode
from paramem.bounds.projector import KroneckerProjector
from paramem.errors import BadInput, BadParameter
from paramem.models import LM
from paramem.tokens import Batch

DEPARTURES = {
    "head": (
        "LoRA adapts the self-attention and the last linear layer",
        "the same matrices; where the head is tied to the embedding, only the head's side changes",
        "the embedding is not among the adapted matrices, and an update of it would be another method",
    ),
    "quantisation": (
        "additional training steps with a small number of quantisation levels",
        "levels start at the k-means of w; w gets the gradient of its quantised value, each level the sum of those of "
        "its numbers",
        "the paper names the step and leaves the estimator to earlier work",
    ),
}
ADAPTED = ("q", "k", "v", "qkv", "attn_out")


@dataclass(frozen=True, kw_only=True)
class SubLoraSettings:
    """rank: of the factors, None for no LoRA. dimension: of w, None for no subspace. seed: of the factors' start and of
    the projector. scale: what U V is multiplied by."""

    rank: int | None = 4
    dimension: int | None = 1000
    seed: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rank", "dimension"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise BadParameter(f"{name}={value}: at least 1, or None to leave it out.")


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """steps, lr: of w alone. levels: of the codebook. quantised_steps, quantised_lr: of w and the codebook together.
    control: take the quantised steps a second time, from the same w on the same batches, without quantisation."""

    steps: int = 1000
    lr: float = 1e-2
    levels: int = 11
    quantised_steps: int = 200
    quantised_lr: float = 1e-3
    control: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.quantised_steps < 0 or self.levels < 1 or min(self.lr, self.quantised_lr) <= 0:
            raise BadParameter(f"{self}: at least one step and one level, and positive learning rates.")


@dataclass(frozen=True, eq=False)
class SubLora:
    """A model as a function of few numbers.

    lm         the model with theta_0, never changed
    names      the adapted matrices, in order
    start      the factors (or zeros) that P w is added to, flattened, (D,)
    projector  P, None for the identity
    """

    lm: LM
    settings: SubLoraSettings
    names: tuple[str, ...]
    start: Tensor
    projector: KroneckerProjector | None

    @classmethod
    def of(cls, lm: LM, settings: SubLoraSettings) -> SubLora:
        """The parameterisation around the model's present weights, theta_0.

        Raises BadParameter for a rank or a dimension that is too large.
        """
        if settings.rank is None:
            parameters = dict(lm.model.named_parameters())
            names = tuple(sorted(parameters))
            start = torch.zeros(sum(parameters[name].numel() for name in names))
        else:
            names = _adapted(lm)
            generator = torch.Generator().manual_seed(settings.seed)
            start = torch.cat([_factors(lm, name, settings.rank, generator) for name in names])
        start = start.to(lm.dtype)
        if settings.dimension is None:
            return cls(lm, settings, names, start, None)
        projector = KroneckerProjector.random(len(start), settings.dimension, settings.seed + 1, dtype=lm.dtype)
        return cls(lm, settings, names, start, projector)

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The model's own weights by name, tied ones under each of theirs."""
        return dict(self.lm.model.named_parameters(remove_duplicate=False))

    @property
    def dimension(self) -> int:
        """d: how many numbers are learned."""
        return len(self.start) if self.projector is None else self.projector.dimension

    def weights(self, w: Tensor) -> dict[str, Tensor]:
        """theta(w) by name, for the adapted matrices. Eq. (4), lotfi2023nonvacuous."""
        change = self.start + (w if self.projector is None else self.projector(w))
        found, at = {}, 0
        for name in self.names:
            old = self.parameters[name]
            if self.settings.rank is None:
                found[name] = old + change[at : at + old.numel()].view(old.shape)
                at += old.numel()
                continue
            (a, b), r = old.shape, self.settings.rank
            u, v = change[at : at + a * r].view(a, r), change[at + a * r : at + (a + b) * r].view(r, b)
            found[name] = old + self.settings.scale * u @ v
            at += (a + b) * r
        return found

    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        """Logits at every token but the last, (B, T - 1, V)."""
        arguments = {"input_ids": batch.input_ids, "attention_mask": None, "use_cache": False}
        tie = self.settings.rank is None  # all parameters are moved, each tied pair as one
        output = functional_call(self.lm.model, self.weights(w), (), arguments, tie_weights=tie)
        found: Tensor = output.logits[:, :-1]
        return found

    def logprobs(self, w: Tensor, batch: Batch) -> Tensor:
        """Natural log-probability of every token of the batch but the first, given those before it, (B, T - 1)."""
        logits = self.logits(w, batch)
        return logits.gather(2, batch.input_ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)

    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of the batch's tokens, nats."""
        if packed.supports(self.lm):
            rows = packed.Packed.of(batch)
            said = packed.logits(self.lm, self.parameters, self.weights(w), rows)
            return torch.nn.functional.cross_entropy(said, rows.targets)
        targets = batch.input_ids[:, 1:].masked_fill(batch.attention_mask[:, 1:] == 0, -100)
        return torch.nn.functional.cross_entropy(self.logits(w, batch).flatten(0, 1), targets.flatten())


@dataclass(frozen=True, eq=False)
class Compressed:
    """A fitted w as bytes.

    code    levels and arithmetic code of w
    losses  training loss of each step, nats a token
    control the same of the steps without quantisation, empty where none were asked for
    """

    code: Code
    losses: tuple[float, ...]
    control: tuple[float, ...] = ()

    @property
    def w(self) -> Tensor:
        """The quantised numbers as they come out of the code, (d,)."""
        return torch.from_numpy(self.code.values().astype(np.float32))


def fit(model: SubLora, batches: Callable[[int], Batch], settings: FitSettings) -> Compressed:
    """Train w on ``batches(step)``, quantise it, and encode it. The model itself is not changed.

    Raises BadInput when the loss is no longer a number.
    """
    w = torch.zeros(model.dimension, dtype=model.lm.dtype, device=model.lm.device, requires_grad=True)
    losses = list(_descend(model, w, None, batches, range(settings.steps), settings.lr))
    levels = initial_levels(w.detach(), settings.levels).requires_grad_(True)
    later = {step: batches(step) for step in range(settings.steps, settings.steps + settings.quantised_steps)}
    plain = w.detach().clone().requires_grad_()
    losses += _descend(model, w, levels, later.__getitem__, later, settings.quantised_lr)
    code = encode(nearest(w, levels).numpy(), levels.detach().numpy())
    if not settings.control:
        return Compressed(code, tuple(losses))
    control = _descend(model, plain, None, later.__getitem__, later, settings.quantised_lr)
    return Compressed(code, tuple(losses), tuple(control))


def _descend(
    model: SubLora,
    w: Tensor,
    levels: Tensor | None,
    batches: Callable[[int], Batch],
    steps: Collection[int],
    lr: float,
) -> Sequence[float]:
    losses: list[float] = []
    many = len(steps)
    optimiser = torch.optim.Adam([w] if levels is None else [w, levels], lr=lr, fused=True)
    for number, step in enumerate(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * number / many)) / 2
        loss = model.loss(w if levels is None else quantised(w, levels), batches(step))
        if not math.isfinite(loss.item()):
            raise BadInput(f"the loss is {loss.item()} at step {step}: choose a smaller learning rate than {lr}.")
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return losses


def initial_levels(w: Tensor, n: int) -> Tensor:
    """The n centres of k-means on the numbers, sorted; fewer where the numbers have fewer values."""
    from sklearn.cluster import KMeans

    distinct = len(torch.unique(w))
    found = KMeans(n_clusters=min(n, distinct), n_init=1, random_state=0).fit(w.double().cpu().numpy()[:, None])
    return torch.from_numpy(np.sort(found.cluster_centers_[:, 0])).to(w)


def nearest(w: Tensor, levels: Tensor) -> Tensor:
    """Which level each number is nearest to, (d,)."""
    return (w.detach()[:, None] - levels.detach()[None]).abs().argmin(1).cpu()


def quantised(w: Tensor, levels: Tensor) -> Tensor:
    """The nearest levels. Each number gets the gradient of its level's value, each level the sum over its numbers."""
    return levels[nearest(w, levels).to(levels.device)] + (w - w.detach())


def rebuilt(lm: LM, settings: SubLoraSettings, data: bytes) -> LM:
    """The trained model, from the bytes of a code and what needs no bits: theta_0 (``lm``, unchanged), settings, seed.

    Raises CorruptFile for bytes that are no code, BadInput for a code of another dimension.
    """
    model = SubLora.of(lm, settings)
    w = torch.from_numpy(Code.unpack(data).values().astype(np.float32)).to(model.start)
    if len(w) != model.dimension:
        raise BadInput(f"the code holds {len(w)} numbers, and these settings have {model.dimension}.")
    whole = copy.deepcopy(lm.model)
    if settings.rank is not None:  # LoRA moves the head, and the embedding that may be tied to it stays
        head: Any = cast(Any, whole).get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        whole.config.tie_word_embeddings = False
    parameters = dict(whole.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, matrix in model.weights(w).items():
            parameters[name].copy_(matrix)
    return LM.of(whole, lm.tokenizer, name=lm.name)


def _adapted(lm: LM) -> tuple[str, ...]:
    """The matrices of attention, layer by layer, and the head."""
    names = []
    for layer in range(lm.n_layers):
        for role in ADAPTED:
            try:
                names.append(lm.weight(layer, role).name)
            except BadParameter:
                continue  # a family has q, k and v, or all in one
    head: Any = cast(Any, lm.model).get_output_embeddings()
    [found] = [name for name, module in lm.model.named_modules() if module is head]
    return (*names, f"{found}.weight")


def _factors(lm: LM, name: str, rank: int, generator: torch.Generator) -> Tensor:
    """U and V of one matrix at the start, flattened: V Gaussian, U zero, so that theta(0) = theta_0."""
    a, b = lm.model.get_parameter(name).shape
    if rank > min(a, b):
        raise BadParameter(f"rank={rank}: {name} is {a} x {b}, so its rank is at most {min(a, b)}.")
    gaussian = torch.randn(rank * b, generator=generator, dtype=torch.float64) / math.sqrt(b)
    return torch.cat([torch.zeros(a * rank, dtype=torch.float64), gaussian])
