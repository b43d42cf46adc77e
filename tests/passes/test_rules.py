"""What each pass does, rule by rule, and what it must leave alone."""

from __future__ import annotations

import numpy as np
import pytest
from pass_graphs import B, Body, X, graph_of, names, number, simplified

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Location, Value
from flamec.ir.passes.decompose import decompose
from flamec.ir.passes.eliminate_common_subexpressions import eliminate_common_subexpressions
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.fold_constants import fold_constants
from flamec.ir.passes.rewrite import rewrite
from flamec.ir.passes.simplify import simplify
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.shape_oracle import using_oracle
from flamec.ir.types import (
    CPU,
    TensorType,
    bfloat16,
    bool_,
    float32,
    float64,
    int8,
    int32,
    int64,
)
from flamec.ir.verify import verify

# simplify: algebra ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "unit"),
    [
        *(("add", -0.0), ("sub", 0.0), ("mul", 1.0), ("div", 1.0), ("pow", 1.0)),
        *(("maximum", -np.inf), ("minimum", np.inf)),
    ],
)
def test_neutral_elements_go(op: str, unit: float) -> None:
    assert simplified(lambda b, x: getattr(b, op)(x, number(b, unit, x)), X) == []


def test_neutral_elements_on_the_left_of_commutative_operations_go() -> None:
    assert simplified(lambda b, x: b.mul(number(b, 1.0, x), x), X) == []
    assert simplified(lambda b, x: b.sub(number(b, 0.0, x), x), X) == ["sub"]
    mask = TensorType((B,), bool_)
    assert simplified(lambda b, x: b.bitwise_and(number(b, True, x), x), mask) == []


def test_what_would_change_a_negative_zero_stays() -> None:
    assert simplified(lambda b, x: b.add(x, number(b, 0.0, x)), X) == ["add"]
    assert simplified(lambda b, x: b.sub(x, number(b, -0.0, x)), X) == ["sub"]
    assert simplified(lambda b, x: b.add(x, number(b, 0, x)), TensorType((3,), int64)) == []
    assert simplified(lambda b, x: b.mul(x, number(b, 0.0, x)), X) == ["mul"]


def test_a_neutral_element_that_broadcasts_leaves_an_expansion() -> None:
    row = TensorType((4,), float32)
    body = lambda b, x: b.mul(x, b.full_like(1.0, X))  # noqa: E731
    assert simplified(body, row) == ["expand"]


def test_involutions_and_idempotent_operations() -> None:
    assert simplified(lambda b, x: b.neg(b.neg(x)), X) == []
    assert simplified(lambda b, x: b.neg(b.neg(b.neg(x))), X) == ["neg"]
    assert simplified(lambda b, x: b.abs(b.abs(x)), X) == ["abs"]
    assert simplified(lambda b, x: b.floor(b.ceil(x)), X) == ["ceil", "floor"]
    assert simplified(lambda b, x: b.exp(b.exp(x)), X) == ["exp", "exp"]


def test_selections() -> None:
    mask = TensorType((B, 4), bool_)
    assert simplified(lambda b, c, x: b.where(c, x, x), mask, X) == []
    yes = lambda b, x, y: b.where(b.full_like(True, mask), x, y)  # noqa: E731
    assert simplified(yes, X, X) == []
    narrow = TensorType((4,), float32)
    assert simplified(yes, narrow, narrow) == ["expand"]
    assert simplified(lambda b, c, x, y: b.where(c, x, y), mask, X, X) == ["where"]


def test_constant_powers_become_products() -> None:
    def power(exponent: float, type: TensorType = X) -> list[str]:
        return simplified(lambda b, x: b.pow(x, number(b, exponent, x)), type)

    assert power(0.0) == []
    assert power(2.0) == ["mul"]
    assert power(3.0) == ["mul", "mul"]
    assert power(-1.0) == ["div"]
    assert power(0.5) == ["pow"]  # sqrt differs at -0.0 and -inf
    half = TensorType((4,), bfloat16)
    assert power(2.0, half) == ["mul"]
    assert power(3.0, half) == ["pow"]
    assert power(3, TensorType((4,), int64)) == ["mul", "mul"]


