"""A transformer's block over batches and lengths that change at each call.

``dynamic_shapes``: a step is 50 calls with 50 batch sizes and 50 lengths in random order.
``dynamic_shapes_one_size``: what the program over symbolic sizes costs at one size, beside the
program that was made for it. ``python -m benchmarks.dynamic_shapes`` measures on a GPU
(``gpu/dynamic_shapes.py``).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import frameworks
from benchmarks.harness import Contender, Step, Workload

WIDTH, HEADS = 64, 4
ONE_SIZE = (16, 64)
_EXAMPLE_SIZES = ((3, 5), (4, 7))  # after these both sizes are symbolic


def _sizes() -> list[tuple[int, int]]:
    rng = random.Random(0)
    batches, lengths = list(range(50)), list(range(50))  # 0 and 1 are sizes like others
    rng.shuffle(batches)
    rng.shuffle(lengths)
    return list(zip(batches, lengths, strict=True))


def _block(framework: Any) -> Callable[[Any], Any]:
    rng = np.random.default_rng(0)
    attention = framework.nn.functional.scaled_dot_product_attention
    normalize = framework.nn.functional.layer_norm
    first, second = (
        framework.from_numpy(rng.standard_normal(s, np.float32) / WIDTH**0.5)
        for s in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH))
    )

    def block(x: Any) -> Any:
        batch, length, width = x.shape
        heads = (normalize(x, (WIDTH,)) @ first).reshape(batch, length, 3, HEADS, width // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = attention(q, k, v, is_causal=True)
        return x + y.transpose(1, 2).reshape(batch, length, width) @ second

    return block


def _contender(
    name: str,
    module: Callable[[], Any],
    compiled: Callable[[Any, Callable[[Any], Any]], Callable[[Any], Any]],
    sizes: Sequence[tuple[int, int]],
    before: Sequence[tuple[int, int]] = (),
) -> Contender:
    """``before``: sizes that the function is called with first."""

    def prepare() -> Step:
        framework = module()
        function = compiled(framework, _block(framework))

        def inputs(shapes: Sequence[tuple[int, int]]) -> list[Any]:
            rng = np.random.default_rng(1)
            arrays = (rng.standard_normal((*s, WIDTH), np.float32) for s in shapes)
            return [framework.from_numpy(a) for a in arrays]

        for x in inputs(before):
            function(x)
        given = inputs(sizes)

        def step() -> Any:
            results = [function(x) for x in given]
            return tuple(r.numpy() for r in results[:3])

        step()
        return step

    return Contender(name, prepare)


def _plain(_: Any, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return function


def _compiled(**options: Any) -> Callable[[Any, Callable[[Any], Any]], Callable[[Any], Any]]:
    return lambda framework, function: framework.compile(function, **options)


WORKLOADS = (
    Workload(
        "dynamic_shapes",
        "a transformer's block, width 64, for 50 batch sizes and lengths from 0 on",
        [
            _contender("flamec eager", frameworks.flamec, _plain, _sizes()),
            _contender("flamec compiled", frameworks.flamec, _compiled(), _sizes()),
            _contender("torch eager", frameworks.torch, _plain, _sizes()),
            _contender("torch.compile", frameworks.torch, _compiled(dynamic=True), _sizes()),
        ],
    ),
    Workload(
        "dynamic_shapes_one_size",
        f"the same block at batch {ONE_SIZE[0]} and length {ONE_SIZE[1]}",
        [
            _contender("flamec eager", frameworks.flamec, _plain, [ONE_SIZE]),
            _contender(
                "flamec compiled", frameworks.flamec, _compiled(), [ONE_SIZE], _EXAMPLE_SIZES
            ),
            _contender(
                "flamec compiled for the size",
                frameworks.flamec,
                _compiled(dynamic=False),
                [ONE_SIZE],
            ),
            _contender("torch eager", frameworks.torch, _plain, [ONE_SIZE]),
            _contender("torch.compile", frameworks.torch, _compiled(dynamic=True), [ONE_SIZE]),
        ],
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """On a GPU: a table of programs over symbolic sizes beside those made for one size."""
    from benchmarks.gpu import dynamic_shapes

    parser = argparse.ArgumentParser(description=dynamic_shapes.__doc__)
    parser.add_argument("--device", default="cuda", help="of the arrays (cpu: to try the program)")
    names = [*dynamic_shapes.ROWS, "sizes"]
    parser.add_argument("--rows", nargs="*", choices=names)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--torch", action="store_true", help="torch.compile beside it")
    parser.add_argument("--json", help="write the records to this file")
    return dynamic_shapes.run(parser.parse_args(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
