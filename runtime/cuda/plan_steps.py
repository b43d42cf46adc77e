"""The steps of a plan for one choice of sizes, and what tells them where buffers are.

In: a program and the values of its symbols. Out: ``PlanSteps``. Loops whose steps sizes tell become
their launches one after the other: the same kernels at other addresses. A branch or loop that a
value decides becomes a ``ControlStep``, twice: the steps that the host runs, which move a loop's
windows and carried values to the places of each step; and those of a graph's conditional node,
which stay where they are. There a window is memory of its own, which is copied to or from the
element of the step, and a carried value is read at one place and written at another, from which it
is copied back (``control_kernels.Advance``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flamec.ir.plan import (
    Action,
    Argument,
    Branch,
    Copy,
    Fill,
    HostCall,
    Launch,
    Loop,
    Places,
    Undecided,
    unrolled,
)
from flamec.ir.shape import evaluate_dim, evaluate_shape
from flamec.runtime.control_steps import BranchStep, LoopStep
from flamec.runtime.cuda import control_kernels, transfer
from flamec.runtime.cuda.conditional import ConditionalNode, ControlStep
from flamec.runtime.cuda.control_kernels import Advance, Move
from flamec.runtime.cuda.control_memory import DeviceControlMemory
from flamec.runtime.cuda.graph import Step
from flamec.runtime.cuda.host_step import HostStep
from flamec.runtime.cuda.module import KernelLaunch
from flamec.runtime.cuda.pointers import ALIGNMENT, Pointer, SetAddress, array_setter, moved

if TYPE_CHECKING:
    from flamec.runtime.cuda.program import CudaProgram

# Bytes between two steps of a loop: beyond, copying costs more than the host does.
_MOST_MOVED = 16 << 20
_PLACE = 256  # what places of windows are multiples of
_COUNTER = 8

Use = tuple[Step | None, SetAddress]  # None: a step that the host alone runs
_control_memory = DeviceControlMemory()


class PlanSteps:
    """``steps`` in order, and the plan's step that each belongs to (``numbers``, -1: none).

    ``uses``: what is to be told the address of each buffer, and the step that has to be changed in
    a graph then. Behind the plan's buffers are two more (``buffers`` are all): ``own``,
    ``own_bytes`` that graphs' nodes need, and ``ticket``, a word that is 0 between launches.
    ``fixed``: buffers at which steps are in graphs but not when the host has run them.
    ``scratch``: launches that need memory. ``count``: of steps, those inside of others, too.
    """

    def __init__(self, program: CudaProgram, bindings: Mapping[str, int]) -> None:
        plan = program.plan
        self.program = program
        self.plan = plan
        self.bindings = bindings
        self.steps: list[Step] = []
        self.numbers: list[int] = []
        self.uses: defaultdict[int, list[Use]] = defaultdict(list)
        self.scratch: list[KernelLaunch] = []
        self.own, self.ticket = len(plan.buffers), len(plan.buffers) + 1
        self.buffers = len(plan.buffers) + 2
        self.own_bytes = 0
        self.count = 0
        self.fixed: set[int] = set()
        self._errors = next((n for n, b in enumerate(plan.buffers) if b.kind == "errors"), -1)
        self._inside = False  # of a branch or loop
        self._add_all(plan.actions, {})

    def _add_all(self, actions: Sequence[Action], places: Places) -> None:
        """``places``: of the windows of loops around that are unrolled."""
        for action in unrolled(actions, self.bindings, places):
            before = len(self.steps)
            self.count += 1
            if isinstance(action, Undecided):
                self._add_undecided(action)
                number = action.action.step
            else:
                self._add_steps(action)
                number = action.step if isinstance(action, Launch) else -1
            self.numbers += [number] * (len(self.steps) - before)

    # steps ------------------------------------------------------------------------------

    def _add_steps(self, action: Action) -> None:
        if isinstance(action, Launch):
            self._add_launch(action)
            return
        if isinstance(action, HostCall):
            self._add_host_call(action)
            return
        assert isinstance(action, (Fill, Copy)), "loops are unrolled"
        nbytes = evaluate_dim(action.bytes, self.bindings)
        if nbytes == 0:
            return
        if isinstance(action, Fill):
            self._add_fill(action.buffer, nbytes, action.byte)
            return
        to, source = action.target_offset, action.source_offset
        if self._inside and self.program.graphs:
            launch, from_pointer, to_pointer = control_kernels.copy(self.program.context, nbytes)
            self.steps.append(launch)
            self.uses[action.target].append((launch, moved(to_pointer, to)))
            self.uses[action.source].append((launch, moved(from_pointer, source)))
            return
        copy = transfer.Copy(nbytes)
        self.steps.append(copy)
        self.uses[action.target].append((copy, lambda a: setattr(copy, "to", a + to)))
        self.uses[action.source].append((copy, lambda a: setattr(copy, "source", a + source)))

    def _add_fill(self, buffer: int, nbytes: int, byte: int) -> None:
        if self._inside and self.program.graphs:
            launch, pointer = control_kernels.fill(self.program.context, nbytes, byte)
            self.steps.append(launch)
            self.uses[buffer].append((launch, pointer))
            return
        fill = transfer.Fill(nbytes, byte)
        self.steps.append(fill)
        self.uses[buffer].append((fill, lambda a: setattr(fill, "to", a)))

    def _add_launch(self, action: Launch) -> None:
        x, y, z = evaluate_shape(action.grid, self.bindings)
        if min(x, y, z) <= 0:
            return
        if action.most_blocks:
            x = min(x, action.most_blocks)
        if action.per_processor:
            processors = self.program.context.properties.multi_processor_count
            x = min(x, action.per_processor * processors)
        launch = KernelLaunch(self.program.kernels[action.kernel], (x, y, z))
        if launch.argument_count != len(action.arguments):
            raise ValueError(
                f"kernel {launch.kernel.binary.name} takes {launch.argument_count} arguments, "
                f"the plan gives {len(action.arguments)}"
            )
        self.steps.append(launch)
        aligned = self.plan.kernels[action.kernel].aligned_arguments
        for position, argument in enumerate(action.arguments):
            if argument.buffer < 0:
                launch.set_number(position, self._number(argument))
                continue
            if argument.shape:
                setter = self._array_setter(launch, position, argument)
            else:
                setter = self._pointer_setter(launch, position, argument, position in aligned)
            self.uses[argument.buffer].append((launch, setter))
        if launch.scratch_bytes:
            self.scratch.append(launch)

    def _add_host_call(self, action: HostCall) -> None:
        """A step that waits for the device; a graph cannot hold it."""
        self.program.no_graph(f"{action.op} is computed by the host (at {action.location})")
        step = HostStep(action, self.bindings, self.program.evaluate)
        self.steps.append(step)
        for position, operand in enumerate((*action.operands, *action.results)):
            setter = partial(step.set_address, position, operand.offset)
            self.uses[operand.buffer].append((step, setter))

    def _number(self, argument: Argument) -> int | float:
        value = argument.value
        return value if isinstance(value, float) else evaluate_dim(value, self.bindings)

    def _pointer_setter(
        self, launch: KernelLaunch, position: int, argument: Argument, aligned: bool
    ) -> SetAddress:
        offset = self._number(argument)
        assert isinstance(offset, int)
        name = self.plan.buffers[argument.buffer].name
        mask = ALIGNMENT - 1 if aligned else 0
        return Pointer(launch, launch.slot(position), offset, mask, f"{argument.buffer} ({name})")

    def _array_setter(self, launch: KernelLaunch, position: int, argument: Argument) -> SetAddress:
        shape = evaluate_shape(argument.shape, self.bindings)
        strides = evaluate_shape(argument.strides, self.bindings)
        offset = self._number(argument)
        assert isinstance(offset, int)
        return array_setter(launch, position, shape, strides, offset)

    # branches and loops -----------------------------------------------------------------

    def _nested(self, actions: Sequence[Action], places: Places) -> list[Step]:
        """The steps of a branch or of a loop's body."""
        around = self.steps, self.numbers, self._inside
        self.steps, self.numbers, self._inside = [], [], True
        self._add_all(actions, places)
        made = self.steps
        self.steps, self.numbers, self._inside = around
        return made

    def _add_undecided(self, found: Undecided) -> None:
        action = found.action
        if self.program.graphs:
            reason = control_kernels.reason_against(self.program.context)
            if reason is not None:
                self.program.no_graph(f"{_decided(action)}, {reason}")
        if isinstance(action, Branch):
            step = self._branch(found, action)
        else:
            step = self._loop(found, action)
        self.steps.append(step)
        for buffer in step.host.buffers:
            base, offset = found.place(buffer)
            self.uses[base].append((None, partial(_set_place, step.host.at, buffer, offset)))

    def _branch(self, found: Undecided, action: Branch) -> ControlStep:
        first, second = (self._nested(a, found.places) for a in (action.first, action.second))
        host = BranchStep(action, first, second, _control_memory)
        if not self.program.graphs:
            return ControlStep(host, None)
        choose = self._choose(*found.place(action.predicate))
        return ControlStep(host, ConditionalNode(False, [choose], [first, second], [choose]))

    def _loop(self, found: Undecided, action: Loop) -> ControlStep:
        moving = [w.buffer for w in action.windows]
        moving += [b for c in action.carried for b in (c.old, c.new)]
        test = self._nested(action.test, found.places)
        in_test = self._taken(moving)
        body = self._nested(action.actions, found.places)
        in_body = self._taken(moving)
        moves = {b: [s for _, s in (*in_test[b], *in_body[b])] for b in moving}
        host = LoopStep(action, self.bindings, test, body, moves, _control_memory)
        if not self.program.graphs:
            return ControlStep(host, None)
        return ControlStep(host, self._repeated(found, action, (test, in_test), (body, in_body)))

    def _taken(self, buffers: Sequence[int]) -> dict[int, list[Use]]:
        """The uses of buffers that have no address of their own."""
        return {b: self.uses.pop(b, []) for b in buffers}

    def _repeated(
        self,
        found: Undecided,
        action: Loop,
        test: tuple[list[Step], dict[int, list[Use]]],
        body: tuple[list[Step], dict[int, list[Use]]],
    ) -> ConditionalNode | None:
        """A loop as a node of a graph: its test, then body, test and moves again and again.

        A test that may raise an error must not be made after the last step: it is a branch behind
        the moves, which know whether there may be another.
        """
        bindings, context, place = self.bindings, self.program.context, found.place
        most = None if action.count is None else evaluate_dim(action.count, bindings)
        moved_bytes = sum(evaluate_dim(c.bytes, bindings) for c in action.carried)
        moved_bytes += sum(evaluate_dim(w.stride, bindings) for w in action.windows)
        if moved_bytes > _MOST_MOVED:
            self.program.no_graph(f"{_decided(action)}, and much is carried from step to step")
            return None
        checks = len(self.uses.get(self._errors, ()))
        again: list[Any] = self._nested(action.test, found.places) if most != 0 else []
        in_again = self._taken([c.old for c in action.carried])
        checked = len(self.uses.get(self._errors, ())) > checks
        start, turns = [], []
        for c in action.carried:
            old, new, nbytes = place(c.last), place(c.other), evaluate_dim(c.bytes, bindings)
            self._fix(test[1][c.old], place(c.start))
            self._fix(body[1][c.old], old)
            self._fix(body[1][c.new], new)
            self._fix(in_again[c.old], new)
            if nbytes:
                start.append(Move(place(c.start), old, nbytes))
                turns.append(Move(new, old, nbytes))
        results = {w.base for w in action.stacked}
        for w in action.windows:
            stride, base = evaluate_dim(w.stride, bindings), place(w.base)
            at = self.own, self._place(stride)
            self._fix(body[1][w.buffer], at)
            if stride and w.base in results:
                turns.append(Move(at, base, stride, target_stride=stride))
            elif stride:
                start.append(Move(base, at, stride, source_stride=stride))
                turns.append(Move(base, at, stride, source_stride=stride))
        limit = control_kernels.ANY_NUMBER if most is None else max(most, 0)
        begin = Advance(context, start, limit, first=True, reverse=action.reverse)
        advance = Advance(context, turns, limit, reverse=action.reverse)
        setters = [begin.launches[-1], advance.launches[-1]]
        places = {
            "counter": (self.own, self._place(_COUNTER)),
            "ticket": (self.ticket, 0),
            "count": place(action.counter),
            "predicate": place(action.predicate if most != 0 else -1),
            "made": place(action.made),
            # else a condition that reads what an error left might go on for ever
            "error": place(self._errors if most is None else -1),
        }
        self._tell(begin, places)
        ends: list[Any] = [*again, *advance.launches]
        if checked and most is not None:
            goes = self.own, self._place(1)
            guard, ask = self._choose(*goes), self._choose(*places["predicate"])
            asked = ConditionalNode(False, [guard], [[*again, ask], []], [guard])
            ends = [*advance.launches, asked]
            setters.append(ask)
            places |= {"goes": goes, "predicate": (-1, 0)}
        self._tell(advance, places)
        before = [*self._cleared(action, found), *(test[0] if most != 0 else ()), *begin.launches]
        return ConditionalNode(True, before, [[*body[0], *ends]], setters)

    def _choose(self, buffer: int, offset: int) -> KernelLaunch:
        """What gives a node the bool at a place."""
        choose = control_kernels.choose(self.program.context)
        self._use((choose, control_kernels.predicate_of(choose)), buffer, offset)
        return choose

    def _tell(self, advance: Advance, places: Mapping[str, tuple[int, int]]) -> None:
        for name, (buffer, offset) in places.items():
            if buffer >= 0:
                advance.tell(name, buffer, offset)
        for buffer, launch, pointer in advance.uses:
            self._use((launch, pointer), buffer, 0)

    def _cleared(self, action: Loop, found: Undecided) -> list[Step]:
        """What sets the elements without a step to zero: all, before the first step."""
        around, self.steps = self.steps, []
        inside, self._inside = self._inside, True
        assert action.count is not None or not action.stacked
        for w in action.stacked:
            count = evaluate_dim(action.count, self.bindings) if action.count is not None else 0
            nbytes = count * evaluate_dim(w.stride, self.bindings)
            if nbytes > 0:
                launch, pointer = control_kernels.fill(self.program.context, nbytes, 0)
                self.steps.append(launch)
                self._use((launch, pointer), *found.place(w.base))
        made, self.steps, self._inside = self.steps, around, inside
        return made

    def _place(self, nbytes: int) -> int:
        """The offset of memory for nodes of graphs."""
        offset = self.own_bytes
        self.own_bytes += -(-max(nbytes, 1) // _PLACE) * _PLACE
        return offset

    def _fix(self, uses: Sequence[Use], place: tuple[int, int]) -> None:
        """In a graph these stay at one place."""
        buffer, offset = place
        for use in uses:
            self._use(use, buffer, offset)
        if uses:
            self.fixed.add(buffer)

    def _use(self, use: Use, buffer: int, offset: int) -> None:
        step, setter = use
        self.uses[buffer].append((step, moved(setter, offset) if offset else setter))


def _decided(action: Branch | Loop) -> str:
    """What a value decides, and where."""
    what = "which branch is taken" if isinstance(action, Branch) else "how many steps a loop has"
    return f"a value decides {what}" + (f" (at {action.location})" if action.location else "")


def _set_place(at: dict[int, int], buffer: int, offset: int, address: int) -> None:
    at[buffer] = address + offset
