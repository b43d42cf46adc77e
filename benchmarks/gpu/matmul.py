"""Matrix products of one GPU beside PyTorch's (cuBLAS), in one process.

``python -m benchmarks.gpu.matmul [--rows TEXT] [--candidates] [--seconds N] [--json FILE]``

Inputs are random. Calls of both are timed in turn by CUDA events, each after the L2 cache was
overwritten; a ratio is that of the medians. Part of each result is compared with float64, and the
error with that of PyTorch's result. ``--candidates`` also times every schedule that could have
been chosen; they are compiled side by side. ``--seconds`` bounds each row: what there was no time
for is counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import flamec.ir.ops  # noqa: F401 - registers the operations
from benchmarks.gpu.cold_clock import ColdClock
from flamec.codegen.compile_graph import CompiledGraph
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.choice import Choice
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.product_choice import product_candidates
from flamec.codegen.triton.product_schedule import ProductSchedule
from flamec.config import default_options
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import DType, TensorType, dtype_named
from flamec.runtime.cpu.threads import available_cpus
from flamec.runtime.cuda.compile_worker import compile_kernels
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.kernel_cache import KernelCache

CHECKED_ROWS = 64
ROUNDS, CALLS = 5, 10  # calls of each side before the other side's turn
WORST_ERROR = 2.0  # times PyTorch's, and a rounding of the result
COMPILE_SECONDS = 60.0  # for one kernel


@dataclass(frozen=True)
class Row:
    """A product of [batch, m, k] and [batch, k, n]; ``left``, ``right``: transposed in memory.

    ``gelu``: with a bias and an exact gelu. ``precision``: see ``CodegenOptions``.
    ``symbolic``: the program does not know m.
    """

    name: str
    dtype: str
    m: int
    n: int
    k: int
    batch: int = 1
    left: bool = False
    right: bool = False
    gelu: bool = False
    precision: str = "ieee"
    symbolic: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.n * self.k


ROWS = (
    Row("8192 bf16", "bfloat16", 8192, 8192, 8192),
    Row("4096 bf16", "bfloat16", 4096, 4096, 4096),
    Row("8192 bf16 bias gelu", "bfloat16", 8192, 8192, 8192, gelu=True),
    Row("16384x3072x768 bf16", "bfloat16", 16384, 3072, 768),
    Row("16384x3072x768 bf16 bias gelu", "bfloat16", 16384, 3072, 768, gelu=True),
    Row("16384x768x3072 bf16 bias gelu", "bfloat16", 16384, 768, 3072, gelu=True),
    Row("Bx3072x768 bf16 bias gelu", "bfloat16", 16384, 3072, 768, gelu=True, symbolic=True),
    Row("16384x3072x768 bf16 weight [n, k]", "bfloat16", 16384, 3072, 768, right=True),
    Row("768x3072x32768 bf16 gradient", "bfloat16", 768, 3072, 32768, left=True),
    Row("8x4096x4096 bf16", "bfloat16", 8, 4096, 4096, right=True),
    Row("128x 1024x1024x64 bf16", "bfloat16", 1024, 1024, 64, 128, right=True),
    Row("128x 1024x64x1024 bf16", "bfloat16", 1024, 64, 1024, 128),
    Row("4096 fp16", "float16", 4096, 4096, 4096),
    Row("4096 fp32", "float32", 4096, 4096, 4096),
    Row("4096 fp32 tf32x3", "float32", 4096, 4096, 4096, precision="tf32x3"),
    Row("4096 fp32 tf32", "float32", 4096, 4096, 4096, precision="tf32"),
    Row("2048 fp64", "float64", 2048, 2048, 2048),
)


@dataclass
class Result:
    """``flamec`` and ``torch`` in TFLOP/s; errors against the largest element in float64."""

    row: Row
    schedule: Mapping[str, Any]
    flamec: float = 0.0
    torch: float = 0.0
    flamec_us: float = 0.0
    torch_us: float = 0.0
    error: float = 0.0
    torch_error: float = 0.0
    right: bool = False
    compile_seconds: float = 0.0
    candidates: list[dict[str, Any]] = field(default_factory=list)
    not_timed: int = 0


# programs -------------------------------------------------------------------------------
def graph_of(row: Row) -> Graph:
    """The product as a user's program gives it, optimized."""
    b, dtype = GraphBuilder(), dtype_named(row.dtype)
    m: Dim = SymbolicDim.symbol("B") if row.symbolic else row.m
    batch = (row.batch,) if row.batch > 1 else ()
    x = _operand(b, (*batch, m, row.k), dtype, row.left)
    y = _operand(b, (*batch, row.k, row.n), dtype, row.right)
    rank = len(batch)
    axes = tuple(range(rank))
    out = b.dot_general(x, y, contract=((rank + 1,), (rank,)), batch=(axes, axes))
    if row.gelu:
        out = _gelu(b, b.add(out, b.input(TensorType((row.n,), dtype))))
    return run_passes(b.build([out]), pipeline(), False)[0]


