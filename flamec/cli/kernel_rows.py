"""What ``flamec kernels`` lists: each kernel with its work and, for a GPU, what its code takes.

In: an ``Inspection`` and a target, ``"c"`` or a GPU such as ``"sm_90"`` (no GPU is needed, but the
package triton). Out: ``KernelRow``s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from flamec.cli.failure import CommandFailed
from flamec.cli.fusion_text import count_operations
from flamec.cli.gpu_stages import gpu_program, launched_kernels, own_options
from flamec.cli.size_class_parts import is_on_gpu, with_size_classes
from flamec.cli.stages import Inspection
from flamec.codegen.compile_graph import CompiledGraph
from flamec.codegen.errors import LoweringError
from flamec.codegen.one_kernel import OneKernel, one_kernel
from flamec.codegen.options import CodegenOptions
from flamec.ir.shape import evaluate_dim
from flamec.prepared import Prepared, options_for_gpu
from flamec.runtime.cuda.kernel_binary import KernelBinary
from flamec.runtime.cuda.triton_compiler import TritonError, compile_kernel
from flamec.runtime.kernel_cache import KernelCache


@dataclass(frozen=True)
class Program:
    """One program of a function for one target. ``sizes``: the example's symbolic sizes."""

    title: str
    prepared: Prepared
    compiled: CompiledGraph
    target: str
    sizes: Mapping[str, int]
    options: CodegenOptions

    def alone(self, number: int) -> OneKernel:
        """The kernel of a step as a program; CommandFailed for a step that is no kernel."""
        try:
            return one_kernel(self.compiled, number, self.options)
        except LoweringError as error:
            raise CommandFailed(str(error)) from error


@dataclass(frozen=True)
class KernelRow:
    """One kernel. ``code``: the machine code of its launches on a GPU."""

    name: str
    kind: str
    bytes: int
    flops: int
    operations: str
    locations: tuple[str, ...]
    modules: tuple[str, ...]
    code: tuple[KernelBinary, ...] = ()

    @property
    def lines(self) -> str:
        """The user's lines without folders."""
        return ", ".join(PurePath(place).name for place in self.locations)

    def data(self) -> dict[str, Any]:
        """As JSON."""
        launches = [
            {
                "function": c.name,
                "registers": c.registers,
                "stack_bytes": c.stack_bytes,
                "shared_bytes": c.shared_bytes,
                "threads": c.threads,
            }
            for c in self.code
        ]
        return {
            "name": self.name,
            "kind": self.kind,
            "bytes": self.bytes,
            "flops": self.flops,
            "operations": self.operations,
            "lines": list(self.locations),
            "modules": list(self.modules),
            "launches": launches,
        }


def programs(inspection: Inspection, target: str) -> list[Program]:
    """The programs of a function for a target; CommandFailed if there is no such code.

    For a GPU a program over symbolic sizes is two: for the example's class of sizes, and for all.
    """
    made = []
    if target != "c" or is_on_gpu(inspection):
        inspection = with_size_classes(inspection, target)
    for title, prepared in inspection.parts:
        options, own = prepared.code_options, target
        if target == "c":
            compiled = prepared.compiled
            own = options.target if compiled.plan.kernels else "c"  # tensors on a GPU have its code
        else:
            options = own_options(prepared, options_for_gpu(target, prepared.options))
            compiled = gpu_program(prepared, options)
        made.append(Program(title, prepared, compiled, own, inspection.bindings, options))
    return made


def kernel_rows(program: Program) -> list[KernelRow]:
    """A row for each step of the program, in order."""
    plan = program.compiled.plan
    code = _code(program) if program.target != "c" else {}
    return [
        KernelRow(
            step.name,
            step.kind,
            evaluate_dim(step.bytes_read, program.sizes)
            + evaluate_dim(step.bytes_written, program.sizes),
            evaluate_dim(step.flops, program.sizes),
            count_operations(step.operations),
            step.locations,
            step.modules,
            tuple(code.get(number, ())),
        )
        for number, step in enumerate(plan.steps)
    ]


def _code(program: Program) -> dict[int, list[KernelBinary]]:
    """The machine code of each step's launches, in order, each kernel once."""
    plan, options = program.compiled.plan, program.prepared.options
    cache = KernelCache(options.cache_folder, options.cache_bytes)
    launched = launched_kernels(plan, program.sizes)
    try:
        binaries = [compile_kernel(source, program.target, cache)[0] for source in plan.kernels]
    except (TritonError, ValueError) as error:
        raise CommandFailed(str(error)) from error
    return {step: [binaries[k] for k in used] for step, used in launched.items()}
