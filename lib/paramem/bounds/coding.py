r"""Numbers as few bits: a codebook of levels and an arithmetic code of which level each number has.

The bits that a bound pays for are counted on a code that exists: `Code.pack` writes every byte that is needed to get
the quantised numbers back, and `unpack` gives them back exactly, from these bytes alone. Three parts are paid for
(lotfi2022tight, the coding of a quantised vector): the levels, in half precision; how often each occurs, the model of
the arithmetic code; and the code itself, close to the entropy of these frequencies.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paramem.errors import BadInput, CorruptFile

HEADER = struct.Struct("<II")  # how many numbers, how many levels
Integers = NDArray[np.int64]
Levels = NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class Code:
    """Quantised numbers, encoded.

    levels  the values that occur, (levels,), half precision
    counts  how often each occurs, (levels,), all positive
    words   the arithmetic code, 32 bits a word
    """

    levels: Levels
    counts: Integers
    words: NDArray[np.uint32]

    @property
    def n(self) -> int:
        """How many numbers are encoded."""
        return int(self.counts.sum())

    @property
    def bits(self) -> int:
        """What the code costs: levels, counts (each one of 0 to n) and words; both ends know n and how many levels."""
        counts = len(self.counts) * math.ceil(math.log2(self.n + 1)) if self.n else 0
        return 16 * len(self.levels) + counts + 32 * len(self.words)

    @property
    def entropy_bits(self) -> float:
        """n times the entropy of the counts: what no code with this model can go below."""
        shares = self.counts / max(1, self.n)
        return float(-(self.counts * np.log2(shares)).sum()) if self.n else 0.0

    def values(self) -> Levels:
        """The quantised numbers, (n,), decoded from the words."""
        return self.levels[_decoded(self.words, self.counts)]

    def pack(self) -> bytes:
        """Everything that is needed to get the numbers back."""
        counts = self.counts.astype("<u4").tobytes()
        return (
            HEADER.pack(self.n, len(self.levels))
            + self.levels.astype("<f2").tobytes()
            + counts
            + self.words.astype("<u4").tobytes()
        )

    @classmethod
    def unpack(cls, data: bytes) -> Code:
        """The inverse of `pack`. Raises CorruptFile for bytes that no code is."""
        try:
            n, k = HEADER.unpack_from(data)
            levels = np.frombuffer(data, "<f2", k, HEADER.size).astype(np.float16)
            counts = np.frombuffer(data, "<u4", k, HEADER.size + 2 * k).astype(np.int64)
            words = np.frombuffer(data, "<u4", -1, HEADER.size + 6 * k).astype(np.uint32)
        except (struct.error, ValueError) as error:
            raise CorruptFile(f"{len(data)} bytes are no code: {error}") from error
        if counts.sum() != n or (counts == 0).any():
            raise CorruptFile(f"the code speaks of {n} numbers, and its counts of {counts.sum()}")
        return cls(levels, counts, words)


def encode(symbols: Sequence[int] | Integers, levels: Sequence[float] | Levels) -> Code:
    """The code of numbers ``levels[symbols]``; levels that do not occur are left out and cost nothing.

    symbols: which level each number has, (n,). Raises BadInput for a symbol without a level.
    """
    which, values = np.asarray(symbols, dtype=np.int64), np.asarray(levels, dtype=np.float64)
    if which.ndim != 1 or values.ndim != 1:
        raise BadInput(f"symbols of shape {which.shape} and levels of shape {values.shape}: one row of numbers each.")
    if len(which) and not 0 <= which.min() <= which.max() < len(values):
        raise BadInput(f"symbols from {which.min()} to {which.max()} for {len(values)} levels")
    if not (np.abs(values) <= np.finfo(np.float16).max).all():
        raise BadInput(f"a level of {np.abs(values).max():g} is not finite in half precision: scale the numbers first")
    used, places = np.unique(which, return_inverse=True)
    counts = np.bincount(places, minlength=len(used)).astype(np.int64)
    return Code(values[used].astype(np.float16), counts, _encoded(places, counts))


def _encoded(symbols: Integers, counts: Integers) -> NDArray[np.uint32]:
    if len(counts) < 2:  # one level: the counts say it all
        return np.zeros(0, dtype=np.uint32)
    import constriction

    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(symbols.astype(np.int32), _model(counts))
    return encoder.get_compressed()  # type: ignore[no-any-return]


def _decoded(words: NDArray[np.uint32], counts: Integers) -> Integers:
    n = int(counts.sum())
    if len(counts) < 2:
        return np.zeros(n, dtype=np.int64)
    import constriction

    return constriction.stream.queue.RangeDecoder(words).decode(_model(counts), n).astype(np.int64)  # type: ignore[no-any-return]


def _model(counts: Integers) -> object:
    import constriction

    return constriction.stream.model.Categorical((counts / counts.sum()).astype(np.float64), perfect=False)
