"""Convolutions and pools as GPU programs, forward and backward, against NumPy in float64.

``CASES`` maps a name to a layer. Run as a program with TRITON_INTERPRET=1 and names of cases: a
line of JSON for each with what was wrong. The oracle is the same function run eagerly, operation
by operation, where a convolution is NumPy's product of its windows.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np

import flamec
from flamec.codegen.compile_graph import CompiledGraph
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.choice import Choice
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.product_schedule import ProductSchedule
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.graph import Graph
from flamec.ir.passes import contract_contiguous, few_channels
from flamec.ir.plan import ExecutionPlan
from flamec.nn import functional as F
from flamec.program import Program

RunAll = Callable[
    [ExecutionPlan, Sequence[np.ndarray], Mapping[str, int]],
    tuple[Sequence[np.ndarray], Mapping[int, np.ndarray]],
]
Layer = Callable[..., Any]
Shape = tuple[int, ...]
POINTERS = ProductSchedule(16, 32, 16, 4, 2, group=2)  # taps are the same for a block of depth
SPLIT = ProductSchedule(16, 16, 16, 4, 2, split_k=3)
DEEP = ProductSchedule(32, 16, 32, 4, 2)
BANDS = ProductSchedule(64, 16, 16, 4, 2, bands=4)
REGISTERS = ProductSchedule(64, 128, 32, 8, 3, tma=True, split_k=2, in_registers=True)


@dataclass(frozen=True)
class Case:
    """A layer of an image (channels second) and of parameters; ``schedule`` is forced on its
    products; ``launches``: of the forward pass alone; ``large``: as if there were many images;
    ``tf32``: products of rounded operands, whose arrays are put in order for it."""

    layer: Layer
    shapes: tuple[Shape, ...]
    schedule: ProductSchedule | None = None
    launches: int = 0
    tolerance: float = 1e-4
    large: bool = False
    tf32: bool = False
    dtype: Any = field(default=flamec.float32)


def conv(dimensions: int, transposed: bool = False, **options: Any) -> Layer:
    name = f"conv{'_transpose' * transposed}{dimensions}d"

    def layer(x: Any, w: Any, *bias: Any) -> Any:
        return getattr(F, name)(x, w, *bias, **options)

    return layer


def activated(layer: Layer) -> Layer:
    """With a residual as an epilogue."""

    def made(x: Any, w: Any, b: Any, y: Any) -> Any:
        return F.relu(layer(x, w, b) + y)

    return made


def bordered(mode: str) -> Layer:
    def layer(x: Any, w: Any) -> Any:
        return F.conv2d(F.pad(x, (2, 1, 1, 0), mode=mode), w)

    return layer


def pool(name: str, *arguments: Any, **options: Any) -> Layer:
    def layer(x: Any) -> Any:
        return getattr(F, name)(x, *arguments, **options)

    return layer


def spoiled(layer: Layer) -> Layer:
    """With infinities, and with what is no number, which only their own groups may see."""

    def made(x: Any, w: Any) -> Any:
        x = flamec.where(x > 2.3, float("inf"), x)
        return layer(flamec.where(x < -2.3, float("nan"), x), w)

    return made


def normalized(x: Any, w: Any, scale: Any, shift: Any) -> Any:
    """A convolution, its statistics, and what follows."""
    return F.relu(F.batch_norm(F.conv2d(x, w, padding=1), None, None, scale, shift, training=True))


IMAGE, KERNEL = (2, 16, 7, 9), (5, 16, 3, 3)
CASES = {
    "plain": Case(conv(2), (IMAGE, KERNEL), launches=2),
    "same borders": Case(conv(2, padding="same"), (IMAGE, KERNEL), POINTERS, 2),
    "bias relu residual": Case(
        activated(conv(2, padding=1)), (IMAGE, KERNEL, (5,), (2, 5, 7, 9)), POINTERS
    ),
    "even kernel": Case(conv(2, padding=(1, 2)), (IMAGE, (3, 16, 2, 4)), DEEP),
    "strides": Case(conv(2, stride=2, padding=1), (IMAGE, KERNEL), POINTERS),
    "uneven strides": Case(conv(2, stride=(3, 2), padding=(2, 0)), (IMAGE, (4, 16, 5, 3))),
    "one by one with strides": Case(conv(2, stride=2), (IMAGE, (6, 16, 1, 1))),
    "dilation": Case(conv(2, dilation=(2, 3), padding=3), (IMAGE, KERNEL), POINTERS),
    "dilation and strides": Case(
        conv(2, dilation=2, stride=3, padding=2), (IMAGE, KERNEL), DEEP
    ),
    "dilation that strides divide": Case(conv(2, dilation=2, stride=2, padding=2), (IMAGE, KERNEL)),
    "groups": Case(conv(2, groups=2, padding=1), ((2, 32, 5, 6), (6, 16, 3, 3)), POINTERS),
    "groups and strides": Case(
        conv(2, groups=3, stride=2, padding=1), ((2, 6, 7, 8), (9, 2, 3, 3)), SPLIT
    ),
    "many groups": Case(conv(2, groups=8, padding=1), ((2, 32, 5, 6), (32, 4, 3, 3)), DEEP),
    "groups with infinities": Case(
        spoiled(conv(2, groups=4, padding=1)), ((1, 16, 9, 11), (12, 4, 3, 3)), POINTERS
    ),
    "groups with residual": Case(
        activated(conv(2, padding=1, groups=4)),
        ((2, 16, 4, 5), (24, 4, 3, 3), (24,), (2, 24, 4, 5)), SPLIT,
    ),
    "depthwise": Case(conv(2, groups=8, padding=1), ((2, 8, 7, 5), (8, 1, 3, 3))),
    "depthwise twice, strides": Case(
        conv(2, groups=4, stride=2, padding=1), ((2, 4, 7, 6), (8, 1, 3, 3))
    ),
    "few channels": Case(conv(2, stride=2, padding=3), ((2, 3, 13, 11), (8, 3, 7, 7)), SPLIT),
    "few channels of many": Case(
        conv(2, stride=2, padding=3), ((2, 3, 13, 11), (8, 3, 7, 7)), SPLIT, large=True
    ),
    "seven channels": Case(
        conv(2, padding=(1, 2), dilation=(1, 2)), ((2, 7, 6, 9), (4, 7, 3, 3)), large=True
    ),
    "split": Case(conv(2, padding=1), (IMAGE, KERNEL), SPLIT),
    "tf32": Case(conv(2, padding=1), (IMAGE, KERNEL), launches=2, tolerance=4e-3, tf32=True),
    "tf32, strides": Case(
        conv(2, stride=2, padding=1), (IMAGE, KERNEL), tolerance=4e-3, tf32=True
    ),
    "tf32, one by one": Case(
        conv(2), (IMAGE, (6, 16, 1, 1)), launches=1, tolerance=4e-3, tf32=True
    ),
    "tf32, few channels": Case(
        conv(2, stride=2, padding=3), ((2, 3, 13, 11), (8, 3, 7, 7)), launches=2,
        tolerance=4e-3, large=True, tf32=True,
    ),
    "tf32, windows by way of registers": Case(
        conv(2, padding=1), ((2, 16, 6, 10), (5, 16, 3, 3)), tolerance=4e-3, tf32=True
    ),
    "tf32, windows for warp groups": Case(
        conv(2, padding=1), ((4, 32, 4, 8), (64, 32, 3, 3)), REGISTERS, tolerance=4e-3, tf32=True
    ),
    "tf32, windows with strides": Case(
        conv(2, stride=2, padding=1), ((4, 24, 5, 6), (20, 24, 3, 3)), tolerance=4e-3, tf32=True
    ),
    "bands": Case(conv(2, padding=1), (IMAGE, KERNEL), BANDS),
    "bands split": Case(
        conv(2, stride=2, padding=1), (IMAGE, KERNEL), replace(SPLIT, rows=32, bands=2)
    ),
    "bands of groups with NaN": Case(
        spoiled(conv(2, groups=4, padding=1)), ((1, 16, 9, 11), (12, 4, 3, 3)), BANDS
    ),
    "line": Case(conv(1, padding=2, stride=2), ((3, 16, 17), (4, 16, 5)), POINTERS),
    "volume": Case(conv(3, padding=1), ((1, 16, 4, 5, 3), (4, 16, 3, 3, 3)), POINTERS),
    "volume, strides": Case(
        conv(3, stride=(1, 2, 2), padding=1), ((1, 4, 3, 6, 5), (4, 4, 2, 3, 3))
    ),
    "transposed": Case(conv(2, True), ((2, 16, 4, 5), (16, 6, 3, 3)), POINTERS),
    "transposed, strides": Case(
        conv(2, True, stride=2, padding=1, output_padding=1), ((2, 16, 4, 5), (16, 6, 3, 3))
    ),
    "transposed groups": Case(
        conv(2, True, stride=2, groups=2, dilation=2), ((2, 8, 3, 4), (8, 3, 3, 2))
    ),
    "circular border": Case(bordered("circular"), (IMAGE, KERNEL), POINTERS),
    "reflected border": Case(bordered("reflect"), (IMAGE, KERNEL), POINTERS),
    "replicated border": Case(bordered("replicate"), (IMAGE, KERNEL)),
    "border with a value": Case(
        lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1), value=2.5), w, padding=1), (IMAGE, KERNEL)
    ),
    "border that cuts off": Case(
        lambda x, w: F.conv2d(F.pad(x, (-1, 2, 0, -2)), w, padding=1), (IMAGE, KERNEL), POINTERS
    ),
    "empty": Case(conv(2, padding=1), ((0, 16, 7, 9), KERNEL)),
    "batch norm": Case(normalized, (IMAGE, KERNEL, (5,), (5,)), tolerance=1e-3),
    "two of three": Case(pool("max_pool2d", 3, 2, 1), ((2, 5, 9, 8),), launches=1),
    "all of two": Case(pool("max_pool2d", 2), ((2, 5, 9, 8),), launches=1),
    "dilated": Case(pool("max_pool2d", (2, 3), (1, 2), (1, 1), (2, 1)), ((2, 3, 9, 8),)),
    "beyond the border": Case(pool("max_pool2d", 3, 2, 1, ceil_mode=True), ((1, 2, 8, 10),)),
    "line's largest": Case(pool("max_pool1d", 3, 2, 1), ((2, 3, 11),)),
    "volume's largest": Case(pool("max_pool3d", 2, 2, 1), ((1, 2, 4, 5, 6),)),
    "mean": Case(pool("avg_pool2d", 3, 2, 1), ((2, 3, 9, 8),)),
    "mean without border": Case(
        pool("avg_pool2d", 3, 2, 1, count_include_pad=False), ((2, 3, 9, 8),)
    ),
}  # fmt: skip


def step_of(layer: Layer, backward: bool) -> Callable[..., Any]:
    """The layer's value and, for a gradient of it (the first argument), those of its operands."""

    def step(seed: Any, x: Any, *rest: Any) -> Any:
        last = x.ndim - 1
        image = x.permute(0, last, *range(1, last))  # the array lies with channels last
        y = layer(image, *rest)
        y = y.permute(0, *range(2, y.ndim), 1)
        if not backward:
            return y
        return y, *flamec.autograd.grad(y, [x, *rest], seed)

    return step


