"""Lazy layers, fractional pooling, embedding gradients, dual tensors and orders of memory against
PyTorch; each compiled, too, where it computes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
BOTH = (flamec, torch)


def same(mine: Any, theirs: Any, rtol: float = 1e-6) -> None:
    if theirs is None:
        assert mine is None
        return
    assert tuple(mine.shape) == tuple(theirs.shape)
    np.testing.assert_allclose(mine.detach().numpy(), theirs.detach().numpy(), rtol=rtol, atol=rtol)


# lazy layers -----------------------------------------------------------------------------
LAZY = {
    "LazyLinear": ((3,), (4, 5)),
    "LazyConv1d": ((4, 3), (2, 6, 7)),
    "LazyConv2d": ((4, 3), (2, 6, 7, 5)),
    "LazyConv3d": ((4, 2), (6, 3, 4, 5)),
    "LazyConvTranspose1d": ((4, 3), (2, 6, 7)),
    "LazyConvTranspose2d": ((4, 3), (6, 7, 5)),
    "LazyConvTranspose3d": ((4, 2), (2, 6, 3, 4, 5)),
    "LazyBatchNorm1d": ((), (4, 6)),
    "LazyBatchNorm2d": ((), (4, 6, 3, 2)),
    "LazyBatchNorm3d": ((), (4, 6, 3, 2, 2)),
    "LazyInstanceNorm1d": ((), (4, 6, 5)),
    "LazyInstanceNorm2d": ((), (4, 6, 3, 2)),
    "LazyInstanceNorm3d": ((), (4, 6, 3, 2, 2)),
}


@pytest.mark.parametrize("name", LAZY)
def test_a_lazy_layer_becomes_the_ordinary_one(name: str) -> None:
    arguments, shape = LAZY[name]
    array = RNG.standard_normal(shape).astype(np.float32)
    layers = [getattr(package.nn, name)(*arguments) for package in BOTH]
    mine, theirs = layers
    assert repr(mine) == repr(theirs)
    assert {k for k, v in mine.state_dict().items() if hasattr(v, "materialize")} == {
        k for k, v in theirs.state_dict().items() if hasattr(v, "materialize")
    }
    assert repr(mine.weight) == repr(theirs.weight) == "<UninitializedParameter>"
    with pytest.raises(RuntimeError, match="uninitialized"):
        mine.weight.shape  # noqa: B018
    theirs(torch.from_numpy(array))
    copied = copy.deepcopy(mine)
    mine(flamec.from_numpy(array))
    assert type(mine).__name__ == type(theirs).__name__ == name.removeprefix("Lazy")
    assert repr(mine) == repr(theirs)
    state = {k: flamec.from_numpy(v.numpy()) for k, v in theirs.state_dict().items()}
    copied.load_state_dict(state)
    same(copied(flamec.from_numpy(array)), theirs(torch.from_numpy(array)), 1e-5)
    assert type(copied) is type(mine)
    assert copied.weight.requires_grad and type(copied.weight) is nn.Parameter


def test_lazy_layers_below_a_model_load_and_are_made_in_a_compiled_call() -> None:
    def make() -> Any:
        return nn.Sequential(nn.LazyConv2d(3, 2), nn.Flatten(), nn.LazyLinear(2, bias=False))

    x = flamec.from_numpy(RNG.standard_normal((2, 4, 3, 3)).astype(np.float32))
    first, second, third = make(), make(), make()
    flamec.manual_seed(0)
    expected = first(x)
    flamec.manual_seed(0)
    np.testing.assert_allclose(
        flamec.compile(third)(x).detach().numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6
    )
    assert [type(layer) for layer in third] == [type(layer) for layer in first]
    second.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(second(x).detach().numpy(), expected.detach().numpy())
    np.testing.assert_allclose(
        flamec.compile(second)(x).detach().numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6
    )


def test_skip_init() -> None:
    layer = nn.utils.skip_init(nn.Linear, 3, 2)
    assert layer.weight.shape == (2, 3) and layer.weight.requires_grad


# fractional pooling ----------------------------------------------------------------------
FRACTIONAL = [
    ("fractional_max_pool2d", (2, 3, 9, 7), 2, {"output_size": (4, 3)}),
    ("fractional_max_pool2d", (3, 8, 8), (3, 2), {"output_ratio": (0.5, 0.6)}),
    ("fractional_max_pool2d", (1, 2, 5, 5), 2, {"output_size": 1}),
    ("fractional_max_pool3d", (2, 3, 6, 7, 8), 2, {"output_size": (3, 4, 2)}),
    ("fractional_max_pool3d", (2, 6, 6, 6), 3, {"output_ratio": 0.5}),
]


@pytest.mark.parametrize(("name", "shape", "kernel", "options"), FRACTIONAL)
def test_fractional_pooling(name: str, shape: Any, kernel: Any, options: Any) -> None:
    dims = int(name[-2])
    array = RNG.standard_normal(shape)
    lead = shape[: len(shape) - dims]
    samples = RNG.random((*(1,) * (2 - len(lead)), *lead, dims))
    results = []
    for package in BOTH:
        x = package.tensor(array, requires_grad=True)
        function = getattr(package.nn.functional, name)
        drawn = package.tensor(samples)

        def pool(x: Any, f: Any = function, drawn: Any = drawn) -> Any:
            return f(x, kernel, return_indices=True, _random_samples=drawn, **options)

        calls = [pool, flamec.compile(pool)] if package is flamec else [pool]
        for call in calls:
            value, indices = call(x)
            (gradient,) = package.autograd.grad((value**2).sum(), x)
            results.append((value, indices, gradient))
    for mine in results[:2]:
        for a, b in zip(mine, results[2], strict=True):
            same(a, b, 1e-12)


def test_fractional_pooling_draws_and_refuses() -> None:
    x = flamec.from_numpy(RNG.standard_normal((2, 3, 9, 9)))
    layer = nn.FractionalMaxPool2d(2, output_ratio=0.5)
    assert layer(x).shape == (2, 3, 4, 4)
    assert nn.FractionalMaxPool3d(2, output_size=2)(x[None].double()).shape == (1, 2, 2, 2, 2)
    with pytest.raises(ValueError, match="either output_size or output_ratio"):
        nn.FractionalMaxPool2d(2)
    with pytest.raises(RuntimeError, match="do not fit"):
        nn.functional.fractional_max_pool2d(x, 5, output_size=7)
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        nn.functional.fractional_max_pool2d(x, 2, output_ratio=1.5)


# gradients of tables and grids -----------------------------------------------------------
@pytest.mark.parametrize("bag", [None, "sum", "mean"])
def test_gradients_scaled_by_frequency(bag: str | None) -> None:
    indices = [[1, 2, 1, 0], [4, 1, 4, 3]]
    table, weights = RNG.standard_normal((6, 3)), RNG.standard_normal((2, 4, 3))
    results = []
    for package in BOTH:
        F = package.nn.functional
        w = package.tensor(table, requires_grad=True)
        options = {"scale_grad_by_freq": True, "padding_idx": 3}

        def loss(w: Any, F: Any = F, p: Any = package, o: Any = options) -> Any:
            if bag is None:
                return (F.embedding(p.tensor(indices), w, **o) * p.tensor(weights)).sum()
            found = F.embedding_bag(p.tensor(indices), w, mode=bag, **o)
            return (found * p.tensor(weights[:, 0])).sum()

        for call in [loss, flamec.compile(loss)] if package is flamec else [loss]:
            value = call(w)
            results.append((value, package.autograd.grad(value, w)[0]))
    expected = results[2]
    if bag is not None:  # PyTorch divides by the count of another row (2.13, CPU)
        counts = np.bincount(np.ravel(indices), minlength=len(table))
        w = torch.tensor(table, requires_grad=True)
        found = torch.nn.functional.embedding_bag(torch.tensor(indices), w, mode=bag, padding_idx=3)
        value = (found * torch.tensor(weights[:, 0])).sum()
        (gradient,) = torch.autograd.grad(value, w)
        expected = value, gradient / torch.tensor(np.maximum(counts, 1.0))[:, None]
    for mine in results[:2]:
        for a, b in zip(mine, expected, strict=True):
            same(a, b, 1e-12)


def test_the_grid_of_nearest_has_a_zero_gradient() -> None:
    array = RNG.standard_normal((1, 2, 4, 5))
    places = RNG.uniform(-1.2, 1.2, (1, 3, 3, 2))
    for package in BOTH:
        x = package.tensor(array, requires_grad=True)
        grid = package.tensor(places, requires_grad=True)
        value = package.nn.functional.grid_sample(x, grid, mode="nearest", align_corners=False)
        gradient = package.autograd.grad(value.sum(), grid)[0]
        assert gradient.shape == grid.shape and not gradient.any()


# forward mode ----------------------------------------------------------------------------
def test_dual_tensors() -> None:
    from torch.autograd import forward_ad as theirs

    from flamec.autograd import forward_ad as mine

    a, b, t = (RNG.standard_normal((3, 4)) for _ in range(3))
    results = []
    for package, ad in ((flamec, mine), (torch, theirs)):
        x = package.tensor(a, requires_grad=True)
        y = package.tensor(b)
        with ad.dual_level():
            dual = ad.make_dual(x, package.tensor(t))
            result = (dual.sin() @ y.T).relu() * dual[:, :3]
            value, tangent = ad.unpack_dual(result)
            assert ad.unpack_dual(y).tangent is None
            assert ad.unpack_dual(dual).tangent is not None
            (gradient,) = package.autograd.grad(tangent.sum(), x)
        results.append((value, tangent, gradient))
        assert ad.unpack_dual(result).tangent is None
        with pytest.raises(RuntimeError, match="level"):
            ad.make_dual(x, y)
        with ad.dual_level(), pytest.raises(RuntimeError):
            ad.make_dual(x, y[:1])
    for first, second in zip(*results, strict=True):
        same(first, second, 1e-10)


def test_linearize() -> None:
    a, t = RNG.standard_normal((2, 3)), RNG.standard_normal((2, 3))
    results = []
    for package in BOTH:
        calls = []

        def f(x: Any, calls: Any = calls) -> Any:
            calls.append(1)
            return {"y": x.sin() * x, "s": x.sum()}

        value, push = package.func.linearize(f, package.tensor(a))
        tangent = push(package.tensor(t))
        again = push(package.tensor(2 * t))
        results.append((value["y"], tangent["y"], tangent["s"], again["y"]))
        if package is flamec:
            assert len(calls) == 1
        with pytest.raises(RuntimeError):
            push(package.tensor(t[:1]))
    for first, second in zip(*results, strict=True):
        same(first, second, 1e-10)


def test_a_function_with_jvp_alone_has_gradients() -> None:
    class Cube(flamec.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, factor: float) -> Any:
            ctx.save_for_backward(x)
            ctx.factor = factor
            return x**3 * factor

        @staticmethod
        def jvp(ctx: Any, t: Any, _: Any) -> Any:
            (x,) = ctx.saved_tensors
            return 3 * x**2 * t * ctx.factor

    x = flamec.tensor([1.0, -2.0], dtype=flamec.float64, requires_grad=True)
    assert flamec.autograd.gradcheck(lambda x: Cube.apply(x, 2.0), x, check_forward_ad=True)
    (gradient,) = flamec.autograd.grad(Cube.apply(x, 2.0).sum(), x)
    np.testing.assert_allclose(gradient.numpy(), [6.0, 24.0])


def test_gradcheck_in_both_modes_finds_what_is_wrong() -> None:
    class Wrong(flamec.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 3

    x = flamec.tensor([1.0, 2.0], dtype=flamec.float64, requires_grad=True)
    check = flamec.autograd.gradcheck
    with pytest.raises(RuntimeError, match="forward mode"):
        check(Wrong.apply, x, check_forward_ad=True, check_backward_ad=False)
    options = {"check_batched_grad": True, "check_batched_forward_grad": True}
    assert check(lambda x: (x.sin(), x @ x), x, check_forward_ad=True, **options)
    assert flamec.autograd.gradgradcheck(lambda x: x.sin() * x, x, check_fwd_over_rev=True)


def test_custom_functions_in_an_autocast_region() -> None:
    results = []
    for package in BOTH:
        amp = package.amp

        class Product(package.autograd.Function):  # type: ignore[misc, name-defined]
            @staticmethod
            @amp.custom_fwd(device_type="cpu", cast_inputs=package.float32)
            def forward(ctx: Any, a: Any, b: Any) -> Any:
                ctx.save_for_backward(a, b)
                return a @ b

            @staticmethod
            @amp.custom_bwd(device_type="cpu")
            def backward(ctx: Any, g: Any) -> Any:
                a, b = ctx.saved_tensors
                return g @ b.T, a.T @ g

        a = package.ones(2, 3, dtype=package.bfloat16, requires_grad=True)
        b = package.ones(3, 2, requires_grad=True)
        with package.autocast("cpu", dtype=package.bfloat16):
            result = Product.apply(a, b)
        result.sum().backward()
        results.append((str(result.dtype), str(a.grad.dtype), b.grad.tolist()))
    assert [str(x).replace("flamec", "torch") for x in results[0]] == [str(x) for x in results[1]]


# memory ----------------------------------------------------------------------------------
def test_orders_of_memory() -> None:
    for package in BOTH:
        x = package.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        last = package.channels_last
        y = x.contiguous(memory_format=last)
        assert y.stride() == (60, 1, 15, 3)
        assert y.is_contiguous(memory_format=last) and not y.is_contiguous()
        assert not x.is_contiguous(memory_format=last)
        assert y.contiguous(memory_format=last) is y
        assert x.to(memory_format=last).stride() == y.stride()
        assert x.to(package.float64, memory_format=last).stride() == y.stride()
        assert x.clone(memory_format=last).stride() == y.stride()
        assert y.tolist() == x.tolist()
        with pytest.raises(RuntimeError):
            x[0].contiguous(memory_format=last)
        assert x.layout is package.strided and repr(last) == f"{package.__name__}.channels_last"
        z = package.empty_strided((2, 3), (1, 4))
        assert z.stride() == (1, 4) and z.shape == (2, 3)
        assert package.empty_permuted((2, 3, 4), (1, 2, 0)).stride() == (1, 8, 2)


def test_tensors_change_their_size_in_place() -> None:
    for package in BOTH:
        x = package.arange(6).reshape(2, 3)
        pointer = x.data_ptr()
        assert x.resize_(3, 2).tolist() == [[0, 1], [2, 3], [4, 5]] and x.data_ptr() == pointer
        assert x.resize_(2).tolist() == [0, 1]
        assert x.resize_((2, 4)).reshape(-1)[:6].tolist() == [0, 1, 2, 3, 4, 5]
        assert x.resize_as_(package.ones(2, 2)).shape == (2, 2)
        y = package.arange(8)
        assert y.as_strided_((2, 2), (4, 1)).tolist() == [[0, 1], [4, 5]]
        w = package.ones(2, requires_grad=True)
        with pytest.raises(RuntimeError):
            w.resize_(3)
        v = package.tensor([1.0, 2.0])
        assert v.apply_(lambda a: a * 3).tolist() == [3.0, 6.0]
        assert v.map_(package.tensor([1.0, 1.0]), lambda a, b: a - b).tolist() == [2.0, 5.0]
        buffer = bytearray(np.arange(3.0).tobytes())
        shared = package.frombuffer(buffer, dtype=package.float64, offset=8)
        shared[0] = 7.0
        assert shared.tolist() == [7.0, 2.0] and np.frombuffer(buffer)[1] == 7.0


@pytest.mark.parametrize("way", ["eager", "compiled"])
def test_a_function_with_a_batching_rule_of_its_own(way: str) -> None:
    results = []
    seen: list[Any] = []
    for package in BOTH:

        class Scaled(package.autograd.Function):  # type: ignore[misc, name-defined]
            @staticmethod
            def forward(x: Any, w: Any, power: int) -> Any:
                return x * w**power, x.sum()

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                x, w, power = inputs
                ctx.save_for_backward(x, w)
                ctx.power = power

            @staticmethod
            def backward(ctx: Any, g: Any, h: Any) -> Any:
                x, w = ctx.saved_tensors
                p = ctx.power
                return g * w**p + h, (g * x * p * w ** (p - 1)), None

            @staticmethod
            def vmap(info: Any, in_dims: Any, x: Any, w: Any, power: int) -> Any:
                if way == "eager":  # a list that grows cannot be compiled
                    seen.append((int(info.batch_size), info.randomness, in_dims))
                y, _ = Scaled.apply(x, w, power)
                return (y.movedim(0, -1), x.sum(1)), (-1, 0)

        x = package.tensor(X3, requires_grad=True)
        w = package.tensor(X3[0], requires_grad=True)

        def loss(x: Any, w: Any, p: Any = package, f: Any = Scaled) -> Any:
            y, s = p.func.vmap(lambda row: f.apply(row, w, 2))(x)
            return (y * y).sum() + (s * s).sum()

        call = flamec.compile(loss) if package is flamec and way == "compiled" else loss
        value = call(x, w)
        results.append((value, *package.autograd.grad(value, (x, w))))
    if way == "eager":
        assert set(seen) == {(4, "error", (0, None, None))}
    for mine, theirs in zip(*results, strict=True):
        same(mine, theirs, 1e-10)


X3 = RNG.standard_normal((4, 3))


def test_as_strided_scatter_against_finite_differences() -> None:
    """PyTorch's gradient of the first operand is that of the other places (2.13)."""
    x = flamec.tensor(RNG.standard_normal((3, 4)), requires_grad=True)
    src = flamec.tensor(RNG.standard_normal((2, 2)), requires_grad=True)

    def scattered(x: Any, src: Any) -> Any:
        return flamec.as_strided_scatter(x, src, (2, 2), (4, 1), 1)

    assert flamec.autograd.gradcheck(scattered, (x, src))
    expected = x.tolist()
    for row in range(2):
        expected[row][1:3] = src.tolist()[row]
    assert scattered(x, src).tolist() == expected
