"""Programs over symbolic sizes beside those made for one size, on one thread of a CPU.

``python -m benchmarks.symbolic_sizes [--rows NAME ...] [--rounds N]``

Each row is a function, the axes that vary, and sizes. At each size one program that was made for
all of them (``mark_dynamic``) and one for this size alone (``dynamic=False``) take turns; a time is
the least of the rounds, of the process. Results must be close, and one trace must serve all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import flamec
from benchmarks.dynamic_shapes import WIDTH, _block
from flamec.nn import functional as F

Size = tuple[int, ...]
Function = Callable[[Any], Any]
ROUND = 0.004  # seconds

_IMAGES = [(count, 8, side, side) for count in (1, 8) for side in (4, 8, 16, 20, 32, 64)]


def _array(*shape: int) -> Any:
    rng = np.random.default_rng(sum(shape))
    return flamec.from_numpy(rng.standard_normal(shape, np.float32))


def _gradient(function: Function) -> Function:
    def gradient(x: Any) -> Any:
        x = x.detach().requires_grad_()
        y = function(x)
        return flamec.autograd.grad((y * y).sum(), x)[0]

    return gradient


_PER_CHANNEL, _SINGLE, _SQUARE = _array(8, 1, 3, 3), _array(16, 8, 1, 1), _array(8, 8, 3, 3)
IMAGE_ROWS: dict[str, Function] = {
    "mean 2x2": lambda x: F.avg_pool2d(x, 2),
    "mean 3x3": lambda x: F.avg_pool2d(x, 3, 1),
    "mean 3x3/2": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "max 2x2": lambda x: F.max_pool2d(x, 2),
    "max 3x3/2": lambda x: F.max_pool2d(x, 3, 2, 1),
    "grad mean 3x3": _gradient(lambda x: F.avg_pool2d(x, 3, 1)),
    "grad mean 2x2": _gradient(lambda x: F.avg_pool2d(x, 2)),
    "grad max 2x2": _gradient(lambda x: F.max_pool2d(x, 2)),
    "zeros around": lambda x: F.pad(x, (1, 1, 1, 1)),
    "reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "depthwise": lambda x: F.conv2d(x, _PER_CHANNEL, padding=1, groups=8),
    "depthwise/2": lambda x: F.conv2d(x, _PER_CHANNEL, stride=2, padding=1, groups=8),
    "conv 1x1": lambda x: F.conv2d(x, _SINGLE),
    "conv 1x1/2": lambda x: F.conv2d(x, _SINGLE, stride=2),
    "conv 3x3": lambda x: F.conv2d(x, _SQUARE, padding=1),
    "conv 3x3/2": lambda x: F.conv2d(x, _SQUARE, stride=2, padding=1),
}
ROWS: dict[str, tuple[Function, Size, Sequence[Size]]] = {
    "block": (
        _block(flamec),
        (0, 1),
        [(b, n, WIDTH) for b, n in ((1, 1), (2, 1), (1, 2), (3, 5), (4, 33), (16, 64))],
    ),
    "softmax": (lambda x: x.softmax(1), (0, 1), [(64, 64), (300, 1000), (10000, 3), (8, 10000)]),
    "sum columns": (lambda x: x.sum(0), (0, 1), [(64, 20), (256, 64), (1000, 100)]),
    "std columns": (lambda x: x.std(0), (0, 1), [(64, 20), (1000, 100), (16, 1000)]),
    "argmax columns": (lambda x: x.argmax(0), (0, 1), [(64, 20), (256, 20), (1000, 20)]),
    "running sums": (
        lambda x: x.cumsum(1),
        (0, 1),
        [(4096, 2), (4096, 5), (4096, 8), (1000, 100)],
    ),
    "running maxima": (lambda x: x.cummax(1)[0], (0, 1), [(31, 1000), (64, 64), (31, 4096)]),
    **{name: (function, (0, 2, 3), _IMAGES) for name, function in IMAGE_ROWS.items()},
}


def measured(
    function: Function, axes: Size, sizes: Sequence[Size], rounds: int, backend: str = "c"
) -> Iterator[tuple[Size, float, float]]:
    """For each size the seconds of a call of the fixed and of the symbolic program."""
    symbolic = flamec.compile(function, threads=1, backend=backend)
    for size in sizes:
        fixed = flamec.compile(function, dynamic=False, threads=1, backend=backend)
        x, marked = _array(*size), _array(*size)
        flamec.mark_dynamic(marked, axes)
        calls = ((fixed, x), (symbolic, marked))
        results = [call(argument).numpy() for call, argument in calls]
        np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)
        begun = time.process_time()
        fixed(x)
        count = min(2000, max(1, int(ROUND / max(time.process_time() - begun, 1e-6))))
        least = [float("inf")] * 2
        for _ in range(rounds):
            for number, (call, argument) in enumerate(calls):
                begun = time.process_time()
                for _ in range(count):
                    call(argument)
                least[number] = min(least[number], (time.process_time() - begun) / count)
        yield size, least[0], least[1]
    if symbolic.stats.traces > 2:
        raise AssertionError(f"{symbolic.stats.traces} traces: {symbolic.stats.guard_failures}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", nargs="*", choices=[*ROWS], default=[*ROWS])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    print(f"{'':<16}{'size':>12}{'fixed us':>10}{'symbolic us':>13}{'ratio':>7}")
    for name in options.rows:
        ratios = []
        for size, fixed, symbolic in measured(*ROWS[name], options.rounds):
            ratios.append(symbolic / fixed)
            shown = "x".join(map(str, size))
            print(
                f"{name:<16}{shown:>12}{fixed * 1e6:>10.2f}{symbolic * 1e6:>13.2f}"
                f"{ratios[-1]:>7.2f}",
                flush=True,
            )
        middle = sorted(ratios)[len(ratios) // 2]
        print(f"{name:<16}least {min(ratios):.2f}, middle {middle:.2f}, most {max(ratios):.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
