"""Recurrent layers as GPU programs, forward and backward, against the same functions run eagerly.

``CASES`` maps a name to a layer. Run as a program with TRITON_INTERPRET=1 and names of cases: a
line of JSON for each with what was wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import flamec
from flamec.codegen.compile_graph import CompiledGraph
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.compiler import CompiledFunction
from flamec.config import default_options
from flamec.ir.plan import ExecutionPlan
from flamec.program import Program

CASES: dict[str, Callable[..., Any]] = {
    "lstm": flamec.nn.LSTM,
    "gru": flamec.nn.GRU,
    "rnn": flamec.nn.RNN,
}
LENGTH, BATCH = 3, 5
Run = Callable[[ExecutionPlan, Sequence[np.ndarray], dict[str, int]], Any]


def case_of(
    name: str, inputs: int, hidden: int, length: int = LENGTH, batch: int = BATCH
) -> tuple[Callable[..., Any], list[Any]]:
    """What gives the result of a layer and the gradients of its input and of its parameters, and
    the tensors that it takes. The last bias has the gradient of the one before, or some of it."""
    layer = CASES[name](inputs, hidden)
    names, shapes = zip(*((n, tuple(p.shape)) for n, p in layer.named_parameters()), strict=True)

    def step(*tensors: Any) -> Any:
        x, *parameters = tensors
        named = dict(zip(names, parameters, strict=True))
        y, _ = flamec.func.functional_call(layer, named, (x,))
        return y, *flamec.autograd.grad((y * y).sum(), list(tensors[:-1]))

    random = np.random.default_rng(1)
    arrays = [random.standard_normal(s) * 0.5 for s in ((length, batch, inputs), *shapes)]
    return step, [flamec.from_numpy(a.astype(np.float32)).requires_grad_() for a in arrays]


def compiled(step: Callable[..., Any], tensors: Sequence[Any]) -> CompiledGraph:
    """The program for ``sm_90``."""
    function = CompiledFunction(step, replace(default_options(), backend="evaluate"))
    program = function.compile_variant(tuple(tensors), {})
    assert isinstance(program, Program)
    return compile_graph(program.prepared.optimized, CodegenOptions(target="sm_90"))


def check_case(name: str, run: Run) -> list[str]:
    """What was wrong with the results of a case."""
    step, tensors = case_of(name, 4, 6)
    wanted = step(*tensors)
    made = compiled(step, tensors)
    outputs, _ = run(made.plan, [t.detach().numpy() for t in tensors], {})
    wrong = []
    for i, (found, value) in enumerate(zip(outputs, wanted, strict=True)):
        right = value.detach().numpy()
        if not np.allclose(found, right, 1e-4, 1e-5):
            wrong.append(f"result {i}: off by {float(np.abs(found - right).max())}")
    return wrong


if __name__ == "__main__":
    from triton_interpreter import run_plan

    for name in sys.argv[1:] or CASES:
        print(json.dumps({"row": name, "wrong": check_case(name, run_plan)}), flush=True)
