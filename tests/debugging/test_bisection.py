"""The stage that changes a result is found, whichever kind of mistake it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import broken_passes
import numpy as np
import pytest

import flamec
from flamec.codegen import compile_graph as c_compilation
from flamec.codegen.lower import graph as lowered_groups
from flamec.debugging.bisection import CODE, FUSION, Finding, bisect
from flamec.debugging.call_recording import record_call
from flamec.debugging.comparison import Results, deviation, evaluate, precision, widened
from flamec.debugging.reproduction import Reproduction
from flamec.errors import StageError
from flamec.ir.bodies import retyped
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.passes import pipeline as pipeline_module
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite
from flamec.ir.types import bfloat16, float32, float64
from flamec.nn.functional import layer_norm


def program(x: flamec.Tensor, w: flamec.Tensor) -> tuple[flamec.Tensor, flamec.Tensor]:
    hidden = flamec.sin(x @ w) * 3.0
    return (hidden.exp() - hidden).sum(1), hidden.amax(0)


def example(*shapes: tuple[int, ...]) -> tuple[flamec.Tensor, ...]:
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(s).astype(np.float32) for s in shapes]
    return tuple(flamec.tensor(a) for a in arrays)


def recorded(
    function: Callable[..., object], *args: object, tmp_path: Path, **options: object
) -> list[tuple[str, Reproduction]]:
    f = flamec.compile(backend="c", cache_folder=tmp_path / "cache", **options)(function)
    return record_call(f, args, {})


def only(tmp_path: Path, function: Callable[..., object] = program) -> Reproduction:
    ((title, found),) = recorded(function, *example((4, 3), (3, 5)), tmp_path=tmp_path)
    assert title == ""
    return found


def in_a_branch_of_a_loop(x: flamec.Tensor, w: flamec.Tensor) -> flamec.Tensor:
    def body(carry: flamec.Tensor, row: flamec.Tensor) -> tuple[flamec.Tensor, flamec.Tensor]:
        h = carry + row
        h = flamec.cond(
            h.sum() > -100,
            lambda h: flamec.sin(h) * 2 + 1,
            lambda h: h.exp(),
            (h,),
        )
        return h, h.sum()

    last, sums = flamec.scan(body, flamec.zeros(5), x @ w)
    return last.tanh().sum() + sums.sum()


def wrong(found: Finding | None) -> Finding:
    assert found is not None
    return found


def test_nothing_differs_in_a_whole_compiler(tmp_path: Path) -> None:
    assert bisect(only(tmp_path)) is None


@pytest.mark.parametrize("name", ["eliminate_dead_code", "autocast", "simplify", "fold_constants"])
@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        (broken_passes.negate_sines, " = sin(", " = cos("),
        (broken_passes.forget_a_factor, "value=3.0", "value=2.0"),
        (broken_passes.swap_operands, " = sub(", " = sub("),
    ],
)
def test_the_pass_is_named_with_its_nodes_and_lines(
    name: str,
    rule: broken_passes.Rule,
    before: str,
    after: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reproduction = only(tmp_path)
    broken_passes.break_pass(monkeypatch, name, rule)
    found = wrong(bisect(reproduction))
    assert found.stage == name
    assert "output 0" in found.what
    assert any(before in line for line in found.before)
    assert any(after in line for line in found.after)
    assert len(found.before) <= 3
    assert any("test_bisection.py" in place.file for place, _ in found.locations)
    assert name not in found.right
    text = "\n".join(found.lines())
    assert f"the first stage that changes a result: {name}" in text


def test_nodes_of_bodies_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass changed in a branch of a loop, with the line there."""
    reproduction = only(tmp_path, in_a_branch_of_a_loop)
    broken_passes.break_pass(monkeypatch, "simplify", broken_passes.negate_sines)
    found = wrong(bisect(reproduction))
    assert found.stage == "simplify"
    assert [line.split(" = ")[0] for line in found.before] == ["in scan: in cond: %1: float32[5]"]
    assert "sin(%0" in found.before[0]
    assert "cos(%0" in found.after[0]
    ((place, _),) = found.locations
    assert "sin(h)" in Path(place.file).read_text().splitlines()[place.line - 1]


