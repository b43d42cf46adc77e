"""How float32 is multiplied on a GPU: what can be set, and what is compiled again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compiling_gpu import new_process
from simulated_gpu import SimulatedGpu

import flamec
from flamec import compiled_function, eager_programs
from flamec.config import default_options
from flamec.cuda_backend import codegen_options
from flamec.float32_precision import restore_settings, saved_settings, settings_of
from flamec.ir.graph import Graph
from flamec.ir.op import OpKind
from flamec.ir.types import Device
from flamec.nn import functional as F
from flamec.preparation import prepare
from flamec.state import process


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    saved = saved_settings()
    yield
    restore_settings(saved)


def chosen() -> tuple[str, str]:
    return process.float32_precision.products, process.float32_precision.convolutions


def test_names() -> None:
    assert flamec.get_float32_matmul_precision() == "highest"
    for name in ("high", "medium", "highest"):
        flamec.set_float32_matmul_precision(name)
        assert flamec.get_float32_matmul_precision() == name
    for wrong in ("tf32", "HIGH", None):
        with pytest.raises(ValueError, match="'highest', 'high' or 'medium'"):
            flamec.set_float32_matmul_precision(wrong)


@pytest.mark.parametrize(("dtype", "traces"), [(flamec.float32, 2), (flamec.bfloat16, 1)])
def test_a_change_compiles_products_of_float32_again(
    gpu: Device, dtype: flamec.dtype, traces: int
) -> None:
    compiled = flamec.compile(lambda x, y: x @ y)
    x = flamec.ones(4, 8, dtype=dtype, device=gpu)
    y = flamec.ones(8, 4, dtype=dtype, device=gpu)
    assert compiled(x, y).tolist() == [[8.0] * 4] * 4
    flamec.set_float32_matmul_precision("high")
    for _ in range(2):
        assert compiled(x, y).tolist() == [[8.0] * 4] * 4
    assert compiled.stats.traces == traces
    flamec.set_float32_matmul_precision("highest")
    compiled(x, y)
    assert compiled.stats.traces == traces  # the first program is still there


def test_what_has_no_products_is_left_alone(gpu: Device) -> None:
    for function in (lambda x: x + 1, lambda x: (x.cpu() @ x.cpu()).sum()):
        compiled = flamec.compile(function)
        for precision in ("highest", "high"):
            flamec.set_float32_matmul_precision(precision)
            compiled(flamec.ones(4, 4, device=gpu))
        assert compiled.stats.traces == 1


def test_eager_products_follow(gpu: Device) -> None:
    """Programs of single operations are kept for each precision."""
    x = flamec.ones(4, 4, device=gpu)
    counts = []
    for precision in ("highest", "high", "high"):
        flamec.set_float32_matmul_precision(precision)
        assert (x @ x).tolist() == [[4.0] * 4] * 4
        counts.append(len(eager_programs._programs))
    assert counts[0] < counts[1] == counts[2]


def test_convolutions_are_tf32_and_products_are_not() -> None:
    """As in PyTorch, unless told otherwise; each by its own switch."""
    assert chosen() == ("tf32x3", "tf32")
    assert flamec.backends.cudnn.allow_tf32 and not flamec.backends.cuda.matmul.allow_tf32
    flamec.set_float32_matmul_precision("high")
    assert chosen() == ("tf32", "tf32") and flamec.backends.cuda.matmul.allow_tf32
    flamec.backends.cudnn.allow_tf32 = False
    assert chosen() == ("tf32", "tf32x3") and flamec.get_float32_matmul_precision() == "high"
    flamec.backends.cuda.matmul.allow_tf32 = False
    assert chosen() == ("tf32x3", "tf32x3") and flamec.get_float32_matmul_precision() == "highest"


def test_code_is_generated_as_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    new_process(monkeypatch, tmp_path)
    options = codegen_options(0, default_options())
    assert (options.float32_products, options.float32_convolutions) == ("tf32x3", "tf32")
    with flamec.backends.flags("ieee"):
        other = codegen_options(0, default_options())
    assert (other.float32_products, other.float32_convolutions) == ("tf32x3", "tf32x3")
    assert options.key != other.key  # of programs in the cache


def test_narrower_settings_come_first() -> None:
    backends = flamec.backends
    backends.fp32_precision = "ieee"
    assert chosen() == ("tf32x3", "tf32x3")
    backends.cudnn.conv.fp32_precision = "tf32"
    assert chosen() == ("tf32x3", "tf32")
    backends.cudnn.conv.fp32_precision = "none"
    assert chosen() == ("tf32x3", "tf32x3")
    backends.cuda.matmul.fp32_precision = "tf32"
    assert chosen() == ("tf32", "tf32x3")
    with pytest.raises(RuntimeError, match="is 'ieee', 'tf32' or 'none', not 'bf16'"):
        backends.cudnn.fp32_precision = "bf16"


def test_flags_are_for_a_block() -> None:
    cudnn = flamec.backends.cudnn
    cudnn.benchmark = True
    with pytest.raises(KeyError), cudnn.flags(allow_tf32=False):
        assert chosen() == ("tf32x3", "tf32x3") and not (cudnn.enabled or cudnn.benchmark)
        raise KeyError
    assert chosen() == ("tf32x3", "tf32") and cudnn.enabled and cudnn.benchmark
    cudnn.benchmark = False


def test_what_differs_has_no_one_answer() -> None:
    flamec.backends.cudnn.rnn.fp32_precision = "ieee"
    with pytest.raises(RuntimeError, match=r"conv\.fp32_precision is 'tf32', rnn\."):
        assert flamec.backends.cudnn.allow_tf32


CONVOLUTIONS = {
    "one by one": lambda x, w: F.conv2d(x, w[:, :, :1, :1]),
    "three by three": lambda x, w: F.conv2d(x, w),
    "transposed": lambda x, w: F.conv_transpose2d(x, w),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_change_compiles_convolutions_again(gpu: Device, name: str) -> None:
    """And not that of products."""
    compiled = flamec.compile(CONVOLUTIONS[name])
    x, w = (flamec.ones(1, 4, n, n, device=gpu) for n in (5, 3))
    w = w.expand(4, 4, 3, 3).contiguous()
    wanted = compiled(x, w).tolist()
    flamec.set_float32_matmul_precision("high")
    assert compiled(x, w).tolist() == wanted and compiled.stats.traces == 1
    flamec.backends.cudnn.allow_tf32 = False
    assert compiled(x, w).tolist() == wanted and compiled.stats.traces == 2
    flamec.backends.cudnn.allow_tf32 = True
    assert compiled(x, w).tolist() == wanted and compiled.stats.traces == 2


def test_products_in_loops_and_attention_are_compiled_again(simulated: list[SimulatedGpu]) -> None:
    def recurrence(x: flamec.Tensor, w: flamec.Tensor) -> flamec.Tensor:
        return flamec.scan(lambda h, row: ((h + row) @ w, h.sum()), x[0], x)[0]

    def attention(x: flamec.Tensor, w: flamec.Tensor) -> flamec.Tensor:
        return F.scaled_dot_product_attention(x[None], w[None], w[None])

    for function in (recurrence, attention):
        compiled = flamec.compile(function)
        x, w = flamec.ones(6, 4, device="cuda"), flamec.eye(4, device="cuda")
        for precision in ("highest", "high"):
            flamec.set_float32_matmul_precision(precision)
            compiled(x, w)
        assert compiled.stats.traces == 2
        assert settings_of(compiled.programs[0].prepared.graph) == ("products",)
        flamec.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize("kind", ["products", "convolutions"])
def test_equal_graphs_of_another_precision_are_other_programs(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions whose results are differentiated, and those that values split, keep programs by
    their graphs."""
    switch = flamec.backends.cuda.matmul if kind == "products" else flamec.backends.cudnn
    made: list[tuple[bool, str]] = []

    def noting(graph: Graph, *rest: Any) -> Any:
        if settings_of(graph):
            made.append((switch.allow_tf32, graph.fingerprint()))
        return prepare(graph, *rest)

    monkeypatch.setattr(compiled_function, "prepare", noting)

    def product(x: flamec.Tensor) -> flamec.Tensor:
        return x[0, 0] @ x[0, 0] if kind == "products" else F.conv2d(x, x)

    def split(x: flamec.Tensor) -> flamec.Tensor:
        return product(x) if product(x).sum() > 0 else x

    for function, requires_grad in ((product, True), (split, False)):
        compiled = flamec.compile(function)
        x = flamec.ones(1, 1, 3, 3, device="cuda", requires_grad=requires_grad)
        made.clear()
        for allowed in (False, True, False, True):
            switch.allow_tf32 = allowed
            y = compiled(x)
            if requires_grad:
                y.sum().backward()
        exact, rounded = ({f for tf32, f in made if tf32 is way} for way in (False, True))
        assert exact == rounded and len(exact) >= 1 + requires_grad
        assert len(made) == 2 * len(exact)


