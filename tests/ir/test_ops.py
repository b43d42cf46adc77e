"""Every primitive against its row of the op table."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from op_row import Attributes, Draw, Row, Sample
from op_table import OP_TABLE

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import concrete_attributes, evaluate_graph, run_op
from flamec.ir.graph import Graph
from flamec.ir.op import REGISTRY, OpKind, lookup
from flamec.ir.parser import parse_graph
from flamec.ir.passes.differentiate import differentiate_graph
from flamec.ir.printer import print_graph
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim, evaluate_shape
from flamec.ir.shape_oracle import using_oracle
from flamec.ir.types import ALL_DTYPES, TensorType, bfloat16, float64, int64
from flamec.ir.verify import verify

every_row = pytest.mark.parametrize("row", OP_TABLE, ids=lambda row: row.name)
every_differentiable_row = pytest.mark.parametrize(
    "row", [row for row in OP_TABLE if row.gradient], ids=lambda row: row.name
)


def generator(row: Row) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(row.name.encode()))


def graph_of(name: str, types: Sequence[TensorType], attributes: Attributes) -> Graph:
    b = GraphBuilder()
    node = b.add_node(lookup(name), [b.input(t) for t in types], attributes)
    return b.build(node.outputs)


def same(row: Row, found: np.ndarray, wanted: np.ndarray, type: TensorType, where: str) -> None:
    assert found.dtype == type.dtype.numpy and found.shape == type.shape, where
    rtol, atol = row.tolerance(type.dtype)
    if type.dtype.kind == "float":
        found, wanted = found.astype(np.float64), wanted.astype(np.float64)
        np.testing.assert_allclose(found, wanted, rtol, atol, equal_nan=True, err_msg=where)
    else:
        np.testing.assert_array_equal(found, wanted, err_msg=where)


# the table itself ------------------------------------------------------------
def test_every_op_has_one_row_and_every_row_an_op() -> None:
    names = [row.name for row in OP_TABLE]
    assert len(names) == len(set(names))
    assert set(names) == set(REGISTRY)


def test_every_differentiable_op_is_checked_by_finite_differences() -> None:
    declared = {
        name
        for name, op in REGISTRY.items()
        if op.derivative is not None and op.kind is not OpKind.BARRIER  # another's derivative
    }
    assert declared <= {row.name for row in OP_TABLE if row.gradient}


# shape rule, evaluation, oracle ----------------------------------------------
@every_row
def test_evaluation_agrees_with_rule_and_oracle(row: Row) -> None:
    op, rng = lookup(row.name), generator(row)
    for dtype in row.dtypes:
        for sample in row.samples(dtype, rng):
            types = op.infer_types(sample.types, sample.attributes)
            before = [a.copy() for a in sample.arrays]
            results = run_op(op, sample.attributes, sample.arrays, types)
            expected = row.expected(sample, types)
            for found, wanted, type in zip(results, expected, types, strict=True):
                same(row, found, wanted, type, f"{row.name}{sample}")
            for array, copy in zip(sample.arrays, before, strict=True):
                assert array.tobytes() == copy.tobytes(), f"{row.name} wrote to an operand"


@every_row
def test_other_dtypes_are_rejected(row: Row) -> None:
    sample = row.samples(row.dtypes[0], generator(row))[0]
    for dtype in set(ALL_DTYPES) - set(row.dtypes):
        types = [t.with_dtype(dtype) if t.dtype is row.dtypes[0] else t for t in sample.types]
        attributes = {k: dtype if k == "dtype" else v for k, v in sample.attributes.items()}
        with pytest.raises(TypeError, match=row.name):
            lookup(row.name).infer_types(tuple(types), attributes)


@every_row
def test_bad_inputs_are_explained(row: Row) -> None:
    assert row.errors
    for error in row.errors:
        with pytest.raises(error.exception) as raised:
            lookup(row.name).infer_types(error.types, error.attributes)
        assert row.name in str(raised.value)
        assert error.fragment in str(raised.value)


# text form -------------------------------------------------------------------
@every_row
def test_text_form_reads_back(row: Row) -> None:
    rng = generator(row)
    for dtype in row.dtypes:
        for sample in row.samples(dtype, rng):
            graph = verify(graph_of(row.name, sample.types, sample.attributes))
            again = parse_graph(print_graph(graph))
            assert verify(again).fingerprint() == graph.fingerprint()
            assert print_graph(again) == print_graph(graph)


# symbolic shapes ---------------------------------------------------------------
class Hints:
    """Answers questions about sizes from example values, as a trace does."""

    def __init__(self, bindings: dict[str, int]) -> None:
        self.bindings = bindings

    def decide(self, left: Dim, relation: str, right: Dim) -> bool:
        a, b = evaluate_dim(left, self.bindings), evaluate_dim(right, self.bindings)
        return {"==": a == b, "<": a < b, "<=": a <= b}[relation]

    def specialize(self, dim: SymbolicDim) -> int:
        return evaluate_dim(dim, self.bindings)

    def serves(self, frame: object) -> bool:
        return False

    def as_scalar(self, dim: SymbolicDim) -> Any:
        raise AssertionError("a shape rule left the integers")


@every_row
def test_rule_over_symbols_agrees_with_rule_over_sizes(row: Row) -> None:
    op = lookup(row.name)
    for sample in row.samples(row.dtypes[0], generator(row)):
        bindings: dict[str, int] = {}
        for size in (d for t in sample.types for d in t.shape if d != 1):
            bindings[f"s{size}"] = size
        types = tuple(
            t.with_shape(tuple(d if d == 1 else SymbolicDim.symbol(f"s{d}") for d in t.shape))
            if row.name != "random_bits"
            else t
            for t in sample.types
        )
        with using_oracle(Hints(bindings)):
            found = op.infer_types(types, sample.attributes)
        for symbolic, plain in zip(
            found, op.infer_types(sample.types, sample.attributes), strict=True
        ):
            assert evaluate_shape(symbolic.shape, bindings) == plain.shape, str(sample)
            assert symbolic.dtype is plain.dtype


def drawn(types: Sequence[TensorType], row: Row, bindings: dict[str, int]) -> list[np.ndarray]:
    rng = generator(row)
    arrays = [
        Draw(t.dtype, rng)(*evaluate_shape(t.shape, bindings), domain=(0.2, 0.4)) for t in types
    ]
    return arrays if row.admit is None else [row.admit(arrays[0]), *arrays[1:]]


@every_row
def test_one_symbolic_graph_serves_all_sizes(row: Row) -> None:
    assert row.symbolic is not None
    types, attributes = row.symbolic(SymbolicDim.symbol("B"), row.dtypes[0])
    graph = verify(graph_of(row.name, types, attributes))
    assert verify(parse_graph(print_graph(graph))).fingerprint() == graph.fingerprint()
    for size in (0, 1, 2, 5):
        bindings = {"B": size}
        arrays = drawn(types, row, bindings)
        sample = Sample(tuple(arrays), concrete_attributes(attributes, bindings))
        outputs, _ = evaluate_graph(graph, arrays, bindings)
        concrete = [v.type.with_shape(o.shape) for v, o in zip(graph.outputs, outputs, strict=True)]
        for found, wanted, type in zip(
            outputs, row.expected(sample, concrete), concrete, strict=True
        ):
            same(row, found, wanted, type, f"{row.name} B={size}")


@every_differentiable_row
def test_symbolic_gradient_agrees_with_plain_gradient(row: Row) -> None:
    assert row.symbolic is not None
    types, attributes = row.symbolic(SymbolicDim.symbol("B"), float64)
    symbolic = verify(differentiate_graph(graph_of(row.name, types, attributes), row.gradient))
    for size in (0, 1, 2, 5):
        bindings = {"B": size}
        plain_types = [t.with_shape(evaluate_shape(t.shape, bindings)) for t in types]
        plain = graph_of(row.name, plain_types, concrete_attributes(attributes, bindings))
        arrays = drawn([v.type for v in symbolic.inputs], row, bindings)
        found, _ = evaluate_graph(symbolic, arrays)
        wanted, _ = evaluate_graph(differentiate_graph(plain, row.gradient), arrays)
        for f, w in zip(found, wanted, strict=True):
            np.testing.assert_allclose(f, w, rtol=1e-12, atol=1e-12)


# derivatives -------------------------------------------------------------------
def differences(
    row: Row,
    graph: Graph,
    arrays: list[np.ndarray],
    wrt: Sequence[int],
    rng: np.random.Generator,
) -> tuple[Graph, list[np.ndarray]]:
    """Check the rule's gradient against central differences along a random direction.

    Returns the gradient graph and its inputs, of which the next order can be taken.
    """
    positions = [i for i, v in enumerate(graph.outputs) if v.type.dtype.is_floating_point]
    gradient = verify(differentiate_graph(graph, wrt, positions))
    weights = [np.asarray(rng.normal(size=graph.outputs[i].type.shape)) for i in positions]
    results, _ = evaluate_graph(gradient, [*arrays, *weights])
    gradients = results[len(graph.outputs) :]
    directions = [np.asarray(rng.normal(size=arrays[i].shape)) for i in wrt]
    if row.direction is not None:
        directions[0] = row.direction(directions[0])

    def weighted(step: float) -> float:
        moved = list(arrays)
        for i, direction in zip(wrt, directions, strict=True):
            moved[i] = np.asarray(arrays[i] + step * direction)
        outputs, _ = evaluate_graph(graph, moved)
        return sum(float(np.sum(w * outputs[i])) for w, i in zip(weights, positions, strict=True))

    step = 1e-5
    numeric = (weighted(step) - weighted(-step)) / (2 * step)
    terms = [g * d for g, d in zip(gradients, directions, strict=True)]
    exact = sum(float(np.sum(t)) for t in terms)
    size = 1 + sum(float(np.sum(np.abs(t))) for t in terms)
    assert abs(numeric - exact) <= 1e-6 * size, (numeric, exact)
    only = Graph(gradient.inputs, gradient.nodes, gradient.outputs[len(graph.outputs) :])
    return only, [*arrays, *weights]


@every_differentiable_row
def test_first_and_second_derivative(row: Row) -> None:
    rng = generator(row)
    for sample in row.gradient_samples(rng):
        if sample.attributes.get("dtype", float64) is not float64:
            continue
        wrt = [i for i in row.gradient if i < len(sample.arrays)]
        graph, arrays = graph_of(row.name, sample.types, sample.attributes), list(sample.arrays)
        graph, arrays = differences(row, graph, arrays, wrt, rng)
        if row.orders > 1:
            count = len(sample.arrays)
            differences(row, graph, arrays, [*wrt, *range(count, len(arrays))], rng)


@every_differentiable_row
def test_derivative_keeps_dtype(row: Row) -> None:
    if bfloat16 not in row.dtypes:
        pytest.skip("no 16-bit floats")
    for sample in row.samples(bfloat16, generator(row))[:3]:
        if not lookup(row.name).infer_types(sample.types, sample.attributes)[0].dtype.is_half:
            continue
        wrt = [i for i in row.gradient if i < len(sample.arrays)]
        graph = verify(
            differentiate_graph(graph_of(row.name, sample.types, sample.attributes), wrt)
        )
        for position, value in zip(wrt, graph.outputs[-len(wrt) :], strict=True):
            assert value.type == sample.types[position]


@pytest.mark.parametrize("mode", ["prod", "amax", "amin"])
def test_modes_of_index_put_without_derivative_say_so(mode: str) -> None:
    types = [TensorType((3,), float64), TensorType((2,), float64), TensorType((2,), int64)]
    graph = graph_of("index_put", types, {"mode": mode})
    with pytest.raises(NotImplementedError, match=f"index_put with mode '{mode}'"):
        differentiate_graph(graph, [0, 1])
