"""Gradients: ``backward``, ``grad``, and the grad-mode switches.

Both functions collect the nodes that a result depends on (from the eager tape
or from the trace in progress) and hand them to ``ir.passes.differentiate``,
the only reverse-mode engine, with the builder whose values are Tensors.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from flamec.autograd.anomaly_mode import check_gradients
from flamec.autograd.backward_pass import BackwardPass
from flamec.autograd.batched import BatchedBackward
from flamec.autograd.hooks import accumulated, finished, has_hooks
from flamec.autograd.outer_history import go_on_outside, leading_outside, outer_values
from flamec.dispatch import apply_named, tensor_builder, write
from flamec.errors import unknown_outer_gradient, user_location
from flamec.freed_histories import saves
from flamec.ir.batching import Operand
from flamec.ir.graph import Node, Value
from flamec.ir.op import CONTROL, Derivative, DerivativeContext, OpKind
from flamec.ir.passes.differentiate import backpropagate, depending_on, reachable_nodes
from flamec.ir.passes.rematerialize import Rematerializer
from flamec.recomputed_parts import reads_changed_memory
from flamec.state import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    process,
    set_grad_enabled,
    thread,
)
from flamec.tape import Leaf, TapeNode, freed_error, tape_tracked, tape_value, unpack
from flamec.tensor import Tensor
from flamec.watching import unwatched

if TYPE_CHECKING:
    pass

__all__ = [
    "backward",
    "enable_grad",
    "grad",
    "inference_mode",
    "is_grad_enabled",
    "no_grad",
    "set_grad_enabled",
]

_MAY_RUN_RULES_OF_USERS = frozenset(
    (OpKind.CUSTOM, OpKind.KERNEL, OpKind.CALL, OpKind.COMPOSITE, OpKind.UNBOUNDED, *CONTROL)
)


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Accumulate the gradients of ``tensors`` into ``.grad`` of the leaves they depend on.

    ``grad_tensors``: the vector of the vector-Jacobian product, one for each
    tensor; may be None for tensors with one element. Raises RuntimeError if a
    tensor does not require grad, or for a non-scalar without ``grad_tensors``.
    """
    roots = _as_list(tensors)
    wanted = None if inputs is None else _as_list(inputs)
    seeds = _seeds("backward", roots, grad_tensors, create_graph)
    keep_graph = create_graph if retain_graph is None else retain_graph
    _backward_from(seeds, wanted, create_graph, keep_graph)


