"""A composite function as one graph over symbolic sizes, with its backward graph.

In: a function of tensors and the types of its arguments. Out: ``FusedProgram``: the forward
graph, which returns what the backward graph takes after the function's own results, and that
backward graph. Invariant: what is saved suffices to compute every value that a derivative of any
order reads, so nothing else of the call is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flamec.ir.batching import BatchBuilder, Operand
from flamec.ir.builder import Builder, GraphBuilder
from flamec.ir.evaluate import concrete_attributes
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import DerivativeContext, Op
from flamec.ir.passes.differentiate import backpropagate, differentiate_graph
from flamec.ir.passes.partition import partition
from flamec.ir.shape import Dim, evaluate_shape
from flamec.ir.shape_oracle import using_oracle
from flamec.ir.types import TensorType
from flamec.roots import Root
from flamec.size_oracle import ShapeGuard
from flamec.sources import InputSource
from flamec.state import set_grad_enabled, thread
from flamec.structures import Structure, flatten
from flamec.tensor import Tensor, is_generator_state
from flamec.trace import Trace


class NotFusable(Exception):
    """A call that is no function of its tensors alone, or cannot be traced; it says why.

    ``may_need_numbers``: whether it may be traced with numbers for sizes.
    """

    def __init__(self, reason: str, may_need_numbers: bool = False) -> None:
        super().__init__(reason)
        self.may_need_numbers = may_need_numbers


@dataclass(frozen=True, eq=False)
class FusedProgram:
    """``forward`` takes the tensor arguments, then the tensors ``captured``.

    It returns ``returned`` results of the function (``structure`` holds them), then what is
    saved. ``recorded``: which results take part in autograd; empty if no argument does.
    ``backward`` takes the forward outputs ``saved_outputs``, the inputs ``read_inputs`` and the
    gradients of the results in ``recorded``, and returns those of the arguments ``tracked``.
    ``itself``: which tensor argument the function has changed and returns, if that is its result.
    ``kept_outputs`` and ``kept_inputs`` are what derivatives of higher order read beside.
    ``guards`` are what the graphs rely on of the sizes.
    """

    forward: Graph
    structure: Structure
    returned: int
    captured: tuple[Tensor, ...]
    guards: tuple[ShapeGuard, ...]
    backward: Graph | None = None
    recorded: tuple[int, ...] = ()
    tracked: tuple[int, ...] = ()
    saved_outputs: tuple[int, ...] = ()
    read_inputs: tuple[int, ...] = ()
    kept_inputs: tuple[int, ...] = ()
    kept_outputs: tuple[int, ...] = ()
    tracked_values: frozenset[Value] = frozenset()
    itself: int | None = None

    def holds(self, bindings: Mapping[str, int]) -> bool:
        """Whether the program is right for these sizes."""
        return all(guard.check(bindings) for guard in self.guards)

    @property
    def equal_sizes(self) -> list[tuple[Dim, Dim]]:
        """Pairs of sizes that the guards say are equal."""
        return [(g.left, g.right) for g in self.guards if g.relation == "==" and g.holds]


class _FunctionTrace(Trace):
    """The trace of a composite: its nodes belong to no line, because many lines share them."""

    gives_numbers = False

    def _add_node(self, op: Op, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Node:
        return self.builder.add_node(op, inputs, attributes)

    def stand_in(self, type: TensorType, tracked: bool) -> Tensor:
        """What stands for a tensor argument."""
        position = len(self.sources)
        value = self.add_input(type, InputSource("argument", position))
        tensor = Tensor._from_trace(self, type)
        self.roots[tensor._storage] = Root((), value, type, input_position=position)
        if tracked:
            self.tracked.add(value)
        return tensor


def trace_function(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tracked: Sequence[bool],
    bindings: Mapping[str, int],
) -> FusedProgram:
    """Trace a call with a ``TensorType`` in place of each tensor argument.

    ``tracked``: which of them want a gradient; ``bindings``: example values of the symbols.
    Raises NotFusable.
    """
    trace = _FunctionTrace()
    flags = iter(tracked)

    def stand_in(value: Any) -> Any:
        return trace.stand_in(value, next(flags)) if isinstance(value, TensorType) else value

    trace.oracle.hints.update(bindings)
    thread.trace = trace
    try:
        with using_oracle(trace.oracle), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            positional = [stand_in(v) for v in args]
            named = {name: stand_in(v) for name, v in kwargs.items()}
            result = function(*positional, **named)
            if warned:
                raise NotFusable("it warns")
            return _program(trace, result, function.__name__.lstrip("_"))
    except NotFusable:
        raise
    except Exception as error:  # the call itself will raise it, with numbers for symbols
        raise NotFusable(f"{type(error).__name__}: {error}", bool(bindings)) from error
    finally:
        thread.trace = None
        trace.release()


def _program(trace: _FunctionTrace, result: Any, name: str) -> FusedProgram:
    count = sum(source.kind == "argument" for source in trace.sources)
    leaves, structure = flatten(() if result is None else result)
    itself = _changed_argument(trace, leaves)
    outputs = _outputs(trace, leaves) if itself is None else []
    captured = []
    for source in trace.sources[count:]:
        tensor = source.tensor
        if tensor is None or (
            tensor._storage not in trace.constants and not is_generator_state(tensor, default=True)
        ):
            raise NotFusable("it reads a tensor that is no argument")
        captured.append(tensor)
    for root in trace.roots.values():
        if root.written and root.input_position is not None and root.value in trace.tracked:
            raise NotFusable("it changes an argument in place that wants a gradient")
    program = FusedProgram(
        forward=trace.build(outputs, name),
        structure=structure,
        returned=len(outputs),
        captured=tuple(captured),
        guards=tuple(trace.oracle.guards.values()),
        itself=itself,
    )
    if not set(program.forward.inputs).isdisjoint(program.forward.outputs):
        raise NotFusable("it returns its operand")
    if any(v in trace.tracked for v in outputs):
        return _differentiated(program, trace.tracked)
    return program


def _changed_argument(trace: Trace, leaves: Sequence[Any]) -> int | None:
    """The position of the argument that is all that the function returns, changed in place."""
    if len(leaves) != 1 or not isinstance(leaves[0], Tensor) or leaves[0]._trace is not trace:
        return None
    root = trace.root_of(leaves[0])
    whole = not leaves[0]._steps and leaves[0]._type == root.type
    return root.input_position if whole and root.written else None


def _outputs(trace: Trace, leaves: Sequence[Any]) -> list[Value]:
    """The values of what the function returned: fresh tensors, each with memory of its own."""
    seen = set()
    values: list[Value] = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or leaf._trace is not trace:
            raise NotFusable("it returns something else than new tensors")
        if trace.root_of(leaf).input_position is not None or leaf._storage in seen:
            raise NotFusable("it returns a view")
        seen.add(leaf._storage)
        values.append(trace.value_of(leaf))
    if len(set(values)) < len(values):
        raise NotFusable("it returns one tensor twice")
    if not values and not any(r.written for r in trace.roots.values()):
        raise NotFusable("it does nothing")
    return values


# what is saved ---------------------------------------------------------------------------
def _differentiated(program: FusedProgram, values: Container[Value]) -> FusedProgram:
    """The program with its derivative; ``values``: what gradients flow through."""
    graph, arguments = program.forward, len(program.forward.inputs) - len(program.captured)
    recorded = tuple(i for i, v in enumerate(graph.outputs) if v in values)
    tracked = tuple(i for i, v in enumerate(graph.inputs[:arguments]) if v in values)
    joint = differentiate_graph(graph, tracked, recorded, values)
    on_gpu = graph.inputs[0].type.device.type == "cuda"
    parts = partition(joint, len(graph.inputs), program.returned, expensive=on_gpu)
    outputs = list(graph.outputs)
    saved = [_placed(v, outputs) for v in parts.forward.outputs[program.returned :]]
    nodes = parts.forward.nodes  # with those of the derivative that need no gradient
    forward = Graph(graph.inputs, nodes, tuple(outputs), graph.updates, graph.name)
    found = _tracked(graph, nodes, tracked, values)
    kept = {outputs[k] for k in saved} | {graph.inputs[i] for i in parts.saved_inputs}
    kept_outputs = list(saved)
    kept_inputs = [i for i in parts.saved_inputs if i < arguments]
    for position in _missing(forward, tracked, kept, found):
        if position in graph.updates:  # its old contents are lost with the call
            kept_outputs.append(_placed(graph.inputs[position], outputs))
        elif position < arguments:
            kept_inputs.append(position)
    return replace(
        program,
        forward=replace(forward, outputs=tuple(outputs)),
        backward=parts.backward,
        recorded=recorded,
        tracked=tracked,
        saved_outputs=tuple(saved),
        read_inputs=parts.saved_inputs,
        kept_inputs=tuple(kept_inputs),
        kept_outputs=tuple(dict.fromkeys(kept_outputs)),
        tracked_values=frozenset(found),
    )


def _tracked(
    graph: Graph, nodes: Sequence[Node], tracked: Sequence[int], values: Container[Value]
) -> set[Value]:
    """What gradients flow through: recorded values, and what derivatives compute from them."""
    traced = {v for n in graph.nodes for v in n.outputs}
    found = {graph.inputs[i] for i in tracked}
    for node in nodes:
        if node.op.derivative is not None and any(v in found for v in node.inputs):
            found.update(
                v
                for v in node.outputs
                if v.type.dtype.is_floating_point and (v in values or v not in traced)
            )
    return found


def _placed(value: Value, outputs: list[Value]) -> int:
    """Where a value is among the outputs; it is appended if it is not there."""
    if value not in outputs:
        outputs.append(value)
    return outputs.index(value)


def _missing(
    graph: Graph, tracked: Sequence[int], kept: set[Value], values: set[Value]
) -> list[int]:
    """The inputs that must be kept, too, so that derivatives of all outputs can be computed.

    A derivative of second order sends gradients to saved values, which are outputs, as well.
    """
    wanted = [i for i, v in enumerate(graph.outputs) if v in values]
    joint = differentiate_graph(graph, tracked, wanted, values)
    late = set(joint.inputs[len(graph.inputs) :])
    read: set[Value] = set()
    for node in joint.nodes:
        if any(v in late for v in node.inputs):
            late.update(node.outputs)
            read.update(v for v in node.inputs if v not in late)
    read.update(v for v in joint.outputs[len(graph.outputs) :] if v not in late)
    stack, seen, missing = list(read), set(kept), []
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.node is not None:
            stack.extend(value.node.inputs)
        else:
            missing.append(graph.inputs.index(value))
    return missing


# derivatives of any order ----------------------------------------------------------------
class ConcreteGraph:
    """A program's graph with numbers for sizes; its derivative as single operations."""

    def __init__(self, program: FusedProgram, bindings: Mapping[str, int]) -> None:
        self._program = program
        source = program.forward
        self._values: dict[Value, Value] = {}
        b = GraphBuilder()
        for value in source.inputs:
            shape = evaluate_shape(value.type.shape, bindings)
            self._values[value] = b.input(value.type.with_shape(shape))
        for node in source.nodes:
            attributes = concrete_attributes(node.attributes, bindings)
            copy = b.add_node(node.op, [self._values[v] for v in node.inputs], attributes)
            self._values.update(zip(node.outputs, copy.outputs, strict=True))
        self.graph = b.build([self._values[v] for v in source.outputs])
        self.tracked = {self._values[v] for v in program.tracked_values}

    def gradients(
        self, builder: Builder, context: DerivativeContext, gradients: Sequence[Any]
    ) -> list[Any]:
        """The gradient of each argument, emitted through any builder.

        What was not saved is computed again from what was.
        """
        program, graph = self._program, self.graph
        count = len(context.input_types)
        known: dict[Value, Any] = {}
        for value, tensor in zip(graph.inputs[count:], program.captured, strict=True):
            known[value] = Operand(tensor, False) if isinstance(builder, BatchBuilder) else tensor
        for i in program.kept_inputs:
            known[graph.inputs[i]] = context.inputs[i]
        for k in program.kept_outputs:
            known[graph.outputs[k]] = context.outputs[k]

        def value_of(node: Node | None, value: Value) -> Any:
            if value not in known:
                maker = value.node
                assert maker is not None, "a value that a derivative reads was not kept"
                operands = [value_of(maker, v) for v in maker.inputs]
                recorded = any(v in self.tracked for v in maker.outputs)
                with set_grad_enabled(thread.grad_enabled and recorded):
                    found = builder.apply(maker.op, operands, maker.attributes)
                found = found if isinstance(found, tuple) else (found,)
                known.update(zip(maker.outputs, found, strict=True))
            return known[value]

        seeds = {
            value: gradient
            for value, gradient in zip(graph.outputs, gradients, strict=True)
            if gradient is not None and value in self.tracked
        }
        found = backpropagate(
            graph.nodes,
            seeds,
            self.tracked.__contains__,
            builder,
            value_of,
            keep={graph.inputs[i] for i in program.tracked},
        )
        return [found.get(graph.inputs[i]) if i in program.tracked else None for i in range(count)]
