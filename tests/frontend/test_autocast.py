"""Mixed precision: regions, casts, gradients, the cache, and the same when compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import Tensor, nn
from flamec.errors import CompileError
from flamec.functional import autocasting
from flamec.ir.graph import Graph
from flamec.nn import functional as F

RNG = np.random.default_rng(2)
BOTH = pytest.mark.parametrize("wrap", [lambda f: f, flamec.compile], ids=["eager", "compiled"])
Wrap = Callable[[Callable[..., Any]], Any]


def tensor(*shape: int, requires_grad: bool = False) -> Tensor:
    values = flamec.from_numpy(RNG.standard_normal(shape).astype(np.float32))
    return values.requires_grad_() if requires_grad else values


def array(x: Tensor | None) -> np.ndarray:
    assert x is not None
    return x.detach().float().numpy()


# regions ---------------------------------------------------------------------------------


def test_a_region_sets_the_state_and_restores_it() -> None:
    assert not flamec.is_autocast_enabled("cpu")
    with flamec.autocast("cpu"):
        assert flamec.is_autocast_enabled("cpu")
        assert not flamec.is_autocast_enabled("cuda")
        assert flamec.get_autocast_dtype("cpu") is flamec.bfloat16
        with flamec.autocast("cpu", dtype=flamec.float16, cache_enabled=False):
            assert flamec.get_autocast_dtype("cpu") is flamec.float16
            assert not flamec.is_autocast_cache_enabled()
            with flamec.autocast("cpu", enabled=False):
                assert not flamec.is_autocast_enabled("cpu")
        assert flamec.get_autocast_dtype("cpu") is flamec.bfloat16
        assert flamec.is_autocast_cache_enabled()
    with pytest.raises(ZeroDivisionError), flamec.amp.autocast("cpu"):
        raise ZeroDivisionError
    assert not flamec.is_autocast_enabled("cpu")


def test_the_state_is_the_threads_own() -> None:
    seen = []
    with flamec.autocast("cpu"):
        other = threading.Thread(target=lambda: seen.append(flamec.is_autocast_enabled("cpu")))
        other.start()
        other.join()
    assert seen == [False]


def test_a_decorator_nests() -> None:
    @flamec.autocast("cpu")
    def product(depth: int) -> Any:
        return product(depth - 1) if depth else tensor(2, 2) @ tensor(2, 2)

    assert product(3).dtype is flamec.bfloat16
    assert not flamec.is_autocast_enabled("cpu")


def test_state_without_a_region() -> None:
    try:
        flamec.set_autocast_enabled("cpu", True)
        flamec.set_autocast_dtype("cpu", flamec.float16)
        flamec.set_autocast_cache_enabled(False)
        assert (tensor(2, 2) @ tensor(2, 2)).dtype is flamec.float16
    finally:
        flamec.set_autocast_enabled("cpu", False)
        flamec.set_autocast_dtype("cpu", flamec.bfloat16)
        flamec.set_autocast_cache_enabled(True)


def test_bad_arguments() -> None:
    with pytest.raises(RuntimeError, match=r"unknown type of device 'tpu'.*cpu, cuda"):
        flamec.autocast("tpu")
    with pytest.raises(ValueError, match="must be a str"):
        flamec.autocast(flamec.device("cpu"))  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="not in float32. Disabling"):
        region = flamec.autocast("cpu", dtype=flamec.float32)
    with region:
        assert not flamec.is_autocast_enabled("cpu")
    with pytest.raises(TypeError, match="bfloat16 or float16"):
        flamec.set_autocast_dtype("cpu", flamec.float64)
    assert flamec.amp.is_autocast_available("cuda")
    assert not flamec.amp.is_autocast_available("tpu")


def test_cuda_where_there_is_none_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flamec.gpu.unavailable_reason", lambda: "hidden")
    with pytest.warns(UserWarning, match="CUDA is not available"), flamec.autocast("cuda"):
        assert not flamec.is_autocast_enabled("cuda")


# casts -----------------------------------------------------------------------------------


def test_what_is_cast() -> None:
    x, w, d = tensor(3, 4), tensor(4, 4), tensor(4, 4).double()
    with flamec.autocast("cpu"):
        low = x @ w
        assert low.dtype is flamec.bfloat16
        assert (low + x[:, :4]).dtype is flamec.float32  # ordinary promotion
        assert F.relu(low).dtype is flamec.bfloat16
        assert (d @ d).dtype is flamec.float64
        assert F.mse_loss(low, low).dtype is flamec.float32
        assert flamec.cat([low, x]).dtype is flamec.float32
        assert flamec.cat([low, low]).dtype is flamec.bfloat16
        with flamec.autocast("cpu", enabled=False):
            assert (low.float() @ w).dtype is flamec.float32
            with pytest.raises(TypeError, match="same dtype"):
                low @ w
        ints = flamec.ones(2, 2, dtype=flamec.int64)
        assert (ints @ ints).dtype is flamec.int64
    np.testing.assert_array_equal(array(low), array(x.bfloat16() @ w.bfloat16()))


def test_a_function_cast_to_float32_computes_in_float32() -> None:
    x, y = tensor(50), tensor(50)
    low = x.bfloat16()
    with flamec.autocast("cpu"):
        loss = F.mse_loss(low, y)
    np.testing.assert_array_equal(array(loss), array(F.mse_loss(low.float(), y)))


def test_operands_that_do_not_agree() -> None:
    with (
        flamec.autocast("cpu"),
        pytest.raises(TypeError, match=r"cat: an operand is float16.*bfloat16"),
    ):
        flamec.cat([tensor(2).half(), tensor(2).bfloat16()])


def test_a_loss_that_overflows_is_refused_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocasting, "device_type", lambda tensor: "cuda")
    flamec.set_autocast_enabled("cuda", True)
    try:
        with pytest.raises(RuntimeError, match=r"unsafe to autocast.*with_logits"):
            F.binary_cross_entropy(tensor(3), tensor(3))
    finally:
        flamec.set_autocast_enabled("cuda", False)


def test_in_place_forms_and_out_keep_the_dtypes_they_are_given() -> None:
    x, a, b = tensor(3, 3), tensor(3, 3), tensor(3, 3)
    want = array(x + a @ b)
    product = flamec.empty(3, 3)
    with flamec.autocast("cpu"):
        x.addmm_(a, b)
        flamec.mm(a, b, out=product)
        y = tensor(3, 3)
        y += a @ b  # the product is cast, the sum is y's
    np.testing.assert_allclose(array(x), want, rtol=1e-6)
    np.testing.assert_allclose(array(product), array(a) @ array(b), rtol=1e-6)
    assert y.dtype is flamec.float32


# gradients -------------------------------------------------------------------------------


def by_hand(x: Tensor, w: Tensor, shared: bool) -> Tensor:
    """Two products with one cast of the weight, or two."""
    first = w.bfloat16()
    second = first if shared else w.bfloat16()
    y = F.linear(x.bfloat16(), first)
    return F.linear(y, second).float().square().sum()


@BOTH
@pytest.mark.parametrize("cache", [True, False])
def test_gradients_arrive_in_the_dtype_of_the_parameter(cache: bool, wrap: Wrap) -> None:
    x, w = tensor(5, 6), tensor(6, 6, requires_grad=True)

    def step(x: Tensor) -> Tensor:
        with flamec.autocast("cpu", cache_enabled=cache):
            loss = F.linear(F.linear(x, w), w).float().square().sum()
        loss.backward()
        return loss

    by_hand(x, w, cache).backward()
    want, w.grad = array(w.grad), None
    wrap(step)(x)
    assert w.grad is not None and w.grad.dtype is flamec.float32
    if wrap is flamec.compile:
        np.testing.assert_allclose(array(w.grad), want, rtol=0.02, atol=0.02 * np.abs(want).max())
    else:
        np.testing.assert_array_equal(array(w.grad), want)


def test_a_cast_that_is_kept_is_one_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    casts = []
    convert = autocasting.ops.convert
    monkeypatch.setattr(
        autocasting.ops, "convert", lambda x, **k: casts.append(x) or convert(x, **k)
    )
    x, w, frozen = tensor(2, 4), tensor(4, 4, requires_grad=True), tensor(4, 4)
    for enabled, count in ((True, 1), (False, 3)):
        casts.clear()
        with flamec.autocast("cpu", cache_enabled=enabled):
            F.linear(x, w)
            with flamec.autocast("cpu", cache_enabled=enabled):
                F.linear(x, w)
            F.linear(x, w)
        assert sum(c is w for c in casts) == count
    casts.clear()
    with flamec.autocast("cpu"):
        F.linear(x, frozen), F.linear(x, frozen)
    assert sum(c is frozen for c in casts) == 2
    with flamec.autocast("cpu"):
        F.linear(x, w)
    with flamec.autocast("cpu"):
        flamec.clear_autocast_cache()
        F.linear(x, w)
    assert sum(c is w for c in casts) == 2  # the cache ends with the region


@BOTH
def test_a_parameter_that_was_written_to_is_cast_again(wrap: Wrap) -> None:
    x, w = flamec.ones(1, 2), flamec.ones(2, 2).requires_grad_()

    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        with flamec.autocast("cpu"):
            first = F.linear(x, w)
            with flamec.no_grad():
                w.add_(1.0)
            return first, F.linear(x, w)

    first, second = wrap(twice)(x)
    np.testing.assert_array_equal(array(first), 2)
    np.testing.assert_array_equal(array(second), 4)


@BOTH
def test_a_cast_without_gradients_does_not_cut_later_ones_off(wrap: Wrap) -> None:
    x, w = tensor(2, 4), tensor(4, 4, requires_grad=True)

    def step(x: Tensor) -> None:
        with flamec.autocast("cpu"):
            with flamec.no_grad():
                F.linear(x, w)
            F.linear(x, w).float().sum().backward()

    wrap(step)(x)
    np.testing.assert_allclose(
        array(w.grad), np.tile(array(x.bfloat16()).sum(0), (4, 1)), rtol=0.02
    )


# compiled --------------------------------------------------------------------------------


def mlp() -> nn.Sequential:
    flamec.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))


def mixed(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A forward pass with a part in float32 and a write in place."""
    with flamec.autocast("cpu"):
        h = model(x)
        with flamec.autocast("cpu", enabled=False):
            scale = h.float().square().mean()
        total = flamec.zeros(4)
        total += h.sum(0)
        loss = F.cross_entropy(h, y)
    return loss + 0.1 * scale + total.mean(), h


