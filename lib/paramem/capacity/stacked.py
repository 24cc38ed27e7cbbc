"""Many small transformers of one shape, trained and run at once: every parameter has a leading axis of models.

    shape = Shape(architecture="gpt2", width=16)
    models = Stack.initialised(shape, seeds=(0, 1, 2))
    models.logits(ids)                       # [3, B, T] token ids -> [3, B, T, vocabulary]

As in allenzhu2024capacity (section 2.3) "GPT-2" has rotary positions and no dropout. Its feed-forward layer is a GELU
of four times the width with biases and layer norms; "Llama" has a gated one of 8/3 of the width, RMS norms and no
biases; "moe" is GPT-2 whose feed-forward layers are experts of hidden size d, of which each token takes one
(section 9). Embeddings are tied. Calling the kernels of a model of ten thousand parameters costs
as much as running them, so that several models in one call are faster than one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from paramem.capacity.biographies import VOCABULARY
from paramem.errors import BadParameter

DEPARTURES = {
    "experts": (
        "32 experts, whose capacity is limited, so that tokens may be dropped",
        "8 experts of unlimited capacity, one a token, and Switch's balancing loss",
        "of thousands of parameters 32 experts would leave little to attention",
    ),
    "heads": ("64 dimensions a head", "4 dimensions a head", "a width of 8 or 12 has room for two or three heads"),
}

Architecture: TypeAlias = Literal["gpt2", "llama", "moe"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a model. Raises BadParameter when the heads do not fit."""

    architecture: Architecture = "gpt2"
    width: int = 16
    layers: int = 2
    heads: int = 2
    experts: int = 8
    vocabulary: int = VOCABULARY
    rotary_base: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise BadParameter(f"width {self.width} is not {self.heads} heads of an even size (rotary positions)")

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer (of one expert)."""
        return {"gpt2": 4 * self.width, "llama": round(8 * self.width / 3), "moe": self.width}[self.architecture]

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name to size of every parameter."""
        d, h, e = self.width, self.hidden, self.experts
        sizes: dict[str, tuple[int, ...]] = {"embed": (self.vocabulary, d)}
        norms = {"norm1.g": (d,), "norm2.g": (d,)}
        attention: dict[str, tuple[int, ...]] = {"qkv": (d, 3 * d), "out": (d, d)}
        biases: dict[str, tuple[int, ...]] = {"norm1.b": (d,), "norm2.b": (d,), "qkv.b": (3 * d,), "out.b": (d,)}
        kinds: dict[str, dict[str, tuple[int, ...]]] = {
            "gpt2": {"up": (d, h), "down": (h, d), "up.b": (h,), "down.b": (d,)},
            "llama": {"gate": (d, h), "up": (d, h), "down": (h, d)},
            "moe": {"router": (d, e), "up": (e, d, h), "down": (e, h, d), "up.b": (e, h), "down.b": (e, d)},
        }
        block = norms | attention | kinds[self.architecture] | ({} if self.architecture == "llama" else biases)
        for layer in range(self.layers):
            sizes |= {f"{layer}.{name}": size for name, size in block.items()}
        return sizes | {"norm.g": (d,)} | ({} if self.architecture == "llama" else {"norm.b": (d,)})

    def parameters(self) -> int:
        """Numbers of one model, embeddings and all experts included."""
        return sum(map(prod, self.tensors().values()))

    def is_matrix(self, name: str) -> bool:
        """Whether a parameter is a weight matrix (or a stack of them), which is decayed and quantised."""
        return name.split(".")[-1] not in ("g", "b")


