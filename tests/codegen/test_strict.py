"""Strict programs have the bits of eager mode, operation by operation.

On the CPU all of them, sums included; on a GPU (here Triton's interpreter, where nothing is
contracted, so roundings are what is looked at) those of elementwise results.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from interpreted import run_interpreted
from op_row import Draw, Row, Sample
from op_table import OP_TABLE
from plan_batch import Batch
from random_graphs import GraphMaker
from same_bits import same_bits

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph as compile_for_gpu
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph, Value
from flamec.ir.op import REGISTRY, Op, OpKind, lookup
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.printer import print_graph
from flamec.ir.types import TensorType, bfloat16, float16, float32, float64

STRICT = CodegenOptions(strict=True)
OPTIMIZED = ("-O2",)  # with less, the compiler contracts nothing
FOLDING = (OpKind.ELEMENTWISE, OpKind.REDUCTION, OpKind.SCAN)
FULL = os.environ.get("FLAMEC_TEST_LEVEL") == "full"
TABLE_PARTS, PARTS, GRAPHS_A_PART = 10, 4, 12


def strict(graph: Graph) -> Graph:
    return run_passes(graph, pipeline(strict=True), check=True)[0]


@pytest.mark.parametrize("part", range(TABLE_PARTS))
def test_operations_of_the_table_have_eager_bits(part: int, tmp_path: Path) -> None:
    """Operands are dense; ``test_evaluate`` has eager results that do not depend on that."""
    rows = [r for r in OP_TABLE if lookup(r.name).kind in FOLDING]
    batch, cases = Batch(tmp_path), []
    for row in rows[part::TABLE_PARTS]:
        graph, arrays = _table_graph(row)
        batch.add(strict(graph), replace(STRICT, fuse=False))
        cases.append((row, graph, arrays))
    batch.load()
    for number, (row, graph, arrays) in enumerate(cases):
        outputs, _ = batch.run(number, arrays)
        expected, _ = evaluate_graph(graph, arrays)
        for value, got, want in zip(graph.outputs, outputs, expected, strict=True):
            assert same_bits(got, want), f"{row.name} {value.type}\ngot {got}\nnot {want}"


def _table_graph(row: Row) -> tuple[Graph, list[np.ndarray]]:
    """Samples of a row, and elementwise functions of a thousand floats.

    Each shape is a function more to compile. Bits of elementwise results do not depend on shapes:
    below the full level, of these only the longest samples.
    """
    builder, arrays, outputs = GraphBuilder(), [], []
    elementwise = lookup(row.name).kind is OpKind.ELEMENTWISE
    for dtype in row.dtypes:
        samples = row.make(Draw(dtype, np.random.default_rng(1)))
        if elementwise and not FULL:
            samples.sort(key=lambda sample: sample.arrays[0].size)
            longest = {(str(s.attributes), *(t.dtype for t in s.types)): s for s in samples}
            samples = [*longest.values()]
        if dtype.kind == "float" and elementwise:
            more = row.make(Draw(dtype, np.random.default_rng(2)))
            samples += [_longer(s) for s in more if all(a.size for a in s.arrays)]
        for sample in samples:
            inputs = [builder.input(t) for t in sample.types]
            made = builder.apply(lookup(row.name), inputs, sample.attributes)
            outputs += made if isinstance(made, tuple) else (made,)
            arrays += sample.arrays
    return builder.build(outputs), arrays


def _longer(sample: Sample) -> Sample:
    with np.errstate(all="ignore"):
        more = [np.append(a, (a * a).astype(a.dtype)) for a in sample.arrays]
    long = tuple(np.resize(a, (1003,)) for a in more)
    return replace(sample, arrays=long)


class StrictMaker(GraphMaker):
    """Random graphs in which most operations are elementwise functions of floats, of all kinds."""

    def operations(self, operands: int) -> list[Op]:
        accepted = TensorType((), float32)
        found = []
        for op in sorted(REGISTRY.values(), key=lambda op: op.name):
            if op.kind is not OpKind.ELEMENTWISE:
                continue
            try:
                op.infer_types((accepted,) * operands, {})
            except (TypeError, KeyError, IndexError, ValueError):
                continue
            found.append(op)
        return found

    def unary(self) -> Value | None:
        x = self.pick("float")
        return None if x is None else self.b.apply(self.random.choice(self.operations(1)), [x], {})

    def binary(self) -> Value | None:
        x, op = self.pick("float"), self.random.choice(self.operations(2))
        if x is None or (op.name == "nextafter" and x.type.dtype.is_half):
            return None
        if op.name in ("maximum", "minimum"):  # which zero is returned depends on the order
            return None
        return self.b.apply(op, [x, self.partner(x)], {})

    def view(self) -> Value:
        """None that changes the order in which NumPy adds."""
        x = self.random.choice(self.values)
        return self.b.reshape(x, shape=(1, *x.type.shape))


@pytest.mark.parametrize("part", range(PARTS))
def test_random_graphs_have_eager_bits(part: int, tmp_path: Path) -> None:
    batch, cases = Batch(tmp_path, flags=OPTIMIZED), []
    for seed in range(part * GRAPHS_A_PART, (part + 1) * GRAPHS_A_PART):
        maker = (GraphMaker if seed % 4 == 0 else StrictMaker)(seed, 3 if seed % 4 == 0 else 37)
        graph = maker.graph(30)
        batch.add(strict(graph), STRICT)
        cases.append((seed, maker, graph))
    batch.load()
    for number, (seed, maker, graph) in enumerate(cases):
        arrays = maker.arrays(0)
        outputs, updates = batch.run(number, arrays)
        expected, written = evaluate_graph(graph, arrays)
        pairs = zip((*outputs, *updates.values()), (*expected, *written.values()), strict=True)
        for got, want in pairs:
            assert same_bits(got, want), f"seed {seed}\n{print_graph(graph)}\n{got}\n{want}"


def test_default_programs_contract_and_round_late(tmp_path: Path) -> None:
    """What strict programs must not do is there to be found: the comparison can fail."""
    batch, graphs = Batch(tmp_path, flags=OPTIMIZED), []
    for dtype in (float32, bfloat16):
        b = GraphBuilder()
        x, y, z = (b.input(TensorType((1000,), dtype)) for _ in range(3))
        graphs.append(b.build([b.add(b.mul(x, y), z)]))
        batch.add(run_passes(graphs[-1], pipeline())[0])
        batch.add(strict(graphs[-1]), STRICT)
    batch.load()
    rng = np.random.default_rng(0)
    for number, graph in enumerate(graphs):
        dtype = graph.inputs[0].type.dtype.numpy
        arrays = [rng.normal(size=1000).astype(dtype) for _ in range(3)]
        (expected,), _ = evaluate_graph(graph, arrays)
        (default,), _ = batch.run(2 * number, arrays)
        (exact,), _ = batch.run(2 * number + 1, arrays)
        assert same_bits(exact, expected)
        assert not same_bits(default, expected)


@pytest.mark.parametrize("dtype", [float64, float32, float16, bfloat16], ids=str)
def test_results_do_not_depend_on_how_operands_lie(dtype) -> None:
    """Elementwise functions of NumPy have several implementations, chosen by strides."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(12, 34)) * rng.choice([0.1, 1, 10], (12, 34))).astype(dtype.numpy)
    wide = np.zeros((12, 34, 5), dtype.numpy)
    wide[..., 2] = x
    lying = [x, x[::-1, ::-1].copy()[::-1, ::-1], wide[..., 2], x.T.copy().T]
    for op in StrictMaker(0).operations(1):
        results = [_evaluated(op, a) for a in lying]
        results.append(np.array([[_evaluated(op, v.reshape(())) for v in row] for row in x]))
        for result in results[1:]:
            assert same_bits(np.ascontiguousarray(result), results[0]), op.name
    base = np.abs(x)
    for exponent in (2.0, 0.5, -1.0, 3.0, 1.7):
        exponents = np.full(x.shape, exponent, dtype.numpy)
        dense = _evaluated(lookup("pow"), base, exponents)
        for other in (
            exponents[0, 0],
            exponents[:1],
            exponents[:, :1],
            np.array([exponents[0, 0]]),
        ):
            assert same_bits(_evaluated(lookup("pow"), base, np.asarray(other)), dense), exponent
        one = _evaluated(lookup("pow"), base[0, 0].reshape(()), exponents[0, 0].reshape(()))
        assert same_bits(one, dense[0, 0].reshape(()))


