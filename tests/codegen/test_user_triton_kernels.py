"""Triton kernels of users: their text, in the interpreter, as machine code, in the cache."""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import user_kernels
from compiling_gpu import new_process
from interpreted import TESTS, run_interpreted
from user_kernels import scaled_rows, squared_relu

import flamec
from flamec import cuda_backend
from flamec import gpu as gpu_module
from flamec.codegen.errors import LoweringError
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.debugging.minification import minify
from flamec.debugging.replay import replay
from flamec.debugging.reproduction import read
from flamec.errors import OperationTypeError
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.op import lookup
from flamec.ir.plan import ExecutionPlan, Launch
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import Device, TensorType, bfloat16, float32, float64
from flamec.kernels.triton_source import triton_function
from flamec.runtime.cuda.triton_compiler import TritonError, build_kernel, disassemble
from flamec.runtime.kernel_cache import KernelCache

if TYPE_CHECKING:  # Triton compiles the kernels; this file does not load it
    import triton.language as tl

GPU = Device("cuda", 0)
B = SymbolicDim.symbol("B")
WIDTH = 64


def around(x: TensorType, scale: float = 2.0) -> Graph:
    """The kernel between elementwise operations and a sum."""
    b = GraphBuilder()
    v = b.input(x, "x")
    y = b.apply(squared_relu.op, [b.exp(v)], {"scale": scale})
    return b.build([b.sum(b.neg(b.tanh(y)), axes=(0,)), y])


# the interpreter ---------------------------------------------------------------------------


def test_values_in_the_interpreter() -> None:
    found = run_interpreted("user_kernels.py", [])
    assert len(found) == 8
    assert {f["case"] for f in found} == set(user_kernels.cases())
    for facts in found:
        assert facts["gap"] < 1e-6, facts
        assert bool(facts["symbols"]) == facts["dynamic"]


# plans -------------------------------------------------------------------------------------


def test_a_kernel_is_a_launch_between_fused_neighbours() -> None:
    plan = compile_graph(around(TensorType((1000,), float32, GPU))).plan
    assert [s.kind for s in plan.steps] == ["pointwise", "user", "reduction"]
    launches = [a for a in plan.actions if isinstance(a, Launch)]
    assert len(launches) == len(plan.actions)
    (own,) = [x for x in launches if plan.kernels[x.kernel].function == "squared_relu_kernel"]
    assert own.grid == (4, 1, 1)
    assert own.step == 1
    assert [a.value for a in own.arguments[2:]] == [1000, 2.0]
    source = plan.kernels[own.kernel]
    assert source.constants == {"BLOCK": 256}
    assert source.aligned == ("x", "y")
    assert dict(source.parameters)["scale"] == "fp32"
    assert "def squared_relu_kernel(x, y, n, scale, BLOCK: tl.constexpr):" in plan.source
    assert "def positive(v):" in plan.source
    again = ExecutionPlan.from_json(plan.to_json())
    assert again.actions == plan.actions
    assert again.kernels == plan.kernels


def test_symbolic_sizes_are_arguments() -> None:
    plan = compile_graph(around(TensorType((16 * B,), bfloat16, GPU))).plan
    (own,) = [
        a
        for a in plan.actions
        if isinstance(a, Launch) and plan.kernels[a.kernel].function == "squared_relu_kernel"
    ]
    source = plan.kernels[own.kernel]
    assert dict(source.parameters)["x"] == "*bf16"
    assert dict(source.parameters)["n"] == "i64"
    assert source.aligned == ("x", "y", "n")
    assert not isinstance(own.grid[0], int)


def test_meta_parameters_of_a_size_make_it_a_guard(gpu: Any) -> None:
    """Both of the simulated and the real GPU."""
    f = flamec.compile(lambda x, w: scaled_rows(x, w)[1], dynamic=True)
    for rows, columns, traces in ((4, 3, 1), (7, 3, 1), (5, 6, 2)):
        x = flamec.ones(rows, columns, device=gpu)
        assert f(x, flamec.ones(rows, device=gpu)).tolist() == [columns] * rows
        assert f.stats.traces == traces


def test_without_a_trace_a_size_cannot_be_a_meta_parameter() -> None:
    b = GraphBuilder()
    x, w = b.input(TensorType((4, B), float32)), b.input(TensorType((4,), float32))
    graph = b.build(b.apply(scaled_rows.op, [x, w], {}))
    with pytest.raises(LoweringError, match="launches of scaled_rows need sizes: the size B"):
        compile_graph(graph)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_120"])
