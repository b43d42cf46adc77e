"""Kernels that users write take part in everything: here on the CPU, in C and with NumPy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_process import run_python
from user_kernels import cube, scaled_rows, squared_relu

import flamec
from flamec.compiled_function import CompiledFunction
from flamec.ir.plan import HostCall
from flamec.ir.types import TensorType
from flamec.tensor import Tensor

pytestmark = pytest.mark.usefixtures("own_kernels")


def random(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def reference(x: np.ndarray, scale: float = 1.0) -> np.ndarray:
    return np.maximum(x.astype(np.float64), 0) ** 2 * scale


SHAPES = [(7,), (), (0,), (3, 0, 2), (1,), (33, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [flamec.float32, flamec.float64, flamec.bfloat16])
def test_eager_and_compiled_values(shape: tuple[int, ...], dtype: Any) -> None:
    x = flamec.tensor(random(*shape)).to(dtype)
    f = flamec.compile(lambda x: squared_relu(x, scale=3.0))
    exact = reference(x.double().numpy(), 3.0)
    for found in (squared_relu(x, scale=3.0), f(x)):
        assert found.dtype is dtype
        rtol = 2**-7 if dtype is flamec.bfloat16 else 1e-6
        np.testing.assert_allclose(found.double().numpy(), exact, rtol=rtol)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_c_forms_run_eager_and_compiled(shape: tuple[int, ...], dtype: Any) -> None:
    x = flamec.tensor(random(*shape, dtype=dtype))
    exact = x.double().numpy() ** 3
    f = flamec.compile(lambda x: cube(x) + 1)
    np.testing.assert_allclose(cube(x).numpy(), exact, rtol=1e-5)
    np.testing.assert_allclose(f(x).numpy(), exact + 1, rtol=1e-5)


def test_operands_that_are_not_dense() -> None:
    x = flamec.tensor(random(6, 8))
    for view in (x.T, x[::2], x[:, 3:4].expand(6, 5), x.flip(0)):
        exact = reference(view.numpy())
        np.testing.assert_allclose(squared_relu(view).numpy(), exact, rtol=1e-6)
        np.testing.assert_allclose(cube(view).numpy(), view.double().numpy() ** 3, rtol=1e-5)
        g = flamec.compile(lambda v: squared_relu(v) + cube(v))
        wanted = exact + view.double().numpy() ** 3
        np.testing.assert_allclose(g(view).numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_several_operands_and_results() -> None:
    x, w = flamec.tensor(random(4, 3)), flamec.tensor(random(4, seed=1))
    exact = x.numpy() * w.numpy()[:, None]
    for function in (scaled_rows, flamec.compile(scaled_rows)):
        y, s = function(x, w)
        np.testing.assert_allclose(y.numpy(), exact, rtol=1e-6)
        np.testing.assert_allclose(s.numpy(), exact.sum(1), rtol=1e-5, atol=1e-6)


def test_new_sizes_compile_nothing() -> None:
    f = flamec.compile(lambda x, w: scaled_rows(x * 2, w)[1], dynamic=True)
    for rows, columns in ((4, 3), (5, 9), (2, 7), (17, 100)):
        x, w = flamec.tensor(random(rows, columns)), flamec.tensor(random(rows))
        wanted = (2 * x.numpy() * w.numpy()[:, None]).sum(1)
        np.testing.assert_allclose(f(x, w).numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert f.stats.traces == 1


# in graphs ---------------------------------------------------------------------------------


def test_neighbours_are_fused_among_themselves() -> None:
    f = flamec.compile(lambda x: (cube(x * 2 + 1) - 3).exp().sum(1), backend="c")
    f(flamec.tensor(random(4, 5)))
    program = f.programs[0]
    kernels = program.prepared.compiled.kernels
    assert [k.kind for k in kernels] == ["pointwise", "user", "reduction"]
    assert kernels[0].operations == ("mul", "add")
    assert kernels[1].operations == ("cube",)
    assert kernels[2].operations == ("sub", "exp", "sum")
    assert "= cube(%" in program.stages["traced"]
    assert "CUBE(cube_float32, float)" in program.stages["source"]
    assert any("kernel that the user wrote" in str(d) for d in program.prepared.compiled.decisions)
    step = program.prepared.compiled.plan.steps[1]
    assert step.name == "kernel_1"
    assert (step.bytes_read, step.bytes_written, step.in_place) == (80, 80, ())
    assert step.locations[0].rpartition(":")[0].endswith("test_user_kernels.py")


def host_calls(f: CompiledFunction) -> list[HostCall]:
    """The actions of a function's first program, all of which are calls of the host."""
    plan = f.programs[0].prepared.plan
    assert plan is not None
    calls = [action for action in plan.actions if isinstance(action, HostCall)]
    assert len(calls) == len(plan.actions)
    return calls


