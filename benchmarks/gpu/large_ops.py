"""Operations on large arrays that neither products nor elementwise work make up, beside PyTorch.

``python -m benchmarks.gpu.large_ops [--rows TEXT] [--seconds N] [--profile TEXT] [--json FILE]``

Positions of extremes, sorts, running sums, searches, reads and writes by index. Each is timed by
the clock, several calls until the device is done: flamec eager and compiled (eager alone where
values decide on the sizes of results) and PyTorch eager in turn, after results have been compared.
``--profile``: also the kernels of the rows whose name contains this, as PyTorch's profiler sees
them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS, CALLS = 5, 10
Operation = Callable[[Any, Any], Any]  # framework, arrays by name


@dataclass(frozen=True)
class Row:
    """``compiled``: whether sizes of results are known before."""

    run: Operation
    compiled: bool = True


def _filled(f: Any, a: Any) -> Any:
    y = a.rows.clone()
    y[a.mask2d] = 0.0
    return y


def _put(f: Any, a: Any) -> Any:
    y = a.rows.clone()
    y[a.some_rows] = a.new_rows
    return y


def _added(f: Any, a: Any) -> Any:
    return f.zeros_like(a.rows).index_add(0, a.some_rows, a.new_rows)


def _multiplied(f: Any, a: Any) -> Any:
    return f.ones_like(a.thousand).scatter_reduce(0, a.small_integers, a.near_one_line, "prod")


def _put_added(f: Any, a: Any) -> Any:
    return a.thousand.index_put((a.small_integers,), a.line, accumulate=True)


def _embedding_gradient(f: Any, a: Any) -> Any:
    weight = a.rows.detach().clone().requires_grad_(True)
    found = f.nn.functional.embedding(a.many_rows, weight)
    return f.autograd.grad([found], [weight], [f.ones_like(found)])[0]


ROWS: dict[str, Row] = {
    "argmax 1M": Row(lambda f, a: a.line.argmax()),
    "argmin 64M": Row(lambda f, a: a.long.argmin()),
    "argmax 4096x1024, axis 1": Row(lambda f, a: a.rows.argmax(1)),
    "argmax 4096x1024, axis 0": Row(lambda f, a: a.rows.argmax(0)),
    "max with positions 1M": Row(lambda f, a: tuple(a.line.max(0))),
    "max with positions 4x1M, axis 1": Row(lambda f, a: tuple(a.four.max(1))),
    "sum 4x1M, axis 1": Row(lambda f, a: a.four.sum(1)),
    "sort 1M": Row(lambda f, a: tuple(a.line.sort(stable=True))),
    "sort int64 1M": Row(lambda f, a: tuple(a.integers.sort(stable=True))),
    "sort 4096x1024": Row(lambda f, a: tuple(a.rows.sort(dim=1, stable=True))),
    "argsort 256x8192": Row(lambda f, a: a.wide.argsort(dim=1, stable=True)),
    "sort int64 16M": Row(lambda f, a: tuple(a.long_integers.sort(stable=True))),
    "sort int64 16M, below 1000": Row(lambda f, a: tuple(a.long_small.sort(stable=True))),
    "sort float64 16M": Row(lambda f, a: tuple(a.long_wide.sort(stable=True))),
    "sort int64 65536x64": Row(lambda f, a: tuple(a.short.sort(dim=1, stable=True))),
    "sort int64 262144x16": Row(lambda f, a: tuple(a.shorter.sort(dim=1, stable=True))),
    "topk 100 of 1M": Row(lambda f, a: tuple(a.line.topk(100))),
    "topk 1000 of 1M": Row(lambda f, a: tuple(a.line.topk(1000))),
    "topk 100 of 16M": Row(lambda f, a: tuple(a.longer.topk(100))),
    "topk 50 of 64x65536": Row(lambda f, a: tuple(a.few_lines.topk(50))),
    "topk 8 of 4096x1024": Row(lambda f, a: tuple(a.rows.topk(8))),
    "kthvalue 1M": Row(lambda f, a: a.line.kthvalue(300000)[0]),
    "unique of 1M": Row(lambda f, a: a.small_integers.unique(), False),
    "searchsorted 1M in 64K": Row(lambda f, a: f.searchsorted(a.sorted, a.line)),
    "bucketize 1M, 100 bounds": Row(lambda f, a: f.bucketize(a.line, a.bounds)),
    "cumsum 1M": Row(lambda f, a: a.line.cumsum(0)),
    "cumsum 4096x1024": Row(lambda f, a: a.rows.cumsum(1)),
    "cumsum 4096x1024, axis 0": Row(lambda f, a: a.rows.cumsum(0)),
    "cumprod 4096x1024": Row(lambda f, a: a.near_one.cumprod(1)),
    "cummax 4096x1024": Row(lambda f, a: tuple(a.rows.cummax(1))),
    "logcumsumexp 4096x1024": Row(lambda f, a: a.rows.logcumsumexp(1)),
    "nonzero 1M, a half": Row(lambda f, a: a.mask.nonzero(), False),
    "nonzero 16M, a half": Row(lambda f, a: a.long_mask.nonzero(), False),
    "masked_select 1M, a half": Row(lambda f, a: a.line.masked_select(a.mask), False),
    "x[mask] 16M, a half": Row(lambda f, a: a.longer[a.long_mask], False),
    "masked_fill 4M": Row(lambda f, a: a.rows.masked_fill(a.mask2d, 0.0)),
    "x[mask] = 0, 4M": Row(_filled),
    "index_select 64K of 4096 rows": Row(lambda f, a: a.rows.index_select(0, a.many_rows)),
    "x[i] 4M of 16M": Row(lambda f, a: a.longer[a.places]),
    "x[i, j] 1M": Row(lambda f, a: a.rows[a.first, a.second]),
    "gather 4096x1024": Row(lambda f, a: a.rows.gather(1, a.columns)),
    "take_along_dim 4096x1024": Row(lambda f, a: f.take_along_dim(a.rows, a.columns, 1)),
    "scatter 4096x1024": Row(lambda f, a: a.rows.scatter(1, a.permuted, a.other)),
    "scatter_add 4096x1024": Row(lambda f, a: a.rows.scatter_add(1, a.columns, a.other)),
    "scatter_add 4096x1024, axis 0": Row(lambda f, a: a.rows.scatter_add(0, a.columns, a.other)),
    "gather 4096x1024, axis 0": Row(lambda f, a: a.rows.gather(0, a.columns)),
    "product 1M in 1000": Row(_multiplied),
    "index_put 1M in 1000, added": Row(_put_added),
    "embedding gradient, 64K of 4096": Row(_embedding_gradient),
    "x[rows] = y, 2K of 4096": Row(_put),
    "index_add 2K rows": Row(_added),
    "bincount 1M": Row(lambda f, a: f.bincount(a.small_integers, minlength=1000), False),
    "histc 1M": Row(lambda f, a: f.histc(a.line, 100, -3, 3)),
    "quantile 1M": Row(lambda f, a: f.quantile(a.line, 0.3)),
    "median 4096x1024": Row(lambda f, a: tuple(a.rows.median(1))),
    "any 16M": Row(lambda f, a: a.long_mask.any()),
    "count_nonzero 16M": Row(lambda f, a: a.long_mask.count_nonzero()),
    "flip 4096x1024": Row(lambda f, a: a.rows.flip(1)),
    "roll 4096x1024": Row(lambda f, a: a.rows.roll(100, 1)),
    "tril 4096x1024": Row(lambda f, a: a.rows.tril()),
    "repeat_interleave 1M": Row(lambda f, a: a.line.repeat_interleave(3)),
}


class Arrays:
    """The operands, drawn once; ``on`` gives them as tensors, made when they are asked for."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)

        def normal(*shape: int) -> np.ndarray:
            return random.standard_normal(shape, np.float32)

        rows, width = 4096, 1024
        self.arrays: dict[str, np.ndarray] = {
            "line": normal(1 << 20),
            "long": np.tile(normal(1 << 20), 64),
            "longer": np.tile(normal(1 << 20), 16),
            "four": normal(4, 1 << 20),
            "rows": normal(rows, width),
            "other": normal(rows, width),
            "near_one": 1 + normal(rows, width) / 1000,
            "near_one_line": 1 + normal(1 << 20) / 1000,
            "thousand": normal(1000),
            "few_lines": normal(64, 1 << 16),
            "long_integers": random.integers(-(1 << 62), 1 << 62, 1 << 24),
            "long_small": random.integers(0, 1000, 1 << 24),
            "long_wide": random.standard_normal(1 << 24),
            "short": random.integers(-(1 << 62), 1 << 62, (1 << 16, 64)),
            "shorter": random.integers(-(1 << 62), 1 << 62, (1 << 18, 16)),
            "wide": normal(256, 8192),
            "integers": random.integers(-(1 << 40), 1 << 40, 1 << 20),
            "small_integers": random.integers(0, 1000, 1 << 20),
            "sorted": np.sort(normal(1 << 16)),
            "bounds": np.sort(normal(100)),
            "mask": random.random(1 << 20) < 0.5,
            "long_mask": np.tile(random.random(1 << 20) < 0.5, 16),
            "mask2d": random.random((rows, width)) < 0.5,
            "some_rows": random.permutation(rows)[:2048],
            "many_rows": random.integers(0, rows, 1 << 16),
            "new_rows": normal(2048, width),
            "places": random.integers(0, 1 << 24, 1 << 22),
            "first": random.integers(0, rows, 1 << 20),
            "second": random.integers(0, width, 1 << 20),
            "columns": random.integers(0, width, (rows, width)),
            "permuted": random.permuted(np.tile(np.arange(width), (rows, 1)), axis=1),
        }

    def on(self, framework: Any, device: str) -> Any:
        arrays = self.arrays

        class Operands:
            def __getattr__(self, name: str) -> Any:
                tensor = framework.from_numpy(arrays[name]).to(device)
                setattr(self, name, tensor)
                return tensor

        return Operands()


