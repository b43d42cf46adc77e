"""Composites that eager mode runs as one program, against their bodies run by NumPy."""

from __future__ import annotations

from typing import Any

import fused_cases
import numpy as np
import pytest
from fused_cases import CASES, Case, Operands

import flamec
from flamec import cpu_backend, cpu_eager, fused_call, fusing
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.config import default_options
from flamec.fused_program import NotFusable, trace_function
from flamec.ir.types import TensorType, float32
from flamec.nn import functional as F
from flamec.structures import flatten
from flamec.symbolic_sizes import Sizes

IDS = [f"{case.name}-{number}" for number, case in enumerate(CASES)]


def results_of(case: Case, device: Any, recorded: bool = True, seed: int = 0) -> tuple[Any, Any]:
    flamec.manual_seed(7)
    operands = Operands(device, seed, recorded)
    return flatten(case.call(operands))[0], operands.floats


def compare(got: flamec.Tensor | None, wanted: flamec.Tensor | None, what: str) -> None:
    if wanted is None or got is None:
        assert got is wanted, what
        return
    assert got.dtype is wanted.dtype and got.shape == wanted.shape, what
    np.testing.assert_allclose(
        got.detach().cpu().numpy(), wanted.detach().cpu().numpy(), 1e-9, 1e-10, err_msg=what
    )


def differentiable(results: list[flamec.Tensor]) -> list[flamec.Tensor]:
    return [r for r in results if r.requires_grad]


def gradients(results: Any, floats: Any, create_graph: bool = False) -> Any:
    """Of the results, each weighted by numbers that differ from element to element."""
    outputs = differentiable(results)
    seeds = []
    for number, output in enumerate(outputs):
        numbers = np.cos(np.arange(output.numel()) + number).reshape(output.shape)
        seeds.append(flamec.tensor(numbers, dtype=output.dtype, device=output.device))
    return flamec.autograd.grad(
        outputs, floats, seeds, create_graph=create_graph, allow_unused=True, retain_graph=True
    )


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_values_and_gradients(case: Case, gpu: Any) -> None:
    wanted, sources = results_of(case, "cpu")
    got, leaves = results_of(case, gpu)
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        compare(one, other, "value")
        assert one.requires_grad == other.requires_grad
    if not differentiable(wanted):
        return
    for one, other in zip(gradients(got, leaves), gradients(wanted, sources), strict=True):
        compare(one, other, "gradient")


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_second_derivatives(case: Case, simulated: Any) -> None:
    found = []
    for device in ("cpu", "cuda"):
        results, leaves = results_of(case, device)
        if not differentiable(results):
            return
        first = gradients(results, leaves, create_graph=True)
        first = [g for g in first if g is not None]
        if not differentiable(first):
            assert not found or found == [[]]
            found.append([])
            continue
        found.append([*first, *gradients(first, leaves)])
    for one, other in zip(found[1], found[0], strict=True):
        compare(one, other, "second derivative")


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_one_program_each_way(case: Case, simulated: Any) -> None:
    results, leaves = results_of(case, "cuda")
    programs = [p for known in fused_call._programs.values() for p in known]
    mine = [p for p in programs if not isinstance(p, NotFusable) and p.forward.name == case.name]
    reasons = [str(p) for p in programs if isinstance(p, NotFusable)]
    assert len(mine) == 1 and not reasons, reasons
    names = [prepared.graph.name for prepared in simulated[0].prepared]
    assert names.count(case.name) == 1
    if differentiable(results):
        gradients(results, leaves)
        names = [prepared.graph.name for prepared in simulated[0].prepared]
        assert names.count(f"{case.name}_backward") == 1


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_programs_over_symbols_are_generated(case: Case, simulated: Any) -> None:
    results, leaves = results_of(case, "cuda")
    if differentiable(results):
        gradients(results, leaves)
    for symbols, prepared in zip(simulated[0].symbols, simulated[0].prepared, strict=True):
        if prepared.graph.name in (case.name, f"{case.name}_backward"):
            assert set(compile_graph(prepared.optimized).plan.symbols) <= set(symbols)


def test_every_composite_has_a_case() -> None:
    covered = {case.name for case in CASES}
    assert {composite.name for composite in fusing.COMPOSITES} == covered
    assert fused_cases.CASES


