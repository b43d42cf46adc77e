"""``cond`` and ``while_loop``: control flow by the value of a tensor.

Eager they run the functions that they are given. In a compiled function, in ``vmap`` and in the
body of a loop each function is traced once and becomes a graph of the primitives ``cond``
(``ir/ops/branches.py``) and ``while_loop`` (``ir/ops/while_loops.py``): nothing is split or
unrolled. Names and conditions are those of ``torch.cond`` and of PyTorch's ``while_loop``. Results
are new tensors in every case, which share memory with nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flamec.control_flow import leaves_of, restored, store_written
from flamec.counted_loops import can_count, counted
from flamec.dispatch import apply_named
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.primitives import ops
from flamec.ir.bodies import emitted, reordered
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.differentiate_while import while_with_residuals
from flamec.ir.shape import Dim, SymbolicDim, equal
from flamec.ir.types import TensorType, bool_
from flamec.state import thread
from flamec.structures import Structure, access_paths, flatten, map_leaves, unflatten
from flamec.tensor import Tensor
from flamec.traced_body import TracedBody, as_tensor, trace_body

__all__ = ["cond", "while_loop"]


def cond(
    pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Any = ()
) -> Any:
    """``true_fn(*operands)`` if ``pred`` is true, else ``false_fn(*operands)``.

    ``pred``: a bool, or a bool tensor of one element. ``operands``: a tuple of tensors, numbers
    (which become tensors) and nested structures of them. Both functions return tensors, numbers,
    None, or a nested structure of these; in a compiled function both are traced, and must return
    the same structure, shapes and dtypes. They may use tensors from outside, with gradients, draw
    random numbers, and change tensors from outside in place, but not their arguments.

    Only the branch that is chosen is computed, forward and backward; under ``vmap`` with a
    ``pred`` of the batch both are, and elements choose between the results.

    TypeError for another ``pred``, for operands that are no tuple, and for results that
    differ; the message names them.
    """
    for name, function in (("true_fn", true_fn), ("false_fn", false_fn)):
        if not callable(function):
            raise _type_error("cond", f"{name} must be a function, not {type(function).__name__}")
    arguments = _arguments("cond", "operands", operands)
    leaves, structure = leaves_of("cond", "operands", arguments)
    chosen = _decided("cond", "pred", pred)
    if chosen is not None:
        function = true_fn if chosen else false_fn
        return _values("cond", function(*unflatten(structure, iter(leaves))))
    return _traced_cond(pred, true_fn, false_fn, leaves, structure)


def while_loop(
    cond_fn: Callable[..., Any],
    body_fn: Callable[..., Any],
    carried_inputs: Any,
    *,
    max_steps: Dim | None = None,
) -> tuple[Any, ...]:
    """``while cond_fn(*carried): carried = body_fn(*carried)``, beginning with ``carried_inputs``.

    ``carried_inputs``: a tuple of tensors, numbers (which become tensors of the default dtypes) and
    nested structures of them. ``cond_fn`` returns a bool, or a bool tensor of one element;
    ``body_fn`` a tuple of the structure, shapes and dtypes that it gets. Returns the last carried
    values, a tuple. The functions may use tensors from outside, with gradients; ``body_fn`` may
    draw random numbers and change tensors from outside in place, but not its arguments.

    ``max_steps``: the loop ends after so many steps, whatever ``cond_fn`` says. In a compiled
    function it is how many steps memory for ``backward`` is planned for; without it steps are
    counted first, and the function is split there. Forward mode (``func.jvp``) needs no bound.
    Under ``vmap`` the loop runs until all elements of the batch are done; those that are keep
    their values.

    TypeError for carried values that differ from those that ``body_fn`` returns (the message names
    them) and for what is no tuple or no bool; ValueError for a negative ``max_steps``.
    """
    for name, function in (("cond_fn", cond_fn), ("body_fn", body_fn)):
        if not callable(function):
            text = f"{name} must be a function, not {type(function).__name__}"
            raise _type_error("while_loop", text)
    if max_steps is not None and not _is_size(max_steps):
        text = f"max_steps must be an int or None, not {type(max_steps).__name__}"
        raise _type_error("while_loop", text)
    if isinstance(max_steps, int) and max_steps < 0:
        raise OperationError(
            f"while_loop: max_steps must not be negative: {max_steps} (at {user_location()})"
        )
    carried = _arguments("while_loop", "carried_inputs", carried_inputs)
    leaves, structure = leaves_of("while_loop", "carried_inputs", carried)
    if not any(leaf is not None for leaf in leaves):
        raise _type_error("while_loop", "carried_inputs must have at least one tensor")
    if thread.trace is None:
        result: tuple[Any, ...] = _run_while(cond_fn, body_fn, leaves, structure, max_steps)
        return result
    return _traced_while(cond_fn, body_fn, leaves, structure, max_steps)


# what both check ---------------------------------------------------------------------------


def _type_error(name: str, text: str) -> OperationTypeError:
    return OperationTypeError(f"{name}: {text} (at {user_location()})")


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, SymbolicDim)) and not isinstance(value, bool)


def _arguments(name: str, what: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, (tuple, list)):
        raise _type_error(name, f"{what} must be a tuple, not {type(values).__name__}")
    return tuple(values)


def _decided(name: str, what: str, value: Any) -> bool | None:
    """A predicate's truth, None where only the running program knows it."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, Tensor):
        raise _type_error(name, f"{what} must be a bool or a tensor, not {type(value).__name__}")
    if value._type.dtype is not bool_ or not all(equal(d, 1) for d in value._type.shape):
        raise _type_error(name, f"{what} must be a bool tensor of one element, it is {value._type}")
    return None if thread.trace is not None else bool(value.item())


