"""Reading and replacing hidden states during a forward, and running only some of the blocks.

    with hooked(arch, capture=[site], patch={other: function}) as states:
        model(...)
    states[site]                                   # [B, T, width], as the rest of the model saw it

Hooks come off when the context is left, also by an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from paramem.arch import KINDS, Architecture, HookPoint, Site
from paramem.errors import BadInput
from paramem.tokens import Batch

Patch = Callable[[Tensor], Tensor]


class TokenLayout(NamedTuple):
    """Where each row's tokens stand in the tensors of the current forward, as column numbers `[B]`.

    Columns are negative for tokens that are only in the key-value cache.
    """

    first: Tensor
    prompt_last: Tensor
    last: Tensor

    @classmethod
    def of(cls, batch: Batch) -> TokenLayout:
        return cls(torch.zeros_like(batch.lengths), batch.prompt_lengths - 1, batch.lengths - 1)

    def expand(self, rows: int) -> TokenLayout:
        """A layout of one row for many."""
        return TokenLayout(*(column.expand(rows) for column in self))


_layout: ContextVar[TokenLayout | None] = ContextVar("token_layout", default=None)


@contextmanager
def token_layout(layout: TokenLayout) -> Iterator[None]:
    """Make the layout known to interventions that act at certain tokens."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def current_layout(state: Tensor) -> TokenLayout:
    """The layout of the running forward; for a plain call of the model, rows without padding."""
    layout = _layout.get()
    if layout is None:
        first = torch.zeros(state.shape[0], dtype=torch.long, device=state.device)
        layout = TokenLayout(first, first + state.shape[1] - 1, first + state.shape[1] - 1)
    return TokenLayout(*(column.to(state.device) for column in layout))


@contextmanager
def hooked(
    arch: Architecture, *, capture: Iterable[Site] = (), patch: Mapping[Site, Patch] | None = None
) -> Iterator[dict[Site, Tensor]]:
    """Capture and patch sites in the forwards run inside the context; yields the dictionary of captured states.

    A patch maps a state to the state that takes its place (same shape; it must not write into its argument). What is
    captured at a patched site is the patched state. Raises `BadSite`.
    """
    patches, wanted = dict(patch or {}), set(capture)
    states: dict[Site, Tensor] = {}
    # Sites that share a module (embed and resid_pre of layer 0) take effect in the order of computation.
    sites = sorted(
        wanted | patches.keys(), key=lambda site: (site.layer, KINDS.index(site.kind) if site.kind in KINDS else -1)
    )
    points = [(site, arch.hook_point(site)) for site in sites]
    with ExitStack() as stack:
        for site, point in points:
            visit = _visitor(site, patches.get(site), states if site in wanted else None)
            stack.callback(attach(point, visit, reads_only=site not in patches).remove)
        yield states


class _Enough(Exception):
    """All states that were asked for have been seen."""


@contextmanager
def ending_behind(arch: Architecture, sites: Iterable[Site]) -> Iterator[None]:
    """A forward run inside ends behind the block of the highest of these sites; without sites it runs to its end.

    What is left out has no result: the context is left where the forward ends.
    """

    def end(module: nn.Module, args: Any) -> None:
        raise _Enough

    above = max((site.layer for site in sites), default=arch.n_layers) + 1
    with ExitStack() as stack:
        for block in arch.blocks[above : above + 1]:
            # In front of other hooks: nothing of the blocks left out takes effect.
            stack.callback(block.register_forward_pre_hook(end, prepend=True).remove)
        with suppress(_Enough):
            yield


def attach(point: HookPoint, visit: Callable[[Tensor], Tensor | None], *, reads_only: bool = False) -> RemovableHandle:
    """Call `visit` with the state that passes `point`; what it returns, if not None, takes the state's place."""

    def on_output(module: nn.Module, args: Any, output: Any) -> Any:
        new = visit(output[0] if isinstance(output, tuple) else output)
        return new if new is None or not isinstance(output, tuple) else (new, *output[1:])

    def on_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        new = visit(args[0])
        return None if new is None else (new, *args[1:])

    def in_place(module: nn.Module, args: tuple[Any, ...]) -> None:
        # The clone keeps autograd sound: what a visitor saved for backward is not what is overwritten.
        new = visit(args[0] if reads_only else args[0].clone())
        if new is not None:
            args[0].copy_(new)

    if point.side == "output":
        return point.module.register_forward_hook(on_output)
    return point.module.register_forward_pre_hook(on_input if point.side == "input" else in_place)


