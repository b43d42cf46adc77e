"""Graphs that exercise fused GPU kernels: chains, rows, columns, products, updates, scatters.

``GRAPHS`` maps a name to a function that gives a graph; ``inputs_for`` draws operands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.op import lookup as lookup_op
from flamec.ir.passes.differentiate import differentiate_graph
from flamec.ir.passes.differentiate_loops import with_residuals
from flamec.ir.passes.differentiate_while import while_with_residuals
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import DType, TensorType, bfloat16, bool_, float32, float64, int64

B = SymbolicDim.symbol("B")
Make = Callable[[GraphBuilder], Graph]


def _input(b: GraphBuilder, *shape: Dim, dtype: DType = float32) -> Any:
    return b.input(TensorType(shape, dtype))


def _constant(b: GraphBuilder, value: float, like: Any) -> Any:
    return b.constant(value, b.type_of(like))


def gelu(b: GraphBuilder, x: Any) -> Any:
    half = b.mul(x, _constant(b, 0.5, x))
    inner = b.erf(b.mul(x, _constant(b, 0.7071067811865476, x)))
    return b.mul(half, b.add(inner, _constant(b, 1.0, x)))


def row_fold(b: GraphBuilder, op: str, x: Any) -> Any:
    """A fold over the last axis, with that axis kept as size 1."""
    shape = b.type_of(x).shape
    folded = getattr(b, op)(x, axes=(len(shape) - 1,))
    return b.reshape(folded, shape=(*shape[:-1], 1))


def softmax(b: GraphBuilder, x: Any) -> Any:
    e = b.exp(b.sub(x, row_fold(b, "amax", x)))
    return b.div(e, row_fold(b, "sum", e))


def layer_norm(b: GraphBuilder, x: Any, weight: Any, bias: Any) -> Any:
    count = b.type_of(x).shape[-1]
    assert isinstance(count, int)
    mean = b.mul(row_fold(b, "sum", x), _constant(b, 1 / count, x))
    centred = b.sub(x, mean)
    variance = b.mul(row_fold(b, "sum", b.mul(centred, centred)), _constant(b, 1 / count, x))
    scale = b.rsqrt(b.add(variance, _constant(b, 1e-5, x)))
    return b.add(b.mul(b.mul(centred, scale), weight), bias)


def matmul(b: GraphBuilder, x: Any, y: Any) -> Any:
    rank = len(b.type_of(x).shape)
    batch = tuple(range(rank - 2))
    return b.dot_general(x, y, contract=((rank - 1,), (rank - 2,)), batch=(batch, batch))


def gelu_chain(b: GraphBuilder, size: Dim = 3001) -> Graph:
    return b.build([gelu(b, _input(b, size))])


def softmax_graph(
    b: GraphBuilder, shape: tuple[Dim, ...] = (5, 37), dtype: DType = bfloat16
) -> Graph:
    x = _input(b, *shape, dtype=dtype)
    return b.build([b.cast(softmax(b, b.cast(x, float32)), dtype)])


def layer_norm_graph(b: GraphBuilder, rows: Dim = 6, columns: int = 45) -> Graph:
    return b.build(
        [layer_norm(b, _input(b, rows, columns), _input(b, columns), _input(b, columns))]
    )


def layer_norm_backward(b: GraphBuilder, rows: int = 70, columns: int = 45) -> Graph:
    """Row folds and column folds in one loop."""
    x, g, weight = _input(b, rows, columns), _input(b, rows, columns), _input(b, columns)
    mean = b.mul(row_fold(b, "sum", x), _constant(b, 1 / columns, x))
    centred = b.sub(x, mean)
    scaled = b.mul(g, weight)
    dx = b.sub(scaled, b.mul(row_fold(b, "sum", scaled), _constant(b, 1 / columns, x)))
    return b.build([dx, b.sum(b.mul(g, centred), axes=(0,)), b.sum(g, axes=(0,))])


def long_softmax(b: GraphBuilder) -> Graph:
    """Rows that no block holds: loops over them, values computed again."""
    return b.build([softmax(b, gelu(b, _input(b, 2, 17001)))])


def columns(b: GraphBuilder) -> Graph:
    x = _input(b, 333, 19)
    return b.build([b.sum(x, axes=(0,)), b.mul(b.amax(x, axes=(0,)), _input(b, 19))])


def few_rows(b: GraphBuilder) -> Graph:
    """Rows so long that blocks share them, and what follows from their folds."""
    x, scale = _input(b, 3, 24576), _input(b, 3)
    length = b.sqrt(b.sum(b.mul(x, x), axes=(1,)))
    return b.build([b.mul(length, scale), b.amax(x, axes=(1,)), b.sum(x, axes=(1,))])


def everything(b: GraphBuilder) -> Graph:
    x = _input(b, 40001)
    total = b.sum(b.mul(x, x), axes=(0,))
    return b.build([b.sqrt(total), b.amax(x, axes=(0,))])


def transposed(b: GraphBuilder) -> Graph:
    x = _input(b, 37, 53)
    return b.build([b.exp(b.permute(x, axes=(1, 0)))])


def linear(b: GraphBuilder, dtype: DType = float32) -> Graph:
    x, w = _input(b, 33, 20, dtype=dtype), _input(b, 17, 20, dtype=dtype)
    product = matmul(b, x, b.permute(w, axes=(1, 0)))
    return b.build([gelu(b, b.add(product, _input(b, 17, dtype=dtype)))])


def attention(b: GraphBuilder) -> Graph:
    """A product whose rows are folded, then another product."""
    q, k, v = (_input(b, 2, 19, 8) for _ in range(3))
    scores = matmul(b, q, b.permute(k, axes=(0, 2, 1)))
    return b.build([matmul(b, softmax(b, scores), v)])


def update(b: GraphBuilder) -> Graph:
    """An optimizer step: several parameters, a step count, all in place."""
    lr, step = _input(b), _input(b)
    inputs = [(_input(b, n), _input(b, n)) for n in (70, 33, 5)]
    next_step = b.add(step, _constant(b, 1.0, step))
    scale = b.div(lr, next_step)
    updates = {1: next_step}
    for i, (parameter, gradient) in enumerate(inputs):
        updates[2 + 2 * i] = b.sub(parameter, b.mul(gradient, scale))
    return b.build([b.mul(scale, scale)], updates)


def exchanged(b: GraphBuilder, size: Dim) -> Graph:
    """Arrays each of which gets the old values of the next, and a number beside them."""
    x = [_input(b, size) for _ in range(3)]
    number, other = _input(b), _input(b)
    changed = {i: b.neg(x[(i + 1) % 3]) for i in range(3)}
    return b.build([b.exp(number)], {**changed, 3: other})


def replaced(b: GraphBuilder) -> Graph:
    """An array that is read and gets the values of another, beside one of any size."""
    x, old, new = _input(b, B), _input(b, 40), _input(b, 40)
    return b.build([b.neg(x), b.exp(old)], {1: new})


def advanced(b: GraphBuilder, size: Dim) -> Graph:
    """Random words, maybe none, and the state after them."""
    state = _input(b, 2, dtype=int64)
    used = b.mul(b.iota(shape=(2,), axis=0, dtype=int64), _constant(b, 3, state))
    return b.build([b.random_bits(state, shape=(size,))], {0: b.add(state, used)})


def windows(b: GraphBuilder, size: Dim) -> Graph:
    """Windows that begin at a size, or have that length: read, written, and their gradients."""
    x, beside = _input(b, 3, 40), _input(b, 3, size)
    at: dict[str, Any] = {"starts": (0, size), "steps": (1, 1)}
    window = b.slice(x, sizes=(3, 2), **at)
    first = b.slice(x, starts=(0, 0), sizes=(3, size), steps=(1, 1))
    last = b.slice(x, starts=(0, size), sizes=(3, 40 - size), steps=(1, 1))
    changed = b.slice_update(x, b.mul(window, window), **at)
    outside = b.pad(window, b.constant(0, x.type), low=(0, size), high=(0, 38 - size))
    return b.build([b.add(first, beside), b.sum(last, axes=(1,)), outside], {0: changed})


def embedding_backward(b: GraphBuilder) -> Graph:
    table, values = b.full_like(0.0, TensorType((11, 7), float32)), _input(b, 23, 7)
    index = b.input(TensorType((23,), int64), "index")
    return b.build([b.index_put(table, values, index, mode="add")])


def scatter(
    b: GraphBuilder, mode: str, dtype: DType = float32, rows: Dim = 300, columns: Dim = 7
) -> Graph:
    """Rows that meet in few places of a table, at two indices each."""
    table, values = _input(b, 3, 5, columns, dtype=dtype), _input(b, rows, columns, dtype=dtype)
    first, second = (b.input(TensorType((rows,), int64), f"index{n}") for n in (3, 5))
    return b.build([b.index_put(table, b.add(values, values), first, second, mode=mode)])


def lookup(b: GraphBuilder) -> Graph:
    """Rows of a table, and one element of each row."""
    table = _input(b, 11, 7)
    rows, columns = (b.input(TensorType((23,), int64), "index") for _ in range(2))
    chosen = b.index(table, rows)
    return b.build(
        [chosen, b.index(b.exp(chosen), b.iota(shape=(23,), axis=0, dtype=int64), columns)]
    )


def _dropped(b: GraphBuilder, x: Any) -> tuple[Any, Any]:
    state = b.input(TensorType((2,), int64), "index")
    bits = b.random_bits(state, shape=b.type_of(x).shape)
    keep = b.gt(bits, b.constant(0, b.type_of(bits)))
    return b.where(keep, x, _constant(b, 0.0, x)), keep


def dropout(b: GraphBuilder, *shape: Dim) -> Graph:
    """Random words one by one, or four at a time where rows are multiples of four."""
    return b.build(_dropped(b, _input(b, *(shape or (9, 31)))))


def dropout_norm(b: GraphBuilder, rows: int, columns: int) -> Graph:
    """Random words in a kernel whose rows are folded."""
    x, y = _input(b, rows, columns), _input(b, rows, columns)
    weight, bias = _input(b, columns), _input(b, columns)
    return b.build([layer_norm(b, b.add(x, _dropped(b, y)[0]), weight, bias)])


def masked(b: GraphBuilder) -> Graph:
    x, mask = _input(b, 6, 21), b.input(TensorType((6, 21), bool_))
    chosen = b.where(mask, x, _constant(b, -1.0, x))
    return b.build([b.cumsum(chosen, axis=1), b.argmax(chosen, axes=(1,)), b.amax(mask, axes=(1,))])


def weight_update(b: GraphBuilder) -> Graph:
    """A product reads a weight, converted, that is overwritten; the new value needs no product."""
    x, w, g = _input(b, 9, 20, dtype=bfloat16), _input(b, 20, 33), _input(b, 20, 33)
    product = matmul(b, x, b.cast(w, bfloat16))
    return b.build([product], {1: b.sub(w, b.mul(g, g))})


def weight_update_first(b: GraphBuilder) -> Graph:
    """As above, but the new value is known before the product has read the old one."""
    x, w = _input(b, 9, 20, dtype=bfloat16), _input(b, 20, 33)
    updated = b.index_put(w, _input(b, 7, 33), b.input(TensorType((7,), int64)), mode="add")
    return b.build([matmul(b, x, b.cast(w, bfloat16))], {1: updated})


def orders(
    b: GraphBuilder, *shape: Dim, axis: int = 1, dtype: DType = float32, descending: bool = False
) -> Graph:
    """Lines with many equal elements, and the places of one with NaNs."""
    x = _input(b, *shape)
    equal = b.cast(b.round(b.mul(x, _constant(b, 4, x))), dtype)
    results = list(b.sort(equal, axis=axis, descending=descending))
    if dtype.is_floating_point:
        missing = b.cast(b.log(x), dtype)
        results.append(b.sort(missing, axis=axis, descending=descending)[1])
    return b.build(results)


def narrow_rows(b: GraphBuilder, rows: Dim = 1037, columns: int = 3) -> Graph:
    """What stands in a row's place, beside values of the row and values of the column."""
    x, row, column = _input(b, rows, columns), _input(b, rows, 1), _input(b, columns)
    shape = b.type_of(x).shape
    place = b.iota(shape=shape, axis=1, dtype=float32)
    scaled = b.mul(x, b.expand(column, shape=shape))
    spread = b.expand(row, shape=shape)
    turned = b.slice(scaled, starts=(0, columns - 1), sizes=shape, steps=(1, -1))
    return b.build([b.add(b.add(scaled, spread), place), turned, spread])