def _operand(b: GraphBuilder, shape: tuple[Dim, ...], dtype: DType, flipped: bool) -> Any:
    if not flipped:
        return b.input(TensorType(shape, dtype))
    *outer, rows, columns = shape
    axes = (*range(len(outer)), len(outer) + 1, len(outer))
    return b.permute(b.input(TensorType((*outer, columns, rows), dtype)), axes=axes)


def _gelu(b: GraphBuilder, x: Any) -> Any:
    def number(value: float) -> Any:
        return b.constant(value, b.type_of(x))

    inner = b.erf(b.mul(x, number(0.5**0.5)))
    return b.mul(b.mul(x, number(0.5)), b.add(inner, number(1.0)))


def compiled(
    row: Row, target: str, key: str = "", s: ProductSchedule | None = None
) -> CompiledGraph:
    """The row's program, with the proposed schedule or ``s`` for the product of a name."""
    options = options_of(row, target)
    return compile_graph(graph_of(row), replace(options, schedules={key: s} if s else {}))


def options_of(row: Row, target: str) -> CodegenOptions:
    return CodegenOptions(
        size_hints={"B": row.m} if row.symbolic else {},
        target=target,
        float32_products=row.precision,
    )


def product_choice(made: CompiledGraph) -> Choice:
    """What was chosen for the product, not for a launch behind it."""
    return next(c for c in made.choices if isinstance(c.schedule, ProductSchedule))


class Program:
    """A loaded plan over tensors of PyTorch."""

    def __init__(
        self, device: CudaDevice, row: Row, made: CompiledGraph, inputs: Sequence[Any]
    ) -> None:
        plan = made.plan
        self.bound = device.load(plan).bind((row.m,) if plan.symbols else ())
        shape = (row.batch, row.m, row.n) if row.batch > 1 else (row.m, row.n)
        self.result = torch.empty(shape, device="cuda", dtype=getattr(torch, row.dtype))
        for buffer, tensor in zip(plan.inputs, inputs, strict=True):
            self.bound.addresses[buffer] = tensor.data_ptr()
        self.bound.addresses[plan.outputs[0].buffer] = self.result.data_ptr()

    def __call__(self) -> Any:
        self.bound()
        return self.result


def peer(row: Row, inputs: Sequence[Any]) -> Callable[[], Any]:
    """The same in PyTorch."""
    x, y, *bias = inputs
    x = x.transpose(-1, -2) if row.left else x
    y = y.transpose(-1, -2) if row.right else y
    if row.gelu:
        return lambda: torch.nn.functional.gelu(torch.addmm(bias[0], x, y))
    return lambda: torch.matmul(x, y)


def random_inputs(row: Row) -> list[Any]:
    """Normal numbers; the second operand is scaled so that results are about 1."""
    torch.manual_seed(0)
    dtype, batch = getattr(torch, row.dtype), (row.batch,) if row.batch > 1 else ()

    def draw(rows: int, columns: int, flipped: bool) -> Any:
        shape = (columns, rows) if flipped else (rows, columns)
        return torch.randn(*batch, *shape, device="cuda", dtype=torch.float32)

    found = [draw(row.m, row.k, row.left), draw(row.k, row.n, row.right) * row.k**-0.5]
    if row.gelu:
        found.append(torch.randn(row.n, device="cuda"))
    return [tensor.to(dtype) for tensor in found]