class Stack:
    """M models of one shape. ``tensors`` ``[M, ...]`` are views, with gradients, into one row of numbers."""

    def __init__(self, shape: Shape, flat: Tensor) -> None:
        if flat.ndim != 2 or flat.shape[1] != shape.parameters():
            raise BadParameter(
                f"numbers of shape {tuple(flat.shape)} are no stack of models of {shape.parameters()} parameters each"
            )
        self.shape, models = shape, len(flat)
        sizes = shape.tensors()
        self.buffer = torch.cat(
            [part.flatten() for part in torch.split(flat, [prod(s) for s in sizes.values()], dim=1)]
        )
        self.buffer.grad = torch.zeros_like(self.buffer)
        lengths = [models * prod(size) for size in sizes.values()]
        places, gradients = torch.split(self.buffer, lengths), torch.split(self.buffer.grad, lengths)
        self.tensors: dict[str, Tensor] = {}
        for (name, size), place, gradient in zip(sizes.items(), places, gradients, strict=True):
            self.tensors[name] = place.detach().view(models, *size).requires_grad_()
            self.tensors[name].grad = gradient.view(models, *size)
        self._rotary: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def flat(self) -> Tensor:
        """``[M, parameters]``: the numbers of each model."""
        return torch.cat([tensor.detach().flatten(1) for tensor in self.tensors.values()], dim=1)

    @property
    def gradient(self) -> Tensor:
        """``[M, parameters]``: the gradients that have been gathered, in the order of `flat`."""
        return torch.cat([_gathered(tensor).flatten(1) for tensor in self.tensors.values()], dim=1)

    @torch.no_grad()
    def assign(self, flat: Tensor) -> None:
        """Give the models the numbers ``[M, parameters]``, in place."""
        sizes = [tensor[0].numel() for tensor in self.tensors.values()]
        for tensor, numbers in zip(self.tensors.values(), torch.split(flat, sizes, dim=1), strict=True):
            tensor.copy_(numbers.view(tensor.shape))

    def forget(self) -> None:
        """Set the gradients to zero."""
        _gathered(self.buffer).zero_()

    @classmethod
    def initialised(cls, shape: Shape, seeds: Sequence[int], device: torch.device | str = "cpu") -> Stack:
        """One model a seed: normal matrices of standard deviation 1 / sqrt(inputs), norms of one, biases of zero.

        The numbers are drawn on the CPU, so that they do not depend on the device.
        """
        if not seeds:
            raise BadParameter("a stack needs at least one seed")
        models = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            models.append(torch.cat([_initial(shape, name, size, generator) for name, size in shape.tensors().items()]))
        return cls(shape, torch.stack(models).to(device))

    def __len__(self) -> int:
        return len(self.tensors["embed"])

    def replaced(self, tensors: Mapping[str, Tensor]) -> Stack:
        """The same models with some tensors ``[M, ...]`` replaced."""
        parts = [tensors.get(name, old).detach().flatten(1) for name, old in self.tensors.items()]
        return Stack(self.shape, torch.cat(parts, dim=1))

    def logits(self, ids: Tensor) -> Tensor:
        """``[M, B, T]`` token ids to ``[M, B, T, vocabulary]``; position t sees tokens up to t."""
        return self.run(ids)[0]

    def run(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[M, B, T, vocabulary]``, and each model's load-balancing loss ``[M]`` (0 without experts)."""
        states, unbalanced = self.states(ids)
        return (states.flatten(1, 2) @ self.tensors["embed"].mT).view(*ids.shape, -1), unbalanced

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What the embedding is applied to for the logits, ``[M, B, T, d]``, and the load-balancing loss ``[M]``."""
        models, rows, tokens = ids.shape
        t = self.tensors
        offsets = torch.arange(models, device=ids.device)[:, None, None] * self.shape.vocabulary
        x = F.embedding((ids + offsets).flatten(1), t["embed"].reshape(-1, self.shape.width))  # [M, B * T, d]
        unbalanced = x.new_zeros(models)
        for layer in range(self.shape.layers):
            x = x + self._attention(layer, self._norm(f"{layer}.norm1", x), rows, tokens)
            fed, uneven = self._feed_forward(layer, self._norm(f"{layer}.norm2", x))
            x, unbalanced = x + fed, unbalanced + uneven
        return self._norm("norm", x).view(models, rows, tokens, -1), unbalanced

    def _norm(self, name: str, x: Tensor) -> Tensor:
        size, eps, t = (self.shape.width,), self.shape.norm_eps, self.tensors
        if self.shape.architecture == "llama":
            return F.rms_norm(x, size, eps=eps) * t[f"{name}.g"][:, None]
        return torch.addcmul(t[f"{name}.b"][:, None], F.layer_norm(x, size, eps=eps), t[f"{name}.g"][:, None])

    def _linear(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.b" in self.tensors:
            return torch.baddbmm(self.tensors[f"{name}.b"][:, None], x, self.tensors[name])
        return torch.bmm(x, self.tensors[name])

    def _attention(self, layer: int, x: Tensor, rows: int, tokens: int) -> Tensor:
        shape = self.shape
        size = shape.width // shape.heads
        qkv = self._linear(f"{layer}.qkv", x).view(-1, tokens, 3, shape.heads, size).permute(2, 0, 3, 1, 4)
        cos, sin = self._angles(tokens, size)
        turned = qkv[:2] * cos + torch.cat([-qkv[:2, ..., size // 2 :], qkv[:2, ..., : size // 2]], dim=-1) * sin
        future = torch.full((tokens, tokens), -torch.inf, device=x.device).triu(1)
        # written out: on a few tokens the fused kernel takes twice as long
        weight = torch.softmax(turned[0] @ turned[1].mT * size**-0.5 + future, dim=-1)  # [M * B, H, T, T]
        mixed = (weight @ qkv[2]).transpose(1, 2)
        return self._linear(f"{layer}.out", mixed.reshape(len(self), rows * tokens, shape.width))

    def _angles(self, tokens: int, size: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[T, size]`` of rotary positions, halves paired as in transformers' Llama."""
        if tokens not in self._rotary:
            rates = self.shape.rotary_base ** -(torch.arange(0, size, 2) / size)
            angles = torch.outer(torch.arange(tokens).float(), rates).repeat(1, 2)
            self._rotary[tokens] = angles.cos().to(self.buffer.device), angles.sin().to(self.buffer.device)
        return self._rotary[tokens]

    def _feed_forward(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        none = x.new_zeros(len(self))
        if self.shape.architecture == "gpt2":
            return self._linear(f"{layer}.down", F.gelu(self._linear(f"{layer}.up", x), approximate="tanh")), none
        if self.shape.architecture == "llama":
            gated = F.silu(self._linear(f"{layer}.gate", x)) * self._linear(f"{layer}.up", x)
            return self._linear(f"{layer}.down", gated), none
        return self._experts(layer, x)

    def _experts(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each token's best expert, weighted by its probability, and Switch's balancing loss.

        All experts are computed and one is kept: at this size that is faster than gathering tokens by expert.
        """
        t, experts = self.tensors, self.shape.experts
        weight = self._linear(f"{layer}.router", x).softmax(-1)  # [M, B * T, E]
        best = F.one_hot(weight.argmax(-1), experts).to(x.dtype)
        up = torch.einsum("mnd,medh->mneh", x, t[f"{layer}.up"]) + t[f"{layer}.up.b"][:, None]
        chosen = F.gelu(up, approximate="tanh") * (best * weight)[..., None]
        out = torch.einsum("mneh,mehd->mnd", chosen, t[f"{layer}.down"])
        out = torch.baddbmm(out, best * weight, t[f"{layer}.down.b"])
        return out, experts * (best.mean(1) * weight.mean(1)).sum(-1)


def _gathered(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None  # a stack makes it
    return tensor.grad


def _initial(shape: Shape, name: str, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    kind = name.split(".")[-1]
    if kind in ("g", "b"):
        return torch.full((prod(size),), 1.0 if kind == "g" else 0.0)
    inputs = shape.width if name == "embed" else size[-2]
    spread: float = inputs**-0.5
    deep: float = (2 * shape.layers) ** -0.5 if kind in ("out", "down") else 1.0
    return torch.randn(prod(size), generator=generator) * spread * deep