def scans_of_one(b: GraphBuilder) -> Graph:
    """A scan along an axis of one element gives that element, in the loop of another one, too."""
    x = b.input(TensorType((5, 9, 1), float32))
    sums = b.cumsum(x, axis=1)
    least, _ = b.cummin(sums, axis=2)
    largest, place = b.cummax(b.cumsum(x, axis=0), axis=2)
    return b.build([sums, least, largest, place])


def long_scans(b: GraphBuilder, size: Dim) -> Graph:
    """Running sums of few long rows, which are lines."""
    return b.build([b.cumsum(_input(b, 2, size), axis=1)])


def linear_recurrences(b: GraphBuilder, rows: Dim, size: Dim) -> Graph:
    """Recurrences over several blocks of each row, with factors of their own and of all rows."""
    x, decay = _input(b, rows, size), b.sigmoid(_input(b, size))
    every = b.expand(decay, shape=b.type_of(x).shape)
    return b.build([b.recurrence(x, b.sigmoid(x), axis=1), b.recurrence(x, every, axis=0)])


GRAPHS: dict[str, Make] = {
    "sort_columns": lambda b: orders(b, 2, 37, 5, dtype=bfloat16, descending=True),
    "sort_symbolic": lambda b: orders(b, 2, B, descending=True),
    "sort_symbolic_doubles": lambda b: orders(b, B, 2, axis=0, dtype=float64),
    "weight_update": weight_update,
    "weight_update_first": weight_update_first,
    "gelu_chain": gelu_chain,
    "gelu_chain_symbolic": lambda b: gelu_chain(b, B),
    "gelu_chain_sixteen": lambda b: gelu_chain(b, B * 16),
    "softmax": softmax_graph,
    "softmax_symbolic": lambda b: softmax_graph(b, (B, B * 2), float32),
    "long_softmax": long_softmax,
    "wide_softmax": lambda b: softmax_graph(b, (3, 2100), float32),
    "layer_norm": layer_norm_graph,
    "layer_norm_symbolic": lambda b: layer_norm_graph(b, B),
    "layer_norm_backward": layer_norm_backward,
    "layer_norm_backward_wide": lambda b: layer_norm_backward(b, 5, 2100),
    "layer_norm_backward_long": lambda b: layer_norm_backward(b, 3, 16700),
    "columns": columns,
    "layer_norm_backward_rows": lambda b: layer_norm_backward(b, 999, 256),
    "column_sums": lambda b: b.build([b.sum(_input(b, 4099, 256), axes=(0,))]),
    "few_rows": few_rows,
    "few_rows_bf16": lambda b: b.build([b.sum(_input(b, 2, 5, 12288, dtype=bfloat16), axes=(2,))]),
    "everything": everything,
    "transposed": transposed,
    "linear": linear,
    "linear_bf16": lambda b: linear(b, bfloat16),
    "attention": attention,
    "update": update,
    "exchanged": lambda b: exchanged(b, 40),
    "exchanged_symbolic": lambda b: exchanged(b, B * 100),
    "replaced_symbolic": replaced,
    "advanced": lambda b: advanced(b, 3000),
    "advanced_symbolic": lambda b: advanced(b, B),
    "embedding_backward": embedding_backward,
    "scatter_add": lambda b: scatter(b, "add"),
    "scatter_add_any_order": lambda b: scatter(b, "add"),
    "scatter_wide_any_order": lambda b: scatter(b, "add", columns=300),
    "scatter_set": lambda b: scatter(b, "set"),
    "scatter_max": lambda b: scatter(b, "amax", columns=300),
    "scatter_max_integers": lambda b: scatter(b, "amax", int64),
    "scatter_add_halves": lambda b: scatter(b, "add", bfloat16, rows=20),
    "scatter_symbolic": lambda b: scatter(b, "add", rows=B, columns=B),
    "lookup": lookup,
    "dropout": dropout,
    "dropout_flat": lambda b: dropout(b, 4004),
    "dropout_symbolic": lambda b: dropout(b, B, B * 4),
    "dropout_norm": lambda b: dropout_norm(b, 5, 44),
    "dropout_norm_odd": lambda b: dropout_norm(b, 5, 45),
    "dropout_norm_long": lambda b: dropout_norm(b, 2, 16500),
    "masked": masked,
    "recurrence": lambda b: recurrence(b, 4, 24, 5),
    "recurrence_odd": lambda b: recurrence(b, 3, 17, 4),
    "recurrence_bf16": lambda b: recurrence(b, 16, 32, 3, bfloat16),
    "recurrence_symbolic": lambda b: recurrence(b, 2, 8, B),
    "decided": lambda b: decided(b, 24, 4),
    "decided_odd": lambda b: decided(b, 17, 3),
    "decided_symbolic": lambda b: decided(b, 8, B),
    "decided_by_index": lambda b: decided_by_index(b, 5),
    "long_scans": lambda b: long_scans(b, 33_001),
    "scans_of_one": scans_of_one,
    "linear_recurrences": lambda b: linear_recurrences(b, 3, 9001),
    "linear_recurrences_symbolic": lambda b: linear_recurrences(b, 5, B),
    "narrow_rows": narrow_rows,
    "narrow_rows_symbolic": lambda b: narrow_rows(b, B, 7),
    "windows_symbolic": lambda b: windows(b, B),
}


