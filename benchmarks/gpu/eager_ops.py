"""What an eager operation costs in Python, flamec beside PyTorch, on one device.

``python -m benchmarks.gpu.eager_ops [--device cuda] [--calls N] [--seconds N] [--json FILE]``

Operands are so small that the device is never the bottleneck: the time is that of a call until
it returns, without waiting for the device; queues are emptied between rounds. Results are
compared first. Calls of both frameworks are timed in turn; a ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

Operation = Callable[[Any, Any, Any], Any]  # framework, x, y

OPERATIONS: dict[str, Operation] = {
    "add": lambda f, x, y: x + y,
    "mul by a number": lambda f, x, y: x * 2.0,
    "mul, broadcast": lambda f, x, y: x * y[0],
    "exp": lambda f, x, y: x.exp(),
    "relu": lambda f, x, y: f.nn.functional.relu(x),
    "gelu": lambda f, x, y: f.nn.functional.gelu(x),
    "where": lambda f, x, y: f.where(x > 0, x, y),
    "sum": lambda f, x, y: x.sum(),
    "mean over rows": lambda f, x, y: x.mean(0),
    "softmax": lambda f, x, y: f.nn.functional.softmax(x, -1),
    "layer_norm": lambda f, x, y: f.nn.functional.layer_norm(x, (64,)),
    "matmul": lambda f, x, y: x @ y,
    "cat": lambda f, x, y: f.cat((x, y)),
    "view": lambda f, x, y: x.view(-1),
    "transpose": lambda f, x, y: x.t(),
    "silu": lambda f, x, y: f.nn.functional.silu(x),
    "log_softmax": lambda f, x, y: f.nn.functional.log_softmax(x, -1),
    "rms_norm": lambda f, x, y: f.nn.functional.rms_norm(x, (64,)),
    "dropout, p=0": lambda f, x, y: f.nn.functional.dropout(x, 0.0),
    "cross_entropy": lambda f, x, y: f.nn.functional.cross_entropy(x, _classes(f, x)),
    "slice": lambda f, x, y: x[1:, ::2],
    "add in place": lambda f, x, y: x.add_(y, alpha=0.0),
    "zeros": lambda f, x, y: f.zeros(64, 64, device=x.device),
    "to bfloat16": lambda f, x, y: x.to(f.bfloat16),
    "linear, tracked": lambda f, x, y: f.nn.functional.linear(x.detach().requires_grad_(), y),
    "gelu, both ways": lambda f, x, y: _gradient(f, f.nn.functional.gelu, x, y),
    "softmax, both ways": lambda f, x, y: _gradient(
        f, lambda t: f.nn.functional.softmax(t, -1), x, y
    ),
    "layer_norm, both ways": lambda f, x, y: _gradient(
        f, lambda t: f.nn.functional.layer_norm(t, (64,), y[0], y[1]), x, y
    ),
    "cross_entropy, both ways": lambda f, x, y: _gradient(
        f, lambda t: f.nn.functional.cross_entropy(t, _classes(f, x)), x, None
    ),
    "conv2d": lambda f, x, y: f.nn.functional.conv2d(
        x.view(1, 4, 32, 32), y[:36].reshape(64, 4, 3, 3), y[0], padding=1
    ),
    "MLP step, SGD": lambda f, x, y: _Training.of(f, "SGD", x)(x),
    "MLP step, Adam": lambda f, x, y: _Training.of(f, "Adam", x)(x),
}


def _gradient(f: Any, function: Callable[[Any], Any], x: Any, seed: Any) -> Any:
    """The gradient of ``function`` at ``x``: one forward and one backward pass."""
    leaf = x.detach().requires_grad_()
    return f.autograd.grad(function(leaf), leaf, seed)[0]


_class_numbers: dict[Any, Any] = {}


def _classes(f: Any, x: Any) -> Any:
    if f not in _class_numbers:
        _class_numbers[f] = f.arange(64, device=x.device)
    return _class_numbers[f]


class _Training:
    """A step of an MLP 64-64-64-64 with 64 classes, all in eager mode."""

    made: ClassVar[dict[Any, _Training]] = {}

    def __init__(self, f: Any, optimizer: str, x: Any) -> None:
        nn = f.nn
        self.f = f
        self.model = nn.Sequential(
            nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(),
            nn.Linear(64, 64),
        ).to(x.device)  # fmt: skip
        random = np.random.default_rng(1)
        with f.no_grad():
            for parameter in self.model.parameters():
                values = random.standard_normal(tuple(parameter.shape)).astype(np.float32) * 0.1
                parameter.copy_(f.from_numpy(values))
        self.optimizer = getattr(f.optim, optimizer)(self.model.parameters(), lr=1e-3)

    @classmethod
    def of(cls, f: Any, optimizer: str, x: Any) -> _Training:
        key = (f, optimizer)
        if key not in cls.made:
            cls.made[key] = cls(f, optimizer, x)
        return cls.made[key]

    def __call__(self, x: Any) -> Any:
        self.optimizer.zero_grad()
        loss = self.f.nn.functional.cross_entropy(self.model(x), _classes(self.f, x))
        loss.backward()
        self.optimizer.step()
        return loss


def _framework(name: str) -> Any:
    if name == "flamec":
        import flamec

        return flamec
    import torch

    return torch


def _synchronize(framework: Any, device: str) -> None:
    if device.startswith("cuda"):
        framework.cuda.synchronize()


def measure(name: str, device: str, calls: int, deadline: float) -> dict[str, Any]:
    """Median microseconds a call of each framework, or why there is none."""
    operation = OPERATIONS[name]
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((64, 64)).astype(np.float32) for _ in range(2)]
    frameworks = {f: _framework(f) for f in ("flamec", "torch")}
    operands = {
        f: [module.from_numpy(array.copy()).to(device) for array in arrays]
        for f, module in frameworks.items()
    }
    results = {}
    for f, module in frameworks.items():
        module.backends.cudnn.allow_tf32 = False  # else convolutions differ by its rounding
        result = operation(module, *operands[f])
        results[f] = np.asarray(result.detach().float().cpu().numpy())
    if not np.allclose(results["flamec"], results["torch"], 1e-3, 1e-3):
        return {"operation": name, "problem": "flamec gives another result"}
    times: dict[str, list[float]] = {f: [] for f in frameworks}
    for f, module in frameworks.items():  # what is compiled or cached at first is not timed
        for _ in range(10):
            operation(module, *operands[f])
    while len(times["torch"]) < 9 and (not times["torch"] or time.perf_counter() < deadline):
        for f, module in frameworks.items():
            x, y = operands[f]
            _synchronize(module, device)
            started = time.perf_counter()
            for _ in range(calls):
                operation(module, x, y)
            times[f].append((time.perf_counter() - started) / calls * 1e6)
    medians = {f: statistics.median(t) for f, t in times.items()}
    return {"operation": name, **medians, "ratio": medians["flamec"] / medians["torch"]}


def main(arguments: list[str] | None = None) -> int:
    """The exit code is 1 if a result differs or an operation failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--calls", type=int, default=200, help="calls of a round")
    parser.add_argument("--seconds", type=float, default=90, help="of all operations together")
    parser.add_argument("--only", nargs="+", choices=OPERATIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    names = options.only or list(OPERATIONS)
    end = time.perf_counter() + options.seconds
    rows = []
    for position, name in enumerate(names):
        share = (end - time.perf_counter()) / (len(names) - position)
        if share < 0:
            row: dict[str, Any] = {"operation": name, "problem": "no time was left"}
        else:
            try:
                row = measure(name, options.device, options.calls, time.perf_counter() + share)
            except Exception as error:  # the other operations are still measured
                row = {"operation": name, "problem": f"{type(error).__name__}: {error}"[:300]}
        rows.append(row)
        if "problem" in row:
            print(f"{name:24s} PROBLEM: {row['problem']}", flush=True)
            continue
        figures = f"flamec {row['flamec']:8.2f} us  torch {row['torch']:8.2f} us"
        print(f"{name:24s} {figures}  ratio {row['ratio']:6.2f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"device": options.device, "rows": rows}, indent=1))
    return 1 if any("problem" in row for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
