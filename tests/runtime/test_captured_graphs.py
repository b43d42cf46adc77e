"""Which captured graph a GPU program launches for which addresses, without a GPU.

The driver's part is played by ``Recording``: it remembers the addresses that each node has, as a
graph does, so that a launch tells which copies would be done.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import driver_stand_in
import pytest
from gpu_kernels import action_plan

import flamec
from flamec.ir.passes.plan_memory import LEAST_LENT, plan_memory
from flamec.ir.plan import Argument, Buffer, Copy, KernelSource, Launch, OutputSpec, Step
from flamec.ir.types import TensorType, float32
from flamec.runtime import recording
from flamec.runtime.control_steps import LoopStep
from flamec.runtime.cuda import program as programs
from flamec.runtime.cuda import stream as streams
from flamec.runtime.cuda.conditional import ControlStep
from flamec.runtime.cuda.driver import context
from flamec.runtime.cuda.graph import CaptureError
from flamec.runtime.cuda.kernel_binary import KernelBinary, Parameter
from flamec.runtime.cuda.module import LoadedKernel
from flamec.runtime.cuda.program import BoundCudaProgram, CudaProgram

Copies = list[tuple[int, int]]


class Recording:
    """A captured graph: what its nodes do is what steps did when they were last recorded."""

    def __init__(self, steps: Any, launched: list[Copies]) -> None:
        self.launched = launched
        self.nodes = {step: (step.to, step.source) for step in steps}
        self.updates = 0

    def update(self, step: Any, stream: Any) -> None:
        self.nodes[step] = (step.to, step.source)
        self.updates += 1

    def launch(self, stream: Any) -> None:
        self.launched.append(list(self.nodes.values()))


class Copier:
    """A program of two copies, 0 to 1 and 0 to 2, and what its launches did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 100) -> None:
        self.launched: list[Copies] = []
        self.graphs: list[Recording] = []
        on: Any = SimpleNamespace(index=0)

        def capture(_: Any, steps: Any, order: Any) -> Recording:
            if len(self.graphs) == most:
                raise CaptureError("out of memory")
            self.graphs.append(Recording(steps, self.launched))
            return self.graphs[-1]

        monkeypatch.setattr(programs, "capture", capture)
        monkeypatch.setattr(programs, "current_stream", lambda index: "stream")
        monkeypatch.setattr(
            "flamec.runtime.cuda.transfer.Copy.__call__",
            lambda step, stream: self.launched.append([(step.to, step.source)]),
        )
        kinds = ("input", "output", "output")
        buffers = [Buffer(f"b{i}", kind, float32, 4) for i, kind in enumerate(kinds)]
        plan = action_plan(buffers, [Copy(0, 1, 16), Copy(0, 2, 16)])
        whole = CudaProgram(plan, on, (), plan_memory)
        self.bound = BoundCudaProgram(whole, ())

    def __call__(self, *addresses: int) -> None:
        """Call with addresses of the buffers; the copies that were done must be these."""
        del self.launched[:]
        for buffer, address in enumerate(addresses):
            self.bound.addresses[buffer] = address
        self.bound()
        source, *targets = addresses
        done = [copy for copies in self.launched for copy in copies]
        assert done == [(target, source) for target in targets]

    @property
    def updates(self) -> int:
        return sum(graph.updates for graph in self.graphs)


def test_two_results_in_turn_change_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """``loss = step()`` holds one result until it has the next."""
    call = Copier(monkeypatch)
    for turn in range(20):
        call(16, 32, 48 + 16 * (turn % 2))
    assert len(call.graphs) == len(call.bound.graphs) == 2
    assert call.updates == 0


