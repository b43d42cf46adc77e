"""``scan`` and ``fori_loop``: a Python function run many times, as one operation.

The function is traced once, whatever the number of steps, and becomes the body of the primitive
``scan`` (``ir/ops/loops.py``), eager and compiled. Meaning and argument order are those of
``jax.lax.scan`` and ``jax.lax.fori_loop``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flamec.dispatch import write
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.dimensions import signed_size, size
from flamec.functional.places import is_python_int
from flamec.functional.primitives import ops
from flamec.ir.bodies import reordered
from flamec.ir.shape import Dim, SymbolicDim, equal, format_shape, less
from flamec.ir.types import TensorType, int64, promote_types
from flamec.recorded_scan import apply_scan
from flamec.state import set_grad_enabled, thread
from flamec.structures import Structure, flatten, unflatten
from flamec.tensor import RuntimeNumber, Tensor
from flamec.traced_body import TracedBody, number_tensor, trace_body

__all__ = ["fori_loop", "scan"]


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: Dim | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Carry values along sequences: ``carry, y = f(carry, x)`` for each element ``x`` of ``xs``.

    ``init``: the first carried values, a tensor, number or nested structure of them. ``xs``: the
    same of sequences, which lie along the first dimension; None to run ``length`` times with
    ``x=None``. ``reverse``: begin with the last element. Returns the last carried values, and the
    ``y`` of all steps stacked along a new first dimension (in the order of ``xs``), in the
    structures that ``f`` returned.

    ``f`` is called once, on stand-ins, and must return carried values of the same structure, shapes
    and dtypes as it gets; the number of steps may vary from call to call without a new
    compilation. It may use other tensors, with gradients, and draw random numbers;
    tensors from outside that it changes in place have their last value afterwards.

    TypeError if the function returns no pair or other carried values than it got; ValueError if
    lengths differ or none is given.
    """
    if thread.trace is None and not callable(f):
        raise OperationTypeError(f"scan: f must be a function, not {type(f).__name__}")
    state, structure = leaves_of("scan", "init", init)
    return _scan(Names("scan", "f"), f, init, state, structure, xs, length, reverse)


@dataclass(frozen=True)
class Names:
    """What errors call a loop and its function; ``own``: carried values of the loop itself."""

    loop: str
    function: str
    own: int = 0


def _scan(
    names: Names,
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    state: list[Tensor | None],
    structure: Structure,
    xs: Any,
    length: Dim | None,
    reverse: bool,
) -> tuple[Any, Any]:
    sequences, sequence_structure = leaves_of("scan", "xs", xs)
    count = _length(sequences, length)
    elements = [t._type.with_shape(t._type.shape[1:]) for t in sequences if t is not None]
    trace = partial(_traced, names.loop, f)
    body = trace(state, structure, elements, sequence_structure, sequences)
    init_tensors = [t for t in state if t is not None]
    promoted = _promoted(init_tensors, flatten(init)[0], body)
    if promoted is not None:
        init_tensors = promoted
        state = list(restored(init_tensors, state))
        body = trace(state, structure, elements, sequence_structure, sequences)
    _check_carry(names, body, structure, state)
    return _apply(body, structure, state, sequences, count, reverse)


def fori_loop(lower: Dim, upper: Dim, body_fun: Callable[[Tensor, Any], Any], init_val: Any) -> Any:
    """``value = body_fun(i, value)`` for each ``i`` from ``lower`` up to, without, ``upper``.

    The bounds are ints, in a compiled function also sizes of tensors; ``i`` is an int64 tensor of
    no dimensions. ``init_val``: as ``scan``'s ``init``. Returns the last value, ``init_val`` if
    ``upper <= lower``. TypeError for bounds that are tensors: how often a loop with gradients
    runs must be known before.
    """
    if not callable(body_fun):
        name = type(body_fun).__name__
        raise OperationTypeError(
            f"fori_loop: body_fun must be a function, not {name} (at {user_location()})"
        )
    lower, upper = (signed_size("fori_loop", b) if is_python_int(b) else b for b in (lower, upper))
    for bound in (lower, upper):
        if isinstance(bound, bool) or not isinstance(bound, (int, SymbolicDim)):
            raise OperationTypeError(
                f"fori_loop: the bounds must be ints, not {type(bound).__name__}; a loop that a "
                f"tensor ends is flamec.while_loop (at {user_location()})"
            )
    length = upper - lower
    if less(length, 0):
        length = 0

    def step(carry: tuple[Tensor, Any], _: None) -> tuple[tuple[Tensor, Any], None]:
        i, value = carry
        return (i + 1, body_fun(i, value)), None

    start = ops.constant(lower, TensorType((), int64))
    init = (start, init_val)
    state, structure = leaves_of("fori_loop", "init_val", init)
    names = Names("fori_loop", "body_fun", own=1)
    (_, value), _ = _scan(names, step, init, state, structure, None, length, False)
    return value


