"""Whether ``DataLoader`` keeps a compiled training step fed.

``python -m benchmarks.data_loading [--device cuda|cpu] [--workers N] [--batch N] [--size N]
[--steps N] [--only NAME ...]``

ResNet-18 trains on images that workers make: decoding stands for itself as a random crop, a flip
and normalisation in NumPy. Three times a step, each the mean over the steps of an epoch after the
batches that were there at its beginning: with one batch that is there already, with batches of
the loader (pinned and sent without waiting on a GPU), and the loader alone (batches come in
bursts, so that a median would say little). Fed is 1 if the loader costs nothing: the first time
over the second. Each step's loss is read, as a loop that prints does. PyTorch runs the same
program where it is installed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import frameworks
from benchmarks.harness import AbsentError

CLASSES = 10


class Images:
    """Images of ``size``², cut out of larger ones, as float32 with channels first; and classes."""

    def __init__(self, count: int, size: int) -> None:
        rng = np.random.default_rng(0)
        self.count, self.size = count, size
        self.large = rng.integers(0, 256, (16, size + 32, size + 32, 3), np.uint8)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        rng = np.random.default_rng(index)
        top, left = rng.integers(0, 33, 2)
        image = self.large[index % 16, top : top + self.size, left : left + self.size]
        if index % 2:
            image = image[:, ::-1]
        scaled = (image.astype(np.float32) - 127.5) / 64.0
        return np.ascontiguousarray(scaled.transpose(2, 0, 1)), index % CLASSES


def batches(module: Any, options: argparse.Namespace) -> Any:
    """The loader of a framework."""
    return module.utils.data.DataLoader(
        Images(options.batch * options.steps, options.size),
        options.batch,
        num_workers=options.workers,
        pin_memory=options.device == "cuda",
        persistent_workers=options.workers > 0,
    )


def step_of(module: Any, options: argparse.Namespace) -> Any:
    """A training step of ResNet-18 that returns its loss."""
    from benchmarks.models.resnet import resnet18

    module.manual_seed(0)
    model = resnet18(module, CLASSES).to(options.device)
    optimizer = module.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = module.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def measure(name: str, module: Any, compiled: bool, options: argparse.Namespace) -> None:
    """Print one contender's row."""
    step = step_of(module, options)
    if compiled:
        step = module.compile(step)
    loader = batches(module, options)
    device = options.device

    def sent() -> Iterator[tuple[Any, Any]]:
        for x, y in loader:
            yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)

    x, y = next(iter(sent()))
    for _ in range(3):
        step(x, y).item()
    ready = min(2 * options.workers + 2, options.steps // 2)
    resident = mean((step(x, y).item() for _ in range(options.steps)), ready)
    fed = mean((step(*batch).item() for batch in sent()), ready)
    alone = mean((batch[0].shape for batch in sent()), ready)
    print(
        f"{name:16} step {resident * 1e3:8.2f} ms   with the loader {fed * 1e3:8.2f} ms   "
        f"loader alone {alone * 1e3:8.2f} ms   fed {resident / fed:5.2f}",
        flush=True,
    )


def mean(results: Iterator[Any], first: int) -> float:
    """The mean time between results after the ``first`` ones, which may have been there."""
    times = []
    begun = time.perf_counter()
    for _ in results:
        now = time.perf_counter()
        times.append(now - begun)
        begun = now
    return statistics.mean(times[first:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    contenders = [
        ("flamec compiled", frameworks.flamec, True),
        ("flamec eager", frameworks.flamec, False),
        ("torch eager", frameworks.torch, False),
    ]
    parser.add_argument("--only", nargs="+", choices=[name for name, *_ in contenders])
    options = parser.parse_args()
    for name, framework, compiled in contenders:
        if options.only and name not in options.only:
            continue
        try:
            module = framework()
        except AbsentError as absent:
            print(f"{name:16} {absent}")
            continue
        measure(name, module, compiled, options)


if __name__ == "__main__":
    main()