def _backward_from(
    seeds: dict[Value, Tensor],
    wanted: Sequence[Tensor] | None,
    create_graph: bool,
    keep_graph: bool,
    targets: Sequence[Value] | None = None,
) -> None:
    """``backward`` from values with their gradients; ``targets``: the values of ``wanted``."""
    if targets is None and wanted is not None:
        targets = [_require_value(t) for t in wanted]
    trace = thread.trace
    paths = None if wanted is None else targets
    if paths is not None and trace is not None:
        paths = [*paths, *outer_values(trace)]  # a call may find that they lead to ``wanted``
    found = _run(seeds, targets or [], create_graph, keep_graph, paths=paths)
    with set_grad_enabled(create_graph):
        leaves: list[tuple[Value, Tensor, Tensor]] = []
        if wanted is not None:
            for tensor, value in zip(wanted, targets or [], strict=True):
                if value in found:
                    leaves.append((value, tensor, found[value]))
        elif trace is not None:
            reached = [(v, t, found[v]) for v, t in trace.leaves() if v in found]
            leaves = [leaf for leaf in reached if leaf[1]._requires_grad]
        else:
            for value, gradient in found.items():
                if isinstance(value, Leaf):
                    leaf = value.tensor()
                    if leaf is not None and leaf._requires_grad:
                        leaves.append((value, leaf, gradient))
        owned: set[int] = set()
        for seed in seeds.values():
            owned.add(id(seed._storage))
        for value, leaf, gradient in leaves:
            _accumulate(leaf, gradient, create_graph, owned)
            accumulated(value, leaf)
        if trace is not None:
            go_on_outside(trace, found, wanted, keep_graph, create_graph, _backward_from)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of ``outputs`` with respect to ``inputs``.

    Returns one gradient for each input, of its shape and dtype. ``is_grads_batched``: the first
    dimension of ``grad_outputs`` is a batch, and so is that of the results. Raises
    RuntimeError for an input that ``outputs`` do not depend on, unless
    ``allow_unused`` (then None) or ``materialize_grads`` (then zeros).
    """
    roots, wanted = _as_list(outputs), _as_list(inputs)
    size = _batch_size(grad_outputs) if is_grads_batched else None
    seeds = _seeds("grad", roots, grad_outputs, create_graph, is_grads_batched)
    keep_graph = create_graph if retain_graph is None else retain_graph
    targets = [_require_value(t) for t in wanted]
    trace = thread.trace
    behind = {} if trace is None else leading_outside(trace, wanted)
    around, further = {}, {}
    if trace is not None and trace.host is None:
        from flamec.autograd.surrounding_history import gradients_around, leading_around

        around = leading_around(trace, wanted)
    found = _run(seeds, targets, create_graph, keep_graph, size, [*targets, *behind, *around])
    if around and trace is not None:
        further = gradients_around(trace, around, found, wanted, create_graph, size)
    for tensor in (tensor for value, tensor in behind.items() if value in found):
        raise unknown_outer_gradient(tensor.shape)
    results: list[Tensor | None] = []
    for place, (tensor, value) in enumerate(zip(wanted, targets, strict=True)):
        gradient = further[place] if place in further else found.get(value)
        if gradient is None and materialize_grads:
            shape = tensor._type.shape if size is None else (size, *tensor._type.shape)
            gradient = tensor_builder.full_like(0.0, tensor._type.with_shape(shape))
        if gradient is None and not allow_unused:
            raise RuntimeError(
                "grad: one of the inputs was not used in computing the outputs; pass "
                f"allow_unused=True if that is meant (at {user_location()})"
            )
        results.append(gradient)
    return tuple(results)


def grad_by_path(
    outputs: list[Tensor], inputs: Sequence[Tensor], grad_outputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """As ``grad`` with ``create_graph`` and zeros for what is not used."""
    seeds = _seeds("grad", outputs, grad_outputs, True)
    targets = [_require_value(t) for t in inputs]
    found = _run(seeds, targets, True, True, paths=targets)
    return tuple(
        found[v] if v in found else tensor_builder.full_like(0.0, t._type)
        for v, t in zip(targets, inputs, strict=True)
    )


def _as_list(tensors: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def value_of(tensor: Tensor) -> Value | None:
    """The autograd value of a tensor now, in the trace or on the tape; None if not tracked."""
    trace = thread.trace
    if trace is not None:
        return trace.autograd_value(tensor) if trace.is_tracked(tensor) else None
    return tape_value(tensor)


def _require_value(tensor: Tensor) -> Value:
    value = value_of(tensor)
    if value is None:
        raise RuntimeError(
            f"one of the inputs does not require grad (at {user_location()}); set "
            "requires_grad=True before it is used"
        )
    return value


def _seeds(
    name: str,
    roots: list[Tensor],
    grads: Tensor | Sequence[Tensor | None] | None,
    create_graph: bool,
    batched: bool = False,
) -> dict[Value, Tensor]:
    given: list[Tensor | None]
    if grads is None:
        given = [None] * len(roots)
    else:
        given = [grads] if isinstance(grads, Tensor) else list(grads)
    if len(given) != len(roots):
        raise RuntimeError(f"{name}: got {len(roots)} tensors and {len(given)} gradients")
    seeds: dict[Value, Tensor] = {}
    for root, seed in zip(roots, given, strict=True):
        value = value_of(root)
        if value is None:
            raise RuntimeError(
                f"{name}: element 0 of tensors does not require grad and was not computed from "
                f"anything that does (at {user_location()})"
            )
        if seed is None:
            if root.shape.numel() != 1:
                raise RuntimeError(
                    f"{name}: grad can be created implicitly only for scalar outputs, not for "
                    f"shape {list(root.shape)}; pass gradient= (at {user_location()})"
                )
            seed = tensor_builder.full_like(1.0, root._type)
        elif (seed._type.shape[1:] if batched else seed._type.shape) != root._type.shape:
            raise RuntimeError(
                f"{name}: the gradient has shape {list(seed.shape)}, the output "
                f"{list(root.shape)} (at {user_location()})"
            )
        elif seed._type.dtype is not root._type.dtype:
            with set_grad_enabled(create_graph):
                seed = tensor_builder.cast(seed, root.dtype)
        seeds[value] = seed if value not in seeds else tensor_builder.add(seeds[value], seed)
    return seeds


def _batch_size(grads: Tensor | Sequence[Tensor | None] | None) -> Any:
    """The size of the first dimension of all gradients."""
    given: Sequence[Tensor | None] = [grads] if isinstance(grads, Tensor) else grads or ()
    shapes = [g._type.shape for g in given if g is not None]
    if (
        not shapes
        or len(shapes) < len(given)
        or not all(s and s[0] == shapes[0][0] for s in shapes)
    ):
        raise RuntimeError(
            "grad: with is_grads_batched every output needs a gradient with the same first "
            f"dimension (at {user_location()})"
        )
    return shapes[0][0]


def _run(
    seeds: Mapping[Value, Tensor],
    targets: Sequence[Value],
    create_graph: bool,
    keep_graph: bool,
    batch: Any = None,
    paths: Sequence[Value] | None = None,
) -> dict[Value, Tensor]:
    """The gradients of the targets and of the leaves that the pass meets.

    ``paths``: the pass goes only to what depends on one of these values. The others' rules and
    hooks are not asked (an operation may have no derivative by them), and their histories stay.
    """
    nodes = _reachable(seeds)
    trace = thread.trace
    tracked: Callable[[Value], bool] = tape_tracked if trace is None else trace.tracked.__contains__
    retained: dict[Value, Tensor] = {}
    if paths is not None:
        tracked = depending_on(paths, nodes, tracked)
    if trace is not None or paths is not None or len(RETAINED):  # else all nodes are the tape's
        nodes, retained = _relevant(nodes, tracked)
    reached = chain(seeds, (v for n in nodes for v in (*n.inputs, *n.outputs)))
    outer, thread.backward = thread.backward, BackwardPass(reached)
    entered: set[int] = set()
    try:
        found = _propagated(
            nodes, seeds, {*targets, *retained}, tracked, create_graph, batch, entered
        )
        thread.backward.finish()
    finally:
        thread.backward = outer
    if batch is None:
        for value, tensor in retained.items():
            if value in found:
                keep_gradient(tensor, found[value])
    if trace is not None:
        trace.backward.leave()
        if not keep_graph:
            trace.freed |= entered  # not what lies behind detach(), which is no history
    elif not keep_graph:
        for node in nodes:
            assert isinstance(node, TapeNode)
            was_met = not entered or id(node) in entered
            if was_met and (paths is None or any(map(tracked, node.inputs))):
                node.free()
    return found


@unwatched
def _reachable(seeds: Mapping[Value, Tensor]) -> list[Node]:
    return reachable_nodes(seeds)


def _propagated(
    nodes: Sequence[Node],
    seeds: Mapping[Value, Tensor],
    targets: set[Value],
    tracked: Callable[[Value], bool],
    create_graph: bool,
    batch: Any,
    entered: set[int],
) -> dict[Value, Tensor]:
    """The gradients of the targets and of all leaves; ``entered``: the nodes that a gradient
    arrives at, of a trace and of what has calls of compiled functions, whose results depend on
    some of their inputs only."""
    trace = thread.trace
    saved: Callable[[Node, Value], Any]
    entering: Callable[[Node, Sequence[Any]], None] | None
    apply_rule: Callable[[Node, DerivativeContext, Sequence[Any]], Sequence[Any]] | None
    if trace is not None:
        current = trace
        changed = current.parts.changed()
        again = Rematerializer(current.parts.regions, tensor_builder, current.tensor_of)
        saved = again.value

        def enter(node: Node, incoming: Sequence[Any]) -> None:
            if id(node) in current.freed and saves(node, current.tracked):
                raise freed_error(node)
            if node in changed:
                raise reads_changed_memory(node)
            entered.add(id(node))
            current.backward.enter(node)
            again.enter(node, [g.value if isinstance(g, Operand) else g for g in incoming])

        entering, apply_rule = enter, _run_rule
    else:
        saved = unpack  # type: ignore[assignment]  # all nodes of the tape are TapeNodes
        entering = apply_rule = None
        if any(node.op.kind is OpKind.CALL for node in nodes):

            def entering(node: Node, incoming: Sequence[Any]) -> None:
                entered.add(id(node))

    keep = set(targets)
    if trace is not None:
        keep |= {*trace.leaf_tensors, *outer_values(trace)}
    check = check_gradients if process.anomaly and trace is None else None
    with set_grad_enabled(create_graph):
        if batch is None:
            quiet = trace is not None and not _runs_code_of_users(nodes, tracked)
            return (_backpropagate_unwatched if quiet else backpropagate)(
                nodes,
                dict(seeds),
                tracked,
                tensor_builder,
                saved,
                entering,
                keep,
                finished,
                check,
                apply_rule,
            )
        backward = BatchedBackward(batch)
        batched = backpropagate(
            nodes,
            {v: Operand(t, True) for v, t in seeds.items()},
            tracked,
            backward.builder,
            backward.saved(saved),
            entering,
            keep,
            backward.finish(has_hooks, finished),
            None,
            backward.apply_rule,
        )
        return {value: backward.result(g) for value, g in batched.items()}


_backpropagate_unwatched = unwatched(backpropagate)


@unwatched
def _runs_code_of_users(nodes: Sequence[Node], tracked: Callable[[Value], bool]) -> bool:
    """Whether a rule or a hook may be the user's: then what it calls is looked at."""
    values = dict.fromkeys(v for node in nodes for v in (*node.inputs, *node.outputs))
    own_rules = any(node.op.kind in _MAY_RUN_RULES_OF_USERS for node in nodes)
    return own_rules or any(has_hooks(v) for v in values if tracked(v))


