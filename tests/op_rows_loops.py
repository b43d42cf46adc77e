"""Rows of the primitives that run graphs of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_row import Attributes, Draw, ErrorInput, Row, Sample, tensor

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.ops import loops as _loops  # noqa: F401
from flamec.ir.shape import Dim
from flamec.ir.types import DType, TensorType, float32, float64, int64


def _recurrent(dtype: DType, rows: Dim = 2, size: int = 3) -> Graph:
    """h <- tanh(h W + x); stacks h x."""
    b = GraphBuilder()
    h, x = (b.input(TensorType((rows, size), dtype)) for _ in range(2))
    w = b.input(TensorType((size, size), dtype))
    new = b.tanh(b.add(b.dot_general(h, w, contract=((1,), (0,)), batch=((), ())), x))
    return b.build([new, b.mul(new, x)], name="recurrent")


def _powers(dtype: DType) -> Graph:
    """h <- h c; stacks h as it was."""
    b = GraphBuilder()
    h, c = b.input(TensorType((3,), dtype)), b.input(TensorType((3,), dtype))
    return b.build([b.mul(h, c), h], name="powers")


def _counting(dtype: DType) -> Graph:
    """Carries a sum and a number of steps; stacks the number and the mean so far."""
    b = GraphBuilder()
    total, count = b.input(TensorType((2,), dtype)), b.input(TensorType((), int64))
    x = b.input(TensorType((2,), dtype))
    more: Value = b.add(total, x)
    one = b.full(value=1, shape=(), dtype=int64)
    step = b.add(count, one)
    mean = b.div(more, b.convert(step, dtype=dtype))
    return b.build([more, step, step, mean], name="counting")


def scanned(
    body: Graph, carries: int, sequences: int, length: Any, reverse: bool = False
) -> Attributes:
    return {
        "body": body,
        "carries": carries,
        "sequences": sequences,
        "length": length,
        "reverse": reverse,
        "residuals": 0,
    }


def _make_scans(draw: Draw) -> list[Sample]:
    samples = []
    for length, reverse in ((4, False), (3, True), (1, False), (0, True)):
        body = scanned(_recurrent(draw.dtype), 1, 1, length, reverse)
        near = (-1.0, 1.0)
        arrays = draw(2, 3, domain=near), draw(length, 2, 3, domain=near), draw(3, 3, domain=near)
        samples.append(Sample(arrays, body))
    for length in (3, 0):
        powers = scanned(_powers(draw.dtype), 1, 0, length)
        samples.append(Sample((draw(3), draw(3)), powers))
        counting = scanned(_counting(draw.dtype), 2, 1, length)
        arrays = draw(2), np.array(5), draw(length, 2)
        samples.append(Sample(arrays, counting, finite=False))
    return samples


def _scan_oracle(sample: Sample, *arrays: np.ndarray) -> Any:
    name, length = sample.attributes["body"].name, sample.attributes["length"]
    order = range(length)[::-1] if sample.attributes["reverse"] else range(length)
    stacked: dict[int, Any] = {}
    if name == "recurrent":
        h, x, w = arrays
        for i in order:
            h = np.tanh(np.einsum("ij,jk->ik", h, w) + x[i])
            stacked[i] = h * x[i]
        return h, np.array([stacked[i] for i in range(length)]).reshape(x.shape)
    if name == "powers":
        start, c = arrays
        powers = [start * c**i for i in range(length)]
        return start * c**length, np.array(powers).reshape(length, 3)
    total, count, x = arrays
    numbers, means = [], []
    for i in range(length):
        total, count = total + x[i], count + 1
        numbers.append(int(count))
        means.append(total / int(count))
    return total, count, np.array(numbers, object), np.array(means).reshape(length, 2)


_BODY = _recurrent(float32)
_X = tensor(2, 3, dtype=float32)
_XS = tensor(4, 2, 3, dtype=float32)
_W = tensor(3, 3, dtype=float32)

LOOP_ROWS = [
    Row(
        "scan",
        (float64, float32),
        _make_scans,
        _scan_oracle,
        ulps=64,
        scale=4.0,
        gradient=(0, 1, 2),
        symbolic=lambda B, dtype: (
            (tensor(2, 3, dtype=dtype), tensor(B, 2, 3, dtype=dtype), tensor(3, 3, dtype=dtype)),
            scanned(_recurrent(dtype), 1, 1, B),
        ),
        errors=(
            ErrorInput((_X, _XS), scanned(_BODY, 1, 1, 4), TypeError, "takes 3 values, 2"),
            ErrorInput((_X, _XS, _W), scanned(_BODY, 1, 1, 5), ValueError, "4 elements"),
            ErrorInput((_X, _XS, _X), scanned(_BODY, 1, 1, 4), ValueError, "operand 2 is"),
            ErrorInput((_X, tensor(), _W), scanned(_BODY, 1, 1, 4), ValueError, "no dimension"),
            ErrorInput(
                (_X, _XS.with_dtype(float64), _W), scanned(_BODY, 1, 1, 4), TypeError, "operand 1"
            ),
            ErrorInput((_X, _XS, _W), scanned(_BODY, 3, 0, 4), TypeError, "3 values are carried"),
        ),
    ),
]
