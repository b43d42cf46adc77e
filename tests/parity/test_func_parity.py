"""``flamec.func``: jvp, jacrev, jacfwd, hessian, vjp, batched gradients, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

X = np.array([[1.0, 2.0, 0.5], [-0.3, 0.2, 1.0]])
W = np.array([[0.1, 0.4], [0.3, -0.2], [1.0, 2.0]])


def values(result: Any) -> list[np.ndarray]:
    if isinstance(result, dict):
        return [v for key in result for v in values(result[key])]
    if isinstance(result, (list, tuple)):
        return [v for part in result for v in values(part)]
    return [result.detach().numpy()]


def matrix_function(lib: Any) -> Any:
    return lambda x, w: lib.tanh(x @ w) * x[0, 0] + lib.exp(w).sum()


def scalar_function(lib: Any) -> Any:
    return lambda x: (x**3).prod() + lib.sin(x).sum()


def with_auxiliary(lib: Any) -> Any:
    return lambda x: ((x**2).sum(0), x.cos())


def several(lib: Any) -> Any:
    return lambda p: {"s": lib.sin(p["x"]).sum(1), "t": (p["w"] ** 2, p["x"][0])}


CASES = {
    "jvp": lambda l, F, x, w: F.jvp(matrix_function(l), (x, w), (x * 2, w.cos())),
    "jvp with auxiliary": lambda l, F, x, w: F.jvp(with_auxiliary(l), (x,), (x,), has_aux=True),
    "jvp of structures": lambda l, F, x, w: F.jvp(
        several(l), ({"x": x, "w": w},), ({"x": x.cos(), "w": w + 1},)
    ),
    "jvp of constants": lambda l, F, x, w: F.jvp(lambda v: w * 2, (x,), (x,)),
    "vjp with auxiliary": lambda l, F, x, w: (
        F.vjp(with_auxiliary(l), x, has_aux=True)[1](x[0]),
        F.vjp(with_auxiliary(l), x, has_aux=True)[2],
    ),
    "jacrev": lambda l, F, x, w: F.jacrev(matrix_function(l), (0, 1))(x, w),
    "jacrev in chunks": lambda l, F, x, w: F.jacrev(matrix_function(l), 1, chunk_size=3)(x, w),
    "jacrev of structures": lambda l, F, x, w: F.jacrev(several(l))({"x": x, "w": w}),
    "jacrev with auxiliary": lambda l, F, x, w: F.jacrev(with_auxiliary(l), has_aux=True)(x),
    "jacfwd": lambda l, F, x, w: F.jacfwd(matrix_function(l), (0, 1))(x, w),
    "jacfwd of structures": lambda l, F, x, w: F.jacfwd(several(l))({"x": x, "w": w}),
    "jacfwd with auxiliary": lambda l, F, x, w: F.jacfwd(with_auxiliary(l), has_aux=True)(x),
    "hessian": lambda l, F, x, w: F.hessian(scalar_function(l))(x),
    "hessian of structures": lambda l, F, x, w: F.hessian(
        lambda p: (p["a"] ** 2 * p["b"].sum()).sum()
    )({"a": x, "b": w}),
    "forward over reverse": lambda l, F, x, w: F.jvp(F.grad(scalar_function(l)), (x,), (x + 1,)),
    "forward over forward": lambda l, F, x, w: F.jvp(
        lambda y: F.jvp(scalar_function(l), (y,), (x,))[1], (x,), (x - 1,)
    ),
    "reverse over forward": lambda l, F, x, w: F.grad(
        lambda y: F.jvp(scalar_function(l), (y,), (w.T,))[1]
    )(x),
    "vmap of jacrev": lambda l, F, x, w: F.vmap(F.jacrev(lambda v: v * v.sum()))(x),
    "vmap of jacfwd": lambda l, F, x, w: F.vmap(F.jacfwd(lambda v: v * v.sum()))(x),
    "softmax": lambda l, F, x, w: F.jacrev(lambda v: l.softmax(v, -1))(x),
}


@pytest.mark.parametrize("way", ["eager", "compiled"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_pytorch(case: str, way: str) -> None:
    def run(lib: Any, *tensors: Any) -> Any:
        return CASES[case](lib, lib.func, *tensors)

    expected = values(run(torch, torch.tensor(X), torch.tensor(W)))
    f = (flamec.compile if way == "compiled" else lambda f: f)(lambda x, w: run(flamec, x, w))
    found = values(f(flamec.tensor(X), flamec.tensor(W)))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_forward_derivatives_agree_with_finite_differences() -> None:
    x, w = flamec.tensor(X), flamec.tensor(W)
    f = matrix_function(flamec)
    _, found = flamec.func.jvp(f, (x, w), (w.T, w.sin()))
    h = 1e-6
    expected = (f(x + h * w.T, w + h * w.sin()) - f(x - h * w.T, w - h * w.sin())) / (2 * h)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-7)


def batched_gradients(lib: Any, wrap: Any, hooked: bool = False) -> list[np.ndarray]:
    """Rows of a Jacobian through a compiled part, a custom function, a hook."""

    class Double(lib.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2 + 0 * ctx.saved_tensors[0]

    def rows(x: Any, w: Any) -> Any:
        y = lib.tanh(x @ w)
        if hooked:
            y = Double.apply(y)
            y.register_hook(lambda g: g * 3)
        y = y[:, 0] * x[:, 1]
        seeds = lib.arange(8, dtype=lib.float64).reshape(4, 2).sin()
        first = lib.autograd.grad(y, (x, w), seeds, create_graph=True, is_grads_batched=True)
        return (*first, lib.autograd.grad((first[0] ** 2).sum(), w)[0])

    x, w = (lib.tensor(v, requires_grad=True) for v in (X, W))
    return values(wrap(rows)(x, w))


@pytest.mark.parametrize("hooked", [False, True])
def test_batched_gradients(hooked: bool) -> None:
    if hooked:  # PyTorch's custom functions do not batch by themselves: one row at a time
        expected = batched_gradients(flamec, flamec.compile, hooked)
    else:
        expected = batched_gradients(torch, lambda f: f)
    for wrap in (lambda f: f, flamec.compile):
        for a, b in zip(batched_gradients(flamec, wrap, hooked), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_batched_gradients_of_a_compiled_function() -> None:
    f = flamec.compile(lambda x, w: flamec.tanh(x @ w))
    x, w = (flamec.tensor(v, requires_grad=True) for v in (X, W))
    basis = flamec.eye(4, dtype=flamec.float64).reshape(4, 2, 2)
    (found,) = flamec.autograd.grad(f(x, w), w, basis, is_grads_batched=True)
    expected = flamec.func.jacrev(lambda w: flamec.tanh(x @ w))(w)
    np.testing.assert_allclose(found.numpy().reshape(expected.shape), expected.detach().numpy())


def test_refusals() -> None:
    x = flamec.tensor(X, requires_grad=True)
    with pytest.raises(RuntimeError, match="same first dimension"):
        flamec.autograd.grad((x * 2, x * 3), x, (x, None), is_grads_batched=True)
    with pytest.raises(RuntimeError, match="same python structure"):
        flamec.func.jvp(lambda v: v, (x,), ([x],))
    with pytest.raises(RuntimeError, match="same shapes"):
        flamec.func.jvp(lambda v: v, (x,), (x[0],))
    with pytest.raises(RuntimeError, match="independent"):
        flamec.func.jvp(lambda v: x.detach() * 2, (x.detach(),), (x.detach(),), strict=True)
    with pytest.raises(TypeError, match="must return tensors"):
        flamec.func.jacrev(lambda v: 3)(x)


def test_batch_normalisation_without_running_statistics() -> None:
    def run(package: Any, compiled: bool = False) -> Any:
        nn = package.nn
        model = nn.Sequential(
            nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.LayerNorm(3))
        ).to(package.float64)
        assert package.func.replace_all_batch_norm_modules_(model) is model
        assert sorted(model.state_dict()) == ["0.bias", "0.weight", "1.1.bias", "1.1.weight"]
        assert model[0].num_batches_tracked is None and not model[1][0].track_running_stats
        results = []
        for train in (True, False):
            model.train(train)
            call = flamec.compile(model) if compiled else model
            results.append(call(package.tensor(np.vstack([X, X[::-1] * 2]) ** 3)))
        batch = package.tensor(np.stack([X, X * 2, X**2]))
        results.append(package.vmap(lambda x: model(x))(batch))
        single = package.func.replace_all_batch_norm_modules_(nn.BatchNorm2d(2))
        assert single.running_var is None and "running_var" not in single.state_dict()
        return results

    for compiled in (False, True):
        for mine, theirs in zip(run(flamec, compiled), run(torch), strict=True):
            np.testing.assert_allclose(mine.detach().numpy(), theirs.detach().numpy(), rtol=1e-10)