def _values(name: str, result: Any) -> Any:
    """New tensors for what a function returned, which may be its arguments or anything else."""

    def fresh(leaf: Any) -> Tensor | None:
        tensor = as_tensor(name, leaf)
        return None if tensor is None else tensor.clone()

    return map_leaves(fresh, result)


def _leaf_paths(structure: Structure, root: str) -> list[str]:
    """How each leaf is reached."""
    return [path for path, part in access_paths(structure, root) if part.kind is None]


def _differences(
    paths: Sequence[str], first: Sequence[Any], second: Sequence[Any], a: str, b: str
) -> Iterator[str]:
    """What two lists of types (None where there is no tensor) do not have in common."""
    for path, one, other in zip(paths, first, second, strict=True):
        if one is None or other is None:
            same = one is other
        else:
            rank = len(one.shape) == len(other.shape)
            same = rank and all(map(equal, one.shape, other.shape))
            same = same and one.dtype is other.dtype and one.device == other.device
        if not same:
            yield f"{path} is {one} {a} and {other} {b}"


def _types(tensors: Sequence[Tensor | None]) -> list[TensorType | None]:
    return [None if t is None else t._type for t in tensors]


def _result_types(body: TracedBody) -> list[TensorType | None]:
    rest = iter(body.graph.outputs)
    return [next(rest).type if flag else None for flag in body.present]


# bodies with the same operands ---------------------------------------------------------------


def _outside(bodies: Sequence[TracedBody]) -> list[Tensor]:
    """The tensors from outside that any of the bodies uses, each once."""
    return list({id(t): t for body in bodies for t in body.captured}.values())


def _over(body: TracedBody, outside: Sequence[Tensor]) -> tuple[Graph, dict[int, Value]]:
    """The body's graph with an input for each tensor of ``outside``, and those by ``id``."""
    own = len(body.graph.inputs) - len(body.captured)
    inputs = body.graph.inputs
    known = {id(t): v for t, v in zip(body.captured, inputs[own:], strict=True)}
    for tensor in outside:
        known.setdefault(id(tensor), Value(tensor._type))
    more = [known[id(t)] for t in outside]
    graph = Graph((*inputs[:own], *more), body.graph.nodes, body.graph.outputs, {}, body.graph.name)
    return graph, known


def _written(
    name: str, bodies: Sequence[TracedBody], given: Sequence[Tensor | None], outside: Sequence[Any]
) -> list[Tensor]:
    """The tensors from outside that a body changes, each once."""
    found = list({id(b.captured[i]): b.captured[i] for b in bodies for i in b.written}.values())
    for tensor in found:
        others = [t for t in given if t is not None]
        others += [t for t in outside if t is not tensor]
        if any(t._storage is tensor._storage for t in others):
            raise OperationError(
                f"{name}: a function changes a tensor from outside whose memory it also gets as "
                "an argument or by another view; use one tensor, or clone() before "
                f"(at {user_location()})"
            )
    return found


# cond ----------------------------------------------------------------------------------------


