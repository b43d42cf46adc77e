"""Programs whose outputs take part in autograd outside of them.

The traced graph is differentiated ahead of time and cut in two: a forward
program that also returns what the backward program needs. The backward program
is compiled when a gradient first flows into the outputs. With
``create_graph=True`` the forward graph is replayed operation by operation on
the tape instead, so that derivatives of any order are right.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from flamec.autograd.engine import keep_gradient
from flamec.autograd.hooks import replayed
from flamec.call_path import CHANGED
from flamec.capture import Captured
from flamec.dispatch import refuse_leaf, tensor_builder, write
from flamec.float32_precision import settings_of
from flamec.freed_histories import sharing
from flamec.gradient_reports import gradient_reports
from flamec.ir.builder import Builder, Report
from flamec.ir.graph import Graph, Location, Value
from flamec.ir.op import Op, OpKind, Types
from flamec.ir.passes.differentiate import differentiate_graph
from flamec.ir.passes.extract import with_given
from flamec.ir.passes.forget_derivatives import forget_derivatives
from flamec.ir.passes.partition import partition
from flamec.ir.passes.recognize_attention import recognize_attention
from flamec.ir.passes.settle_sizes import SettledSizes, settle_sizes
from flamec.ir.shape_oracle import using_oracle
from flamec.prepared import Prepared, graph_device
from flamec.program import Program
from flamec.replayed_calls import ReplayedCall
from flamec.stages import Stages
from flamec.state import process, thread
from flamec.tape import Packed, Saved, TapeNode, record, tape_value
from flamec.tensor import Tensor
from flamec.tracked_inputs import inputs_with_gradients
from flamec.written_histories import follow


class DifferentiableProgram:
    """A forward program and, once needed, its backward program; called like ``Program``."""

    splits: tuple[Any, ...] = ()

    def __init__(
        self,
        captured: Captured,
        make: Callable[[Graph, tuple[str, ...]], Prepared],
        memory_budget: float = 1.0,
        given: Collection[Value] = (),
    ) -> None:
        """``given``: values of the graph that a call has computed before. Those that are needed are
        ``given`` of the program, which takes them behind its other leaves."""
        self.original = captured
        self._make = make
        read = {id(g) for g in captured.trace.gradients.argument_reads.values()} - {id(None)}
        gradients = [  # that were read, to which a backward pass may add
            i
            for i, source in enumerate(captured.sources)
            if source.owner is not None or id(source.held) in read
        ]
        states: dict[Tensor, Value] = {}
        reports: list[Report] = []
        with using_oracle(SettledSizes(captured.equal_sizes)):
            joint = differentiate_graph(
                captured.graph,
                captured.tracked_inputs,
                captured.tracked_outputs,
                captured.trace.tracked,
                partial(_hooked, captured)
                if captured.trace.hooks.rules or captured.retained
                else None,
                captured.trace.parts.regions,
                states,
                reports,
            )
        first, last = captured.returned, len(captured.graph.outputs)
        joint = joint.with_outputs((*joint.outputs[:first], *joint.outputs[last:]))
        sources = captured.sources
        check = None
        self.given: tuple[Value, ...] = ()
        if given:
            check = Program.checked(captured)
            joint, self.given = with_given(joint, given, len(sources))
            sources = [*sources, *(captured.source_behind(i, v) for i, v in enumerate(self.given))]
        joint = forget_derivatives(joint)
        joint = settle_sizes(joint, captured.equal_sizes)
        joint = recognize_attention(joint)  # before it is cut between forward and backward
        on_gpu = graph_device(joint).type == "cuda"
        counts = len(sources), first
        kept = self.replayed.states
        parts = partition(joint, *counts, on_gpu, memory_budget, gradients, kept)
        self.joint = joint
        self._bases = [i for i in captured.tracked_inputs if sources[i].kind == "base"]
        self._states = list(states)  # generators that derivatives draw from
        self._reports = list(
            gradient_reports(joint, counts[0], len(captured.tracked_outputs), reports)
        )
        self.forward_graph: Graph = parts.forward
        self.backward_graph: Graph = parts.backward
        self._saved_inputs: tuple[int, ...] = parts.saved_inputs
        self._saved_count: int = parts.saved_count
        self._saved_contents: tuple[int, ...] = parts.saved_contents
        read = captured.trace.parts.inputs_read(captured.graph.inputs)
        self._needed = {*self._saved_inputs, *(set(read) - captured.graph.updates.keys())}
        self.captured = replace(captured, graph=parts.forward, sources=sources)
        self.forward = Program(
            self.captured,
            make(parts.forward, captured.symbols),
            outputs_only=True,
            check=check,
        )
        tracked = captured.tracked_outputs, captured.trace.tracked
        self._sharing = sharing(captured.graph, *tracked)
        self._reached: dict[int, tuple[int, ...]] = {}  # by bits of the results that have gradients
        self._backwards: dict[tuple[str, ...], Prepared] = {}  # by float32's precision
        self.check = self.forward.check
        self.prepared = self.forward.prepared
        self.op = Op(
            name=f"compiled_{captured.name}",
            kind=OpKind.CALL,
            infer=_not_inferred,
            evaluate=_not_inferred,
            derivative=None,
        )

    @property
    def parts(self) -> list[tuple[str, Prepared]]:
        """The compiled programs, each with a title."""
        return [("forward", self.prepared), ("backward", self.backward)]

    @property
    def stages(self) -> Stages:
        """The forward program's stages as text, by name."""
        return self.forward.stages

    @property
    def backward(self) -> Prepared:
        """The backward program, compiled on first use, with float32's precision as it is set now:
        another one than in the forward pass, perhaps, as in eager mode."""
        precision = process.float32_precision
        key = tuple(getattr(precision, kind) for kind in self._backward_settings)
        found = self._backwards.get(key)
        if found is None:
            found = self._make(self.backward_graph, self.captured.symbols)
            self._backwards[key] = found
        return found

    @cached_property
    def replayed(self) -> ReplayedCall:
        """What of a call runs again for gradients that have gradients."""
        return ReplayedCall(self.original)

    @cached_property
    def _backward_settings(self) -> tuple[str, ...]:
        return settings_of(self.backward_graph)

    def reached(self, arriving: int) -> tuple[int, ...]:
        """The inputs that gradients of results, given as bits, reach."""
        found = self._reached.get(arriving)
        if found is None:
            of = self.original
            outputs = [p for i, p in enumerate(of.tracked_outputs) if arriving >> i & 1]
            found = inputs_with_gradients(of.trace, of.graph, outputs)
            self._reached[arriving] = found
        return found

    def run(self, leaves: tuple[Any, ...], sizes: tuple[int, ...]) -> Any:
        late = [i for i, source in enumerate(self.captured.sources) if source.moment]
        inputs = [self._input(i, leaves, sizes) for i in range(len(self.captured.sources))]
        versions = [tensor._storage.version for tensor in inputs]
        differentiated = self.original.tracked_inputs
        known = [
            tape_value(inputs[i]) if inputs[i]._requires_grad else None for i in differentiated
        ]
        before = {}
        for position in self.original.histories:
            refuse_leaf(inputs[position], self.original.name)
            before[position] = tape_value(inputs[position])
        tensors = self.forward.run(leaves, sizes)
        if tensors is CHANGED:
            return CHANGED
        for position, value in zip(reversed(late), reversed(tensors), strict=False):
            inputs[position] = self._number(position, value)  # known since the call's actions
        for position in self._bases:
            if not inputs[position]._requires_grad:  # the call may have made it a leaf
                inputs[position] = self._input(position, leaves, sizes)
        outputs = list(tensors[: self.original.returned])
        saved = tensors[len(outputs) : len(outputs) + self._saved_count]
        for position in self.original.graph.updates:
            versions[position] = inputs[position]._storage.version
        for position, output in self.original.histories.items():
            if output == len(outputs):  # nothing but the input's memory has it
                written = inputs[position]
                outputs.append(Tensor._from_array(written._array, written._type))
        call = _Call(self, inputs, versions, sizes, before)
        tracked = self.original.tracked_outputs
        results = [outputs[i] for i in tracked]
        op = replace(self.op, derivative=call.derivative)
        record(op, [inputs[i] for i in differentiated], {}, results, known)
        for position, output in self.original.histories.items():
            value = tape_value(outputs[output])
            if value is not None:
                follow(inputs[position], value)
        call.keep(results, [*saved, *(inputs[i] for i in self._saved_inputs)])
        return self.forward.assemble(leaves, sizes, tensors)

    def _input(self, position: int, leaves: tuple[Any, ...], sizes: tuple[int, ...]) -> Tensor:
        source = self.captured.sources[position]
        if source.kind == "argument":
            tensor: Tensor = leaves[source.position]
            return tensor
        if source.tensor is not None:
            return source.tensor
        if source.kind == "base":
            storage = source.storage or leaves[source.position]._storage
            assert storage.base is not None
            for leaf in leaves:  # whose memory the base is, and whose gradient that of the base
                if not isinstance(leaf, Tensor) or leaf._steps or not leaf._requires_grad:
                    continue
                if leaf._storage is storage:
                    return leaf
            return Tensor._from_array(storage.base, storage.base_type, storage)
        bindings = dict(zip(self.captured.symbols, sizes, strict=True))
        return self._number(position, source.read(leaves, bindings))

    def _number(self, position: int, value: Any) -> Tensor:
        """The tensor of a number, Python's or NumPy's, that is an input."""
        number = value.item() if isinstance(value, np.generic) else value
        type = self.captured.graph.inputs[position].type
        made: Tensor = tensor_builder.constant(number, type)
        return made


