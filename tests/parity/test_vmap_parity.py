"""``func.vmap`` against PyTorch's: dimensions, nesting, derivatives, randomness, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec.autograd import Function
from flamec.func import grad, hessian, vmap

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
A, B, W = (RNG.standard_normal(s) for s in ((4, 3), (4, 3), (3, 5)))
WAYS = {"eager": lambda f: f, "compiled": flamec.compile}


def values(result: Any) -> list[np.ndarray]:
    if isinstance(result, dict):
        return [v for key in result for v in values(result[key])]
    if isinstance(result, (list, tuple)):
        return [v for part in result for v in values(part)]
    return [result.detach().numpy()]


def agree(found: Any, expected: Any, rtol: float = 1e-10) -> None:
    found, expected = values(found), values(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


def tensors(lib: Any) -> tuple[Any, ...]:
    return tuple(lib.tensor(x, dtype=lib.float64) for x in (A, B, W))


def loss(lib: Any, w: Any, x: Any, y: Any) -> Any:
    return ((lib.tanh(x @ w)[:3] - y) ** 2).sum() + lib.logsumexp(x, 0)


CASES = {
    "two arguments": lambda lib, a, b, w: lib.func.vmap(lambda x, y: (x * y).sum())(a, b),
    "one batched": lambda lib, a, b, w: lib.func.vmap(lambda x, m: x @ m, (0, None))(a, w),
    "other dims": lambda lib, a, b, w: lib.func.vmap(
        lambda x, y: lib.outer(x, y), in_dims=(1, -1), out_dims=2
    )(a, b),
    "matrices": lambda lib, a, b, w: lib.func.vmap(lambda m: a @ m.reshape(3, 1), 1)(w),
    "structure": lambda lib, a, b, w: lib.func.vmap(
        lambda p, k: {"sum": p["x"] + p["y"][0], "kept": (k.exp(), p["x"].mean())},
        in_dims=({"x": 0, "y": [None]}, None),
        out_dims={"sum": 1, "kept": (None, 0)},
    )({"x": a, "y": [b[0]]}, w),
    "keywords": lambda lib, a, b, w: lib.func.vmap(lambda x, *, y: x - y.max())(a, y=b),
    "captured": lambda lib, a, b, w: lib.func.vmap(lambda x: lib.softmax(x @ w, -1))(a),
    "not batched result": lambda lib, a, b, w: lib.func.vmap(lambda x: w.sum(0))(a),
    "nested": lambda lib, a, b, w: lib.func.vmap(
        lambda x: lib.func.vmap(lambda y: (x * y).sum())(b)
    )(a),
    "nested twice": lambda lib, a, b, w: lib.func.vmap(
        lib.func.vmap(lambda x, y: x * y.sin(), in_dims=(0, None)), in_dims=(None, 0)
    )(a, b),
    "per-sample gradients": lambda lib, a, b, w: lib.func.vmap(
        lib.func.grad(lambda w, x, y: loss(lib, w, x, y)), in_dims=(None, 0, 0)
    )(w, a, b),
    "hessians": lambda lib, a, b, w: lib.func.vmap(
        lib.func.hessian(lambda x: (x**3).sum() * x.prod())
    )(a),
    "gradient of vmap": lambda lib, a, b, w: lib.func.grad(
        lambda w: lib.func.vmap(lambda x: lib.sin(x @ w).prod())(a).sum()
    )(w),
    "indexing": lambda lib, a, b, w: lib.func.vmap(
        lambda x, i: (x[i], w[i], lib.index_select(x, 0, i), x[1:], x.flip(0)), in_dims=(0, 0)
    )(a, lib.tensor([[0, 2], [1, 1], [2, 0], [0, 0]])),
    "scatter": lambda lib, a, b, w: lib.func.vmap(
        lambda x, i: lib.zeros(5, dtype=x.dtype).index_add(0, i, x)
    )(a, lib.tensor([[0, 2, 2], [1, 1, 1], [2, 0, 4], [0, 3, 0]])),
    "assembly": lambda lib, a, b, w: lib.func.vmap(
        lambda x: (lib.cat([x, w[0]]), lib.stack([x, b[0]], 1), lib.nn.functional.pad(x, (1, 2)))
    )(a),
    "scans and sorts": lambda lib, a, b, w: lib.func.vmap(
        lambda x: (x.cumsum(0), lib.sort(x)[0], x.argmax(), lib.diag(x), x.var())
    )(a),
    "convolution": lambda lib, a, b, w: lib.func.vmap(
        lambda x, k: lib.nn.functional.conv1d(x.reshape(1, 1, 3), k.reshape(1, 1, 3), padding=1)
    )(a, b),
    "broadcasting": lambda lib, a, b, w: lib.func.vmap(lambda s, x: s * x + w.T)(a[:, 0], b),
    "chunks": lambda lib, a, b, w: lib.func.vmap(lambda x: x.sin(), out_dims=1, chunk_size=3)(a),
    "in place": lambda lib, a, b, w: lib.func.vmap(lambda x: x.clone().mul_(2).add_(x[0]))(a),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_pytorch(case: str, way: str) -> None:
    expected = CASES[case](torch, *tensors(torch))
    run = WAYS[way](lambda *t: CASES[case](flamec, *t))
    agree(run(*tensors(flamec)), expected)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_flow_to_batched_and_captured_tensors(way: str) -> None:
    def run(lib: Any, wrap: Any) -> Any:
        a, _, w = tensors(lib)
        a.requires_grad_(), w.requires_grad_()
        out = wrap(lambda a, w: lib.func.vmap(lambda x: lib.sin(x @ w))(a))(a, w)
        (out * out).sum().backward()
        return [a.grad, w.grad]

    agree(run(flamec, WAYS[way]), run(torch, lambda f: f))


def test_of_a_compiled_function_and_of_a_symbolic_batch() -> None:
    inner = flamec.compile(lambda x, w: flamec.tanh(x @ w).sum())
    a, _, w = tensors(flamec)
    agree(vmap(inner, (0, None))(a, w), flamec.tanh(a @ w).sum(1))
    outer = flamec.compile(vmap(grad(lambda x: (x**2).sum())))
    for rows in (4, 2, 3, 7):
        x = flamec.ones(rows, 3)
        agree(outer(x), 2 * x)
    assert outer.stats.traces == 2


class Cube(Function):
    """x cubed times w, with a derivative that shows when it is used: times 10."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any) -> Any:
        y = x**3 * w
        ctx.save_for_backward(x, w)
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, w = ctx.saved_tensors
        return 30 * g * x**2 * w, (g * x**3).sum() * 10


