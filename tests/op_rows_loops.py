"""Rows of the primitives that run graphs of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_row import Attributes, Draw, ErrorInput, Row, Sample, tensor

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.ops import loops as _loops  # noqa: F401
from flamec.ir.passes.differentiate_loops import pullback_of
from flamec.ir.passes.differentiate_while import as_scan, transposed
from flamec.ir.shape import Dim
from flamec.ir.types import DType, TensorType, bool_, float32, float64, int64


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


# scans of as many steps as an operand says -------------------------------------------------


def _counted(attributes: Attributes) -> Attributes:
    return {**attributes, "counted": True}


def _make_counted(draw: Draw) -> list[Sample]:
    """Fewer steps than there are elements, none, all, and more than there are."""
    samples = []
    for count, reverse in ((2, False), (3, True), (0, True), (4, False), (9, True)):
        near = (-1.0, 1.0)
        arrays = draw(2, 3, domain=near), draw(4, 2, 3, domain=near), draw(3, 3, domain=near)
        body = _counted(scanned(_recurrent(draw.dtype), 1, 1, 4, reverse))
        samples.append(Sample((*arrays, np.array(count)), body))
    return samples


def _any_scan_oracle(sample: Sample, *arrays: np.ndarray) -> Any:
    if not sample.attributes.get("counted"):
        return _scan_oracle(sample, *arrays)
    h, x, w, last = arrays
    count = min(int(last), len(x))
    stacked = np.zeros(x.shape)
    for i in range(count)[::-1] if sample.attributes["reverse"] else range(count):
        h = np.tanh(h @ w + x[i])
        stacked[i] = h * x[i]
    return h, stacked


# branches --------------------------------------------------------------------------------


def branches(dtype: DType, rows: Dim = 3) -> Attributes:
    """sin(x) y and x + y, or x itself and x y."""
    bodies = []
    for name in ("waves", "products"):
        b = GraphBuilder()
        x, y = (b.input(TensorType((rows,), dtype)) for _ in range(2))
        waves = [b.mul(b.sin(x), y), b.add(x, y)]
        bodies.append(b.build(waves if name == "waves" else [x, b.mul(x, y)], name=name))
    return {"true_body": bodies[0], "false_body": bodies[1]}


def _make_branches(draw: Draw) -> list[Sample]:
    return [
        Sample((np.array(choice), draw(3), draw(3)), branches(draw.dtype))
        for choice in (True, False)
    ]


def _branch_oracle(sample: Sample, choice: np.ndarray, x: np.ndarray, y: np.ndarray) -> Any:
    return (np.sin(x) * y, x + y) if choice else (x, x * y)


# loops of as many steps as a condition says -------------------------------------------------


def while_graphs(dtype: DType, rows: Dim = 2) -> tuple[Graph, Graph]:
    """As long as n < last: x <- sin(x) w + x, n <- n + 1; x, n, w, last."""
    graphs = []
    for name in ("unfinished", "waves"):
        b = GraphBuilder()
        x, n = b.input(TensorType((rows,), dtype)), b.input(TensorType((), int64))
        w, last = b.input(TensorType((rows,), dtype)), b.input(TensorType((), int64))
        if name == "unfinished":
            outputs = [b.lt(n, last)]
        else:
            one = b.full(value=1, shape=(), dtype=int64)
            outputs = [b.add(b.mul(b.sin(x), w), x), b.add(n, one)]
        graphs.append(b.build(outputs, name=name))
    return graphs[0], graphs[1]


def growing_graphs(dtype: DType) -> tuple[Graph, Graph]:
    """As long as the sum of squares of x is below 50: x <- 1.5 x + c, n <- n + 2."""
    graphs = []
    for name in ("small", "grown"):
        b = GraphBuilder()
        x, n = b.input(TensorType((2,), dtype)), b.input(TensorType((), int64))
        c = b.input(TensorType((2,), dtype))
        if name == "small":
            bound = b.full(value=50.0, shape=(), dtype=dtype)
            outputs = [b.lt(b.sum(b.mul(x, x), axes=(0,)), bound)]
        else:
            factor = b.full(value=1.5, shape=(), dtype=dtype)
            two = b.full(value=2, shape=(), dtype=int64)
            outputs = [b.add(b.mul(x, factor), c), b.add(n, two)]
        graphs.append(b.build(outputs, name=name))
    return graphs[0], graphs[1]


def looped(graphs: tuple[Graph, Graph], carries: int, limit: Any) -> Attributes:
    condition, body = graphs
    return {
        "condition": condition,
        "body": body,
        "carries": carries,
        "limit": limit,
        "residuals": 0,
    }


def _make_while(draw: Draw) -> list[Sample]:
    samples = []
    near = (-0.7, 0.7)
    for last, limit in ((3, 5), (4, 2), (0, 3), (2, 0)):
        arrays = draw(2, domain=near), np.array(0), draw(2, domain=near), np.array(last)
        samples.append(Sample(arrays, looped(while_graphs(draw.dtype), 2, limit)))
    grown = draw(2, domain=(1.0, 2.0)), np.array(7), draw(2, domain=(0.2, 0.5))
    samples.append(Sample(grown, looped(growing_graphs(draw.dtype), 2, 9)))
    samples.append(Sample(grown, looped(growing_graphs(draw.dtype), 2, None), finite=False))
    return samples


def _while_oracle(sample: Sample, *arrays: np.ndarray) -> Any:
    limit, steps = sample.attributes["limit"], 0
    if sample.attributes["body"].name == "grown":
        x, n, c = arrays
        while (x * x).sum() < 50 and steps != limit:
            x, steps = 1.5 * x + c, steps + 1
        return x, n + 2 * steps, steps
    x, n, w, last = arrays
    while int(n) < int(last) and steps != limit:
        x, n, steps = np.sin(x) * w + x, n + 1, steps + 1
    return x, n, steps


def _transposed(dtype: DType, rows: Dim = 2) -> Attributes:
    attributes = looped(while_graphs(dtype, rows), 2, None)
    pullback = pullback_of(as_scan(attributes), [True, False, True, False], [True, False])
    assert pullback is not None
    return transposed(attributes, pullback)


def _make_transposes(draw: Draw) -> list[Sample]:
    near = (-0.7, 0.7)
    return [
        Sample(
            (draw(2, domain=near), np.array(0), draw(2, domain=near), np.array(last), draw(2)),
            _transposed(draw.dtype),
        )
        for last in (3, 1, 0)
    ]


def _transpose_oracle(
    sample: Sample, x: Any, n: Any, w: np.ndarray, last: Any, seed: np.ndarray
) -> Any:
    """By hand: x' = sin(x) w + x."""
    visited = []
    for _ in range(int(n), int(last)):
        visited.append(x)
        x = np.sin(x) * w + x
    total = np.zeros(np.shape(w))
    for x in visited[::-1]:
        total = total + seed * np.sin(x)
        seed = seed * (np.cos(x) * w + 1)
    return seed, total