def recurrence(
    b: GraphBuilder, batch: Dim, size: int, length: Dim, dtype: DType = float32
) -> Graph:
    """A scan over a gated cell, and its gradients: steps of products and elementwise kernels."""
    inner = GraphBuilder()
    h, c, x = (inner.input(TensorType((batch, size), dtype)) for _ in range(3))
    w = inner.input(TensorType((size, size), dtype))
    bias = inner.input(TensorType((size,), dtype))
    product = inner.dot_general(h, w, contract=((1,), (1,)), batch=((), ()))
    gate = inner.sigmoid(inner.add(inner.add(product, x), bias))
    cell = inner.add(inner.mul(gate, c), inner.mul(gate, inner.tanh(x)))
    new = inner.mul(gate, inner.tanh(cell))
    body = inner.build([new, cell, new], name="cell")
    attributes = {
        "body": body, "carries": 2, "sequences": 1, "length": length, "reverse": False,
        "residuals": 0,
    }  # fmt: skip
    state = [_input(b, batch, size, dtype=dtype) for _ in range(2)]
    rest = [_input(b, length, batch, size, dtype=dtype), _input(b, size, size, dtype=dtype)]
    operands = [*state, *rest, _input(b, size, dtype=dtype)]
    results = b.apply(lookup_op("scan"), operands, with_residuals(attributes, [True] * 5))
    graph = b.build(results[:3])
    return differentiate_graph(graph, range(5), range(3))