# measuring ------------------------------------------------------------------------------
def error_of(row: Row, inputs: Sequence[Any], result: Any) -> float:
    """The largest error on some rows, against the largest element, in float64."""
    step = max(1, row.m // CHECKED_ROWS)
    x, y, *bias = inputs
    x = x.transpose(-1, -2) if row.left else x
    y = y.transpose(-1, -2) if row.right else y
    wanted = torch.matmul(x[..., ::step, :].double(), y.double())
    if row.gelu:
        wanted = torch.nn.functional.gelu(wanted + bias[0].double())
    found = result[..., ::step, :].double()
    return float((found - wanted).abs().max() / wanted.abs().max())


class Clock(ColdClock):
    """Times calls until ``deadline``."""

    def __init__(self, deadline: float) -> None:
        super().__init__(CALLS)
        self.deadline = deadline

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline


def measure(device: CudaDevice, row: Row, seconds: float, with_candidates: bool) -> Result:
    torch.backends.cuda.matmul.allow_tf32 = row.precision == "tf32"
    started = time.monotonic()
    made = compiled(row, device.target)
    choice = product_choice(made)
    result = Result(row, asdict(choice.schedule))
    inputs = random_inputs(row)
    ours, theirs = Program(device, row, made, inputs), peer(row, inputs)
    result.compile_seconds = time.monotonic() - started
    result.torch_error = error_of(row, inputs, theirs())
    result.error = error_of(row, inputs, ours())
    rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(row.dtype, 0.0)
    allowed = WORST_ERROR * result.torch_error + rounding
    result.right = result.error <= allowed
    clock = Clock(started + seconds)
    mine: list[float] = []
    other: list[float] = []
    for number in range(ROUNDS + 1):
        times = clock.microseconds(ours), clock.microseconds(theirs)
        if number:  # the first round warms up
            mine += times[0]
            other += times[1]
        if clock.is_over and number:
            break
    result.flamec_us, result.torch_us = statistics.median(mine), statistics.median(other)
    result.flamec = row.flops / result.flamec_us * 1e-6
    result.torch = row.flops / result.torch_us * 1e-6
    if with_candidates:
        found = product_candidates(choice.part.program, options_of(row, device.target))
        _candidates(device, row, result, choice.key, found, inputs, clock, allowed)
    return result


def _candidates(
    device: CudaDevice,
    row: Row,
    result: Result,
    key: str,
    schedules: Sequence[ProductSchedule],
    inputs: Sequence[Any],
    clock: Clock,
    allowed: float,
) -> None:
    """Time each schedule; one that fails is listed with the reason."""
    programs = [compiled(row, device.target, key, s) for s in schedules]
    sources = [kernel for made in programs for kernel in made.plan.kernels]
    compile_kernels(sources, device.target, device.cache, device.jobs, seconds=COMPILE_SECONDS)
    for number, (schedule, made) in enumerate(zip(schedules, programs, strict=True)):
        if clock.is_over:
            result.not_timed = len(schedules) - number
            return
        facts: dict[str, Any] = {"schedule": asdict(schedule)}
        try:
            program = Program(device, row, made, inputs)
            facts["error"] = error_of(row, inputs, program())
            facts["right"] = facts["error"] <= allowed
            clock.microseconds(program, 3)
            facts["us"] = statistics.median(clock.microseconds(program, 2 * CALLS))
            facts["tflops"] = row.flops / facts["us"] * 1e-6
        except Exception as error:  # the other schedules are still worth knowing
            facts["failed"] = f"{type(error).__name__}: {str(error)[-200:]}"
        result.candidates.append(facts)


# reporting ------------------------------------------------------------------------------
def text_of(result: Result) -> str:
    row = result.row
    lines = [
        f"{row.name}: flamec {result.flamec:.1f} TFLOP/s ({result.flamec_us:.1f} us), torch "
        f"{result.torch:.1f} ({result.torch_us:.1f} us), ratio {result.flamec / result.torch:.3f}; "
        f"error {result.error:.1e}, torch {result.torch_error:.1e}"
        f"{'' if result.right else ' WRONG'}; {schedule_text(result.schedule)}"
    ]
    best = sorted(result.candidates, key=lambda c: -c.get("tflops", 0.0))
    for facts in best:
        speed = facts.get("failed") or f"{facts['tflops']:.1f}"
        wrong = "" if facts.get("right", True) else " WRONG"
        lines.append(f"    {speed}{wrong}  {schedule_text(facts['schedule'])}")
    if result.not_timed:
        lines.append(f"    no time for {result.not_timed} more")
    return "\n".join(lines)


def schedule_text(schedule: Mapping[str, Any]) -> str:
    s = ProductSchedule(**schedule)
    words = [f"{s.rows}x{s.columns}x{s.depth} {s.warps} warps {s.stages} stages"]
    words += ["tma"] * s.tma + ["persistent"] * s.persistent
    words += [f"split {s.split_k}"] * (s.split_k > 1) + ["two stores"] * (s.store_parts > 1)
    return " ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--candidates", action="store_true", help="time every schedule")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each row")
    parser.add_argument("--json", type=Path, help="where results are written")
    arguments = parser.parse_args()
    options = default_options()
    cache = KernelCache(options.cache_folder, options.cache_bytes)
    device = CudaDevice(0, cache, plan_memory, options.threads or available_cpus())
    machine = f"{device.properties.name}, torch {torch.__version__}"
    print(machine, flush=True)
    results = []
    for row in ROWS:
        if arguments.rows not in row.name:
            continue
        results.append(measure(device, row, arguments.seconds, arguments.candidates))
        print(text_of(results[-1]), flush=True)
        if arguments.json:
            data = {"machine": machine, "results": [asdict(r) for r in results]}
            arguments.json.write_text(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
