"""The tiny random GPT-2 and the reference numbers of tests/golden."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from paramem.models import LM, load

GOLDEN = Path(__file__).parent / "golden"


@cache
def tiny() -> LM:
    """The reference model in double precision."""
    return load(str(GOLDEN / "tinygpt2"), dtype="float64", device="cpu")


@cache
def facts() -> list[dict]:
    return json.loads((GOLDEN / "facts.json").read_text())


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        return dict(file)
