"""Batching rules: what an operation becomes when some operands have one more dimension.

The batch dimension is always the first. A rule gets the builder, the batch size, the op, the
operands (``Operand``: value and whether it is batched, at least one is) and the attributes, and
gives the results, all batched. Operations of most kinds follow the rule of their kind
(``KIND_RULES``); the others name theirs in their declaration (``Op.batch``).
``BatchBuilder`` applies them to whatever is emitted through it, so that rules, passes and
recorded graphs can be batched without knowing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flamec.ir.bodies import emitted
from flamec.ir.builder import Builder, GraphBuilder
from flamec.ir.graph import Graph, Node
from flamec.ir.op import Attributes, Op, OpKind
from flamec.ir.shape import Dim
from flamec.ir.types import TensorType, bool_, int64

if TYPE_CHECKING:
    from flamec.ir.op import BatchRule


@dataclass(frozen=True, slots=True)
class Operand:
    """A value, and whether its first dimension is the batch."""

    value: Any
    batched: bool


class BatchBuilder(Builder):
    """A builder whose values are ``Operand``; emits through ``inner``."""

    def __init__(self, inner: Builder, size: Dim) -> None:
        self.inner = inner
        self.size = size

    def type_of(self, value: Operand) -> TensorType:
        """The type of one element of the batch."""
        type = self.inner.type_of(value.value)
        return type.with_shape(type.shape[1:]) if value.batched else type

    def apply(self, op: Op, inputs: Sequence[Operand], attributes: Mapping[str, Any]) -> Any:
        if not any(x.batched for x in inputs):
            result = self.inner.apply(op, [x.value for x in inputs], attributes)
            if isinstance(result, tuple):
                return tuple(Operand(r, False) for r in result)
            return Operand(result, False)
        result = rule_of(op)(self.inner, self.size, op, inputs, attributes)
        if isinstance(result, tuple):
            return tuple(Operand(r, True) for r in result)
        return Operand(result, True)

    def locate(self, node: Node) -> None:
        self.inner.locate(node)

    def read_state(self, key: Any, type: TensorType) -> Operand:
        return Operand(self.inner.read_state(key, type), False)

    def write_state(self, key: Any, value: Operand) -> None:
        self.inner.write_state(key, value.value)


def rule_of(op: Op) -> BatchRule:
    """The batching rule of an operation; NotImplementedError if it has none."""
    rule = op.batch or KIND_RULES.get(op.kind)
    if op.counted:
        raise NotImplementedError(
            f"{op.name} has no batching rule: each example would have a size of its own"
        )
    if rule is None:
        raise NotImplementedError(f"{op.name} has no batching rule")
    return rule


def whole(b: Builder, size: Dim, x: Operand) -> Any:
    """The value with the batch dimension, stretched if it had none."""
    if x.batched:
        return x.value
    return b.expand_to(x.value, (size, *b.type_of(x.value).shape))


def near(b: Builder, value: Any, like: Any) -> Any:
    """The value on the device of another."""
    device = b.type_of(like).device
    return value if b.type_of(value).device == device else b.to_device(value, device=device)


def aligned(b: Builder, x: Operand, rank: int) -> Any:
    """A value that broadcasts against others of ``rank`` dimensions and the batch."""
    shape = b.type_of(x.value).shape
    if not x.batched or len(shape) == rank + 1:
        return x.value
    return b.reshape(x.value, shape=(shape[0], *(1,) * (rank + 1 - len(shape)), *shape[1:]))


def to_front(b: Builder, value: Any, axis: int) -> Any:
    """The batch dimension moved from ``axis`` to the front."""
    if axis == 0:
        return value
    rank = len(b.type_of(value).shape)
    return b.permute(value, axes=(axis, *(i for i in range(rank) if i != axis)))


def to_back(b: Builder, value: Any) -> Any:
    """The batch dimension moved from the front to the end."""
    return b.permute(value, axes=(*range(1, len(b.type_of(value).shape)), 0))


def positions(b: Builder, size: Dim, shape: Sequence[Dim], like: TensorType) -> Any:
    """int64 of shape ``(size, *shape)``: the position in the batch."""
    return b.iota(shape=(size, *shape), axis=0, dtype=int64, device=like.device)


def _shifted(value: Any) -> Any:
    return tuple(v + 1 for v in value) if isinstance(value, tuple) else value + 1


def shifting(*names: str) -> BatchRule:
    """The rule of an op of one operand whose attributes ``names`` are axes."""

    def rule(
        b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
    ) -> Any:
        changed = {k: _shifted(v) if k in names else v for k, v in attributes.items()}
        return b.apply(op, [whole(b, size, x) for x in operands], changed)

    return rule


def extending(**first: Callable[[Dim], Any]) -> BatchRule:
    """The rule of an op whose attributes have one entry a dimension: the batch's is given."""

    def rule(
        b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
    ) -> Any:
        changed = dict(attributes)
        for name, entry in first.items():
            changed[name] = (entry(size), *attributes[name])
        return b.apply(op, [whole(b, size, x) for x in operands], changed)

    return rule


# graphs inside of nodes ------------------------------------------------------------------


def batched_inputs(
    body: Graph, size: Dim, flags: Sequence[bool]
) -> tuple[GraphBuilder, list[Operand]]:
    """A builder that has the inputs of ``body``, with the batch where the flag says so."""
    inner = GraphBuilder()
    operands = []
    for value, flag in zip(body.inputs, flags, strict=True):
        shape = (size, *value.type.shape) if flag else value.type.shape
        operands.append(Operand(inner.input(value.type.with_shape(shape), value.name), flag))
    return inner, operands