def arrays_of(name: str) -> list[np.ndarray]:
    """The seed and the operands, images with channels last."""
    case = CASES[name]
    random = np.random.default_rng(zlib.crc32(name.encode()))
    shapes = list(case.shapes)
    shapes[0] = (shapes[0][0], *shapes[0][2:], shapes[0][1])
    arrays = [random.standard_normal(s) for s in shapes]
    y = step_of(case.layer, False)(None, *map(flamec.from_numpy, arrays))
    return [random.standard_normal(tuple(y.shape)), *arrays]


def graph_of(name: str, backward: bool = True) -> Graph:
    case, arrays = CASES[name], arrays_of(name)
    compiled = CompiledFunction(
        step_of(case.layer, backward), replace(default_options(), backend="evaluate")
    )
    tensors = [flamec.from_numpy(a).to(case.dtype) for a in arrays]
    for tensor in tensors[1:] if backward else ():
        tensor.requires_grad_()
    with as_large(case):
        program = compiled.compile_variant(tuple(tensors), {})
    assert isinstance(program, Program)
    return program.prepared.optimized


def compiled(name: str, backward: bool = True, target: str = "sm_90") -> CompiledGraph:
    """The case's program, its products with the case's schedule."""
    case, graph = CASES[name], graph_of(name, backward)
    with as_large(case):
        options = CodegenOptions(target=target)
        if case.tf32:
            options = replace(options, float32_convolutions="tf32")
        found = compile_graph(graph, options)
        if case.schedule is None:
            return found
        own = case.schedule.in_registers  # for products whose windows may pass through them alone
        products = (c for c in found.choices if _is_product(c))
        schedules = {c.key: case.schedule for c in products if c.schedule.in_registers >= own}
        return compile_graph(graph, replace(options, schedules=schedules))


