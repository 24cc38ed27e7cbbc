"""What edits cost: seconds, peak memory, numbers of the model that change, numbers that are stored.

Seconds and memory belong to a machine and a moment, the numbers do not. Seconds are CPU seconds of this process, which
other processes do not disturb, or wall seconds where an accelerator works. An editor that found states there already
(`paramem.editing.sharing`) is charged with what finding them took, in seconds and in memory, as if it had been alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from paramem.editing.sharing import clock_of, current
from paramem.interventions import Composed, Intervention, WeightDelta

if TYPE_CHECKING:
    from paramem.models import LM

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5): forget the highest amount of memory so far


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Means per edit. peak_mb: memory above what was held before the first edit, nan where the system does not tell."""

    edits: int
    seconds: float
    peak_mb: float
    touched: int
    stored: int


@dataclass(kw_only=True)
class Meter:
    """Adds up what happens inside `running`."""

    device: torch.device
    seconds: float = 0.0
    peaks: list[float] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        clock, shared = clock_of(self.device), current()
        spared, known = len(shared.spared), set(shared.kept)
        held, start = _reset_peak(self.device), clock()
        try:
            yield
        finally:
            self.seconds += clock() - start + sum(seconds for _, seconds in shared.spared[spared:])
            peak = _peak(self.device) - held
            self.peaks += [peak, *(shared.peaks[asked] for asked, _ in shared.spared[spared:] if asked in shared.peaks)]
            shared.peaks |= dict.fromkeys(shared.kept.keys() - known, peak)

    def cost(self, lm: LM, edits: Sequence[Intervention]) -> Cost:
        """The cost of all edits that were made while this ran."""
        n = max(1, len(edits))
        known = [peak for peak in self.peaks if not math.isnan(peak)]
        return Cost(
            edits=len(edits),
            seconds=self.seconds / n,
            peak_mb=max(0.0, *known, 0.0) if known else math.nan,
            touched=round(sum(touched(lm, edit) for edit in edits) / n),
            stored=round(sum(edit.size().parameters for edit in edits) / n),
        )


def touched(lm: LM, edit: Intervention) -> int:
    """How many numbers of the model's own parameters the edit may change."""
    if isinstance(edit, Composed):
        return sum(touched(lm, part) for part in edit.parts)
    return sum(prod(part.shape) for part in edit.parts.values()) if isinstance(edit, WeightDelta) else 0


def _reset_peak(device: torch.device) -> float:
    """Forget the peak; returns what is held now, in MB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    try:
        _CLEAR.write_text(RESET_PEAK)
    except OSError:
        return math.nan
    return _status("VmRSS")


def _peak(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> float:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return math.nan
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), math.nan)
