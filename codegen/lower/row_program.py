"""Lower one fused group to a row program.

In: a group's iteration space, its loop nest, and the values that must be stored.
Out: a ``RowProgram`` and, through the ``KernelBuilder``, its arguments and the uniform
statements around it. Passes over a row are numbered by the folds that must be
finished before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

from flamec.codegen.lower.kernel_builder import (
    PartialResults,
    Section,
)
from flamec.codegen.lower.lanes import lane_type, memory_type, spill_type
from flamec.codegen.lower.value_lowering import Context, ValueLowering, own_strides
from flamec.ir.graph import Value
from flamec.ir.group_space import Address, Operand, is_assembled
from flamec.ir.iteration_space import leaves
from flamec.ir.kernel import (
    Compute,
    ComputedIndex,
    Fold,
    Loop,
    Part,
    Pass,
    Place,
    RowProgram,
    Store,
)
from flamec.ir.loop_nest import Level, Scope, operand_level
from flamec.ir.memory_order import store_address
from flamec.ir.op import OpKind
from flamec.ir.shape import Dim, SymbolicDim, product
from flamec.ir.tasks import Task

# Partial results of a fold over rows: so many at most, and one for so many rows of very many, which
# are added one after the other. They are fixed by the sizes, not by threads.
CHUNKS, ROWS_OF_ONE = 16, 4096
OWN_SIZE = "own_size"  # the length of a flat loop, which each part gives
CHUNK_ROWS = 32  # rows that one of them has at least
PUT_MODES = {
    "set": "",
    "any": "",
    "over": "",
    "add": "sum",
    "prod": "prod",
    "amax": "amax",
    "amin": "amin",
}


class ProgramBuilder(ValueLowering):
    """Builds one ``RowProgram``; see the module's docstring."""

    # passes --------------------------------------------------------------------------
    def build(self) -> Part:
        """Lower everything; also fills the kernel's uniform and finishing statements."""
        scope = self.nest.scope
        folds = [t for t in self.space.tasks if scope.get(t, Scope.NOTHING) is not Scope.NOTHING]
        stores = [(t, v) for t in self.space.tasks for v in t.results if self._is_stored(t, v)]
        last = self._pass_count(folds, stores)
        for number in range(last + 1):
            self._contexts.append(Context("pass", Section(), Section(), number))
        for context in self._contexts[:last]:
            for task in folds:
                if scope[task] is not Scope.ROWS and self._fold_pass(task) == context.number:
                    self._fold(task, context)
            stored = [s for s in stores if self._store_pass(*s) == context.number]
            for task in folds if stored else ():
                early = scope[task] is Scope.ROWS and self._fold_pass(task) <= context.number
                if early:  # what they pick from the row may be overwritten by the stores
                    self._operand(self.space.operands[task][0], context)
            self._write(stored, context)
        for task in folds:
            if scope[task] is Scope.ROWS:
                self._fold(task, self._contexts[last])
        ends = (
            (Level.ROW, self._contexts[last]),
            (Level.POST_COLUMN, self._after),
            (Level.UNIFORM, self._uniform),
            (Level.POST_UNIFORM, self._finish),
        )
        for level, context in ends:
            self._write([s for s in stores if self._store_level(*s) is level], context)
        return self._part()

    def compute_scalars(self) -> None:
        """Statements for all results, in the order of the tasks: none waits for a long chain."""
        for task in self.space.tasks:
            for value in task.results:
                self._value(value, self._uniform)

    def _is_stored(self, task: Task, value: Value) -> bool:
        is_product = task.node is not None and task.node.op.kind is OpKind.CONTRACTION
        return (task.is_copy or value in self.escapes) and not is_product

    def _store_level(self, task: Task, value: Value) -> Level:
        if not task.is_copy:
            return self.nest.level[value]
        level, _ = operand_level(self.nest, self.space.operands[task][0])
        axes = {axis for dim in self.space.task_dims[task] for axis in leaves(dim)}
        if level >= Level.POST_UNIFORM:
            return Level.POST_COLUMN if axes else level
        if any(a in axes for a in self.nest.inner):
            return Level.ELEMENT
        return Level.ROW if any(a in axes for a in self.nest.rows) else level

    def _stage(self, task: Task) -> int:
        if task.is_copy:
            return operand_level(self.nest, self.space.operands[task][0])[1]
        return self.nest.stage[task.results[0]]

    def _fold_pass(self, task: Task) -> int:
        return max(operand_level(self.nest, o)[1] for o in self.space.operands[task])

    def _store_pass(self, task: Task, value: Value) -> int:
        return self._stage(task) if self._store_level(task, value) is Level.ELEMENT else -1

    def _pass_count(self, folds: Sequence[Task], stores: Sequence[tuple[Task, Value]]) -> int:
        numbers = [self._fold_pass(t) for t in folds if self.nest.scope[t] is not Scope.ROWS]
        numbers += [self._store_pass(t, v) for t, v in stores]
        return max(numbers, default=-1) + 1

    def _fold(self, task: Task, context: Context) -> None:
        assert task.node is not None
        value, scope = task.results[0], self.nest.scope[task]
        operand, op = self.space.operands[task][0], task.node.op
        lane = lane_type(task.operands[0].type.dtype)
        source = self._operand(operand, context)
        section = context.row if scope is Scope.ROWS else context.element
        position, target, op_name = "", -1, op.name
        if task in self.space.picks:
            op_name = "sum"
            column = Address(0, tuple(own_strides(leaves(operand.dims[-1]))))
            hit = self._hit(task, column, Level.ELEMENT, context)
            zero = self._zero(lane, Level.ELEMENT, context)
            source = self._chosen(hit, source, zero, lane, Level.ELEMENT, context)
        elif not op.associative:
            folded = leaves(operand.dims[task.node.attributes["axes"][0]])
            index = Address(0, tuple(own_strides(folded)))
            position = self._position(index, "i64", Level.ELEMENT, context)
        name = self._new_name(context)
        if scope is Scope.COLUMN:
            rows = product(axis.size for axis in self.nest.rows)
            elements = chunk_limit(rows) * product(axis.size for axis in self.nest.inner)
            target = self.parameters.number(PartialResults(spill_type(lane), elements), True)
            self._column_names[value] = name
        elif scope is Scope.ROW:
            self._row.names[value] = name
        else:
            self.results.append(self.kernel.folded(value))
        fold = Fold(name, lane, op_name, source, scope.value, position, target)
        section.statements.append(fold)

    def _write(self, stores: Sequence[tuple[Task, Value]], context: Context) -> None:
        """Stores come after everything else of their section: they may overwrite its inputs."""
        pending: list[tuple[Section, Store]] = []
        for task, value in stores:
            combine, where, unordered = "", "", False
            indices: tuple[ComputedIndex, ...] = ()
            if task in self.space.regions:
                name = self._operand(self.space.operands[task][0], context)
                address = self.space.regions[task]
            elif is_assembled(task):
                assert task.node is not None
                source, target = self.space.operands[task]
                name = self._operand(source, context)
                assert target.address is not None
                address, indices = target.address, self._indices(target, context)
                mode = task.node.attributes["mode"]
                combine, unordered = PUT_MODES[mode], mode in ("any", "over")
                where = self._none_negative(indices, target, context) if mode == "over" else ""
            else:
                name = self._value(value, context)
                address = store_address(self.space, value)
            number = self._parameter(context, value, written=True)
            place = Place(number, self._linear(address, context), indices)
            section = self._section(self._store_level(task, value), context)
            memory, lane = memory_type(value.type.dtype), lane_type(value.type.dtype)
            pending.append((section, Store(memory, lane, place, name, combine, where, unordered)))
        for section, store in pending:
            section.statements.append(store)

    def _none_negative(
        self, indices: Sequence[ComputedIndex], target: Operand, context: Context
    ) -> str:
        """Whether no index is negative."""
        level = max(Level.ROW, *(operand_level(self.nest, o)[0] for o, *_ in target.indices))
        lanes = ("i64", "i64")

        def computed(op: str, lane: str, x: str, y: str) -> str:
            return self._once(
                (op, x, y), level, context, lambda n: Compute(n, lane, op, (x, y), lanes)
            )

        least = reduce(partial(computed, "minimum", "i64"), [index.name for index in indices])
        return computed("ge", "b", least, self._zero("i64", level, context))

    def _part(self) -> Part:
        nest = self.nest
        passes = [
            Pass(tuple(c.row.statements), tuple(c.element.statements)) for c in self._contexts
        ]
        scatters = any(s.place.indices for p in passes for s in p.stores())
        kind = "along rows" if nest.along_rows else "flat" if nest.flat else "rows"
        rows, inner = self.loops()
        sizes: tuple[Dim, ...] = ()
        if nest.flat and len(inner) == 1:
            sizes = (inner[0].size,)
            inner = (Loop(inner[0].name, SymbolicDim.symbol(OWN_SIZE)),)
        program = RowProgram(
            "scatter" if scatters else kind,
            tuple(self.parameters.parameters),
            rows,
            inner,
            tuple(p for p in passes if p.row or p.element),
            tuple(self.imports.values()),
            tuple(self._after.element.statements),
            self.contraction,
            (OWN_SIZE,) if sizes else (),
        )
        arguments = tuple(
            self.kernel.parameters.number(buffer, parameter.written)
            for buffer, parameter in zip(
                self.parameters.buffers, self.parameters.parameters, strict=True
            )
        )
        return Part(program, arguments, tuple(self.imports), tuple(self.results), sizes)


def chunk_limit(rows: Dim) -> int:
    """How many partial results a fold over so many rows has at most."""
    most = CHUNKS + rows // ROWS_OF_ONE
    return max(1, min(most, rows // CHUNK_ROWS)) if isinstance(rows, int) else most