def batched_body(
    body: Graph, size: Dim, flags: Sequence[bool], carries: int
) -> tuple[Graph, list[bool]]:
    """The body for a batch, and which of the new carried values depend on it.

    ``flags``: which inputs have the batch. Results have it, too, but of the first ``carries``
    those whose input has not.
    """
    inner, operands = batched_inputs(body, size, flags)
    results = emitted(BatchBuilder(inner, size), body, operands)
    outputs = [
        x.value if i < carries and not flags[i] else whole(inner, size, x)
        for i, x in enumerate(results)
    ]
    return inner.build(outputs, name=body.name), [x.batched for x in results[:carries]]


def settled_flags(body: Graph, size: Dim, flags: Sequence[bool], carries: int) -> list[bool]:
    """``flags`` with every carried value marked that has the batch from some step on."""
    settled = list(flags)
    while True:
        found = batched_body(body, size, settled, carries)[1]
        changed = [a or b for a, b in zip(settled[:carries], found, strict=True)]
        if changed == settled[:carries]:
            return settled
        settled[:carries] = changed


# by kind ---------------------------------------------------------------------------------


def _elementwise(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    rank = max(len(b.type_of(x.value).shape) - x.batched for x in operands)
    return b.apply(op, [aligned(b, x, rank) for x in operands], attributes)


def leading(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    """The rule of an op that takes any number of leading dimensions."""
    return b.apply(op, [whole(b, size, x) for x in operands], attributes)


KIND_RULES: Mapping[OpKind, BatchRule] = {
    OpKind.ELEMENTWISE: _elementwise,
    OpKind.REQUIREMENT: _elementwise,
    OpKind.REDUCTION: shifting("axes"),
    OpKind.SCAN: shifting("axis"),
    OpKind.BARRIER: leading,
    OpKind.TRANSFER: leading,
    OpKind.HOST: leading,  # whose matrices are the last dimensions
}


# one by one ------------------------------------------------------------------------------


def permute(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    axes = (0, *_shifted(attributes["axes"]))
    return b.permute(operands[0].value, axes=axes)


def expand(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    shape = attributes["shape"]
    return b.expand_to(aligned(b, operands[0], len(shape)), (size, *shape))


def pad(b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes) -> Any:
    """A batched border value is chosen where a padded mask says so."""
    x, border = whole(b, size, operands[0]), operands[1]
    low, high = (0, *attributes["low"]), (0, *attributes["high"])
    if not border.batched:
        return b.pad(x, border.value, low=low, high=high)
    type = b.type_of(x)
    inner = b.pad(x, b.constant(0, type), low=low, high=high)
    ones = b.full(value=True, shape=type.shape, dtype=bool_, device=type.device)
    mask = b.pad(ones, b.constant(False, b.type_of(ones)), low=low, high=high)
    return b.where(mask, inner, aligned(b, border, len(type.shape) - 1))


def dot_general(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    """One more batch dimension, or one more free dimension of the operand that has it."""
    x, y = operands
    contract = tuple(
        _shifted(a) if o.batched else a
        for a, o in zip(attributes["contract"], operands, strict=True)
    )
    batch = tuple(
        _shifted(a) if o.batched else a for a, o in zip(attributes["batch"], operands, strict=True)
    )
    if x.batched and y.batched:
        batch = tuple((0, *axes) for axes in batch)
    changed = {**attributes, "contract": contract, "batch": batch}
    result = b.apply(op, [x.value, y.value], changed)
    if x.batched and y.batched:
        return result
    used = len(batch[0])
    if x.batched:
        return to_front(b, result, used)
    free = len(b.type_of(x.value).shape) - used - len(contract[0])
    return to_front(b, result, used + free)


def convolution(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    """The batch joins the images, or becomes groups of channels where kernels differ."""
    x, w = operands
    if not w.batched:
        n, *rest = b.type_of(x.value).shape[1:]
        merged = b.reshape(x.value, shape=(size * n, *rest))
        result = b.apply(op, [merged, w.value], attributes)
        return b.reshape(result, shape=(size, n, *b.type_of(result).shape[1:]))
    images = whole(b, size, x)
    _, n, channels, *extent = b.type_of(images).shape
    order = (1, 0, *range(2, 3 + len(extent)))
    side_by_side = b.reshape(b.permute(images, axes=order), shape=(n, size * channels, *extent))
    _, filters, *kernel = b.type_of(w.value).shape
    kernels = b.reshape(w.value, shape=(size * filters, *kernel))
    changed = {**attributes, "groups": size * attributes["groups"]}
    result = b.apply(op, [side_by_side, kernels], changed)
    shape = b.type_of(result).shape
    apart = b.reshape(result, shape=(n, size, filters, *shape[2:]))
    return b.permute(apart, axes=(1, 0, *range(2, len(shape) + 1)))


def index(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    x, *indices = operands
    if not any(i.batched for i in indices):
        found = b.apply(op, [to_back(b, x.value), *(i.value for i in indices)], attributes)
        return to_front(b, found, len(b.type_of(found).shape) - 1)
    places = [whole(b, size, i) for i in indices]
    if not x.batched:
        return b.apply(op, [x.value, *places], attributes)
    type = b.type_of(places[0])
    return b.apply(op, [x.value, positions(b, size, type.shape[1:], type), *places], attributes)


def index_put(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    x, values, *indices = operands
    into, put = whole(b, size, x), whole(b, size, values)
    if not any(i.batched for i in indices):
        places = [i.value for i in indices]
        found = b.apply(op, [to_back(b, into), to_back(b, put), *places], attributes)
        return to_front(b, found, len(b.type_of(found).shape) - 1)
    places = [whole(b, size, i) for i in indices]
    type = b.type_of(places[0])
    which = positions(b, size, type.shape[1:], type)
    return b.apply(op, [into, put, which, *places], attributes)