def measure(name: str, operands: dict[str, Any], device: str, calls: int) -> dict[str, Any]:
    """Medians of microseconds a call, or what went wrong."""
    import torch

    import flamec

    row = ROWS[name]
    ours, theirs = operands["flamec"], operands["torch"]
    contenders: dict[str, Callable[[], Any]] = {
        "torch": lambda: row.run(torch, theirs),
        "eager": lambda: row.run(flamec, ours),
    }
    if row.compiled:
        program = flamec.compile(lambda: row.run(flamec, ours))
        contenders["compiled"] = lambda: program()
    found: dict[str, Any] = {"row": name}
    wanted = _arrays(contenders["torch"]())
    for contender in list(contenders):
        try:
            got = _arrays(contenders[contender]())
        except Exception as error:  # the other rows are still worth knowing
            found[f"{contender} failed"] = f"{type(error).__name__}: {str(error)[:200]}"
            del contenders[contender]
            continue
        if not all(_agree(a, b) for a, b in zip(got, wanted, strict=True)):
            found[f"{contender} WRONG"] = True
    rounds: dict[str, list[float]] = {contender: [] for contender in contenders}
    for number in range(ROUNDS):
        for contender, call in contenders.items():
            wait = torch if contender == "torch" else flamec
            _wait(wait, device)
            start = time.perf_counter()
            for _ in range(calls):
                call()
            _wait(wait, device)
            if number:
                rounds[contender].append((time.perf_counter() - start) / calls * 1e6)
    return found | {c: statistics.median(times) for c, times in rounds.items()}