def _run_rule(node: Node, context: DerivativeContext, incoming: Sequence[Any]) -> Sequence[Any]:
    """The derivative of a traced operation."""
    rule = node.op.derivative
    assert rule is not None
    if node.op.kind in _MAY_RUN_RULES_OF_USERS:
        return rule(tensor_builder, context, *incoming)
    return _run_unwatched(rule, context, incoming)


@unwatched
def _run_unwatched(
    rule: Derivative, context: DerivativeContext, incoming: Sequence[Any]
) -> Sequence[Any]:
    return rule(tensor_builder, context, *incoming)


@unwatched
def _relevant(
    nodes: list[Node], tracked: Callable[[Value], bool]
) -> tuple[list[Node], dict[Value, Tensor]]:
    kept = [n for n in nodes if any(tracked(v) for v in n.outputs)]
    retained: dict[Value, Tensor] = {}
    for node in kept:
        for value in node.outputs:
            tensor = RETAINED.get(value)
            if tensor is not None:
                retained[value] = tensor
    return kept, retained


def keep_gradient(tensor: Tensor, gradient: Tensor) -> None:
    """Add to ``.grad`` of a tensor that is no leaf (``retain_grad``)."""
    old = tensor.grad
    tensor.grad = gradient if old is None else tensor_builder.add(old, gradient)


