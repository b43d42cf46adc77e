"""Algebra that holds exactly, for every value that a dtype has: NaN, infinities and -0.0 too.

In: any graph without a pending differentiation (barriers are dropped). Out: a
graph without neutral elements, double negations, selections by constants,
conversions there and back, comparisons of what was only scaled, views of views, and broadcasts
that an elementwise operation does by itself. Rules read the kind and the facts of an operation;
an operation is named only where a rule is about its own meaning.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.fold_constants import constant_value
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite
from flamec.ir.passes.simplify_broadcasts import broadcast_to, drop_stretching
from flamec.ir.passes.simplify_comparisons import simplify_comparison
from flamec.ir.passes.simplify_puts import sum_of_placed
from flamec.ir.passes.simplify_views import (
    drop_single_reduction,
    simplify_assembly,
    simplify_view,
)
from flamec.ir.shape import structurally_equal
from flamec.ir.types import DType


def simplify(graph: Graph, strict: bool = False, settled: set[Node] | None = None) -> Graph:
    """The same program by exact algebra; dead nodes are left to ``eliminate_dead_code``.

    Unless ``strict``, small powers become products, which are exact where powers are a bit off.
    ``settled``: see ``rewrite``.
    """
    rule = partial(_simplify, strict=strict)
    return rewrite(graph, rule, applies=lambda op: op.kind in _KINDS, settled=settled)


_KINDS = (
    OpKind.ELEMENTWISE,
    OpKind.VIEW,
    OpKind.REDUCTION,
    OpKind.SCAN,
    OpKind.ASSEMBLE,
    OpKind.BARRIER,
)


def _simplify(b: RewriteBuilder, node: Node, strict: bool) -> Value | None:
    kind = node.op.kind
    if kind is OpKind.ELEMENTWISE:
        return _simplify_elementwise(b, node, strict)
    if kind is OpKind.VIEW:
        return simplify_view(b, node)
    if kind is OpKind.REDUCTION:
        return drop_single_reduction(b, node) or sum_of_placed(b, node)
    if kind is OpKind.SCAN:
        return _scan_of_one(node)
    if kind is OpKind.ASSEMBLE:
        return simplify_assembly(b, node)
    if kind is OpKind.BARRIER:
        return node.inputs[0]
    return None


def _scan_of_one(node: Node) -> Value | None:
    """Up to the only element there is that element."""
    if len(node.outputs) > 1 or node.inputs[0].type != node.output.type:
        return None
    size = node.output.type.shape[node.attributes["axis"]]
    return node.inputs[0] if structurally_equal(size, 1) else None


def _simplify_elementwise(b: RewriteBuilder, node: Node, strict: bool) -> Value | None:
    if len(node.inputs) == 1:
        return _simplify_conversion(b, node) if node.op.name == "convert" else _repeated(node)
    if node.op.name == "where":
        chosen = _selected(b, node)
    elif node.op.name == "pow":
        chosen = None if strict else _small_power(b, node)
        chosen = chosen or _neutral(b, node)
    else:
        chosen = _neutral(b, node)
    return chosen or simplify_comparison(b, node) or drop_stretching(b, node)


def _repeated(node: Node) -> Value | None:
    """f(f(x)) is x for an involution, f(x) if f is idempotent."""
    (operand,) = node.inputs
    producer = operand.node
    if producer is None or producer.op is not node.op:
        return None
    if node.op.involution:
        return producer.inputs[0]
    return operand if node.op.idempotent else None


def _neutral(b: RewriteBuilder, node: Node) -> Value | None:
    """x where the other operand is the operation's neutral element."""
    if node.op.identity is None or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if _is_neutral(node, right):
        return broadcast_to(b, left, node.output.type.shape)
    if node.op.commutative and _is_neutral(node, left):
        return broadcast_to(b, right, node.output.type.shape)
    return None


def _is_neutral(node: Node, operand: Value) -> bool:
    element = constant_value(operand)
    if element is None:
        return False
    dtype = operand.type.dtype
    neutral = np.asarray(node.op.identity(dtype)).astype(dtype.numpy)
    return element.tobytes() == neutral.tobytes()  # bits, as 0.0 is not -0.0


def _selected(b: RewriteBuilder, node: Node) -> Value | None:
    """``where`` with a constant condition, or with the same value on both sides."""
    condition, yes, no = node.inputs
    known = constant_value(condition)
    if yes is no:
        chosen = yes
    elif known is not None:
        chosen = yes if known else no
    else:
        return None
    return broadcast_to(b, chosen, node.output.type.shape)


def _small_power(b: RewriteBuilder, node: Node) -> Value | None:
    """Products and quotients in place of the constant powers 0, 2, 3 and -1."""
    base, exponent = node.inputs
    element = constant_value(exponent)
    if element is None:
        return None
    type = node.output.type
    if element == 0:
        return b.full(value=1, shape=type.shape, dtype=type.dtype, device=type.device)
    if element == 2:
        power = b.mul(base, base)
    elif element == 3 and not type.dtype.is_half:  # whose products would be rounded twice
        power = b.mul(b.mul(base, base), base)
    elif element == -1 and type.dtype.is_floating_point:
        power = b.div(b.constant(1.0, type), base)
    else:
        return None
    return broadcast_to(b, power, type.shape)


def _simplify_conversion(b: RewriteBuilder, node: Node) -> Value | None:
    """Conversions to the same dtype, and by way of a dtype that loses nothing."""
    (operand,) = node.inputs
    dtype = node.output.type.dtype
    if operand.type.dtype is dtype:
        return operand
    producer = operand.node
    if producer is None or producer.op is not node.op:
        return None
    source = producer.inputs[0]
    if not _holds_all(source.type.dtype, operand.type.dtype):
        return None
    return b.cast(source, dtype)


def _holds_all(narrow: DType, wide: DType) -> bool:
    """Whether every value of ``narrow`` is one of ``wide``."""
    if narrow is wide or narrow.kind == "bool":
        return True
    if wide.kind == "bool" or (narrow.is_floating_point and not wide.is_floating_point):
        return False
    if narrow.is_floating_point:
        return narrow.itemsize < wide.itemsize
    bounds = np.iinfo(narrow.numpy)
    if wide.is_floating_point:
        return bounds.max.bit_length() <= _SIGNIFICANT_BITS[wide.name]
    limits = np.iinfo(wide.numpy)
    return limits.min <= bounds.min and bounds.max <= limits.max


_SIGNIFICANT_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