@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
def test_compiled_equals_eager(inside: bool) -> None:
    x, y = tensor(7, 6), flamec.from_numpy(RNG.integers(0, 4, 7))
    found = []
    for compiled in (False, True):
        model = mlp()

        def step(x: Tensor, y: Tensor, model: nn.Module = model) -> tuple[Tensor, Tensor]:
            loss, h = mixed(model, x, y)
            if inside:
                loss.backward()
            return loss.detach() if inside else loss, h.detach()

        loss, h = (flamec.compile(step) if compiled else step)(x, y)
        if not inside:
            loss.backward()
        found.append((loss.dtype, h.dtype, array(loss), array(h), *_gradients(model)))
    assert found[0][:2] == found[1][:2] == (flamec.float32, flamec.bfloat16)
    for mine, other in zip(found[0][2:], found[1][2:], strict=True):
        np.testing.assert_allclose(mine, other, rtol=0.02, atol=0.02)


def _gradients(model: nn.Module) -> list[np.ndarray]:
    assert all(p.grad is not None and p.grad.dtype is flamec.float32 for p in model.parameters())
    return [array(p.grad) for p in model.parameters()]


def test_a_change_of_state_is_another_program() -> None:
    @flamec.compile
    def product(x: Tensor, w: Tensor) -> Tensor:
        return x @ w

    x, w = tensor(3, 4), tensor(4, 5)
    regions = [
        (None, flamec.float32),
        (flamec.autocast("cpu"), flamec.bfloat16),
        (flamec.autocast("cpu", dtype=flamec.float16), flamec.float16),
        (flamec.autocast("cpu", enabled=False), flamec.float32),
    ]
    for _ in range(2):
        for region, dtype in regions:
            if region is None:
                assert product(x, w).dtype is dtype
                continue
            with region:
                assert product(x, w).dtype is dtype
    assert product.stats.traces == 3  # a disabled region is no region
    assert {str(f).split(" (")[0] for f in product.stats.guard_failures} == {"autocast state"}