RETAINED: weakref.WeakValueDictionary[Value, Tensor] = weakref.WeakValueDictionary()


def retain_grad(tensor: Tensor) -> None:
    """Keep the gradient of a non-leaf tensor in ``.grad`` when backward runs."""
    if not tensor.requires_grad:
        raise RuntimeError("retain_grad: the tensor does not require grad")
    if not tensor._requires_grad:
        tensor._retains_grad = True
        RETAINED[_require_value(tensor)] = tensor


def _accumulate(leaf: Tensor, gradient: Tensor, create_graph: bool, owned: set[int]) -> None:
    trace = thread.trace
    old = leaf._grad if trace is None else trace.gradients.read(leaf)
    if old is None:
        if trace is not None:
            leaf.grad = trace.fresh(gradient)
            return
        storage = gradient._storage
        shared = id(storage) in owned or bool(gradient._steps)
        owned.add(id(storage))
        if shared or gradient._array is None or not gradient._array.flags.c_contiguous:
            gradient = _copy(gradient)
        leaf._grad = gradient
    elif create_graph:
        leaf.grad = tensor_builder.add(old, gradient)
    else:
        write(old, tensor_builder.add(old, gradient), "accumulate_grad")


def _copy(gradient: Tensor) -> Tensor:
    """A copy in memory of its own, still tracked where ``gradient`` was."""
    result = apply_named("mul", gradient, tensor_builder.constant(1, gradient._type))
    assert isinstance(result, Tensor)
    return result


def is_leaf_value(value: Value) -> bool:
    """Whether a value is where a history begins: a leaf, or a tracked input of the trace."""
    trace = thread.trace
    if trace is None:
        return isinstance(value, Leaf)
    if value in trace.first_values:
        return False
    return value in trace.leaf_tensors or (value.node is None and value in trace.tracked)
