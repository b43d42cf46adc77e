"""Small graphs as a front end would spell them, for tests of fusion and of generated code."""

from __future__ import annotations

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Value
from flamec.ir.types import CPU, TensorType, float32, int64

ROWS, COLUMNS = 2048, 1024
MATRIX = ROWS * COLUMNS * 4
ROW = COLUMNS * 4
COLUMN = ROWS * 4


class Builder(GraphBuilder):
    """A graph builder with the few composites that the tests need."""

    def tensor(self, *shape: int) -> Value:
        return self.input(TensorType(shape, float32))

    def number(self, value: float) -> Value:
        return self.full(value=value, shape=(), dtype=float32, device=CPU)

    def column(self, value: Value) -> Value:
        return self.reshape(value, shape=(*value.type.shape, 1))

    def row_sum(self, value: Value) -> Value:
        return self.column(self.sum(value, axes=(1,)))

    def row_mean(self, value: Value) -> Value:
        return self.div(self.row_sum(value), self.number(float(value.type.shape[1])))

    def exponentials(self, x: Value) -> Value:
        return self.exp(self.sub(x, self.column(self.amax(x, axes=(1,)))))


def softmax(b: Builder) -> list[Value]:
    e = b.exponentials(b.tensor(ROWS, COLUMNS))
    return [b.div(e, b.row_sum(e))]


def softmax_backward(b: Builder) -> list[Value]:
    y, g = b.tensor(ROWS, COLUMNS), b.tensor(ROWS, COLUMNS)
    return [b.mul(y, b.sub(g, b.row_sum(b.mul(y, g))))]


def log_softmax(b: Builder) -> list[Value]:
    x = b.tensor(ROWS, COLUMNS)
    shifted = b.sub(x, b.column(b.amax(x, axes=(1,))))
    return [b.sub(shifted, b.log(b.row_sum(b.exp(shifted))))]


def layer_norm(b: Builder) -> list[Value]:
    x, w, bias = b.tensor(ROWS, COLUMNS), b.tensor(COLUMNS), b.tensor(COLUMNS)
    centred = b.sub(x, b.row_mean(x))
    scale = b.rsqrt(b.add(b.row_mean(b.mul(centred, centred)), b.number(1e-5)))
    return [b.add(b.mul(b.mul(centred, scale), w), bias)]


def layer_norm_backward(b: Builder) -> list[Value]:
    g, x, w = b.tensor(ROWS, COLUMNS), b.tensor(ROWS, COLUMNS), b.tensor(COLUMNS)
    mean, scale = b.column(b.tensor(ROWS)), b.column(b.tensor(ROWS))
    normal = b.mul(b.sub(x, mean), scale)
    gw = b.mul(g, w)
    inner = b.sub(b.sub(gw, b.row_mean(gw)), b.mul(normal, b.row_mean(b.mul(gw, normal))))
    return [b.mul(scale, inner), b.sum(b.mul(g, normal), axes=(0,)), b.sum(g, axes=(0,))]


def rms_norm(b: Builder) -> list[Value]:
    x, w = b.tensor(ROWS, COLUMNS), b.tensor(COLUMNS)
    scale = b.rsqrt(b.add(b.row_mean(b.mul(x, x)), b.number(1e-6)))
    return [b.mul(b.mul(x, scale), w)]


def cross_entropy(b: Builder) -> list[Value]:
    """Forward and backward, the logits' gradient included."""
    x = b.tensor(ROWS, COLUMNS)
    target = b.input(TensorType((ROWS,), int64))
    rows = b.iota(shape=(ROWS,), axis=0, dtype=int64, device=CPU)
    shifted = b.sub(x, b.column(b.amax(x, axes=(1,))))
    e = b.exp(shifted)
    total = b.row_sum(e)
    picked = b.index(b.sub(shifted, b.log(total)), rows, target)
    loss = b.div(b.neg(b.sum(picked, axes=(0,))), b.number(float(ROWS)))
    seed = b.full(value=-1.0 / ROWS, shape=(ROWS,), dtype=float32, device=CPU)
    zeros = b.full(value=0.0, shape=(ROWS, COLUMNS), dtype=float32, device=CPU)
    g = b.index_put(zeros, seed, rows, target, mode="add")
    return [loss, b.add(g, b.mul(b.div(b.neg(b.row_sum(g)), total), e))]


def chain(b: Builder) -> list[Value]:
    x, y = b.tensor(ROWS, COLUMNS), b.tensor(ROWS, COLUMNS)
    return [b.add(b.mul(b.tanh(x), b.sigmoid(y)), x)]


def sums(b: Builder) -> list[Value]:
    x = b.tensor(ROWS, COLUMNS)
    square = b.mul(x, x)
    return [b.sum(x, axes=(0,)), b.sum(square, axes=(0,)), b.sum(square, axes=(0, 1))]


def linear_gelu(b: Builder) -> list[Value]:
    x, w, bias = b.tensor(ROWS, 64), b.tensor(COLUMNS, 64), b.tensor(COLUMNS)
    u = b.add(b.dot_general(x, w, contract=((1,), (1,)), batch=((), ())), bias)
    return [b.mul(u, b.sigmoid(u))]


def transposed_operand(b: Builder) -> list[Value]:
    """Views cost nothing: no copy is made of a transposed or sliced operand."""
    x, w = b.tensor(64, ROWS), b.tensor(COLUMNS, 64)
    part = b.slice(b.permute(x, axes=(1, 0)), starts=(8, 0), sizes=(1024, 64), steps=(1, 1))
    return [b.dot_general(part, w, contract=((1,), (1,)), batch=((), ()))]


def reshaped_chain(b: Builder) -> list[Value]:
    x = b.tensor(ROWS, COLUMNS)
    heads = b.permute(b.reshape(b.tanh(x), shape=(ROWS, 16, COLUMNS // 16)), axes=(1, 0, 2))
    return [b.neg(heads)]


def adam(b: Builder, sizes: tuple[tuple[int, ...], ...]) -> tuple[list[Value], dict[int, Value]]:
    """One step over several parameters whose step counts are tensors of their own."""
    rate, updates = b.tensor(), {}
    for shape in sizes:
        w, g, m, v, count = (*(b.tensor(*shape) for _ in range(4)), b.tensor())
        after = b.add(count, b.number(1.0))
        mean = b.add(m, b.mul(b.sub(g, m), b.number(0.1)))
        square = b.add(b.mul(v, b.number(0.999)), b.mul(b.mul(g, g), b.number(0.001)))
        correction = b.sub(b.number(1.0), b.pow(b.number(0.9), after))
        change = b.div(b.mul(mean, b.div(rate, correction)), b.add(b.sqrt(square), b.number(1e-8)))
        updates |= {
            w.index: b.sub(w, change),
            m.index: mean,
            v.index: square,
            count.index: after,
        }
    return [], updates