def test_new_addresses_change_the_graph_that_is_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With new data at each call and results in turn, one copy of the two is changed for these."""
    call = Copier(monkeypatch)
    for turn in range(20):
        call(16, 1024 + 16 * turn, 48 + 16 * (turn % 2))
    assert len(call.graphs) == 2
    assert call.updates == 17  # one for each call after the first and the two captures


def test_any_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    call, choice = Copier(monkeypatch), random.Random(3)
    for _ in range(300):
        call(*(16 * choice.randrange(1, 4) + 64 * buffer for buffer in range(3)))
    assert len(call.graphs) == 2 and call.bound.graph in call.graphs


def test_a_second_graph_that_cannot_be_made_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Copier(monkeypatch, most=1)
    for turn in range(9):
        call(16, 32, 48 + 16 * (turn % 2))
    assert len(call.graphs) == 1 and call.updates == 7


def test_an_update_that_failed_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Copier(monkeypatch, most=1)
    for _ in range(3):
        call(16, 32, 48)
    (graph,) = call.graphs
    update = graph.update

    def refuse(step: Any, stream: Any) -> None:
        if step is call.bound.steps[1]:
            raise RuntimeError("refused")
        update(step, stream)

    monkeypatch.setattr(graph, "update", refuse)
    with pytest.raises(RuntimeError, match="refused"):
        call(128, 32, 48)
    monkeypatch.undo()
    monkeypatch.setattr(programs, "current_stream", lambda index: "stream")
    call(16, 32, 48)


def test_guests_of_outputs_move_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary is in the memory of an output that is written after its last use."""
    call = Copier(monkeypatch)
    kinds = ("input", "temporary", "output", "output")
    buffers = [Buffer(f"b{i}", kind, float32, LEAST_LENT // 4) for i, kind in enumerate(kinds)]
    pairs = [(0, 1), (1, 3), (0, 2)]
    plan = replace(
        action_plan(buffers, [Copy(*pair, LEAST_LENT) for pair in pairs]),
        steps=tuple(Step("copy", "copy", (r,), (w,), 0, 0) for r, w in pairs),
        outputs=tuple(OutputSpec(b, TensorType((LEAST_LENT // 4,), float32)) for b in (2, 3)),
    )
    assert plan_memory(plan, {}).guests == {1: (2, 0)}
    for launches in (False, True):
        whole = CudaProgram(plan, call.bound.program.context, (), plan_memory)
        bound = BoundCudaProgram(whole, ())
        for turn in range(8):
            source, late, early = 16, 1024 + 16 * (turn // 2), 4096 + 16 * (turn % 3)
            del call.launched[:]
            if launches:
                bound.launch([source, late, early])
            else:
                bound.addresses[0], bound.addresses[2], bound.addresses[3] = source, late, early
                bound()
            done = [copy for copies in call.launched for copy in copies]
            assert done == [(late, source), (early, late), (late, source)]


def test_each_graph_keeps_the_handles_of_its_branches_and_loops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What uses the argument and the result is changed, in bodies, too, and nothing else."""
    driver = driver_stand_in.install(monkeypatch)
    changed: list[tuple[Any, int]] = []

    def set_parameters(graph: Any, node: int, parameters: Any) -> tuple[int]:
        first = ctypes.c_void_p.from_address(parameters.kernelParams).value
        assert first is not None
        changed.append((node, ctypes.c_uint64.from_address(first).value))
        return (0,)

    monkeypatch.setattr(driver, "cuGraphExecKernelNodeSetParams", set_parameters, raising=False)

    @flamec.compile(dynamic=False)
    def step(x: Any) -> Any:
        def body(n: Any, x: Any) -> Any:
            return n + 1, flamec.cond(x[0] > 0, lambda x: x * x.sum(), lambda x: x - 1, (x,))

        return flamec.while_loop(lambda n, x: n < 7, body, (0, x))[1]

    held = []
    for _ in range(6):
        changed.clear()
        x = flamec.ones(64, device="cuda")
        held.append((x, step(x)))
    graphs = step.programs[0].prepared.runner.bind(()).bound.graphs
    assert len(graphs) == 2 and driver.calls["cuGraphLaunch"] == 6
    handles = [sorted(set(graph._handles.values())) for graph in graphs]
    assert sorted(handles) == [[1, 2], [3, 4]]  # of the loop and of the branch
    names = {node: step.kernel.binary.name for step, node in graphs[0].nodes.items()}
    assert len(names) == len(graphs[0].nodes) == 10
    steering = ("flamec_advance", "flamec_choose")
    ours = [(names[node], first) for node, first in changed if names[node] in steering]
    assert len(changed) == 5 and len(ours) == 2
    assert ours == 2 * [("flamec_advance", handles[0][0])]
    for graph, (handle, _) in zip(graphs, handles, strict=True):
        changed.clear()
        advance = next(s for s in graph.nodes if s.kernel.binary.name == "flamec_advance")
        graph.update(advance, streams.current_stream())
        assert changed == [(graph.nodes[advance], handle)]
    graphs[0].context.lost = True  # nothing is given back to a driver that is gone


class Launched:
    """A program of launches of one kernel (0 to 1), and the addresses that it got."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, blocks: Sequence[int], graphs: bool
    ) -> None:
        driver = driver_stand_in.install(monkeypatch)
        monkeypatch.setattr(driver, "cuLaunchKernel", self._launch, raising=False)
        self.launched: list[list[int]] = []
        source = KernelSource("", "double", (("x", "*fp32"), ("y", "*fp32")), aligned=("x", "y"))
        pointers = tuple(Parameter("pointer", 8, i) for i in range(2))
        binary = KernelBinary("double", "sm_90", b"", 128, 0, 32, 0, pointers)
        buffers = [Buffer("x", "input", float32, 4), Buffer("y", "output", float32, 4)]
        actions = [Launch(0, (n, 1, 1), (Argument(0), Argument(1))) for n in blocks]
        plan = replace(
            action_plan(buffers, actions, [source]),
            outputs=(OutputSpec(1, TensorType((4,), float32)),),
        )
        kernels = (LoadedKernel(context(0), binary),)
        whole = CudaProgram(plan, context(0), kernels, plan_memory, graphs=graphs)
        self.bound = BoundCudaProgram(whole, ())

    def _launch(self, *arguments: Any) -> tuple[int]:
        slots = (ctypes.c_void_p * 2).from_address(arguments[9])
        self.launched.append([ctypes.c_uint64.from_address(slot or 0).value for slot in slots])
        return (0,)

    def __call__(self, *addresses: int) -> list[list[int]]:
        del self.launched[:]
        for buffer, address in enumerate(addresses):
            self.bound.addresses[buffer] = address
        self.bound()
        return self.launched


def test_of_many_launches_all_but_one_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no graph to launch for new addresses."""
    call = Launched(monkeypatch, [*[0] * 9, 1], graphs=True)
    for _ in range(3):
        assert call(16, 32) == [[16, 32]]
        del call.launched[:]
        call.bound.launch([64, 48])
        assert call.launched == [[64, 48]]


def test_an_address_that_is_refused_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Launched(monkeypatch, [1, 1], graphs=False)
    assert call(16, 32) == 2 * [[16, 32]]
    with pytest.raises(ValueError, match="multiples of 16"):
        call(64, 40)
    assert call(16, 32) == 2 * [[16, 32]]


def test_a_run_by_the_host_that_was_stopped_moves_nothing_in_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host moves windows and carried values from step to step; in a graph they stay."""
    driver_stand_in.install(monkeypatch)
    elsewhere = 0xDEAD0000

    def stopped(bound: BoundCudaProgram, *_: Any, **__: Any) -> None:
        (loop,) = (step.host for step in bound.steps if isinstance(step, ControlStep))
        assert isinstance(loop, LoopStep)
        for buffer in loop._moves:
            loop._move(buffer, elsewhere)
        raise KeyboardInterrupt

    @flamec.compile(dynamic=False)
    def step(x: Any) -> Any:
        return flamec.while_loop(lambda x: x.sum() < 7, lambda x: (x * 2,), (x,))[0]

    xs = [flamec.ones(64, device="cuda") for _ in range(2)]
    held = [step(xs[0])]
    bound = step.programs[0].prepared.runner.bind(()).bound
    with monkeypatch.context() as patch:
        patch.setattr(programs, "run_timed", stopped)
        patch.setattr(recording, "recorder", object())
        with pytest.raises(KeyboardInterrupt):
            step(xs[0])
    assert any(elsewhere in launch.values for launch in bound.graph.nodes)
    held.append(step(xs[1]))
    assert len(bound.graphs) == 2
    assert not any(elsewhere in launch.values for launch in bound.graph.nodes)
    bound.graph.context.lost = True  # nothing is given back to a driver that is gone


def test_one_kernel_is_launched_with_the_addresses_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is no graph, and one launch needs no protection from interrupts."""
    driver = driver_stand_in.install(monkeypatch)
    launched: list[list[int]] = []

    def launch(*arguments: Any) -> tuple[int]:
        slots = (ctypes.c_void_p * 2).from_address(arguments[9])
        launched.append([ctypes.c_uint64.from_address(slot or 0).value for slot in slots])
        return (0,)

    monkeypatch.setattr(driver, "cuLaunchKernel", launch, raising=False)
    monkeypatch.setattr(programs, "uninterrupted", lambda: pytest.fail("one launch was protected"))
    step = flamec.compile(lambda x: x * 2 + 1, dynamic=False)
    xs = [flamec.ones(1 << 16, device="cuda") for _ in range(3)]
    held = []
    for turn in (0, 0, 1, 2, 2, 0):
        held.append(step(xs[turn]))
        assert launched[-1] == [xs[turn].data_ptr(), held[-1].data_ptr()]
    bound = step.programs[0].prepared.runner.bind(()).bound
    assert len(bound.steps) == 1 and not bound.graphs
    del held[:]
    last = [step(xs[0]).data_ptr() for _ in range(3)][-1]
    monkeypatch.setattr(bound, "_written", [])  # nobody compares with it
    before = len(launched)
    for _ in range(3):
        step(xs[0])
    assert launched[before:] == 3 * [[xs[0].data_ptr(), last]]