@contextmanager
def as_large(case: Case) -> Iterator[None]:
    """What is done for large arrays alone is done for those of the case, if it says so."""
    with ExitStack() as changed:
        if case.large:
            changed.enter_context(mock.patch.object(few_channels, "LARGE", 0))
        if case.tf32:
            for name in ("LARGE", "REUSE", "REUSE_ALONE"):
                changed.enter_context(mock.patch.object(contract_contiguous, name, 0))
        yield


def _is_product(choice: Choice) -> bool:
    return isinstance(choice.schedule, ProductSchedule)


def check_case(name: str, run: RunAll) -> list[str]:
    """What was wrong with the results of a case."""
    case, arrays = CASES[name], arrays_of(name)
    tensors = [flamec.from_numpy(a).requires_grad_() for a in arrays]
    wanted = step_of(case.layer, True)(tensors[0].detach(), *tensors[1:])
    graph = graph_of(name)
    given = [a.astype(v.type.dtype.numpy) for a, v in zip(arrays, graph.inputs, strict=True)]
    outputs, _ = run(compiled(name).plan, given, {})
    wrong = []
    for i, (found, value) in enumerate(zip(outputs, wanted, strict=True)):
        right = value.detach().numpy()
        scale = max(1.0, float(np.abs(right[np.isfinite(right)]).max(initial=0)))
        if found.shape != right.shape:
            wrong.append(f"result {i}: {found.shape}, not {right.shape}")
        elif not np.allclose(found, right, case.tolerance, case.tolerance * scale, equal_nan=True):
            worst = float(np.abs(found - right).max())
            wrong.append(f"result {i}: off by {worst} of {scale}")
    return wrong


if __name__ == "__main__":
    from triton_interpreter import run_plan

    for name in sys.argv[1:] or CASES:
        print(json.dumps({"row": name, "wrong": check_case(name, run_plan)}), flush=True)