def leaves_of(name: str, what: str, value: Any) -> tuple[list[Tensor | None], Structure]:
    """Tensors for the leaves, of numbers with the default dtypes; None stays."""
    leaves, structure = flatten(value)
    tensors: list[Tensor | None] = []
    for leaf in leaves:
        if isinstance(leaf, RuntimeNumber):
            kind = 0.0 if leaf._type.dtype.is_floating_point else 0
            tensors.append(ops.cast(leaf, number_tensor(kind)._type.dtype))
        elif leaf is None or isinstance(leaf, Tensor):
            tensors.append(leaf)
        elif isinstance(leaf, (bool, int, float)):
            tensors.append(number_tensor(leaf))
        else:
            raise OperationTypeError(
                f"{name}: {what} must be made of tensors and numbers, not {type(leaf).__name__} "
                f"(at {user_location()})"
            )
    return tensors, structure


def _length(sequences: Sequence[Tensor | None], length: Dim | None) -> Dim:
    """The number of steps; ValueError if that is not clear."""
    found: Dim | None = length if length is None else size("scan", length)
    for tensor in sequences:
        if tensor is None:
            continue
        shape = tensor._type.shape
        if not shape:
            raise OperationError(
                f"scan: got a value with no leading axis to scan over in xs (at {user_location()})"
            )
        if found is None:
            found = shape[0]
        elif not equal(shape[0], found):
            raise OperationError(
                f"scan: got sequences of different lengths: {found} and {shape[0]}, of shape "
                f"{format_shape(shape)} (at {user_location()})"
            )
    if found is None:
        raise OperationError(
            f"scan: without xs the number of steps must be given as length (at {user_location()})"
        )
    if isinstance(found, int) and found < 0:
        raise OperationError(f"scan: length must not be negative: {found} (at {user_location()})")
    return found


def _traced(
    name: str,
    f: Callable[..., Any],
    state: Sequence[Tensor | None],
    structure: Structure,
    elements: Sequence[TensorType],
    sequence_structure: Structure,
    sequences: Sequence[Tensor | None],
) -> TracedBody:
    carried = [t for t in state if t is not None]
    types = [*(t._type for t in carried), *elements]
    records = thread.grad_enabled
    tracked = [records and t._type.dtype.is_floating_point for t in carried]
    tracked += [records and t.requires_grad for t in sequences if t is not None]

    def arguments(stand_ins: list[Tensor]) -> tuple[Any, Any]:
        first, rest = stand_ins[: len(carried)], stand_ins[len(carried) :]
        return (
            unflatten(structure, restored(first, state)),
            unflatten(sequence_structure, restored(rest, sequences)),
        )

    return trace_body(name, f, types, tracked, arguments)


def restored(tensors: Sequence[Tensor], like: Sequence[Any]) -> Any:
    """``tensors`` with None where ``like`` has it."""
    rest = iter(tensors)
    return iter([None if entry is None else next(rest) for entry in like])


def store_written(
    name: str, bodies: Sequence[TracedBody], targets: Sequence[Tensor], values: Sequence[Tensor]
) -> None:
    """Give tensors from outside the values that the bodies left in them.

    What they change where nothing is recorded, as running statistics, has no new history.
    """
    recorded = {id(body.captured[i]) for body in bodies for i in body.recorded}
    for target, value in zip(targets, values, strict=True):
        records = id(target) in recorded and not target._requires_grad
        with set_grad_enabled(thread.grad_enabled and records):
            write(target, value, name)


