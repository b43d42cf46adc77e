"""Strict programs against their operations one by one, in Triton's interpreter.

Run as a program with TRITON_INTERPRET=1 and a number of random graphs: a line of JSON with what
differed, and how many results differ where the program is not strict.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from random_graphs import GraphMaker
from same_bits import same_bits
from triton_interpreter import run_plan

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.printer import print_graph
from flamec.ir.types import TensorType, bfloat16, float16, float32

FUNCTIONS = ("exp", "sigmoid", "tanh", "sqrt", "rsqrt", "neg", "abs", "erf", "sin", "log1p")


class Chains(GraphMaker):
    """Elementwise functions of 16-bit and 32-bit floats, and conversions between them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, 3)
        dtype = self.random.choice((float16, bfloat16))
        self.b = GraphBuilder()
        self.values = [self.b.input(TensorType((3, 17), t)) for t in (dtype, dtype, float32)]

    def grow(self, steps: int) -> Graph:
        for _ in range(steps):
            x = self.random.choice(self.values)
            move = self.random.randrange(4)
            if move == 0:
                name = self.random.choice(FUNCTIONS)
                made: Value = getattr(self.b, name)(x)
            elif move == 1:
                target = self.random.choice((float32, float16, bfloat16))
                made = self.b.convert(x, dtype=target)
            else:
                name = self.random.choice(("add", "sub", "mul", "div"))
                same = [v for v in self.values if v.type == x.type]
                made = getattr(self.b, name)(x, self.random.choice(same))
            self.values.append(made)
        return self.b.build(self.values[3:])


def one_by_one(graph: Graph, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The graph's results, each operation as a program of its own."""
    memory = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        b = GraphBuilder()
        values = [b.input(v.type) for v in node.inputs]
        single = b.build([b.apply(node.op, values, node.attributes)])
        plan = compile_graph(single, CodegenOptions(strict=True)).plan
        (memory[node.output],), _ = run_plan(plan, [memory[v] for v in node.inputs], {})
    return [memory[v] for v in graph.outputs]


def main() -> None:
    count, wrong, late = int(sys.argv[1]), [], 0
    for seed in range(count):
        graph = Chains(seed).grow(9)
        rng = np.random.default_rng(seed)
        arrays = [rng.normal(size=v.type.shape).astype(v.type.dtype.numpy) for v in graph.inputs]
        expected = one_by_one(graph, arrays)
        for strict in (True, False):
            optimized = run_passes(graph, pipeline(strict=strict), check=True)[0]
            plan = compile_graph(optimized, CodegenOptions(strict=strict)).plan
            found, _ = run_plan(plan, arrays, {})
            same = [same_bits(a, b) for a, b in zip(found, expected, strict=True)]
            if strict and not all(same):
                wrong.append(f"seed {seed}: {same}\n{print_graph(graph)}")
            late += not strict and not all(same)
    print(json.dumps({"graphs": count, "wrong": wrong, "late": late}))


if __name__ == "__main__":
    main()
