"""Copy operands of large float32 products so that what is contracted lies side by side.

In: a graph before its contractions have their normal form, and how float32 is multiplied in
products and in parts of convolutions. Out: one in which every large float32 operand of a product in
tf32 has its elements side by side along the last axis that is contracted. Matrix instructions on
operands rounded to tf32 read no others; a block in another order would be rearranged for each of
its uses, which takes longer than the products.
Of windows that overlap there are more than memory has: where the other operand alone can be copied,
that is done, and the windows, which become the right operand, pass through registers on their way.
Nothing is copied where that is not worth it: other instructions read any order, at half the rate.
"""

from __future__ import annotations

from flamec.ir.estimates import estimate
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.layout import Layout, dense, is_view, view_layout
from flamec.ir.op import OpKind, lookup
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.shape import Dim, is_multiple, product, structurally_equal
from flamec.ir.types import float32

LARGE = 1 << 27  # multiplications that are worth one more pass over an operand
LINE = 4  # elements, to whose multiples lines are apart for the copy engine
REUSE = 300  # of each element that is copied: what is saved takes as long as the copy
REUSE_ALONE = 900  # the same where only one operand is put in order, which saves less


def contract_contiguous(graph: Graph, products: str = "tf32", convolutions: str = "tf32") -> Graph:
    """See the module's docstring."""

    def contiguous(b: RewriteBuilder, node: Node) -> Replacement:
        if node.op.kind is not OpKind.CONTRACTION:
            return None
        precision = convolutions if "part_of" in node.attributes else products
        return _contiguous(b, node) if precision == "tf32" else None

    return rewrite(graph, contiguous, applies=lambda op: op.kind is OpKind.CONTRACTION)


def _contiguous(b: RewriteBuilder, node: Node) -> Replacement:
    contract, batch = list(node.attributes["contract"]), list(node.attributes["batch"])
    operands = list(node.inputs)
    across = [side for side in (0, 1) if _lies_across(node.inputs[side], contract[side])]
    written = [side for side in (0, 1) if _is_written(operands[side], operands[1 - side])]
    sides = next((sides for sides in (across, written) if _pays(node, sides)), None)
    if sides is None:
        sides = _only_side(node, across)
    if sides is None:
        return None
    for side in sides:
        value = node.inputs[side]
        rank, axes = value.type.ndim, contract[side]
        order = (*(a for a in range(rank) if a not in axes), *axes)
        moved = b.permute(value, axes=order)
        operands[side] = b.apply(lookup("convert"), (moved,), {"dtype": float32})
        contract[side] = tuple(range(rank - len(axes), rank))
        batch[side] = tuple(order.index(a) for a in batch[side])
    turned = len(across) == 2 and sides == [1]  # what is copied is to be the left one
    turn = slice(None, None, -1 if turned else 1)
    changed = {"contract": tuple(contract[turn]), "batch": tuple(batch[turn])}
    found = b.apply(node.op, operands[turn], {**node.attributes, **changed})
    if not turned:
        return found
    batches, rank = len(batch[0]), found.type.ndim
    first = operands[1].type.ndim - len(contract[1])  # of the columns, which are the rows wanted
    axes = (*range(batches), *range(first, rank), *range(batches, first))
    return b.permute(found, axes=axes)


def _only_side(node: Node, across: list[int]) -> list[int] | None:
    """The operand that is copied because the other one, windows, cannot be, if that pays. The copy
    engine brings it if lines are whole."""
    if len(across) < 2 or not is_multiple(_depth(node), LINE):
        return None
    can = [side for side in across if not _overlaps(node.inputs[side])]
    return can if len(can) == 1 and _pays(node, can, REUSE_ALONE) else None


def _depth(node: Node) -> Dim:
    left = node.inputs[0].type.shape
    return product(left[axis] for axis in node.attributes["contract"][0])


def _pays(node: Node, sides: list[int], reuse: int | None = None) -> bool:
    copied = [node.inputs[side] for side in sides]
    multiplications = estimate(product(node.output.type.shape) * _depth(node))
    if not copied or multiplications < LARGE:
        return False
    if any(map(_overlaps, copied)):
        return False
    return (REUSE if reuse is None else reuse) * sum(map(_elements, copied)) <= multiplications


def _overlaps(value: Value) -> bool:
    """Whether a copy would be larger than what is in memory, as of windows."""
    return _elements(value) > _elements(_in_memory(value)[0])


def _lies_across(value: Value, contracted: tuple[int, ...]) -> bool:
    """Whether the elements of a float32 operand do not lie side by side along the depth."""
    if value.type.dtype is not float32:
        return False
    _, layout = _in_memory(value)
    steps = [layout.dims[axis] for axis in contracted if layout.dims[axis]]
    return bool(steps) and not structurally_equal(steps[-1][-1].stride, 1)


def _is_written(value: Value, other: Value) -> bool:
    """Whether a float32 operand, the smaller one, is put together with borders: it is written
    anyway, and may as well be so that its elements lie side by side along the depth."""
    root, larger = _in_memory(value)[0], _in_memory(other)[0]
    if value.type.dtype is not float32 or root.node is None or root.node.op.name != "pad":
        return False
    return _elements(value) < _elements(larger)


def _elements(value: Value) -> int:
    return estimate(product(value.type.shape))


def _in_memory(value: Value) -> tuple[Value, Layout]:
    """What a value is a view of, and where its elements are there."""
    node = value.node
    if node is not None and is_view(node):
        root, inner = _in_memory(node.inputs[0])
        found = view_layout(node, inner)
        if found is not None:
            return root, found
    return value, dense(value.type.shape)
