"""Attention on a GPU: every form against float64, determinism, and naive code from end to end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gpu_execution import run_on
from triton_attention import CASES, arrays_of, check, compiled, graph_of

import flamec
from flamec.codegen.triton.product_schedule import target_facts
from flamec.ir.passes.plan_memory import plan_memory
from flamec.nn import functional
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.kernel_cache import KernelCache

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def planned(cache: KernelCache) -> CudaDevice:
    return CudaDevice(0, cache, plan_memory, jobs=8)


@pytest.mark.parametrize("name", CASES)
def test_forms(name: str, planned: CudaDevice) -> None:
    case = CASES[name]
    engine = case.schedule.tma if case.schedule else False
    if (engine or case.target == "sm_90") and not target_facts(planned.target).tma:
        pytest.skip("this GPU has no copy engine")
    assert not check(name, lambda plan, arrays, sizes: run_on(planned, plan, arrays, sizes))


@pytest.mark.parametrize("name", ["causal", "mask", "window"])
def test_runs_give_the_same_bits(name: str, planned: CudaDevice) -> None:
    case = CASES[name]
    graph, plan = graph_of(case), compiled(case).plan
    arrays = arrays_of(graph, {}, name)
    first, second = (run_on(planned, plan, arrays, {})[0] for _ in range(2))
    assert [a.tobytes() for a in first] == [a.tobytes() for a in second]


def naive(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    length = q.shape[-2]
    seen = flamec.ones(length, length, device=q.device).tril()
    return functional.softmax(scores.masked_fill(seen == 0, float("-inf")), dim=-1) @ v


def sdpa(q: Any, k: Any, v: Any) -> Any:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("function", [naive, sdpa])
@pytest.mark.parametrize("length", [64, 200])
def test_compiled_code_is_fused_and_right(function: Any, length: int) -> None:
    """Output and gradients against the same code in float64 on the CPU."""
    rng = np.random.default_rng(length)
    arrays = [rng.standard_normal((2, 3, length, 64)) for _ in range(4)]
    half = [flamec.tensor(a).to(flamec.bfloat16) for a in arrays]
    wide = [x.to(flamec.float64).requires_grad_() for x in half]
    near = [x.to("cuda").requires_grad_() for x in half]
    step = flamec.compile(function)
    output = step(*near[:3])
    found = [output, *flamec.autograd.grad(output, near[:3], near[3])]
    output = function(*wide[:3])
    wanted = [output, *flamec.autograd.grad(output, wide[:3], wide[3])]
    program = step.programs[0]
    plans = program.prepared.plan, program.backward.plan
    kinds = [[s.kind for s in plan.steps] for plan in plans]
    assert kinds == [["attention", "copy"], ["reduction", "attention"]]  # the output is kept, too
    for got, want in zip(found, wanted, strict=True):
        a, b = got.detach().to(flamec.float64).cpu().numpy(), want.detach().numpy()
        assert np.abs(a - b).max() <= 2.0**-6 * np.abs(b).max()
