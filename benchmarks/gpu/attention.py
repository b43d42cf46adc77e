"""Attention on one GPU, from code that writes it out, beside PyTorch's fused kernels.

``python -m benchmarks.gpu.attention [--rows TEXT] [--seconds N] [--json FILE]``

flamec compiles ``naive`` below (products, a causal mask by ``tril``, softmax) and
``scaled_dot_product_attention``; PyTorch runs its flash and cuDNN backends, all in one process on
the same numbers. Calls are timed in turn by CUDA events, each after the L2 cache was overwritten.
TFLOP/s count the products of the scores that take part, 2 forward and 5 backward. Results and
gradients of one head are compared with float64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as peer
from torch.nn.attention import SDPBackend, sdpa_kernel

import flamec
from benchmarks.gpu.cold_clock import ColdClock
from flamec.config import default_options
from flamec.cuda_backend import device
from flamec.differentiable import DifferentiableProgram
from flamec.ir.plan import ExecutionPlan
from flamec.nn import functional

ROUNDS, CALLS = 5, 8
PEERS = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
WORST_ERROR = 2.0**-6  # of the largest element


@dataclass(frozen=True)
class Row:
    name: str
    batch: int
    heads: int
    length: int
    depth: int
    causal: bool = True
    goals: tuple[float, float] | None = None

    @property
    def forward_flops(self) -> float:
        scores = self.batch * self.heads * self.length**2 * (0.5 if self.causal else 1.0)
        return 4 * scores * self.depth


ROWS = (
    Row("b4 h16 t4096 d128 causal", 4, 16, 4096, 128, goals=(490, 400)),
    Row("b16 h12 t1024 d64 causal", 16, 12, 1024, 64, goals=(280, 220)),
    Row("b32 h12 t1024 d64 causal", 32, 12, 1024, 64),
    Row("b4 h16 t4096 d64 causal", 4, 16, 4096, 64),
    Row("b2 h16 t8192 d128", 2, 16, 8192, 128, causal=False),
)


@dataclass
class Result:
    """TFLOP/s (forward, backward) of each contender, and the largest errors of flamec's."""

    row: Row
    speeds: dict[str, tuple[float, float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    kernels: dict[str, list[str]] = field(default_factory=dict)


def naive(row: Row) -> Callable[..., Any]:
    """As people write it."""

    def attend(q: Any, k: Any, v: Any) -> Any:
        scores = q @ k.transpose(-2, -1) * row.depth**-0.5
        if row.causal:
            seen = flamec.ones(row.length, row.length, device=q.device).tril()
            scores = scores.masked_fill(seen == 0, float("-inf"))
        return functional.softmax(scores, dim=-1) @ v

    return attend


def fused(row: Row) -> Callable[..., Any]:
    def attend(q: Any, k: Any, v: Any) -> Any:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=row.causal)

    return attend


class Program:
    """A loaded plan over tensors of PyTorch."""

    def __init__(self, plan: ExecutionPlan, inputs: Sequence[Any]) -> None:
        self.bound = device(0, default_options()).load(plan).bind(())
        self.results = []
        for buffer, tensor in zip(plan.inputs, inputs, strict=True):
            self.bound.addresses[buffer] = tensor.data_ptr()
        for output in plan.outputs:
            dtype = getattr(torch, output.type.dtype.name)
            self.results.append(torch.empty(output.type.shape, device="cuda", dtype=dtype))
            self.bound.addresses[output.buffer] = self.results[-1].data_ptr()
        self._inputs = inputs

    def __call__(self) -> list[Any]:
        self.bound()
        return self.results


def programs_of(
    function: Callable[..., Any], row: Row, inputs: Sequence[Any]
) -> tuple[Program, Program, list[str], list[Any]]:
    """Forward without gradients, backward, the kinds of their kernels, and output and gradients.

    ``inputs``: q, k, v, the gradient of the output.
    """
    shape = (row.batch, row.heads, row.length, row.depth)
    example = [flamec.zeros(*shape, device="cuda", dtype=flamec.bfloat16) for _ in range(3)]
    compiled = flamec.compile(function)
    compiled(*example)
    alone = compiled.programs[0].prepared.plan
    for tensor in example:
        tensor.requires_grad_()
    compiled(*example)
    program = next(p for p in compiled.programs if isinstance(p, DifferentiableProgram))
    backward_plan = program.backward.plan
    assert program.prepared.plan is not None and backward_plan is not None
    saving = Program(program.prepared.plan, inputs[:3])
    saving()
    saved = [*saving.results[1:], *(inputs[i] for i in program._saved_inputs), inputs[3]]
    forward, backward = Program(alone, inputs[:3]), Program(backward_plan, saved)
    forward()
    backward()
    torch.cuda.synchronize()
    kinds = [step.kind for step in (*alone.steps, *backward_plan.steps)]
    return forward, backward, kinds, [forward.results[0], *backward.results]


def error_of(row: Row, inputs: Sequence[Any], results: Sequence[Any]) -> float:
    """The largest error of output and gradients of one head, against the largest element."""
    q, k, v, g = (x[0, 0].double() for x in inputs)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    scores = leaves[0] @ leaves[1].T * row.depth**-0.5
    if row.causal:
        away = torch.ones_like(scores, dtype=torch.bool).tril()
        scores = scores.masked_fill(~away, float("-inf"))
    output = scores.softmax(-1) @ leaves[2]
    wanted = [output, *torch.autograd.grad(output, leaves, g)]
    errors = [
        float((found[0, 0].double() - want).abs().max() / want.abs().max())
        for found, want in zip(results, wanted, strict=True)
    ]
    return max(errors)


def peer_calls(row: Row, inputs: Sequence[Any], backend: Any) -> tuple[Any, Any]:
    q, k, v, g = inputs
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]

    def forward() -> Any:
        with sdpa_kernel(backend), torch.no_grad():
            return peer.scaled_dot_product_attention(q, k, v, is_causal=row.causal)

    with sdpa_kernel(backend):
        output = peer.scaled_dot_product_attention(*leaves, is_causal=row.causal)
    return forward, lambda: torch.autograd.grad(output, leaves, g, retain_graph=True)