def _bits(b: GraphBuilder, x: Value, mask: int = (1 << 24) - 1) -> Value:
    """Nonnegative integers of 24 bits as floats, as random numbers are made of words."""
    return b.cast(b.bitwise_and(x, number(b, mask, x)), float32)


def test_words_are_compared_before_they_are_floats() -> None:
    def kept(b: GraphBuilder, x: Value) -> Value:
        uniform = b.mul(_bits(b, x), number(b, 2.0**-24, _bits(b, x)))
        return b.ge(uniform, number(b, 0.1, uniform))

    words = TensorType((B,), int32)
    assert simplified(kept, words) == ["bitwise_and", "ge"]
    assert "convert" in simplified(
        lambda b, x: b.eq(_bits(b, x), number(b, 0.5, _bits(b, x))), words
    )
    wide = (1 << 25) - 1  # which float32 rounds
    text = simplified(lambda b, x: b.ge(_bits(b, x, wide), number(b, 9.5, _bits(b, x))), words)
    assert "convert" in text


@pytest.mark.parametrize("op", ["ge", "gt", "le", "lt"])
@pytest.mark.parametrize("bound", [0.1, 0.25, 0.0, 1.0, 1.5, -0.25, 2.0**-24, 3 * 2.0**-25])
def test_comparisons_of_words_keep_their_truth(op: str, bound: float) -> None:
    edges = np.array([0, 1, 2, 1677721, 1677722, 4194303, 4194304, 4194305, (1 << 24) - 1, -1])

    def body(b: GraphBuilder, x: Value) -> Value:
        uniform = b.mul(_bits(b, x), number(b, 2.0**-24, _bits(b, x)))
        return getattr(b, op)(uniform, number(b, bound, uniform))

    graph = graph_of(body, TensorType((len(edges),), int32))
    (before,), (after,) = (
        evaluate_graph(g, [edges.astype(np.int32)])[0] for g in (graph, simplify(graph))
    )
    np.testing.assert_array_equal(before, after)


def test_factors_that_round_or_turn_comparisons_stay() -> None:
    def scaled(factor: float, bound: float) -> list[str]:
        return simplified(lambda b, x: b.gt(b.mul(x, number(b, factor, x)), number(b, bound, x)), X)

    assert scaled(0.5, 3.0) == ["gt"]
    for factor, bound in ((0.3, 3.0), (-0.5, 3.0), (2.0**-24, 1e38), (0.5, 1e-40), (0.5, np.nan)):
        assert "mul" in scaled(factor, bound), (factor, bound)


def test_conversions() -> None:
    def there_and_back(type: TensorType, *dtypes) -> list[str]:
        def body(b: GraphBuilder, x: Value) -> Value:
            for dtype in dtypes:
                x = b.convert(x, dtype=dtype)
            return x

        return simplified(body, type)

    assert there_and_back(X, float32) == []
    assert there_and_back(X, float64, float32) == []
    assert there_and_back(TensorType((4,), bfloat16), float32, float64, bfloat16) == []
    assert there_and_back(TensorType((4,), int8), float32, int64) == ["convert"]
    assert there_and_back(X, bfloat16, float32) == ["convert"] * 2
    assert there_and_back(TensorType((4,), int32), float32, int32) == ["convert"] * 2
    assert there_and_back(TensorType((4,), int64), float64, int64) == ["convert"] * 2


def test_scans_of_one_element_are_that_element() -> None:
    one = TensorType((3, 1), float32)
    assert simplified(lambda b, x: b.cumsum(x, axis=1), one) == []
    assert simplified(lambda b, x: b.cumprod(x, axis=0), one) == ["cumprod"]