def _wait(framework: Any, device: str) -> None:
    if device != "cpu":
        framework.cuda.synchronize()


def _arrays(result: Any) -> list[np.ndarray]:
    results = result if isinstance(result, (tuple, list)) else (result,)
    return [r.detach().cpu().numpy() for r in results]


def _agree(found: np.ndarray, wanted: np.ndarray) -> bool:
    if found.shape != wanted.shape:
        return False
    if found.dtype.kind == "f":
        return bool(np.allclose(found, wanted, 1e-4, 1e-3))
    return bool((found == wanted).mean() > 0.999)  # equal elements may stand in another order


def text_of(found: dict[str, Any]) -> str:
    parts = [f"{found['row']:32s}"]
    for contender in ("torch", "eager", "compiled"):
        if contender in found:
            ratio = found["torch"] / found[contender]
            mark = "" if contender == "torch" else f" ({ratio:.2f})"
            parts.append(f"{contender} {found[contender]:8.1f} us{mark}")
    parts += [f"{k}: {v}" for k, v in found.items() if "failed" in k or "WRONG" in k]
    return "  ".join(parts)


def kernels_of(name: str, operands: dict[str, Any]) -> list[str]:
    """The kernels of one call by each framework, with their microseconds."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    import flamec

    lines = []
    for framework, module in (("flamec", flamec), ("torch", torch)):
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            ROWS[name].run(module, operands[framework])
            module.cuda.synchronize()
        kernels = [e for e in seen.events() if e.device_type.name == "CUDA"]
        kernels.sort(key=lambda event: event.time_range.start)
        lines += [
            f"    {framework} {e.time_range.elapsed_us():8.1f} us  {e.name[:90]}" for e in kernels
        ]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--profile", help="rows whose kernels are listed, by a part of their names")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    import flamec

    drawn = Arrays()
    modules = {"flamec": flamec, "torch": torch}
    operands = {name: drawn.on(module, options.device) for name, module in modules.items()}
    deadline, results = time.monotonic() + options.seconds, []
    for name in (name for name in ROWS if options.rows in name):
        if time.monotonic() > deadline:
            print(f"{name:32s}  no time was left", flush=True)
            continue
        results.append(measure(name, operands, options.device, options.calls))
        print(text_of(results[-1]), flush=True)
        if options.profile is not None and options.profile in name:
            print("\n".join(kernels_of(name, operands)), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return int(any("WRONG" in key for found in results for key in found))


if __name__ == "__main__":
    raise SystemExit(main())
