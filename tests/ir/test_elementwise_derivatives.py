"""Derivative rules of elementwise ops against central differences in float64, orders one to three."""

from __future__ import annotations

import numpy as np
import pytest

import flamec.ir.ops  # noqa: F401
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.op import REGISTRY, OpKind
from flamec.ir.passes.differentiate import differentiate_graph
from flamec.ir.types import TensorType, float64

ALL = (-3.0, 3.0)
POSITIVE = (0.2, 4.0)
INSIDE = (-0.9, 0.9)

# name -> the interval that each floating-point operand is drawn from
DOMAINS: dict[str, tuple[tuple[float, float], ...]] = {
    **dict.fromkeys(
        "neg abs exp exp2 expm1 sin cos sinh cosh tanh asinh atan sigmoid erf erfc "
        "sign floor ceil round trunc".split(),
        (ALL,),
    ),
    **dict.fromkeys("log log2 log10 log1p sqrt rsqrt".split(), (POSITIVE,)),
    **dict.fromkeys("asin acos atanh erfinv".split(), (INSIDE,)),
    "tan": ((-1.2, 1.2),),
    "acosh": ((1.2, 4.0),),
    **dict.fromkeys("lgamma digamma polygamma1".split(), ((-2.9, 6.0),)),
    **dict.fromkeys("add sub mul maximum minimum atan2 copysign".split(), (ALL, ALL)),
    "div": (ALL, POSITIVE),
    "pow": (POSITIVE, ALL),
    **dict.fromkeys("fmod remainder floor_divide".split(), (ALL, POSITIVE)),
}
# no derivative by the operand: rounding, or integers and bools only
FLAT = set(
    "signbit nextafter gcd bitwise_not bitwise_and bitwise_or bitwise_xor shift_left shift_right "
    "eq ne lt le gt ge".split()
)
SHAPES = {1: ((5,),), 2: ((3, 1), (4,))}


def test_every_elementwise_op_has_a_row() -> None:
    declared = {name for name, op in REGISTRY.items() if op.kind is OpKind.ELEMENTWISE}
    assert declared == set(DOMAINS) | FLAT | {"where", "convert"}


def graph_of(name: str, shapes: tuple[tuple[int, ...], ...]) -> Graph:
    b = GraphBuilder()
    operands = [b.input(TensorType(shape, float64)) for shape in shapes]
    return b.build([getattr(b, name)(*operands)])


def samples(name: str, seed: int) -> list[np.ndarray]:
    """Operands in the domain, away from kinks and poles at integers."""
    rng = np.random.default_rng(seed)
    domains = DOMAINS[name]
    arrays = [
        rng.uniform(*d, shape) for d, shape in zip(domains, SHAPES[len(domains)], strict=True)
    ]
    return [np.where(abs(a - np.rint(a)) < 0.05, a + 0.1, a) for a in arrays]


