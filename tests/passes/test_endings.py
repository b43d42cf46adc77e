"""Endings: what belongs to them, that they are looked at once, and that values stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from same_bits import same_bits

import flamec
from flamec import nn, optim
from flamec.codegen.compile_graph import compile_graph
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.build_tasks import build_tasks
from flamec.ir.builder import GraphBuilder
from flamec.ir.divided_graph import divide, endings_of
from flamec.ir.endings import find_endings
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph, Location, Value
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.fuse import fuse
from flamec.ir.passes.fusion_state import LARGEST_SEGMENT
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.types import CPU, TensorType, float32
from flamec.ir.verify import verify
from flamec.tensor import Tensor

SIZE = (5, 3)


def parameters(b: GraphBuilder, count: int) -> list[Value]:
    return [b.input(TensorType(SIZE, float32)) for _ in range(count)]


def number(b: GraphBuilder, value: float) -> Value:
    return b.full(value=value, shape=(), dtype=float32, device=CPU)


def assert_same_values(graph: Graph, other: Graph) -> None:
    random = np.random.default_rng(7)
    arrays = [
        np.abs(random.standard_normal(v.type.shape)).astype(v.type.dtype.numpy) + 1
        for v in graph.inputs
    ]
    results, found = evaluate_graph(graph, arrays), evaluate_graph(other, arrays)
    assert list(results[1]) == list(found[1])
    given, expected = ((*outputs, *updates.values()) for outputs, updates in (found, results))
    assert all(map(same_bits, given, expected)) and len(given) == len(expected)


def test_an_ending_has_what_only_its_own_operations_read() -> None:
    b = GraphBuilder()
    rate = b.input(TensorType((), float32))
    values = parameters(b, 4)
    scale = b.mul(rate, rate)  # several read it
    updates = {}
    for position, (weight, gradient) in enumerate(zip(values[:2], values[2:], strict=True)):
        clipped = b.mul(gradient, scale)
        kept = b.exp(clipped)
        updates[1 + position] = b.sub(weight, b.mul(kept, rate))
    graph = b.build([kept, b.sum(clipped, axes=(0,))], updates)
    (first,) = {len(ending.nodes) for ending in find_endings(graph)} or {0}
    assert first == 0, "one is read elsewhere, so the two differ"
    endings = find_endings(eliminate_dead_code(b.build([], updates)))
    assert [[n.op.name for n in e.nodes] for e in endings] == [["mul", "exp", "mul", "sub"]] * 2
    assert [scale in ending.operands for ending in endings] == [True, True]
    assert endings[0].looks == endings[1].looks


def test_a_value_that_is_given_twice_ends_nothing() -> None:
    b = GraphBuilder()
    values = parameters(b, 2)
    results = [b.exp(b.neg(value)) for value in values]
    assert len(find_endings(b.build(results))) == 2
    assert not find_endings(b.build([*results, results[0]])), "one is copied"


def test_barriers_and_repeated_operations_do_not_hide_endings() -> None:
    b = GraphBuilder()
    rate = b.input(TensorType((), float32))
    values = parameters(b, 4)
    updates = {}
    for position, (weight, state) in enumerate(zip(values[:2], values[2:], strict=True)):
        mean = b.mul(state, b.mul(rate, rate))
        updates[3 + position] = b.detach(mean)
        change = b.add(b.mul(mean, number(b, 2.0)), b.mul(rate, rate))
        updates[1 + position] = b.detach(b.detach(b.sub(weight, change)))
    graph = b.build([], updates)
    divided = divide(graph)
    (body,) = divided.bodies
    assert [n.op.name for n in body.nodes] == ["full", "mul", "mul", "add", "sub"]
    assert [n.op.name for n in divided.main.nodes] == ["mul"], "the square of the rate"
    assert_same_values(graph, verify(divided.whole))
    assert list(divided.whole.updates) == list(updates)


def test_lines_and_modules_are_those_of_each_ending() -> None:
    b = GraphBuilder()
    results = []
    for line, value in enumerate(parameters(b, 3)):
        b.location, b.scope = Location("model.py", line), f"layer{line}"
        results.append(b.exp(b.neg(value)))
    (first, *_), graph = results, b.build(results)
    whole = run_passes(graph, pipeline(), check=True)[0]
    assert divide(whole).bodies and first.node is not None
    assert [(str(n.location), n.scope) for n in whole.nodes] == [
        (f"model.py:{line}", f"layer{line}") for line in range(3) for _ in range(2)
    ]


def test_a_pass_changes_all_endings_of_a_kind() -> None:
    b = GraphBuilder()
    values = parameters(b, 3)
    graph = b.build([b.exp(b.mul(b.neg(b.neg(v)), number(b, 1.0))) for v in values])
    whole, records = run_passes(graph, pipeline(), check=True)
    assert [n.op.name for n in whole.nodes] == ["exp"] * 3
    assert all(record.visits <= 5 for record in records if record.name == "simplify")
    assert [ending.operands for ending in endings_of(whole)] == [(v,) for v in values]
    assert_same_values(graph, whole)


def test_an_ending_that_is_no_kernel_is_divided() -> None:
    b = GraphBuilder()
    values = parameters(b, 2)
    results = []
    for value in values:
        for _ in range(LARGEST_SEGMENT + 10):
            value = b.exp(value)
        results.append(value)
    graph = b.build(results)
    context = build_tasks(graph, endings=True)
    assert len(context.tasks) == 2
    groups = fuse(context).groups
    expected = fuse(build_tasks(graph)).groups
    assert [len(g.tasks) for g in groups] == [len(g.tasks) for g in expected]
    assert len(context.tasks) == 2 * (LARGEST_SEGMENT + 10)
    assert compile_graph(graph).plan.kernel_count == len(expected)


def groups_of(network: nn.Module) -> list[dict[str, object]]:
    parameters = list(network.parameters())
    weights = [p for p in parameters if p.dim() > 1]
    return [
        {"params": weights, "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


OPTIMIZERS: dict[str, Callable[[list[dict[str, object]]], optim.Optimizer]] = {
    "adamw": lambda g: optim.AdamW(g, amsgrad=True),
    "sgd": lambda g: optim.SGD(g, 0.1, momentum=0.9, nesterov=True, maximize=True),
    "nadam": lambda g: optim.NAdam(g),
    "adafactor": lambda g: optim.Adafactor(g),
    "rprop": lambda g: optim.Rprop([p for group in g for p in group["params"]]),  # type: ignore[attr-defined]
    "asgd": lambda g: optim.ASGD(g),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_passes_keep_the_values_of_a_training_step(name: str) -> None:
    network = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    optimizer = OPTIMIZERS[name](groups_of(network))

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = network(x).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return loss

    compiled = CompiledFunction(step, replace(default_options(), backend="evaluate"))
    graph = compiled.trace((flamec.ones(2, 4),), {}).graph
    whole, records = run_passes(graph, pipeline(strict=True), check=True)
    assert name == "adafactor" or len(divide(whole).uses) >= 5
    assert_same_values(graph, whole)
    assert [r.after for r in records if r.name == "set_endings_apart"]