def _visitor(site: Site, patch: Patch | None, states: dict[Site, Tensor] | None) -> Callable[[Tensor], Tensor | None]:
    def visit(state: Tensor) -> Tensor | None:
        new = None
        if patch is not None:
            new = patch(state)
            if new.shape != state.shape:
                raise BadInput(f"the patch of {site} gave shape {tuple(new.shape)} for a state of {tuple(state.shape)}")
            new = new.to(state)
        if states is not None:
            states[site] = state if new is None else new
        return new

    return visit


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """What every block was called with in one plain forward of a batch, so that any stretch of blocks can be run again.

    `resid_pre[l]` is the input of block `l`, `resid_pre[n_layers]` the output of the last one, each `[B, T, d_model]`.
    The calls' other arguments (rotary tables, positions; never a padding mask, see `paramem.tokens`) do not depend on
    the row.
    """

    arch: Architecture = field(repr=False)
    layout: TokenLayout = field(repr=False)
    calls: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = field(repr=False)
    resid_pre: tuple[Tensor, ...] = field(repr=False)

    def forward(
        self, hidden: Tensor, start: int = 0, stop: int | None = None, *, patch: Mapping[Site, Patch] | None = None
    ) -> Tensor:
        """Run blocks `start..stop-1` on `hidden [B', T, d_model]`, the input of block `start`; returns the last one's
        output.

        Differentiable with respect to `hidden` and to whatever the patches use. `B'` is the batch's number of rows, or
        any number when the batch has one row. Raises `BadInput`, `BadSite`.
        """
        stop = self.arch.n_layers if stop is None else stop
        self._check(hidden, start, stop)
        rows = hidden.shape[0]
        layout = self.layout if rows == len(self.layout.first) else self.layout.expand(rows)
        with token_layout(layout), hooked(self.arch, patch=patch):
            for block, (args, kwargs) in zip(self.arch.blocks[start:stop], self.calls[start:stop], strict=True):
                output = block(hidden, *args, **kwargs)
                hidden = output[0] if isinstance(output, tuple) else output
        return hidden

    def _check(self, hidden: Tensor, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.arch.n_layers:
            raise BadInput(f"blocks {start}..{stop} are not within 0..{self.arch.n_layers}")
        rows, tokens = len(self.layout.first), self.resid_pre[0].shape[1]
        if hidden.shape[1] != tokens or (rows != 1 and hidden.shape[0] != rows):
            raise BadInput(f"hidden {tuple(hidden.shape)} does not fit a batch of {rows} rows and {tokens} tokens")


def record_blocks(arch: Architecture, layout: TokenLayout, forward: Callable[[], object]) -> Blocks:
    """Run `forward` once and record each block's call."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hidden: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden.append(args[0])
        calls.append((_one_row(args[1:], len(args[0])), _one_row(kwargs, len(args[0]))))

    with ExitStack() as stack:
        for block in arch.blocks:
            # In front of other hooks: an intervention at a block's input acts again when the block is run again.
            handle = block.register_forward_pre_hook(record, prepend=True, with_kwargs=True)
            stack.callback(handle.remove)
        stack.callback(attach(HookPoint(arch.blocks[-1], "output"), hidden.append).remove)
        forward()
    return Blocks(arch=arch, layout=layout, calls=tuple(calls), resid_pre=tuple(hidden))


def _one_row(value: Any, rows: int) -> Any:
    """The same arguments for one row, to be broadcast: without padding masks all rows are equal."""
    if isinstance(value, Tensor):
        return value[:1] if value.ndim > 1 and value.shape[0] == rows else value
    if isinstance(value, dict):
        return {key: _one_row(item, rows) for key, item in value.items()}
    return tuple(_one_row(item, rows) for item in value) if isinstance(value, (tuple, list)) else value
