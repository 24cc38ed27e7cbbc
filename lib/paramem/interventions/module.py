"""Changes of what a part of the model puts out that depend on what it read: codebooks, added neurons."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from paramem.arch import Site
from paramem.errors import BadSite, IncompatibleIntervention
from paramem.hooks import TokenLayout, attach, current_layout
from paramem.interventions.base import Intervention

if TYPE_CHECKING:
    from paramem.lm import LM


@dataclass(frozen=True, kw_only=True, eq=False)
class ModulePatch(Intervention):
    """New states at the site `writes`, computed from those there and from those at `reads`, earlier in the same layer.

    A subclass says how (`transform`), and what `widths` it was made for. The weights stay as they are.
    """

    reads: Site
    writes: Site

    @property
    @abstractmethod
    def widths(self) -> tuple[int, int]:
        """The widths of the states at `reads` and at `writes`."""

    @abstractmethod
    def transform(self, query: Tensor, state: Tensor, layout: TokenLayout) -> Tensor:
        """The states `[B, T, width]` that take the place of `state`, given those read, `[B, T, width]`."""

    @contextmanager
    def applied(self, lm: LM) -> Iterator[LM]:
        """Change the states in every forward of the model inside the context, however it is called."""
        self.check(lm)
        query: list[Tensor] = []

        def read(state: Tensor) -> None:
            query[:] = [state]

        def write(state: Tensor) -> Tensor:
            return self.transform(query.pop().to(state), state, current_layout(state))

        with ExitStack() as stack:
            stack.callback(attach(lm.arch.hook_point(self.reads), read, reads_only=True).remove)
            stack.callback(attach(lm.arch.hook_point(self.writes), write).remove)
            yield lm.with_(patches=(*lm.patches, self))

    def check(self, lm: LM) -> None:
        """Raises `IncompatibleIntervention` where the widths are not those of this model."""
        for site, width in zip((self.reads, self.writes), self.widths, strict=True):
            try:
                found = lm.arch.width(site)
            except BadSite as error:
                raise IncompatibleIntervention(f"the edit does not fit model {lm.name!r}: {error}") from error
            if found != width:
                raise IncompatibleIntervention(
                    f"the edit has width {width} at {site}, model {lm.name!r} has {found}: it was made for another "
                    "model"
                )