def test_results_that_are_other_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def turn_around(graph: Graph) -> Graph:
        return replace(graph, outputs=graph.outputs[::-1])

    reproduction = only(tmp_path, lambda x, w: (flamec.sin(x), flamec.cos(x)))
    monkeypatch.setattr(pipeline_module, "autocast", turn_around)
    found = wrong(bisect(reproduction))
    assert found.stage == "autocast"
    assert any("return %" in line for line in found.after)


def test_a_cast_that_is_dropped_shows_in_the_program_s_own_dtypes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drop(b: RewriteBuilder, node: Node) -> Value | None:
        source = node.inputs[0].node if node.inputs else None
        if node.op.name != "convert" or source is None or source.op.name != "convert":
            return None
        return source.inputs[0] if source.inputs[0].type == node.output.type else None

    def rounding(x: flamec.Tensor, w: flamec.Tensor) -> flamec.Tensor:
        return (x * 1e4).floor().to(flamec.int64).to(flamec.float32) * 3.0 + x.int().float()

    reproduction = only(tmp_path, rounding)
    broken_passes.break_pass(monkeypatch, "simplify", drop)
    assert wrong(bisect(reproduction)).stage == "simplify"


def test_a_pass_after_which_the_graph_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn_axes(graph: Graph) -> Graph:
        return retyped(
            graph,
            lambda type: type,
            lambda node: {**node.attributes, **({"axes": (1,)} if node.op.name == "amax" else {})},
        )

    reproduction = only(tmp_path)
    monkeypatch.setattr(pipeline_module, "eliminate_transfers", turn_axes)
    found = wrong(bisect(reproduction))
    assert found.stage == "eliminate_transfers"
    assert "cannot be evaluated" in found.what


def test_a_pass_of_the_back_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reproduction = only(tmp_path)
    honest = c_compilation.normalize_contractions
    monkeypatch.setattr(
        c_compilation,
        "normalize_contractions",
        lambda graph: rewrite(honest(graph), broken_passes.negate_sines),
    )
    found = wrong(bisect(reproduction))
    assert found.stage == "normalize_contractions"
    assert "simplify" in found.right


def test_generated_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reproduction = only(tmp_path)
    broken_passes.break_c(monkeypatch, "vsin_f32(", "vcos_f32(")
    found = wrong(bisect(reproduction))
    assert found.stage == CODE
    assert any(" = sin(" in line for line in found.after)
    assert any("test_bisection.py" in place.file for place, _ in found.locations)
    assert "normalize_contractions" in found.right


