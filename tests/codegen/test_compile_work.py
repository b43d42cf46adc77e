"""The work of compiling grows with a network's depth no faster than the network: counted."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
from equal_layers import BACK_ENDS, graph, on_a_gpu, traced

import flamec
from flamec import nn, optim
from flamec.codegen.compile_graph import compile_graph as compile_for_c
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.build_tasks import build_tasks
from flamec.ir.divided_graph import divide
from flamec.ir.graph import Graph, Node
from flamec.ir.passes import fuse as fuse_module
from flamec.ir.passes.fuse import fuse
from flamec.ir.passes.fusion_state import LARGEST_SEGMENT, WorkingGroup
from flamec.ir.passes.islands import Islands
from flamec.ir.passes.manager import PassRecord, run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.tasks import Task
from flamec.optim import repeated_update
from flamec.optim.optimizer import Optimizer
from flamec.runtime.cpu.compiler import compile_assembly, find_compiler
from flamec.tensor import Tensor

FEW, MANY = 4, 48


def records(layers: int) -> tuple[int, list[PassRecord]]:
    start = traced(layers)
    return len(start.nodes), run_passes(start, pipeline())[1]


def test_passes_look_at_each_node_no_more_often_in_a_deep_network() -> None:
    few, many = visits(FEW), visits(MANY)
    assert few.keys() == many.keys()
    for name, each in many.items():
        assert each <= 1.1 * few[name] + 0.01, name
    assert sum(many.values()) < 12, "in 26 runs of passes"


@cache
def visits(layers: int) -> dict[str, float]:
    """How often each pass looked at a node of the traced graph, on average."""
    nodes, runs = records(layers)
    found = Counter[str]()
    for record in runs:
        found[record.name] += record.visits
    return {record.name: found[record.name] / nodes for record in runs}


def test_passes_ask_only_about_operations_that_they_know() -> None:
    found = visits(FEW)
    assert found["fold_constants"] > 0.5
    for name in ("forget_derivatives", "eliminate_transfers", "lower_convolutions", "decompose"):
        assert found[name] == 0, name


def test_updates_of_all_parameters_are_seen_once() -> None:
    """Two thirds of a traced step are updates: what passes carry does not grow by them."""
    few, many = (divide(graph(layers, "c")) for layers in (FEW, MANY))
    assert len(few.bodies) == len(many.bodies) <= 8, "shapes of parameters"
    assert [len(body.nodes) for body in few.bodies] == [len(body.nodes) for body in many.bodies]
    assert len(many.uses) - len(few.uses) == 12 * (MANY - FEW)
    assert len(many.main.nodes) < 0.5 * len(many.whole.nodes)
    tasks = len(build_tasks(many.whole, endings=True).tasks)
    assert tasks - len(build_tasks(few.whole, endings=True).tasks) < 200 * (MANY - FEW)


def functions_of(source: str) -> int:
    return len(re.findall(r"^(?:static .*|int64_t )\w+\([^;]*\) \{$", source, re.MULTILINE))


def test_a_deep_network_has_the_c_functions_of_a_shallow_one() -> None:
    few, many = (compile_for_c(graph(layers, "c")).plan for layers in (FEW, MANY))
    assert many.kernel_count > 8 * few.kernel_count
    assert functions_of(many.source) == functions_of(few.source)


def test_a_deep_network_has_the_triton_kernels_of_a_shallow_one() -> None:
    few, many = (on_a_gpu(layers).plan for layers in (FEW, 2 * FEW))
    assert len(many.steps) > 1.5 * len(few.steps)
    assert len({k.text for k in many.kernels}) <= len({k.text for k in few.kernels}) + 4


def test_no_kernel_for_a_gpu_grows_with_the_depth() -> None:
    """The norm of all gradients, 148 terms here, is added up by several kernels."""
    prepare, options, guarded = BACK_ENDS["triton"]
    context = build_tasks(prepare(graph(12, "triton")), guarded)
    segments = [s for group in fuse(context, options).groups for s in group.segments]
    assert LARGEST_SEGMENT / 2 < max(map(len, segments)) <= LARGEST_SEGMENT


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_equal_islands_are_merged_once(back_end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[int, Counter[int]] = {}
    record = fuse_module.record

    def counted(island: Sequence[Task], *rest: object) -> object:
        sizes[layers][len(island)] += 1
        return record(island, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fuse_module, "record", counted)
    prepare, options, guarded = BACK_ENDS[back_end]
    for layers in (3, 9):
        sizes[layers] = Counter()
        fuse(build_tasks(prepare(graph(layers, back_end)), guarded), options)
    assert sizes[9].total() <= sizes[3].total() + 2, "sums over all parameters are longer"


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_islands_that_are_repeated_are_what_merging_would_have_given(
    back_end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, options, guarded = BACK_ENDS[back_end]
    context = build_tasks(prepare(graph(4, back_end)), guarded)
    once = fuse(context, options)
    monkeypatch.setattr(fuse_module, "looks", lambda *_: None)
    each = fuse(context, options)
    monkeypatch.setattr(fuse_module, "find_islands", lambda *_: Islands([], [], context.tasks))
    none = fuse(context, options)
    for other in (each, none):
        assert [g.segments for g in once.groups] == [g.segments for g in other.groups]
        assert once.stores() == other.stores()
    assert set(once.decisions) == set(each.decisions)
    made = [{d for d in found.decisions if d.made} for found in (once, none)]
    assert made[0] == made[1]


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_endings_are_part_of_the_kernels_that_their_operations_would_have_been_in(
    back_end: str,
) -> None:
    prepare, options, guarded = BACK_ENDS[back_end]
    prepared = prepare(graph(4, back_end))
    endings, each = (build_tasks(prepared, guarded, endings=e) for e in (True, False))
    assert len(endings.tasks) < 0.55 * len(each.tasks)
    kernels = []
    for context in (endings, each):
        fusion = fuse(context, options)
        segments = [[_nodes(s) for s in group.segments] for group in fusion.groups]
        kernels.append(({frozenset(s) for s in segments}, fusion.escapes, set(fusion.decisions)))
    assert kernels[0][0] == kernels[1][0]
    assert kernels[0][1] == kernels[1][1]
    assert kernels[0][2] == kernels[1][2]


def _nodes(tasks: Sequence[Task]) -> frozenset[Node]:
    return frozenset(node for task in tasks for node in task.origins)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_fusion_looks_at_few_pairs_for_each_further_layer(
    back_end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = Counter[int]()
    objection = fuse_module._Fuser._objection

    def counted(
        self: fuse_module._Fuser, producer: WorkingGroup, consumer: WorkingGroup, late: bool
    ) -> str:
        pairs[layers] += 1
        return objection(self, producer, consumer, late)

    monkeypatch.setattr(fuse_module._Fuser, "_objection", counted)
    prepare, options, guarded = BACK_ENDS[back_end]
    for layers in (4, 8, 12):
        fuse(build_tasks(prepare(graph(layers, back_end)), guarded), options)
    assert pairs[12] - pairs[8] <= 1.02 * (pairs[8] - pairs[4])
    assert pairs[12] - pairs[8] < 4 * 60, "siblings, and the norm of all gradients"


OPTIMIZERS = {
    "adamw": lambda p: optim.AdamW(p),
    "amsgrad": lambda p: optim.Adam(p, amsgrad=True, weight_decay=0.1),
    "sgd": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "nadam": lambda p: optim.NAdam(p),
    "adafactor": lambda p: optim.Adafactor(p),
    "rprop": lambda p: optim.Rprop(p),
}


def update_of(make: object) -> tuple[Graph, int]:
    """The step of a network of four equal layers, and how often the rule was traced."""
    network = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    optimizer = make(network.parameters())  # type: ignore[operator]
    rule = optimizer.update_group
    calls = itertools.count()  # no state of the traced function's, which would be repeated

    def counted(group: object, pairs: object) -> None:
        next(calls)
        rule(group, pairs)

    optimizer.__dict__["update_group"] = counted

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        network(x).square().sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    compiled = CompiledFunction(step, replace(default_options(), backend="evaluate"))
    return compiled.trace((flamec.ones(2, 8),), {}).graph, next(calls)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_traced_once_for_equal_parameters(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, calls = update_of(OPTIMIZERS[name])
    assert calls == 2, "once for weights, once for biases"
    looks = repeated_update._looks
    monkeypatch.setattr(repeated_update, "_looks", lambda *given: looks(*given) and None)
    each, calls = update_of(OPTIMIZERS[name])
    assert calls == 8
    programs = [run_passes(graph, pipeline())[0].fingerprint() for graph in (once, each)]
    assert programs[0] == programs[1]


class _Clipped(optim.SGD):
    """A user's optimizer: its rule may do anything."""

    def update_group(self, group: dict[str, object], pairs: list[tuple[Tensor, Tensor]]) -> None:
        super().update_group(group, [(p, g.clamp(-1, 1)) for p, g in pairs])


def test_a_users_rule_is_traced_for_all_parameters() -> None:
    assert issubclass(_Clipped, Optimizer)
    _, calls = update_of(lambda p: _Clipped(p, 0.1))
    assert calls == 1


def test_a_check_of_indices_has_one_place_for_what_is_wrong() -> None:
    """Not one for each lane: that was most of what the C compiler did for a search."""
    compiler = find_compiler()
    if "clang" in compiler.version():
        pytest.skip("asks gcc")
    take = flamec.compile(lambda x, at: x[at] * 2, backend="c")
    take(flamec.ones(100), flamec.arange(1000) % 100)
    source = take.programs[0].stages["source"]
    looks = source.count("= vgather") + source.count("flamec_index(")
    calls = re.findall(r"(?:call|bl)\s+flamec_bad_index", compile_assembly(compiler, source))
    assert 0 < len(calls) <= looks
