"""Philox4x32-10 against published test vectors, and the layout of a stream."""

from __future__ import annotations

import numpy as np
import pytest

from flamec.ir.ops.random import philox4x32, random_words

ONES = (1 << 32) - 1

# Random123's known-answer file (kat_vectors), philox4x32 with 10 rounds
VECTORS = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_known_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    words = philox4x32(*(np.array([c], np.uint64) for c in counter), *key)
    assert tuple(int(w[0]) for w in words) == expected


def test_stream_is_the_blocks_in_order() -> None:
    whole = random_words(7, 0, 40)
    assert np.array_equal(random_words(7, 3, 20), whole[12:32])
    assert np.array_equal(random_words(7, 0, 5), whole[:5])
    assert not np.array_equal(random_words(8, 0, 40), whole)


def test_large_streams_are_computed_in_pieces() -> None:
    count = 4 * (1 << 13) + 6
    whole = random_words(1, 0, count)
    assert np.array_equal(whole[-6:], random_words(1, 1 << 13, 6))


def test_offset_wraps_at_64_bits() -> None:
    assert np.array_equal(random_words(1, -1, 8)[4:], random_words(1, 0, 4))


def test_bits_are_balanced() -> None:
    words = random_words(2024, 0, 1 << 16).view(np.uint32)
    share = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(share - 0.5) < 0.002
