"""Numbers come back from their bytes exactly, and the bytes are about as few as the entropy allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramem.bounds.coding import MOST_NUMBERS, N_BITS, Code, encode
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


@pytest.mark.parametrize("shares", [(0.8, 0.15, 0.05), (0.5, 0.5), (0.97, 0.02, 0.01)])
def test_whichever_byte_is_inverted_nothing_but_our_error_is_raised(shares: tuple[float, ...]) -> None:
    code = encode(np.random.default_rng(1).choice(len(shares), size=2000, p=shares), np.arange(float(len(shares))))
    whole, refused, impossible = code.pack(), 0, 0
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 0xFF
        try:
            assert len(Code.unpack(bytes(data)).values()) == 2000, "only levels may change unnoticed, not how many"
        except CorruptFile as error:
            refused, impossible = refused + 1, impossible + ("no code of 2000 numbers" in str(error))
    assert 0.75 * len(whole) < refused, "all but bytes of levels, and those that leave every count as it was"
    assert impossible > 0, "the control: words that no encoder writes do occur"
    assert len(Code.unpack(whole).values()) == 2000


@pytest.mark.parametrize("levels", [1, 2])
def test_a_damaged_length_allocates_nothing(levels: int) -> None:
    whole = encode([0, 0, levels - 1], np.arange(float(levels))).pack()
    with pytest.raises(CorruptFile, match=f"{2**N_BITS - 1} numbers, and a code holds {MOST_NUMBERS}"):
        Code.unpack(b"\xff" * 4 + whole[4:])
    most = encode(np.zeros(MOST_NUMBERS, dtype=np.int64), [0.5]).pack()
    assert Code.unpack(most).n == MOST_NUMBERS, "the control"
    with pytest.raises(BadInput, match="in parts"):
        encode(np.broadcast_to(np.int64(0), (MOST_NUMBERS + 1,)), [0.5])
