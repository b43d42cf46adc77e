"""The pass manager: order, records, verification, and failures that name their pass."""

from __future__ import annotations

import time

import pytest
from counted_calls import called_by

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.parser import parse_graph
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.manager import Pass, PassError, Repeat, run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.types import TensorType, float32, float64

X = TensorType((3,), float32)


def chain(length: int) -> Graph:
    """neg of neg of … of x."""
    b = GraphBuilder()
    value = b.input(X, "x")
    for _ in range(length):
        value = b.neg(value)
    return b.build([value])


def drop_last(graph: Graph) -> Graph:
    """Removes a pair of negations a call."""
    if len(graph.nodes) < 2:
        return graph
    return Graph(graph.inputs, graph.nodes[:-2], (graph.nodes[-2].inputs[0],), {}, graph.name)


def test_records_tell_what_each_pass_did() -> None:
    def slow(graph: Graph) -> Graph:
        time.sleep(0.01)
        return graph

    graph = chain(4)
    result, records = run_passes(graph, [Pass("slow", slow), Pass("drop", drop_last)], check=True)
    assert [r.name for r in records] == ["slow", "drop"]
    assert records[0].seconds >= 0.01 > records[1].seconds >= 0
    assert [(r.nodes_before, r.nodes_after, r.changed) for r in records] == [
        (4, 4, False),
        (4, 2, True),
    ]
    assert records[1].before is graph
    assert records[1].after is result


def test_a_graph_that_was_only_rebuilt_is_not_changed() -> None:
    rebuild = Pass("rebuild", lambda graph: chain(len(graph.nodes)))
    _, (record,) = run_passes(chain(3), [rebuild])
    assert not record.changed


def test_repeat_stops_when_nothing_changes_and_at_its_limit() -> None:
    drop = Pass("drop", drop_last)
    result, records = run_passes(chain(5), [Repeat((drop,), limit=9)])
    assert (len(result.nodes), len(records)) == (1, 3)
    result, records = run_passes(chain(50), [Repeat((drop,), limit=4)])
    assert (len(result.nodes), len(records)) == (42, 4)


def test_a_pass_that_raises_is_named_and_its_input_can_be_read_back() -> None:
    def broken(graph: Graph) -> Graph:
        raise KeyError("lost")

    graph = chain(4)
    with pytest.raises(
        PassError, match=r"the pass broken failed on graph main .* KeyError"
    ) as error:
        run_passes(graph, [Pass("drop", drop_last), Pass("broken", broken)])
    assert error.value.name == "broken"
    assert isinstance(error.value.__cause__, KeyError)
    assert parse_graph(error.value.text).fingerprint() == chain(2).fingerprint()


def test_a_pass_that_breaks_an_invariant_or_the_signature_is_named() -> None:
    def lose_nodes(graph: Graph) -> Graph:
        return Graph(graph.inputs, (), graph.outputs, graph.updates, graph.name)

    def lose_update(graph: Graph) -> Graph:
        return Graph(graph.inputs, graph.nodes, graph.outputs, {}, graph.name)

    def other_inputs(graph: Graph) -> Graph:
        return chain(2)

    def other_output(graph: Graph) -> Graph:
        b = GraphBuilder()
        b.graph_inputs.extend(graph.inputs)
        return b.build([b.convert(graph.inputs[0], dtype=float64)])

    graph = chain(2)
    with pytest.raises(PassError, match=r"lose_nodes.*V7"):
        run_passes(graph, [Pass("lose_nodes", lose_nodes)], check=True)
    for transform in (other_inputs, other_output):
        with pytest.raises(PassError, match=transform.__name__):
            run_passes(graph, [Pass(transform.__name__, transform)], check=True)
    updating = Graph(graph.inputs, graph.nodes, graph.outputs, {0: graph.outputs[0]})
    with pytest.raises(PassError, match="updated"):
        run_passes(updating, [Pass("lose_update", lose_update)], check=True)


def test_the_pipeline_decomposes_what_the_backend_asks_for() -> None:
    b = GraphBuilder()
    x = b.input(X)
    graph = b.build([b.abs(x)])
    rules = {"abs": lambda b, n: b.maximum(n.inputs[0], b.neg(n.inputs[0]))}
    result, _ = run_passes(graph, pipeline(rules), check=True)
    assert [n.op.name for n in result.nodes] == ["neg", "maximum"]


def test_passes_stay_linear() -> None:
    """A chain of operations with much to do: four times its length, four times the calls."""

    def calls(length: int) -> int:
        b = GraphBuilder()
        value = b.input(X)
        for _ in range(length):
            value = b.mul(b.expand(b.constant(1.5, X), shape=(3,)), b.neg(b.neg(value)))
            value = b.add(value, b.reshape(b.reshape(value, shape=(3, 1)), shape=(3,)))
        graph = b.build([value])
        called = called_by(lambda: results.append(run_passes(graph, pipeline())[0]))
        assert len(results[-1].nodes) == 2 * length + 1
        assert eliminate_dead_code(results[-1]) is results[-1]
        return len(called)

    results: list[Graph] = []
    calls(10)
    assert calls(200) < 4.4 * calls(50)