def test_fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of several operations lose one: what only fused programs do wrong."""
    reproduction = only(tmp_path)
    fused = {"now": False}
    lower = lowered_groups.GroupLowering.lower

    def lowering(self: Any, group: Any, *rest: Any) -> Any:
        fused["now"] |= len(group.tasks) > 1
        return lower(self, group, *rest)

    def compile_graph(graph: Graph, *rest: Any) -> Any:
        fused["now"] = False
        return compiling(graph, *rest)

    compiling = c_compilation.compile_graph
    monkeypatch.setattr(lowered_groups.GroupLowering, "lower", lowering)
    monkeypatch.setattr(c_compilation, "compile_graph", compile_graph)
    broken_passes.break_c(monkeypatch, "vsin_f32(", "vcos_f32(", lambda: fused["now"])
    found = wrong(bisect(reproduction))
    assert found.stage == FUSION
    assert any("sin" in line for line in found.after)


def test_a_pass_that_raises_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reproduction = only(tmp_path)

    def fail(b: RewriteBuilder, node: Node) -> None:
        raise KeyError(node.op.name)

    broken_passes.break_pass(monkeypatch, "simplify", fail)
    with pytest.raises(StageError) as caught:
        bisect(reproduction)
    assert caught.value.stage == "simplify"


def test_a_training_step_with_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flamec.manual_seed(0)
    model = flamec.nn.Linear(3, 2)
    optimizer = flamec.optim.AdamW(model.parameters(), lr=0.1)

    def step(x: flamec.Tensor) -> flamec.Tensor:
        optimizer.zero_grad()
        loss = (flamec.sin(model(x)) * 3.0).sum()
        loss.backward()
        optimizer.step()
        return loss

    programs = recorded(step, *example((4, 3)), tmp_path=tmp_path)
    assert all(bisect(p) is None for _, p in programs)
    broken_passes.break_pass(monkeypatch, "simplify", broken_passes.forget_a_factor)
    stages = [found.stage for _, p in programs if (found := bisect(p)) is not None]
    assert stages == ["simplify"]


def test_the_backward_program_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def maximum_for_sum(b: RewriteBuilder, node: Node) -> Value | None:
        if node.op.name != "sum":
            return None
        return b.amax(node.inputs[0], **node.attributes)

    x, bias = example((4, 5), (5,))
    bias.requires_grad_()
    programs = recorded(lambda x, bias: x * bias, x, bias, tmp_path=tmp_path)
    assert [title for title, _ in programs] == ["program 1 of 2", "program 2 of 2"]
    assert all(bisect(p) is None for _, p in programs)
    broken_passes.break_pass(monkeypatch, "autocast", maximum_for_sum)
    assert bisect(programs[0][1]) is None
    assert wrong(bisect(programs[1][1])).stage == "autocast"


def test_symbolic_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = recorded(program, *example((4, 3), (3, 5)), tmp_path=tmp_path, dynamic=True)
    ((_, reproduction),) = programs
    assert set(reproduction.sizes.values()) == {3, 4, 5}
    assert bisect(reproduction) is None
    broken_passes.break_pass(monkeypatch, "simplify", broken_passes.negate_sines)
    assert wrong(bisect(reproduction)).stage == "simplify"


def test_inputs_that_the_program_refuses(tmp_path: Path) -> None:
    (x,) = example((4, 3))
    programs = recorded(lambda x, i: x[i], x, flamec.tensor([0, 3]), tmp_path=tmp_path)
    ((_, reproduction),) = programs
    reproduction.values[1][:] = 9
    with pytest.raises(ValueError, match="the traced graph fails"):
        bisect(reproduction)


@pytest.mark.parametrize("options", [{"numerics": "strict"}, {"memory_budget": 0.0}])
def test_options_of_the_function_are_those_of_the_search(
    options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = recorded(program, *example((4, 3), (3, 5)), tmp_path=tmp_path, **options)
    ((_, reproduction),) = programs
    assert options.items() <= reproduction.options.items()
    assert bisect(reproduction) is None
    broken_passes.break_pass(monkeypatch, "autocast", broken_passes.negate_sines)
    assert wrong(bisect(reproduction)).stage == "autocast"


def test_no_false_alarm_in_half_precision(tmp_path: Path) -> None:
    def norm(x: flamec.Tensor, w: flamec.Tensor) -> flamec.Tensor:
        with flamec.autocast("cpu"):
            return layer_norm(x @ w, (5,)).softmax(-1)

    assert bisect(only(tmp_path, norm)) is None


# comparing ---------------------------------------------------------------------------------


def results(*values: float, dtype: type = np.float32) -> Results:
    return Results(("output 0",), (np.array(values, dtype),))


@pytest.mark.parametrize(
    ("right", "other", "differs"),
    [
        ((1.0, 2.0), (1.0, 2.0), False),
        ((1.0, 100.0), (1.0001, 100.0), False),  # relative to the largest
        ((1.0, 2.0), (1.1, 2.0), True),
        ((np.nan, 1.0), (np.nan, 1.0), False),
        ((np.nan, 1.0), (1.0, 1.0), True),
        ((np.inf, 1.0), (np.inf, 1.0), False),
        ((np.inf, 1.0), (-np.inf, 1.0), True),
        ((0.0, 0.0), (0.0, 1e-3), True),
    ],
)
def test_deviations(right: tuple[float, ...], other: tuple[float, ...], differs: bool) -> None:
    found = deviation(results(*right), results(*other), 1e-5)
    assert (found is not None) == differs


def test_integers_are_exact() -> None:
    right, other = results(1, 10**6, dtype=np.int64), results(2, 10**6, dtype=np.int64)
    assert deviation(right, other, 0.5) is not None


def test_precision_and_widening(tmp_path: Path) -> None:
    graph = only(tmp_path).graph
    assert precision(graph) == pytest.approx(2.0**-23)
    assert {v.type.dtype for v in widened(graph).values()} == {float64}
    half = only(tmp_path, lambda x, w: x.bfloat16() + 1).graph
    assert {v.type.dtype for v in half.values()} == {float32, bfloat16}
    assert precision(half) == pytest.approx(2.0**-7)
    inputs = [np.ones((4, 3), np.float32), np.ones((3, 5), np.float32)][: len(half.inputs)]
    assert evaluate(half, inputs, {}, wide=True).arrays[0].dtype == np.float64