@pytest.mark.parametrize("way", WAYS)
def test_custom_functions(way: str) -> None:
    a, _, w = tensors(flamec)
    scale = w[0, :1].reshape(())
    per_sample = WAYS[way](vmap(grad(lambda x, w: Cube.apply(x, w).sum(), (0, 1)), (0, None)))
    dx, dw = per_sample(a, scale)
    agree(dx, 30 * a**2 * scale)
    agree(dw, 10 * (a**3).sum(1))
    a.requires_grad_()
    scale = scale.detach().requires_grad_()
    WAYS[way](lambda a, s: vmap(Cube.apply, (0, None))(a, s).sum())(a, scale).backward()
    agree(a.grad, 30 * a**2 * scale)
    agree(scale.grad, 10 * (a**3).sum())


@pytest.mark.parametrize("way", WAYS)
def test_random_numbers(way: str) -> None:
    x = flamec.zeros(1000, 2)

    def draw(mode: str) -> Any:
        f = vmap(lambda v: (v + flamec.rand(2), flamec.randn(3)), randomness=mode)
        return WAYS[way](f)

    flamec.manual_seed(3)
    uniform, normal = draw("different")(x)
    assert len(np.unique(uniform.numpy())) > 1900 and len(np.unique(normal.numpy())) > 2900
    assert abs(float(uniform.mean()) - 0.5) < 0.05 and abs(float(normal.std()) - 1) < 0.05
    following = flamec.rand(1000)  # what comes next was not drawn before
    assert not set(following.numpy()) & set(uniform.numpy().reshape(-1)) or way == "compiled"
    flamec.manual_seed(3)
    again, _ = draw("different")(x)
    np.testing.assert_array_equal(again.numpy(), uniform.numpy())
    flamec.manual_seed(3)
    same, _ = draw("same")(x)
    flamec.manual_seed(3)
    np.testing.assert_array_equal(same.numpy(), np.broadcast_to(flamec.rand(2).numpy(), (1000, 2)))
    with pytest.raises(RuntimeError, match="randomness error mode"):
        draw("error")(x)
    dropout = flamec.nn.Dropout(0.5)
    kept = WAYS[way](vmap(dropout, randomness="different"))(flamec.ones(200, 10)).numpy()
    assert 0.4 < (kept == 0).mean() < 0.6 and len(np.unique(kept, axis=0)) > 100


