"""The call of a compiled program as one generated function: no loops, no choices left to make.

In: what a trace captured. Out: ``CallPath``, whose ``source`` can be read and whose ``bind`` makes
the function for one choice of sizes on one thread. Invariants: an address that the program
reads belongs to an array that the function holds or the caller does; a gradient's memory is
written again only if nobody but its target knows it. Arrays are those of the program's
device: beside ``flags.c_contiguous`` nothing is asked of them here (``prepared.py``).

The function takes the leaves of the arguments, whose check has passed, and does in order:
captured tensors (compared by the identity of their arrays with those of the last call), arrays
of arguments, numbers, memory for outputs, the program, versions of what it wrote,
gradients, results. Whatever does not happen at every call is a method of ``Binding``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.capture import captured_sources
from flamec.host_actions import LastAct
from flamec.host_numbers import ExpressionWriter
from flamec.host_steps import HostSteps
from flamec.ir.shape import SymbolicDim
from flamec.prepared import Invocation, output_allocator
from flamec.sources import InputSource
from flamec.structures import Structure
from flamec.tensor import Tensor
from flamec.traced_results import GradEffect, Result

if TYPE_CHECKING:
    from flamec.program import Program

CHANGED: Any = type("Changed", (), {"__repr__": lambda self: "<captured tensors changed>"})()
_UNREAD: Any = object()  # a number that no cell holds

# Whether nobody but its target and the call path knows a gradient, its storage and its array.
_UNSHARED = (
    "getrefcount({0}) == {1[0]} and getrefcount({0}._storage) == {1[1]}\n"
    "            and getrefcount({0}._array) == {1[2]}"
)


def _count_references() -> tuple[int, int, int]:
    """What getrefcount says where ``_UNSHARED`` stands; it depends on Python's version."""
    source = (
        "def count(target):\n"
        "    last = target._grad\n"
        "    def call():\n"
        "        nonlocal last\n"
        "        gradient = last\n"
        "        return (getrefcount(gradient), getrefcount(gradient._storage),"
        " getrefcount(gradient._array))\n"
        "    return call()\n"
    )
    names: dict[str, Any] = {"getrefcount": getrefcount}
    exec(source, names)
    target = Tensor._from_array(np.empty(0, np.float32))
    target._grad = Tensor._from_array(np.empty(0, np.float32))
    tensor, storage, array = names["count"](target)
    return tensor, storage, array


_REFERENCES = _count_references()


