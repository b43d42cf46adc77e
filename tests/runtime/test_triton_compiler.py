"""Triton compilation on any machine: machine code, metadata, cache, worker processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from gpu_kernels import affine, affine_twice_plan, matmul, numbers, transpose

from flamec.ir.plan import ExecutionPlan, KernelSource
from flamec.runtime.cuda.compile_worker import compile_kernels
from flamec.runtime.cuda.kernel_binary import TEXT_STAGES, KernelBinary, Parameter
from flamec.runtime.cuda.tensor_map import TensorMapLayout
from flamec.runtime.cuda.triton_compiler import (
    TritonError,
    build_kernel,
    cached_kernel,
    compile_kernel,
    disassemble,
    kernel_key,
)
from flamec.runtime.kernel_cache import KernelCache

TARGETS = ("sm_80", "sm_90", "sm_120")
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)


@pytest.fixture
def cache(tmp_path: Path) -> KernelCache:
    return KernelCache(tmp_path / "cache")


@needs_triton
@pytest.mark.parametrize("target", TARGETS)
def test_pointwise(cache: KernelCache, target: str) -> None:
    binary, compiled = compile_kernel(affine(warps=8), target, cache, texts=True)
    assert compiled
    assert (binary.name, binary.target, binary.threads) == ("affine", target, 256)
    assert binary.machine_code[:4] == b"\x7fELF"
    assert 8 <= binary.registers <= 64
    assert (binary.shared_bytes, binary.stack_bytes, binary.scratch_bytes) == (0, 0, 0)
    assert [p.kind for p in binary.parameters[:5]] == [
        "pointer",
        "pointer",
        "int",
        "float",
        "float",
    ]
    assert {p.kind for p in binary.parameters[5:]} <= {"scratch", "null"}
    assert set(binary.texts) == set(TEXT_STAGES)
    assert f".target {target}" in binary.texts["ptx"]
    assert "EXIT" in disassemble(binary)


@needs_triton
def test_wide_loads_need_an_aligned_size_too(cache: KernelCache) -> None:
    """The mask ``i < n`` cuts vectors unless n is known to be a multiple of 16."""
    source = affine()
    wide = replace(source, aligned=(*source.aligned, "n"))
    texts = [compile_kernel(s, "sm_90", cache, texts=True)[0].texts["ptx"] for s in (source, wide)]
    assert ["ld.global.v4" in ptx for ptx in texts] == [False, True]


@needs_triton
@pytest.mark.parametrize("target", TARGETS)
def test_tensor_descriptors(cache: KernelCache, target: str) -> None:
    binary, _ = compile_kernel(matmul(), target, cache)
    bases = [p for p in binary.parameters if p.component == "base"]
    shapes = [p for p in binary.parameters if p.component == "shape" and p.argument == 1]
    if target == "sm_80":
        assert [p.kind for p in bases] == ["pointer"] * 3
        assert binary.tensor_maps == ()
    else:
        assert [p.kind for p in bases] == ["tensor_map"] * 3
        assert [m.box for m in binary.tensor_maps] == [(128, 64), (64, 64), (128, 64)]
        assert {m.element_bytes for m in binary.tensor_maps} == {2}
        assert [p.dimension for p in shapes] == [0, 1]
        assert binary.shared_bytes > 48 << 10
    assert binary.parameters[[p.argument for p in binary.parameters].index(3)].kind == "int"


@needs_triton
def test_scratch_memory_is_reported(cache: KernelCache) -> None:
    binary, _ = compile_kernel(transpose(), "sm_90", cache)
    assert binary.scratch_bytes > 0
    assert [p.kind for p in binary.parameters].count("scratch") == 1


@needs_triton
def test_every_number_has_its_size(cache: KernelCache) -> None:
    binary, _ = compile_kernel(numbers(), "sm_80", cache)
    assert [(p.kind, p.size) for p in binary.parameters[1:5]] == [
        ("int", 4),
        ("int", 8),
        ("float", 4),
        ("float", 8),
    ]


@needs_triton
def test_cache(cache: KernelCache) -> None:
    source = affine()
    assert cached_kernel(source, "sm_90", cache) is None
    first, compiled = compile_kernel(source, "sm_90", cache)
    again, compiled_again = compile_kernel(source, "sm_90", cache)
    assert (compiled, compiled_again) == (True, False)
    assert replace(first, texts={}) == again == cached_kernel(source, "sm_90", cache)
    assert not list(cache.folder.glob("**/__pycache__"))


@needs_triton
def test_key_depends_on_everything() -> None:
    source = affine()
    keys = {
        kernel_key(changed, target)
        for changed in (
            source,
            replace(source, text=source.text + "\n"),
            replace(source, constants={"BLOCK": 512}),
            replace(source, aligned=("x",)),
            replace(source, options={"num_warps": 8}),
        )
        for target in TARGETS
    }
    assert len(keys) == 15


@needs_triton
def test_second_process_does_not_import_triton(cache: KernelCache) -> None:
    compile_kernel(affine(), "sm_90", cache)
    program = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
        "from pathlib import Path\n"
        "from flamec.ir.plan import KernelSource\n"
        "from flamec.runtime.cuda.triton_compiler import compile_kernel\n"
        "from flamec.runtime.kernel_cache import KernelCache\n"
        "source = KernelSource.from_json(sys.argv[2])\n"
        "binary, compiled = compile_kernel(source, 'sm_90', KernelCache(Path(sys.argv[3])))\n"
        "print(binary.name, compiled, 'triton' in sys.modules, 'torch' in sys.modules)\n"
    )
    arguments = [json.dumps(sys.path), affine().to_json(), str(cache.folder)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["affine", "False", "False", "False"]


@needs_triton
def test_worker_processes(cache: KernelCache) -> None:
    sources = [affine(block) for block in (256, 512, 1024)]
    broken = replace(affine(2048), text=affine().text.replace("* scale", "* missing"))
    known, _ = compile_kernel(sources[2], "sm_90", cache)
    seen: list[tuple[int, int, str]] = []
    results = compile_kernels(
        [*sources, broken], "sm_90", cache, 2, lambda *facts: seen.append(facts)
    )
    assert [r.compiled for r in results] == [True, True, False, False]
    assert results[2].binary == replace(known, texts={})
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(TritonError, match="missing is not defined"):
        results[3].result()
    assert results[3].error is not None and results[3].error.source_path is not None


@needs_triton
def test_errors_name_the_kernel(cache: KernelCache) -> None:
    source = affine()
    with pytest.raises(ValueError, match="affine: the constants are"):
        build_kernel(replace(source, constants={}), "sm_90", cache)
    with pytest.raises(ValueError, match="'scale' is not a pointer"):
        build_kernel(replace(source, aligned=("scale",)), "sm_90", cache)
    with pytest.raises(ValueError, match="form 'sm_90'"):
        build_kernel(source, "hopper", cache)
    renamed = replace(source, parameters=(("y", "*fp32"), *source.parameters[1:]), aligned=())
    with pytest.raises(TritonError, match="the function's parameters are"):
        build_kernel(renamed, "sm_90", cache)


def test_binary_round_trip() -> None:
    binary = KernelBinary(
        name="k",
        target="sm_90",
        machine_code=b"\x7fELF...",
        threads=128,
        shared_bytes=1,
        registers=2,
        stack_bytes=3,
        parameters=(Parameter("tensor_map", 128, 0, "base"), Parameter("int", 4, 0, "shape", 1)),
        tensor_maps=(TensorMapLayout(9, 2, (128, 64), 3),),
        texts={"ptx": ".version 8.0", "ttir": "module"},
    )
    assert KernelBinary.from_bytes(binary.to_bytes(), texts=True) == binary
    assert KernelBinary.from_bytes(binary.to_bytes()) == replace(binary, texts={})
    with pytest.raises(ValueError, match="cut short"):
        KernelBinary.from_bytes(binary.to_bytes()[:-1])
    with pytest.raises(ValueError, match="not a compiled kernel"):
        KernelBinary.from_bytes(b"something else")


def test_sources_and_plans_round_trip() -> None:
    assert KernelSource.from_json(affine().to_json()) == affine()
    plan = affine_twice_plan()
    again = ExecutionPlan.from_json(plan.to_json())
    assert again.kernels == plan.kernels
    assert again.actions == plan.actions
    assert again.to_json() == plan.to_json()
