"""Random typed graphs for pass tests: many constants, views and repeated work, all dtypes mixed."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import (
    TensorType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    uint8,
)

DTYPES = (float64, float32, float16, bfloat16, int64, int32, int8, uint8, bool_)
FLOATS = (-0.0, 0.0, 1.0, -1.0, 0.5, 2.0, float("inf"), float("nan"))
SYMBOL = SymbolicDim.symbol("B")


class GraphMaker:
    """Grows one graph by random steps; ``size`` is the dimension that varies (int or symbol)."""

    def __init__(self, seed: int, size: Dim = 3) -> None:
        self.random = random.Random(seed)
        self.size = size
        self.b = GraphBuilder()
        shapes: list[tuple[Dim, ...]] = [(size, 4), (size, 1), (4,), (), (1, 4)]
        self.values: list[Value] = [
            self.b.input(TensorType(self.random.choice(shapes), self.random.choice(DTYPES)))
            for _ in range(4)
        ]
        self.values.append(self.b.input(TensorType((size, 4), float32), "anchor"))

    def graph(self, steps: int) -> Graph:
        moves = (
            self.constant, self.unary, self.binary, self.binary, self.compare, self.select,
            self.convert, self.view, self.view, self.view, self.reduce, self.assemble, self.again,
        )  # fmt: skip
        for _ in range(steps):
            move: Callable[[], Value | None] = self.random.choice(moves)
            made = move()
            if made is not None:
                self.values.append(made)
        read = {v for node in self.b.nodes for v in node.inputs}
        unread = [v for v in self.values if v not in read and v.node is not None]
        outputs = self.random.sample(unread, min(8, len(unread)))
        updates = {}
        for position, value in enumerate(self.b.graph_inputs):
            same = [v for v in self.values if v.type == value.type and v.node is not None]
            if same and self.random.random() < 0.5:
                updates[position] = self.random.choice(same)
        return self.b.build(outputs, updates)

    def pick(self, kinds: str = "float int uint bool") -> Value | None:
        fitting = [v for v in self.values if v.type.dtype.kind in kinds.split()]
        return self.random.choice(fitting) if fitting else None

    def partner(self, x: Value) -> Value:
        """A value of the dtype of ``x`` that broadcasts with it; often a constant."""
        fitting = [v for v in self.values if v.type.dtype is x.type.dtype and _broadcast(v, x)]
        if not fitting or self.random.random() < 0.4:
            return self.number(x.type)
        return self.random.choice(fitting)

    def number(self, like: TensorType) -> Value:
        kind = like.dtype.kind
        if kind == "float":
            value: float | int | bool = self.random.choice(FLOATS)
        else:
            value = self.random.random() < 0.5 if kind == "bool" else self.random.randrange(4)
        shape = like.shape if self.random.random() < 0.3 else ()
        return self.b.full(value=value, shape=shape, dtype=like.dtype, device=like.device)

    def constant(self) -> Value:
        return self.number(self.random.choice(self.values).type)

    def unary(self) -> Value | None:
        name = self.random.choice(("neg", "abs", "sign", "floor", "exp", "sqrt", "bitwise_not"))
        kinds = {"exp": "float", "sqrt": "float", "bitwise_not": "int uint bool"}
        x = self.pick(kinds.get(name, "float int uint"))
        return None if x is None else getattr(self.b, name)(x)

    def binary(self) -> Value | None:
        name = self.random.choice(
            [
                "add",
                "sub",
                "mul",
                "div",
                "maximum",
                "minimum",
                "bitwise_and",
                "bitwise_or",
                "shift_left",
            ]
        )
        kinds = {"div": "float", "sub": "float int uint", "shift_left": "int uint"}
        bits = "int uint bool"
        x = self.pick(kinds.get(name, bits if "bit" in name else "float int uint bool"))
        if x is None:
            return None
        pair = [x, self.partner(x)]
        if "imum" in name:  # which of 0.0 and -0.0 is returned depends on the order
            pair.sort(key=lambda v: (v.node is not None, id(v)))
        return getattr(self.b, name)(*pair)

    def compare(self) -> Value | None:
        x = self.pick()
        assert x is not None
        return getattr(self.b, self.random.choice(("eq", "ne", "lt", "ge")))(x, self.partner(x))

    def select(self) -> Value | None:
        condition, x = self.pick("bool"), self.pick()
        if condition is None or x is None or not _broadcast(condition, x):
            return None
        y = self.partner(x)
        return self.b.where(condition, x, y) if _broadcast(condition, y) else None

    def convert(self) -> Value:
        x = self.pick("int uint bool") if self.random.random() < 0.3 else self.pick("float")
        x = x or self.values[-1]
        targets = DTYPES[:4] if x.type.dtype.kind == "float" else DTYPES  # NaN has no integer
        return self.b.convert(x, dtype=self.random.choice(targets))

    def view(self) -> Value:
        x = self.random.choice(self.values)
        shape, rank = x.type.shape, len(x.type.shape)
        match self.random.randrange(4):
            case 0:
                axes = list(range(rank))
                self.random.shuffle(axes)
                return self.b.permute(x, axes=tuple(axes))
            case 1:
                options: list[tuple[Dim, ...]] = [shape, (1, *shape), (*shape, 1)]
                options.append(tuple(d for d in shape if d != 1))
                return self.b.reshape(x, shape=self.random.choice(options))
            case 2:
                target = tuple(4 if d == 1 else d for d in shape)
                return self.b.expand(x, shape=self.random.choice([shape, target]))
        starts, sizes, steps = [], [], []
        for size in shape:
            start, count, step = 0, size, 1
            if size == 4 and self.random.random() < 0.7:
                start, count, step = self.random.choice(((1, 2, 1), (3, 4, -1), (0, 2, 2)))
            starts.append(start), sizes.append(count), steps.append(step)
        return self.b.slice(x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))

    def reduce(self) -> Value | None:
        x = self.pick("float int uint")
        assert x is not None
        axes = tuple(i for i in range(len(x.type.shape)) if self.random.random() < 0.4)
        if all(x.type.shape[a] == 1 for a in axes):
            return self.b.amax(x, axes=axes)  # NumPy's sum of -0.0 alone is 0.0
        return getattr(self.b, self.random.choice(("sum", "amax")))(x, axes=axes)

    def assemble(self) -> Value | None:
        x = self.random.choice(self.values)
        rank = len(x.type.shape)
        if self.random.random() < 0.3 and rank:
            return self.b.concatenate(x, axis=0)
        fitting = [v for v in self.values if v.type == x.type]
        written = self.random.choice(fitting)
        ones, zeros = (1,) * rank, (0,) * rank
        updated = self.b.slice_update(x, written, starts=zeros, steps=ones)
        if self.random.random() < 0.5:
            return updated
        return self.b.slice(updated, starts=zeros, sizes=x.type.shape, steps=ones)

    def again(self) -> Value | None:
        """The same node once more, its operands swapped where that makes no difference."""
        nodes = [n for n in self.b.nodes if len(n.outputs) == 1 and "imum" not in n.op.name]
        if not nodes:
            return None
        node = self.random.choice(nodes)
        inputs = node.inputs[::-1] if node.op.commutative else node.inputs
        return self.b.apply(node.op, inputs, node.attributes)

    def arrays(self, size: int) -> list[np.ndarray]:
        """Values for the inputs, NaN, infinities and both zeros among them."""
        rng = np.random.default_rng(self.random.randrange(1 << 30))
        result = []
        for value in self.b.graph_inputs:
            shape = tuple(size if isinstance(d, SymbolicDim) else d for d in value.type.shape)
            kind = value.type.dtype.kind
            if kind == "float":
                array = np.where(
                    rng.random(shape) < 0.3, rng.choice(FLOATS, shape), rng.normal(size=shape)
                )
            else:
                array = rng.integers(0, 2 if kind == "bool" else 9, shape)
            result.append(np.asarray(array).astype(value.type.dtype.numpy))
        return result


def _broadcast(a: Value, b: Value) -> bool:
    pairs = zip(a.type.shape[::-1], b.type.shape[::-1], strict=False)
    return all(x == y or x == 1 or y == 1 for x, y in pairs)
