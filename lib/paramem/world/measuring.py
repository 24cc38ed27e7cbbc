"""Shares of probes that a model answers exactly, as measures of a testbed's card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from paramem.world import exact
from paramem.world.cards import Measure

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from paramem.facts import Probe


def share(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    probes: Iterable[Probe],
    n: int | None = None,
    *,
    wanted: float | None = None,
    note: str = "",
) -> Measure:
    """The share of probes answered exactly; of `n` evenly spaced ones where `n` is given."""
    asked = [(probe.prompt, probe.target) for probe in probes]
    if n is not None and len(asked) > n:
        asked = [asked[i * len(asked) // n] for i in range(n)]
    value = exact.share(exact.exact(model, tokenizer, asked))
    return Measure(name=name, value=value, n=len(asked), wanted=wanted, note=note)