def test_barriers_go() -> None:
    assert simplified(lambda b, x: b.exp(b.detach(x)), X) == ["exp"]


# simplify: views -----------------------------------------------------------------------------


def test_views_that_change_nothing_go() -> None:
    assert simplified(lambda b, x: b.reshape(x, shape=(B, 4)), X) == []
    assert simplified(lambda b, x: b.expand(x, shape=(B, 4)), X) == []
    assert simplified(lambda b, x: b.permute(x, axes=(0, 1)), X) == []
    whole = {"starts": (0, 0), "sizes": (B, 4), "steps": (1, 1)}
    assert simplified(lambda b, x: b.slice(x, **whole), X) == []
    flipped = {"starts": (0, 3), "sizes": (B, 4), "steps": (1, -1)}
    assert simplified(lambda b, x: b.slice(x, **flipped), X) == ["slice"]


def test_views_of_views_join() -> None:
    def shapes(b: GraphBuilder, x: Value) -> Value:
        return b.reshape(b.reshape(x, shape=(B, 2, 2)), shape=(2 * B, 2))

    def turned(b: GraphBuilder, x: Value) -> Value:
        return b.permute(b.permute(x, axes=(2, 0, 1)), axes=(2, 1, 0))

    def stretched(b: GraphBuilder, x: Value) -> Value:
        return b.expand(b.expand(x, shape=(B, 4)), shape=(3, B, 4))

    def back(b: GraphBuilder, x: Value) -> Value:
        return b.reshape(b.reshape(x, shape=(4 * B,)), shape=(B, 4))

    assert simplified(shapes, X) == ["reshape"]
    assert simplified(turned, TensorType((2, 3, 4), float32)) == ["permute"]
    assert simplified(stretched, TensorType((1, 4), float32)) == ["expand"]
    assert simplified(back, X) == []


def test_slices_of_slices_join_with_the_same_elements() -> None:
    def body(b: GraphBuilder, x: Value) -> Value:
        every_other = b.slice(x, starts=(9,), sizes=(5,), steps=(-2,))
        return b.slice(every_other, starts=(1,), sizes=(2,), steps=(2,))

    graph = graph_of(body, TensorType((10,), int64))
    result = eliminate_dead_code(simplify(graph))
    assert len(result.nodes) == 1
    assert evaluate_graph(result, [np.arange(10)])[0][0].tolist() == [7, 3]


def test_moving_dimensions_of_size_one_is_a_reshape() -> None:
    body = lambda b, x: b.permute(x, axes=(1, 0, 2))  # noqa: E731
    assert simplified(body, TensorType((1, B, 4), float32)) == ["reshape"]
    assert simplified(body, TensorType((2, B, 4), float32)) == ["permute"]


def test_reading_what_was_just_written() -> None:
    def body(offset: int) -> Body:
        def read(b: GraphBuilder, x: Value, y: Value) -> Value:
            written = b.slice_update(x, y, starts=(2,), steps=(1,))
            return b.slice(written, starts=(2 + offset,), sizes=(3,), steps=(1,))

        return read

    types = TensorType((8,), float32), TensorType((3,), float32)
    assert simplified(body(0), *types) == []
    assert simplified(body(1), *types) == ["slice_update", "slice"]


def test_assembling_from_one_part() -> None:
    whole = {"starts": (0, 0), "steps": (1, 1)}
    assert simplified(lambda b, x, y: b.slice_update(x, y, **whole), X, X) == []
    part = {"starts": (2,), "steps": (1,)}
    types = TensorType((8,), float32), TensorType((3,), float32)
    twice = lambda b, x, y: b.slice_update(b.slice_update(x, y, **part), b.neg(y), **part)  # noqa: E731
    assert simplified(twice, *types) == ["neg", "slice_update"]
    assert simplified(lambda b, x: b.concatenate(x, axis=0), X) == []
    none = {"low": (0, 0), "high": (0, 0)}
    assert simplified(lambda b, x: b.pad(x, number(b, 0.0, x), **none), X) == []
    some = {"low": (0, 1), "high": (0, 0)}
    assert simplified(lambda b, x: b.pad(x, number(b, 0.0, x), **some), X) == ["pad"]