def test_machine_code(target: str, tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    b = GraphBuilder()
    x, w = b.input(TensorType((4, 70), float32, GPU)), b.input(TensorType((4,), float32, GPU))
    values: tuple[Value, ...] = b.apply(scaled_rows.op, [x, w], {})
    rows = b.build(values)
    for graph, names in (
        (around(TensorType((1000,), bfloat16, GPU)), {"squared_relu_kernel"}),
        (around(TensorType((B,), float64, GPU)), {"squared_relu_kernel"}),
        (rows, {"scale_kernel", "sum_kernel"}),
    ):
        plan = compile_graph(graph).plan
        own = [k for k in plan.kernels if k.function in names]
        assert {k.function for k in own} == names
        for source in own:
            assert source.function in disassemble(build_kernel(source, target, cache))


def test_the_source_belongs_to_the_key_of_a_graph() -> None:
    graph = around(TensorType((1000,), float32, GPU))
    assert graph.fingerprint() == around(TensorType((1000,), float32, GPU)).fingerprint()
    assert graph.fingerprint() != around(TensorType((1000,), float32, GPU), 3.0).fingerprint()

    def other(block: int) -> str:
        @flamec.kernel(name="for_the_key")
        def example(x: TensorType) -> TensorType:
            return x

        @example.triton(copy_kernel)
        def _(kernel: Any, x: Any, y: Any) -> None:
            kernel[flamec.cdiv(x.numel(), block)](x, y, x.numel(), block)

        b = GraphBuilder()
        v = b.input(TensorType((1000,), float32, GPU))
        return b.build([b.apply(example.op, [v], {})]).fingerprint()

    assert other(64) == other(64)
    assert other(64) != other(128)


# a second process --------------------------------------------------------------------------

SECOND = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import pytest
from compiling_gpu import new_process
import user_kernels
from flamec import cuda_backend
from flamec.ir.builder import GraphBuilder
from flamec.ir.types import Device, TensorType, float32

options, _ = new_process(pytest.MonkeyPatch(), Path(sys.argv[1]))
b = GraphBuilder()
v = b.input(TensorType((1000,), float32, Device("cuda", 0)))
graph = b.build([b.exp(b.apply(user_kernels.squared_relu.op, [v], {{"scale": 2.0}}))])
prepared = cuda_backend.prepare(graph, (), options)
heavy = [m for m in ("triton", "jinja2", "networkx") if m in sys.modules]
print(json.dumps([prepared.kernels_compiled, prepared.kernels_from_cache, heavy]))
"""


def test_a_second_process_compiles_nothing_and_imports_no_triton(tmp_path: Path) -> None:
    def run() -> list[Any]:
        path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
        done = subprocess.run(
            [sys.executable, "-c", SECOND.format(tests=str(TESTS)), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    assert run()[:2] == [2, 0]
    assert run() == [0, 2, []]


def test_a_kernel_that_triton_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flamec.kernel
    def refused(x: TensorType) -> TensorType:
        return x

    @refused.triton(nonsense_kernel)
    def _(kernel: Any, x: Any, y: Any) -> None:
        kernel[(1,)](x, y)

    options, _ = new_process(monkeypatch, tmp_path)
    b = GraphBuilder()
    graph = b.build([b.apply(refused.op, [b.input(TensorType((4,), float32, GPU))], {})])
    with pytest.raises(flamec.errors.StageError, match="refused") as caught:
        cuda_backend.prepare(graph, (), options)
    assert caught.value.stage == "compile"
    assert isinstance(caught.value.cause, TritonError)
    assert "nonsense_kernel" in str(caught.value)
    path = caught.value.reproduction
    assert path is not None
    found = read(path)
    assert found.options["target"] == "sm_90"
    assert replay(path)[0] == 1
    with monkeypatch.context() as patch:  # where there is no GPU
        patch.setattr(gpu_module, "unavailable_reason", lambda: "none here")
        assert replay(path)[0] == 1
        assert minify(found).signature.error == "TritonError"


def nonsense_kernel(x, y):  # type: ignore[no-untyped-def]
    tl.store(y, tl.no_such_function(x))


# texts -------------------------------------------------------------------------------------


def helper(v):  # type: ignore[no-untyped-def]
    return deeper(v) + 1


def deeper(v):  # type: ignore[no-untyped-def]
    return v * WIDTH


def calling_kernel(x, y, BLOCK: tl.constexpr = 8):  # type: ignore[no-untyped-def]
    """A docstring."""
    at = tl.arange(0, BLOCK)
    tl.store(y + at, helper(tl.load(x + at)))


def copy_kernel(x, y, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < n), mask=at < n)


def array_kernel(x):  # type: ignore[no-untyped-def]
    tl.store(x, TABLE[0])


def undefined_kernel(x):  # type: ignore[no-untyped-def]
    tl.store(x, no_such_name)  # noqa: F821


def numpy_kernel(x):  # type: ignore[no-untyped-def]
    tl.store(x, np.pi)


def variadic_kernel(*x):  # type: ignore[no-untyped-def]
    pass


TABLE = [1, 2]


def test_what_a_kernel_uses_is_in_its_text() -> None:
    found = triton_function(calling_kernel)
    order = ["import triton", "WIDTH = tl.constexpr(64)", "def deeper", "def helper", "def calling"]
    places = [found.text.index(part) for part in order]
    assert places == sorted(places)
    assert found.text.count("@triton.jit") == 3
    assert found.parameters == ("x", "y", "BLOCK")
    assert found.constants == {"BLOCK"}
    assert found.defaults == {"BLOCK": 8}


def test_a_function_that_triton_has_decorated_already() -> None:
    class Decorated:
        fn = staticmethod(copy_kernel)

    assert triton_function(Decorated()).text == triton_function(copy_kernel).text
    assert "triton" not in {m.partition(".")[0] for m in vars(user_kernels)}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (array_kernel, "'TABLE' is a list"),
        (undefined_kernel, "'no_such_name' is not defined"),
        (numpy_kernel, "'np' is a module"),
        (variadic_kernel, "fixed list of parameters"),
        (len, "is a Python function, not builtin_function_or_method"),
    ],
)
def test_what_cannot_be_put_into_a_text(function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        triton_function(function)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (lambda k, x, y: k[(1,)](x, y), "copy_kernel was not given n, BLOCK"),
        (lambda k, x, y: k[(1,)](x, y, 1, 8, 9), "takes 4 arguments, 5 were given"),
        (lambda k, x, y: k[(1,)](x, y, 1, BLOCK=8, SIZE=2), "has no parameter 'SIZE'"),
        (lambda k, x, y: k[(1,)](x, y, 1, 8, BLOCK=8), "was given 'BLOCK' twice"),
        (lambda k, x, y: k[(1,)](x, y, "n", BLOCK=8), "the argument n cannot be a str"),
        (lambda k, x, y: k[(1,)](x, y, 1, BLOCK=x), "the constant BLOCK cannot be a ArrayArgument"),
        (lambda k, x, y: k[(1, 2, 3, 4)](x, y, 1, BLOCK=8), "a grid is one to three integers"),
        (lambda k, x, y: k[1.5](x, y, 1, BLOCK=8), "a grid is one to three integers"),
    ],
)
def test_launches_that_make_no_sense(launch: Any, message: str, gpu: Any) -> None:
    @flamec.kernel(name="senseless")
    def example(x: TensorType) -> TensorType:
        return x

    example.triton(copy_kernel)(launch)
    with pytest.raises(OperationTypeError, match=message):
        example(flamec.ones(2, device=gpu))


def test_a_kernel_without_functions() -> None:
    with pytest.raises(TypeError, match="needs the Triton functions"):
        squared_relu.triton()


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    """Its sessions are run by ``test_docs``; here its Triton kernel becomes machine code."""
    page = TESTS.parent / "docs" / "USER_KERNELS.md"
    sessions = "".join(re.findall(r"^```pycon\n(.*?)^```", page.read_text(), re.M | re.S))
    first = sessions[: sessions.index(">>> shifted_squares.check")]
    test = doctest.DocTestParser().get_doctest(first, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(test).failed == 0
    b = GraphBuilder()
    x, shift = (b.input(TensorType(s, float32, GPU)) for s in ((B, 70), (B,)))
    op = lookup("shifted_squares")
    plan = compile_graph(b.build([b.apply(op, [x, shift], {"scale": 0.5})])).plan
    (source,) = plan.kernels
    assert source.function == "shifted_squares_kernel"
    assert source.function in disassemble(build_kernel(source, "sm_90", KernelCache(tmp_path)))
