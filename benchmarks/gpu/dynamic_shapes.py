"""Programs over symbolic sizes beside those made for one size, on one GPU.

``python -m benchmarks.dynamic_shapes --device cuda [--rows NAME ...] [--rounds N] [--torch]
[--json FILE]``

Each row is a function that was called with two other sizes first, so that its sizes are symbolic.
At each size the same arguments go to it and to a function compiled for that size alone
(``dynamic=False``), and results are compared. A time is the least of rounds of calls, by the clock,
ended by waiting for the device; the two take turns. ``--torch`` adds ``torch.compile`` with
``dynamic=True`` after the same calls. ``sizes``: a call each with 50 batch sizes and lengths in
random order, first and again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Size = tuple[int, ...]
Function = Callable[[Any], Any]


class Framework:
    """flamec or PyTorch, with arrays on the GPU."""

    def __init__(self, module: Any, device: str) -> None:
        self.module, self.device = module, device
        self.nn = module.nn

    def from_numpy(self, array: np.ndarray) -> Any:
        return self.module.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def synchronize(self) -> None:
        if self.device != "cpu":
            self.module.cuda.synchronize()


def _block(f: Framework) -> Function:
    from benchmarks.dynamic_shapes import _block as block

    return block(f)


def _training(f: Framework) -> Function:
    f.module.manual_seed(0)
    layer = f.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0).to(f.device)
    optimizer = f.module.optim.Adam(layer.parameters())

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (layer(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def _softmax(f: Framework) -> Function:
    return lambda x: f.nn.functional.softmax(x * 2.0, -1)


def _normalize(f: Framework) -> Function:
    return lambda x: f.nn.functional.layer_norm(x, x.shape[-1:]) + 1.0


def _product(f: Framework) -> Function:
    rng = np.random.default_rng(0)
    weight = f.from_numpy(rng.standard_normal((1024, 1024), np.float32))
    return lambda x: f.module.relu(x @ weight)


class Row:
    """``last``: a dimension behind those that vary. ``before``: sizes that are called first."""

    def __init__(
        self,
        make: Callable[[Framework], Function],
        last: Size,
        before: Sequence[Size],
        sizes: Sequence[Size],
    ) -> None:
        self.make, self.last, self.before, self.sizes = make, last, before, sizes


_SEQUENCES = ((16, 64), (4, 33), (32, 128), (20, 100), (64, 512))
ROWS = {
    "block": Row(_block, (64,), ((3, 5), (4, 7)), _SEQUENCES),
    "training": Row(_training, (64,), ((3, 5), (4, 7)), _SEQUENCES[:4]),
    "softmax": Row(
        _softmax, (), ((3, 5), (4, 7)), ((4096, 1000), (8192, 4096), (100000, 3), (64, 50000))
    ),
    "layer_norm": Row(_normalize, (), ((3, 5), (4, 7)), ((4096, 1000), (8192, 4096))),
    "product": Row(_product, (1024,), ((3,), (4,)), ((128,), (1000,), (4096,))),
}


def _inputs(f: Framework, sizes: Sequence[Size], last: Size) -> list[Any]:
    rng = np.random.default_rng(1)
    return [f.from_numpy(rng.standard_normal((*s, *last), np.float32)) for s in sizes]


def least_times(
    f: Framework, functions: Sequence[Function], x: Any, rounds: int, calls: int
) -> list[float]:
    """Seconds of a call of each function, which take turns."""
    best = [float("inf")] * len(functions)
    for function in functions:
        for _ in range(4):
            function(x)
    for _ in range(rounds):
        for position, function in enumerate(functions):
            f.synchronize()
            begun = time.perf_counter()
            for _ in range(calls):
                function(x)
            f.synchronize()
            best[position] = min(best[position], (time.perf_counter() - begun) / calls)
    return best


def measure(
    row: Row, ours: Framework, torch: Framework | None, rounds: int, calls: int
) -> list[dict[str, Any]]:
    """A record for each size of a row."""
    import flamec

    dynamic = flamec.compile(row.make(ours))
    peer = None if torch is None else torch.module.compile(row.make(torch), dynamic=True)
    for function, f in ((dynamic, ours), (peer, torch)):
        if function is not None and f is not None:
            for x in _inputs(f, row.before, row.last):
                function(x)
    records = []
    for size in row.sizes:
        static = flamec.compile(row.make(ours), dynamic=False)
        (x,) = _inputs(ours, [size], row.last)
        same = row.make is not _training  # whose functions have each taken other steps
        results = [np.asarray(f(x).detach().cpu().numpy()) for f in (static, dynamic)]
        if same:
            np.testing.assert_allclose(results[1], results[0], rtol=2e-4, atol=2e-5)
        alone, general = least_times(ours, [static, dynamic], x, rounds, calls)
        record = {
            "size": size,
            "static": alone,
            "dynamic": general,
            "traces": dynamic.stats.traces,
            "size_classes": dynamic.stats.size_classes,
            "bit_equal": bool(same and np.array_equal(*results)),
        }
        if torch is not None and peer is not None:
            (y,) = _inputs(torch, [size], row.last)
            (record["torch"],) = least_times(torch, [peer], y, rounds, calls)
        records.append(record)
    return records


def many_sizes(ours: Framework) -> dict[str, Any]:
    """The block with 50 batch sizes and lengths, twice; the largest difference from eager."""
    import flamec
    from benchmarks.dynamic_shapes import _sizes

    plain = _block(ours)
    function = flamec.compile(plain)
    inputs = _inputs(ours, _sizes(), (64,))
    seconds, worst = [], 0.0
    for _ in range(2):
        begun = time.perf_counter()
        results = [function(x) for x in inputs]
        ours.synchronize()
        seconds.append(time.perf_counter() - begun)
    for x, result in zip(inputs, results, strict=True):
        if result.numel():
            difference = np.abs(result.cpu().numpy() - plain(x).cpu().numpy())
            worst = max(worst, float(difference.max()))
    stats = function.stats
    return {
        "first": seconds[0],
        "again": seconds[1],
        "traces": stats.traces,
        "size_classes": stats.size_classes,
        "kernels_compiled": stats.kernels_compiled,
        "largest_difference": worst,
    }


def _line(name: str, record: dict[str, Any]) -> str:
    text = (
        f"{name:<11}{'x'.join(map(str, record['size'])):>11}{record['static'] * 1e6:>11.1f}"
        f"{record['dynamic'] * 1e6:>11.1f}{record['dynamic'] / record['static']:>8.3f}"
        f"{record['traces']:>7}{record['size_classes']:>9}"
        f"{'  same bits' if record['bit_equal'] else '':<11}"
    )
    return text + (f"{record['torch'] * 1e6:>11.1f}" if "torch" in record else "")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; ``main`` of ``benchmarks.dynamic_shapes`` gives the arguments."""
    import flamec

    ours, torch = Framework(flamec, arguments.device), None
    if arguments.torch:
        import torch as module

        torch = Framework(module, arguments.device)
    found: dict[str, Any] = {}
    peer = "  torch.compile" if torch else ""
    heads = f"{'':<11}{'size':>11}{'static us':>11}{'dynamic us':>11}{'ratio':>8}"
    print(f"{heads} traces  classes{peer}")
    for name in arguments.rows or [*ROWS, "sizes"]:
        if name == "sizes":
            found[name] = many_sizes(ours)
            print(name, found[name], flush=True)
            continue
        found[name] = measure(ROWS[name], ours, torch, arguments.rounds, arguments.calls)
        for record in found[name]:
            print(_line(name, record), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")
    return 0