class CallPath:
    """The generated source of a program's calls, and what its names stand for.

    ``outputs_only``: the function gives a tuple of the graph's outputs, not the results. ``made``:
    where in it the results are that are made of outputs and also written, by id.
    """

    def __init__(self, program: Program, outputs_only: bool = False) -> None:
        self._captured = program.captured
        self._program = program
        self._names: dict[str, Any] = {
            "getrefcount": getrefcount,
            "CHANGED": CHANGED,
            "UNREAD": _UNREAD,
            "program": program,
            "result": program.result,
            "from_array": Tensor._from_array,
            "freed": program.freed,
        }
        self._known: dict[int, str] = {}
        self._made: dict[int, str] = {}  # variables of results that are made of outputs
        self.made: dict[int, int] = {}
        self._state: dict[str, str] = {}  # variables that live from call to call: first values
        self._body: list[str] = []
        self._writer = self._new_writer()
        self._write(outputs_only)
        self.source = self._text()
        variables = dict(self._names)
        exec(compile(self.source, f"<flamec call of {self._captured.name}>", "exec"), variables)
        self._bind: Callable[..., Any] = variables["bind"]

    def bind(self, binding: Binding, sizes: tuple[int, ...]) -> Callable[[tuple[Any, ...]], Any]:
        """The function for these sizes on this thread; CHANGED if the check must be repeated."""
        call: Callable[[tuple[Any, ...]], Any] = self._bind(binding, sizes)
        return call

    # writing ------------------------------------------------------------------
    def _name(self, value: Any, prefix: str) -> str:
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = f"{prefix}{len(self._known)}"
            self._names[known] = value
        return known

    def _text(self) -> str:
        lines = ["def bind(binding, sizes):"]
        # ends the first block of code, into which Python inserts a step for each variable below,
        # one by one: with thousands of them that took longer than all the rest
        lines.append("    if binding is None: return None")
        lines += [f"    {name} = {value}" for name, value in self._state.items()]
        lines.append("    def call(leaves):")
        changing = [n for n, value in self._state.items() if value in ("None", "UNREAD")]
        if changing:
            lines.append(f"        nonlocal {', '.join(changing)}")
        lines += [f"        {line}" for line in self._body]
        kept = [n for n in self._state if n.startswith("last")]
        if kept:
            lines.append("    def forget():")
            lines.append(f"        nonlocal {', '.join(kept)}")
            lines.append(f"        {' = '.join(kept)} = None")
        lines.append("    return call")
        return "\n".join(lines) + "\n"

    def _write(self, outputs_only: bool) -> None:
        captured = self._captured
        self._state["run"] = "binding.invocation.run"
        self._state["place"] = "binding.place"
        self._write_captured()
        used = {s.position for s in captured.sources if s.position >= 0}
        used |= {r.position for r in captured.results if r.kind == "argument"}
        used |= {g.target for g in captured.grads if isinstance(g.target, int)}
        used |= {
            o.position
            for step in (*captured.host.steps, *captured.host.last)
            for o in (*step.operands, *(step.given if isinstance(step, LastAct) else ()))
            if isinstance(o, Result) and o.kind == "argument"
        }
        self._body += [f"a{p} = leaves[{p}]" for p in sorted(used)]
        for position, source in enumerate(captured.sources):
            if source.kind != "number" and source.position >= 0:
                self._write_argument(position, source)
        numbers = [(p, s) for p, s in enumerate(captured.sources) if s.kind == "number"]
        outputs = _tuple([f"y{i}" for i in range(len(captured.graph.outputs))])
        late = [s.expression for _, s in numbers if s.expression is not None and s.moment]
        steps = HostSteps(
            captured.host, self._writer, self._host_name, lambda r: self._result(r, outputs)
        )
        self._body += steps.begin(lambda r: self._result(r, "()"))
        for moment in range(max((s.moment for _, s in numbers), default=0) + 1):
            self._body += steps.until(moment, self._structure)
            for position, source in numbers:
                if source.moment == moment:
                    self._write_number(position, source)
        slots = self._reused_gradients()
        if slots:
            self._body.append("if program.gradient_owner is not forget: program.own(forget)")
        for position in range(len(captured.graph.outputs)):
            self._write_output(position, slots.get(position))
        self._body.append("run()")
        self._state["copied"] = "binding.copied"
        self._body.append("if copied: binding.finish_copies()")
        for position in sorted(captured.graph.updates):
            source = captured.sources[position]
            owner = f"a{source.position}._storage" if source.position >= 0 else f"s{position}"
            self._body.append(f"{owner}.version += 1")
        for effect in captured.grads:
            self._write_gradient(effect, slots)
        self._body += steps.rest(self._structure)
        if outputs_only:
            returned = [self._writer.text(e) for e in captured.host.returned]
            first = len(captured.graph.outputs) + len(returned)
            self.made = {made: first + i for i, made in enumerate(self._made)}
            returned += [*self._made.values(), *(self._writer.text(e) for e in late)]
            self._body.append(
                f"return {outputs} + {_tuple(returned)}" if returned else f"return {outputs}"
            )
            return
        texts = [self._result(r, outputs) for r in captured.results]
        self._body.append(f"return {self._structure(captured.result_structure, texts)}")

    def _write_captured(self) -> None:
        """One comparison of all captured arrays; new ones are checked, placed and kept."""
        arrays, storages, tests = [], [], []
        updates = self._captured.graph.updates
        for position, source in captured_sources(self._captured):
            if source.owner is not None:
                text = f"{self._name(source.owner, 't')}._grad._array"
            elif source.held is not None:
                text = f"{self._name(source.held, 't')}._array"
            else:
                text = f"{self._name(source.storage, 'b')}.base"
            self._state[f"c{position}"] = "None"
            arrays.append(f"c{position}")
            tests.append(f"{text} is c{position}")
            if position in updates:
                self._state[f"s{position}"] = "None"
                storages.append(f"s{position}")
        if not tests:
            return
        self._state["captured_arrays"] = "binding.captured_arrays"
        test = "\n            and ".join(tests)
        self._body.append(
            f"if not (\n            {test}\n        ):\n"
            "            found = captured_arrays()\n"
            "            if found is None: return CHANGED\n"
            f"            {_tuple([*arrays, *storages])} = found"
        )

    def _write_argument(self, position: int, source: InputSource) -> None:
        kind = "_array" if source.kind == "argument" else "_storage.base"
        self._state[f"x{position}"] = "None"
        self._body.append(
            f"if (x := a{source.position}.{kind}) is not x{position}: "
            f"x{position} = place({position}, x)"
        )

    def _write_number(self, position: int, source: InputSource) -> None:
        """Numbers are immutable: the cell holds what it should if the object is the same."""
        self._state["write_number"] = "binding.write_number"
        if source.expression is not None and source.expression.of_sizes:
            text = self._new_writer().text(source.expression)
            self._state[f"n{position}"] = f"write_number({position}, {text})"
            return
        if source.expression is not None:
            text = self._writer.text(source.expression)
        else:
            keys = "".join(f"[{self._key(key)}]" for key in source.path)
            text = f"{self._name(source.container, 'd')}{keys}"
        self._state[f"n{position}"] = "UNREAD"
        self._body.append(
            f"if (n := {text}) is not n{position}: n{position} = write_number({position}, n)"
        )

    def _new_writer(self) -> ExpressionWriter:
        return ExpressionWriter(
            self._host_name, lambda position: f"leaves[{position}]", self._extent
        )

    def _host_name(self, value: Any) -> str:
        return self._name(value, "d")

    def _extent(self, dim: SymbolicDim) -> str:
        """The variable of a size, which calls with the same sizes share."""
        variable = f"e{len(self._state)}"
        self._state[variable] = f"program.size({self._host_name(dim)}, sizes)"
        return variable

    def _key(self, key: Any) -> str:
        return repr(key) if isinstance(key, (str, int)) else self._name(key, "k")

    def _reused_gradients(self) -> dict[int, GradEffect]:
        """Outputs that are the gradient of one tensor, whose memory may be used again."""
        slots: dict[int, GradEffect] = {}
        shared = set()
        for effect in self._captured.grads:
            result = effect.result
            if result.kind == "fresh" and not result.steps and isinstance(effect.target, Tensor):
                if result.position in slots:
                    shared.add(result.position)
                slots[result.position] = effect
        return {p: e for p, e in slots.items() if p not in shared}

    def _write_output(self, position: int, effect: GradEffect | None) -> None:
        kind = "output" if effect is None else "gradient"
        self._state[f"new{position}"] = f"binding.new_{kind}({position})"
        self._state[f"type{position}"] = f"binding.types[{position}]"
        new = f"y{position} = from_array(new{position}(), type{position})"
        if effect is None:
            self._body.append(new)
            return
        self._state[f"last{position}"] = "None"
        target = self._name(effect.target, "t")
        unshared = _UNSHARED.format(f"y{position}", _REFERENCES)
        self._body.append(
            f"y{position} = last{position}\n"
            f"        if not (\n            y{position} is {target}._grad\n"
            f"            and {unshared}\n        ):\n"
            f"            last{position} = None\n"
            f"            {new}"
        )

    def _write_gradient(self, effect: GradEffect, slots: dict[int, GradEffect]) -> None:
        result = effect.result
        if isinstance(effect.target, Tensor):
            target = self._name(effect.target, "t")
        else:
            target = f"a{effect.target}"
        position = result.position
        if slots.get(position) is effect:
            self._body.append(
                f"if y{position} is last{position}: y{position}._storage.version += 1\n"
                f"        else: last{position} = {target}._grad = y{position}"
            )
            return
        outputs = _tuple([f"y{i}" for i in range(len(self._captured.graph.outputs))])
        text = f"y{position}" if _is_output(result) else self._result(result, outputs)
        self._body.append(f"{target}._grad = {text}")

    def _result(self, result: Any, outputs: str) -> str:
        """The expression of one leaf of the results (or of a gradient)."""
        if _is_output(result):
            if result.freed:
                tensor = f"y{result.position}"
                self._body += [
                    f"{tensor}._value = {tensor}._storage.value = freed",
                    f"{tensor}._value_version = 0",
                ]
            return f"y{result.position}"
        if result.kind == "container":
            return f"leaves[{result.position}]"
        if result.kind == "host":
            return self._writer.text(result.value)
        if result.kind == "argument" and not result.steps:
            return f"a{result.position}"
        if result.kind == "constant" or (result.kind == "tensor" and not result.steps):
            return "None" if result.value is None else self._name(result.value, "v")
        known = self._made.get(id(result))
        if known is not None:
            return known
        self._made[id(result)] = variable = f"m{len(self._made)}"
        return f"({variable} := result({self._name(result, 'r')}, leaves, sizes, {outputs}))"

    def _structure(self, structure: Structure, texts: Sequence[str]) -> str:
        """The expression that puts the results together."""
        if structure.kind is None:
            return texts[0]
        leaves = iter(texts)

        def text(part: Structure) -> str:
            if part.kind is None:
                return next(leaves)
            children = [text(c) for c in part.children]
            if part.kind is tuple:
                return _tuple(children)
            if part.kind is list:
                return f"[{', '.join(children)}]"
            return f"program.rebuild({self._name(part, 'shape')}, {_tuple(children)})"

        return text(structure)


