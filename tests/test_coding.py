"""Numbers come back from their bytes exactly, and the bytes are about as few as the entropy allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramem.bounds.coding import Code, encode
from paramem.errors import BadInput, CorruptFile


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=0, max_size=300))
def test_what_was_encoded_comes_back_bit_for_bit_from_the_bytes_alone(symbols: list[int]) -> None:
    levels = np.array([-1.5, -0.1, 0.0, 0.3, 2.0, 7.0, 9.5], dtype=np.float16)
    code = Code.unpack(encode(symbols, levels).pack())
    assert np.array_equal(code.values(), levels[np.array(symbols, dtype=np.int64)])
    assert code.n == len(symbols)


def test_the_code_is_as_short_as_the_entropy_allows() -> None:
    generator = np.random.default_rng(0)
    symbols = generator.choice(4, size=20_000, p=[0.85, 0.1, 0.04, 0.01])
    code = encode(symbols, [0.0, 1.0, -1.0, 3.0])
    assert code.entropy_bits <= 32 * len(code.words) <= 1.002 * code.entropy_bits + 64
    assert code.bits < 0.5 * 2 * len(symbols), "the control: two bits a symbol without a code"
    used = 32 + 8 + 16 * 4 + 3 * 15 + 32 * len(code.words)
    assert used <= code.bits == 8 * len(code.pack()) < used + 8, "what is paid for is what is written"
    even = encode(generator.integers(0, 4, size=20_000), [0.0, 1.0, -1.0, 3.0])
    assert 32 * len(even.words) > 1.99 * 20_000, "the control: nothing is to be had from even frequencies"


def test_levels_that_do_not_occur_cost_nothing() -> None:
    few, many = encode([0, 1, 0], [1.0, 2.0]), encode([0, 5, 0], [1.0, 3.0, 4.0, 5.0, 6.0, 2.0])
    assert few.bits == many.bits
    assert few.values().tolist() == many.values().tolist() == [1.0, 2.0, 1.0]
    assert encode([0] * 1000, [0.5]).bits == 32 + 8 + 16


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="symbols from 0 to 2 for 2 levels"):
        encode([0, 2], [0.0, 1.0])
    with pytest.raises(BadInput, match="not finite"):
        encode([0], [1e9])
    with pytest.raises(BadInput, match="one row"):
        encode(np.zeros((2, 2), dtype=np.int64), [0.0])
    whole = encode([0, 1, 1], [0.0, 1.0]).pack()
    with pytest.raises(CorruptFile):
        Code.unpack(whole[:5])
    with pytest.raises(BadInput, match="quantise to fewer"):
        encode(np.arange(256), np.arange(256.0))
    with pytest.raises(CorruptFile, match="do not fit"):
        Code.unpack(bytes(4) + whole[4:])


def test_damage_is_noticed() -> None:
    generator = np.random.default_rng(1)
    code = encode(generator.choice(3, size=2000, p=[0.8, 0.15, 0.05]), [0.0, 1.0, 2.0])
    data = bytearray(code.pack())
    assert np.array_equal(Code.unpack(bytes(data)).values(), code.values())
    data[-20] ^= 0x10
    with pytest.raises(CorruptFile, match="damaged"):
        Code.unpack(bytes(data)).values()
