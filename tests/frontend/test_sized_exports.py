"""Files of programs over symbolic sizes on a GPU have the code of classes of sizes, too.

Nothing is run on the simulated device: what is looked at are the plans that calls bind, and how
many kernels were compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from planning_gpu import CompilingGpu

import flamec
from flamec import cuda_backend
from flamec.config import default_options
from flamec.deployment.cache_files import export_cache, import_cache
from flamec.runtime.kernel_cache import KernelCache

Machine = Callable[[str], CompilingGpu]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    """Makes the process one on a machine with a GPU and an empty cache of its own."""
    simulated_gpu.install(monkeypatch)

    def prepare(self: Any, graph: Any, symbols: Any, options: Any) -> Any:
        return cuda_backend.prepare(graph, symbols, options)

    gpu = simulated_gpu.SimulatedGpu
    evaluated = gpu.prepare

    def operation(self: Any, graph: Any, symbols: Any, *more: Any, **options: Any) -> Any:
        return evaluated(self, graph, symbols, default_options())

    monkeypatch.setattr(gpu, "prepare", prepare)
    monkeypatch.setattr(gpu, "prepare_operation", operation)

    def enter(name: str) -> CompilingGpu:
        device = CompilingGpu(tmp_path / name)
        monkeypatch.setattr(cuda_backend, "device", lambda index, options: device)
        monkeypatch.setattr(cuda_backend, "_tunings", {})
        return device

    yield enter


def normalized(x):
    return flamec.softmax(x * 2, -1)


def write(file: Path, shape: tuple[int, int], **options: Any) -> None:
    x = flamec.from_numpy(np.zeros(shape, np.float32)).to("cuda")
    dynamic = {"x": {0: "rows", 1: "columns"}}
    flamec.export(normalized, (x,), file, dynamic=dynamic, **options)


def bound(program: Any, *sizes: int) -> Any:
    return program._runner.bind(sizes).bound


def test_the_examples_class_is_in_the_file(machine: Machine, tmp_path: Path) -> None:
    here = machine("here")
    write(tmp_path / "f", (3, 96))
    general, sized = here.plans
    there = machine("there")
    program = flamec.load(tmp_path / "f")
    assert program.kernels_compiled == 0
    assert [p.source for p in there.plans] == [general.source, sized.source]
    for columns in (80, 96, 112):  # of the example's class
        found = bound(program, 2, columns)
        assert found.plan == sized and found.sizes == (2, columns // 16)
    for sizes in ((2, 97), (5, 96), (2, 4096)):
        found = bound(program, *sizes)
        assert found.plan == general and found.sizes == sizes


def test_classes_of_sizes_that_the_user_names(machine: Machine, tmp_path: Path) -> None:
    machine("here")
    sizes = [{"rows": 100, "columns": 1000}, {"columns": 33, "rows": 4096}]
    write(tmp_path / "f", (3, 96), sizes=sizes)
    machine("there")
    program = flamec.load(tmp_path / "f")
    assert program.kernels_compiled == 0
    plans = {bound(program, *s).plan.source for s in ((3, 96), (100, 1000), (4096, 33), (9, 9))}
    assert len(plans) == 4
    assert bound(program, 4096, 40).sizes == (40,), "4096 is a number in the code"


def test_machine_code_for_another_gpu_is_compiled_anew(machine: Machine, tmp_path: Path) -> None:
    machine("here")
    write(tmp_path / "f", (3, 96))
    there = machine("there")
    there.target = "sm_120"
    program = flamec.load(tmp_path / "f")
    assert program.kernels_compiled == sum(len(p.kernels) for p in there.plans) > 1


def test_names_of_sizes_are_those_of_dynamic(machine: Machine, tmp_path: Path) -> None:
    machine("here")
    for wrong in ({"rows": 3}, {"rows": 3, "columns": 4, "depth": 5}, {}):
        with pytest.raises(ValueError, match="dynamic names 'rows', 'columns'"):
            write(tmp_path / "f", (3, 96), sizes=[wrong])
    assert not (tmp_path / "f").exists()


def test_on_the_cpu_one_code_serves_all_sizes(tmp_path: Path) -> None:
    x = flamec.ones(3, 96)
    file, dynamic = tmp_path / "f", {0: {0: "rows", 1: "columns"}}
    flamec.export(normalized, (x,), file, dynamic=dynamic, sizes=[{"rows": 2, "columns": 7}])
    result = flamec.load(file)(np.ones((2, 7), np.float32))
    np.testing.assert_allclose(result, np.full((2, 7), 1 / 7), rtol=1e-6)


def test_a_cache_takes_the_code_of_classes_to_another_machine(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = ((3, 96), (100, 1000))

    def call() -> list[Any]:
        compiled = flamec.compile(normalized, dynamic=True)
        program = None
        for shape in shapes:
            x = flamec.from_numpy(np.zeros(shape, np.float32)).to("cuda")
            program = program or compiled.compile_variant((x,), {})
            ((_, prepared),) = program.parts
            prepared.bind(shape)
        return [p.kernels_compiled for p in prepared.sized.values()]

    here = machine("here")
    assert sum(call()) == sum(len(p.kernels) for p in here.plans)
    export_cache(here.cache, tmp_path / "cache")
    there = machine("there")
    imported = import_cache(tmp_path / "cache", there.cache, default_options())
    assert imported.taken and not imported.left_out
    monkeypatch.setattr(cuda_backend, "generate_plan", None)
    assert call() == [0, 0]
    assert [p.source for p in there.plans] == [p.source for p in here.plans]
    assert isinstance(there.cache, KernelCache)


def test_positions_are_operands_and_lengths_have_classes(machine: Machine, tmp_path: Path) -> None:
    """Nothing is bound anew for another position in a cache; a length is a size like others."""

    def put(cache: Any, x: Any, position: int) -> Any:
        cache = cache.clone()
        cache[:, position] = x
        return cache

    here = machine("here")
    file = tmp_path / "f"
    cache, x = (flamec.ones(*shape).to("cuda") for shape in ((2, 64, 8), (2, 8)))
    flamec.export(put, (cache, x, 3), file, dynamic={"position": "position"})
    written = [p.source for p in here.plans]
    there = machine("there")
    program = flamec.load(file)
    assert program.kernels_compiled == 0 and there.plans[-1].source in written
    assert program._symbols == ()
    leaves = [np.ones((2, 64, 8), np.float32), np.ones((2, 8), np.float32), -1]
    assert program._check(leaves)["s0"] == 63
    leaves[2] = 64
    with pytest.raises(ValueError, match="-64 <= position < 64"):
        program._check(leaves)

    def cut(x: Any, length: int) -> Any:
        return flamec.softmax(x[:, :length] * 2, -1)

    machine("third")
    dynamic, sizes = {"length": "length"}, [{"length": 33}]
    flamec.export(cut, (flamec.ones(3, 4096).to("cuda"), 1000), file, dynamic=dynamic, sizes=sizes)
    machine("fourth")
    program = flamec.load(file)
    assert program.kernels_compiled == 0
    assert len({bound(program, n).plan.source for n in (1000, 33, 7)}) == 3
