"""What is rounded to 16 bits may be computed with less effort, and nothing else may."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
from interpreted import run_interpreted

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.types import DType, TensorType, bfloat16, float16, float32, int32

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
Body = Callable[[GraphBuilder, Any], Any]


def source(body: Body, dtype: DType = bfloat16, result: DType | None = None) -> str:
    b = GraphBuilder()
    x = b.input(TensorType((64, 1024), dtype))
    made = b.cast(body(b, b.cast(x, float32)), result or dtype)
    return compile_graph(b.build([made])).plan.source


@pytest.mark.parametrize("name", ["exp", "sigmoid", "tanh", "erf"])
@pytest.mark.parametrize("dtype", [bfloat16, float16])
def test_functions_are_cheaper_where_results_are_halves(name: str, dtype: DType) -> None:
    assert f"= flamec_fast_{name}(" in source(lambda b, x: getattr(b, name)(x), dtype)


@pytest.mark.parametrize("name", ["exp", "sigmoid", "tanh", "erf"])
def test_functions_are_exact_where_results_are_not(name: str) -> None:
    assert "flamec_fast" not in source(lambda b, x: getattr(b, name)(x), result=float32)


def test_what_a_jump_depends_on_is_exact() -> None:
    """6 / 3 is 2, so its floor is 2."""

    def half_of(b: GraphBuilder, x: Any) -> Any:
        return b.div(x, b.add(x, x))

    def larger(b: GraphBuilder, x: Any) -> Any:
        half = half_of(b, x)
        return b.where(b.gt(half, x), x, half)

    for jump in (
        larger,
        lambda b, x: b.floor(half_of(b, x)),
        lambda b, x: b.remainder(half_of(b, x), x),
        lambda b, x: b.cast(b.cast(half_of(b, x), int32), float32),
    ):
        assert "flamec_fast" not in source(jump)
    assert "flamec_fast_divide" in source(half_of)


def test_a_sum_of_what_was_rounded_sees_its_16_bits() -> None:
    """As if it were read from memory; what a jump depends on is exact all the same."""

    def sums(after: Body) -> str:
        b = GraphBuilder()
        x = b.input(TensorType((4096, 256), bfloat16))
        y = b.cast(b.exp(b.cast(x, float32)), bfloat16)
        total = b.sum(b.cast(after(b, y), float32), axes=(0,))
        return compile_graph(b.build([y, total])).plan.source

    assert "= flamec_fast_exp(" in sums(lambda b, y: y)
    assert "flamec_fast" not in sums(lambda b, y: b.where(b.gt(y, b.floor(y)), y, b.neg(y)))


def test_one_value_is_exact_and_another_is_not() -> None:
    """A float32 result beside a bfloat16 one: what both need is exact."""
    b = GraphBuilder()
    x = b.cast(b.input(TensorType((64, 1024), bfloat16)), float32)
    shared = b.exp(x)
    graph = b.build([b.sigmoid(shared), b.cast(b.tanh(shared), bfloat16)])
    text = compile_graph(graph).plan.source
    assert "libdevice.exp(" in text and "= flamec_sigmoid(" in text
    assert "= flamec_fast_tanh(" in text


def test_rounding_between_operations_is_kept_and_at_the_end_is_the_store() -> None:
    def twice(b: GraphBuilder, x: Any) -> Any:
        return b.mul(b.cast(b.cast(b.exp(x), bfloat16), float32), x)

    assert source(twice).count("= flamec_round_bf16(") == 1
    assert "flamec_round_bf16" not in source(lambda b, x: b.exp(x))


@needs_triton
def test_every_bfloat16_is_rounded_almost_right() -> None:
    """Beyond the half unit that rounding takes there is no error to speak of."""
    results = run_interpreted("triton_halves.py", [])
    assert [r["row"] for r in results] == ["exp", "sigmoid", "tanh", "erf", "quotient"]
    assert all(r["fast"] for r in results)
    assert {r["row"]: r["excess"] for r in results if not r["excess"] < 0.01} == {}
