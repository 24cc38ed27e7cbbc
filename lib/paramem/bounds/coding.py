r"""Numbers as few bits: a codebook of levels and an arithmetic code of which level each number has.

The bits that a bound pays for are counted on a code that exists: `Code.pack` writes everything that is needed to get
the quantised numbers back, `Code.bits` is the length of what it writes, and `unpack` gives them back exactly, from
these bytes alone. Three parts are paid for (lotfi2022tight, the coding of a quantised vector): the levels, in half
precision; how often each occurs, the model of the arithmetic code; and the code itself, close to the entropy of these
frequencies.

================  ===========================================================================
bits              what
================  ===========================================================================
32                n, how many numbers (at most `MOST_NUMBERS`)
8                 k, how many levels occur
16 k              the levels
(k - 1) ceil(log2(n + 1))   how often each occurs; the last follows from n
32 a word         the arithmetic code, to the end of the message
up to 7           zeros, to a whole byte
================  ===========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from paramem.errors import BadInput, CorruptFile

N_BITS, K_BITS, LEVEL_BITS, WORD_BITS = 32, 8, 16, 32
MOST_LEVELS = 2**K_BITS - 1
MOST_NUMBERS = 2**24  # what a damaged length can make `Code.values` allocate stays below half a gigabyte
Integers: TypeAlias = NDArray[np.int64]
Levels: TypeAlias = NDArray[np.float16]


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
        """The length of the message that `pack` writes."""
        k = len(self.levels)
        used = N_BITS + K_BITS + LEVEL_BITS * k + max(0, k - 1) * _count_bits(self.n) + WORD_BITS * len(self.words)
        return 8 * math.ceil(used / 8)

    @property
    def entropy_bits(self) -> float:
        """n times the entropy of the counts: what no code with this model can go below."""
        shares = self.counts / max(1, self.n)
        return float(-(self.counts * np.log2(shares)).sum()) if self.n else 0.0

    def values(self) -> Levels:
        """The quantised numbers, (n,), decoded from the words.

        Raises CorruptFile where the words are no code under the counts, or give numbers that contradict them.
        """
        symbols = _decoded(self.words, self.counts)
        if not np.array_equal(np.bincount(symbols, minlength=len(self.counts)), self.counts):
            raise CorruptFile("the numbers in the code do not occur as often as it says: the bytes are damaged")
        return self.levels[symbols]

    def pack(self) -> bytes:
        """Everything that is needed to get the numbers back."""
        levels = self.levels.astype(np.float16).view(np.uint16)
        parts = [_as_bits([self.n], N_BITS), _as_bits([len(levels)], K_BITS), _as_bits(levels, LEVEL_BITS)]
        parts += [_as_bits(self.counts[:-1], _count_bits(self.n)), _as_bits(self.words, WORD_BITS)]
        return np.packbits(np.concatenate(parts)).tobytes()

    @classmethod
    def unpack(cls, data: bytes) -> Code:
        """The inverse of `pack`. Raises CorruptFile for bytes that no code is."""
        bits, at = np.unpackbits(np.frombuffer(data, np.uint8)), 0

        def take(many: int, width: int) -> Integers:
            nonlocal at
            if at + many * width > len(bits):
                raise CorruptFile(f"{len(data)} bytes are no code: they end too early")
            at += many * width
            return _from_bits(bits[at - many * width : at], width)

        n, k = int(take(1, N_BITS)[0]), int(take(1, K_BITS)[0])
        if n > MOST_NUMBERS:
            raise CorruptFile(
                f"{len(data)} bytes are no code: they say {n} numbers, and a code holds {MOST_NUMBERS} at most: the "
                "length is damaged; write the code again"
            )
        levels = take(k, LEVEL_BITS).astype(np.uint16).view(np.float16)
        counts = take(max(0, k - 1), _count_bits(n))
        counts = np.append(counts, n - counts.sum()) if k else counts
        words = take((len(bits) - at) // WORD_BITS, WORD_BITS).astype(np.uint32)
        if counts.sum() != n or (counts <= 0).any() or len(bits) - at >= 8 or bits[at:].any():
            raise CorruptFile(f"{len(data)} bytes are no code: their counts or their length do not fit {n} numbers")
        return cls(levels, counts, words)


def _count_bits(n: int) -> int:
    return math.ceil(math.log2(n + 1)) if n else 0


def _as_bits(numbers: Sequence[int] | NDArray[np.integer], width: int) -> NDArray[np.uint8]:
    places = np.arange(width - 1, -1, -1)
    return (np.asarray(numbers, dtype=np.int64)[:, None] >> places & 1).astype(np.uint8).ravel()


def _from_bits(bits: NDArray[np.uint8], width: int) -> Integers:
    if not width:
        return np.zeros(0, dtype=np.int64)
    places = np.arange(width - 1, -1, -1)
    found: Integers = (bits.reshape(-1, width).astype(np.int64) << places).sum(axis=1)
    return found


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
    if len(which) > MOST_NUMBERS:
        raise BadInput(f"{len(which)} numbers, and a code holds {MOST_NUMBERS} at most: encode them in parts")
    used, places = np.unique(which, return_inverse=True)
    if len(used) > MOST_LEVELS:
        raise BadInput(f"{len(used)} levels occur, and a code holds {MOST_LEVELS} at most: quantise to fewer")
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

    try:
        symbols = constriction.stream.queue.RangeDecoder(words).decode(_model(counts), n)
    except AssertionError as error:  # what constriction raises for words that its encoder cannot have written
        raise CorruptFile(
            f"{len(words)} words are no code of {n} numbers ({error}): the bytes are damaged; write the code again"
        ) from error
    return symbols.astype(np.int64)  # type: ignore[no-any-return]


def _model(counts: Integers) -> object:
    import constriction

    return constriction.stream.model.Categorical((counts / counts.sum()).astype(np.float64), perfect=False)