def _traced_cond(
    pred: Tensor,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    leaves: Sequence[Tensor | None],
    structure: Structure,
) -> Any:
    given = [t for t in leaves if t is not None]
    types = [t._type for t in given]
    tracked = [thread.grad_enabled and t.requires_grad for t in given]

    def arguments(stand_ins: list[Tensor]) -> tuple[Any, ...]:
        made: tuple[Any, ...] = unflatten(structure, restored(stand_ins, leaves))
        return made

    bodies = [trace_body("cond", f, types, tracked, arguments) for f in (true_fn, false_fn)]
    _check_results(*bodies)
    outside = _outside(bodies)
    written = _written("cond", bodies, given, outside)
    graphs = []
    for body in bodies:
        graph, known = _over(body, outside)
        count = len(graph.outputs) - len(body.written)
        changed = {
            id(body.captured[i]): v
            for i, v in zip(body.written, graph.outputs[count:], strict=True)
        }
        left = [changed.get(id(t), known[id(t)]) for t in written]
        graphs.append(reordered(graph, graph.inputs, [*graph.outputs[:count], *left]))
    made = apply_named(
        "cond",
        _predicate(pred, [*given, *outside]),
        *given,
        *outside,
        true_body=graphs[0],
        false_body=graphs[1],
    )
    results = made if isinstance(made, tuple) else (made,)
    count = len(results) - len(written)
    store_written("cond", bodies, written, results[count:])
    present = bodies[0].present
    rest = iter(results[:count])
    leaves_made = iter([next(rest) if flag else None for flag in present])
    return unflatten(bodies[0].structure, leaves_made)


def _predicate(pred: Tensor, operands: Sequence[Tensor]) -> Tensor:
    """The predicate without dimensions, on the operands' device."""
    if pred._type.shape:
        pred = ops.reshape(pred, shape=())
    for tensor in operands[:1]:
        if tensor._type.device != pred._type.device:
            pred = apply_named("to_device", pred, device=tensor._type.device)
    return pred


def _check_results(true: TracedBody, false: TracedBody) -> None:
    """TypeError, with names, unless both branches return the same."""
    if true.structure != false.structure:
        shown = (_shown(body.structure) for body in (true, false))
        raise _type_error(
            "cond",
            "true_fn and false_fn must return the same structure, they return "
            + " and ".join(shown),
        )
    paths = _leaf_paths(true.structure, "result")
    found = _differences(
        paths, _result_types(true), _result_types(false), "in true_fn", "in false_fn"
    )
    text = "; ".join(found)
    if text:
        raise _type_error(
            "cond", f"true_fn and false_fn must return tensors of the same types: {text}"
        )


def _shown(structure: Structure) -> str:
    """A structure with a dot for each leaf."""
    kind = structure.kind
    if kind is None:
        return "·"
    parts = [_shown(child) for child in structure.children]
    if issubclass(kind, dict):
        inside = ", ".join(f"{k!r}: {p}" for k, p in zip(structure.keys, parts, strict=True))
        return f"{{{inside}}}"
    if kind is list:
        return f"[{', '.join(parts)}]"
    name = "" if kind is tuple else kind.__name__
    return f"{name}({', '.join(parts)}{',' if len(parts) == 1 else ''})"


# while_loop ----------------------------------------------------------------------------------


