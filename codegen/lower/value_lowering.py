"""Lower values to statements, on demand.

In: a group's iteration space and loop nest. A value or operand that is asked for pulls in
what it needs, so nothing unused is computed; it has one name in each place where it
can be used (a row, a pass over a row's elements, once for the kernel). A value
needed in several passes is computed again if that is cheap, else kept for the row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flamec.codegen.lower.kernel_builder import (
    KernelBuilder,
    Memory,
    ParameterList,
    Section,
)
from flamec.codegen.lower.lanes import lane_type, memory_type
from flamec.codegen.lower.requirements import error_text, requirement
from flamec.ir.graph import Value
from flamec.ir.group_rules import find
from flamec.ir.group_space import Address, GroupSpace, Operand, is_assembled
from flamec.ir.iteration_space import Axis, leaves
from flamec.ir.kernel import (
    CheckedIndex,
    Compute,
    ComputedIndex,
    Constant,
    Contraction,
    Fold,
    Keep,
    Linear,
    Load,
    Loop,
    Place,
    Position,
    RandomBits,
    Recall,
    Statement,
    name_of,
)
from flamec.ir.loop_nest import Level, LoopNest, Scope, operand_level, placed_value
from flamec.ir.memory_order import all_addresses, coalesces, store_address
from flamec.ir.op import OpKind
from flamec.ir.shape import Dim, format_dim, product, structurally_equal
from flamec.ir.tasks import Task

CHEAP_OPERATIONS = 6  # what is rather computed again than kept for a later pass


@dataclass
class Context:
    """Where statements go: into one pass over the rows, behind them ("after"), or into the
    kernel's uniform or finishing statements. ``picked`` is the index of the one element of a
    row that is meant, where that is computed alone."""

    kind: str
    row: Section
    element: Section
    number: int = -1
    picked: tuple[ComputedIndex, ...] = ()

    @property
    def is_uniform(self) -> bool:
        return self.kind in ("uniform", "finish")


class ValueLowering:
    """Names and statements of one program; see the module's docstring."""

    def __init__(
        self, space: GroupSpace, nest: LoopNest, escapes: set[Value], kernel: KernelBuilder
    ) -> None:
        self.space, self.nest, self.escapes, self.kernel = space, nest, escapes, kernel
        strides = [a.strides() for a in all_addresses(space, escapes)]
        self.row_groups = _grouped(nest.rows, strides)
        self.inner_groups = _grouped(nest.inner, strides)
        self.producer = {v: t for t in space.tasks for v in t.results if not is_assembled(t)}
        self.parameters = ParameterList()
        self.imports: dict[str, tuple[str, str]] = {}  # uniform name -> (local name, lane)
        self.results: list[str] = []
        self.contraction: Contraction | None = None
        self._row = Section()  # its names are known to all passes
        self._contexts: list[Context] = []
        self._after = _single_context("after", Section())
        self._uniform = _single_context("uniform", kernel.uniform)
        self._finish = _single_context("finish", kernel.finish)
        self._column_names: dict[Value, str] = {}
        self._first_pass: dict[Value, tuple[int, str]] = {}
        self._kept: dict[Value, int] = {}
        self._picked_names: dict[str, dict[object, str]] = {}
        self._counter = 0

    # names ---------------------------------------------------------------------------
    def _new_name(self, context: Context) -> str:
        if context.is_uniform:
            return self.kernel.new_name()
        self._counter += 1
        return f"v{self._counter}"

    def _parameter(self, context: Context, buffer: Memory, written: bool = False) -> int:
        table = self.kernel.parameters if context.is_uniform else self.parameters
        return table.number(buffer, written)

    def _linear(self, address: Address, context: Context) -> Linear:
        strides = address.strides()
        if context.is_uniform:
            return Linear(address.offset, (), ())
        inner: Sequence[Dim] = [strides.get(group[-1], 0) for group in self.inner_groups]
        if context.picked:
            inner = [0] * len(inner)
        rows = tuple(strides.get(group[-1], 0) for group in self.row_groups)
        return Linear(address.offset, rows, tuple(inner))

    def _picked_index(self, address: Address, context: Context) -> tuple[ComputedIndex, ...]:
        """Where the one element that is meant lies inside its row."""
        picks = context.picked and self.nest.inner  # a row of one element has no inner loop
        stride = address.strides().get(self.nest.inner[-1], 0) if picks else 0
        moves = not structurally_equal(stride, 0)
        return tuple(replace(index, stride=stride) for index in context.picked if moves)

    def _section(self, level: Level, context: Context) -> Section:
        return context.row if level is Level.ROW else context.element

    def _names(self, section: Section, context: Context) -> dict[object, str]:
        shared = section is context.row and context.kind in ("pass", "picked")
        return self._row.names if shared else section.names

    def _imported(self, name: str, lane: str, context: Context) -> str:
        """The name of a uniform value where it is needed."""
        if context.is_uniform:
            return name
        if name not in self.imports:
            self.imports[name] = (f"u{len(self.imports)}", lane)
        return self.imports[name][0]

    def _once(
        self,
        key: object,
        level: Level,
        context: Context,
        make: Callable[[str], Statement],
    ) -> str:
        """The name of a statement's result; the statement is added where it is not there yet."""
        section = self._section(level, context)
        names = self._names(section, context)
        if key not in names:
            names[key] = name = self._new_name(context)
            section.statements.append(make(name))
        return names[key]

    # values --------------------------------------------------------------------------
    def statements_of(self, operand: Operand) -> tuple[str, Section, Section]:
        """The name of an operand's element; the statements of rows and elements that give it."""
        context = Context("pass", Section(), Section(), 0)
        self._contexts.append(context)
        return self._operand(operand, context), context.row, context.element

    def loops(self) -> tuple[tuple[Loop, ...], tuple[Loop, ...]]:
        """The loops of rows, and those inside."""
        rows = tuple(_loop(f"r{i}", g) for i, g in enumerate(self.row_groups))
        return rows, tuple(_loop(f"e{i}", g) for i, g in enumerate(self.inner_groups))

    def _operand(self, operand: Operand, context: Context) -> str:
        if operand.computed:
            return self._value(operand.source, context)
        level, _ = operand_level(self.nest, operand)
        if level is Level.UNIFORM and not context.is_uniform:
            lane = lane_type(operand.source.type.dtype)
            return self._imported(self._operand(operand, self._uniform), lane, context)
        dtype = operand.source.type.dtype
        lane = lane_type(dtype)
        if operand.address is None:
            assert operand.source.node is not None
            value = constant_value(operand.source.node.attributes)
            key: object = ("constant", lane, repr(value))
            return self._once(key, level, context, lambda name: Constant(name, lane, value))
        if operand.is_position:
            return self._position(operand.address, lane, level, context)
        fill = ""
        if operand.fill is not None and not self.space.context.is_zero(operand.fill):
            fill = self._operand(find(self.space, operand.fill), context)
        return self._load(operand.source, self._place(operand, context), level, context, fill)

    def _position(self, address: Address, lane: str, level: Level, context: Context) -> str:
        at = self._linear(address, context)
        return self._once(
            ("position", at, lane), level, context, lambda name: Position(name, lane, at)
        )

    def _load(
        self, source: Value, place: Place, level: Level, context: Context, fill: str = ""
    ) -> str:
        lane, memory = lane_type(source.type.dtype), memory_type(source.type.dtype)
        return self._once(
            (place, fill), level, context, lambda name: Load(name, lane, memory, place, fill)
        )

    def _place(self, operand: Operand, context: Context) -> Place:
        assert operand.address is not None
        number = self._parameter(context, operand.source)
        guards = [(self._linear(guard.index, context), guard.size) for guard in operand.guards]
        at, indices = self._linear(operand.address, context), self._indices(operand, context)
        indices += self._picked_index(operand.address, context)
        return Place(number, at, indices, tuple(guards))

    def _indices(self, operand: Operand, context: Context) -> tuple[ComputedIndex, ...]:
        return tuple(
            ComputedIndex(
                self._index(index, context),
                stride,
                size,
                self._error(axis, size),
                inside,
                () if inside else self._along(operand, index),
            )
            for axis, (index, stride, size, inside) in enumerate(operand.indices)
        )

    def _along(self, operand: Operand, index: Operand) -> tuple[Dim, ...]:
        """``ComputedIndex.along``, of an index of what is looked up or put."""
        of_places = leaves([a for dim in operand.dims[: len(index.dims)] for a in dim])
        unknown = [axis for axis in of_places if not isinstance(axis.size, int)]
        varying = self._varying(index) if unknown else ()
        return tuple(axis.size for axis in unknown if axis not in varying)

    def _varying(self, operand: Operand) -> Collection[Axis]:
        """The axes along which the name of an operand varies."""
        level, _ = operand_level(self.nest, operand)
        if operand.computed:
            axes = leaves([a for dim in self.space.dims[operand.source] for a in dim])
            return [axis for axis in axes if self.nest.level_of((axis,)) <= level]
        found = set(operand.address.strides()) if operand.address else set()
        for index, *_ in operand.indices:
            found.update(self._varying(index))
        return found

    def _index(self, operand: Operand, context: Context) -> str:
        """An index in 64 bits."""
        name, lane = self._operand(operand, context), lane_type(operand.source.type.dtype)
        if lane == "i64":
            return name
        level, _ = operand_level(self.nest, operand)
        return self._once(
            ("index", name),
            max(level, Level.ROW),
            context,
            lambda n: Compute(n, "i64", "convert", (name,), (lane,)),
        )

    def _error(self, axis: int, size: Dim) -> int:
        text = format_dim(size)
        where = f"dimension {axis} of size {text if isinstance(size, int) else f'{{{text}}}'}"
        return self.kernel.errors.code(f"IndexError: index {{detail}} is out of bounds for {where}")

    def _picked(self, task: Task, context: Context) -> str:
        """One element of each row, computed alone."""
        checked = self._checked_index(task, context)
        assert task.node is not None
        shape = task.node.inputs[0].type.shape
        index = ComputedIndex(checked, 1, shape[-1], self._error(len(shape) - 1, shape[-1]))
        names = self._picked_names.setdefault(checked, {})
        element = Section(context.row.statements, names)
        kind = context.kind if context.is_uniform else "picked"
        single = Context(kind, context.row, element, context.number, (index,))
        return self._operand(self.space.operands[task][0], single)

    def _checked_index(self, task: Task, context: Context) -> str:
        """The column that a row's index says."""
        index = self.space.operands[task][1]
        level = self._index_level(task)
        assert task.node is not None
        shape = task.node.inputs[0].type.shape
        name = self._index(index, context)
        error = self._error(len(shape) - 1, shape[-1])
        return self._once(
            ("checked", name, error),
            level,
            context,
            lambda n: CheckedIndex(n, name, shape[-1], error),
        )

    def _index_level(self, task: Task) -> Level:
        """Where a row's index is checked: for each row, also if it is the same for all rows."""
        level, _ = operand_level(self.nest, self.space.operands[task][1])
        return max(level, Level.ROW)

    def _hit(self, task: Task, at: Address, level: Level, context: Context) -> str:
        """Whether an element is in the column that its row's index says."""
        checked = self._checked_index(task, context)
        lane = "i64"
        assert task.node is not None
        columns = task.node.inputs[0].type.shape[-1]
        if isinstance(columns, int) and columns < 1 << 31:  # narrow lanes compare faster
            lane = "i32"
            index_level, wide = self._index_level(task), checked
            checked = self._once(
                ("narrow", wide),
                index_level,
                context,
                lambda n: Compute(n, "i32", "convert", (wide,), ("i64",)),
            )
        position = self._position(at, lane, level, context)
        return self._once(
            ("hit", position, checked),
            level,
            context,
            lambda n: Compute(n, "b", "eq", (position, checked), (lane, lane)),
        )

    def _placed(self, task: Task, level: Level, context: Context) -> str:
        """The value in its column, zero elsewhere."""
        hit = self._hit(task, self.space.positions[task], level, context)
        value = self._operand(self.space.operands[task][0], context)
        lane = lane_type(task.results[0].type.dtype)
        zero = self._zero(lane, level, context)
        return self._chosen(hit, value, zero, lane, level, context)

    def _chosen(
        self, hit: str, value: str, other: str, lane: str, level: Level, context: Context
    ) -> str:
        lanes = ("b", lane, lane)
        return self._once(
            ("chosen", hit, value, other),
            level,
            context,
            lambda n: Compute(n, lane, "where", (hit, value, other), lanes),
        )

    def _value(self, value: Value, context: Context) -> str:
        """The name of a value computed in this group."""
        level = self.nest.level[value]
        if level is Level.UNIFORM and context.kind != "uniform":
            lane = lane_type(value.type.dtype)
            return self._imported(self._value(value, self._uniform), lane, context)
        if value in self._column_names:
            return self._column_names[value]
        names = self._names(self._section(level, context), context)
        if value not in names:
            inside = level is Level.ELEMENT and context.kind == "pass"
            recalled = self._recall(value, context) if inside else ""
            names[value] = recalled or self._compute(value, level, context)
            if inside:
                self._first_pass.setdefault(value, (context.number, names[value]))
        return names[value]

    def _recall(self, value: Value, context: Context) -> str:
        """An expensive value of an earlier pass, kept there; "" where that does not pay."""
        if value not in self._first_pass or self.nest.along_rows or not self._is_costly(value):
            return ""
        earlier, name = self._first_pass[value]
        lane = lane_type(value.type.dtype)
        if value not in self._kept:
            self._kept[value] = len(self._kept)
            keep = Keep(self._kept[value], lane, name)
            self._contexts[earlier].element.statements.append(keep)
        recalled = self._new_name(context)
        context.element.statements.append(Recall(recalled, self._kept[value], lane))
        return recalled

    def _is_costly(self, value: Value) -> bool:
        """Whether computing an element of a value takes more than a few operations."""
        count, pending = 0, [value]
        while pending:
            task = self.producer.get(pending.pop())
            if task is None or task.node is None:
                continue
            op = task.node.op
            if op.kind is not OpKind.CONTRACTION and (op.expensive or op.kind is OpKind.GATHER):
                return True
            count += 1
            if count > CHEAP_OPERATIONS:
                return True
            for operand in self.space.operands[task]:
                if operand.computed and self.nest.level[operand.source] is Level.ELEMENT:
                    pending.append(operand.source)
        return False

    def _compute(self, value: Value, level: Level, context: Context) -> str:
        task = self.producer[value]
        assert task.node is not None
        node, operands = task.node, self.space.operands[task]
        section, lane = self._section(level, context), lane_type(value.type.dtype)
        match node.op.kind:
            case OpKind.REDUCTION if task not in self.nest.scope:
                placed = placed_value(self.space, task)
                assert placed is not None
                return self._operand(placed, context)
            case OpKind.REDUCTION:
                assert self.nest.scope[task] is Scope.NOTHING, "folds are finished before their use"
                if node.op.associative:
                    return self._operand(operands[0], context)
                return self._zero(lane, level, context)
            case OpKind.CONTRACTION:
                address = store_address(self.space, value)
                at, indices = self._linear(address, context), self._picked_index(address, context)
                place = Place(self._product_parameter(value), at, indices)
                return self._load(value, place, level, context)
            case OpKind.GATHER if task in self.space.picks:
                return self._picked(task, context)
            case OpKind.SCATTER:
                return self._placed(task, level, context)
            case OpKind.GATHER | OpKind.VIEW | OpKind.BARRIER:
                return self._operand(operands[0], context)
            case OpKind.ASSEMBLE:
                fill = self._operand(operands[1], context)
                place = self._place(operands[0], context)
                return self._load(operands[0].source, place, level, context, fill)
            case OpKind.RANDOM:
                number = self._parameter(context, operands[0].source)
                state = Place(number, self._linear(Address(0, ()), context))
                at = self._linear(self.space.positions[task], context)
                return _added(section, RandomBits(self._new_name(context), at, state))
            case OpKind.SCAN:
                if leaves(self.space.task_dims[task][node.attributes["axis"]]):
                    return self._scan(task, value, context)
                # along an axis of one element, be it in the loop of another scan
                if value is task.results[0]:
                    return self._operand(operands[0], context)
                return self._zero(lane, level, context)
            case OpKind.CREATION:
                if task in self.space.positions:
                    return self._position(self.space.positions[task], lane, level, context)
                number_ = constant_value(node.attributes)
                return _added(section, Constant(self._new_name(context), lane, number_))
        names = tuple(self._operand(operand, context) for operand in operands)
        if node.op.kind is OpKind.REQUIREMENT:
            code = self.kernel.errors.code(error_text(node))
            section.statements += requirement(node, names, code, lambda: self._new_name(context))
            return name_of(section.statements[-1])
        return _added(section, compute_statement(self._new_name(context), task, names))

    def _zero(self, lane: str, level: Level, context: Context) -> str:
        key = ("constant", lane, "0")
        return self._once(key, level, context, lambda name: Constant(name, lane, 0))

    def _scan(self, task: Task, value: Value, context: Context) -> str:
        """All results of a scan; the name of one."""
        assert task.node is not None
        op, (operand, *others) = task.node.op, self.space.operands[task]
        lane = lane_type(task.results[0].type.dtype)
        source = self._operand(operand, context)
        factor = self._operand(others[0], context) if others else ""
        position = ""
        if not op.associative:
            along = leaves(operand.dims[task.node.attributes["axis"]])
            index = Address(0, tuple(own_strides(along)))
            position = self._position(index, "i64", Level.ELEMENT, context)
        names = [self._new_name(context) for _ in task.results]
        context.element.statements.append(
            Fold(names[0], lane, op.name, source, "scan", position, -1, tuple(names[1:]), factor)
        )
        for result, name in zip(task.results, names, strict=True):
            context.element.names[result] = name
        return names[task.results.index(value)]

    def _product_parameter(self, value: Value) -> int:
        """Where a matrix product is found: in its buffer, or (-1) in a panel in cache."""
        return self.parameters.number(value, written=True) if value in self.escapes else -1


