"""How each kind of task runs over the axes of its group.

In: a task, the axes of the values before it. Out: the axes of its result's dimensions; on
the way its operands are located and the axes that must run together are unified.
``Incompatible`` says why a task cannot share loops with those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flamec.ir.graph import Node, Value
from flamec.ir.group_space import Address, GroupSpace, Guard, Operand
from flamec.ir.iteration_space import Axes, Axis, Dims, Incompatible, fresh_axes, fresh_dims, unify
from flamec.ir.layout import Access, Dimension, Layout, dense, strided, through_views
from flamec.ir.op import CONTROL, OpKind
from flamec.ir.shape import Dim, structurally_equal
from flamec.ir.tasks import Task


# operands ----------------------------------------------------------------------------
def find(space: GroupSpace, value: Value, extra: Node | None = None) -> Operand:
    """Locate a value, optionally seen through one more view node."""
    root, chain = space.context.resolve(value)
    if extra is not None:
        chain = (*chain, extra)
    if root in space.assembled:
        raise Incompatible("is assembled from several parts")
    borders = [node for node in chain if node.op.name == "pad"]
    dims: Dims
    if root in space.dims:
        dims = space.dims[root]
        if not any(dims) and not borders:  # a single element looks the same through every view
            shape = chain[-1].output.type.shape if chain else root.type.shape
            return Operand(root, [[] for _ in shape], computed=True)
        for view in chain:
            dims = _view_axes(view, dims)
        return Operand(root, dims, computed=True)
    from_memory = root in space.context.roots
    node = root.node
    if not from_memory:
        assert node is not None
        if node.op.name != "iota":
            shape = chain[-1].output.type.shape if chain else root.type.shape
            return Operand(root, [[] for _ in shape])
        axis, shape = node.attributes["axis"], root.type.shape
        positions = strided(shape, tuple(int(i == axis) for i in range(len(shape))))
        access = through_views(Access(positions), chain)
    elif extra is None:
        access = space.context.access(value)
    else:
        access = through_views(Access(dense(root.type.shape)), chain)
    if access is None:
        raise Incompatible("a view cannot be expressed by strides")
    dims = [[Axis(f.size) for f in dim] for dim in access.layout.dims]
    guards = []
    for at, size in access.bounds:
        own: Dims = [[Axis(f.size) for f in dim] for dim in at.dims]
        for bounded, axes in zip(own, dims, strict=True):
            unify(bounded, axes)
        guards.append(Guard(_located(at, own), size))
    return Operand(
        root,
        dims,
        address=_located(access.layout, dims),
        from_memory=from_memory,
        guards=tuple(guards),
        fill=borders[0].inputs[1] if borders else None,
    )


def _located(layout: Layout, dims: Dims) -> Address:
    """The place in memory of elements whose axes are those of the layout's factors."""
    terms: list[tuple[Axis, Dim]] = []
    for factors, axes in zip(layout.dims, dims, strict=True):
        terms.extend((axis, f.stride) for axis, f in zip(axes, factors, strict=True))
    return Address(layout.offset, tuple(terms))


def _view_axes(node: Node, dims: Dims) -> Dims:
    """The axes of a view of a value that is computed in the group."""
    if node.op.kind is OpKind.BARRIER:
        return dims
    have, want = node.inputs[0].type.shape, node.output.type.shape
    match node.op.name:
        case "permute":
            return [dims[a] for a in node.attributes["axes"]]
        case "expand":
            extra = len(want) - len(have)
            result = [fresh_axes(size) for size in want[:extra]]
            for size, target, dim in zip(have, want[extra:], dims, strict=True):
                result.append(fresh_axes(target) if structurally_equal(size, 1) else dim)
            return result
        case "reshape":
            result = fresh_dims(want)
            unify([a for dim in dims for a in dim], [a for dim in result for a in dim])
            return result
    raise Incompatible(f"{node.op.name} reads other elements than the ones just computed")


def _unify_dims(a: Dims, b: Dims) -> None:
    """Right-aligned, as in broadcasting; a dimension without axes fits everything."""
    for left, right in zip(reversed(a), reversed(b), strict=False):
        if left and right:
            unify(left, right)


def _broadcast(space: GroupSpace, task: Task, values: Sequence[Value]) -> Dims:
    dims = fresh_dims(task.results[0].type.shape)
    operands = []
    for value in values:
        operand = find(space, value)
        for size, have, want in zip(
            reversed(value.type.shape), reversed(operand.dims), reversed(dims), strict=False
        ):
            if have and want and not structurally_equal(size, 1):
                unify(want, have)
        operands.append(operand)
    space.operands[task] = operands
    return dims


# rules -------------------------------------------------------------------------------
def _elementwise(space: GroupSpace, task: Task) -> Dims:
    return _broadcast(space, task, task.operands)