def test_numpy_forms_are_calls_of_the_host() -> None:
    f = flamec.compile(lambda x: squared_relu(x * 2, scale=0.5) + 1, backend="c")
    f(flamec.ones(3))
    (call,) = host_calls(f)
    assert call.op == "squared_relu"
    assert call.attributes == {"scale": 0.5}


def test_strict_programs_take_the_form_of_eager_mode() -> None:
    x, w = flamec.tensor(random(4, 3)), flamec.tensor(random(4, seed=1))
    for numerics, kinds in (("default", ()), ("strict", ("scaled_rows",))):
        f = flamec.compile(backend="c", numerics=numerics)(lambda x, w: scaled_rows(x + 1, w))
        found, wanted = f(x, w), scaled_rows(x + 1, w)
        assert tuple(call.op for call in host_calls(f)) == kinds
        if numerics == "strict":
            for one, other in zip(found, wanted, strict=True):
                assert one.numpy().tobytes() == other.numpy().tobytes()


def test_equal_calls_are_computed_once_and_unused_ones_not_at_all() -> None:
    def f(x: Tensor) -> Tensor:
        squared_relu(x, scale=7.0)
        return squared_relu(x) + squared_relu(x) * squared_relu(x, scale=2.0)

    g = flamec.compile(f)
    x = flamec.tensor(random(5))
    np.testing.assert_allclose(g(x).numpy(), f(x).numpy(), rtol=1e-6)
    nodes = g.programs[0].prepared.optimized.nodes
    assert [n.op.name for n in nodes].count("squared_relu") == 2