@pytest.mark.usefixtures("simulated")
def test_a_change_between_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass is computed as it is set when it begins, as in eager mode, whatever was before."""
    made: list[tuple[int, str]] = []

    def noting(graph: Graph, *rest: Any) -> Any:
        if settings_of(graph):
            products = sum(node.op.kind is OpKind.CONTRACTION for node in graph.nodes)
            made.append((products, flamec.get_float32_matmul_precision()))
        return prepare(graph, *rest)

    monkeypatch.setattr(compiled_function, "prepare", noting)
    compiled = flamec.compile(lambda x, w: x @ w)
    x, w = (flamec.ones(3, 3, device="cuda", requires_grad=True) for _ in range(2))
    for forward, backward in [("highest", "high"), ("highest", "highest"), ("high", "highest")] * 2:
        flamec.set_float32_matmul_precision(forward)
        y = compiled(x, w)
        flamec.set_float32_matmul_precision(backward)
        y.sum().backward()
    assert made == [(1, "highest"), (2, "high"), (2, "highest"), (1, "high"), (2, "highest")]


def test_eager_convolutions_follow(gpu: Device) -> None:

    x, w = flamec.ones(1, 2, 4, 4, device=gpu), flamec.ones(2, 2, 3, 3, device=gpu)
    counts = []
    for allowed in (True, False, False):
        flamec.backends.cudnn.allow_tf32 = allowed
        assert F.conv2d(x, w).tolist() == [[[[18.0] * 2] * 2] * 2]
        counts.append(len(eager_programs._programs))
    assert counts[0] < counts[1] == counts[2]