def _single_context(kind: str, section: Section) -> Context:
    return Context(kind, section, section)


def _added(section: Section, statement: Compute | Constant | RandomBits) -> str:
    section.statements.append(statement)
    return statement.name


def _loop(name: str, axes: Sequence[Axis]) -> Loop:
    return Loop(name, product(axis.size for axis in axes))


def own_strides(axes: Sequence[Axis]) -> list[tuple[Axis, Dim]]:
    """The index of one dimension as a sum over its leaf axes."""
    terms: list[tuple[Axis, Dim]] = []
    stride: Dim = 1
    for axis in reversed(axes):
        terms.append((axis, stride))
        stride = stride * axis.size
    return terms


def _grouped(axes: Sequence[Axis], strides: Sequence[Mapping[Axis, Dim]]) -> list[list[Axis]]:
    """Neighbouring axes that one loop can run over."""
    groups: list[list[Axis]] = []
    for axis in axes:
        if groups and coalesces(groups[-1][-1], axis, strides):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def constant_value(attributes: Mapping[str, Any]) -> bool | int | float | Dim:
    """The value of ``full`` or ``dim_size``."""
    return attributes["value"] if "value" in attributes else attributes["size"]


def compute_statement(name: str, task: Task, operands: tuple[str, ...]) -> Compute:
    """An elementwise operation; a conversion to a 16-bit float rounds."""
    assert task.node is not None
    dtype = task.results[0].type.dtype
    converts = dtype.is_half and all(v.type.dtype is not dtype for v in task.operands)
    rounds = memory_type(dtype) if converts else ""
    lanes = tuple(lane_type(v.type.dtype) for v in task.operands)
    return Compute(name, lane_type(dtype), task.node.op.name, operands, lanes, rounds)
