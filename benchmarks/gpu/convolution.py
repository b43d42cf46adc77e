"""Convolutions of one GPU beside PyTorch's (cuDNN): single layers, and ResNet-50 in training.

``python -m benchmarks.gpu.convolution [--rows TEXT] [--candidates] [--seconds N] [--json FILE]``

Layers are bfloat16, float32 or float32 in TF32 on both sides, with channels last, each as its
forward pass, the gradient of its input and that of its kernel. Calls of both are timed in turn by
CUDA events, with a cold L2 cache; cuDNN may
look for its best algorithm first. Results are compared with PyTorch's. ``--candidates``: also
every schedule that could have been chosen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, CALLS = 4, 8
PASSES = ("forward", "input", "kernel")
BATCH = 128
# of the largest element: both round, in different orders
ALLOWED = {"bfloat16": 2e-2, "float32": 2e-5, "tf32": 2e-3}


@dataclass(frozen=True)
class Row:
    """A square convolution of ``batch`` images of ``size`` squared. ``precision``: the dtype, or
    ``"tf32"`` for float32 that is multiplied so."""

    name: str
    inputs: int
    outputs: int
    size: int
    kernel: int
    stride: int = 1
    groups: int = 1
    batch: int = BATCH
    precision: str = "bfloat16"

    @property
    def dtype(self) -> str:
        return "float32" if self.precision == "tf32" else self.precision

    @property
    def places(self) -> int:
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def flops(self) -> int:
        taps = self.inputs // self.groups * self.kernel**2
        return 2 * self.batch * self.places**2 * self.outputs * taps

    @property
    def attributes(self) -> dict[str, Any]:
        border = self.kernel // 2
        return {
            "strides": (self.stride,) * 2,
            "padding": ((border, border),) * 2,
            "lhs_dilation": (1, 1),
            "rhs_dilation": (1, 1),
            "groups": self.groups,
        }


_ROWS = (
    Row("64 56 3x3", 64, 64, 56, 3),
    Row("128 28 3x3", 128, 128, 28, 3),
    Row("256 14 3x3", 256, 256, 14, 3),
    Row("512 7 3x3", 512, 512, 7, 3),
    Row("128 56 3x3 stride 2", 128, 128, 56, 3, 2),
    Row("512 14 3x3 stride 2", 512, 512, 14, 3, 2),
    Row("64 56 3x3 stride 2", 64, 128, 56, 3, 2),
    Row("64 56 1x1 stride 2", 64, 128, 56, 1, 2),
    Row("256 56 1x1 to 64", 256, 64, 56, 1),
    Row("256 56 1x1 stride 2", 256, 512, 56, 1, 2),
    Row("3 224 7x7 stride 2", 3, 64, 224, 7, 2),
    Row("256 28 3x3 depthwise", 256, 256, 28, 3, 1, 256),
    Row("256 28 3x3 32 groups", 256, 256, 28, 3, 1, 32),
    Row("512 14 3x3 32 groups", 512, 512, 14, 3, 1, 32),
    Row("128 56 3x3 32 groups", 128, 128, 56, 3, 1, 32),
    Row("32 112 3x3 depthwise", 32, 32, 112, 3, 1, 32),
    Row("96 112 3x3 depthwise, stride 2", 96, 96, 112, 3, 2, 96),
    Row("144 56 3x3 depthwise", 144, 144, 56, 3, 1, 144),
    Row("512 14 3x3 depthwise", 512, 512, 14, 3, 1, 512),
    Row("960 7 3x3 depthwise", 960, 960, 7, 3, 1, 960),
    Row("240 14 5x5 depthwise", 240, 240, 14, 5, 1, 240),
    Row("float32 144 56 3x3 depthwise", 144, 144, 56, 3, 1, 144, precision="float32"),
    Row("float32 512 14 3x3 depthwise", 512, 512, 14, 3, 1, 512, precision="float32"),
    Row("float32 256 28 3x3 32 groups", 256, 256, 28, 3, 1, 32, precision="float32"),
    Row("float32 3 224 7x7 stride 2", 3, 64, 224, 7, 2, precision="float32"),
)
# the layers of ResNets
ROWS = (*_ROWS, *(replace(r, name=f"tf32 {r.name}", precision="tf32") for r in _ROWS[:11]))


# single layers ---------------------------------------------------------------------------
def graph_of(row: Row, which: str) -> Any:
    """One pass of a layer over arrays with channels last."""
    from flamec.ir.builder import GraphBuilder
    from flamec.ir.op import DerivativeContext, lookup
    from flamec.ir.passes.manager import run_passes
    from flamec.ir.passes.pipeline import pipeline
    from flamec.ir.types import Device, TensorType, dtype_named

    b, dtype = GraphBuilder(), dtype_named(row.dtype)

    def given(batch: int, size: int, channels: int) -> Any:
        value = b.input(TensorType((batch, size, size, channels), dtype, Device("cuda")))
        return b.permute(value, axes=(0, 3, 1, 2))

    x = given(row.batch, row.size, row.inputs)
    w = given(row.outputs, row.kernel, row.inputs // row.groups)
    if which == "forward":
        result = b.convolution(x, w, **row.attributes)
    else:
        g = given(row.batch, row.places, row.outputs)
        rule = lookup("convolution").derivative
        assert rule is not None
        needs = (which == "input", which == "kernel")
        types = (b.type_of(x), b.type_of(w))
        context = DerivativeContext(row.attributes, [x, w], [], types, (b.type_of(g),), needs)
        result = next(v for v in rule(b, context, g) if v is not None)
    out = b.permute(result, axes=(0, 2, 3, 1))
    return run_passes(b.build([out]), pipeline(), False)[0]


def peer(row: Row, which: str, inputs: Sequence[Any]) -> Callable[[], Any]:
    """The same by cuDNN; the result's array has channels last."""
    import torch

    x, w, g = (t.permute(0, 3, 1, 2) for t in inputs)
    border, stride = [row.kernel // 2] * 2, [row.stride] * 2
    if which == "forward":
        return lambda: torch.conv2d(x, w, None, stride, border, 1, row.groups)
    mask = [which == "input", which == "kernel", False]
    at = PASSES.index(which) - 1
    options = (None, stride, border, [1, 1], False, [0, 0], row.groups, mask)
    return lambda: torch.ops.aten.convolution_backward(g, x, w, *options)[at]


def random_inputs(row: Row) -> list[Any]:
    import torch

    torch.manual_seed(0)

    def draw(*shape: int) -> Any:
        return torch.randn(*shape, device="cuda")

    depth = row.inputs // row.groups * row.kernel**2
    x = draw(row.batch, row.size, row.size, row.inputs)
    w = draw(row.outputs, row.kernel, row.kernel, row.inputs // row.groups) * depth**-0.5
    g = draw(row.batch, row.places, row.places, row.outputs)
    return [t.to(getattr(torch, row.dtype)) for t in (x, w, g)]


class Program:
    """A loaded plan over tensors of PyTorch."""

    def __init__(self, device: Any, made: Any, inputs: Sequence[Any], shape: Sequence[int]) -> None:
        import torch

        self.bound = device.load(made.plan).bind(())
        self.result = torch.empty(*shape, device="cuda", dtype=inputs[0].dtype)
        for buffer, tensor in zip(made.plan.inputs, inputs, strict=False):
            self.bound.addresses[buffer] = tensor.data_ptr()
        self.bound.addresses[made.plan.outputs[0].buffer] = self.result.data_ptr()

    def __call__(self) -> Any:
        self.bound()
        return self.result


def measure_layer(device: Any, row: Row, which: str, seconds: float, with_candidates: bool) -> Any:
    """A layer's numbers as plain data."""
    import torch

    from benchmarks.gpu.matmul import Clock, product_choice, schedule_text
    from flamec.codegen.options import CodegenOptions
    from flamec.codegen.triton.choice import candidates
    from flamec.codegen.triton.compile_graph import compile_graph
    from flamec.codegen.triton.product_schedule import ProductSchedule
    from flamec.runtime.cuda.compile_worker import compile_kernels

    started = time.monotonic()
    torch.backends.cudnn.allow_tf32 = row.precision == "tf32"
    precision = "tf32" if row.precision == "tf32" else "tf32x3"
    options = CodegenOptions(target=device.target, float32_convolutions=precision)
    graph = graph_of(row, which)
    made = compile_graph(graph, options)
    inputs = random_inputs(row)
    theirs = peer(row, which, inputs)
    wanted = theirs().permute(0, 2, 3, 1).contiguous()
    ours = Program(device, made, inputs, wanted.shape)
    found: dict[str, Any] = {
        "row": row.name,
        "pass": which,
        "launches": len(made.plan.actions),
        "error": _error(ours(), wanted),
    }
    allowed = ALLOWED[row.precision]
    found["right"] = found["error"] <= allowed
    clock = Clock(started + seconds)
    mine: list[float] = []
    other: list[float] = []
    for number in range(ROUNDS):
        times = clock.microseconds(ours, CALLS), clock.microseconds(theirs, CALLS)
        if number:
            mine, other = mine + times[0], other + times[1]
    found["us"], found["torch_us"] = statistics.median(mine), statistics.median(other)
    found["tflops"] = row.flops / found["us"] * 1e-6
    found["torch_tflops"] = row.flops / found["torch_us"] * 1e-6
    products = [c for c in made.choices if isinstance(c.schedule, ProductSchedule)]
    if not products:
        return found
    choice = max(products, key=lambda c: c.name.bucket)
    found["schedule"] = schedule_text(asdict(product_choice(made).schedule))
    if not with_candidates:
        return found
    tried = []
    schedules = candidates(choice.part, options, 16)
    keys = [c.key for c in products]
    programs = [
        compile_graph(graph, replace(options, schedules=dict.fromkeys(keys, s))) for s in schedules
    ]
    sources = [kernel for program in programs for kernel in program.plan.kernels]
    compile_kernels(sources, device.target, device.cache, device.jobs, seconds=60.0)
    for schedule, program in zip(schedules, programs, strict=True):
        facts: dict[str, Any] = {"schedule": schedule_text(asdict(schedule))}
        try:
            run = Program(device, program, inputs, wanted.shape)
            facts["error"] = _error(run(), wanted)
            clock.microseconds(run, 2)
            facts["us"] = statistics.median(clock.microseconds(run, CALLS))
        except Exception as error:  # the others are still worth knowing
            facts["failed"] = f"{type(error).__name__}: {str(error)[-200:]}"
        tried.append(facts)
    found["candidates"] = sorted(tried, key=lambda facts: facts.get("us", 1e9))
    return found


def _error(found: Any, wanted: Any) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def layer_text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['row']:30s} {found['pass']:8s} flamec {found['tflops']:6.1f} TFLOP/s "
        f"({found['us']:7.1f} us), cuDNN {found['torch_tflops']:6.1f} "
        f"({found['torch_us']:7.1f} us), ratio {found['torch_us'] / found['us']:.2f}; "
        f"{found['launches']} launches, error {found['error']:.0e}"
        f"{'' if found['right'] else ' WRONG'}; {found.get('schedule', '')}"
    ]
    for facts in found.get("candidates", ()):
        speed = facts.get("failed") or f"{facts['us']:.1f} us"
        wrong = "" if facts.get("error", 0) <= max(ALLOWED.values()) else " WRONG"
        lines.append(f"    {speed}{wrong}  {facts['schedule']}")
    return "\n".join(lines)


def measure_layers(options: argparse.Namespace) -> bool:
    import torch

    from flamec.config import default_options
    from flamec.ir.passes.plan_memory import plan_memory
    from flamec.runtime.cpu.threads import available_cpus
    from flamec.runtime.cuda.device import CudaDevice
    from flamec.runtime.kernel_cache import KernelCache

    torch.backends.cudnn.benchmark = True
    configured = default_options()
    cache = KernelCache(configured.cache_folder, configured.cache_bytes)
    device = CudaDevice(0, cache, plan_memory, configured.threads or available_cpus())
    print(f"{device.properties.name}, torch {torch.__version__}", flush=True)
    deadline, results = time.monotonic() + options.seconds, []
    for row in (row for row in ROWS if options.rows in row.name):
        for which in options.passes:
            if time.monotonic() > deadline:
                print(f"{row.name:30s} {which:8s} no time was left", flush=True)
                continue
            results.append(measure_layer(device, row, which, 20.0, options.candidates))
            print(layer_text(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return all(found["right"] for found in results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", default="", help="only layers whose name contains this")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--candidates", action="store_true", help="time every schedule")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--json", type=Path, help="where results are written")
    return 0 if measure_layers(parser.parse_args()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
