"""Programs over symbolic sizes on a GPU: one trace, a program for each class of sizes.

Nothing is run here: what is counted are programs, plans, launches and kernels.
"""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import simulated_gpu
from interpreted import run_interpreted
from planning_gpu import PlanningGpu
from triton_sizes import CASES

import flamec
from flamec import cuda_backend, sized_runner
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.tiling import Tile
from flamec.compilation_stats import Stats
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.debugging.recording import reproduction_of
from flamec.errors import StageError
from flamec.gpu import Gpu
from flamec.ir.bodies import bound_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.passes.plan_memory import memory_use
from flamec.ir.plan import ExecutionPlan, Launch
from flamec.ir.shape import Dim, SymbolicDim, evaluate_shape
from flamec.ir.types import Device, TensorType, float32
from flamec.prepared import Prepared
from flamec.runtime.kernel_cache import KernelCache
from flamec.size_classes import MOST_ELEMENTS, SizeClass, SizeRange, size_class
from flamec.sized_runner import SizeClassWarning, planned

GPU = Device("cuda", 0)
B, N = SymbolicDim.symbol("B"), SymbolicDim.symbol("N")
SYMBOLS = ("B", "N")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PlanningGpu]:
    simulated_gpu.install(monkeypatch)
    planning = PlanningGpu(tmp_path)
    monkeypatch.setattr(cuda_backend, "device", lambda index, options: planning)
    monkeypatch.setattr(cuda_backend, "_tunings", {})
    yield planning


def softmax(shape: tuple[Dim, ...] = (B, N)) -> Graph:
    b = GraphBuilder()
    x = b.input(TensorType(shape, float32, GPU))
    kept = (*shape[:-1], 1)
    e = b.exp(b.sub(x, b.reshape(b.amax(x, axes=(1,)), shape=kept)))
    return b.build([b.div(e, b.reshape(b.sum(e, axes=(1,)), shape=kept))], name="rows")


def prepare(folder: Path, graph: Graph | None = None) -> Prepared:
    options = default_options(cache_folder=folder, reproduction_folder=folder / "failures")
    return cuda_backend.prepare(graph or softmax(), SYMBOLS, options)


def bound(prepared: Prepared, *sizes: int) -> Any:
    invocation: Any = prepared.bind(sizes)
    return invocation.bound


# classes -----------------------------------------------------------------------------------
def _range_of(size: int) -> SizeRange:
    (found,) = size_class((size,), 0).ranges
    return found


def test_sizes_share_a_class_up_to_a_power_of_two_and_apart_by_divisors() -> None:
    assert {_range_of(n) for n in range(5)} == {SizeRange(4, 1, 4)}
    assert {_range_of(n) for n in range(17, 32)} == {SizeRange(32, 1, 24)}
    assert [_range_of(n).divisor for n in (65, 68, 72, 80, 127)] == [1, 4, 8, 16, 1]
    assert all(n <= _range_of(n).bound and n % _range_of(n).divisor == 0 for n in range(1 << 12))
    assert len({_range_of(n) for n in range((1 << 12) + 1)}) == 1 + 2 * 4 + (1 + 4) * 6


def test_powers_of_two_are_classes_and_large_ones_numbers() -> None:
    assert _range_of(32) == SizeRange(32, 1, 32) and not _range_of(32).constant
    assert _range_of(64) == SizeRange(64, 64, 64) and _range_of(64).constant
    known = size_class((64, 32), 0)
    assert known.symbols(SYMBOLS) == ("N",) and known.values((64, 32)) == (32,)
    ((old, new),) = known.substitutions(SYMBOLS)
    assert str(old) == "B" and new == 64
    assert known.text(SYMBOLS) == "B = 64; N = 32"


def test_a_class_says_what_its_symbols_are() -> None:
    known = size_class((33, 96), MOST_ELEMENTS)
    assert known == SizeClass((SizeRange(64, 1, 48), SizeRange(128, 16, 96)), narrow=False)
    assert known.symbols(SYMBOLS) == ("B", "N_16")
    assert known.bounds(SYMBOLS) == {"B": 64, "N_16": 8}
    assert known.typical(SYMBOLS) == {"B": 48, "N_16": 6}
    assert known.values((33, 96)) == (33, 6)
    ((old, new),) = known.substitutions(SYMBOLS)
    assert str(old) == "N" and str(new) == "16*N_16"
    assert known.text(SYMBOLS) == "B <= 64; N <= 128, a multiple of 16; 64-bit indices"