def _view(space: GroupSpace, task: Task) -> Dims:
    """A view that was given memory: a copy of its operand, seen through itself."""
    assert task.node is not None
    operand = find(space, task.operands[0], task.node)
    dims = fresh_dims(task.results[0].type.shape)
    _unify_dims(dims, operand.dims)
    space.operands[task] = [operand]
    return dims


def _copy(space: GroupSpace, task: Task) -> Dims:
    """``region`` maps the operand's dimensions, one factor each, into the result's buffer."""
    assert task.region is not None
    value = task.operands[0]
    operand = find(space, value)
    dims = fresh_dims(value.type.shape)
    _unify_dims(dims, operand.dims)
    space.operands[task] = [operand]
    space.regions[task] = _address(task.region, dims)
    return dims


def _address(layout: Layout, dims: Dims) -> Address:
    terms = []
    for factors, axes in zip(layout.dims, dims, strict=True):
        terms.extend(_dimension_terms(factors, axes))
    return Address(layout.offset, tuple(terms))


def _dimension_terms(factors: Dimension, axes: Axes) -> list[tuple[Axis, Dim]]:
    if not factors or not axes:
        return []
    own = [Axis(f.size) for f in factors]
    unify(own, axes)
    return [(axis, f.stride) for axis, f in zip(own, factors, strict=True)]


def _reduction(space: GroupSpace, task: Task) -> Dims:
    assert task.node is not None
    operand = find(space, task.operands[0])
    operand.dims = _filled(operand.dims, task.operands[0].type.shape)
    folded = task.node.attributes["axes"]
    space.operands[task] = [operand]
    return [d for i, d in enumerate(operand.dims) if i not in folded]


def _filled(dims: Dims, shape: Sequence[Dim]) -> Dims:
    """Axes also for dimensions along which a constant was broadcast."""
    return [axes or fresh_axes(size) for axes, size in zip(dims, shape, strict=True)]


def _contraction(space: GroupSpace, task: Task) -> Dims:
    space.operands[task] = []
    return fresh_dims(task.results[0].type.shape)


def _creation(space: GroupSpace, task: Task) -> Dims:
    """A creation node that was given memory."""
    assert task.node is not None
    dims = fresh_dims(task.results[0].type.shape)
    space.operands[task] = []
    if task.node.op.name == "iota":
        axis = task.node.attributes["axis"]
        shape = task.results[0].type.shape
        unit = strided(shape, tuple(int(i == axis) for i in range(len(shape))))
        space.positions[task] = _address(unit, dims)
    return dims


def _random(space: GroupSpace, task: Task) -> Dims:
    dims = fresh_dims(task.results[0].type.shape)
    state = find(space, task.operands[0])
    assert state.address is not None
    state.dims = []
    space.operands[task] = [state]
    assert task.node is not None
    words = _address(dense(task.results[0].type.shape), dims)
    start = task.node.attributes.get("start", 0)
    space.positions[task] = Address(words.offset + start, words.terms)
    return dims


def _counts_up_to(value: Value, index: Operand, size: Dim) -> bool:
    """Whether an index is a counter from 0 that ends within a dimension of this size."""
    if not index.is_position or value.node is None or "axis" not in value.node.attributes:
        return False
    return structurally_equal(value.type.shape[value.node.attributes["axis"]], size)


def _indexed(
    space: GroupSpace, x: Value, indices: Sequence[Value], dims: Dims, inside: bool
) -> Operand:
    """The elements of ``x`` at computed places, for a result of axes ``dims``. ``inside``: all
    places are known to exist."""
    if space.context.root(x) in space.dims:
        raise Incompatible("is read at computed places")
    operand = find(space, x)
    layout = space.context.layout(x)
    assert layout is not None
    found = []
    rank = len(indices[0].type.shape)
    for position, value in enumerate(indices):
        index = find(space, value)
        _unify_dims(dims[:rank], index.dims)
        stride = layout.dims[position][0].stride if layout.dims[position] else 0
        size = x.type.shape[position]
        found.append((index, stride, size, inside or _counts_up_to(value, index, size)))
    rest = Layout(layout.offset, layout.dims[len(indices) :])
    operand.address = _address(rest, dims[rank:])
    operand.dims = dims
    operand.indices = tuple(found)
    return operand


def _gather(space: GroupSpace, task: Task) -> Dims:
    dims = fresh_dims(task.results[0].type.shape)
    assert task.node is not None
    x, *indices = task.node.inputs
    if task.one_per_row and space.context.root(x) in space.dims:
        return _pick(space, task)
    inside = task.node.attributes.get("inside", False)
    space.operands[task] = [_indexed(space, x, indices, dims, inside)]
    return dims


