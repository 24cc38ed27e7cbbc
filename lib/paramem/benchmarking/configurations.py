"""How every editor is set, fixed before anything is measured: the values of the papers or of their released code.

Settings classes hold those values as defaults already, so only what differs stands here, with its reason. One rule
gives all editors their place: the layer at which causal tracing restores most at the subject's last token, and for
editors of several layers the run of layers that begins there. Nothing is chosen on the tested edits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramem.models import LM
    from paramem.registry import Method


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """settings: values other than the defaults. short: further ones where the context is below `SHORT` tokens.
    own_place: the editor's own default says where it works. depth: its layer as a share of all layers, in the place of
    the traced one. why: the reason for any of these."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    short: Mapping[str, Any] = field(default_factory=dict)
    own_place: bool = False
    depth: float | None = None
    why: str = ""

    def arguments(self, method: Method, lm: LM, layer: int) -> dict[str, Any]:
        """What `Method.edit` is called with."""
        return self._place(method, lm, layer) | {**self.settings, **(self.short if lm.max_length < SHORT else {})}

    def _place(self, method: Method, lm: LM, layer: int) -> dict[str, Any]:
        names = {each.name for each in fields(method.settings_class())}
        if self.own_place:
            return {}
        if self.depth is not None:
            return {"layer": min(lm.n_layers - 1, int(self.depth * lm.n_layers))}
        return (
            {"layers": run_of(layer, lm.n_layers)} if "layers" in names and "layer" not in names else {"layer": layer}
        )


def run_of(layer: int, n_layers: int) -> tuple[int, ...]:
    """The layers of an editor that spreads an edit: a third of all, from the traced one upwards where there is room.

    >>> run_of(0, 6), run_of(5, 6), run_of(17, 48)
    ((0, 1), (4, 5), (17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32))
    """
    length = max(1, n_layers // 3)
    first = min(layer, n_layers - length)
    return tuple(range(first, first + length))


SHORT = 512  # tokens of context
_ADAPTER = Configuration(own_place=True, why="adapters sit in the attention of all layers, as peft's defaults have it")
_CODEBOOK = Configuration(
    depth=0.75, why="a codebook reads whole prompts at their last token, which only upper layers tell apart"
)
_FEW = Configuration(
    short={"copy": 1, "update": 1, "retain": 1}, why="three demonstrations: a testbed reads 128 tokens at once"
)
CONFIGURATIONS: Mapping[str, Configuration] = {
    "ike": _FEW,
    "ike-no-retain": Configuration(short={"copy": 1, "update": 2}, why=_FEW.why),
    "ike-released-form": _FEW,
    "lora": _ADAPTER,
    "adalora": _ADAPTER,
    "adalora-last-token": _ADAPTER,
    "adalora-fixed-ranks": _ADAPTER,
    "grace": _CODEBOOK,
    "grace-prompt": _CODEBOOK,
}


def configuration_of(name: str) -> Configuration:
    """The configuration of a registered editor."""
    return CONFIGURATIONS.get(name, Configuration())
