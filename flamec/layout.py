"""Where the elements of a tensor lie in its storage: strides and offset, in elements.

Computed from the view steps that lead from the storage's base to the tensor, so
the answer is the same while running and while tracing, for symbolic sizes too.
Relations between symbolic sizes are judged by form alone: asking adds no guard on sizes,
unless the function is traced for a size of 1. What is asked of the layout of an argument or of a
captured tensor is noted (``ask``), and becomes a guard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from flamec.ir.shape import Dim, SymbolicDim, equal, structurally_equal
from flamec.ir.types import TensorType
from flamec.roots import AliasDiscovered
from flamec.state import thread
from flamec.tensor import ExampleStorage, Storage, Tensor, ViewStep
from flamec.watching import unwatched

Strides = tuple[Dim, ...]


@overload
def row_major(shape: Sequence[int]) -> tuple[int, ...]: ...
@overload
def row_major(shape: Sequence[Dim]) -> Strides: ...
def row_major(shape: Sequence[Dim]) -> Strides:
    """The strides of a contiguous array of this shape."""
    strides: list[Dim] = []
    step: Dim = 1
    for dim in reversed(shape):
        strides.append(step)
        if not structurally_equal(dim, 0):
            step = step * dim
    return tuple(reversed(strides))


def _is_one(dim: Dim) -> bool:
    if isinstance(dim, int):
        return dim == 1
    return thread.trace is not None and thread.trace.is_one(dim)


def is_row_major(
    shape: Sequence[Dim], strides: Strides, same: Callable[[Dim, Dim], bool] = structurally_equal
) -> bool:
    """Whether these strides are those of a contiguous array (any, where the size is 1).

    ``same``: how sizes are compared.
    """
    if any(same(d, 0) for d in shape):
        return True
    step: Dim = 1
    for dim, stride in zip(reversed(shape), reversed(strides), strict=True):
        if same(stride, step):
            step = step * dim
            continue
        if not (same(dim, 1) or _is_one(dim)):
            return False
    return True


def view_strides(
    shape: Sequence[Dim], strides: Strides, new_shape: Sequence[Dim]
) -> Strides | None:
    """The strides with which a view has ``new_shape``, or None if that takes a copy.

    The rule of PyTorch's ``computeStride``: runs of dimensions that lie evenly in
    memory may be cut anew, each run by itself.
    """
    if is_row_major(shape, strides):
        return row_major(new_shape)
    shape = [1 if _is_one(d) else d for d in shape]
    new_shape = [1 if _is_one(d) else d for d in new_shape]
    result: list[Dim] = [0] * len(new_shape)
    position = len(new_shape) - 1
    run: Dim = 1  # elements in the run of old dimensions met so far
    step = strides[-1]
    for axis in reversed(range(len(shape))):
        run = run * shape[axis]
        starts_run = axis == 0 or (
            not structurally_equal(strides[axis - 1], run * step) and not _is_one(shape[axis - 1])
        )
        if not starts_run:
            continue
        covered: Dim = 1
        while position >= 0 and (
            not structurally_equal(covered, run) or _is_one(new_shape[position])
        ):
            result[position] = covered * step
            covered = covered * new_shape[position]
            position -= 1
        if not structurally_equal(covered, run):
            return None
        if axis > 0:
            step = strides[axis - 1]
            run = 1
    return tuple(result) if position < 0 else None


def ask(tensor: Tensor, question: str) -> None:
    """Note that a trace depends on where an input of it lies, of which ``tensor`` is a view.

    ``question``: ``"view"``, whether a view can be made of it, which matters if somebody sees that
    it is one; ``"strides"``; ``"offset"``; ``"storage"``, all that lies in its memory.
    """
    while isinstance(tensor._storage, ExampleStorage):
        tensor = tensor._storage.source
    trace: Any = thread.trace
    while trace is not None and trace.host is None:
        trace = getattr(trace, "outer", None)
    if trace is None:
        return
    root = trace.roots.get(tensor._storage)
    if root is None and tensor._trace is None:
        root = trace.root_of(tensor)
    if root is not None and root.input_position is not None:
        root.questions |= {question}


def base_strides(storage: Storage) -> Strides:
    """The strides of a storage's base, in elements."""
    base = storage.base
    if base is None or base.flags.c_contiguous:
        return row_major(storage.base_type.shape)
    return tuple(s // base.itemsize for s in base.strides)


def layout(tensor: Tensor) -> tuple[Strides, Dim]:
    """The strides and the offset from the start of the storage, both in elements."""
    storage, steps = tensor._storage, tensor._steps
    if isinstance(storage, ExampleStorage):
        place = _place_of_example(storage).follow(steps)
        return place.strides, place.offset
    place = _Place(storage.base_type, base_strides(storage), 0)
    trace = thread.trace
    root = None if trace is None else trace.roots.get(storage)
    if root is not None:  # the graph's input may have symbolic sizes where the base has numbers
        if steps[: len(root.steps)] != root.steps:
            raise AliasDiscovered(storage)
        place = place.follow(root.steps)
        concrete = not any(isinstance(d, SymbolicDim) for d in root.type.shape)
        if not concrete and is_row_major(place.type.shape, place.strides):
            place = _Place(root.type, row_major(root.type.shape), place.offset)
        else:
            place = _Place(root.type, place.strides, place.offset)
        steps = steps[len(root.steps) :]
    place = place.follow(steps)
    return place.strides, place.offset


def _place_of_example(storage: ExampleStorage) -> _Place:
    inner, thread.trace = thread.trace, storage.outer
    try:
        strides, offset = layout(storage.source)
    finally:
        thread.trace = inner
    dim = storage.dim
    return _Place(storage.base_type, (*strides[:dim], *strides[dim + 1 :]), offset)


@dataclass(frozen=True)
class _Place:
    """The part of a storage that a sequence of view steps has reached."""

    type: TensorType
    strides: Strides
    offset: Dim

    def follow(self, steps: Sequence[ViewStep]) -> _Place:
        place = self
        for op, attributes in steps:
            strides, offset = place._after(op.name, attributes)
            (type,) = op.infer_types((place.type,), attributes)
            place = _Place(type, strides, offset)
        return place

    def _after(self, name: str, attributes: Mapping[str, Any]) -> tuple[Strides, Dim]:
        place = view_place(name, attributes, self.type.shape, self.strides, self.offset)
        return place or (row_major(attributes["shape"]), self.offset)


def view_place(
    name: str, attributes: Mapping[str, Any], shape: Sequence[Dim], strides: Strides, offset: Dim
) -> tuple[Strides, Dim] | None:
    """Strides and offset of the view that an operation makes; None where it takes a copy."""
    match name:
        case "reshape":
            wanted = view_strides(shape, strides, attributes["shape"])
            return None if wanted is None else (wanted, offset)
        case "permute":
            return tuple([strides[a] for a in attributes["axes"]]), offset
        case "expand":
            return _expanded(shape, strides, attributes["shape"]), offset
        case "slice":
            if not any(structurally_equal(d, 0) for d in attributes["sizes"]):
                for start, stride in zip(attributes["starts"], strides, strict=True):
                    offset = offset + start * stride
            steps = zip(attributes["steps"], strides, strict=True)
            return tuple([step * stride for step, stride in steps]), offset
        case "diagonal":
            first, second = attributes["axis1"], attributes["axis2"]
            start = attributes["offset"]
            stride = strides[second] if start >= 0 else strides[first]
            rest = [s for i, s in enumerate(strides) if i not in (first, second)]
            return (*rest, strides[first] + strides[second]), offset + abs(start) * stride
        case "windows":
            axes = attributes["axes"]
            outer, last = list(strides), axes[-1] + 1
            inner = [d * strides[a] for a, d in zip(axes, attributes["dilations"], strict=True)]
            for axis, step in zip(axes, attributes["steps"], strict=True):
                outer[axis] = step * strides[axis]
            return (*outer[:last], *inner, *outer[last:]), offset
        case _:
            return strides, offset


def _expanded(shape: Sequence[Dim], strides: Strides, new_shape: Sequence[Dim]) -> Strides:
    extra = len(new_shape) - len(shape)
    result: list[Dim] = []
    for axis, dim in enumerate(new_shape):
        if axis < extra:
            result.append(0)
        elif structurally_equal(shape[axis - extra], dim):
            result.append(strides[axis - extra])
        else:
            result.append(0)
    return tuple(result)


def is_contiguous(tensor: Tensor, seen: bool = True, exact: bool = False) -> bool:
    """Whether the elements lie in row-major order without gaps.

    ``seen``: whether the answer itself matters, not only whose memory a result has. ``exact``:
    symbolic sizes are compared for what they are, which is guarded, not by form alone.
    """
    ask(tensor, "strides" if seen else "view")
    array = tensor._array
    if array is not None:
        return bool(array.flags.c_contiguous)
    strides, _ = layout(tensor)
    return is_row_major(tensor._type.shape, strides, equal if exact else structurally_equal)


@unwatched
def can_view(tensor: Tensor, shape: Sequence[Dim], seen: bool = True) -> bool:
    """Whether ``tensor`` has a view of ``shape`` (with as many elements); ``seen`` as above."""
    if is_contiguous(tensor, seen):
        return True
    strides, _ = layout(tensor)
    return view_strides(tensor._type.shape, strides, shape) is not None
