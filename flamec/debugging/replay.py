"""Run what a reproduction describes, and say whether the failure is there again.

In: a ``Reproduction``. Out: an ``Outcome``. Nothing is taken from the cache of plans, and no
further reproduction is written. Without a GPU a program for one is generated and compiled, not run.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flamec.codegen.options import CodegenOptions
from flamec.config import CompileOptions, default_options
from flamec.debugging.reproduction import (
    CODEGEN_OPTIONS,
    COMPILE_OPTIONS,
    Reproduction,
    read,
)
from flamec.errors import CompileError, StageError
from flamec.ir.graph import Graph
from flamec.ir.passes.manager import Pass, Repeat
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.plan import ExecutionPlan
from flamec.prepared import (
    Prepared,
    errors_of_compilation,
    generate_plan,
    graph_device,
    options_of_code,
    stage_error,
)
from flamec.runtime.kernel_cache import KernelCache
from flamec.saving.errors import FileFormatError


@dataclass(frozen=True)
class Signature:
    """What makes two failures the same: the stage, the exception's type, its message's kind.

    ``error`` is ``""`` where the result is wrong.
    """

    stage: str
    error: str = ""
    message: str = ""

    def __str__(self) -> str:
        return f"{self.error} in {self.stage}" if self.error else f"a wrong result of {self.stage}"


def message_class(message: str) -> str:
    """A message without what differs from graph to graph: numbers, names, shapes, paths."""
    line = message.strip().splitlines()[0] if message.strip() else ""
    line = re.sub(r"/\S+", "P", line)
    line = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)", "_", line)
    return re.sub(r"%?\b\w*\d\w*", "N", line)


def signature_of(reproduction: Reproduction) -> Signature:
    """The signature of the failure that a reproduction was written for."""
    if not reproduction.error:
        return Signature(reproduction.stage)
    message = message_class(reproduction.message)
    return Signature(reproduction.stage, reproduction.error, message)


def signature_of_error(error: StageError) -> Signature:
    """The signature of a failure that was just seen."""
    return Signature(error.stage, type(error.cause).__name__, message_class(str(error.cause)))


def options_of(reproduction: Reproduction) -> tuple[CompileOptions, CodegenOptions]:
    """The options of this process with those of the reproduction in their places."""
    given = reproduction.options
    codegen = {name: given[name] for name in CODEGEN_OPTIONS if name in given}
    chosen = {name: given[name] for name in COMPILE_OPTIONS if name in given}
    options = default_options(**chosen, reproduction_folder=None)
    return options, CodegenOptions(**codegen) if codegen else options_of_code(options)


def selected(names: Iterable[str], strict: bool = False) -> tuple[Pass | Repeat, ...]:
    """The passes of the pipeline with these names; ValueError for one that it does not have."""
    wanted, known = set(names), set()
    entries: list[Pass | Repeat] = []
    for entry in pipeline(strict=strict):
        if isinstance(entry, Pass):
            known.add(entry.name)
            if entry.name in wanted:
                entries.append(entry)
            continue
        known.update(p.name for p in entry.passes)
        kept = tuple(p for p in entry.passes if p.name in wanted)
        if kept:
            entries.append(Repeat(kept, entry.limit))
    if wanted - known:
        missing = ", ".join(sorted(wanted - known))
        raise ValueError(f"the pipeline has no pass {missing}; it has {', '.join(sorted(known))}")
    return tuple(entries)


def compile_anew(
    graph: Graph,
    symbols: Sequence[str],
    options: CompileOptions,
    codegen: CodegenOptions,
    passes: Sequence[Pass | Repeat] | None,
) -> Prepared:
    """A program that nothing of the cache of plans is in. StageError names what failed.

    Its ``runner`` is None for a GPU that is not there, and where NumPy evaluates.
    """
    from flamec import cpu_backend

    prepared = Prepared(graph, None, options, None, codegen, passes=passes)
    if graph_device(graph).type == "cuda":
        from flamec import gpu

        plan = generate_plan(prepared, symbols)
        if gpu.unavailable_reason() is None:
            from flamec import cuda_backend

            cuda_backend.load(prepared, plan, symbols)
        else:
            _compile_kernels(prepared, plan)
        return prepared
    if options.backend == "evaluate" or not cpu_backend.is_available(options):
        with errors_of_compilation(prepared, "passes"):
            _ = prepared.optimized
        return prepared
    cpu_backend.load(prepared, generate_plan(prepared, symbols), symbols)
    return prepared


def _compile_kernels(prepared: Prepared, plan: ExecutionPlan) -> None:
    """Triton to machine code, for a GPU that is not there."""
    from flamec.runtime.cuda.triton_compiler import TritonError, compile_kernel

    prepared.plan = plan
    target = prepared.code_options.target
    with tempfile.TemporaryDirectory(prefix="flamec-") as folder:
        Path(folder).chmod(0o700)
        cache = KernelCache(Path(folder), prepared.options.cache_bytes)
        for source in plan.kernels:
            try:
                compile_kernel(source, target, cache)
            except TritonError as error:
                raise stage_error(prepared, "compile", error, str(error)) from error


def failure_of(reproduction: Reproduction, until: str = "") -> StageError | None:
    """What compiling the reproduction raises, if a stage fails.

    ``until``: the last stage that matters, so that what follows it need not be done.
    """
    options, codegen = options_of(reproduction)
    passes = selected(reproduction.passes, options.numerics == "strict")
    prepared = Prepared(reproduction.graph, None, options, None, codegen, passes=passes)
    try:
        with errors_of_compilation(prepared, "passes"):
            _ = prepared.optimized
        if until in reproduction.passes:
            return None
        if until and until != "compile":
            generate_plan(prepared, reproduction.symbols)
            return None
        compile_anew(reproduction.graph, reproduction.symbols, options, codegen, passes)
    except StageError as error:
        return error
    return None


def replay(path: Path) -> tuple[int, str]:
    """An exit code and what to say: 1 for the failure of the file, 2 for another, 0 for none."""
    reproduction = read(path)
    if not reproduction.error:
        return _replay_difference(reproduction)
    error = failure_of(reproduction)
    if error is None:
        return 0, f"nothing failed; the file was written for {reproduction.failure}"
    if signature_of_error(error) == signature_of(reproduction):
        return 1, f"the same failure:\n{error}"
    return 2, f"another failure than {reproduction.failure}:\n{error}"


def _replay_difference(reproduction: Reproduction) -> tuple[int, str]:
    from flamec.debugging.bisection import bisect

    found = bisect(reproduction)
    if found is None:
        return 0, f"no result differs; the file was written for {reproduction.failure}"
    same = found.stage == reproduction.stage or not reproduction.stage
    text = "\n".join(found.lines())
    return (1, text) if same else (2, f"not as in the file, {reproduction.failure}:\n{text}")


def main(file: str) -> int:
    """What a reproduction does when it is run."""
    try:
        code, text = replay(Path(file))
    except (FileFormatError, CompileError, ValueError) as error:
        code, text = 2, str(error)
    print(text, file=sys.stderr if code else sys.stdout)
    return code
