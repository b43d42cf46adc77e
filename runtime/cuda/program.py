"""Run a plan on a GPU: launches in a stream, or one launch of a captured graph.

In: a plan with its loaded kernels. Out: ``CudaProgram``, which binds sizes to a program that
is called. Branches and loops that a value decides are conditional nodes of a graph; without one the
host reads the value and launches the steps one by one (``plan_steps``). Invariants: temporaries lie
at the planned offsets in an arena of the calling thread's current stream, or in outputs that lend
their memory; a graph is launched with the addresses of this call, whatever they were when it was
captured. A caller that holds each result until it has the next one gets two addresses in turn: a
program keeps two graphs, so that neither has to be changed for that.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from flamec.ir.plan import Copy, ExecutionPlan, Fill, Launch
from flamec.ir.shape import evaluate_dim
from flamec.runtime import recording
from flamec.runtime.bound_programs import BoundPrograms
from flamec.runtime.cuda.arena import Arena, arena_of
from flamec.runtime.cuda.conditional import ControlStep
from flamec.runtime.cuda.direct_launch import LaunchAt, direct_launch
from flamec.runtime.cuda.driver import CudaContext
from flamec.runtime.cuda.error_words import error_words
from flamec.runtime.cuda.graph import CaptureError, Graph, capture
from flamec.runtime.cuda.launch_timer import run_timed
from flamec.runtime.cuda.module import KernelLaunch, LoadedKernel
from flamec.runtime.cuda.plan_steps import PlanSteps
from flamec.runtime.cuda.pointers import ALIGNMENT, SetAddress, moved, sorted_setters
from flamec.runtime.cuda.step_order import Order, step_order
from flamec.runtime.cuda.stream import Stream, current_stream
from flamec.runtime.device import PlanMemory
from flamec.runtime.host_calls import Evaluate, no_host
from flamec.runtime.interrupts import uninterrupted
from flamec.runtime.lent_memory import LentMemory

_CALLS_BEFORE_CAPTURE = 1
_FEWEST_STEPS_TO_CAPTURE = 2
_MANY_STEPS = 8  # of an operation, so that a graph with other addresses at each call is quicker
_MOST_GRAPHS = 2
_MOST_STEPS_TO_CAPTURE_AGAIN = 4096  # beyond, a graph's own memory counts
_UNSET = 1  # no device address: forces the first call to write every address


class CaptureWarning(UserWarning):
    """A program could not be captured as a CUDA graph; it is launched kernel by kernel."""


class CudaProgram:
    """A plan with its loaded kernels; safe to use from several threads.

    ``graphs``: capture the program as a CUDA graph from the second call with the same sizes.
    ``evaluate``: computes what the program leaves to the host; such a program is no graph.
    ``label`` names the program in profiles. ``kernels_compiled``: how many of the kernels were not
    in the cache.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        context: CudaContext,
        kernels: Sequence[LoadedKernel],
        plan_memory: PlanMemory,
        kernels_compiled: int = 0,
        graphs: bool = True,
        evaluate: Evaluate = no_host,
        label: str = "",
    ) -> None:
        self.plan = plan
        self.context = context
        self.kernels = tuple(kernels)
        self.plan_memory = plan_memory
        self.kernels_compiled = kernels_compiled
        self.graphs = graphs
        self.evaluate = evaluate
        self.label = label
        self.error_words = {
            number: error_words().add(plan)
            for number, buffer in enumerate(plan.buffers)
            if buffer.kind == "errors"
        }
        self._bound: BoundPrograms[BoundCudaProgram] = BoundPrograms(plan.symbols)

    @property
    def compiled(self) -> bool:
        return self.kernels_compiled > 0

    @property
    def is_worth_a_graph(self) -> bool:
        """Whether it is so many launches that a graph is quicker though addresses change."""
        actions = self.plan.actions
        plain = all(isinstance(action, (Launch, Fill, Copy)) for action in actions)
        return plain and len(actions) >= _MANY_STEPS

    def bind(
        self, sizes: tuple[int, ...] = (), key: tuple[int, ...] | None = None
    ) -> BoundCudaProgram:
        """The program for these values of ``plan.symbols``; ValueError if their number differs.
        ``key``: see ``BoundPrograms.of``.

        The result belongs to the calling thread; it is kept for the most recently used sizes.
        """
        return self._bound.of(sizes, partial(BoundCudaProgram, self), key)

    def no_graph(self, reason: str) -> None:
        """Give graphs up for this program, and say so once."""
        if self.graphs:
            self.graphs = False
            warnings.warn(
                f"{self.plan.entry} is launched kernel by kernel, not as a CUDA graph: {reason}",
                CaptureWarning,
                stacklevel=4,
            )