# results whose gradients are kept, by their values on the tape
RETAINED_OUTPUTS: weakref.WeakValueDictionary[Value, Tensor] = weakref.WeakValueDictionary()


_MARK = -1  # in what the tape keeps for a call, until it is emptied
_NOTHING = Saved(Tensor._from_array(np.zeros(())), None)


class _Call:
    """What one call keeps for its backward; what the forward program saved is its node's on the
    tape, which is freed by a backward pass."""

    def __init__(
        self,
        program: DifferentiableProgram,
        inputs: Sequence[Tensor],
        versions: Sequence[int],
        sizes: tuple[int, ...],
        before: Mapping[int, Value | None],
    ) -> None:
        """``versions``: of the inputs' memory before the call, of what it changes after it;
        ``before``: see ``ReplayedCall``."""
        self.program = program
        self.inputs = inputs
        self.versions = versions
        self.sizes = sizes
        self._before = before
        self._count = 0
        self._saved: dict[int, Saved | Packed] = {}
        self._last = 0  # the results that gradients came from last, as bits
        self._freed = 0  # those from which no pass can begin any more
        self._results: list[weakref.ref[Value] | None] = []
        self._later: dict[int, Saved | Packed] = {}  # for results that the last pass frees not
        self._location: Location | None = None
        self._retained: dict[int, Any] = {}  # values of the tape, by the outputs

    def keep(self, results: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
        """Give the node that computed ``results`` the saved tensors and inputs."""
        tracked = self.program.original.tracked_outputs
        for position in self.program.original.retained.values():
            result = results[tracked.index(position)]
            result._retains_grad = True
            known = self._retained[position] = tape_value(result)
            assert known is not None
            RETAINED_OUTPUTS[known] = result
        values = [tape_value(result) for result in results]
        self._results = [None if v is None else weakref.ref(v) for v in values]
        node = None if values[0] is None else values[0].node
        if isinstance(node, TapeNode):
            self._location = node.location
            node.saved_results.update((i, Saved(t, None)) for i, t in enumerate(saved))
            node.saved_results[_MARK] = _NOTHING
            self._saved = node.saved_results  # which the tape empties
            self._count = len(self._saved)

    def _arrays(self, arrived: int) -> list[Any]:
        """Those of saved tensors and inputs; RuntimeError if a backward pass has freed them, or
        what eager mode would need. ``arrived``: the results that have gradients, as bits."""
        if _MARK not in self._saved:
            self._freed |= self._freed_from(self._last)
            self._saved.update(self._later)
            self._saved[_MARK] = _NOTHING
        self._last = arrived
        if len(self._saved) < self._count or arrived & self._freed:
            raise RuntimeError(
                "trying to backward through the graph a second time: the values saved for the "
                f"compiled function {self.program.original.name} (called at {self._location}) were "
                "freed; pass retain_graph=True the first time"
            )
        freed = self._freed | self._freed_from(arrived)
        others = (ref for i, ref in enumerate(self._results) if ref and not freed >> i & 1)
        self._later = {}
        if any(ref() is not None for ref in others):
            self._later = {i: saved for i, saved in self._saved.items() if i != _MARK}
        kept = (saved for i, saved in self._saved.items() if i != _MARK)
        return [saved.array for saved in kept if isinstance(saved, Saved)]

    def _freed_from(self, begun: int) -> int:
        """The results, as bits, that a pass frees that begins at those of ``begun``."""
        freed = 0
        for i, bits in enumerate(self.program._sharing):
            freed |= bits if begun >> i & 1 else 0
        return freed

    def _retain(self, position: int, gradient: Tensor) -> None:
        """Keep the gradient of a result (``retain_grad`` in the function)."""
        tensor = RETAINED_OUTPUTS.get(self._retained[position])
        if tensor is not None:
            keep_gradient(tensor, gradient)

    def derivative(self, builder: Any, context: Any, *gradients: Any) -> Sequence[Any]:
        original = self.program.original
        given = [i for i, gradient in enumerate(gradients) if gradient is not None]
        arriving = sum(1 << i for i in given)
        saved = self._arrays(arriving)
        outputs = [original.graph.outputs[i] for i in original.tracked_outputs]
        bindings = dict(zip(original.symbols, self.sizes, strict=True))
        seeds = []
        for value, gradient in zip(outputs, gradients, strict=True):
            if gradient is None:
                shape = self.program.forward.shape(value.type, self.sizes)
                gradient = tensor_builder.full_like(0.0, value.type.with_shape(shape))
            seeds.append(gradient)
        replays = thread.grad_enabled or thread.trace is not None
        results = (
            self._replay(saved, seeds, bindings) if replays else self._run(saved, seeds, arriving)
        )
        reached = self.program.reached(arriving)
        pairs = zip(original.tracked_inputs, results, strict=True)
        return [gradient if p in reached else None for p, gradient in pairs]

    def _run(self, saved: Sequence[Any], seeds: Sequence[Tensor], arrived: int) -> Sequence[Tensor]:
        """The gradients of the inputs; ``arrived``: those of results, as bits."""
        program = self.program
        self._require_unchanged(program._needed)
        backward = program.backward
        invocation = backward.bind(self.sizes)
        arrays = []
        memory = backward.memory
        given = (*seeds, *program._states)
        for position, array in enumerate([*saved, *(tensor._array for tensor in given)]):
            assert array is not None
            if not array.flags.c_contiguous:
                array = memory.dense(array)
            arrays.append(array)
            invocation.set_input(position, array)
        results = []
        for position, value in enumerate(backward.graph.outputs):
            type = value.type.with_shape(program.forward.shape(value.type, self.sizes))
            array = memory.empty(type)
            invocation.set_output(position, array)
            results.append(Tensor._from_array(array, type))
        invocation.run()
        count = len(results) - sum(r.count for r in program._reports)
        told = iter(results[count:])
        found = [(report, report.given(told)) for report in program._reports]
        del results[count:]
        for state in reversed(program._states):
            write(state, results.pop(), "backward")
        for report, given in found:
            if not report.seeds or report.seeds & arrived:
                if isinstance(report.function, int):
                    self._retain(report.function, given[0])
                else:
                    report.function(given)
        return results

    def _require_unchanged(self, positions: Iterable[int]) -> None:
        for position in positions:
            storage = self.inputs[position]._storage
            if storage.version != self.versions[position]:
                raise RuntimeError(
                    f"an input of the compiled function {self.program.original.name} that its "
                    f"gradient needs was changed in place at {storage.writer} after the call"
                )

    def _replay(
        self, saved: Sequence[Any], seeds: Sequence[Tensor], bindings: Mapping[str, int]
    ) -> Sequence[Any]:
        """The gradients of the inputs, from the original graph on the tape."""
        replayed = self.program.replayed
        updated = self.program.original.graph.updates.keys()
        self._require_unchanged({*replayed.needed - updated, *replayed.left, *self.program._needed})
        contents = {
            i: Tensor._from_array(array, self.inputs[i]._type)
            for i, array in zip(self.program._saved_contents, saved, strict=False)
        }
        return replayed.gradients(
            self.inputs[: len(self.program.original.graph.inputs)],  # not what is given behind them
            self._before,
            contents,
            seeds,
            bindings,
            self._retain,
            thread.grad_enabled,
        )


def _hooked(captured: Captured, b: Builder, value: Value, gradient: Any) -> Any:
    """A gradient as the hooks of a tensor of the trace leave it."""
    for hook in captured.trace.hooks.rules.get(value, {}).values():
        if hook.again is not None:
            b.report(hook.again, (gradient,))
        gradient = replayed(hook.rule, gradient, b)
    if value in captured.retained:
        b.report(captured.retained[value], (gradient,))
    return gradient


def _not_inferred(*_: Any) -> Types:
    raise AssertionError("a compiled call is recorded with its result types given")
