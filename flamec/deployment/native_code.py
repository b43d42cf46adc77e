"""Machine code in program files: taken from the kernel cache, put into another machine's.

In: a prepared program, or a plan and the members of its file. Out: members and facts, or a
loaded runner. Invariant: code enters a cache only under the key that compiling the same source
for this very processor or GPU would have, so it is found if it fits and compiled anew if not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from flamec import cpu_backend
from flamec.config import CompileOptions
from flamec.deployment.sized_program import (
    LoadedClasses,
    describe_class,
    describe_counts,
    read_class,
    read_counts,
)
from flamec.errors import CompileError
from flamec.host_evaluation import evaluate_host_call
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import Device
from flamec.prepared import Prepared, graph_device
from flamec.runtime.cpu import products, threads
from flamec.runtime.cpu.compiler import CompileError as CompilerError
from flamec.runtime.cpu.compiler import Compiler, header_digest, library_key, processor_features
from flamec.runtime.cpu.device import CpuDevice
from flamec.runtime.kernel_cache import KernelCache
from flamec.sized_runner import SizedProgram, element_counts

_LIBRARY = "so"


def gather(
    prepared: Prepared, symbols: Sequence[str], sizes: Sequence[Mapping[str, int]]
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Members with the machine code of a program that was just made, and what they fit.

    ``sizes``: of a program for a GPU, those for whose classes there is code (``size_classes``).
    """
    plan = prepared.plan
    assert plan is not None
    place = graph_device(prepared.graph)
    if place.type == "cuda":
        values = [tuple(given[s] for s in symbols) for given in sizes]
        return _gather_gpu(prepared, plan, place, values if plan.symbols else [])
    cpu = cpu_backend.device(prepared.options)
    members, described = {}, []
    for number, (source, flags) in enumerate(_sources(plan, cpu)):
        content = cpu.cache.read(library_key(cpu.compiler, source, flags), _LIBRARY)
        if content is not None:
            file = f"kernels/{number}.{_LIBRARY}"
            members[file] = content
            described.append({"file": file, "source": _digest(source)})
    return members, {"kernels": described, "target": _processor(), "headers": header_digest()}


def _gather_gpu(
    prepared: Prepared, plan: ExecutionPlan, place: Device, sizes: Sequence[tuple[int, ...]]
) -> tuple[dict[str, bytes], dict[str, Any]]:
    from flamec import cuda_backend
    from flamec.runtime.cuda.triton_compiler import BINARY_KIND, kernel_key

    gpu = cuda_backend.device(place.index, prepared.options)
    cuda_backend.load_kernels(gpu, prepared, plan)  # those for all sizes are not compiled by calls
    members: dict[str, bytes] = {}
    classes = []
    plans = [plan]
    for given in sizes:
        prepared.bind(given)
    for number, program in enumerate(prepared.sized.values()):
        assert isinstance(program, SizedProgram) and program.plan is not None
        file = f"classes/{number}.json"
        members[file] = program.plan.to_json().encode()
        classes.append({**describe_class(program.size_class), "plan": file})
        plans.append(program.plan)
    described = []
    sources = {_digest(source.to_json()): source for p in plans for source in p.kernels}
    for number, (digest, source) in enumerate(sources.items()):
        content = gpu.cache.read(kernel_key(source, gpu.target), BINARY_KIND)
        if content is not None:
            file = f"kernels/{number}.cubin"
            members[file] = content
            described.append({"file": file, "source": digest})
    counts = describe_counts(element_counts(prepared.graph, plan))
    facts = {"kernels": described, "target": gpu.target, "classes": classes, "counts": counts}
    return members, facts


