"""Changes of hidden states at a site while the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from paramem.arch import Site
from paramem.errors import BadParameter, BadSite, IncompatibleIntervention
from paramem.hooks import TokenLayout, attach, current_layout
from paramem.interventions.base import Intervention

if TYPE_CHECKING:
    from paramem.lm import LM

Mode = Literal["add", "replace"]
Where = Literal["all", "last", "from_last"] | tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenStatePatch(Intervention):
    """Add `scale * vector` to the states at a site, or put it in their place, at some tokens.

    `where` says which: `"all"` real tokens, generated ones too; `"last"`, the prompt's last token, from which the
    first target token is predicted; `"from_last"`, that one and everything after it; or a tuple of positions in the
    prompt (start token included, negative from its end).

    A subclass can compute the new states in another way (a codebook, a learned map) by overriding `transform`.
    """

    kind = "hidden_state_patch"

    site: Site
    vector: Tensor  # [width]
    mode: Mode = "add"
    where: Where = "last"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise BadParameter(f"mode must be 'add' or 'replace', not {self.mode!r}")
        if not isinstance(self.where, tuple) and self.where not in ("all", "last", "from_last"):
            raise BadParameter(f"where must be 'all', 'last', 'from_last' or a tuple of positions, not {self.where!r}")
        if self.vector.ndim != 1:
            raise BadParameter(f"vector must be of shape [width], not {tuple(self.vector.shape)}")

    @contextmanager
    def applied(self, lm: LM) -> Iterator[LM]:
        """Change the states in every forward of the model inside the context, however it is called."""
        try:
            point, width = lm.arch.hook_point(self.site), lm.arch.width(self.site)
        except BadSite as error:
            raise IncompatibleIntervention(f"the patch does not fit model {lm.name!r}: {error}") from error
        self.check_width(lm, width)
        handle = attach(point, self.visit)
        try:
            yield lm.with_(patches=(*lm.patches, self))
        finally:
            handle.remove()

    def visit(self, state: Tensor) -> Tensor:
        """The states `[B, T, width]` that take the place of `state`."""
        return self.transform(state, token_mask(self.where, current_layout(state), state.shape[1]))

    def transform(self, state: Tensor, mask: Tensor) -> Tensor:
        """New states, given the states `[B, T, width]` and the tokens meant `[B, T]`."""
        change = self.scale * self.vector.to(state)
        return torch.where(mask[..., None], state + change if self.mode == "add" else change, state)

    def check_width(self, lm: LM, width: int) -> None:
        """Raises `IncompatibleIntervention` when the vector does not fit the site of this model."""
        if len(self.vector) != width:
            raise IncompatibleIntervention(
                f"the patch has width {len(self.vector)}, {self.site} of model {lm.name!r} has {width}: "
                "it was made for another model"
            )

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        where = list(self.where) if isinstance(self.where, tuple) else self.where
        data = {"site": str(self.site), "mode": self.mode, "where": where, "scale": self.scale}
        return data, {"vector": self.vector}

    @classmethod
    def from_state(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> HiddenStatePatch:
        where = tuple(data["where"]) if isinstance(data["where"], list) else data["where"]
        rest = {"mode": data["mode"], "scale": data["scale"]}
        return cls(site=Site.parse(data["site"]), vector=tensors["vector"], where=where, **rest)


def token_mask(where: Where, layout: TokenLayout, width: int) -> Tensor:
    """Which of the `width` tokens of the running forward are meant: `[B, width]` bool."""
    columns = torch.arange(width, device=layout.first.device)[None]
    first, prompt_last, last = (column[:, None] for column in layout)
    real = (columns >= first) & (columns <= last)
    if where == "all":
        return real
    if where == "last":
        return columns == prompt_last
    if where == "from_last":
        return real & (columns >= prompt_last)
    mask = torch.zeros_like(real)
    for position in where:
        mask |= columns == (
            first + position if isinstance(position, int) and position >= 0 else prompt_last + 1 + int(position)
        )
    return mask & real & (columns <= prompt_last)