def measure(row: Row, seconds: float) -> Result:
    started = time.monotonic()
    result = Result(row)
    torch.manual_seed(0)
    shape = (row.batch, row.heads, row.length, row.depth)
    inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(4)]
    calls: dict[str, tuple[Any, Any]] = {}
    for name, function in (("naive", naive(row)), ("sdpa", fused(row))):
        forward, backward, kinds, results = programs_of(function, row, inputs)
        calls[f"flamec {name}"] = forward, backward
        result.kernels[name] = kinds
        result.errors[name] = error_of(row, inputs, results)
    for name, backend in PEERS.items():
        try:
            calls[f"torch {name}"] = peer_calls(row, inputs, backend)
        except RuntimeError as error:
            print(f"    torch {name} cannot: {str(error)[:80]}")
    clock = ColdClock(CALLS)
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in calls}
    for number in range(ROUNDS + 1):
        for name, both in calls.items():
            for call, found in zip(both, times[name], strict=True):
                measured = clock.microseconds(call)
                if number:  # the first round warms up
                    found += measured
        if number and time.monotonic() - started > seconds:
            break
    for name, both in times.items():
        forward_us, backward_us = map(statistics.median, both)
        flops = row.forward_flops * 1e-6
        result.speeds[name] = flops / forward_us, 2.5 * flops / backward_us
    return result


def text_of(result: Result) -> str:
    lines = [result.row.name + (f"  goals {result.row.goals}" if result.row.goals else "")]
    for name, (forward, backward) in result.speeds.items():
        lines.append(f"    {name:14} forward {forward:6.0f}  backward {backward:6.0f} TFLOP/s")
    ours = result.speeds["flamec naive"]
    for name, theirs in result.speeds.items():
        if name.startswith("torch"):
            ratios = (a / b for a, b in zip(ours, theirs, strict=True))
            lines.append(f"    flamec naive / {name}: " + ", ".join(f"{r:.2f}" for r in ratios))
    for name, error in result.errors.items():
        wrong = "" if error <= WORST_ERROR else " WRONG"
        kinds = ", ".join(result.kernels[name])
        lines.append(f"    {name}: error {error:.1e}{wrong}; kernels: {kinds}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row")
    parser.add_argument("--json", type=Path, help="where results are written")
    arguments = parser.parse_args()
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    print(machine, flush=True)
    results = []
    for row in ROWS:
        if arguments.rows in row.name:
            results.append(measure(row, arguments.seconds))
            print(text_of(results[-1]), flush=True)
    if arguments.json:
        data = {"machine": machine, "results": [asdict(r) for r in results]}
        arguments.json.write_text(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
