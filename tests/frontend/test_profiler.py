"""``flamec.profiler``: what is recorded, what it costs when nothing is, tables and traces."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from profiled_training import same_with_profiles
from simulated_gpu import SimulatedGpu

import flamec
from flamec import nn, optim, profiler
from flamec.cli.page_data import _functions
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.dispatch import apply_named
from flamec.ir.plan import ExecutionPlan
from flamec.profiler import Peaks, profile, record_function
from flamec.profiler.chrome_trace import trace_data
from flamec.profiler.events import Event, lanes
from flamec.profiler.program_events import _Steps, device_events
from flamec.runtime import recording
from flamec.runtime.cpu import step_clock
from flamec.runtime.recording import StepSpan
from flamec.state import process

PEAKS = {"cpu": Peaks(1e9, {"float32": 1e10}, {"float32": 1e10, "": 1e10}, "given")}


@pytest.fixture(autouse=True)
def nobody_records() -> Iterator[None]:
    yield
    assert process.recorder is None
    assert recording.recorder is None


def training() -> tuple[Any, Any]:
    """A step that trains, and the parameters that it changes."""
    flamec.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 2))
    criterion, optimizer = nn.CrossEntropyLoss(), optim.Adam(model.parameters(), lr=0.01)

    @flamec.compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model


def batch() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return (
        flamec.from_numpy(rng.standard_normal((16, 10)).astype(np.float32)),
        flamec.from_numpy(rng.integers(0, 2, 16)),
    )


def plan_of(function: Any) -> ExecutionPlan:
    plan = function.programs[0].prepared.plan
    assert plan is not None
    return plan


def kernels(events: list[Event]) -> list[Event]:
    return [e for e in events if e.kind == "kernel"]


# compiled programs -------------------------------------------------------------------------
def test_results_are_the_same_bit_for_bit() -> None:
    timed, prof = same_with_profiles(training, batch(), calls=3, profiled=range(3))
    assert len(kernels(prof.events())) == len(plan_of(timed).steps)


def test_every_step_of_the_plan_is_an_event_of_each_call() -> None:
    step, _ = training()
    x, y = batch()
    step(x, y)
    plan = plan_of(step)
    with profile() as prof:
        step(x, y)
        step(x, y)
    found = kernels(prof.events())
    expected = [f"step/{s.name}" for s in plan.steps]
    assert [e.name for e in found] == expected * 2
    assert step.stats.traces == 1
    calls = [e for e in prof.events() if e.kind == "program"]
    assert [c.name for c in calls] == ["step", "step"]
    for number, event in enumerate(found):
        call = calls[number // len(expected)]
        assert call.start <= event.start <= event.end <= call.end
        described = plan.steps[number % len(expected)]
        assert event.moved == described.bytes_read + described.bytes_written
        assert event.flops == described.flops
        assert event.operations == described.operations
        assert all(Path(__file__).name in line for line in event.locations)


def test_a_long_program_whose_steps_are_rows_of_a_table() -> None:
    weights = [flamec.eye(8) * (1 + i) for i in range(40)]

    @flamec.compile
    def chain(x: Any) -> Any:
        for w in weights:
            x = (x @ w) / w[0, 0]
        return x

    x = flamec.from_numpy(np.random.default_rng(0).standard_normal((4, 8), np.float32))
    with profile() as prof:
        result = chain(x)
    np.testing.assert_allclose(result.numpy(), x.numpy(), rtol=1e-5)
    plan = plan_of(chain)
    assert len(plan.steps) >= 40
    assert [e.name for e in kernels(prof.events())] == [f"chain/{s.name}" for s in plan.steps]
    texts, used = _functions(plan, {})
    assert all(used[step][-1].startswith("steps_") for step in used), "those that they share"
    assert {name for names in used.values() for name in names} <= texts.keys()


def test_kernels_know_modules() -> None:
    step, _ = training()
    x, y = batch()
    with profile() as prof:
        step(x, y)
    modules = {m for e in kernels(prof.events()) for m in e.module.split(", ")}
    assert {"Sequential.0", "Sequential.2", "CrossEntropyLoss"} <= modules


def test_bytes_arithmetic_and_roofline_counted_by_hand() -> None:
    @flamec.compile(dynamic=True)
    def weighted(x: Any, w: Any) -> Any:
        return (x * w).sum(1)

    with profile() as prof:
        weighted(flamec.ones(64, 1000), flamec.ones(1000))
    (row,) = (r for r in prof.key_averages() if r.kind == "kernel")
    assert row.bytes == 64 * 1000 * 4 + 1000 * 4 + 64 * 4
    assert row.flops == 2 * 64 * 1000
    assert row.count == 1
    row.nanoseconds = row.self_nanoseconds = 2 * row.bytes  # 1 GB/s: half of it is used
    assert row.roofline_share(PEAKS["cpu"]) == pytest.approx(0.5)
    row.flops, row.matrix = (
        40 * row.bytes,
        True,
    )  # arithmetic is now what takes longest: 4 bytes' time
    assert row.roofline_share(PEAKS["cpu"]) == pytest.approx(2.0)
    assert row.roofline_share(Peaks(1e9, {}, {}, "no products known")) is None


@pytest.mark.parametrize("most", [1 << 14, 3, 0])
def test_steps_of_loops_count_every_run(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(step_clock, "_MOST_SPANS", most)

    @flamec.compile
    def smoothed(xs: Any) -> Any:
        return flamec.scan(lambda c, x: (c * 0.5 + x, c), flamec.zeros(4), xs)[1]

    xs = flamec.ones(11, 4)
    expected = smoothed(xs)
    with profile() as prof:
        given = smoothed(xs)
    assert np.array_equal(expected.numpy(), given.numpy())
    rows = {r.operations: r for r in prof.key_averages() if r.kind == "kernel"}
    body = next(r for names, r in rows.items() if "mul" in names)
    loop = next(r for names, r in rows.items() if "scan" in names)
    assert (body.count, loop.count) == (11, 1)
    assert body.bytes == sum(
        s.bytes_read + s.bytes_written for s in plan_of(smoothed).steps if "mul" in s.operations
    )
    assert loop.nanoseconds >= body.nanoseconds > 0
    assert loop.self_nanoseconds <= loop.nanoseconds - body.nanoseconds


def test_without_a_profile_the_usual_build_runs() -> None:
    step, _ = training()
    x, y = batch()
    step(x, y)
    bound = step.programs[0].prepared.runner.program.bind(())
    usual = bound._enter, bound._entry.program
    with profile():
        step(x, y)
        assert (bound._enter, bound._entry.program) != usual
    step(x, y)
    assert (bound._enter, bound._entry.program) == usual


def test_an_error_of_a_program_is_raised_and_the_profile_ends() -> None:
    @flamec.compile
    def picked(x: Any, i: Any) -> Any:
        return x[i]

    with pytest.raises(IndexError), profile() as prof:
        picked(flamec.ones(3), flamec.tensor([5]))
    assert [e.name for e in prof.events() if e.kind == "program"] == ["picked"]


def test_threads_have_lanes_of_their_own() -> None:
    @flamec.compile
    def double(x: Any) -> Any:
        return x * 2

    together = threading.Barrier(3)

    def work() -> None:
        together.wait()  # a thread that has ended may give its number to another one
        double(flamec.ones(1000))
        together.wait()

    double(flamec.ones(1000))
    with profile() as prof:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert len({e.thread for e in kernels(prof.events())}) == 3
    for lane in lanes(prof.events()):
        assert nested(lane)


def test_a_program_that_cannot_be_built_again_is_timed_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @flamec.compile
    def squared(x: Any) -> Any:
        return x * x

    squared(flamec.ones(10))

    def no_compiler() -> Path:
        raise FileNotFoundError("cc")

    monkeypatch.setattr(squared.programs[0].prepared.runner.program, "timed", no_compiler)
    message = "steps of squared cannot be timed one by one"
    with pytest.warns(RuntimeWarning, match=message), profile() as prof:
        assert squared(flamec.full((10,), 3.0)).tolist() == [9.0] * 10
    (event,) = (e for e in prof.events() if e.kind in ("program", "kernel"))
    assert (event.name, event.moved, event.flops) == ("squared", 2 * 40, 10)


def test_a_compilation_is_an_event() -> None:
    @flamec.compile
    def triple(x: Any) -> Any:
        return x * 3

    with profile() as prof:
        triple(flamec.ones(3))
    names = [e.name for e in prof.events() if e.kind == "compile"]
    assert names == ["compile triple", "build triple with a clock"]


# eager code --------------------------------------------------------------------------------
def test_eager_operations_have_shapes_lines_and_modules() -> None:
    linear = nn.Linear(8, 5)
    x = flamec.ones(3, 8)
    with profile() as prof:
        linear(x)
    (product,) = (e for e in prof.events() if e.name == "dot_general")
    assert product.flops == 2 * 3 * 8 * 5
    assert product.moved == (3 * 8 + 8 * 5 + 3 * 5) * 4
    assert product.shapes[0] == (3, 8)
    assert product.module == "Linear"
    assert Path(__file__).name in product.locations[0]
    (module,) = (e for e in prof.events() if e.kind == "module")
    assert module.start <= product.start <= product.end <= module.end


def test_averages_by_shape() -> None:
    with profile() as prof:
        for n in (3, 3, 4):
            flamec.ones(n) + flamec.ones(n)
    assert [r.count for r in prof.key_averages() if r.key == "add"] == [3]
    by_shape = [r for r in prof.key_averages(group_by_input_shape=True) if r.key == "add"]
    assert [(r.count, r.input_shapes) for r in by_shape] == [(2, ((3,), (3,))), (1, ((4,), (4,)))]


def test_named_ranges_nest_and_hold_what_is_inside() -> None:
    @record_function("decorated")
    def work(x: Any) -> Any:
        return x * 2

    with profile() as prof, record_function("outer"), record_function("inner"):
        work(flamec.ones(3))
    order = [e.name for e in prof.events() if e.kind == "user" or e.name == "mul"]
    assert order == ["outer", "inner", "decorated", "mul"]
    events = {e.name: e for e in prof.events()}
    assert events["outer"].children == events["inner"].duration
    assert events["outer"].self_time == events["outer"].duration - events["inner"].duration


def test_named_ranges_do_not_disturb_compiled_functions() -> None:
    @flamec.compile(fullgraph=True)
    def named(x: Any) -> Any:
        with record_function("inside"):
            return x * 2

    with profile() as prof:
        for _ in range(2):
            assert named(flamec.ones(2)).tolist() == [2.0, 2.0]
    assert named.stats.traces == 1
    assert not [e for e in prof.events() if e.kind == "user"]


def test_names_outside_of_a_profile_cost_nothing_and_record_nothing() -> None:
    with record_function("alone"):
        flamec.ones(2) * 2
    with profile() as prof:
        flamec.ones(2)
    assert not [e for e in prof.events() if e.name in ("alone", "mul")]


# tables ------------------------------------------------------------------------------------
def test_a_table_is_sorted_and_says_what_it_left_out() -> None:
    with profile() as prof:
        for _ in range(3):
            flamec.ones(1000) * 2
        flamec.ones(4).exp()
    found = prof.key_averages()
    text = found.table(sort_by="count", row_limit=2, peaks=PEAKS, header="A header")
    lines = text.splitlines()
    assert lines[0] == "A header"
    body = lines[4:6]
    assert int(body[0].split()[5]) >= int(body[1].split()[5])
    assert f"({len(found) - 2} more rows)" in lines
    assert "Roofline of cpu: 1 GB/s, products 0.01 TFLOP/s float32 (given)" in lines
    with pytest.raises(ValueError, match="sort_by='speed' is none of"):
        found.table(sort_by="speed", peaks=PEAKS)


def test_self_times_add_up_to_the_whole() -> None:
    step, _ = training()
    x, y = batch()
    step(x, y)
    with profile() as prof, record_function("everything"):
        step(x, y)
        nn.Linear(10, 3)(x)
    rows = prof.key_averages()
    (whole,) = (r for r in rows if r.key == "everything")
    assert sum(r.self_cpu_time_total for r in rows) == pytest.approx(whole.cpu_time_total)
    assert rows.total_average().self_cpu_time_total == pytest.approx(whole.cpu_time_total)


def test_the_roofline_of_the_processor_is_measured_once() -> None:
    first = profiler.device_peaks("cpu")
    assert first is profiler.device_peaks("cpu")
    assert first.bytes_per_second > 0
    assert first.matrix["float32"] > 0 and first.matrix["float64"] > 0


def test_the_roofline_of_gpus() -> None:
    known = profiler.peaks.product_peaks("NVIDIA H200")
    assert known is not None and known.bytes_per_second == 4.8e12
    assert known.matrix["bfloat16"] == 989.5e12
    assert known.matrix["float32"] == pytest.approx(494.5e12 / 3)
    assert known.matrix["tf32"] == 494.5e12
    other = profiler.peaks.product_peaks("NVIDIA H100 80GB HBM3")
    assert other is not None and other.bytes_per_second == 3.35e12
    assert profiler.peaks.product_peaks("Another GPU") is None


@pytest.mark.parametrize("allowed", [True, False])
def test_products_in_tf32_have_the_roofline_of_tf32(
    allowed: bool, simulated: list[SimulatedGpu], float32_convolutions: None
) -> None:
    """Eager ones and the steps of programs."""
    flamec.backends.cudnn.allow_tf32 = allowed
    x, w = flamec.ones(1, 4, 6, 6, device="cuda"), flamec.ones(4, 4, 3, 3, device="cuda")
    one = dict.fromkeys(("strides", "lhs_dilation", "rhs_dilation"), (1, 1))
    with profile() as found:
        apply_named("convolution", x, w, padding=((0, 0), (0, 0)), groups=1, **one)
        apply_named("dot_general", x[0, 0], x[0, 1], contract=((1,), (0,)), batch=((), ()))
    kinds = {e.name: e.dtype for e in found.events() if e.matrix}
    wanted = "tf32" if allowed else "float32"
    assert kinds["convolution"] == wanted and kinds["dot_general"] == "float32"
    options = CodegenOptions(float32_products="tf32x3", float32_convolutions="tf32")
    if not allowed:
        options = replace(options, float32_convolutions="tf32x3")
    both = flamec.compile(lambda x, w: (nn.functional.conv2d(x, w), x[0, 0] @ x[0, 1]))
    plan = compile_graph(both.compile_variant((x, w), {}).prepared.optimized, options).plan
    steps = _Steps(plan, {}, "both")
    products = [steps._dtype(i) for i, s in enumerate(plan.steps) if s.kind == "matmul"]
    assert sorted(products) == sorted(["float32", wanted])


# traces ------------------------------------------------------------------------------------
def nested(lane: list[Event]) -> bool:
    """Whether of any two events one holds the other or they are apart."""
    open_ends: list[int] = []
    for event in lane:
        while open_ends and open_ends[-1] <= event.start:
            open_ends.pop()
        if open_ends and event.end > open_ends[-1]:
            return False
        open_ends.append(event.end)
    return True


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_trace_follows_the_format(tmp_path: Path, name: str) -> None:
    step, _ = training()
    x, y = batch()
    with profile() as prof, record_function("outer"):
        step(x, y)
        flamec.ones(3).exp()
    prof.export_chrome_trace(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    data = json.loads(gzip.decompress(content) if name.endswith(".gz") else content)
    rows = data["traceEvents"]
    assert {r["ph"] for r in rows} == {"X", "M"}
    for row in rows:
        assert isinstance(row["name"], str) and isinstance(row["pid"], int)
        assert isinstance(row["tid"], int) and isinstance(row["args"], dict)
        if row["ph"] == "X":
            assert row["ts"] >= 0 and row["dur"] >= 0 and isinstance(row["cat"], str)
    named = {(r["pid"], r["tid"]) for r in rows if r["name"] == "thread_name"}
    assert {(r["pid"], r["tid"]) for r in rows if r["ph"] == "X"} <= named
    complete = {r["name"]: r for r in rows if r["ph"] == "X"}
    outer, call = complete["outer"], complete["step"]
    kernel = next(r for n, r in complete.items() if n.startswith("step/"))
    for inside, around in ((call, outer), (kernel, call)):
        assert around["ts"] <= inside["ts"]
        assert inside["ts"] + inside["dur"] <= around["ts"] + around["dur"] + 1e-3
    assert kernel["args"]["bytes"] > 0 and kernel["args"]["lines"]
    assert all(nested(lane) for lane in lanes(prof.events()))


def test_work_on_a_gpu_has_a_process_of_its_own() -> None:
    step, _ = training()
    step(*batch())
    plan = plan_of(step)
    stream = SimpleNamespace(device_index=1, cuda_stream=0x70)
    spans = [StepSpan(0, 2000, 5000), StepSpan(0, 5000, 6000), StepSpan(-1, 6000, 6500)]
    run: Any = SimpleNamespace(
        plan=plan,
        bindings={},
        label="step",
        stream=stream,
        start=1000,
        end=1900,
        spans=lambda: spans,
    )
    events = device_events(run, thread=7)
    launch, first, second, other = events
    assert (launch.device, launch.duration) == ("cpu", 900)
    assert {e.device for e in events[1:]} == {"cuda:1"}
    total = plan.steps[0].bytes_read + plan.steps[0].bytes_written
    assert isinstance(total, int)
    assert first.moved == second.moved == total // 2  # two launches are one step
    assert other.moved == 0 and other.name == "step/copy or fill"
    rows = trace_data(events)["traceEvents"]
    processes = {r["args"]["name"]: r["pid"] for r in rows if r["name"] == "process_name"}
    on_device = [r for r in rows if r["ph"] == "X" and r["pid"] == processes["cuda:1"]]
    assert [r["dur"] for r in on_device] == [3.0, 1.0, 0.5]
    assert processes["cpu"] != processes["cuda:1"]