def _carried_paths(body_fn: Callable[..., Any], structure: Structure) -> list[str]:
    """How each carried leaf is reached, by the names of the function's parameters if it has any."""
    try:
        parameters = list(inspect.signature(body_fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in kinds]
    paths = []
    for position, child in enumerate(structure.children):
        root = names[position] if position < len(names) else f"carried_inputs[{position}]"
        paths += _leaf_paths(child, root)
    return paths


def _check_carried(
    paths: Sequence[str],
    structure: Structure,
    types: Sequence[TensorType | None],
    new_structure: Structure,
    new_types: Sequence[TensorType | None],
) -> None:
    """TypeError, with names, unless the body returns what it gets."""
    if new_structure.kind is list and structure.kind is tuple:
        new_structure = Structure(tuple, (), new_structure.children)
    if new_structure != structure:
        raise _type_error(
            "while_loop",
            f"body_fn must return a tuple of the structure that it gets, {_shown(structure)}, not "
            f"{_shown(new_structure)}",
        )
    text = "; ".join(
        _differences(paths, types, new_types, "when body_fn gets it", "when body_fn returns it")
    )
    if text:
        raise _type_error("while_loop", f"carried values must keep shape and dtype: {text}")


def _run_while(
    cond_fn: Callable[..., Any],
    body_fn: Callable[..., Any],
    leaves: Sequence[Tensor | None],
    structure: Structure,
    max_steps: Dim | None,
) -> Any:
    paths = _carried_paths(body_fn, structure)
    types, steps = _types(leaves), 0
    while max_steps is None or steps < max_steps:
        carried = unflatten(structure, iter(leaves))
        if not _decided("while_loop", "what cond_fn returns", cond_fn(*carried)):
            break
        found, new_structure = flatten(body_fn(*carried))
        tensors = [as_tensor("while_loop", leaf) for leaf in found]
        _check_carried(paths, structure, types, new_structure, _types(tensors))
        leaves, steps = tensors, steps + 1
    return _values("while_loop", unflatten(structure, iter(leaves)))


def _traced_while(
    cond_fn: Callable[..., Any],
    body_fn: Callable[..., Any],
    leaves: Sequence[Tensor | None],
    structure: Structure,
    max_steps: Dim | None,
) -> tuple[Any, ...]:
    given = [t for t in leaves if t is not None]
    types = [t._type for t in given]
    tracked = [thread.grad_enabled and t.dtype.is_floating_point for t in types]

    def arguments(stand_ins: list[Tensor]) -> tuple[Any, ...]:
        made: tuple[Any, ...] = unflatten(structure, restored(stand_ins, leaves))
        return made

    test = trace_body("while_loop", cond_fn, types, tracked, arguments)
    if test.written:
        raise OperationError(
            "while_loop: cond_fn must not change tensors or draw random numbers; do it in body_fn "
            f"(at {user_location()})"
        )
    if test.structure.kind is not None or not test.present[0]:
        raise _type_error("while_loop", "cond_fn must return a bool tensor of one element")
    result = test.graph.outputs[0].type
    if result.dtype is not bool_ or not all(equal(d, 1) for d in result.shape):
        raise _type_error(
            "while_loop", f"cond_fn must return a bool tensor of one element, it returns {result}"
        )
    body = trace_body("while_loop", body_fn, types, tracked, arguments)
    paths = _carried_paths(body_fn, structure)
    _check_carried(paths, structure, _types(leaves), body.structure, _result_types(body))
    outside = _outside([body, test])
    written = _written("while_loop", [body], given, outside)
    changed = {id(t) for t in written}
    constants = [t for t in outside if id(t) not in changed]
    graph, known = _over(body, outside)
    order = [known[id(t)] for t in (*written, *constants)]
    inputs = [*graph.inputs[: len(given)], *order]
    condition, known = _over(test, outside)
    order = [known[id(t)] for t in (*written, *constants)]
    asked = [*condition.inputs[: len(given)], *order]
    operands = [*given, *written, *constants]
    attributes: dict[str, Any] = {
        "condition": _without_dimensions(reordered(condition, asked, condition.outputs)),
        "body": reordered(graph, inputs, _in_order(graph, len(given), body, written)),
        "carries": len(given) + len(written),
        "limit": max_steps,
        "residuals": 0,
    }
    needs = [thread.grad_enabled and t.requires_grad for t in operands]
    first = 0
    if max_steps is None and any(needs) and can_count():
        operands, attributes = counted(operands, attributes)
        needs, first = [False, *needs, False], 1
    if attributes["limit"] is not None and any(needs):
        attributes = while_with_residuals(attributes, needs)
    made = apply_named("while_loop", *operands, **attributes)[first:]
    store_written("while_loop", [body], written, made[len(given) : len(given) + len(written)])
    last: tuple[Any, ...] = unflatten(structure, restored(list(made[: len(given)]), leaves))
    return last


def _in_order(
    graph: Graph, carries: int, body: TracedBody, written: Sequence[Tensor]
) -> list[Value]:
    """The new carried values, then those of the tensors from outside that are changed."""
    rest = dict(
        zip((id(body.captured[i]) for i in body.written), graph.outputs[carries:], strict=True)
    )
    return [*graph.outputs[:carries], *(rest[id(t)] for t in written)]


def _without_dimensions(condition: Graph) -> Graph:
    """The condition with a result that has no dimensions."""
    if not condition.outputs[0].type.shape:
        return condition
    b = GraphBuilder()
    inputs = [b.input(v.type, v.name) for v in condition.inputs]
    (value,) = emitted(b, condition, inputs)
    return b.build([b.reshape(value, shape=())], name=condition.name)