def test_an_input_is_not_overwritten_while_the_kernel_reads_it() -> None:
    """A program that writes the result back must not let both share memory."""

    @flamec.kernel
    def backwards(x: TensorType) -> TensorType:
        return x

    @backwards.c(
        "static void turn(const float *x, float *y, int64_t n)"
        "{ for (int64_t i = 0; i < n; i++) y[i] = x[n - 1 - i]; }"
    )
    def _(program: Any, x: Any, y: Any) -> None:
        program.turn(x, y, x.numel())

    @flamec.compile
    def step(x: Tensor) -> None:
        x.copy_(backwards(x))

    x = flamec.arange(6.0)
    step(x)
    assert x.tolist() == [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    f = flamec.compile(lambda x: backwards(backwards(x + 1) * 2))
    assert f(flamec.arange(3.0)).tolist() == [2.0, 4.0, 6.0]


def test_inside_of_a_loop() -> None:
    def f(x: Tensor) -> Tensor:
        return flamec.scan(lambda c, e: (squared_relu(c) + e, cube(c)), x[0], x)[1]

    x = flamec.tensor(random(4, 3) / 4)
    np.testing.assert_allclose(flamec.compile(f)(x).numpy(), f(x).numpy(), rtol=1e-5)


def test_numbers_that_change_are_new_programs() -> None:
    f = flamec.compile(lambda x, s: squared_relu(x, scale=s))
    x = flamec.ones(3)
    assert [f(x, s).tolist()[0] for s in (1.0, 2.0, 3.0)] == [1.0, 2.0, 3.0]


def test_evaluated_programs() -> None:
    f = flamec.compile(lambda x: squared_relu(x) + cube(x), backend="evaluate")
    assert f(flamec.tensor([2.0])).tolist() == [12.0]
    checked = flamec.compile(lambda x: squared_relu(x).log(), check="inf")
    with pytest.raises(FloatingPointError, match="log"):
        checked(flamec.tensor([-1.0]))


# derivatives -------------------------------------------------------------------------------


def test_gradients_of_every_order() -> None:
    x = flamec.tensor(random(5, dtype=np.float64) + 0.1, requires_grad=True)
    w = flamec.tensor(random(5, dtype=np.float64, seed=2), requires_grad=True)
    m = flamec.tensor(random(5, 3, dtype=np.float64, seed=3), requires_grad=True)
    for f, arguments in (
        (lambda x: squared_relu(x, scale=1.5), (x,)),
        (cube, (x,)),
        (lambda x: cube(squared_relu(x)), (x,)),
    ):
        assert flamec.autograd.gradcheck(f, arguments)
        assert flamec.autograd.gradgradcheck(f, arguments)

    @flamec.kernel(name="scaled_rows_in_double")
    def rows(x: TensorType, w: TensorType) -> tuple[TensorType, TensorType]:
        return x, w

    rows.numpy(scaled_rows._numpy)

    @rows.derivative
    def _(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.inputs
        both = g + h[:, None]
        return both * w[:, None], (both * x).sum(1)

    assert flamec.autograd.gradcheck(rows, (m, w))
    assert flamec.autograd.gradgradcheck(rows, (m, w))
    assert flamec.autograd.gradcheck(lambda m, w: rows(m, w)[1], (m, w))  # one result unused
    third = flamec.func.grad(flamec.func.grad(flamec.func.grad(lambda v: cube(v).sum())))
    assert third(flamec.tensor(2.0, dtype=flamec.float64)).item() == 6.0


def test_gradients_of_compiled_programs() -> None:
    def loss(x: Tensor) -> Tensor:
        return (cube(x * 2) + squared_relu(x, scale=2.0)).sum()

    x = flamec.tensor(random(6, dtype=np.float64), requires_grad=True)
    loss(x).backward()
    wanted, x.grad = x.grad, None
    assert wanted is not None
    f = flamec.compile(loss)
    f(x).backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), wanted.numpy(), rtol=1e-12)

    @flamec.compile(fullgraph=True)
    def inside(x: Tensor) -> Tensor:
        return flamec.autograd.grad(loss(x), x)[0]

    np.testing.assert_allclose(inside(x).numpy(), wanted.numpy(), rtol=1e-12)
    assert flamec.autograd.gradgradcheck(f, (x,))