def run(graph: Graph, arrays: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    return evaluate_graph(graph, arrays)[0]


def check_gradient(graph: Graph, arrays: list[np.ndarray], operands: int, tolerance: float) -> None:
    """Directional derivatives of the last output by the first operands, rule against differences."""
    wrt = list(range(operands))
    last = len(graph.outputs) - 1
    gradient = differentiate_graph(graph, wrt, [last])
    rng = np.random.default_rng(0)
    value = run(graph, arrays)[last]
    weight = rng.normal(size=value.shape)
    gradients = run(gradient, [*arrays, weight])[-operands:]
    step = 1e-5
    for position in wrt:
        direction = rng.normal(size=arrays[position].shape)
        ahead, behind = (
            run(graph, [a + s * direction if i == position else a for i, a in enumerate(arrays)])
            for s in (step, -step)
        )
        numeric = np.sum(weight * (ahead[last] - behind[last])) / (2 * step)
        analytic = np.sum(gradients[position] * direction)
        scale = 1 + np.sum(np.abs(gradients[position] * direction))
        assert abs(numeric - analytic) <= tolerance * scale, (position, numeric, analytic)


@pytest.mark.parametrize("name", sorted(DOMAINS))
@pytest.mark.parametrize("seed", [1, 2])
def test_first_second_and_third_derivative(name: str, seed: int) -> None:
    graph = graph_of(name, SHAPES[len(DOMAINS[name])])
    arrays = samples(name, seed)
    operands = len(arrays)
    check_gradient(graph, arrays, operands, 1e-6)
    rng = np.random.default_rng(seed)
    for tolerance in (1e-5, 1e-4):
        last = len(graph.outputs) - 1
        graph = differentiate_graph(graph, list(range(operands)), [last])
        arrays = [*arrays, rng.normal(size=graph.inputs[-1].type.shape)]
        check_gradient(graph, arrays, operands, tolerance)


def gradients_at(name: str, *points: list[float], order: int = 1) -> list[list[float]]:
    """The gradient of the sum by each operand; of order 2 that of the first operand's gradient."""
    arrays = [np.array(p) for p in points]
    graph = graph_of(name, tuple(a.shape for a in arrays))
    wrt = list(range(len(arrays)))
    for k in range(order):
        # the output to differentiate is the gradient by the first operand
        graph = differentiate_graph(graph, wrt, [0 if k == 0 else len(graph.outputs) - len(wrt)])
        arrays.append(np.ones(graph.inputs[-1].type.shape))
    return [list(g) for g in run(graph, arrays)[-len(wrt) :]]


def test_kinks_follow_pytorch() -> None:
    nan = float("nan")
    assert gradients_at("abs", [-2.0, 0.0, 3.0]) == [[-1, 0, 1]]
    assert gradients_at("maximum", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == [[0.5, 0, 1], [0.5, 1, 0]]
    assert gradients_at("minimum", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == [[0.5, 1, 0], [0.5, 0, 1]]
    assert gradients_at("maximum", [nan, 1.0], [1.0, nan]) == [[1, 1], [1, 1]]
    assert gradients_at("copysign", [0.0, 2.0, -2.0], [-1.0, -1.0, -1.0])[0] == [0, -1, 1]
    assert gradients_at("floor", [0.5]) == [[0]]


def test_pow_at_zero() -> None:
    zero, inf = [0.0] * 4, float("inf")
    by_x, by_y = gradients_at("pow", zero, [0.0, 1.0, 2.0, 0.5])
    assert by_x == [0, 1, 0, inf]
    assert by_y == [0, 0, 0, 0]
    assert gradients_at("pow", zero[:3], [0.0, 1.0, 2.0], order=2)[0] == [0, 0, 2]
    # the mixed derivative x^(y-1) + y x^(y-1) log x at y = 0
    assert gradients_at("pow", [2.0], [0.0], order=2)[1] == [0.5]


def test_where_sends_the_gradient_to_the_chosen_operand() -> None:
    from flamec.ir.types import bool_

    b = GraphBuilder()
    condition = b.input(TensorType((3,), bool_))
    x, y = b.input(TensorType((3,), float64)), b.input(TensorType((), float64))
    graph = differentiate_graph(b.build([b.where(condition, x, y)]), [1, 2])
    mask = np.array([True, False, False])
    _, dx, dy = run(graph, [mask, np.zeros(3), np.array(5.0), np.array([1.0, np.inf, 4.0])])
    assert dx.tolist() == [1, 0, 0]
    assert dy == np.inf


def test_convert_converts_the_gradient_back() -> None:
    from flamec.ir.types import float32, int64

    b = GraphBuilder()
    x = b.input(TensorType((2,), float64))
    graph = differentiate_graph(b.build([b.convert(x, dtype=float32)]), [0])
    assert graph.outputs[1].type.dtype is float64
    b = GraphBuilder()
    x = b.input(TensorType((2,), float64))
    rounded = b.convert(b.convert(x, dtype=int64), dtype=float64)
    graph = differentiate_graph(b.build([rounded]), [0])
    assert run(graph, [np.array([1.5, 2.0]), np.ones(2)])[1].tolist() == [0, 0]