CHOSEN_ON_CPU = [
    "gelu", "cross_entropy", "layer_norm", "batch_norm", "dropout", "conv2d", "max_pool2d",
    "linear", "interpolate",
]  # fmt: skip


@pytest.fixture
def compiled_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call is large enough to be compiled to C."""
    if not cpu_backend.is_available(default_options()):
        pytest.skip("there is no C compiler")
    monkeypatch.setattr(fusing, "_LEAST_ON_CPU", 0)
    monkeypatch.setattr(cpu_eager, "LEAST_WORK", 0)
    monkeypatch.setattr(fusing, "_calls", fusing._Calls())
    monkeypatch.setattr(fused_call, "_programs", {})


@pytest.mark.parametrize("name", CHOSEN_ON_CPU)
def test_compiled_to_c_on_the_cpu(
    name: str, compiled_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(c for c in CASES if c.name == name)
    got, leaves = results_of(case, "cpu")
    first = gradients(got, leaves, create_graph=True)
    assert any(p for p in fused_call._programs.values())
    assert not any(isinstance(p, NotFusable) for ps in fused_call._programs.values() for p in ps)
    plain = gradients(got, leaves)
    monkeypatch.setattr(fusing, "_LEAST_ON_CPU", 1 << 60)
    wanted, sources = results_of(case, "cpu")
    for one, other in zip(got, wanted, strict=True):
        compare(one, other, "value")
    for one, again, other in zip(first, plain, gradients(wanted, sources), strict=True):
        compare(one, other, "gradient as operations")
        compare(again, other, "gradient")


def test_an_index_out_of_range_in_c_is_the_same_error(compiled_on_cpu: None) -> None:
    x, target = flamec.zeros(3, 5), flamec.tensor([0, 1, 7])
    with pytest.raises(
        IndexError, match=r"index 7 is out of bounds for.*of size 5.*test_fused_composites\.py:\d+"
    ):
        F.cross_entropy(x, target)
    assert F.cross_entropy(x, flamec.tensor([0, 1, 4])).item() == pytest.approx(np.log(5))


def test_an_error_in_c_is_the_function_s_own(compiled_on_cpu: None) -> None:
    x, index = flamec.ones(3, 5), flamec.tensor([[0, 1], [2, -1], [0, 0]])
    with pytest.raises(
        IndexError, match=r"gather\(\): index -1 is out of bounds.*test_fused_composites\.py:\d+"
    ):
        x.gather(1, index)
    with pytest.raises(IndexError, match=r"index_add\(\): index -2 .*\.py:\d+"):
        x.index_add_(0, flamec.tensor([1, -2]), flamec.ones(2, 5))
    assert x.sum().item() == 15


def test_small_calls_on_the_cpu_are_left_to_numpy() -> None:
    before = len(cpu_eager._programs)
    F.gelu(flamec.zeros(64, 1000))
    F.gelu(flamec.zeros(8))
    assert len(cpu_eager._programs) == before


def test_the_choice_on_the_cpu_follows_the_work_of_a_call() -> None:
    def work(function: Any, *shapes: tuple[int, ...]) -> bool:
        sizes = Sizes(2)
        types = [sizes.type(TensorType(s, float32)) for s in shapes]
        program = trace_function(function, types, {}, [False] * len(types), sizes.bindings)
        return cpu_eager.is_worth_compiling(program.forward, sizes.bindings)

    assert not work(F.gelu, (256, 1024))
    assert work(F.gelu, (1024, 1024))
    assert not work(F.conv2d, (1, 3, 32, 32), (32, 3, 3, 3))
    assert work(F.conv2d, (64, 3, 32, 32), (32, 3, 3, 3))

    def means(x: Any) -> Any:
        return F.adaptive_avg_pool2d(x, 3)

    assert work(means, (16, 512, 7, 7))  # of runs of seven, which take NumPy as long as of fifteen
    assert not work(means, (4, 512, 7, 7))
    assert not work(F.linear, (128, 784), (512, 784), (512,))  # NumPy's product is as quick


def test_without_a_compiler_the_cpu_goes_through_numpy(
    compiled_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAMEC_BACKEND", "evaluate")
    before = len(cpu_eager._programs)
    compare(F.gelu(flamec.ones(3)), F.gelu.__wrapped__(flamec.ones(3)), "value")
    assert len(cpu_eager._programs) == before
