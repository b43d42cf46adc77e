"""Eager operations on strided arrays of a GPU that is not there, their kernels in Triton's
interpreter, against the CPU.

Run as a program with TRITON_INTERPRET=1: a line of JSON with the cases that differ and the cases
that wrote where nothing of them lies.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from simulated_gpu import GPU, SimulatedGpu, SimulatedRunner, at
from triton_interpreter import _launch

import flamec
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.graph import Graph
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import Copy, Fill, Launch
from flamec.ir.shape import evaluate_dim
from flamec.prepared import Prepared

Case = Callable[[Any, Any], Any]


class InterpretedRunner(SimulatedRunner):
    """A plan whose kernels the interpreter runs where the simulated device has the arrays."""

    def __init__(self, gpu: SimulatedGpu, graph: Graph, symbols: Sequence[str], options: Any):
        super().__init__(gpu, graph, symbols)
        optimized = run_passes(graph, pipeline(strict=options.strict))[0]
        self.plan = compile_graph(optimized, options).plan

    def bind(self, sizes: tuple[int, ...]) -> Any:
        bindings = dict(zip(self.symbols, sizes, strict=True))
        layout = plan_memory(self.plan, bindings)
        plan, runtime = self.plan, self.gpu.runtime
        given = (*plan.inputs, *(output.buffer for output in plan.outputs))
        arena: Any = runtime.allocate(layout.peak_bytes + 64)

        def launch(addresses: Sequence[int]) -> None:
            runtime.finish()
            places = dict(zip(given, addresses, strict=True))
            places |= {n: arena.address + offset for n, offset in layout.offsets.items()}
            places |= {n: places[a] + by for n, (a, by) in layout.guests.items()}
            for number, buffer in enumerate(plan.buffers):
                if buffer.kind in ("errors", "counters"):
                    places[number] = runtime.words.address
            for action in plan.actions:
                if isinstance(action, Launch):
                    _launch(plan, action, bindings, places.__getitem__)
                elif isinstance(action, Copy):
                    count = evaluate_dim(action.bytes, bindings)
                    runtime.copy(places[action.target], places[action.source], count)
                else:
                    assert isinstance(action, Fill)
                    count = evaluate_dim(action.bytes, bindings)
                    runtime.fill(places[action.buffer], action.byte, count)

        return SimpleNamespace(bound=SimpleNamespace(plan=plan, launch=launch))


class InterpretedGpu(SimulatedGpu):
    def prepare_operation(
        self,
        graph: Graph,
        symbols: Sequence[str],
        size_hints: Any,
        narrow: bool,
        strict: bool = False,
        unaligned: Sequence[int] = (),
    ) -> Prepared:
        options = CodegenOptions(size_hints=size_hints, near=True, narrow=narrow, strict=strict)
        prepared = Prepared(graph, None, flamec.config.default_options(), None)
        runner = InterpretedRunner(self, graph, symbols, options)
        prepared.runner, prepared.plan = runner, runner.plan
        return prepared


def _set(key: Any, value: Callable[[Any, Any], Any]) -> Case:
    return lambda x, y: x.__setitem__(key, value(x, y))


def _seeded(draw: Case) -> Case:
    def seeded(x: Any, y: Any) -> Any:
        flamec.manual_seed(3)
        return draw(x, y)

    return seeded


ALL = slice(None)
READS: dict[str, Case] = {
    "columns": lambda x, y: x[:, 1:] + 1,
    "steps": lambda x, y: x[:, ::2][:, :5] * y[:, 1::2][:, :5],
    "steps of three": lambda x, y: x[::3, ::3] - y[::3, ::3],
    "a column": lambda x, y: x[:, 3].exp(),
    "an unaligned row": lambda x, y: x.reshape(-1)[1:9].exp(),
    "unaligned, broadcast": lambda x, y: x[1:, 1:] + y[0, 1:],
    "permuted": lambda x, y: x.t()[1:, ::2].abs(),
    "diagonal": lambda x, y: x.diagonal()[:9] + y.diagonal(1)[:9],
    "converted": lambda x, y: x[:, 2:].to(flamec.float64),
    "clone": lambda x, y: x[1:, 1:].clone(),
    "sum": lambda x, y: x[:, 1:].sum(1),
    "sum of all": lambda x, y: x[1:, ::2].sum(),
    "softmax": lambda x, y: flamec.nn.functional.softmax(x[:, 1:], -1),
    "cat": lambda x, y: flamec.cat((x[:, 1:], y[:, ::2]), 1),
    "rows at indices": lambda x, y: x[:, 1:][flamec.tensor([1, 0, 3], device=x.device)],
    "running sum": lambda x, y: x[:, 1:].cumsum(1),
    "product": lambda x, y: x[:, 2:10] @ y[1:9, 1:],
}
DRAWS: dict[str, Case] = {
    "uniform": lambda x, y: flamec.rand_like(x),
    "normal": lambda x, y: flamec.randn_like(x) + flamec.rand_like(x),  # the state has gone on
    "normal float64": lambda x, y: flamec.randn_like(x.double()) + flamec.rand_like(x),
    "normal of tensors": lambda x, y: flamec.normal(x, y.abs()),
    "successes": lambda x, y: flamec.bernoulli(y.abs().clamp(0, 1)),
    "normal_": lambda x, y: x.normal_(1, 3),
    "uniform_ of a part": lambda x, y: x[:, 1::2].uniform_(-2, 3).clone(),
    "uniform_ float64": lambda x, y: x.double().uniform_(-2, 3),
    "exponential_": lambda x, y: x.exponential_(2.0),
    "cauchy_": lambda x, y: x.cauchy_(1, 2).clamp(-9, 9),
    "geometric_": lambda x, y: x.geometric_(0.3),
    "bernoulli_": lambda x, y: x.to(flamec.bfloat16).bernoulli_(0.3).float(),
    "dropout": lambda x, y: flamec.nn.functional.dropout(x, 0.4),
}
READS |= {name: _seeded(draw) for name, draw in DRAWS.items()}
CHANGES: dict[str, Case] = {
    "scaled": lambda x, y: x[:, ::2].mul_(2),
    "scaled by the operator": _set((ALL, slice(None, None, 2)), lambda x, y: x[:, ::2] * 2),
    "added": lambda x, y: x[:, 1:].add_(y[:, 1:], alpha=0.5),
    "shifted": lambda x, y: x[1:].add_(x[:-1]),
    "shifted columns": lambda x, y: x[:, 1:].mul_(x[:, :-1]),
    "transposed": lambda x, y: x[:10, :10].add_(x[:10, :10].t()),
    "a column": _set((ALL, 0), lambda x, y: 1),
    "a part": _set((slice(1, None), slice(1, None)), lambda x, y: y[1:, 1:]),
    "a converted part": lambda x, y: x[:, ::3].copy_(y[:, ::3].to(flamec.float16)),
    "exp": lambda x, y: x[:, 3:].abs_(),
    "power": lambda x, y: x[::2].pow_(2),
    "clamped": lambda x, y: x[:, 1:].clamp_(-0.5, 0.5),
    "permuted": lambda x, y: x.t()[1:].neg_(),
    "filled under a mask": lambda x, y: x[:, ::2].masked_fill_(y[:, ::2] > 0, 3),
    "rows under a mask": lambda x, y: x.__setitem__(y[:, 0] > 0, 0),
    "put": lambda x, y: x[:, 1:].index_put_((flamec.tensor([1, 4], device=x.device),), y[:2, 1:]),
    "products added": lambda x, y: x[:, 1:].addcmul_(y[:, 1:], y[:, 1:], value=0.5),
    "out": lambda x, y: flamec.maximum(y[:, :5], y[:, 5:10], out=x[:, 1::2][:, :5]),
    "out of itself": lambda x, y: flamec.add(x[:, :-1], 1, out=x[:, 1:]),
    "exp out": lambda x, y: flamec.abs(y, out=x),
}


def _written_outside(gpu: SimulatedGpu) -> bool:
    """Whether bytes behind blocks of memory are not what they were."""
    runtime: Any = gpu.runtime
    starts = {b: b.bytes.__array_interface__["data"][0] for b in runtime.blocks}
    return any((b.bytes[b.end - start :] != 0xFF).any() for b, start in starts.items())


def main() -> None:
    patch = pytest.MonkeyPatch()
    simulated_gpu.install(patch)
    gpu = InterpretedGpu(0)
    patch.setattr("flamec.gpu._gpus", {0: gpu})
    runtime: Any = gpu.runtime
    runtime.words = runtime.allocate(4096)
    at(runtime.words.address, (4096,), np.dtype(np.uint8))[...] = 0
    differing, outside = [], []
    chosen = sys.argv[1:]
    for kind, cases in (("read", READS), ("change", CHANGES)):
        for name, case in cases.items():
            if chosen and name not in chosen:
                continue
            random = np.random.default_rng(0)
            for shape in ((12, 12), (10, 11)):
                arrays = [random.standard_normal(shape).astype(np.float32) for _ in range(2)]
                results = []
                for device in (GPU, "cpu"):
                    x, y = (flamec.tensor(a, device=device) for a in arrays)
                    for _ in range(2):
                        result = case(x, y)
                    results.append(x if kind == "change" else result)
                got, wanted = (r.cpu().numpy() for r in results)
                if got.shape != wanted.shape or not np.allclose(got, wanted, 1e-5, 1e-5):
                    differing.append(f"{kind} {name} {shape}")
                if _written_outside(gpu):
                    outside.append(f"{kind} {name} {shape}")
                    break
    print(json.dumps({"differing": differing, "outside": outside}))


if __name__ == "__main__":
    main()