def test_reductions_of_single_elements() -> None:
    column = TensorType((B, 1), float32)
    assert simplified(lambda b, x: b.sum(x, axes=()), X) == []
    assert simplified(lambda b, x: b.amax(x, axes=(1,)), column) == ["reshape"]
    assert simplified(lambda b, x: b.sum(x, axes=(0, 1)), column) == ["sum"]
    assert simplified(lambda b, x: b.argmax(x, axes=(1,)), column) == ["argmax"]


def test_elementwise_operations_broadcast_by_themselves() -> None:
    column = TensorType((B, 1), float32)
    stretch = lambda b, x, y: b.add(x, b.expand(y, shape=(B, 4)))  # noqa: E731
    assert simplified(stretch, X, column) == ["add"]
    only = lambda b, x, y: b.add(b.expand(x, shape=(B, 4)), b.expand(y, shape=(B, 4)))  # noqa: E731
    result = simplified(only, column, column)
    assert sorted(result) == ["add", "expand"]  # one of them must give the shape
    outer = lambda b, x, y: b.mul(b.expand(x, shape=(B, 4)), b.expand(y, shape=(B, 4)))  # noqa: E731
    assert simplified(outer, column, TensorType((4,), float32)) == ["mul"]
    ones = lambda b, x, y: b.mul(x, b.reshape(y, shape=(1, 1)))  # noqa: E731
    assert simplified(ones, X, TensorType((), float32)) == ["mul"]


class AlwaysYes:
    """An oracle for tracing: every relation between sizes holds."""

    def decide(self, left: Dim, relation: str, right: Dim) -> bool:
        return True

    def specialize(self, dim: SymbolicDim) -> int:
        raise AssertionError("no size is asked for")

    def serves(self, frame: object) -> bool:
        return False

    def as_scalar(self, dim: SymbolicDim) -> Value:
        raise AssertionError("no size is asked for")