def test_a_state_left_changed_is_refused() -> None:
    @flamec.compile
    def leaves(x: Tensor) -> Tensor:
        flamec.set_autocast_enabled("cpu", True)
        return x @ x

    with pytest.raises(CompileError, match="leaving autocast in another state"):
        leaves(tensor(2, 2))
    assert not flamec.is_autocast_enabled("cpu")


def test_symbolic_sizes() -> None:
    w = tensor(4, 4, requires_grad=True)

    @flamec.compile(dynamic=True)
    def forward(x: Tensor) -> Tensor:
        with flamec.autocast("cpu"):
            return F.softmax(F.linear(x, w), -1)

    for rows in (3, 5, 9):
        x = tensor(rows, 4)
        with flamec.autocast("cpu"):
            want = F.softmax(F.linear(x, w), -1)
        np.testing.assert_allclose(array(forward(x)), array(want), rtol=0.02, atol=0.01)
    assert forward.stats.traces == 1


def converted(graph: Graph, name: str) -> int:
    """How often an input called ``name`` is converted in a graph."""
    return sum(
        node.op.name == "convert" and node.inputs[0] is value
        for value in graph.inputs
        if value.name == name
        for node in graph.nodes
    )


def test_each_weight_is_cast_once_a_step() -> None:
    w = tensor(8, 8, requires_grad=True)
    w.__dict__["_name"] = "w"

    @flamec.compile
    def step(x: Tensor) -> None:
        with flamec.autocast("cpu", cache_enabled=False):
            h = F.linear(F.linear(x, w), w) @ w.t()  # as it lies, again, and transposed
        h.float().square().sum().backward()

    step(tensor(4, 8))
    prepared = step.programs[0].prepared
    assert converted(prepared.graph, "w") == 2  # and one of its transpose
    assert converted(prepared.after("autocast"), "w") == 1
    assert converted(prepared.optimized, "w") == 1
    position = [b.name for b in prepared.plan.buffers].index("w1")
    assert sum(position in s.reads for s in prepared.plan.steps) == 1