@dataclass
class _Captured:
    """A graph, the addresses of all buffers in its nodes, and that of kernels' own memory."""

    graph: Graph
    addresses: array[int]
    scratch: int


class BoundCudaProgram:
    """A program for one choice of sizes, on the thread that bound it.

    Write the address of each input and output into ``addresses`` at the buffer's position in
    the plan, then call; the work goes into the thread's current stream. ``peak_bytes`` is
    what temporaries and kernels' own memory take of the arena. ``graph`` is the one that was
    launched last, None until one is captured; ``graphs`` are all of them.
    """

    def __init__(self, program: CudaProgram, sizes: tuple[int, ...]) -> None:
        plan = program.plan
        self.program = program
        self.plan = plan
        self.sizes = sizes
        self.bindings = dict(zip(plan.symbols, sizes, strict=True))
        self.layout = program.plan_memory(plan, self.bindings)
        self._lent = LentMemory(self.layout)
        made = PlanSteps(program, self.bindings)
        self.addresses = array("Q", bytes(8 * made.buffers))
        for buffer, address in program.error_words.items():
            self.addresses[buffer] = address
        self.steps = made.steps
        self.step_numbers = made.numbers  # the plan's step of each, -1 if none
        self._uses = made.uses
        self._scratch = made.scratch
        self._fixed = sorted(made.fixed) if program.graphs else []
        self._calls = 0
        # The host would wait in each step of a loop: after a few that is more than a graph takes.
        repeats = any(isinstance(s, ControlStep) and s.repeats for s in self.steps)
        self._calls_before_capture = 0 if repeats else _CALLS_BEFORE_CAPTURE
        self._captured: list[_Captured] = []  # the one that was launched last is the first
        self._most_graphs = _MOST_GRAPHS
        self._now = np.frombuffer(self.addresses, np.uint64)
        self._written = np.full(made.buffers, _UNSET, np.uint64)  # what the steps have
        self._all_written: array[int] | None = None  # the same, once all of it is known
        needed = max((launch.scratch_bytes for launch in self._scratch), default=0)
        self._counters = [n for n, b in enumerate(plan.buffers) if b.kind == "counters"]
        words = [evaluate_dim(plan.buffers[n].elements, self.bindings) for n in self._counters]
        self._own, self._ticket = made.own, made.ticket
        self._counter_words = max(*words, bool(made.own_bytes), 0)
        self._own_offset = _aligned(self.layout.peak_bytes)
        self._scratch_offset = self._own_offset + _aligned(made.own_bytes)
        own = self._own_offset + made.own_bytes if made.own_bytes else self.layout.peak_bytes
        self.peak_bytes = self._scratch_offset + needed if needed else own
        self._needs_arena = bool(self.peak_bytes or self._counter_words)
        one = len(self.steps) == 1 and isinstance(self.steps[0], KernelLaunch)
        self._only = self.steps[0] if one else None
        if made.count > _MOST_STEPS_TO_CAPTURE_AGAIN:
            self._most_graphs = 1
        self._arena: Arena | None = None
        self._generation = -1
        self._scratch_address = 0
        given = (*plan.inputs, *(output.buffer for output in plan.outputs))
        self._given = [sorted_setters(self._setters(buffer)) for buffer in given]
        self._others = sorted(set(self._uses) - {*given, *self.layout.guests})  # in the arena
        self._order: Order | None = None
        self._placed = False
        self._index = program.context.index
        self._given_buffers = given
        one = len(self.steps) == 1 and isinstance(self.steps[0], KernelLaunch)
        self._is_one_launch = one and not any(setters for _, setters in self._given)
        self._aligned = [
            n for n, (places, _) in enumerate(self._given) if any(place[3] for place in places)
        ]
        many = program.graphs and program.is_worth_a_graph and len(self.steps) > 1
        self.launch: LaunchAt = self._launch_graph if many else self._launch_steps

    @property
    def graphs(self) -> list[Graph]:
        return [one.graph for one in self._captured]

    @property
    def graph(self) -> Graph | None:
        return self._captured[0].graph if self._captured else None

    def _setters(self, buffer: int) -> list[SetAddress]:
        """What is to be told the address of an input or output; those of its guests follow it."""
        guests = self._lent.guests.get(buffer, ())
        setters = [s for _, s in self._uses.get(buffer, ())]
        return setters + [moved(s, by) for g, by in guests for _, s in self._uses.get(g, ())]

    # running ----------------------------------------------------------------------------

    def __call__(self) -> None:
        """Put the program into the current stream. Errors of kernels appear later.

        ValueError for an address that a kernel cannot use.
        """
        if self._is_one_launch:
            self._launch_at_addresses()
            return
        stream = current_stream(self.program.context.index)
        if self._needs_arena:
            self._place_temporaries(stream)
        if self._lent.guests:
            self._lent.move(self.addresses)
        recorder = recording.recorder
        if recorder is not None:
            self._write_addresses()
            try:
                run_timed(self, stream, recorder, warm=self._calls > 0)
            finally:
                self._have_run()
            return
        captured = self._captured
        if captured:
            latest = captured[0]
            if latest.addresses != self.addresses or latest.scratch != self._scratch_address:
                latest = self._with_these_addresses(stream)
            latest.graph.launch(stream)
            return
        self._write_addresses()
        if self._calls >= self._calls_before_capture and self.program.graphs and self._capture():
            captured[0].graph.launch(stream)
            return
        try:
            if self._only is not None:
                self._only(stream)
            else:
                with uninterrupted():  # between the launches that update one parameter and another
                    for step in self.steps:
                        step(stream)
        finally:
            self._have_run()

    def _have_run(self) -> None:
        """The host has run the steps, or some, which then are not where a graph wants them."""
        self._calls += 1
        if self._fixed:
            self._written[self._fixed] = _UNSET
            self._all_written = None

    def _launch_graph(self, addresses: Sequence[int]) -> None:
        """The same as one launch of a graph, in which what uses other addresses is changed."""
        for buffer, address in zip(self._given_buffers, addresses, strict=True):
            self.addresses[buffer] = address
        self()

    def _launch_steps(self, addresses: Sequence[int]) -> None:
        """Launch the steps one by one, given the addresses of the inputs, then of the outputs.

        For eager mode, where every address is new at every call: ``launch`` is this, or a shorter
        way that does the same. A bound program is used either like this or by calling it.
        Addresses of arrays that kernels may take to be aligned are multiples of ``ALIGNMENT``.
        """
        stream = current_stream(self._index)
        moved = self._needs_arena and self._place_temporaries(stream)
        if moved or not self._placed:
            for buffer in self._others:
                for _, set_address in self._uses[buffer]:
                    set_address(self.addresses[buffer])
            self._placed = True
            moves = self._have_moved if self._needs_arena else None
            direct = direct_launch(self.steps, self._given, self._index, moves, self._launch_steps)
            self.launch = direct or self._launch_steps
        for (pointers, setters), address in zip(self._given, addresses, strict=True):
            for values, slot, offset, mask, pointer in pointers:
                values[slot] = place = address + offset
                if place & mask:
                    pointer(address)
            for set_given in setters:
                set_given(address)
        recorder = recording.recorder
        if recorder is not None:
            run_timed(self, stream, recorder, warm=self._calls > 0)
            self._calls += 1
            return
        for step in self.steps:
            step(stream)

    def _launch_at_addresses(self) -> None:
        """One launch can neither be interrupted nor gain by a graph."""
        addresses = [self.addresses[buffer] for buffer in self._given_buffers]
        launch = self.launch
        for n in self._aligned:
            if addresses[n] & (ALIGNMENT - 1):
                launch = self._launch_steps  # which knows whether that is an error
        launch(addresses)
        self._calls += 1

    def _write_addresses(self) -> None:
        """Give the steps the addresses that are not those which they have."""
        if self.addresses == self._all_written:
            return
        self._all_written = None
        for buffer in np.flatnonzero(self._now != self._written).tolist():
            address = self.addresses[buffer]
            self._written[buffer] = _UNSET  # if one refuses, others have it already
            for _, set_address in self._uses.get(buffer, ()):
                set_address(address)
            self._written[buffer] = address
        self._all_written = self.addresses[:]

    def _with_these_addresses(self, stream: Stream) -> _Captured:
        """The graph that has the addresses of this call, made so if need be; it becomes the first.

        Of graphs with others, the one in which the least must be changed is changed.
        """
        captured = self._captured
        for position, one in enumerate(captured):
            if one.addresses == self.addresses and one.scratch == self._scratch_address:
                captured.insert(0, captured.pop(position))
                return one
        self._write_addresses()
        if len(captured) < self._most_graphs and self._capture():
            return captured[0]
        different = [np.flatnonzero(self._now != np.asarray(one.addresses)) for one in captured]
        position = min(range(len(captured)), key=lambda i: len(different[i]))
        one = captured.pop(position)
        captured.insert(0, one)
        uses = (use for b in different[position].tolist() for use in self._uses.get(b, ()))
        stale = {step for step, _ in uses if step is not None}
        if one.scratch != self._scratch_address:
            stale.update(self._scratch)
        one.addresses[:] = array("Q", [_UNSET]) * len(one.addresses)  # until all is changed
        for step in stale & one.graph.nodes.keys():
            one.graph.update(step, stream)
        one.addresses[:] = self.addresses
        one.scratch = self._scratch_address
        return one

    def _place_temporaries(self, stream: Stream) -> bool:
        """Take memory of the stream's arena; whether it is other memory than before."""
        arena = arena_of(stream)
        if arena is self._arena and arena.generation == self._generation:
            return False
        arena.reserve(self.peak_bytes, self._counter_words)
        for buffer in self._counters:
            self.addresses[buffer] = arena.counters
        for buffer, offset in self.layout.offsets.items():
            self.addresses[buffer] = arena.address + offset
        self.addresses[self._own] = arena.address + self._own_offset
        self.addresses[self._ticket] = arena.counters
        self._scratch_address = arena.address + self._scratch_offset
        for launch in self._scratch:
            launch.set_scratch(self._scratch_address)
        self._arena, self._generation = arena, arena.generation
        return True

    def _have_moved(self, stream: Stream) -> bool:
        """Whether temporaries have to be told to the kernels again."""
        if self._place_temporaries(stream):
            self._placed = False
        return not self._placed

    def _loosened_order(self) -> Order:
        """What each step has to follow, where not all need to follow the one before."""
        at = {step: position for position, step in enumerate(self.steps)}
        uses = {
            buffer: [at[step] for step, _ in found if step in at]
            for buffer, found in self._uses.items()
        }
        alone = [at[launch] for launch in self._scratch if launch in at]
        about = self.plan, self.layout, self.bindings, self.step_numbers
        return step_order(*about, uses, alone)

    def _capture(self) -> bool:
        """Add a graph with the present addresses, as the first; whether there is one."""
        decides = any(isinstance(step, ControlStep) for step in self.steps)
        if len(self.steps) < _FEWEST_STEPS_TO_CAPTURE and not decides:
            return False
        if self._order is None:
            self._order = self._loosened_order()
        try:
            graph = capture(self.program.context, self.steps, self._order)
        except CaptureError as error:
            if self._captured:
                self._most_graphs = 1  # the one that there is serves all addresses
            else:
                self.program.no_graph(error.reason)
            return False
        addresses = array("Q", self.addresses)
        self._captured.insert(0, _Captured(graph, addresses, self._scratch_address))
        return True


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 256) * 256
