"""Grounds without files: data that is drawn and models that are trained while the notebook runs.

Some statements are about how a model was trained and on which draw of documents, so that shipped weights cannot serve.
Such a notebook's testbeds are names of what is drawn afresh, and "k of n testbeds" counts draws:

    >>> fresh("fresh-llama-s2")
    Fresh(architecture='llama', seed=2)
    >>> fresh("fresh-s0")
    Fresh(architecture=None, seed=0)

The seed decides everything that is random: the documents, the initial weights, the order of training.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from paramem.errors import BadParameter

_NAME = re.compile(r"fresh(?:-(?P<architecture>gpt2|llama))?-s(?P<seed>0|[1-9]\d{0,8})")


@dataclass(frozen=True)
class Fresh:
    """What a name says: the architecture of the models (None where no transformer is trained) and the seed."""

    architecture: str | None
    seed: int


def is_fresh(name: str) -> bool:
    """Whether a testbed's name is that of a fresh draw and not of a folder of weights."""
    return _NAME.fullmatch(name) is not None


def fresh(name: str) -> Fresh:
    """Architecture and seed of a name. Raises BadParameter for any other name."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise BadParameter(f"{name!r} is no fresh draw; write fresh-gpt2-s0, fresh-llama-s3, or fresh-s1 for no model.")
    return Fresh(found["architecture"], int(found["seed"]))