@pytest.mark.parametrize("lib", [torch, flamec], ids=["torch", "flamec"])
def test_errors(lib: Any) -> None:
    a, b, w = tensors(lib)
    of = lib.func.vmap
    identity = lambda *x: x[0]  # noqa: E731
    with pytest.raises(ValueError, match="same size in the mapped dimension"):
        of(identity)(a, w)
    with pytest.raises(ValueError, match="Got in_dim=2 for some input"):
        of(identity, 2)(a)
    with pytest.raises(ValueError, match="non-Tensor"):
        of(identity)(3)
    with pytest.raises(ValueError, match=r"in_dims is not compatible with the structure"):
        of(identity, (0, 0, 0))(a, b)
    with pytest.raises(ValueError, match="must only return Tensors"):
        of(lambda x: 3)(a)
    with pytest.raises(ValueError, match="can not return a BatchedTensor when out_dim is None"):
        of(identity, out_dims=None)(a)
    with pytest.raises(IndexError, match="Dimension out of range"):
        of(identity, out_dims=4)(a)
    with pytest.raises(RuntimeError, match="Only allowed values for randomness"):
        of(identity, randomness="some")(a)
    with pytest.raises(RuntimeError):
        of(lambda x: x.sum().item())(a)
    with pytest.raises(RuntimeError):
        of(lambda x: b[0].add_(x))(a)


def test_writes_to_arguments_and_buffers() -> None:
    a, b, _ = tensors(flamec)
    before = a.clone()
    vmap(lambda x: x.mul_(2), in_dims=1)(a)
    agree(a, 2 * before)
    count = flamec.zeros(())
    vmap(lambda x: x * count.add_(1))(b)
    assert count.item() == 1


def test_per_sample_gradients_of_a_module() -> None:
    model = flamec.nn.Sequential(flamec.nn.Linear(3, 4), flamec.nn.ReLU(), flamec.nn.Linear(4, 2))
    parameters = {k: v.detach() for k, v in model.named_parameters()}
    x, y = flamec.randn(6, 3), flamec.randint(0, 2, (6,))

    def one(p: Any, x: Any, y: Any) -> Any:
        out = flamec.func.functional_call(model, p, (x.unsqueeze(0),))
        return flamec.nn.functional.cross_entropy(out, y.unsqueeze(0))

    found = vmap(grad(one), in_dims=(None, 0, 0))(parameters, x, y)
    for i in range(6):
        model.zero_grad()
        flamec.nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            np.testing.assert_allclose(
                found[name][i].numpy(), parameter.grad.numpy(), rtol=1e-4, atol=1e-6
            )


def test_hessian_of_one_example_is_that_of_the_batch() -> None:
    a, _, _ = tensors(flamec)
    h = vmap(hessian(lambda x: (x**4).sum()))(a)
    agree(h, 12 * flamec.diag_embed(a**2))


SHARED = {  # what Python reads of tensors that are the same for all examples
    "item": lambda f, x, w, flag: f.vmap(lambda v: v * flag.item())(x),
    "branch": lambda f, x, w, flag: f.vmap(lambda v: v * (2 if flag == 1 else 3))(x),
    "computed": lambda f, x, w, flag: f.vmap(lambda v: v * float((w * 2).sum()))(x),
    "index": lambda f, x, w, flag: f.vmap(lambda v: v[int(flag)] + v[w > 0].sum())(x),
    "numpy": lambda f, x, w, flag: f.vmap(lambda v: v * float(w.numpy()[1]))(x),
    "argument": lambda f, x, w, flag: f.vmap(lambda v, k: v * k.item(), (0, None))(x, w[0]),
    "nested": lambda f, x, w, flag: f.vmap(f.vmap(lambda v: v * w.max().item()))(x),
    "written": lambda f, x, w, flag: f.vmap(lambda v: v * flag.add_(1).item())(x),
    "jacfwd": lambda f, x, w, flag: f.jacfwd(lambda v: v**2 if v.sum() < 0 else v)(w),
    "hessian": lambda f, x, w, flag: f.hessian(lambda v: (v**3).sum() * v.max().item())(w),
    "per sample": lambda f, x, w, flag: f.vmap(
        f.grad(lambda p, v: (p * v).sum() * (2 if flag.item() else 3)), (None, 0)
    )(w, x),
}


@pytest.mark.parametrize("case", SHARED)
def test_values_of_what_all_examples_share_can_be_read(case: str) -> None:
    def operands(lib: Any) -> list[Any]:
        values = [[1.0, 2.0], [3.0, 4.0]], [0.5, -2.0], 1
        return [lib.tensor(v) for v in values]

    mine, theirs = operands(flamec), operands(torch)
    agree(SHARED[case](flamec.func, *mine), SHARED[case](torch.func, *theirs))
    agree(mine[2], theirs[2])


def test_values_of_one_example_cannot_be_read() -> None:
    x = flamec.ones(2, 2)
    for f in (lambda v: v * v.sum().item(), lambda v: v * (v + x[0] > 0).all().item()):
        with pytest.raises(RuntimeError, match="stands for all examples"):
            vmap(f)(x)
    with pytest.raises(RuntimeError, match="stands for all examples"):
        vmap(lambda v: v * flamec.rand(()).item(), randomness="different")(x)
