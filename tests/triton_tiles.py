"""Tiles that a search may choose: whatever they are, results are those of the evaluator.

Run as a program with TRITON_INTERPRET=1, ``--rounds N`` and names of ``triton_graphs.GRAPHS``: a
line of JSON for each with the tiles that were tried and what was wrong.
"""

from __future__ import annotations

import json
import random
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace

from triton_cases import RunAll, check_graph

from flamec.codegen.options import CodegenOptions, Schedule
from flamec.codegen.triton.choice import candidates, fits
from flamec.codegen.triton.compile_graph import emit_graph, lower_graph
from flamec.codegen.triton.tiling import Tile
from flamec.ir.graph import Graph
from flamec.ir.plan import ExecutionPlan

_CHANGES = ("whole", "stages", "chunks", "columns", "rows", "warps")


class OtherTiles:
    """Makes plans whose parts have tiles other than the usual ones; ``tried`` keeps them."""

    def __init__(self, seed: int, number: int) -> None:
        self._random = random.Random(seed)
        self._number = number
        self.tried: list[str] = []

    def __call__(self, graph: Graph, options: CodegenOptions | None) -> ExecutionPlan:
        options = options or CodegenOptions()
        lowered = lower_graph(graph, options)
        schedules: dict[str, Schedule] = {}
        for choice in emit_graph(lowered, options).choices:
            if isinstance(choice.schedule, Tile):
                found = candidates(choice.part, options, 1000)
                other = self._other(choice.schedule, found)
                assert isinstance(other, Tile)
                looping = replace(other, blocks=2)  # as for a program with many rows
                if self._number % 2 and fits(looping, choice.part, options):
                    other = looping
                schedules[choice.key] = other
        given = replace(options, schedules=schedules)
        compiled = emit_graph(lowered, given)
        for choice in compiled.choices:
            assert schedules.get(choice.key, choice.schedule) == choice.schedule
        self.tried += [str(tile) for tile in schedules.values()]
        return compiled.plan

    def _other(self, usual: Tile, found: Sequence[Schedule]) -> Schedule:
        """A tile that differs in one of the respects, each in turn if possible."""
        for shift in range(len(_CHANGES)):
            change = _CHANGES[(self._number + shift) % len(_CHANGES)]
            other = [t for t in found if getattr(t, change) != getattr(usual, change)]
            if other:
                return self._random.choice(other)
        return usual


def check_tiles(name: str, rounds: int, run: RunAll) -> tuple[list[str], list[str]]:
    """The tiles that were tried for a graph, and what was wrong."""
    tried, wrong = [], []
    for number in range(rounds):
        tiles = OtherTiles(zlib.crc32(name.encode()) + number, number)
        wrong += [f"{text} with {tiles.tried}" for text in check_graph(name, run, tiles)]
        tried += tiles.tried
    return tried, wrong


def main() -> None:
    from triton_interpreter import run_plan

    rounds, names = int(sys.argv[2]), sys.argv[3:]
    for name in names:
        tried, wrong = check_tiles(name, rounds, run_plan)
        print(json.dumps({"row": name, "tiles": tried, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main()