def _is_output(result: Any) -> bool:
    return result.kind == "fresh" and not result.steps


def _tuple(texts: Sequence[str]) -> str:
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


class Binding:
    """An invocation for one choice of sizes on one thread, and the rarer work of a call.

    ``copied``: dense copies of strided inputs of the call, by graph input.
    """

    def __init__(self, program: Program, sizes: tuple[int, ...]) -> None:
        graph = program.captured.graph
        self.invocation: Invocation = program.prepared.bind(sizes)
        self.types = [v.type.with_shape(program.shape(v.type, sizes)) for v in graph.outputs]
        self.copied: dict[int, tuple[Any, Any]] = {}
        self._program = program
        self._memory = program.prepared.memory
        self._sources = captured_sources(program.captured)
        self._cells: dict[int, Any] = {}
        for position, source in enumerate(program.captured.sources):
            if source.kind == "number":
                cell = self._memory.number(graph.inputs[position].type.dtype)
                self._cells[position] = cell
                self.invocation.set_input(position, cell)

    def place(self, position: int, array: Any) -> Any:
        """Give an input to the program; the array, or None if it must be given at each call.

        A strided array is given as a dense copy; what the program writes is copied back.
        """
        if array.flags.c_contiguous:
            self.copied.pop(position, None)
            self.invocation.set_input(position, array)
            return array
        dense = self._memory.dense(array)
        self.copied[position] = (array, dense)
        self.invocation.set_input(position, dense)
        return None

    def captured_arrays(self) -> tuple[Any, ...] | None:
        """Place all captured tensors: their arrays, then the storages that the program writes.

        None if they are not what the check has seen: then it must be made again.
        """
        if not self._program.check.captured_hold():
            return None
        arrays, storages = [], []
        for position, source in self._sources:
            storage = source.storage if source.tensor is None else source.tensor._storage
            assert storage is not None
            array = storage.base if source.tensor is None else source.tensor._array
            arrays.append(self.place(position, array))
            if position in self._program.captured.graph.updates:
                storages.append(storage)
        return (*arrays, *storages)

    def write_number(self, position: int, value: Any) -> Any:
        """Store a number in its cell; the object that the cell then stands for."""
        self._memory.write_number(self._cells[position], value)
        return value if type(value) in (float, int, bool) else _UNREAD

    def new_output(self, position: int) -> Callable[[], Any]:
        """A function that allocates an output and gives it to the program."""
        return self.invocation.new_output(position, self.types[position])

    def new_gradient(self, position: int) -> Callable[[], Any]:
        """As ``new_output``, in memory that only the call path uses again."""
        return output_allocator(self.invocation, self._memory, position, self.types[position])

    def finish_copies(self) -> None:
        """Copy back what the program wrote into dense copies."""
        for position, (array, dense) in self.copied.items():
            if position in self._program.captured.graph.updates:
                self._memory.copy(array, dense)
        self.copied.clear()
