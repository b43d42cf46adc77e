"""Kernels that users write take part in everything: here on the CPU, in C and with NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from user_kernels import cube, scaled_rows, squared_relu

import flamec
from flamec.errors import CompileError, OperationError, OperationTypeError, StageError
from flamec.ir import op as ir_op
from flamec.ir.types import TensorType
from flamec.tensor import Tensor


@pytest.fixture(autouse=True)
def own_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test declares is gone after it."""
    monkeypatch.setattr(ir_op, "USER_OPS", dict(ir_op.USER_OPS))
    yield


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


def test_numpy_forms_are_calls_of_the_host() -> None:
    f = flamec.compile(lambda x: squared_relu(x * 2, scale=0.5) + 1, backend="c")
    f(flamec.ones(3))
    plan = f.programs[0].prepared.plan
    assert plan is not None
    (call,) = plan.actions
    assert call.op == "squared_relu"  # type: ignore[union-attr]
    assert call.attributes == {"scale": 0.5}  # type: ignore[union-attr]


def test_strict_programs_take_the_form_of_eager_mode() -> None:
    x, w = flamec.tensor(random(4, 3)), flamec.tensor(random(4, seed=1))
    for numerics, kinds in (("default", ()), ("strict", ("scaled_rows",))):
        f = flamec.compile(backend="c", numerics=numerics)(lambda x, w: scaled_rows(x + 1, w))
        found, wanted = f(x, w), scaled_rows(x + 1, w)
        plan = f.programs[0].prepared.plan
        assert plan is not None
        assert tuple(call.op for call in plan.actions) == kinds  # type: ignore[union-attr]
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
    x = flamec.ones(3, requires_grad=True)
    y = squared_relu(x)
    x.data.mul_(2)  # not seen by autograd
    node = y._value.node  # type: ignore[union-attr]
    assert not node.saved_results  # type: ignore[union-attr]


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
    f = lambda v: squared_relu(v, scale=0.5)  # noqa: E731
    wanted = np.diag(np.maximum(x.numpy(), 0))
    np.testing.assert_allclose(flamec.func.jacrev(f)(x).numpy(), wanted, atol=1e-12)
    np.testing.assert_allclose(flamec.func.jacfwd(f)(x).numpy(), wanted, atol=1e-12)
    hessian = flamec.func.hessian(lambda v: f(v).sum())(x).numpy()
    np.testing.assert_allclose(hessian, np.diag((x.numpy() > 0) * 1.0), atol=1e-12)


# errors ------------------------------------------------------------------------------------


def declared(**options: Any) -> Any:
    @flamec.kernel(**options)
    def example(x: TensorType, *, k: int = 1) -> TensorType:
        return x

    return example


LINE = r"test_user_kernels\.py:\d+"


def test_no_form_for_the_device() -> None:
    example = declared()
    with pytest.raises(OperationTypeError, match=rf"example has no form for the CPU.*{LINE}"):
        example(flamec.ones(2))
    with pytest.raises(OperationTypeError, match="has no form for the CPU"):
        flamec.compile(lambda x: example(x) + 1)(flamec.ones(2))


def test_no_form_for_a_gpu(gpu: Any) -> None:
    example = declared()
    example.numpy(lambda x, k: x + k)
    with pytest.raises(OperationTypeError, match=rf"no form for cuda:0; write .*\.triton.*{LINE}"):
        example(flamec.ones(2, device=gpu))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda x, k: x[:1], r"gave result 0 the shape \[1\]; its shape rule promises \[2\]"),
        (lambda x, k: x.astype(np.float64), "the dtype float64; its shape rule promises float32"),
        (lambda x, k: (x, x), "gave 2 results, its shape rule promises 1"),
    ],
)
def test_a_shape_rule_that_does_not_fit(result: Any, message: str) -> None:
    example = declared()
    example.numpy(result)
    with pytest.raises((OperationError, OperationTypeError), match=rf"example.*{message}.*{LINE}"):
        example(flamec.ones(2))
    with pytest.raises((OperationError, OperationTypeError), match=message):
        flamec.compile(lambda x: example(x) * 2, backend="c")(flamec.ones(2))


def test_a_shape_rule_that_gives_no_type() -> None:
    example = flamec.kernel(lambda x: x.shape, name="shapes")
    with pytest.raises(OperationTypeError, match="the shape rule must return types"):
        example(flamec.ones(2))