def _pair(body: TracedBody) -> tuple[Structure, Structure]:
    """The structures of the carried values and of what is stacked."""
    structure = body.structure
    if structure.kind is not tuple or len(structure.children) != 2:
        raise OperationTypeError(f"scan: f must return a pair (carry, y) (at {user_location()})")
    carry, y = structure.children
    return carry, y


def _promoted(
    init: Sequence[Tensor], leaves: Sequence[Any], body: TracedBody
) -> list[Tensor] | None:
    """The first carried values with Python numbers in the dtypes that the function gives back."""
    given = [leaf for leaf in leaves if leaf is not None]
    outputs = body.graph.outputs[: len(init)]
    changed = False
    found = []
    for tensor, leaf, value in zip(init, given, outputs, strict=False):
        wanted = value.type.dtype
        number = not isinstance(leaf, Tensor) or isinstance(leaf, RuntimeNumber)
        plain = number and wanted is not tensor._type.dtype
        if plain and promote_types(wanted, tensor._type.dtype) is wanted:
            is_tensor, changed = isinstance(leaf, Tensor), True
            tensor = ops.cast(leaf, wanted) if is_tensor else number_tensor(leaf, wanted)
        found.append(tensor)
    return found if changed else None


def _check_carry(
    names: Names, body: TracedBody, structure: Structure, state: Sequence[Tensor | None]
) -> None:
    """TypeError if the function gives back other carried values than it gets."""
    carry, _ = _pair(body)
    present = [t is not None for t in state]
    if carry != structure or list(body.present[: carry.leaf_count]) != present:
        raise OperationTypeError(
            f"{names.loop}: the carried values that {names.function} returns have another "
            f"structure than those it gets (at {user_location()})"
        )
    carried = [t for t in state if t is not None]
    for position, (tensor, value) in enumerate(zip(carried, body.graph.outputs, strict=False)):
        old, new = tensor._type, value.type
        same = len(old.shape) == len(new.shape) and all(map(equal, old.shape, new.shape))
        if not same or old.dtype is not new.dtype or old.device != new.device:
            raise OperationTypeError(
                f"{names.loop}: carried value {position - names.own} is {old} when "
                f"{names.function} gets it and {new} when it returns it; both must be the same "
                f"(at {user_location()})"
            )


def _apply(
    body: TracedBody,
    structure: Structure,
    state: Sequence[Tensor | None],
    sequences: Sequence[Tensor | None],
    length: Dim,
    reverse: bool,
) -> tuple[Any, Any]:
    """Emit the operation; tensors that the function changed are carried, too."""
    carried = [t for t in state if t is not None]
    stacked = [t for t in sequences if t is not None]
    graph, count = body.graph, len(carried)
    written = [body.captured[p] for p in body.written]
    constants = [i for i in range(len(body.captured)) if i not in body.written]
    values, captured = graph.inputs[:count], graph.inputs[count + len(stacked) :]
    inputs = [
        *values,
        *(captured[p] for p in body.written),
        *graph.inputs[count : count + len(stacked)],
        *(captured[i] for i in constants),
    ]
    results = len(graph.outputs) - len(written)
    outputs = [*graph.outputs[:count], *graph.outputs[results:], *graph.outputs[count:results]]
    # what is saved for the derivative must not be what is written to afterwards
    before = written if thread.trace is not None else [t.clone() for t in written]
    operands = [*carried, *before, *stacked, *(body.captured[i] for i in constants)]
    attributes: dict[str, Any] = {
        "body": reordered(graph, inputs, outputs),
        "carries": count + len(written),
        "sequences": len(stacked),
        "length": length,
        "reverse": bool(reverse),
        "residuals": 0,
    }
    made = apply_scan(operands, attributes)
    store_written("scan", [body], written, made[count : count + len(written)])
    last = iter(made[:count])
    stacks = made[count + len(written) :]
    carry, y = _pair(body)
    flags = body.present[carry.leaf_count :]
    rest = iter(stacks)
    ys = unflatten(y, iter([next(rest) if flag else None for flag in flags]))
    return unflatten(structure, restored(list(last), state)), ys
