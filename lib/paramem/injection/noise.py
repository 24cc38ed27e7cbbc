"""Factors on a model's states while it is trained: where they act, and noise that nobody learned, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from paramem.arch import Site
from paramem.errors import BadParameter
from paramem.lm import LM

# (place among the noisy layers, state [B, T, d], generator) -> factor, of a shape that multiplies the state
Factor: TypeAlias = Callable[[int, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bank:
    """Factors [L, N, d] that a paraphraser gave to the N tokens of some texts; recipe says which of both."""

    factors: Tensor
    recipe: str


class Noise:
    """Factors on the MLP inputs of some layers, new ones in every forward; the same seed gives the same sequence.

    clean: share of rows that are left alone, drawn anew in every forward and the same for all layers.
    recipe: all that decides the factors, in words and numbers, for those who keep what was trained under them.
    """

    def __init__(
        self,
        factor: Factor,
        layers: Sequence[int],
        *,
        generator: torch.Generator,
        clean: float = 0.25,
        recipe: str = "",
    ) -> None:
        if not 0 <= clean <= 1:
            raise BadParameter(f"clean={clean} is a share of rows: it lies in [0, 1]")
        self.factor, self.layers, self.generator, self.clean = factor, tuple(layers), generator, clean
        self.recipe = recipe

    @classmethod
    def seeded(cls, factor: Factor, layers: Sequence[int], origin: str, *, seed: int, clean: float) -> Noise:
        """Noise that begins with a seed; origin: where the factors come from."""
        recipe = f"{origin}, layers {tuple(layers)}, seed {seed}, clean {clean}"
        return cls(factor, layers, generator=torch.Generator().manual_seed(seed), clean=clean, recipe=recipe)

    @contextmanager
    def applied(self, lm: LM) -> Iterator[LM]:
        """The model with this noise in every forward inside the context. Raises BadSite for a layer that it lacks."""
        noisy: list[Tensor] = []

        def patch(place: int) -> Callable[[Tensor], Tensor]:
            def change(state: Tensor) -> Tensor:
                if place == 0:  # the lowest layer is the first to be run
                    noisy[:] = [torch.rand(len(state), 1, 1, generator=self.generator).ge(self.clean).to(state)]
                return state * (1 + noisy[0] * (self.factor(place, state, self.generator) - 1))

            return change

        with lm.hooked(patch={Site("mlp_in", layer): patch(place) for place, layer in enumerate(self.layers)}):
            yield lm


def blind(bank: Bank, layers: Sequence[int], *, seed: int, clean: float = 0.25) -> Noise:
    """The control of equal size: Gaussian around 1, with the root mean square of a bank at each layer."""
    sizes: list[float] = (bank.factors - 1).square().mean((1, 2)).sqrt().tolist()

    def factor(place: int, state: Tensor, generator: torch.Generator) -> Tensor:
        return 1 + sizes[place] * torch.randn(state.shape, generator=generator).to(state)

    return Noise.seeded(factor, layers, f"as large as {bank.recipe}", seed=seed, clean=clean)


def dealt(bank: Bank, layers: Sequence[int], *, seed: int, clean: float = 0.25) -> Noise:
    """The control that does not see its input: a token gets the factors that some token of the bank got."""

    def factor(place: int, state: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randint(bank.factors.shape[1], state.shape[:2], generator=generator)
        return bank.factors[place][drawn.to(bank.factors.device)].to(state)

    return Noise.seeded(factor, layers, f"dealt from {bank.recipe}", seed=seed, clean=clean)
