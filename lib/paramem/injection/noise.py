"""Factors on a model's states while it is trained: where they act, and noise that nobody learned, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

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
    """Factors on the MLP inputs of some layers, new ones in every forward.

    layers: from the lowest up, each once.
    seed: each model that the noise is put on meets the sequence of this seed from its beginning, so that one noise
    trains every copy alike. Or a generator, which goes on from model to model.
    clean: share of rows that are left alone, drawn anew in every forward and the same for all layers.
    origin: where the factors come from, for the recipe.
    """

    def __init__(
        self,
        factor: Factor,
        layers: Sequence[int],
        *,
        seed: int | torch.Generator,
        clean: float = 0.25,
        origin: str = "",
    ) -> None:
        if not 0 <= clean <= 1:
            raise BadParameter(f"clean={clean} is a share of rows: it lies in [0, 1]")
        if not layers or list(layers) != sorted(set(layers)):
            raise BadParameter(f"layers={tuple(layers)}: name at least one layer, from the lowest up, each once")
        self.factor, self.layers, self.seed, self.clean, self.origin = factor, tuple(layers), seed, clean, origin
        self._begun: WeakKeyDictionary[nn.Module, torch.Generator] = WeakKeyDictionary()

    @property
    def recipe(self) -> str:
        """All that decides the factors, in words and numbers, for those who keep what was trained under them.

        Empty without an origin, and for a generator: what it gives depends on what it gave before.
        """
        if not self.origin or isinstance(self.seed, torch.Generator):
            return ""
        return f"{self.origin}, layers {self.layers}, seed {self.seed}, clean {self.clean}"

    def _generator(self, lm: LM) -> torch.Generator:
        if isinstance(self.seed, torch.Generator):
            return self.seed
        return self._begun.setdefault(lm.model, torch.Generator().manual_seed(self.seed))

    @contextmanager
    def applied(self, lm: LM) -> Iterator[LM]:
        """The model with this noise in every forward inside the context. Raises BadSite for a layer that it lacks."""
        generator, noisy = self._generator(lm), list[Tensor]()

        def patch(place: int) -> Callable[[Tensor], Tensor]:
            def change(state: Tensor) -> Tensor:
                if place == 0:  # the lowest layer is the first to be run
                    noisy[:] = [torch.rand(len(state), 1, 1, generator=generator).ge(self.clean).to(state)]
                return state * (1 + noisy[0] * (self.factor(place, state, generator) - 1))

            return change

        with lm.hooked(patch={Site("mlp_in", layer): patch(place) for place, layer in enumerate(self.layers)}):
            yield lm


def blind(bank: Bank, layers: Sequence[int], *, seed: int, clean: float = 0.25) -> Noise:
    """The control of equal size: Gaussian around 1, with the root mean square of a bank at each layer.

    Raises BadParameter for more layers than the bank has.
    """
    _check_layers(bank, layers)
    sizes: list[float] = (bank.factors - 1).square().mean((1, 2)).sqrt().tolist()

    def factor(place: int, state: Tensor, generator: torch.Generator) -> Tensor:
        return 1 + sizes[place] * torch.randn(state.shape, generator=generator).to(state)

    return Noise(factor, layers, seed=seed, clean=clean, origin=f"as large as {bank.recipe}")


def dealt(bank: Bank, layers: Sequence[int], *, seed: int, clean: float = 0.25) -> Noise:
    """The control that does not see its input: a token gets the factors that some token of the bank got.

    Raises BadParameter for more layers than the bank has.
    """
    _check_layers(bank, layers)

    def factor(place: int, state: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randint(bank.factors.shape[1], state.shape[:2], generator=generator)
        return bank.factors[place][drawn.to(bank.factors.device)].to(state)

    return Noise(factor, layers, seed=seed, clean=clean, origin=f"dealt from {bank.recipe}")


def _check_layers(bank: Bank, layers: Sequence[int]) -> None:
    if len(layers) > len(bank.factors):
        raise BadParameter(
            f"layers={tuple(layers)}: the bank has factors for {len(bank.factors)} layers; name no more than these, or "
            "take the bank of a paraphraser of more"
        )
