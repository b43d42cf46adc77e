"""What a function becomes for a GPU: Triton source, Triton's stages, machine code as text.

In: an ``Inspection`` and a target such as ``"sm_90"``. Out: ``StagePart``s. No GPU is needed; all
stages but ``triton`` need the package triton.
"""

from __future__ import annotations

from collections.abc import Mapping

import typer

from flamec.cli.failure import CommandFailed
from flamec.cli.size_class_parts import with_size_classes
from flamec.cli.stages import Inspection, StagePart
from flamec.codegen.compile_graph import CompiledGraph
from flamec.codegen.errors import LoweringError
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.product_schedule import TARGETS
from flamec.config import CompileOptions
from flamec.ir.plan import ExecutionPlan, Launch, unrolled
from flamec.prepared import Prepared, options_for_gpu
from flamec.runtime.cuda.triton_compiler import TritonError, compile_kernel, disassemble
from flamec.runtime.kernel_cache import KernelCache
from flamec.sized_runner import SizedProgram

ARCHITECTURES = tuple(f"sm_{number}" for number in (70, 75, *TARGETS))
GPU_STAGES = ("triton", "ttir", "ttgir", "ptx", "sass")


def checked_gpu(target: str | None) -> str | None:
    """The name of a GPU's architecture as it was given; typer.BadParameter if it is none.

    LLVM ends the process where it does not know one.
    """
    if target is not None and target not in ARCHITECTURES:
        raise typer.BadParameter(
            f"no GPU's architecture is called {target!r}; there are {', '.join(ARCHITECTURES)}"
        )
    return target


def checked_code(target: str) -> str:
    """The same, or C."""
    return target if target == "c" else str(checked_gpu(target))


def gpu_stage_parts(inspection: Inspection, stage: str, target: str) -> list[StagePart]:
    """One stage, a part for each program; CommandFailed says what a kernel failed on.

    Of a program over symbolic sizes first what runs for the example's (``size_class_parts``).
    """
    parts = []
    for title, prepared in with_size_classes(inspection, target).parts:
        plan = gpu_program(prepared, options_for_gpu(target, prepared.options)).plan
        text = plan.source if stage == "triton" else _texts(plan, stage, target, prepared.options)
        name = f"{stage} ({title})" if title else stage
        language = "python" if stage == "triton" else "asm"
        data = {"program": title or "main", "kernels": len(plan.kernels)}
        if stage != "triton":
            data["target"] = target
        parts.append(StagePart(name, language, tuple(text.splitlines()), data))
    return parts


def gpu_program(prepared: Prepared, options: CodegenOptions) -> CompiledGraph:
    """The program of an optimized graph for a GPU; CommandFailed if it cannot be lowered."""
    from flamec.codegen.triton.compile_graph import compile_graph

    try:
        return compile_graph(prepared.optimized, own_options(prepared, options))
    except ValueError as error:
        raise CommandFailed(str(error)) from error
    except LoweringError as error:
        raise CommandFailed(f"the function has no form for a GPU: {error}") from error


def own_options(prepared: Prepared, options: CodegenOptions) -> CodegenOptions:
    """``options``, or those of the program's class of sizes."""
    return prepared.code_options if isinstance(prepared, SizedProgram) else options


def launched_kernels(plan: ExecutionPlan, sizes: Mapping[str, int]) -> dict[int, list[int]]:
    """The numbers of the kernels that each step launches, in order, each once."""
    found: dict[int, dict[int, None]] = {}
    for action in unrolled(plan.actions, sizes):
        if isinstance(action, Launch) and action.step >= 0:
            found.setdefault(action.step, {})[action.kernel] = None
    return {step: list(kernels) for step, kernels in found.items()}


def _texts(plan: ExecutionPlan, stage: str, target: str, options: CompileOptions) -> str:
    cache = KernelCache(options.cache_folder, options.cache_bytes)
    texts = []
    for source in plan.kernels:
        try:
            binary, _ = compile_kernel(source, target, cache, texts=True)
            texts.append(disassemble(binary) if stage == "sass" else binary.texts[stage])
        except (TritonError, ValueError) as error:
            raise CommandFailed(str(error)) from error
    return "\n".join(texts)
