"""Mistakes in kernels that users write: what is refused, what ``check`` finds, reproductions."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_process import run_python
from user_kernels import cube, scaled_rows, squared_relu

import flamec
from flamec.errors import CompileError, OperationError, OperationTypeError, StageError
from flamec.ir.types import TensorType

pytestmark = pytest.mark.usefixtures("own_kernels")


def declared(**options: Any) -> Any:
    @flamec.kernel(**options)
    def example(x: TensorType, *, k: int = 1) -> TensorType:
        return x

    return example


LINE = r"test_user_kernel_mistakes\.py:\d+"


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
    ],
)
def test_derivatives_that_do_not_fit(rule: Any, message: str) -> None:
    example = declared()
    example.numpy(lambda x, k: x + k)
    example.derivative(rule, saves_outputs=())
    y = example(flamec.ones(2, requires_grad=True)).sum()
    with pytest.raises((OperationError, OperationTypeError), match=rf"example.*{message}"):
        y.backward()


def test_a_derivative_may_make_tensors_but_not_use_those_from_outside() -> None:
    weight = flamec.full((2,), 3.0)
    inside, outside = declared(name="inside"), declared(name="outside")
    inside.derivative(lambda ctx, g: g * flamec.full((2,), 3.0))
    outside.derivative(lambda ctx, g: g * weight)
    x = flamec.ones(2, requires_grad=True)
    for example in (inside, outside):
        example.numpy(lambda x, k: x + k)
    inside(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3.0, 3.0]
    with pytest.raises(OperationError, match="cannot use tensors from outside"):
        outside(x).sum().backward()


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
        (lambda p, x, y, k: None, r"gives result 0 \(float32\[1\]\) to no call"),
    ],
)
def test_callers_that_make_no_sense(caller: Any, message: str) -> None:
    example = declared()
    example.c("static void copy(const float *x) {}")(caller)
    with pytest.raises((OperationTypeError, CompileError, TypeError), match=message):
        flamec.compile(lambda x: example(x), backend="c")(flamec.ones(1))


@pytest.mark.parametrize("jobs", [None, 1])
def test_c_functions_for_arrays_of_another_type(jobs: int | None) -> None:
    """They would read beyond the arrays' ends, or other numbers."""
    example = declared()
    begin = "" if jobs is None else "int64_t begin, int64_t end, "

    @example.c(f"static void copy({begin}const float *x, float *y) {{ y[0] = x[0]; }}")
    def _(program: Any, x: Any, y: Any, *, k: int) -> None:
        (program.copy if jobs is None else program.copy[jobs])(x, y)

    x = flamec.tensor([2.0])
    assert example(x).tolist() == [2.0]
    for other in (flamec.float64, flamec.int32, flamec.float16):
        with pytest.raises(StageError, match="incompatible pointer type"):
            example(x.to(other))


def test_a_launcher_that_launches_nothing(gpu: Any) -> None:
    example = declared()

    def idle(x: Any, y: Any) -> None:
        pass

    example.triton(idle)(lambda kernel, x, y, k: None)
    with pytest.raises(OperationTypeError, match="to no launch, so nothing writes it"):
        example(flamec.ones(1, device=gpu))


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


# check -------------------------------------------------------------------------------------


def test_check_says_what_was_compared() -> None:
    double = flamec.float64
    assert squared_relu.check(flamec.randn(4, 3, dtype=double), scale=2.0) == [
        "compiled",
        "batching",
        "derivative",
    ]
    assert scaled_rows.check(flamec.randn(4, 3), flamec.randn(4)) == [
        "c",
        "compiled",
        "batching",
        "derivative",
    ]
    assert cube.check(flamec.randn(3)) == ["compiled"]  # in C alone, for float32 alone


def test_check_compares_the_derivative_in_float64() -> None:
    example = declared(name="checked")
    example.numpy(lambda x, k: x**2)
    example.derivative(lambda ctx, g: 2 * ctx.inputs[0] * g)
    for x in (flamec.randn(3), flamec.randn(3, dtype=flamec.float16), flamec.randn(2000)):
        assert example.check(x) == ["compiled", "derivative"]
    assert example.check(flamec.arange(3)) == ["compiled"]
    example.derivative(lambda ctx, g: 3 * ctx.inputs[0] * g)
    for x in (flamec.randn(3), flamec.randn(2000)):
        with pytest.raises(flamec.autograd.GradcheckError):
            example.check(x)
    example.numpy(lambda x, k: x.astype(np.float32) ** 2)
    assert example.check(flamec.randn(3)) == ["compiled"]


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
        done = run_python(file, cache=tmp_path / "cache")
        assert done.returncode == 1
        return done.stderr

    assert "to see it again" in run(program)
    (path,) = (tmp_path / "cache" / "reproductions").glob("*.py")
    assert str(program) in path.read_text()
    again = run(path)
    assert "the same failure" in again
    assert "failing" in again