def test_rules_assume_nothing_about_symbols() -> None:
    """What only a guard settles stays: a rule that asked would raise Undecidable."""

    def regrouped(b: GraphBuilder, x: Value) -> Value:
        return b.reshape(b.reshape(x, shape=(B // 8, 8)), shape=(B // 8 * 4, 2))

    def scaled(b: GraphBuilder, x: Value, y: Value) -> Value:
        return b.mul(b.add(x, y), b.full_like(1.0, TensorType((4,), float32)))

    vector, other = TensorType((B,), float32), TensorType((SymbolicDim.symbol("C"),), float32)
    with using_oracle(AlwaysYes()):
        graphs = [graph_of(regrouped, vector), graph_of(scaled, vector, other)]
    assert [names(simplify(g)) for g in graphs] == [["reshape", "reshape"], ["add", "mul"]]


# fold_constants ------------------------------------------------------------------------------


def folded(body: Body, *types: TensorType) -> dict:
    """The attributes of the constant that the only output is."""
    graph = eliminate_dead_code(verify(fold_constants(graph_of(body, *types))))
    assert [n.op.name for n in graph.nodes] == ["full"]
    return dict(graph.nodes[0].attributes)


def test_constants_are_computed_in_their_dtype() -> None:
    half = TensorType((), bfloat16)
    third = lambda b: b.div(b.constant(1.0, half), b.constant(3.0, half))  # noqa: E731
    assert folded(third)["value"] == 0.333984375
    single = TensorType((), float32)
    tenth = lambda b: b.add(b.constant(0.1, single), b.constant(0.2, single))  # noqa: E731
    assert folded(tenth)["value"] == float(np.float32(0.1) + np.float32(0.2))
    nan = folded(lambda b: b.log(b.constant(-1.0, single)))["value"]
    assert nan != nan
    assert folded(lambda b: b.lt(b.constant(1.0, single), b.constant(2.0, single)))["value"] is True
    assert folded(lambda b: b.convert(b.constant(2.7, single), dtype=int8))["value"] == 2


def test_constant_arrays_stay_one_number() -> None:
    def body(b: GraphBuilder) -> Value:
        wide = b.mul(b.full_like(3.0, X), b.constant(2.0, X))
        return b.reshape(b.permute(wide, axes=(1, 0)), shape=(4 * B,))

    attributes = folded(body)
    assert attributes["value"] == 6.0
    assert attributes["shape"] == (4 * B,)


def test_sizes() -> None:
    known = folded(lambda b: b.dim_size(size=7, dtype=float32, device=CPU))
    assert known == {"value": 7.0, "shape": (), "dtype": float32, "device": CPU}
    symbolic = graph_of(lambda b: b.dim_size(size=B, dtype=float32, device=CPU))
    assert fold_constants(symbolic) is symbolic


def test_what_has_no_elements_is_a_constant() -> None:
    """No division by its sizes is left, and no check of its indices; of others there is."""
    none, some = TensorType((0,), int64), TensorType((2,), int64)

    def looked_up(b: GraphBuilder, x: Value, i: Value) -> Value:
        zero = b.constant(0, TensorType((), int64))
        return b.index(x, b.floor_divide(i, zero), b.remainder(i, zero))

    assert folded(looked_up, TensorType((3, 0), float32), none)["shape"] == (0,)
    unread = graph_of(lambda b, x, i: b.index(x, i), TensorType((3, 0), float32), some)
    assert fold_constants(unread) is unread

    def put(b: GraphBuilder, x: Value, v: Value, i: Value) -> Value:
        return b.exp(b.index_put(x, v, i, mode="add"))

    for shape, indices, left in (((3,), none, 1), ((0,), some, 2)):
        types = TensorType(shape, float32), TensorType(indices.shape, float32), indices
        graph = eliminate_dead_code(verify(fold_constants(graph_of(put, *types))))
        assert len(graph.nodes) == left


def test_what_is_random_or_fails_is_not_folded() -> None:
    state = TensorType((2,), int64)
    random = graph_of(lambda b: b.random_bits(b.full_like(0, state), shape=(4,)))
    assert fold_constants(random) is random
    one = TensorType((), int64)
    failing = graph_of(lambda b: b.remainder(b.constant(1, one), b.constant(0, one)))
    assert fold_constants(failing) is failing
    with pytest.raises(ZeroDivisionError):
        evaluate_graph(failing, [])


# common subexpressions and dead code ---------------------------------------------------------


def shared(body: Body, *types: TensorType) -> list[str]:
    return names(eliminate_common_subexpressions(graph_of(body, *types)))


def test_equal_nodes_are_made_once() -> None:
    assert shared(lambda b, x: b.add(b.exp(x), b.exp(x)), X) == ["exp", "add"]
    swapped = lambda b, x, y: b.sub(b.mul(x, y), b.mul(y, x))  # noqa: E731
    assert shared(swapped, X, X) == ["mul", "sub"]
    ordered = lambda b, x, y: b.add(b.sub(x, y), b.sub(y, x))  # noqa: E731
    assert shared(ordered, X, X) == ["sub", "sub", "add"]
    deep = lambda b, x: b.add(b.sin(b.exp(x)), b.sin(b.exp(x)))  # noqa: E731
    assert shared(deep, X) == ["exp", "sin", "add"]


def test_attributes_tell_nodes_apart() -> None:
    two = lambda b, x: b.add(b.sum(x, axes=(0,)), b.sum(x, axes=(1,)))  # noqa: E731
    assert shared(two, TensorType((4, 4), float32)) == ["sum", "sum", "add"]
    zeros = graph_of(lambda b, x: b.atan2(number(b, 0.0, x), number(b, -0.0, x)), X)
    assert eliminate_common_subexpressions(zeros) is zeros
    same = graph_of(lambda b, x: b.atan2(number(b, 0.0, x), number(b, 0.0, x)), X)
    assert len(eliminate_dead_code(eliminate_common_subexpressions(same)).nodes) == 2


def test_equal_states_give_equal_bits_and_different_ones_do_not() -> None:
    state = TensorType((2,), int64)

    def draw(b: GraphBuilder, x: Value, y: Value) -> Value:
        return b.bitwise_xor(b.random_bits(x, shape=(4,)), b.random_bits(y, shape=(4,)))

    assert shared(lambda b, x: draw(b, x, x), state) == ["random_bits", "bitwise_xor"]
    assert shared(draw, state, state) == ["random_bits", "random_bits", "bitwise_xor"]


def test_dead_code_goes_and_inputs_stay() -> None:
    b = GraphBuilder()
    x, unused = b.input(X), b.input(X, "unused")
    b.exp(unused)
    kept, dead = b.cummax(x, axis=1)
    b.neg(dead)
    updated = b.sin(x)
    graph = b.build([kept], {1: updated})
    result = verify(eliminate_dead_code(graph))
    assert [n.op.name for n in result.nodes] == ["cummax", "sin"]
    assert result.inputs == graph.inputs
    assert result.updates == {1: updated}
    assert eliminate_dead_code(result) is result


# decompose and the mechanism -----------------------------------------------------------------


def test_decompositions_apply_to_what_they_emit() -> None:
    rules = {
        "sigmoid": lambda b, n: b.div(
            number(b, 1.0, n.inputs[0]),
            b.add(b.expm1(b.neg(n.inputs[0])), number(b, 2.0, n.output)),
        ),
        "expm1": lambda b, n: b.sub(b.exp(n.inputs[0]), number(b, 1.0, n.output)),
        "exp": lambda b, n: None,
    }
    graph = graph_of(lambda b, x: b.sigmoid(x), TensorType((5,), float64))
    result = verify(decompose(graph, rules))
    assert names(result) == ["neg", "exp", "sub", "add", "div"]
    x = np.linspace(-2, 2, 5)
    np.testing.assert_allclose(evaluate_graph(result, [x])[0][0], 1 / (1 + np.exp(-x)))
    assert decompose(graph, {}) is graph


def test_rewriting_keeps_lines_scopes_names_and_the_signature() -> None:
    b = GraphBuilder()
    x, y = b.input(X, "x"), b.input(X, "y")
    b.location, b.scope = Location("model.py", 7), "layers.0"
    first = b.pow(x, b.constant(3.0, X))
    b.location = Location("model.py", 8)
    second = b.exp(first)
    second.name = "second"
    graph = b.build([second, x], {1: first, 0: y}, "step")
    result = eliminate_dead_code(verify(simplify(graph)))
    assert [(n.op.name, n.location.line, n.scope) for n in result.nodes if n.location] == [
        ("mul", 7, "layers.0"),
        ("mul", 7, "layers.0"),
        ("exp", 8, "layers.0"),
    ]
    assert result.inputs == (x, y)
    assert result.outputs[1] is x
    assert result.outputs[0].name == "second"
    assert result.updates[0] is y
    assert result.updates[1] is result.nodes[1].output
    assert result.name == "step"
    assert names(graph) == ["pow", "exp"], "the graph that went in is unchanged"


def test_a_rule_that_changes_a_type_is_an_error() -> None:
    graph = graph_of(lambda b, x: b.exp(x), X)
    with pytest.raises(TypeError, match=r"exp of type float32\[B, 4\] .* float32\[\]"):
        rewrite(graph, lambda b, n: b.constant(1.0, X) if n.op.name == "exp" else None)