def decided(b: GraphBuilder, size: int, length: Dim) -> Graph:
    """A scan over a loop that a value ends, with a branch in each of its steps, and gradients."""
    type = TensorType((size,), float32)

    def body(name: str, make: Callable[[GraphBuilder, Any, Any], Any]) -> Graph:
        inner = GraphBuilder()
        x, c = inner.input(type), inner.input(type)
        return inner.build([make(inner, x, c)], name=name)

    def number(inner: GraphBuilder, value: float) -> Any:
        return inner.full(value=value, shape=(), dtype=float32)

    def move(i: GraphBuilder, x: Any, c: Any) -> Any:
        little = i.mul(i.tanh(i.sum(x, axes=(0,))), number(i, 1e-3))  # but no elementwise branch
        return i.sub(i.sub(i.mul(c, c), x), little)

    branches = {
        "true_body": body("grow", lambda i, x, c: i.sub(i.mul(x, number(i, 1.4)), i.sin(c))),
        "false_body": body("move", move),
    }

    def turn(i: GraphBuilder, x: Any, c: Any) -> Any:
        choice = i.gt(i.sum(x, axes=(0,)), number(i, 0.3))
        return i.apply(lookup_op("cond"), [choice, x, c], branches)

    def small(i: GraphBuilder, x: Any, c: Any) -> Any:
        return i.lt(i.sum(i.mul(x, x), axes=(0,)), number(i, 12.0 * size))

    loop = {"condition": body("small", small), "body": body("turn", turn), "carries": 1,
            "limit": 6, "residuals": 0}  # fmt: skip
    inner = GraphBuilder()
    h, x, c = (inner.input(type) for _ in range(3))
    start = inner.mul(inner.add(h, x), number(inner, 0.5))
    made = inner.apply(
        lookup_op("while_loop"), [start, c], while_with_residuals(loop, [True, True])
    )
    steps = {
        "body": inner.build([made[0], inner.mul(made[0], x)], name="steps"),
        "carries": 1, "sequences": 1, "length": length, "reverse": False, "residuals": 0,
    }  # fmt: skip
    operands = [_input(b, size), _input(b, length, size), _input(b, size)]
    results = b.apply(lookup_op("scan"), operands, with_residuals(steps, [True] * 3))
    return differentiate_graph(b.build(results[:2]), range(3), range(2))


