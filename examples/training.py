"""What the examples have in common: batches of arrays, and the loop that reports progress."""

import argparse
import time

import numpy as np

import flamec


def batches(*arrays, batch, seed, device="cpu"):
    """One epoch of full batches of the arrays' rows, in an order that depends on ``seed`` alone."""
    order = np.random.default_rng(seed).permutation(len(arrays[0]))
    for start in range(0, len(order) - batch + 1, batch):
        chosen = order[start : start + batch]
        yield tuple(flamec.from_numpy(array[chosen]).to(device) for array in arrays)


def in_order(*arrays, batch=500, device="cpu"):
    """All rows of the arrays in batches, the last of which may be smaller."""
    for start in range(0, len(arrays[0]), batch):
        rows = slice(start, start + batch)
        yield tuple(flamec.from_numpy(array[rows]).to(device) for array in arrays)


def epochs(*arrays, batch, count, device="cpu"):
    """The batches of ``count`` epochs, each in another order."""
    for seed in range(count):
        yield from batches(*arrays, batch=batch, seed=seed, device=device)


def train(step, data, every=100, names=("loss",)):
    """Call ``step`` with each batch of ``data``; what it returned, [steps, names].

    ``step`` returns a tensor for each name. They are read once in ``every`` steps, when the means
    are printed: reading a value waits for the device.
    """
    history, waiting = [], []
    started = time.perf_counter()

    def report():
        values = [[float(value) for value in row] for row in waiting]
        history.extend(values)
        seconds = time.perf_counter() - started
        means = "  ".join(f"{n} {m:.4f}" for n, m in zip(names, np.mean(values, 0), strict=True))
        print(f"step {len(history):5d}  {means}  {len(values) / seconds:8.1f} steps/s")

    for arguments in data:
        result = step(*arguments)
        waiting.append(result if isinstance(result, tuple) else (result,))
        if len(waiting) == every:
            report()
            waiting, started = [], time.perf_counter()
    if waiting:
        report()
    return np.array(history)


def command_line(description, arguments, **defaults):
    """The options of an example: ``--device``, ``--seed``, and one for each of ``defaults``.

    A tuple stands for a choice among its members, the first of which is the default.
    ``arguments`` is a list of words, or None for those of the command line. Sets the seed.
    """
    parser = argparse.ArgumentParser(description=description)
    for name, value in {"device": "cpu", "seed": 0, **defaults}.items():
        choices = value if isinstance(value, tuple) else None
        value = choices[0] if choices else value
        show = "default: %(default)s"
        parser.add_argument(
            f"--{name}", type=type(value), default=value, choices=choices, help=show
        )
    options = parser.parse_args(arguments)
    flamec.manual_seed(options.seed)
    return options