def load_runner(
    plan: ExecutionPlan,
    place: Device,
    manifest: Mapping[str, Any],
    members: Mapping[str, bytes],
    options: CompileOptions,
) -> tuple[Any, int]:
    """A runner for the plan, and how many of its kernels had to be compiled.

    CompileError if the file has no code for this processor and none can be made.
    """
    symbols: Sequence[str] = manifest["symbols"]
    if place.type == "cuda":
        return _load_on_gpu(plan, place, manifest, members, options)
    cpu = _cpu(options)
    if manifest["target"] == _processor():
        known = {_digest(source): (source, flags) for source, flags in _sources(plan, cpu)}
        for kernel in manifest["kernels"]:
            if kernel["source"] in known:
                key = library_key(cpu.compiler, *known[kernel["source"]])
                if cpu.cache.get(key, _LIBRARY) is None:
                    cpu.cache.put(key, _LIBRARY, members[kernel["file"]])
    try:
        program = cpu.load(plan, manifest["name"])
    except CompilerError as error:
        if manifest.get("headers") != header_digest():
            raise CompileError(
                f"{manifest['name']} was exported by a flamec whose C headers are others; export "
                "it again with this one, or load it with that one"
            ) from error
        raise CompileError(
            f"{manifest['name']} cannot be made for this processor: {error}"
        ) from error
    return cpu_backend.CRunner(program, symbols), plan.kernel_count if program.compiled else 0


def _load_on_gpu(
    plan: ExecutionPlan,
    place: Device,
    manifest: Mapping[str, Any],
    members: Mapping[str, bytes],
    options: CompileOptions,
) -> tuple[Any, int]:
    from flamec import cuda_backend
    from flamec.gpu import gpu
    from flamec.runtime.cuda.device import KernelError
    from flamec.runtime.cuda.triton_compiler import BINARY_KIND, kernel_key

    runtime = cuda_backend.device(place.index, options)
    classes = {read_class(c): _plan(members[c["plan"]]) for c in manifest.get("classes", ())}
    plans = [plan, *classes.values()]
    if manifest["target"] == runtime.target:
        known = {_digest(source.to_json()): source for p in plans for source in p.kernels}
        for kernel in manifest["kernels"]:
            source = known.get(kernel["source"])
            if source is not None:
                key = kernel_key(source, runtime.target)
                if runtime.cache.get(key, BINARY_KIND) is None:
                    runtime.cache.put(key, BINARY_KIND, members[kernel["file"]])
    try:
        programs = [runtime.load(p, label=manifest["name"]) for p in plans]
    except KernelError as error:
        raise CompileError(f"{manifest['name']} cannot run on {runtime.name}: {error}") from error
    symbols = manifest["symbols"]
    general = cuda_backend.CudaRunner(gpu(place), programs[0], symbols)
    runners = {
        known: cuda_backend.CudaRunner(gpu(place), program, known.symbols(symbols))
        for known, program in zip(classes, programs[1:], strict=True)
    }
    compiled = sum(program.kernels_compiled for program in programs)
    if not runners:
        return general, compiled
    return LoadedClasses(general, runners, symbols, read_counts(manifest["counts"])), compiled


def _plan(content: bytes) -> ExecutionPlan:
    return ExecutionPlan.from_json(content.decode())


def _sources(plan: ExecutionPlan, cpu: CpuDevice) -> list[tuple[str, tuple[str, ...]]]:
    """The C texts of a program on the CPU, its own and the runtime's, with their flags."""
    files = [Path(threads.__file__).with_name("threads.c")]
    files += [products.SOURCES[lane] for lane in plan.notes.get("needs_products", ())]
    return [(plan.source, cpu.plan_flags(plan)), *((f.read_text(), cpu.flags) for f in files)]


@cache
def _cpu(options: CompileOptions) -> CpuDevice:
    """The process's CPU, also where there is no compiler."""
    if cpu_backend.is_available(options):
        return cpu_backend.device(options)
    return CpuDevice(
        Compiler(("cc",), f"no compiler, {_processor()}"),
        KernelCache(options.cache_folder, options.cache_bytes),
        plan_memory,
        options.threads or threads.available_cpus(),
        evaluate=evaluate_host_call,
    )


def _processor() -> str:
    """What a library was compiled for: the processor's features and the headers it includes."""
    return _digest(processor_features() + header_digest())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
