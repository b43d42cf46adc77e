"""One kernel of each kind, run once, for ``compute-sanitizer``; no PyTorch in the process.

    python tests/gpu/sanitizer_selection.py          # compiles, and compares with the evaluator
    compute-sanitizer --tool memcheck --error-exitcode 1 python tests/gpu/sanitizer_selection.py
    compute-sanitizer --tool racecheck --error-exitcode 1 python tests/gpu/sanitizer_selection.py

The first line fills the cache of kernels, so that the others only run them: memcheck takes half a
minute, racecheck longer. The exit code is 1 if a result is wrong; names on the command line
choose cases.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from gpu_execution import run_on
from op_table import OP_TABLE
from triton_cases import check_graph, check_row
from triton_products import check_case

import flamec
from flamec.config import default_options
from flamec.host_evaluation import evaluate_host_call
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.types import float32
from flamec.nn import functional as F
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.kernel_cache import KernelCache

GRAPHS = [
    "gelu_chain", "softmax", "long_softmax", "layer_norm_backward", "columns", "column_sums",
    "few_rows", "everything", "transposed", "embedding_backward", "scatter_add",
    "scatter_add_any_order", "scatter_max_integers", "lookup", "dropout", "dropout_flat",
    "dropout_norm", "update",
]  # fmt: skip
PRODUCTS = [
    "odd", "int8", "float64", "batched", "persistent", "halves", "split", "split by tma",
    "symbolic depth split", "dequantized",
]  # fmt: skip
ROWS = ["cumsum", "concatenate", "index", "index_put", "sort", "windows"]


def eager_and_captured() -> list[str]:
    """Fused composites both ways, and a training step that a CUDA graph replays."""
    x = flamec.arange(33 * 70, device="cuda").reshape(33, 70).float().cos().requires_grad_()
    y = F.softmax(F.gelu(x), -1) + F.dropout(F.layer_norm(x, (70,)), 0.5)
    (gradient,) = flamec.autograd.grad(y.square().sum(), x)
    weight = flamec.full((70, 8), 0.01, device="cuda").requires_grad_()
    optimizer = flamec.optim.Adam([weight], lr=0.01)

    @flamec.compile
    def step(t: flamec.Tensor) -> flamec.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(t @ weight, flamec.arange(33, device="cuda") % 8)
        loss.backward()
        optimizer.step()
        return loss

    losses = [step(x.detach() + turn / 100).item() for turn in range(6)]
    graph = step.programs[0].prepared.runner.bind(()).bound.graph  # type: ignore[union-attr]
    wrong = [] if graph is not None else ["the step was not captured"]
    if not (np.isfinite(losses).all() and np.isfinite(gradient.cpu().numpy()).all()):
        wrong.append(f"losses {losses}")
    return wrong


def cases(device: CudaDevice) -> dict[str, Callable[[], list[str]]]:
    """What there is to run, by name; each gives what was wrong."""

    def run(plan, arrays, sizes):  # type: ignore[no-untyped-def]
        return run_on(device, plan, arrays, sizes)

    found: dict[str, Callable[[], list[str]]] = {}
    for name in GRAPHS:
        found[name] = lambda name=name: check_graph(name, run)  # type: ignore[misc]
    for name in PRODUCTS:
        found[f"product {name}"] = lambda name=name: check_case(name, run)  # type: ignore[misc]
    rows = {row.name: row for row in OP_TABLE}
    for name in ROWS:
        if name in rows:
            row = rows[name]
            dtypes = [float32] if float32 in row.dtypes else row.dtypes[:1]
            found[f"op {name}"] = lambda row=row, dtypes=dtypes: check_row(  # type: ignore[misc]
                row, lambda plan, arrays: run(plan, arrays, {})[0], dtypes
            )[1]
    found["eager and captured"] = eager_and_captured
    return found


def main(names: list[str]) -> int:
    assert "torch" not in sys.modules
    options = default_options()
    cache = KernelCache(options.cache_folder, options.cache_bytes)
    device = CudaDevice(0, cache, plan_memory, jobs=8, evaluate=evaluate_host_call)
    failed = False
    for name, check in cases(device).items():
        if names and name not in names:
            continue
        started = time.perf_counter()
        wrong = check()
        device.synchronize()
        failed = failed or bool(wrong)
        verdict = "ok" if not wrong else f"WRONG: {wrong[0]}"
        print(f"{name:28s} {time.perf_counter() - started:6.2f} s  {verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