def test_the_largest_value_of_a_size() -> None:
    options = CodegenOptions(size_hints={"B": 12}, size_bounds={"B": 16, "N": 64})
    most = {5: 5, B: 16, B * N + 3: 16 * 64 + 3, N - 1: 63, B - N: 16, (N - 3) // 2 + 1: 31}
    for size, wanted in most.items():
        assert options.most(size) == wanted
    quotient: Dim = N // B
    assert options.most(quotient) == 64
    assert options.most(5 - quotient) is None  # it is not known what is subtracted
    assert options.most(SymbolicDim.symbol("M")) is None
    assert options.typical(B) == 12
    hinted = CodegenOptions(size_hints={"B": 12})
    assert hinted.most(B) is None and hinted.typical(B) == 16  # hints are rounded, and no bounds


# programs ----------------------------------------------------------------------------------
def test_a_program_is_made_for_each_class_that_is_met(device: PlanningGpu, tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    assert prepared.plan is not None and not device.plans  # kernels for all sizes are not needed
    counted = Stats()
    prepared.listeners.append(counted.count_loaded)
    assert bound(prepared, 3, 50).plan is bound(prepared, 4, 60).plan
    assert bound(prepared, 3, 50).sizes == (3, 50)
    assert len(device.plans) == counted.size_classes == 1
    assert counted.kernels_compiled == len(device.plans[0].kernels)
    assert bound(prepared, 3, 96).sizes == (3, 6)  # of N_16
    assert [*prepared.sized] == ["B <= 4; N <= 64", "B <= 4; N <= 128, a multiple of 16"]
    assert len(device.plans) == 2


def test_large_arrays_have_64_bit_indices(device: PlanningGpu, tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    small, large = bound(prepared, 1 << 15, 1 << 14), bound(prepared, 1 << 15, 1 << 15)
    assert "int64" not in small.plan.source and "int64" in large.plan.source


def test_rows_of_a_class_are_read_once_in_the_tile_of_the_fixed_size(
    device: PlanningGpu, tmp_path: Path
) -> None:
    prepared = prepare(tmp_path)
    assert prepared.plan is not None and prepared.plan.source.count("tl.load(") == 3
    for sizes in ((4096, 37), (4096, 1023), (100, 10000)):
        source = bound(prepared, *sizes).plan.source
        assert source.count("tl.load(") == 1 and "for first_col" not in source
    fixed = compile_graph(bound_graph(softmax(), {"B": 3072, "N": 1023})).choices
    bound(prepared, 3000, 1023)
    found = prepared.sized["B <= 4096, a multiple of 8; N <= 1024"]
    assert [c.schedule for c in found.compiled.choices] == [c.schedule for c in fixed]


def test_rows_that_are_too_long_for_a_block_have_the_loop_of_the_fixed_size(
    device: PlanningGpu, tmp_path: Path
) -> None:
    prepared = prepare(tmp_path)
    bound(prepared, 1000, 20001)
    (found,) = prepared.sized.values()
    (fixed,) = compile_graph(bound_graph(softmax(), {"B": 1000, "N": 20001})).choices
    (choice,) = found.compiled.choices
    assert choice.schedule == fixed.schedule
    assert isinstance(choice.schedule, Tile) and choice.schedule.looped
    assert found.plan is not None and "lost_" not in found.plan.source


def test_predicted_memory_is_that_of_the_program_that_runs(
    device: PlanningGpu, tmp_path: Path
) -> None:
    b = GraphBuilder()
    x = b.input(TensorType((N, B), float32, GPU))
    prepared = prepare(tmp_path, b.build([b.sum(x, axes=(0,))]))
    sizes = {"B": 8, "N": 100}
    general = planned(prepared, sizes)
    assert general is not None and general[0] is prepared.plan
    bound(prepared, 8, 100)
    found = planned(prepared, sizes)
    assert found is not None and found[1] == {"B": 8, "N_4": 25}
    assert memory_use(*found).inputs == memory_use(*general).inputs == 3200
    # parts of sums for as many blocks as such rows have, not for those that any rows may have
    assert memory_use(*found).arena < memory_use(*general).arena


def test_equal_sizes_have_equal_programs_whatever_was_met_before(
    device: PlanningGpu, tmp_path: Path
) -> None:
    sizes = [(3, 50), (3, 96), (70, 96), (70, 33), (64, 128)]
    plans = []
    for order in (sizes, sizes[::-1]):
        prepared = prepare(tmp_path / str(len(plans)))
        device.cache = KernelCache(tmp_path / str(len(plans)))
        plans.append({s: bound(prepared, *s).plan.to_json() for s in order})
    assert plans[0] == plans[1]


def test_beyond_a_bound_further_classes_run_the_code_for_all_sizes(
    device: PlanningGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sized_runner, "MOST_CLASSES", 2)
    prepared, counted = prepare(tmp_path), Stats()
    prepared.listeners.append(counted.count_loaded)
    bound(prepared, 3, 3)
    bound(prepared, 3, 10)
    with pytest.warns(SizeClassWarning, match="rows was called with sizes of more than 2 classes"):
        general = bound(prepared, 3, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        assert bound(prepared, 50, 700).plan is general.plan is prepared.plan
        assert bound(prepared, 4, 9).plan is device.plans[1]
    assert general.sizes == (3, 32) and len(device.plans) == 3
    assert counted.size_classes == len(prepared.sized) == 2
    assert counted.kernels_compiled == sum(len(p.kernels) for p in device.plans)


def test_another_process_generates_nothing(
    device: PlanningGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = bound(prepare(tmp_path), 3, 96).plan
    monkeypatch.setattr(cuda_backend, "generate_plan", None)
    monkeypatch.setattr(cuda_backend, "_tunings", {})
    assert bound(prepare(tmp_path), 4, 80).plan == wanted


def test_threads_make_a_program_once(device: PlanningGpu, tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    plans: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: plans.append(bound(prepared, 2, n).plan))
        for n in range(33, 49)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plans) == 16 and len(device.plans) == 1


def test_a_failure_names_the_program_and_its_reproduction_has_the_class(
    device: PlanningGpu, tmp_path: Path
) -> None:
    prepared = prepare(tmp_path)
    device.fails = True
    with pytest.raises(StageError, match=r"rows .*too much shared memory") as failure:
        prepared.bind((3, 96))
    assert failure.value.reproduction and "16*N_16" in failure.value.reproduction.read_text()
    assert not prepared.sized
    device.fails = False
    assert bound(prepared, 3, 96).sizes == (3, 6)
    (program,) = prepared.sized.values()
    again = reproduction_of(program)
    assert again.symbols == ("B", "N_16") and again.options["size_bounds"] == {"B": 4, "N_16": 8}


def test_a_compiled_function_is_traced_twice_for_many_sizes(
    device: PlanningGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 batch sizes and lengths, 0 and 1 included: 2 traces; classes are far fewer than sizes."""
    monkeypatch.setattr(simulated_gpu.SimulatedGpu, "prepare", Gpu.prepare)
    rng = random.Random(0)
    batches, lengths = rng.sample(range(50), 50), rng.sample(range(50), 50)
    made: list[tuple[Prepared, tuple[str, ...]]] = []

    class Recording(CompiledFunction):
        def _make_own(self, graph: Graph, symbols: tuple[str, ...]) -> Prepared:
            made.append((super()._make_own(graph, symbols), symbols))
            return made[-1][0]

    options = default_options(cache_folder=tmp_path)
    function = Recording(lambda x: flamec.softmax(x @ x.transpose(1, 2), -1), options)
    for batch, length in ((3, 5), (4, 7)):
        function.compile_variant((flamec.empty(batch, length, 8, device="cuda"),), {})
    prepared, symbols = made[-1]
    assert len(symbols) == 2
    for sizes in zip(batches, lengths, strict=True):
        prepared.bind(sizes)
    assert function.stats.traces == 2
    assert function.stats.size_classes == len(prepared.sized) <= 25
    launches = {len(p.plan.actions) for p in prepared.sized.values() if p.plan}
    assert len(launches) == 1


def test_launches_are_those_of_the_fixed_size(device: PlanningGpu, tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    for sizes in ((64, 512), (8192, 128), (33, 512), (4, 5)):
        plan, values = bound(prepared, *sizes).plan, bound(prepared, *sizes).sizes
        fixed = compile_graph(bound_graph(softmax(), dict(zip(SYMBOLS, sizes, strict=True)))).plan
        bindings = dict(zip(plan.symbols, values, strict=True))
        assert _grids(plan, bindings) == _grids(fixed, {})


def _grids(plan: ExecutionPlan, bindings: dict[str, int]) -> list[tuple[int, ...]]:
    return [evaluate_shape(a.grid, bindings) for a in plan.actions if isinstance(a, Launch)]


def test_results_are_those_of_the_program_for_the_size() -> None:
    pytest.importorskip("triton")
    results = run_interpreted("triton_sizes.py", [*CASES])
    assert len(results) == len(CASES)
    assert [r for r in results if r["wrong"]] == []