def decided_by_index(b: GraphBuilder, size: int) -> Graph:
    """Two loops whose condition reads an element: one that it ends, and one that the limit ends
    where there are no more elements."""

    def counted(values: Any, bound: float) -> Any:
        graphs = []
        for ask in (True, False):
            inner = GraphBuilder()
            n, xs = inner.input(TensorType((), int64)), inner.input(values.type)
            if ask:
                most = inner.full(value=bound, shape=(), dtype=float32)
                result = inner.lt(inner.index(xs, n), most)
            else:
                result = inner.add(n, inner.full(value=1, shape=(), dtype=int64))
            graphs.append(inner.build([result], name="below" if ask else "next"))
        start = b.full(value=0, shape=(), dtype=int64)
        loop = {
            "condition": graphs[0],
            "body": graphs[1],
            "carries": 1,
            "limit": size,
            "residuals": 0,
        }
        return b.apply(lookup_op("while_loop"), [start, values], loop)[0]

    values = _input(b, size)
    return b.build([counted(values, 9.0), counted(values, 1.0)])


ANY_ORDER = {"scatter_add_any_order", "scatter_wide_any_order"}  # compiled to be so


def many_products(b: GraphBuilder) -> Graph:
    """Rows that are taken in the order of their places."""
    x, values = (b.input(TensorType(shape, float32)) for shape in ((11, 3), (1100,)))
    i = b.input(TensorType((1100,), int64), "index11")
    j = b.input(TensorType((1100,), int64), "index3")
    return b.build([b.index_put(x, values, i, j, mode="prod")])