def test_what_the_shape_rule_refuses() -> None:
    with pytest.raises(OperationError, match=rf"scaled_rows needs a matrix.*{LINE}"):
        scaled_rows(flamec.ones(3), flamec.ones(3))


def test_no_derivative() -> None:
    example = declared()
    example.numpy(lambda x, k: x + k)
    y = example(flamec.ones(2, requires_grad=True))
    with pytest.raises(OperationError, match=rf"example has no derivative; write one with.*{LINE}"):
        y.sum().backward()
    with pytest.raises(OperationError, match="has no derivative"):
        flamec.compile(lambda x: example(x).sum())(flamec.ones(2, requires_grad=True))
    fixed = declared(differentiable=False, name="fixed")
    fixed.numpy(lambda x, k: x + k)
    x = flamec.ones(2, requires_grad=True)
    (fixed(x) * x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0]
    with pytest.raises(TypeError, match="differentiable=False"):
        fixed.derivative(lambda ctx, g: g)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda ctx, g: (g, g), "gave 2 gradients for 1 operands"),
        (lambda ctx, g: g.sum(), r"gradient of shape \[\] for operand 0 of shape \[2\]"),
        (lambda ctx, g: 3, "gave a int for operand 0"),
        (lambda ctx, g: ctx.outputs[0] * g, "reads output 0, which saves_outputs= leaves out"),
        (lambda ctx, g: g * flamec.ones(2), None),
    ],
)
def test_derivatives_that_do_not_fit(rule: Any, message: str | None) -> None:
    example = declared()
    example.numpy(lambda x, k: x + k)
    example.derivative(rule, saves_outputs=())
    y = example(flamec.ones(2, requires_grad=True)).sum()
    if message is None:
        y.backward()
        return
    with pytest.raises((OperationError, OperationTypeError), match=rf"example.*{message}"):
        y.backward()


def test_a_derivative_that_uses_tensors_from_outside() -> None:
    weight = flamec.ones(2)
    example = declared()
    example.numpy(lambda x, k: x + k)
    example.derivative(lambda ctx, g: g * weight)
    with pytest.raises(OperationError, match="cannot use tensors from outside"):
        example(flamec.ones(2, requires_grad=True)).sum().backward()


def test_no_batching_rule() -> None:
    example = declared()
    example.numpy(lambda x, k: x + k)
    with pytest.raises(
        NotImplementedError, match=rf"example has no batching rule.*@example\..*{LINE}"
    ):
        flamec.vmap(example)(flamec.ones(2, 3))
    example.batching(lambda size, batched, x, k: x.sum())
    with pytest.raises(OperationError, match="must give tensors whose first dimension"):
        flamec.vmap(example)(flamec.ones(2, 3))


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(OperationTypeError, match=rf"operand x must be a Tensor, not float.*{LINE}"):
        squared_relu(1.0)
    with pytest.raises(OperationTypeError, match="the argument scale must be a number"):
        squared_relu(flamec.ones(2), scale=object())
    with pytest.raises(OperationTypeError, match=rf"squared_relu.*unexpected keyword.*{LINE}"):
        squared_relu(flamec.ones(2), factor=2.0)
    with pytest.raises(OperationTypeError, match=rf"squared_relu.*missing a required.*{LINE}"):
        squared_relu()


def test_declarations_that_make_no_sense() -> None:
    with pytest.raises(TypeError, match="at least one operand"):
        flamec.kernel(lambda: None, name="nothing")
    with pytest.raises(TypeError, match="fixed number of operands"):
        flamec.kernel(lambda *x: x[0], name="many")
    with pytest.raises(ValueError, match="'mul' is a primitive operation"):
        flamec.kernel(lambda x: x, name="mul")
    with pytest.raises(ValueError, match="is no name"):
        flamec.kernel(lambda x: x)
    with pytest.raises(ValueError, match="batching must be"):
        flamec.kernel(batching="all")


