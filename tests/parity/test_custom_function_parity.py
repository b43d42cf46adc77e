"""``autograd.Function`` against PyTorch: values, gradients, second gradients, compiled, errors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from torch_comparison import derivatives

import flamec
from flamec.autograd import Function
from flamec.autograd.function import once_differentiable

torch = pytest.importorskip("torch")

X = np.array([1.0, 2.0, -0.5])
WAYS = {
    "eager": lambda f: f,
    "compiled": flamec.compile,
    "symbolic": lambda f: flamec.compile(f, dynamic=True),
}


def scaled_exp(lib: Any) -> Any:
    """exp(x) * k and sum(x), saving an argument, a result, None and something else."""

    class ScaledExp(lib.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any, k: float, scale: Any) -> Any:
            y = lib.exp(x) * k
            ctx.save_for_backward(x, None, y, x.sin())
            ctx.k = k
            return y, x.sum(), "text"

        @staticmethod
        def backward(ctx: Any, g: Any, s: Any, nothing: Any) -> Any:
            x, none, y, other = ctx.saved_tensors
            assert none is None and nothing is None and ctx.k == 3.0
            assert ctx.needs_input_grad == (True, False, False)
            return g * y + s * lib.cos(x) + 0 * other, None, None

    return ScaledExp


def composed(lib: Any) -> Any:
    """A forward without ctx; a result that is not differentiable; a broadcast gradient."""

    class Composed(lib.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(x: Any, w: Any) -> Any:
            return x * w, x > 0, x.floor()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)
            ctx.mark_non_differentiable(output[2])

        @staticmethod
        def backward(ctx: Any, g: Any, *rest: Any) -> Any:
            x, w = ctx.saved_tensors
            return g * w, (g * x).sum().reshape(1) if ctx.needs_input_grad[1] else None

    return Composed


def first(lib: Any, x: Any) -> Any:
    y, s, text = scaled_exp(lib).apply(x * 2, 3.0, lib.ones(1))
    assert text == "text"
    return (y * y).sum() + s


def second(lib: Any, x: Any) -> Any:
    product, positive, floor = composed(lib).apply(x, x[:1] * 2)
    assert not positive.requires_grad and not floor.requires_grad
    return (lib.sin(product) * floor + lib.where(positive, product, x)).sum()


def tensor(lib: Any) -> Any:
    return lib.tensor(X, dtype=lib.float64, requires_grad=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("f", [first, second])
def test_values_and_two_derivatives(f: Any, way: str) -> None:
    expected = derivatives(torch, tensor(torch), lambda x: f(torch, x))
    found = derivatives(flamec, tensor(flamec), WAYS[way](lambda x: f(flamec, x)))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("f", [first, second])
def test_inside_a_compiled_step(f: Any) -> None:
    def step(x: Any) -> Any:
        (g,) = flamec.autograd.grad(f(flamec, x), x, create_graph=True)
        return g, flamec.autograd.grad((g * g).sum(), x)[0]

    expected = derivatives(torch, tensor(torch), lambda x: f(torch, x))[2:]
    for a, b in zip(flamec.compile(step)(tensor(flamec)), expected, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-12)


class StraightThrough(Function):
    """Rounding whose gradient is the identity."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g


@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_training_step_uses_the_rule(way: str) -> None:
    weight = flamec.nn.Parameter(flamec.tensor([0.6, 1.7]))
    optimizer = flamec.optim.SGD([weight], lr=0.1)

    def step() -> Any:
        optimizer.zero_grad()
        loss = (StraightThrough.apply(weight) * flamec.tensor([1.0, 2.0])).sum()
        loss.backward()
        optimizer.step()
        return loss

    step = WAYS[way](step)
    assert step().item() == 5.0
    np.testing.assert_allclose(weight.detach().numpy(), [0.5, 1.5], rtol=1e-6)


class Square(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Any) -> Any:
        return g * ctx.saved_tensors[0] * 2


@pytest.mark.parametrize("compiled", [False, True])
def test_once_differentiable(compiled: bool) -> None:
    def f(x: Any) -> Any:
        (g,) = flamec.autograd.grad((Square.apply(x) ** 2).sum(), x, create_graph=True)
        assert g.requires_grad
        return flamec.autograd.grad(g.sum(), x)[0]

    x = tensor(flamec)
    np.testing.assert_allclose(flamec.autograd.grad(Square.apply(x).sum(), x)[0].numpy(), 2 * X)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (flamec.compile(f) if compiled else f)(x)


