"""Attention that is written out, in the ways in which people write it, becomes one operation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import simulated_gpu

import flamec
from flamec.cli.fusion_text import decisions_of
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.differentiable import DifferentiableProgram
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph, Node
from flamec.ir.op import OpKind
from flamec.ir.passes import recognize_attention as module
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.forget_derivatives import forget_derivatives
from flamec.ir.passes.recognize_attention import attention_of, recognize_attention
from flamec.ir.verify import verify
from flamec.nn import functional as F

BATCH, HEADS, LENGTH, DEPTH = 2, 3, 7, 4
SCALE = DEPTH**-0.5
MINUS = float("-inf")
Attend = Callable[[Any, Any, Any], Any]
Expected = tuple[Any, Any, bool, int]


def scores(q: Any, k: Any) -> Any:
    return q @ k.transpose(-2, -1)


def square(value: float = 1.0) -> Any:
    return flamec.full((LENGTH, LENGTH), value)


HIDDEN = flamec.tensor(np.random.default_rng(1).random((LENGTH, LENGTH)) < 0.3)
ADDED = flamec.tensor(np.random.default_rng(1).standard_normal((1, 1, LENGTH, LENGTH)))


def tril_equals_zero(q: Any, k: Any, v: Any) -> Any:
    s = scores(q, k) / math.sqrt(DEPTH)
    return F.softmax(s.masked_fill(square().tril() == 0, MINUS), dim=-1) @ v


def bool_tril(q: Any, k: Any, v: Any) -> Any:
    seen = flamec.ones(LENGTH, LENGTH, dtype=flamec.bool).tril()
    return (scores(q, k) * SCALE).masked_fill(~seen, MINUS).softmax(-1) @ v


def compared_positions(q: Any, k: Any, v: Any) -> Any:
    place = flamec.arange(LENGTH)
    seen = place[:, None] >= place[None, :]
    return flamec.where(seen, scores(q, k) * SCALE, MINUS).softmax(-1) @ v


def added_triu(q: Any, k: Any, v: Any) -> Any:
    return (scores(q, k) * SCALE + square(MINUS).triu(diagonal=1)).softmax(dim=-1) @ v


def part_of_a_longer_mask(q: Any, k: Any, v: Any) -> Any:
    seen = flamec.ones(1, 1, 20, 20).tril()[:, :, :LENGTH, :LENGTH]
    return (scores(q, k) * SCALE).masked_fill(seen == 0, MINUS).softmax(-1) @ v


def large_number(q: Any, k: Any, v: Any) -> Any:
    return (scores(q, k) * SCALE).masked_fill(square().tril() == 0, -1e9).softmax(-1) @ v


def window(q: Any, k: Any, v: Any) -> Any:
    away = flamec.arange(LENGTH)[None, :] - flamec.arange(LENGTH)[:, None]
    s = (scores(q, k) * SCALE).masked_fill(away > 0, MINUS)
    return s.masked_fill(away < -2, MINUS).softmax(-1) @ v


def no_mask(q: Any, k: Any, v: Any) -> Any:
    return scores(q, k).softmax(-1) @ v


def scaled_query(q: Any, k: Any, v: Any) -> Any:
    return scores(q * SCALE, k).softmax(-1) @ v


def by_einsum(q: Any, k: Any, v: Any) -> Any:
    s = flamec.einsum("bhid,bhjd->bhij", q, k) * SCALE
    return flamec.einsum("bhij,bhjd->bhid", s.softmax(-1), v)


def own_softmax(q: Any, k: Any, v: Any) -> Any:
    s = scores(q, k) * SCALE
    powers = flamec.exp(s - s.amax(dim=-1, keepdim=True))
    return powers / powers.sum(-1, keepdim=True) @ v


def mask_in_memory(q: Any, k: Any, v: Any) -> Any:
    return (scores(q, k) * SCALE).masked_fill(HIDDEN, MINUS).softmax(-1) @ v


def two_masks(q: Any, k: Any, v: Any) -> Any:
    s = (scores(q, k) * SCALE).masked_fill(HIDDEN, MINUS)
    return s.masked_fill(square().tril(2) == 0, MINUS).softmax(-1) @ v


def bias(q: Any, k: Any, v: Any) -> Any:
    return (scores(q, k) * SCALE + ADDED.to(q.dtype)).softmax(-1) @ v


def causal_function(q: Any, k: Any, v: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def masked_function(q: Any, k: Any, v: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=~HIDDEN)


def biased_function(q: Any, k: Any, v: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=ADDED.to(q.dtype))


FUSED: dict[Attend, Expected] = {
    tril_equals_zero: (None, 0, False, 3),
    bool_tril: (None, 0, False, 3),
    compared_positions: (None, 0, False, 3),
    added_triu: (None, 0, False, 3),
    part_of_a_longer_mask: (None, 0, False, 3),
    large_number: (None, 0, False, 3),
    window: (-2, 0, False, 3),
    no_mask: (None, None, False, 3),
    scaled_query: (None, None, False, 3),
    by_einsum: (None, None, False, 3),
    own_softmax: (None, None, False, 3),
    mask_in_memory: (None, None, False, 4),
    two_masks: (None, 2, False, 4),
    bias: (None, None, False, 4),
    causal_function: (None, 0, False, 3),
    masked_function: (None, None, True, 4),
    biased_function: (None, None, True, 4),
}


def dropped(q: Any, k: Any, v: Any) -> Any:
    return F.dropout((scores(q, k) * SCALE).softmax(-1), 0.3) @ v


def dropped_function(q: Any, k: Any, v: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)


def capped(q: Any, k: Any, v: Any) -> Any:
    return (20 * flamec.tanh(scores(q, k) / 20)).softmax(-1) @ v


def even_rows(q: Any, k: Any, v: Any) -> Any:
    """A row without any score but -1e9 takes the mean of all values."""
    return scores(q, k).masked_fill(square().triu(1) == 0, -1e9).softmax(-1) @ v


def negative_scale(q: Any, k: Any, v: Any) -> Any:
    return (scores(q, k) * -0.5).softmax(-1) @ v


def small_number(q: Any, k: Any, v: Any) -> Any:
    return scores(q, k).masked_fill(square().tril() == 0, -5.0).softmax(-1) @ v


REFUSED: dict[Attend, str] = {
    dropped: "weights go through mul first",
    dropped_function: "weights go through mul first",
    capped: "scores go through tanh",
    even_rows: "would be even",
    negative_scale: "multiplied with -0.5",
    small_number: "-5.0, which may take part",
}


def traced(function: Callable[..., Any], *arguments: Any) -> Graph:
    """The graph of a call, with the derivatives that it takes itself or that autograd will."""
    options = replace(default_options(), backend="evaluate")
    program: Any = CompiledFunction(function, options).compile_variant(arguments, {})
    graph = program.joint if isinstance(program, DifferentiableProgram) else program.prepared.graph
    return eliminate_dead_code(forget_derivatives(graph))


def operands(dtype: Any = flamec.float64, gradients: bool = True) -> list[Any]:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((BATCH, HEADS, LENGTH, DEPTH)) for _ in range(3)]
    return [flamec.tensor(a, dtype=dtype).requires_grad_(gradients) for a in arrays]


def training(function: Attend, leaves: list[Any]) -> Callable[[], None]:
    """A step: the squared results, and gradients of the operands."""

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        output = function(*leaves).transpose(1, 2).reshape(BATCH, LENGTH, HEADS * DEPTH)
        (output**2).sum().backward()

    return step


def attention_nodes(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op.kind is OpKind.ATTENTION]


def evaluated(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    arrays = []
    for value in graph.inputs:
        shape, dtype = value.type.shape, value.type.dtype.numpy
        if value.type.dtype.kind == "float":
            arrays.append(rng.standard_normal(shape).astype(dtype))  # type: ignore[arg-type]
        elif value.type.dtype.kind == "bool":
            hidden = rng.random(shape) < 0.3  # type: ignore[arg-type]
            hidden[..., 0] = False
            arrays.append(hidden)
        else:
            arrays.append(np.ones(shape, dtype))  # type: ignore[arg-type]
    outputs, updates = evaluate_graph(graph, arrays)
    return [*outputs, *updates.values()]


@pytest.fixture
def any_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for all types, so that results can be compared in float64."""
    monkeypatch.setattr(module, "has_kernel", lambda node: True)


