"""Lower what looks alike once.

In: groups, and the parts of a bundle. Out: the kernel or the part that was lowered first for the
same structure (``TaskSignatures``), with the buffers of the others. So the work of lowering grows
with the number of different blocks of a network, not with the number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flamec.codegen.lower.kernel_builder import (
    KernelBuilder,
    Memory,
    ParameterList,
    PartialResults,
)
from flamec.ir.graph import Value
from flamec.ir.kernel import (
    Compute,
    Constant,
    Load,
    Part,
    Place,
    Position,
    RandomBits,
    Statement,
    Store,
    name_of,
    operands_of,
)
from flamec.ir.passes.fusion_groups import FusionGroup
from flamec.ir.task_signature import TaskSignatures
from flamec.ir.tasks import Task


def group_signature(
    group: FusionGroup, stored: set[Value], signatures: TaskSignatures
) -> tuple[Any, list[Value]]:
    """Equal for groups whose kernels differ in buffers, names and source lines only; the roots."""
    tasks = group.tasks
    signature, roots = signatures.of(tasks, stored)
    number = {task: i for i, task in enumerate(tasks)}
    sets = tuple(tuple(number[t] for t in segment) for segment in group.segments)
    absorbed = tuple(
        (number[task], position, tuple(number[t] for t in maker))
        for (task, position), maker in group.absorbed.items()
    )
    return (signature, sets, absorbed), roots


def moved_buffers(
    buffers: Sequence[Memory], before: Sequence[Value], now: Sequence[Value]
) -> tuple[Memory, ...]:
    """The buffers of a kernel for other roots, which correspond one by one."""
    place = dict(zip(before, now, strict=True))
    return tuple(
        PartialResults(buffer.memory, buffer.elements)
        if isinstance(buffer, PartialResults)
        else place[buffer]
        for buffer in buffers
    )


@dataclass(frozen=True)
class _Import:
    """A value that a part takes from the kernel: a scalar of other tasks, a constant, or a load."""

    scalar: Value | None = None
    statement: Constant | Load | None = None
    buffer: Memory | None = None


@dataclass(frozen=True)
class _Model:
    """A part that was lowered, and what it added to the kernel's uniform statements.

    ``added``: statements, with what their results stand for. ``known``: the same of the names
    of earlier statements that it uses.
    """

    part: Part
    roots: list[Value]
    buffers: tuple[Memory, ...]
    added: tuple[tuple[object, Statement], ...]
    known: Mapping[str, object]


@dataclass
class RepeatedParts:
    """The parts of one kernel; ``scalars`` are what its first tasks compute."""

    kernel: KernelBuilder
    signatures: TaskSignatures
    stored: set[Value]
    scalars: Mapping[Value, Task]
    _models: dict[Any, _Model] = field(default_factory=dict)

    def part(self, tasks: Sequence[Task], lower: Callable[[], tuple[Part, ParameterList]]) -> Part:
        """``lower()`` for the first of the parts that look alike, its copy for the others."""
        signature, roots = self.signatures.of(tasks, self.stored)
        key = signature, tuple(root in self.scalars for root in roots)
        roots += [
            v for t in tasks if t.ending for node in t.ending.operations for v in node.outputs
        ]
        model = self._models.get(key)
        copy = None if model is None else self._copy(model, roots)
        if copy is not None:
            return copy
        statements, errors = self.kernel.uniform.statements, self.kernel.errors
        before = len(statements), len(self.kernel.finish.statements), errors.asked
        part, parameters = lower()
        same = before[1:] == (len(self.kernel.finish.statements), errors.asked)
        if same and not part.results:  # a message may name its line, and ends are not moved
            buffers = tuple(parameters.buffers)
            self._models[key] = self._model(part, roots, buffers, statements[before[0] :])
        return part

    def _model(
        self, part: Part, roots: list[Value], buffers: tuple[Memory, ...], added: list[Statement]
    ) -> _Model:
        keys = {name: key for key, name in self.kernel.uniform.names.items()}
        own = {name_of(s) for s in added}
        used = dict.fromkeys((*part.imports, *(n for s in added for n in operands_of(s))))
        known = {name: keys[name] for name in used if name not in own}
        defined = tuple((keys.get(name_of(s)), s) for s in added)
        return _Model(part, roots, buffers, defined, known)

    def _copy(self, model: _Model, roots: list[Value]) -> Part | None:
        """The statements and the part that lowering would have given, in the same order.

        None where the model found something that was loaded before (by a task that computes a
        scalar from it, say), which was not for ``roots``.
        """
        values = dict(zip(model.roots, roots, strict=True))
        names, number = self.kernel.uniform.names, self.kernel.parameters.number
        called: dict[str, str] = {}
        for name, key in model.known.items():
            if isinstance(key, tuple) and isinstance(key[0], Place):
                buffer = self.kernel.parameters.buffers[key[0].parameter]
                assert isinstance(buffer, Value)
                if values.get(buffer, buffer) not in self.kernel.parameters:
                    return None
            known = names.get(self._moved_key(key, values, called))
            if known is None:
                return None
            called[name] = known
        for key, statement in model.added:
            moved_key = self._moved_key(key, values, called)
            if key is not None and moved_key in names:
                called[name_of(statement)] = names[moved_key]
                continue
            moved = self._moved(statement, values, called)
            if key is not None:
                names[moved_key] = name_of(moved)
            self.kernel.uniform.statements.append(moved)
        buffers = moved_buffers(model.buffers, model.roots, roots)
        written = [parameter.written for parameter in model.part.program.parameters]
        arguments = tuple(map(number, buffers, written))
        imports = tuple(called[name] for name in model.part.imports)
        return replace(model.part, arguments=arguments, imports=imports)

    def _moved_key(
        self, key: object, values: Mapping[Value, Value], called: Mapping[str, str]
    ) -> object:
        """What corresponds to something that a name stands for."""
        match key:
            case Value():
                return values.get(key, key)
            case (Place() as place, str(fill)):
                return self._moved_place(place, values), called.get(fill, fill)
            case tuple():
                return tuple(called.get(x, x) if isinstance(x, str) else x for x in key)
        return key

    def _moved_place(
        self, place: Place, values: Mapping[Value, Value], written: bool = False
    ) -> Place:
        buffer = self.kernel.parameters.buffers[place.parameter]
        assert isinstance(buffer, Value)
        number = self.kernel.parameters.number(values.get(buffer, buffer), written)
        return replace(place, parameter=number)

    def _moved(
        self, statement: Statement, values: Mapping[Value, Value], called: dict[str, str]
    ) -> Statement:
        """A statement over other buffers and names, with a new name of its own."""
        name = name_of(statement)
        if name:
            called[name] = self.kernel.new_name()
        match statement:
            case Store():
                place = self._moved_place(statement.place, values, written=True)
                return replace(statement, place=place, operand=called[statement.operand])
            case Load():
                place = self._moved_place(statement.place, values)
                fill = called.get(statement.fill, statement.fill)
                return replace(statement, name=called[name], place=place, fill=fill)
            case Compute():
                operands = tuple(called[operand] for operand in statement.operands)
                return replace(statement, name=called[name], operands=operands)
            case RandomBits():
                place = self._moved_place(statement.state, values)
                return replace(statement, name=called[name], state=place)
            case Constant() | Position():
                return replace(statement, name=called[name])
        raise LookupError(f"{type(statement).__name__} stands before no loop")