def test_errors() -> None:
    class Wrong(Function):
        returned: Any = None

        @staticmethod
        def forward(ctx: Any, x: Any, n: int) -> Any:
            ctx.save_for_backward(x)
            return x * n

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return Wrong.returned(g)

    def run() -> None:
        Wrong.apply(tensor(flamec), 2).sum().backward()

    for result, message in [
        (lambda g: g, "incorrect number of gradients .expected 2, got 1."),
        (lambda g: (g, g), "different from None at position 2"),
        (lambda g: (g[:2], None), r"invalid gradient at index 0 - got \[2\] but .* \[3\]"),
    ]:
        Wrong.returned = result
        with pytest.raises(RuntimeError, match=message):
            run()
    with pytest.raises(RuntimeError, match="should not be instantiated"):
        Wrong()
    with pytest.raises(NotImplementedError, match="implement the forward"):
        Function.apply(tensor(flamec))
    Wrong.returned = lambda g: (g, None)
    x = tensor(flamec)
    y = Wrong.apply(x, 2)
    with flamec.no_grad():
        x.add_(1)
    StraightThrough.apply(x).sum().backward()  # saves nothing
    Wrong.returned = lambda g: (g * 1, None)

    class Reads(Wrong):
        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * ctx.saved_tensors[0], None

    y = Reads.apply(x, 2)
    with flamec.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()
    z = Reads.apply(x, 2).sum()
    z.backward()
    with pytest.raises(RuntimeError, match="second time"):
        z.backward()


def test_nothing_is_kept_without_gradients() -> None:
    x = tensor(flamec)
    with flamec.no_grad():
        assert not StraightThrough.apply(x).requires_grad
    assert not StraightThrough.apply(x.detach()).requires_grad
    assert StraightThrough.apply(x).requires_grad


def test_an_argument_returned_as_it_is() -> None:
    class Same(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return -g

    for way in WAYS.values():
        x = tensor(flamec)
        way(lambda v: Same.apply(v * 1))(x).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), [-1, -1, -1])
        x.grad = None
        Same.apply(x).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), [-1, -1, -1])


def applied_again(lib: Any) -> tuple[Any, Any]:
    """A flip whose derivative is itself (as the filters of StyleGAN2), and a product that is
    differentiated by two more, which each know the other."""

    class Flip(lib.autograd.Function):  # type: ignore[name-defined,misc]  # of either package
        @staticmethod
        def forward(ctx: Any, x: Any, factor: float) -> Any:
            ctx.factor = factor
            return x.flip(0) * factor

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return Flip.apply(g, ctx.factor), None

    class Sine(lib.autograd.Function):  # type: ignore[name-defined,misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return Product.apply(g, Cosine.apply(*ctx.saved_tensors))

    class Cosine(lib.autograd.Function):  # type: ignore[name-defined,misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x.cos()

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return Product.apply(-g, Sine.apply(*ctx.saved_tensors))

    class Product(lib.autograd.Function):  # type: ignore[name-defined,misc]
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, y = ctx.saved_tensors
            return Product.apply(g, y), Product.apply(g, x)

    def product(x: Any) -> Any:
        return Product.apply(Product.apply(x, x), Product.apply(x, x))

    return lambda x: Product.apply(Flip.apply(Sine.apply(x), 0.5), x).sum(), product


@pytest.mark.parametrize("way", ["eager", "outside", "inside"])
def test_a_backward_that_applies_the_function_again(way: str) -> None:
    """Compiled it would be traced without end: three orders of it are."""

    def derivatives_of(lib: Any, f: Any, x: Any, orders: int) -> list[Any]:
        found = [f(x)]
        for _ in range(orders):
            found += lib.autograd.grad(found[-1].sum(), x, create_graph=True)
        return found[1:]

    def ours(f: Any, orders: int) -> list[Any]:
        compiled = functools.partial(flamec.compile, backend="evaluate")
        if way == "inside":
            inside = compiled(lambda x: [d.detach() for d in derivatives_of(flamec, f, x, orders)])
            return inside(tensor(flamec))
        return derivatives_of(flamec, f if way == "eager" else compiled(f), tensor(flamec), orders)

    expected = derivatives_of(torch, applied_again(torch)[0], tensor(torch), 3)
    f, product = applied_again(flamec)
    for a, b in zip(ours(f, 3), expected, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10)
    if way == "eager":
        assert ours(product, 4)[3].tolist() == pytest.approx([24.0] * 3)
    else:
        with pytest.raises(RuntimeError, match=r"applies \w+ again.*up to order 3 \(at .*\.py:"):
            ours(product, 4)
