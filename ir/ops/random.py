"""Counter-based random bits: Philox4x32-10.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC'11, section 3.3. Block ``k`` of a stream depends on seed and ``k`` alone, so
every backend gives the same bits whatever the order in which it computes.
"""

from __future__ import annotations

import numpy as np

from flamec.ir.op import Attributes, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_operand_count, check_shape_attribute
from flamec.ir.types import TensorType, int32, int64

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_BLOCKS_AT_ONCE = 1 << 13  # 64 KiB for each of the words: stays in cache


def philox4x32(
    c0: np.ndarray, c1: np.ndarray, c2: np.ndarray, c3: np.ndarray, key0: int, key1: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ten rounds over counters whose 32-bit words are held in uint64 arrays of one shape."""
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0 = (product1 >> _HALF) ^ c1 ^ np.uint64(key0)
        c2 = (product0 >> _HALF) ^ c3 ^ np.uint64(key1)
        c1, c3 = product1 & _LOW, product0 & _LOW
        key0, key1 = (key0 + _WEYL_0) & 0xFFFFFFFF, (key1 + _WEYL_1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def random_words(seed: int, offset: int, count: int, start: int = 0) -> np.ndarray:
    """``count`` words as int32 from ``start`` on: word i is word i % 4 of block
    ``offset + i // 4``."""
    if start:
        return random_words(seed, offset + start // 4, start % 4 + count)[start % 4 :]
    seed &= 0xFFFFFFFFFFFFFFFF
    blocks = -(-count // 4)
    words = np.empty((blocks, 4), dtype=np.uint32)
    zero = np.zeros(min(blocks, _BLOCKS_AT_ONCE), dtype=np.uint64)
    first = np.uint64(offset & 0xFFFFFFFFFFFFFFFF)
    for begin in range(0, blocks, _BLOCKS_AT_ONCE):
        end = min(begin + _BLOCKS_AT_ONCE, blocks)
        counter = np.arange(begin, end, dtype=np.uint64) + first
        nothing = zero[: end - begin]
        result = philox4x32(
            counter & _LOW, counter >> _HALF, nothing, nothing, seed & 0xFFFFFFFF, seed >> 32
        )
        for position, word in enumerate(result):
            words[begin:end, position] = word
    return words.reshape(-1)[:count].view(np.int32)


def _infer_random_bits(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("random_bits", types, 1)
    (state,) = types
    if state.dtype is not int64 or state.shape != (2,):
        raise TypeError(f"random_bits: the state must be int64[2] (seed, offset), not {state}")
    check_shape_attribute("random_bits", attributes["shape"])
    return TensorType(attributes["shape"], int32, state.device)


def _evaluate_random_bits(attributes: Attributes, state: np.ndarray) -> np.ndarray:
    shape = attributes["shape"]
    count = 1
    for size in shape:
        count *= size
    start = attributes.get("start", 0)
    return random_words(int(state[0]), int(state[1]), count, start).reshape(shape)


random_bits = register(
    Op(
        name="random_bits",
        kind=OpKind.RANDOM,
        infer=_infer_random_bits,
        evaluate=_evaluate_random_bits,
        expensive=True,
        dimensions=("shape", "start"),
        doc="Philox4x32-10 words of the stream (seed, offset), as int32; from word start on.",
    )
)
