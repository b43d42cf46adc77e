"""Find attention that is written out, and make it one operation forward and one backward.

In: a traced graph, with its derivatives in it already. Out: a graph in which softmax(scale * q @
k^T, masked) @ v is an ``attention`` node, and the gradients of q, k and v that follow from it an
``attention_backward`` node, wherever the GPU has a kernel for them. What the backward pass looks
like is not described here: the derivative rules are run once more on the nodes that were found,
and each node that they would emit is looked up in the graph. So a gradient is replaced only if
it is the one that the rules give; where scores or weights are needed for something else (they
are returned, their gradient is differentiated again), everything stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flamec.ir.builder import Builder, GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Op, OpKind
from flamec.ir.ops.view import inverse_permutation
from flamec.ir.passes.attention_pattern import (
    Found,
    NotFound,
    find_forward,
    nodes_between,
)
from flamec.ir.passes.band_masks import Positions
from flamec.ir.passes.differentiate import backpropagate
from flamec.ir.passes.eliminate_common_subexpressions import eliminate_common_subexpressions
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.lower_attention import has_kernel
from flamec.ir.shape import product
from flamec.ir.types import TensorType

_FEW_QUERIES, _FEW_HEADS, _MANY_KEYS = 8, 128, 1024


@dataclass(frozen=True)
class AttentionDecision:
    """Whether a product of weights became attention, and why (not). ``node``: the product."""

    node: Node
    made: bool
    reason: str


@dataclass(frozen=True)
class _Site:
    """Attention in a graph: ``found`` forward, and its ``nodes``; if there is a backward pass, the
    gradient of its result, the nodes of it, and the gradients of query, key and value, as far as
    the graph has them."""

    found: Found
    nodes: tuple[Node, ...]
    gradient: Value | None = None
    backward: tuple[Node, ...] = ()
    results: tuple[Value | None, ...] = ()


def recognize_attention(graph: Graph) -> Graph:
    """The graph with attention as operations; itself if there is none, or no GPU."""
    on_gpu = any(node.outputs[0].type.device.type == "cuda" for node in graph.nodes)
    return attention_of(graph)[0] if on_gpu else graph


def attention_decisions(graph: Graph) -> list[AttentionDecision]:
    """Which products of weights are attention, those included that are operations already."""
    done = [
        AttentionDecision(node, True, f"{node.op.name}: scores and weights need no memory")
        for node in graph.nodes
        if node.op.kind is OpKind.ATTENTION
    ]
    return done + attention_of(graph)[1]


def attention_of(graph: Graph) -> tuple[Graph, list[AttentionDecision]]:
    """The graph with attention as operations, wherever it runs, and what was found in it."""
    if sum(node.op.kind is OpKind.CONTRACTION for node in graph.nodes) < 2:
        return graph, []
    shared = eliminate_common_subexpressions(graph)
    users = shared.users()
    results = set(shared.results)
    positions = Positions()
    table: _Lookup | None = None
    sites, decisions = [], []
    for node in shared.nodes:
        found = find_forward(node, positions)
        if found is None:
            continue
        if isinstance(found, NotFound):
            decisions.append(AttentionDecision(node, False, found.reason))
            continue
        reason = _unsuited(found)
        site = _Site(found, nodes_between(found, shared))
        if not reason:
            table = table or _Lookup(shared)
            site = _with_backward(site, table, users)
            reason = _escape(site, users, results)
        if not reason:
            sites.append(site)
        what = "attention" if site.gradient is None else "attention, forward and backward"
        made = f"{what}: scores and weights need no memory"
        decisions.append(AttentionDecision(node, not reason, reason or made))
    if not sites:
        return graph, decisions
    return eliminate_dead_code(_replaced(shared, sites)), decisions


def _unsuited(found: Found) -> str:
    """Why a GPU has no kernel for it; "" if it has one."""
    builder = GraphBuilder()
    given = [builder.input(t) for t in found.types()]
    node = _emit_forward(builder, found, given)
    if has_kernel(node):
        return _too_narrow(node)
    q, _, v = (value.type for value in node.inputs[:3])
    if not q.dtype.is_half:
        return f"there are kernels for 16-bit floats only, and these are {q.dtype.name}"
    return f"there is no kernel for heads of {q.shape[-1]} and {v.shape[-1]} numbers"


def _too_narrow(node: Node) -> str:
    """Why a kernel would keep most of a GPU waiting; "" if it would not."""
    *batch, rows, _ = node.inputs[0].type.shape
    columns, heads = node.inputs[1].type.shape[-2], product(batch)
    if not all(isinstance(size, int) for size in (heads, rows, columns)):
        return ""
    few = rows <= _FEW_QUERIES and heads < _FEW_HEADS
    if few and columns >= _MANY_KEYS:
        return f"a block of {rows} queries would walk over {columns} keys alone"
    return ""


# the backward pass -----------------------------------------------------------------------
class _Lookup(Builder):
    """A builder that emits nothing: a node that the graph has is taken from there.

    Others are made, but belong to no graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._nodes = {_key(node): node for node in graph.nodes}
        self._own = set(graph.nodes)
        self.seen: dict[Node, None] = {}

    def has(self, value: Value) -> bool:
        """Whether a value is of the graph."""
        return value.node in self._own

    def type_of(self, value: Value) -> TensorType:
        return value.type

    def apply(self, op: Op, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Any:
        node = Node(op, inputs, attributes)
        node = self._nodes.setdefault(_key(node), node)
        if node in self._own:
            self.seen[node] = None
        return node.outputs if len(node.outputs) != 1 else node.outputs[0]


def _key(node: Node) -> Any:
    return node.key()


def _with_backward(site: _Site, table: _Lookup, users: Mapping[Value, list[Node]]) -> _Site:
    """The site with its backward pass, if the graph has one."""
    found = site.found
    inner = {v for node in site.nodes for v in node.outputs}
    sources = dict.fromkeys((found.query, found.key, found.value))
    tracked = {*inner, *sources}
    for gradient in _gradients(site, users):
        table.seen = {}
        gradients = backpropagate(
            site.nodes,
            {found.output: gradient},
            tracked.__contains__,
            table,
            lambda _, value: value,
            keep=sources,
        )
        results = [gradients.get(v) for v in (found.query, found.key, found.value)]
        distinct = len(sources) == 3
        kept = tuple(v if v is not None and table.has(v) else None for v in results)
        if distinct and any(v is not None for v in kept):
            late = {*inner, gradient}
            nodes = []
            for node in table.seen:  # in an order in which they can be run
                if not late.isdisjoint(node.inputs):
                    late.update(node.outputs)
                    nodes.append(node)
            return replace(site, gradient=gradient, backward=tuple(nodes), results=kept)
    return site


def _gradients(site: _Site, users: Mapping[Value, list[Node]]) -> list[Value]:
    """What may be the gradient of the result: it is multiplied with the weights, or the value."""
    found, type = site.found, site.found.output.type
    candidates: list[Value] = []
    for operand in (found.weights, found.value):
        for node in users.get(operand, ()):
            if node.op.kind is OpKind.CONTRACTION and node not in site.nodes:
                candidates += [v for v in node.inputs if v is not operand and v.type == type]
    return list(dict.fromkeys(candidates))


def _escape(site: _Site, users: Mapping[Value, list[Node]], results: set[Value]) -> str:
    """Who else needs scores, weights or their gradients; "" if nobody does."""
    own = {*site.nodes, *site.backward}
    free = {site.found.output, *(v for v in site.results if v is not None)}
    for node in (*site.nodes, *site.backward):
        for value in node.outputs:
            if value in free:
                continue
            if value in results:
                return f"{node.op.name} is a result of the program, too"
            for user in users.get(value, ()):
                if user not in own:
                    return f"{node.op.name} is needed by {user.op.name}, too"
    return ""


# replacing -------------------------------------------------------------------------------
def _emit_forward(b: GraphBuilder, found: Found, values: Sequence[Value]) -> Node:
    query, key, value, *mask = values
    operands = [
        _turned(b, query, found.query_order),
        _turned(b, key, found.key_order),
        _turned(b, value, found.value_order),
    ]
    operands += [found.mask.emit(b, m) for m in mask if found.mask is not None]
    order = tuple(range(found.output.type.ndim))
    attributes = {**found.attributes, "orders": (order,)}
    b.attention(*operands, **attributes)
    return b.nodes[-1]


def _turned(b: GraphBuilder, value: Value, order: tuple[int, ...]) -> Any:
    return value if order == tuple(range(len(order))) else b.permute(value, axes=order)


@dataclass
class _Rebuilt:
    """A graph being built anew, and what stands for the values of the old one."""

    builder: GraphBuilder = field(default_factory=GraphBuilder)
    values: dict[Value, Value] = field(default_factory=dict)
    forward: dict[Value, Node] = field(default_factory=dict)  # by the result

    def __call__(self, value: Value) -> Value:
        return self.values.get(value, value)

    def copy(self, node: Node) -> None:
        operands = tuple(self(v) for v in node.inputs)
        if any(a is not b for a, b in zip(operands, node.inputs, strict=True)):
            copy = node.on(operands)
            self.values.update(zip(node.outputs, copy.outputs, strict=True))
            node = copy
        self.builder.nodes.append(node)

    def attention(self, site: _Site) -> None:
        found = site.found
        made = _emit_forward(self.builder, found, [self(v) for v in found.operands()])
        self.forward[found.output] = made
        self.values[found.output] = made.outputs[0]

    def backward(self, site: _Site) -> None:
        b, found, made = self.builder, site.found, self.forward[site.found.output]
        assert site.gradient is not None
        result, logarithm = made.outputs
        gradient = self(site.gradient)
        rank, wide = result.type.ndim, logarithm.type.dtype
        delta = b.sum(b.mul(b.cast(gradient, wide), b.cast(result, wide)), axes=(rank - 1,))
        attributes = {**made.attributes, "orders": (tuple(range(rank)),) * 3}
        gradients = b.attention_backward(*made.inputs, gradient, logarithm, delta, **attributes)
        orders = (found.query_order, found.key_order, found.value_order)
        for old, new, order in zip(site.results, gradients, orders, strict=True):
            if old is not None:
                self.values[old] = _turned(b, new, inverse_permutation(order))


def _replaced(graph: Graph, sites: Sequence[_Site]) -> Graph:
    """The graph with attention where it was found, and gradients where the first of them was."""
    ends = {site.found.output.node: site for site in sites}
    starts: dict[Node, _Site] = {}
    for site in sites:
        made = {v.node for v in site.results if v is not None}
        first = next((node for node in graph.nodes if node in made), None)
        if first is not None:
            starts[first] = site
    taken = {v for site in sites for v in site.results if v is not None}
    rebuilt = _Rebuilt()
    rebuilt.builder.graph_inputs.extend(graph.inputs)
    for node in graph.nodes:
        rebuilt.builder.location, rebuilt.builder.scope = node.location, node.scope
        if node in ends:
            rebuilt.attention(ends[node])
            continue
        if node in starts:
            rebuilt.backward(starts[node])
        if taken.isdisjoint(node.outputs):
            rebuilt.copy(node)
    outputs = tuple(map(rebuilt, graph.outputs))
    updates = {i: rebuilt(v) for i, v in graph.updates.items()}
    return Graph(graph.inputs, tuple(rebuilt.builder.nodes), outputs, updates, graph.name)