def agree(old: Graph, new: Graph) -> None:
    for got, want in zip(evaluated(new), evaluated(old), strict=True):
        assert np.allclose(got, want, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("function", FUSED, ids=lambda f: f.__name__)
def test_forward_and_backward_are_one_operation_each(function: Attend, any_dtype: None) -> None:
    graph = traced(training(function, operands()))
    new, decisions = attention_of(graph)
    verify(new)
    (decision,) = decisions
    assert decision.made and decision.reason.startswith("attention, forward and backward")
    nodes = attention_nodes(new)
    assert [node.op.name for node in nodes] == ["attention", "attention_backward"]
    lower, upper, zero_rows, count = FUSED[function]
    for node in nodes:
        found = node.attributes
        assert (found["lower"], found["upper"], found["zero_rows"]) == (lower, upper, zero_rows)
    assert len(nodes[0].inputs) == count
    assert math.isclose(
        nodes[0].attributes["scale"], 1.0 if function in (no_mask, scaled_query) else SCALE
    )
    assert not any(n.op.kind is OpKind.CONTRACTION or n.op.name == "exp" for n in new.nodes)
    agree(graph, new)


@pytest.mark.parametrize("function", FUSED, ids=lambda f: f.__name__)
def test_forward_alone(function: Attend, any_dtype: None) -> None:
    graph = traced(function, *operands(gradients=False))
    new, decisions = attention_of(graph)
    (decision,) = decisions
    assert decision.made and decision.reason.startswith("attention: scores")
    assert len(attention_nodes(new)) == 1
    agree(graph, new)


@pytest.mark.parametrize("function", REFUSED, ids=lambda f: f.__name__)
def test_what_stays_as_it_is(function: Attend, any_dtype: None) -> None:
    graph = traced(training(function, operands()))
    new, (decision, *_) = attention_of(graph)
    assert new is graph and not decision.made and REFUSED[function] in decision.reason


def test_gradients_that_autograd_takes_later(any_dtype: None) -> None:
    """Forward and backward are recognised before they become two programs."""
    graph = traced(causal_function, *operands())
    new, (decision,) = attention_of(graph)
    assert decision.reason.startswith("attention, forward and backward")
    assert len(attention_nodes(new)) == 2
    agree(graph, new)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_some_gradients_alone(wanted: tuple[int, ...], any_dtype: None) -> None:
    leaves = operands(gradients=False)
    for position in wanted:
        leaves[position].requires_grad_()
    graph = traced(training(causal_function, leaves))
    new, (decision,) = attention_of(graph)
    assert decision.made and len(attention_nodes(new)) == 2
    agree(graph, new)


def test_shared_heads(any_dtype: None) -> None:
    """Heads of keys are read as they lie; their gradients are added."""
    q, k, v = operands()
    k, v = (x[:, :1].detach().requires_grad_() for x in (k, v))

    def attend(q: Any, k: Any, v: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    graph = traced(training(attend, [q, k, v]))
    new, (decision,) = attention_of(graph)
    assert decision.made
    agree(graph, new)


def test_weights_that_are_returned_are_computed_as_before(any_dtype: None) -> None:
    def attend(q: Any, k: Any, v: Any) -> Any:
        weights = scores(q, k).softmax(-1)
        return weights @ v, weights

    graph = traced(attend, *operands(gradients=False))
    new, (decision,) = attention_of(graph)
    assert new is graph and decision.reason == "div is a result of the program, too"


def test_scores_with_another_gradient_are_computed_as_before(any_dtype: None) -> None:
    def attend(q: Any, k: Any, v: Any) -> Any:
        s = scores(q, k)
        return s.softmax(-1) @ v + s.mean()

    graph = traced(training(attend, operands()))
    new, (decision,) = attention_of(graph)
    assert new is graph and not decision.made and "is needed by" in decision.reason


def test_a_bias_with_a_gradient_is_not_fused(any_dtype: None) -> None:
    learned = ADDED.clone().requires_grad_()

    def attend(q: Any, k: Any, v: Any) -> Any:
        return (scores(q, k) + learned).softmax(-1) @ v

    graph = traced(training(attend, operands()))
    new, (decision,) = attention_of(graph)
    assert new is graph and not decision.made


def test_second_derivatives_are_those_of_what_is_written(any_dtype: None) -> None:
    leaves = operands()

    def step() -> Any:
        output = causal_function(*leaves)
        (first,) = flamec.autograd.grad(output.sum(), leaves[:1], create_graph=True)
        return flamec.autograd.grad((first**2).sum(), leaves)

    graph = traced(step)
    new, _ = attention_of(graph)
    verify(new)
    agree(graph, new)


def test_what_is_computed_again_stays_right(any_dtype: None) -> None:
    """The backward pass of a checkpoint has no result of attention, so only forward is fused."""
    leaves = operands()

    def step() -> Any:
        output = flamec.utils.checkpoint.checkpoint(causal_function, *leaves, use_reentrant=False)
        return flamec.autograd.grad((output**2).sum(), leaves)

    graph = traced(step)
    new, decisions = attention_of(graph)
    verify(new)
    assert decisions[0].made
    agree(graph, new)


def test_sizes_may_be_symbols() -> None:
    def attend(q: Any, k: Any, v: Any) -> Any:
        length = q.shape[2]
        place = flamec.arange(length)
        s = scores(q, k) * SCALE
        return s.masked_fill(place[:, None] < place[None, :], MINUS).softmax(-1) @ v

    options = replace(default_options(), backend="evaluate")
    compiled = CompiledFunction(attend, options)
    for length in (7, 9):
        compiled(*[flamec.randn(2, 3, length, 4).to(flamec.bfloat16) for _ in range(3)])
    graph = compiled.programs[0].prepared.graph  # type: ignore[union-attr]
    assert not graph.inputs[0].type.is_static
    new, (decision,) = attention_of(eliminate_dead_code(forget_derivatives(graph)))
    assert decision.made
    assert attention_nodes(new)[0].attributes["upper"] == 0


def test_types_without_kernels_are_named() -> None:
    graph = traced(no_mask, *operands(flamec.float32, gradients=False))
    new, (decision,) = attention_of(graph)
    assert new is graph and "16-bit floats only, and these are float32" in decision.reason


def test_one_query_of_few_heads_and_many_keys() -> None:
    """Products and a softmax divide the keys among blocks; a kernel of attention would not."""
    for keys, made in ((2048, False), (512, True)):
        q, k, v = (flamec.zeros(1, 2, n, 8, dtype=flamec.bfloat16) for n in (1, keys, keys))
        _, (decision,) = attention_of(traced(no_mask, q, k, v))
        assert decision.made is made
        assert made or decision.reason == "a block of 1 queries would walk over 2048 keys alone"


def test_on_a_cpu_nothing_changes(any_dtype: None) -> None:
    graph = traced(no_mask, *operands(gradients=False))
    assert recognize_attention(graph) is graph


def test_compiled_functions_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward programs of a module, the numbers against the CPU's."""
    simulated_gpu.install(monkeypatch)
    half = [x.detach().to(flamec.bfloat16) for x in operands()]
    near = [x.to("cuda").requires_grad_() for x in half]
    far = [x.to(flamec.float32).requires_grad_() for x in half]
    compiled = flamec.compile(causal_function)
    output = compiled(*near)
    found = [output, *flamec.autograd.grad(output.float().sum(), near)]
    program = compiled.programs[0]
    assert isinstance(program, DifferentiableProgram)
    for graph in (program.forward_graph, program.backward_graph):
        assert len(attention_nodes(graph)) == 1
        assert not any(n.op.kind is OpKind.CONTRACTION for n in graph.nodes)
    assert [d.made for d in decisions_of(program.prepared)[:1]] == [True]
    output = causal_function(*far)
    wanted = [output, *flamec.autograd.grad(output.sum(), far)]
    for got, want in zip(found, wanted, strict=True):
        a, b = got.detach().float().cpu().numpy(), want.detach().numpy()
        assert np.abs(a - b).max() <= 0.02 * max(1.0, float(np.abs(b).max()))


def test_decisions_name_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated_gpu.install(monkeypatch)
    half = [x.detach().to(flamec.bfloat16).to("cuda") for x in operands()]
    compiled = flamec.compile(capped)
    compiled(*half)
    decision = decisions_of(compiled.programs[0].prepared)[0]
    assert not decision.made and decision.reason == "not attention: scores go through tanh"
    assert "test_recognize_attention.py" in decision.consumer