def _pick(space: GroupSpace, task: Task) -> Dims:
    """One element of each row that the group computes: a fold over the row."""
    matrix, index = (find(space, value) for value in task.operands)
    dims = fresh_dims(task.results[0].type.shape)
    _unify_dims(dims, matrix.dims[:-1])
    _unify_dims(dims, index.dims)
    matrix.dims = [*dims, matrix.dims[-1] or fresh_axes(task.operands[0].type.shape[-1])]
    space.operands[task] = [matrix, index]
    space.picks.add(task)
    return dims


def _place_one(space: GroupSpace, task: Task) -> Dims:
    """A value in one column of each row, zero in the others."""
    values, index = (find(space, value) for value in task.operands)
    dims = fresh_dims(task.results[0].type.shape)
    _unify_dims(dims[:-1], values.dims)
    _unify_dims(dims[:-1], index.dims)
    space.operands[task] = [values, index]
    space.positions[task] = Address(0, tuple((axis, 1) for axis in dims[-1]))
    return dims


def _scatter(space: GroupSpace, task: Task) -> Dims:
    """Values are stored at computed places of a buffer that a copy has filled."""
    if task.one_per_row:
        return _place_one(space, task)
    values, *indices = task.operands
    target = task.results[0]
    if target in space.assembled:
        raise Incompatible("its buffer must be filled first")
    dims = fresh_dims(values.type.shape)
    operand = find(space, values)
    _unify_dims(dims, operand.dims)
    rank = len(indices[0].type.shape)
    layout = dense(target.type.shape)
    assert task.node is not None
    inside = task.node.attributes["mode"] == "over"
    found = []
    for position, value in enumerate(indices):
        index = find(space, value)
        _unify_dims(dims[:rank], index.dims)
        stride = layout.dims[position][0].stride if layout.dims[position] else 0
        found.append((index, stride, target.type.shape[position], inside))
    rest = Layout(0, layout.dims[len(indices) :])
    place = Operand(
        target, dims, address=_address(rest, dims[rank:]), indices=tuple(found), from_memory=True
    )
    space.operands[task] = [operand, place]
    return dims


def _pad(space: GroupSpace, task: Task) -> Dims:
    assert task.node is not None
    x, value = task.operands
    if space.context.root(x) in space.dims:
        raise Incompatible("is read at shifted places")
    dims = fresh_dims(task.results[0].type.shape)
    layout = space.context.layout(x)
    assert layout is not None
    offset, terms, guards = layout.offset, [], []
    low, high = task.node.attributes["low"], task.node.attributes["high"]
    for axis, (factors, axes) in enumerate(zip(layout.dims, dims, strict=True)):
        size = x.type.shape[axis]
        if structurally_equal(low[axis], 0) and structurally_equal(high[axis], 0):
            terms.extend(_dimension_terms(factors, axes))
            continue
        stride = factors[0].stride if factors else 0
        terms.extend((axis_, stride) for axis_ in axes)
        offset = offset - low[axis] * stride
        guards.append(Guard(Address(-low[axis], tuple((axis_, 1) for axis_ in axes)), size))
    source = find(space, x)
    source.dims, source.guards = dims, tuple(guards)
    source.address = Address(offset, tuple(terms))
    space.operands[task] = [source, find(space, value)]
    return dims


def _scan(space: GroupSpace, task: Task) -> Dims:
    operands = [find(space, operand) for operand in task.operands]
    dims = fresh_dims(task.results[0].type.shape)
    for operand in operands:
        _unify_dims(dims, operand.dims)
    space.operands[task] = operands
    return dims


_Rule = Callable[[GroupSpace, Task], Dims]


def _never(reason: str) -> _Rule:
    """The rule of what is in no loop of a kernel with others."""

    def rule(space: GroupSpace, task: Task) -> Dims:
        raise Incompatible(f"{task.name} {reason}")

    return rule


_RULES: dict[OpKind | None, _Rule] = {
    None: _copy,
    OpKind.ELEMENTWISE: _elementwise,
    OpKind.REQUIREMENT: _elementwise,
    OpKind.VIEW: _view,
    OpKind.BARRIER: _view,
    OpKind.REDUCTION: _reduction,
    OpKind.CONTRACTION: _contraction,
    OpKind.CREATION: _creation,
    OpKind.RANDOM: _random,
    OpKind.GATHER: _gather,
    OpKind.SCATTER: _scatter,
    OpKind.ASSEMBLE: _pad,
    OpKind.SCAN: _scan,
    OpKind.HOST: _never("is computed by the host, in no loop of a kernel"),
    OpKind.KERNEL: _never("is a kernel that the user wrote"),
    OpKind.ATTENTION: _never("is a kernel of its own"),
    OpKind.SORT: _never("is a kernel of its own"),
    **dict.fromkeys(CONTROL, _never("runs graphs of its own, in no loop of a kernel")),
}


def run_over(space: GroupSpace, task: Task) -> Dims:
    """The dimensions that a task runs over, by the rule of its kind."""
    return _RULES[task.kind](space, task)
