"""Random programs for the back end: the shapes of real models, small, and everything fusable.

``ProgramMaker(seed)`` grows a typed graph out of layers, reductions, views, gathers,
scatters and updates; most values are float64, so that a fused result can be compared
closely, some are float32 or integers. One dimension is symbolic in every other program.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.shape import Dim, SymbolicDim, evaluate_shape, structurally_equal
from flamec.ir.types import CPU, DType, TensorType, float32, float64, int64

SYMBOL = SymbolicDim.symbol("B")
SIZES = (1, 2, 3, 5, 16, 17, 33)


class ProgramMaker:
    """Grows one graph; ``size`` is the dimension that may be symbolic."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.size: Dim = SYMBOL if seed % 2 else self.random.choice((3, 17))
        self.b = GraphBuilder()
        self.width = self.random.choice((4, 7, 32))
        self.dtype: DType = self.random.choice((float64, float64, float32))
        self.ranges: dict[int, int] = {}  # input position -> upper bound of an index
        self.values: list[Value] = [
            self.input(self.size, self.width),
            self.input(self.size, self.width),
            self.input(self.width),
            self.input(),
        ]
        self.state = self.index_input(1000, 2)

    def input(self, *shape: Dim) -> Value:
        return self.b.input(TensorType(shape, self.dtype))

    def index_input(self, bound: int, *shape: Dim) -> Value:
        value = self.b.input(TensorType(shape, int64))
        self.ranges[value.index] = bound
        return value

    def number(self, value: float) -> Value:
        return self.b.full(value=value, shape=(), dtype=self.dtype, device=CPU)

    def pick(self, rank: int | None = None) -> Value:
        """A value, recent ones more often; of a given rank if there is one."""
        fitting = [v for v in self.values if rank is None or len(v.type.shape) == rank]
        fitting = fitting or [v for v in self.values if rank is None or v.type.shape] or self.values
        weights = [1 + 2 * i for i in range(len(fitting))]
        return self.random.choices(fitting, weights)[0]

    def graph(self, steps: int) -> Graph:
        moves: list[Callable[[], Value | None]] = [
            self.unary, self.unary, self.binary, self.binary, self.binary, self.compare_select,
            self.reduce, self.reduce, self.normalize, self.softmax, self.layer, self.layer,
            self.transpose, self.merge, self.slice, self.concatenate, self.pad, self.update_slice,
            self.gather, self.scatter, self.pick_columns, self.scan, self.positions,
            self.random_bits, self.position_of_extreme, self.batched_product, self.half,
        ]  # fmt: skip
        for _ in range(steps):
            made = self.random.choice(moves)()
            if made is not None and made.type.dtype is self.dtype:
                self.values.append(made)
        read = {v for node in self.b.nodes for v in node.inputs}
        unread = [v for v in self.values if v not in read and v.node is not None]
        middle = [v for v in self.values if v in read and v.node is not None]
        outputs = unread[-6:] + self.random.sample(middle, min(2, len(middle)))
        if self.random.random() < 0.2:
            outputs.append(self.random.choice(self.values))
        updates = {}
        for value in self.b.graph_inputs:
            same = [v for v in self.values if v.type == value.type and v is not value]
            if same and self.random.random() < 0.4:
                updates[value.index] = self.random.choice(same)
        return self.b.build(outputs, updates)

    # moves -------------------------------------------------------------------------------
    def unary(self) -> Value:
        name = self.random.choice(("tanh", "exp", "neg", "abs", "sigmoid", "sin", "erf"))
        x = self.pick()
        return getattr(self.b, name)(self.b.tanh(x) if name == "exp" else x)

    def fitting(self, x: Value) -> Value:
        shapes = [v for v in self.values if _broadcasts(v, x)]
        return self.random.choice(shapes) if shapes else self.number(0.5)

    def binary(self) -> Value:
        name = self.random.choice(("add", "sub", "mul", "maximum", "div"))
        x = self.pick()
        y = self.fitting(x)
        if name == "div":
            y = self.b.add(self.b.abs(y), self.number(1.0))
        return getattr(self.b, name)(x, y)

    def compare_select(self) -> Value:
        x = self.pick()
        y = self.fitting(x)
        return self.b.where(self.b.lt(x, y), x, self.b.mul(y, self.number(0.5)))

    def axes(self, x: Value) -> tuple[int, ...]:
        rank = len(x.type.shape)
        count = self.random.choice((1, 1, 1, rank)) if rank else 0
        return tuple(sorted(self.random.sample(range(rank), min(count, rank))))

    def reduce(self) -> Value | None:
        x = self.pick()
        axes = self.axes(x)
        name = self.random.choice(("sum", "sum", "amax", "amin"))
        if name != "sum" and any(not isinstance(x.type.shape[a], int) for a in axes):
            return None
        return getattr(self.b, name)(x, axes=axes)

    def kept(self, x: Value, axis: int) -> tuple[Dim, ...]:
        return tuple(1 if i == axis else d for i, d in enumerate(x.type.shape))

    def normalize(self) -> Value | None:
        """Layer normalisation over one axis, by mean and variance."""
        x = self.pick()
        if not x.type.shape:
            return None
        axis = self.random.randrange(len(x.type.shape))
        if not isinstance(x.type.shape[axis], int):
            return None
        b, shape, count = self.b, self.kept(x, axis), self.number(float(x.type.shape[axis]))
        mean = b.reshape(b.div(b.sum(x, axes=(axis,)), count), shape=shape)
        centred = b.sub(x, mean)
        variance = b.div(b.sum(b.mul(centred, centred), axes=(axis,)), count)
        scale = b.rsqrt(b.add(b.reshape(variance, shape=shape), self.number(0.1)))
        return b.mul(centred, scale)

    def softmax(self) -> Value | None:
        x = self.pick()
        if not x.type.shape:
            return None
        axis = self.random.randrange(len(x.type.shape))
        if not isinstance(x.type.shape[axis], int):
            return None
        b, shape = self.b, self.kept(x, axis)
        e = b.exp(b.sub(x, b.reshape(b.amax(x, axes=(axis,)), shape=shape)))
        return b.div(e, b.reshape(b.sum(e, axes=(axis,)), shape=shape))

    def layer(self) -> Value | None:
        """A linear layer, perhaps with bias and activation; the weight either way round."""
        x = self.pick(2)
        if len(x.type.shape) != 2 or not isinstance(x.type.shape[1], int):
            return None
        columns = self.random.choice(SIZES)
        depth = x.type.shape[1]
        if self.random.random() < 0.5:
            y = self.b.dot_general(
                x, self.input(columns, depth), contract=((1,), (1,)), batch=((), ())
            )
        else:
            y = self.b.dot_general(
                x, self.input(depth, columns), contract=((1,), (0,)), batch=((), ())
            )
        y = self.b.mul(y, self.number(1.0 / (1 + depth)))
        if self.random.random() < 0.6:
            y = self.b.add(y, self.input(columns))
        if self.random.random() < 0.6:
            y = self.b.tanh(y)
        return y

    def batched_product(self) -> Value | None:
        """x transposed times x, or a product over heads."""
        x = self.pick(2)
        if len(x.type.shape) != 2:
            return None
        rows, columns = x.type.shape
        if isinstance(columns, int) and columns % 2 == 0 and self.random.random() < 0.6:
            heads = self.b.reshape(x, shape=(rows, 2, columns // 2))
            scores = self.b.dot_general(heads, heads, contract=((2,), (2,)), batch=((1,), (1,)))
            return self.b.mul(scores, self.number(0.1))
        return self.b.mul(
            self.b.dot_general(x, x, contract=((0,), (0,)), batch=((), ())), self.number(0.1)
        )

    def transpose(self) -> Value:
        x = self.pick()
        order = list(range(len(x.type.shape)))
        self.random.shuffle(order)
        return self.b.permute(x, axes=tuple(order))

    def merge(self) -> Value | None:
        """Dimensions merged, or one of them split."""
        x = self.pick()
        shape = x.type.shape
        if len(shape) >= 2 and self.random.random() < 0.6:
            at = self.random.randrange(len(shape) - 1)
            merged = (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
            return self.b.reshape(x, shape=merged)
        for axis, size in enumerate(shape):
            if isinstance(size, int) and size % 2 == 0 and size:
                split = (*shape[:axis], size // 2, 2, *shape[axis + 1 :])
                return self.b.reshape(x, shape=split)
        return None

    def slice(self) -> Value | None:
        x = self.pick()
        starts, sizes, steps = [], [], []
        for size in x.type.shape:
            start, count, step = 0, size, 1
            if isinstance(size, int) and size >= 3 and self.random.random() < 0.7:
                start, count, step = self.random.choice(
                    ((1, size - 1, 1), (size - 1, size, -1), (0, (size + 1) // 2, 2), (1, 1, 1))
                )
            starts.append(start)
            sizes.append(count)
            steps.append(step)
        return self.b.slice(x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))

    def concatenate(self) -> Value | None:
        x = self.pick()
        same = [v for v in self.values if _same_shape(v, x)]
        if not x.type.shape:
            return None
        axis = self.random.randrange(len(x.type.shape))
        return self.b.concatenate(x, self.random.choice(same), x, axis=axis)

    def pad(self) -> Value | None:
        x = self.pick()
        low = tuple(self.random.randrange(3) for _ in x.type.shape)
        high = tuple(self.random.randrange(3) for _ in x.type.shape)
        return self.b.pad(x, self.number(0.25), low=low, high=high) if low else None

    def update_slice(self) -> Value | None:
        x = self.pick()
        part = self.slice()
        if part is None or len(part.type.shape) != len(x.type.shape):
            return None
        fits = all(
            isinstance(a, int) and isinstance(d, int) and a <= d
            for a, d in zip(part.type.shape, x.type.shape, strict=True)
        )
        rank = len(x.type.shape)
        if not fits or not rank:
            return None
        return self.b.slice_update(x, part, starts=(0,) * rank, steps=(1,) * rank)

    def gather(self) -> Value | None:
        x = self.pick()
        if not x.type.shape or not isinstance(x.type.shape[0], int) or not x.type.shape[0]:
            return None
        shape = self.random.choice(((5,), (self.size,), (2, 3)))
        return self.b.index(x, self.index_input(x.type.shape[0], *shape))

    def scatter(self) -> Value | None:
        rows = self.random.choice((3, 9))
        x = self.pick(2)
        if len(x.type.shape) != 2:
            return None
        index = self.index_input(rows, x.type.shape[0])
        shape = (rows, x.type.shape[1])
        zeros = self.b.full(value=0.0, shape=shape, dtype=self.dtype, device=CPU)
        return self.b.index_put(zeros, x, index, mode="add")

    def pick_columns(self) -> Value | None:
        """One element of each row, as in a loss; or a value placed in each row."""
        x = self.pick(2)
        if len(x.type.shape) != 2 or not isinstance(x.type.shape[1], int):
            return None
        rows, columns = x.type.shape
        index = self.index_input(columns, rows)
        counter = self.b.iota(shape=(rows,), axis=0, dtype=int64, device=CPU)
        if self.random.random() < 0.5:
            return self.b.index(x, counter, index)
        zeros = self.b.full(value=0.0, shape=(rows, columns), dtype=self.dtype, device=CPU)
        sums = self.b.sum(x, axes=(1,))
        return self.b.index_put(zeros, sums, counter, index, mode="add")

    def scan(self) -> Value | None:
        x = self.pick()
        if not x.type.shape:
            return None
        axis = self.random.randrange(len(x.type.shape))
        if self.random.random() < 0.7:
            return self.b.cumsum(self.b.tanh(x), axis=axis)
        return self.b.cummax(x, axis=axis)[0]

    def positions(self) -> Value | None:
        x = self.pick()
        if not x.type.shape:
            return None
        axis = self.random.randrange(len(x.type.shape))
        iota = self.b.iota(shape=x.type.shape, axis=axis, dtype=self.dtype, device=CPU)
        return self.b.add(x, self.b.mul(iota, self.number(0.125)))

    def random_bits(self) -> Value | None:
        x = self.pick()
        bits = self.b.random_bits(self.state, shape=x.type.shape)
        uniform = self.b.mul(self.b.convert(bits, dtype=self.dtype), self.number(2.0**-31))
        return self.b.add(x, uniform)

    def position_of_extreme(self) -> Value | None:
        x = self.pick()
        if not x.type.shape:
            return None
        axis = self.random.randrange(len(x.type.shape))
        if not isinstance(x.type.shape[axis], int):
            return None
        return self.b.convert(self.b.argmax(x, axes=(axis,)), dtype=self.dtype)

    def half(self) -> Value:
        """Through another float type and back: rounding that must not be lost."""
        other = float32 if self.dtype is float64 else float64
        return self.b.convert(self.b.convert(self.pick(), dtype=other), dtype=self.dtype)

    # data --------------------------------------------------------------------------------
    def arrays(self, size: int) -> list[np.ndarray]:
        """Values for the inputs, where the symbolic dimension has a size."""
        rng = np.random.default_rng(self.random.randrange(1 << 30))
        result = []
        for value in self.b.graph_inputs:
            shape = evaluate_shape(value.type.shape, {str(SYMBOL): size})
            if value.index in self.ranges:
                bound = self.ranges[value.index]
                result.append(rng.integers(-bound, bound, shape))
            else:
                result.append(np.asarray(rng.normal(size=shape)).astype(value.type.dtype.numpy))
        return result


def _same_shape(a: Value, b: Value) -> bool:
    shapes = a.type.shape, b.type.shape
    return len(shapes[0]) == len(shapes[1]) and all(map(structurally_equal, *shapes))


def _broadcasts(a: Value, b: Value) -> bool:
    pairs = zip(reversed(a.type.shape), reversed(b.type.shape), strict=False)
    return all(
        structurally_equal(x, y) or structurally_equal(x, 1) or structurally_equal(y, 1)
        for x, y in pairs
    )