def _evaluated(op: Op, *arrays: np.ndarray) -> np.ndarray:
    b = GraphBuilder()
    types = {2: {"f": float16, "V": bfloat16}, 4: {"f": float32}, 8: {"f": float64}}
    values = [b.input(TensorType(a.shape, types[a.itemsize][a.dtype.kind])) for a in arrays]
    (result,), _ = evaluate_graph(b.build([b.apply(op, values, {})]), arrays)
    return result


def test_gpu_kernels_are_not_contracted_and_not_approximate() -> None:
    b = GraphBuilder()
    x = b.input(TensorType((64, 64), bfloat16))
    graph = b.build([b.mul(b.add(b.exp(x), x), b.sigmoid(x))])
    plan = compile_for_gpu(strict(graph), STRICT).plan
    assert {k.options["enable_fp_fusion"] for k in plan.kernels} == {False}
    assert "flamec_fast" not in plan.source
    default = compile_for_gpu(run_passes(graph, pipeline())[0]).plan
    assert "flamec_fast" in default.source
    assert not any("enable_fp_fusion" in k.options for k in default.kernels)


def test_gpu_programs_have_the_bits_of_single_operations() -> None:
    (report,) = run_interpreted("triton_strict.py", ["16"])
    assert report["graphs"] == 16
    assert report["wrong"] == []
    assert report["late"] > 3, "default programs do not differ: nothing was tested"
