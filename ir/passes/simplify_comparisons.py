"""Comparisons with a constant, moved to what the compared number was made of.

In: a comparison of float32 or float64 numbers. Out: the same truth, for every operand, from fewer
operations: a factor that is a power of two goes to the constant, and integers of few bits are
compared before they become floats. Random bits are so compared with a threshold.
"""

from __future__ import annotations

import math

import numpy as np

from flamec.ir.graph import Node, Value
from flamec.ir.passes.fold_constants import constant_value
from flamec.ir.passes.rewrite import RewriteBuilder
from flamec.ir.types import bool_, float32, float64

_NEAREST = {"ge": math.ceil, "lt": math.ceil, "gt": math.floor, "le": math.floor}
_EXACT_BITS = {float32: 24, float64: 53}  # integers of so many bits are floats


def simplify_comparison(b: RewriteBuilder, node: Node) -> Value | None:
    """See the module's docstring; only constants on the right."""
    if len(node.inputs) != 2 or node.output.type.dtype is not bool_:
        return None
    left, right = node.inputs
    bound = constant_value(right)
    if bound is None or left.type.dtype not in _EXACT_BITS or left.node is None:
        return None
    if not np.isfinite(bound):
        return None
    if left.node.op.name == "mul":
        return _unscaled(b, node, left.node, bound)
    return _of_integers(b, node, left.node, float(bound))


def _unscaled(b: RewriteBuilder, node: Node, product: Node, bound: np.ndarray) -> Value | None:
    """x * 2^k against c is x against c / 2^k, unless that is no normal number: products that
    are rounded, because they are subnormal, stay on the same side of a normal one."""
    x, scale = product.inputs
    factor = constant_value(scale)
    if factor is None or not factor > 0 or math.frexp(float(factor))[0] != 0.5:
        return None
    least = float(np.finfo(bound.dtype).tiny)
    with np.errstate(all="ignore"):
        moved = bound / factor
    if not np.isfinite(moved) or min(abs(float(bound)), abs(float(moved)), float(factor)) < least:
        return None
    return b.apply(node.op, (x, b.constant(float(moved), x.type)), node.attributes)


def _of_integers(b: RewriteBuilder, node: Node, conversion: Node, bound: float) -> Value | None:
    """Integers below a power of two that floats hold exactly."""
    nearest = _NEAREST.get(node.op.name)
    if nearest is None or conversion.op.name != "convert":
        return None
    (integers,) = conversion.inputs
    masked = integers.node
    if masked is None or masked.op.name != "bitwise_and" or integers.type.dtype is bool_:
        return None
    masks = [m for m in map(constant_value, masked.inputs) if m is not None]
    limit = 1 << _EXACT_BITS[conversion.output.type.dtype]
    if not any(0 <= mask < limit for mask in masks):
        return None
    threshold = nearest(bound)
    if not np.iinfo(integers.type.dtype.numpy).min <= threshold <= limit:
        return None
    return b.apply(node.op, (integers, b.constant(threshold, integers.type)), node.attributes)
