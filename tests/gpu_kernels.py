"""Triton kernels and plans for tests of the CUDA runtime and of Triton compilation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flamec.ir.plan import (
    Action,
    Argument,
    Buffer,
    Copy,
    ExecutionPlan,
    Fill,
    KernelSource,
    Launch,
    MemoryLayout,
    OutputSpec,
)
from flamec.ir.shape import evaluate_dim, floordiv, parse_dim
from flamec.ir.types import Device, TensorType, float32

_HEADER = "import triton\nimport triton.language as tl\n\n\n"

AFFINE_TEXT = (
    _HEADER
    + '''@triton.jit
def affine(x, out, n, scale, shift, BLOCK: tl.constexpr):
    """out = x * scale + shift."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(out + i, tl.load(x + i, inside) * scale + shift, inside)
'''
)

ADD_TEXT = (
    _HEADER
    + '''@triton.jit
def add_into(x, out, n, BLOCK: tl.constexpr):
    """out += x."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(out + i, tl.load(out + i, inside) + tl.load(x + i, inside), inside)
'''
)

NUMBERS_TEXT = (
    _HEADER
    + '''@triton.jit
def numbers(out, a, b, c, d):
    """Four numbers of different types as float64."""
    tl.store(out + 0, a.to(tl.float64))
    tl.store(out + 1, b.to(tl.float64))
    tl.store(out + 2, c.to(tl.float64))
    tl.store(out + 3, d.to(tl.float64))
'''
)

MATMUL_TEXT = (
    _HEADER
    + '''@triton.jit
def matmul(a, b, out, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """out = a @ b, through tensor descriptors."""
    m = tl.program_id(0) * BM
    n = tl.program_id(1) * BN
    total = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        total = tl.dot(a.load([m, k]), b.load([k, n]), total)
    out.store([m, n], total.to(tl.bfloat16))
'''
)

SCRATCH_TEXT = (
    _HEADER
    + '''@triton.jit
def transpose(x, out, rows, columns, BLOCK: tl.constexpr):
    """out = x.T, through descriptors that the kernel itself makes in scratch memory."""
    source = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    target = tl.make_tensor_descriptor(out, [columns, rows], [rows, 1], [BLOCK, BLOCK])
    i = tl.program_id(0) * BLOCK
    j = tl.program_id(1) * BLOCK
    target.store([j, i], source.load([i, j]).trans())
'''
)


def affine(block: int = 1024, warps: int = 4, aligned: bool = True) -> KernelSource:
    return KernelSource(
        AFFINE_TEXT,
        "affine",
        (
            ("x", "*fp32"),
            ("out", "*fp32"),
            ("n", "i32"),
            ("scale", "fp32"),
            ("shift", "fp32"),
            ("BLOCK", "constexpr"),
        ),
        {"BLOCK": block},
        ("x", "out") if aligned else (),
        {"num_warps": warps},
    )


def add_into() -> KernelSource:
    return KernelSource(
        ADD_TEXT,
        "add_into",
        (("x", "*fp32"), ("out", "*fp32"), ("n", "i32"), ("BLOCK", "constexpr")),
        {"BLOCK": 1024},
        ("x", "out"),
    )


def numbers() -> KernelSource:
    parameters = (("out", "*fp64"), ("a", "i32"), ("b", "i64"), ("c", "fp32"), ("d", "fp64"))
    return KernelSource(NUMBERS_TEXT, "numbers", parameters)


def matmul(rows: int = 128, columns: int = 128, depth: int = 64) -> KernelSource:
    return KernelSource(
        MATMUL_TEXT,
        "matmul",
        (
            ("a", f"tensordesc<bf16[{rows},{depth}]>"),
            ("b", f"tensordesc<bf16[{depth},{columns}]>"),
            ("out", f"tensordesc<bf16[{rows},{columns}]>"),
            ("K", "i32"),
            ("BM", "constexpr"),
            ("BN", "constexpr"),
            ("BK", "constexpr"),
        ),
        {"BM": rows, "BN": columns, "BK": depth},
        (),
        {"num_warps": 8, "num_stages": 3},
    )


def transpose() -> KernelSource:
    return KernelSource(
        SCRATCH_TEXT,
        "transpose",
        (
            ("x", "*fp32"),
            ("out", "*fp32"),
            ("rows", "i32"),
            ("columns", "i32"),
            ("BLOCK", "constexpr"),
        ),
        {"BLOCK": 32},
        ("x", "out"),
    )


def plan_in_order(plan: ExecutionPlan, bindings: Mapping[str, int]) -> MemoryLayout:
    """Temporaries one behind the other."""
    offsets, end = {}, 0
    for position, buffer in enumerate(plan.buffers):
        if buffer.kind == "temporary":
            offsets[position] = end
            end += -(-evaluate_dim(buffer.bytes, bindings) // 256) * 256
    return MemoryLayout(offsets, end)


def action_plan(
    buffers: Sequence[Buffer], actions: Sequence[Action], kernels: Sequence[KernelSource] = ()
) -> ExecutionPlan:
    """Actions over buffers, without a program that they come from."""
    inputs = tuple(i for i, buffer in enumerate(buffers) if buffer.kind == "input")
    return ExecutionPlan(
        buffers=tuple(buffers),
        steps=(),
        inputs=inputs,
        input_types=(),
        outputs=(),
        updated=(),
        symbols=(),
        source="",
        language="triton",
        kernels=tuple(kernels),
        actions=tuple(actions),
    )


def affine_twice_plan(aligned: bool = True) -> ExecutionPlan:
    """out = 2 * (3 * x + 1) - 1, total = x + x copied and filled: every kind of action.

    Buffers: x (input), middle (temporary), out and total (outputs).
    """
    n = parse_dim("n")
    grid = (floordiv(n + 1023, 1024), 1, 1)
    size, vector = Argument(value=n), TensorType((n,), float32, Device("cuda", 0))

    def number(value: float) -> Argument:
        return Argument(value=value)

    first = (Argument(0), Argument(1), size, number(3.0), number(1.0))
    second = (Argument(1), Argument(2), size, number(2.0), number(-1.0))
    return ExecutionPlan(
        buffers=(
            Buffer("x", "input", float32, n),
            Buffer("middle", "temporary", float32, n),
            Buffer("out", "output", float32, n),
            Buffer("total", "output", float32, n),
        ),
        steps=(),
        inputs=(0,),
        input_types=(vector,),
        outputs=(OutputSpec(2, vector), OutputSpec(3, vector)),
        updated=(),
        symbols=("n",),
        source="",
        language="triton",
        kernels=(affine(aligned=aligned), add_into()),
        actions=(
            Launch(0, grid, first),
            Launch(0, grid, second),
            Copy(0, 1, 4 * n),
            Fill(3, 4 * n),
            Launch(1, grid, (Argument(1), Argument(3), size)),
            Launch(1, grid, (Argument(0), Argument(3), size)),
        ),
    )