def test_c_that_does_not_compile_names_the_kernel(tmp_path: Path) -> None:
    example = declared()

    @example.c("static void broken(const float *x, float *y) { y[0] = x[0] }")
    def _(program: Any, x: Any, y: Any, *, k: int) -> None:
        program.broken(x, y)

    f = flamec.compile(lambda x: example(x), cache_folder=tmp_path)
    with pytest.raises(StageError, match="C compiler failed") as caught:
        f(flamec.ones(1))
    assert caught.value.stage == "compile"
    assert "broken" in str(caught.value)


@pytest.mark.parametrize(
    ("caller", "message"),
    [
        (lambda p, x, y, k: p.nothing(x), "has no function 'nothing'"),
        (lambda p, x, y, k: p.copy("x"), "copy cannot be given a str"),
        (lambda p, x, y, k: p.copy["many"](x), "the number of jobs of copy is an integer"),
    ],
)
def test_callers_that_make_no_sense(caller: Any, message: str) -> None:
    example = declared()
    example.c("static void copy(const float *x) {}")(caller)
    with pytest.raises((OperationTypeError, CompileError, TypeError), match=message):
        flamec.compile(lambda x: example(x), backend="c")(flamec.ones(1))


def test_a_form_that_changes_its_operand() -> None:
    example = declared()

    @example.numpy
    def _(x: np.ndarray, *, k: int) -> np.ndarray:
        x += k
        return x

    with pytest.raises(OperationError, match="read-only"):
        example(flamec.ones(2))


def test_results_have_memory_of_their_own() -> None:
    example = declared()
    example.numpy(lambda x, k: x)
    x = flamec.ones(2)
    y = example(x)
    y.add_(1)
    assert x.tolist() == [1.0, 1.0]


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
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLAMEC_")}
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(SCRIPT.format(factor=factor, power=power)))
        done = subprocess.run(
            [sys.executable, str(path)],
            env={**inherited, "FLAMEC_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
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


# check -------------------------------------------------------------------------------------


def test_check_says_what_was_compared() -> None:
    double = flamec.float64
    assert squared_relu.check(flamec.randn(4, 3, dtype=double), scale=2.0) == [
        "compiled",
        "batching",
        "derivative",
    ]
    assert scaled_rows.check(flamec.randn(4, 3), flamec.randn(4)) == ["c", "compiled", "batching"]


def test_check_finds_forms_and_rules_that_differ() -> None:
    example = declared(batching="leading", name="differing")
    example.numpy(lambda x, k: x * 2)
    text = (
        "static void f(const {0} *x, {0} *y, int64_t n)"
        "{{ for (int64_t i = 0; i < n; i++) y[i] = {1} * x[i]; }}"
    )

    def c_form(factor: int, kind: str) -> None:
        @example.c(text.format(kind, factor))
        def _(program: Any, x: Any, y: Any, *, k: int) -> None:
            program.f(x, y, x.numel())

    c_form(3, "float")
    with pytest.raises(AssertionError, match="differing: the C form differs: result 0 at"):
        example.check(flamec.ones(2))
    c_form(2, "double")
    x = flamec.ones(2, dtype=flamec.float64)
    assert example.check(x) == ["c", "compiled", "batching"]
    example.derivative(lambda ctx, g: 3 * g)
    with pytest.raises(flamec.autograd.GradcheckError):
        example.check(x)
    example.derivative(lambda ctx, g: 2 * g)
    assert example.check(x) == ["c", "compiled", "batching", "derivative"]
    example.batching(lambda size, batched, x, k: x * 3)
    with pytest.raises(AssertionError, match="the batching rule differs"):
        example.check(x)


# finding mistakes --------------------------------------------------------------------------


def test_reproductions_name_the_file_that_declares_a_kernel(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import flamec

            @flamec.kernel
            def failing(x):
                return x

            @failing.c("static void failing(const float *x, float *y) { y[0] = x[0] }")
            def _(program, x, y):
                program.failing(x, y)

            if __name__ == "__main__":
                flamec.compile(lambda x: failing(x) + 1)(flamec.ones(1))
            """
        )
    )

    def run(file: Path) -> str:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLAMEC_")}
        done = subprocess.run(
            [sys.executable, str(file)],
            env={**inherited, "FLAMEC_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 1
        return done.stderr

    assert "to see it again" in run(program)
    (path,) = (tmp_path / "cache" / "reproductions").glob("*.py")
    assert str(program) in path.read_text()
    again = run(path)
    assert "the same failure" in again
    assert "failing" in again