def required(b: GraphBuilder) -> Graph:
    """Sums of rows that are divided among blocks, the last of which ends early."""
    x = _input(b, 3, 20011)
    i = b.input(TensorType((3, 20011), int64), "index3")
    asked = {"message": "draw: values must be small", "error": "ValueError"}
    small = b.lt(i, b.constant(3, i.type))
    kept = b.require(b.bitwise_and(small, b.gt(x, b.constant(0.0, x.type))), x, **asked)
    return b.build([b.sum(kept, axes=(1,))])


def negative(b: GraphBuilder) -> Graph:
    """A lookup by an index that does not count from the end."""
    table = _input(b, 11, 3)
    i = b.input(TensorType((23,), int64), "index3")
    far = b.sub(i, b.constant(1 << 62, i.type))
    return b.build([b.index(table, b.where(b.lt(i, b.constant(0, i.type)), far, i))])


# Graphs whose index inputs (by position) have one element that is out of range.
FAULTS: dict[str, tuple[Make, int, int, str]] = {
    "row outside": (lookup, 1, 11, "index 11 is out of bounds for dimension 0 of size 11"),
    "row far below": (lookup, 1, -(1 << 40), f"index -{1 << 40} is out of bounds"),
    "column outside": (lookup, 2, -8, "index -8 is out of bounds for dimension 1 of size 7"),
    "scatter outside": (embedding_backward, 1, 12, "index 12 is out of bounds for dimension 0"),
    "requirement": (required, 1, 3, "draw: values must be small"),
    "negative": (negative, 1, -2, "index -2 is out of bounds for dimension 0 of size 11"),
    "product outside": (many_products, 3, 3, "index 3 is out of bounds for dimension 1 of size 3"),
}


def inputs_for(graph: Graph, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Operands; integers are valid indices of a small dimension."""
    from flamec.ir.shape import evaluate_shape

    arrays = []
    for value in graph.inputs:
        shape = evaluate_shape(value.type.shape, {"B": size})
        dtype = value.type.dtype
        if dtype.kind == "float":
            arrays.append(np.asarray(rng.uniform(0.1, 2.0, shape)).astype(dtype.numpy))
        elif dtype is bool_:
            arrays.append(np.asarray(rng.random(shape) < 0.5))
        else:
            most = int((value.name or "").removeprefix("index") or 5)
            arrays.append(np.asarray(rng.integers(-most, most, shape), dtype=dtype.numpy))
    return arrays