_FLAG, _NUMBER = tensor(dtype=bool_), tensor(dtype=int64)
_PAIR = tensor(2, dtype=float32)
_WHILE = looped(while_graphs(float32), 2, None)
_LOOP_TYPES = (_PAIR, _NUMBER, _PAIR, _NUMBER)
_BODY = _recurrent(float32)
_X = tensor(2, 3, dtype=float32)
_XS = tensor(4, 2, 3, dtype=float32)
_W = tensor(3, 3, dtype=float32)

LOOP_ROWS = [
    Row(
        "scan",
        (float64, float32),
        lambda draw: [*_make_scans(draw), *_make_counted(draw)],
        _any_scan_oracle,
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
            ErrorInput(
                (_X, _XS, _W), _counted(scanned(_BODY, 1, 1, 4)), TypeError, "number of steps"
            ),
        ),
    ),
    Row(
        "cond",
        (float64, float32),
        _make_branches,
        _branch_oracle,
        ulps=8,
        gradient=(1, 2),
        symbolic=lambda B, dtype: (
            (_FLAG, tensor(B, dtype=dtype), tensor(B, dtype=dtype)),
            branches(dtype, B),
        ),
        errors=(
            ErrorInput((_PAIR,), branches(float32, 2), TypeError, "must be a bool"),
            ErrorInput(
                (tensor(1, dtype=bool_), _PAIR, _PAIR),
                branches(float32, 2),
                ValueError,
                "no dimensions",
            ),
            ErrorInput((_FLAG, _PAIR), branches(float32, 2), TypeError, "takes 2 values, 1"),
            ErrorInput((_FLAG, _PAIR, _X), branches(float32, 2), ValueError, "operand 1 is"),
            ErrorInput(
                (_FLAG, _PAIR, _PAIR),
                {**branches(float32, 2), "false_body": branches(float64, 2)["false_body"]},
                TypeError,
                "the false branch takes float64[2]",
            ),
        ),
    ),
    Row(
        "while_loop",
        (float64, float32),
        _make_while,
        _while_oracle,
        ulps=16,
        scale=2.0,
        gradient=(0, 2),
        symbolic=lambda B, dtype: (
            (tensor(B, dtype=dtype), _NUMBER, tensor(B, dtype=dtype), _NUMBER),
            looped(while_graphs(dtype, B), 2, B),
        ),
        errors=(
            ErrorInput(_LOOP_TYPES[:3], _WHILE, TypeError, "takes 4 values"),
            ErrorInput(
                (_PAIR, _NUMBER, _X, _NUMBER), _WHILE, ValueError, "operand 2 is float32[2, 3]"
            ),
            ErrorInput(
                _LOOP_TYPES,
                {**_WHILE, "condition": _WHILE["body"]},
                TypeError,
                "must give a bool without dimensions",
            ),
            ErrorInput(_LOOP_TYPES, {**_WHILE, "residuals": 1}, TypeError, "for 1 stacks"),
            ErrorInput(
                (_PAIR, _NUMBER, _PAIR),
                looped((growing_graphs(float32)[0], growing_graphs(float64)[1]), 2, None),
                TypeError,
                "the body takes float64[2]",
            ),
        ),
    ),
    Row(
        "while_transpose",
        (float64, float32),
        _make_transposes,
        _transpose_oracle,
        ulps=32,
        scale=4.0,
        gradient=(4,),
        orders=1,
        symbolic=lambda B, dtype: (
            (
                tensor(B, dtype=dtype),
                _NUMBER,
                tensor(B, dtype=dtype),
                _NUMBER,
                tensor(B, dtype=dtype),
            ),
            _transposed(dtype, B),
        ),
        errors=(
            ErrorInput(_LOOP_TYPES, _transposed(float32), TypeError, "takes 4 values"),
            ErrorInput(
                (*_LOOP_TYPES, _X), _transposed(float32), ValueError, "seed 0 is float32[2, 3]"
            ),
        ),
    ),
]