def test_a_training_step() -> None:
    flamec.manual_seed(0)
    results = []
    for wrap in (lambda f: f, flamec.compile(fullgraph=True)):
        flamec.manual_seed(0)
        layer = flamec.nn.Linear(4, 3)
        optimizer = flamec.optim.SGD(layer.parameters(), lr=0.1)

        def step(x: Tensor, layer: Any = layer, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = squared_relu(layer(x)).mean()
            loss.backward()
            optimizer.step()
            return loss

        run = wrap(step)
        x = flamec.tensor(random(8, 4))
        results.append([run(x).item() for _ in range(4)])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    assert results[0][-1] < results[0][0]


def test_what_the_derivative_does_not_read_is_not_kept() -> None:
    """``squared_relu`` says that it reads no result; ``cube`` does not say."""
    x = flamec.ones(3, requires_grad=True)
    kept = []
    for kernel in (squared_relu, cube):
        node: Any = kernel(x)._value.node
        kept.append((len(node.saved), len(node.saved_results)))
    assert kept == [(1, 0), (1, 1)]


def test_a_kernel_in_its_own_derivative() -> None:
    @flamec.kernel
    def exponential(x: TensorType) -> TensorType:
        return x

    exponential.numpy(np.exp)

    @exponential.derivative(saves_outputs=())
    def _(ctx: Any, g: Tensor) -> Tensor:
        return g * exponential(ctx.inputs[0])

    x = flamec.tensor([0.5, 1.0], dtype=flamec.float64, requires_grad=True)
    assert flamec.autograd.gradcheck(exponential, (x,))
    assert flamec.autograd.gradgradcheck(exponential, (x,))


# batches -----------------------------------------------------------------------------------


def test_vmap() -> None:
    x = flamec.tensor(random(4, 5, 3))
    w = flamec.tensor(random(5, seed=1))
    np.testing.assert_allclose(
        flamec.vmap(squared_relu)(x).numpy(), reference(x.numpy()), rtol=1e-6
    )
    y, s = flamec.vmap(scaled_rows, in_dims=(0, None))(x, w)
    for i in range(4):
        one, total = scaled_rows(x[i], w)
        np.testing.assert_allclose(y[i].numpy(), one.numpy(), rtol=1e-6)
        np.testing.assert_allclose(s[i].numpy(), total.numpy(), rtol=1e-5)
    compiled = flamec.compile(flamec.vmap(lambda v: squared_relu(v).sum()))
    np.testing.assert_allclose(compiled(x).numpy(), reference(x.numpy()).sum((1, 2)), rtol=1e-5)


def test_jacobians_and_hessians_batch_derivatives() -> None:
    x = flamec.tensor(random(3, dtype=np.float64))

    def f(v: Tensor) -> Tensor:
        return squared_relu(v, scale=0.5)

    wanted = np.diag(np.maximum(x.numpy(), 0))
    np.testing.assert_allclose(flamec.func.jacrev(f)(x).numpy(), wanted, atol=1e-12)
    np.testing.assert_allclose(flamec.func.jacfwd(f)(x).numpy(), wanted, atol=1e-12)
    hessian = flamec.func.hessian(lambda v: f(v).sum())(x).numpy()
    np.testing.assert_allclose(hessian, np.diag((x.numpy() > 0) * 1.0), atol=1e-12)


# declared again, cached --------------------------------------------------------------------


def test_a_kernel_may_be_declared_again() -> None:
    def version(factor: float) -> Any:
        @flamec.kernel(name="scaled_again")
        def scaled(x: TensorType) -> TensorType:
            return x

        @scaled.c(
            "static void scale_again(const float *x, float *y, int64_t n)"
            f"{{ for (int64_t i = 0; i < n; i++) y[i] = x[i] * {factor}; }}"
        )
        def _(program: Any, x: Any, y: Any) -> None:
            program.scale_again(x, y, x.numel())

        return scaled

    for factor in (2.0, 3.0):
        kernel = version(factor)
        f = flamec.compile(lambda x, kernel=kernel: kernel(x) + 1)
        assert f(flamec.ones(2)).tolist() == [factor + 1] * 2


SCRIPT = """
import sys
import flamec

FACTOR = {factor}

@flamec.kernel
def scaled(x):
    return x

@scaled.c('''
static void scale(const float *x, float *y, int64_t n, double factor) {{
    for (int64_t i = 0; i < n; i++) y[i] = {power};
}}
''')
def _(program, x, y):
    program.scale(x, y, x.numel(), FACTOR)

f = flamec.compile(lambda x: scaled(x) + 1)
print(f(flamec.ones(2) * 2).tolist(), f.stats.kernels_compiled)
print([m for m in ("jinja2", "networkx", "triton") if m in sys.modules])
"""


def test_the_cache_on_disk_knows_the_source(tmp_path: Path) -> None:
    def run(factor: float, power: str = "factor * x[i]") -> list[str]:
        path = tmp_path / "program.py"
        path.write_text(SCRIPT.format(factor=factor, power=power))
        done = run_python(path, cache=tmp_path / "cache")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert run(3.0)[0] == "[7.0, 7.0] 2"
    assert run(3.0) == ["[7.0, 7.0] 0", "[]"]
    assert run(4.0)[0] == "[9.0, 9.0] 2"  # a number that the caller passes
    assert run(4.0, "factor * x[i] * x[i]")[0] == "[17.0, 17.0] 2"  # the text
    assert run(3.0)[0] == "[7.0, 7.0] 0"


def test_an_exported_program_runs_c_forms(tmp_path: Path) -> None:
    path = tmp_path / "program.flamec"
    flamec.export(lambda x: cube(x) + 1, (flamec.ones(3),), path, dynamic={0: [0]})
    found = flamec.load(path)(np.array([1.0, 2.0], np.float32))
    np.testing.assert_allclose(found, [2.0, 9.0])


def test_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flamec.compile(lambda x: squared_relu(x) + cube(x))(flamec.ones(3))
