"""Failing programs become small ones that fail for the same reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import broken_passes
import numpy as np
import pytest

import flamec
from flamec.debugging.bisection import CODE, bisect
from flamec.debugging.call_recording import record_call
from flamec.debugging.minification import Minified, minify
from flamec.debugging.replay import failure_of, message_class, signature_of_error
from flamec.debugging.reproduction import Reproduction
from flamec.ir.bodies import all_nodes
from flamec.ir.graph import Node
from flamec.ir.passes import pipeline as pipeline_module
from flamec.ir.verify import verify


def program(x: flamec.Tensor, w: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
    """Thirty operations, each of the mistakes of ``broken_passes`` in the middle of it."""
    a = flamec.relu(x @ w) + 1.0
    b = flamec.sin(a * 0.5) * 3.0
    c = flamec.tanh(b).reshape(2, 10) - flamec.cos(a).reshape(2, 10)
    d = (c.exp() - c).sum(1, keepdim=True)
    e = (c * d).sum(0)
    return e.log1p(), (b @ w.T).softmax(-1), flamec.cumsum(c, 1)


def in_a_branch_of_a_loop(x: flamec.Tensor, w: flamec.Tensor) -> flamec.Tensor:
    """Too many nodes for the outer graph to be what is small."""

    def body(carry: flamec.Tensor, row: flamec.Tensor) -> tuple[flamec.Tensor, flamec.Tensor]:
        h = flamec.cond(
            (carry + row).sum() > -100,
            lambda h: flamec.sin(h * 0.5) * 2.0 + 1.0,
            lambda h: h.exp() - h,
            (carry + row,),
        )
        return h, h.sum()

    last, sums = flamec.scan(body, flamec.zeros(5), flamec.relu(x @ w) + 1.0)
    return last.tanh().sum() + sums.sum()


def recorded(tmp_path: Path, function: Callable[..., object] = program) -> Reproduction:
    generator = np.random.default_rng(0)
    x, w = (flamec.tensor(generator.random(s).astype(np.float32)) for s in ((4, 3), (3, 5)))
    f = flamec.compile(backend="c", cache_folder=tmp_path / "cache")(function)
    ((_, found),) = record_call(f, (x, w), {})
    assert sum(1 for _ in all_nodes(found.graph)) > 15
    return found


def failing(reproduction: Reproduction) -> Reproduction:
    error = failure_of(reproduction)
    assert error is not None
    cause = error.cause
    return replace(reproduction, stage=error.stage, error=type(cause).__name__, message=str(cause))


def operations(found: Minified) -> list[str]:
    verify(found.reproduction.graph)
    return [node.op.name for node in found.reproduction.graph.nodes]


@pytest.mark.parametrize("name", ["eliminate_dead_code", "simplify"])
@pytest.mark.parametrize(
    ("rule", "operation"),
    [
        (broken_passes.negate_sines, "sin"),
        (broken_passes.forget_a_factor, "full"),
        (broken_passes.swap_operands, "sub"),
    ],
)
def test_a_wrong_result(
    name: str,
    rule: broken_passes.Rule,
    operation: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reproduction = recorded(tmp_path)
    broken_passes.break_pass(monkeypatch, name, rule)
    found = minify(reproduction)
    assert found.signature.stage == name
    assert operation in operations(found)
    assert len(operations(found)) <= 3
    assert found.reproduction.passes == (name,)
    sizes = [d for v in found.reproduction.graph.values() for d in v.type.shape]
    assert all(size == 1 for size in sizes)
    again = bisect(found.reproduction)
    assert again is not None
    assert again.stage == name


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        (broken_passes.refuse_hyperbolic_tangents, ["tanh"]),
        (broken_passes.refuse_sums_of_products, ["mul", "sum"]),
    ],
)
def test_an_exception(
    rule: broken_passes.Rule, wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduction = recorded(tmp_path)
    broken_passes.break_pass(monkeypatch, "simplify", rule)
    found = minify(failing(reproduction))
    assert operations(found) == wanted
    assert found.signature.error in ("KeyError", "AssertionError")
    error = failure_of(found.reproduction)
    assert error is not None
    assert signature_of_error(error) == found.signature


def test_bodies_of_loops_and_branches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails inside of them becomes a program of its own."""
    reproduction = recorded(tmp_path, in_a_branch_of_a_loop)
    broken_passes.break_pass(monkeypatch, "simplify", broken_passes.negate_sines)
    found = minify(reproduction)
    assert str(found.signature) == "a wrong result of simplify"
    assert operations(found) == ["sin"]


def test_bodies_that_fail_only_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass fails on loops: what they run becomes small there."""
    reproduction = recorded(tmp_path, in_a_branch_of_a_loop)

    def rule(b: object, node: Node) -> None:
        if any("sin" in {n.op.name for n in all_nodes(body)} for body in node.bodies.values()):
            raise KeyError(node.op.name)

    broken_passes.break_pass(monkeypatch, "simplify", rule)
    found = minify(failing(reproduction))
    assert operations(found) == ["cond"]
    bodies = found.reproduction.graph.nodes[0].bodies.values()
    assert sorted([n.op.name for n in body.nodes] for body in bodies) == [[], ["sin"]]


def test_another_failure_in_the_same_pass_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller programs fail earlier, with another message: the signature holds the first one."""

    def refuse(b: object, node: Node) -> None:
        name = node.op.name
        if name == "cumsum":
            raise RuntimeError("a running sum")
        if name == "tanh":
            raise RuntimeError("a hyperbolic tangent")

    reproduction = recorded(tmp_path, lambda x, w: program(x, w)[::-1])
    broken_passes.break_pass(monkeypatch, "simplify", refuse)
    given = failing(reproduction)
    assert given.message == "a hyperbolic tangent"
    assert operations(minify(given)) == ["tanh"]


def test_generated_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reproduction = recorded(tmp_path)
    broken_passes.break_c(monkeypatch, "vsin_f32(", "vcos_f32(")
    found = minify(reproduction)
    assert found.signature.stage == CODE
    assert operations(found) == ["sin"]


def test_symbolic_sizes_become_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f = flamec.compile(lambda x: flamec.tanh(x * 2.0).sum(0), dynamic=True, backend="c")
    ((_, reproduction),) = record_call(f, (flamec.ones(4, 3),), {})
    broken_passes.break_pass(monkeypatch, "simplify", broken_passes.refuse_hyperbolic_tangents)
    found = minify(failing(reproduction))
    assert operations(found) == ["tanh"]
    assert found.reproduction.symbols == ()


def test_what_does_not_fail_cannot_be_minified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduction = recorded(tmp_path)
    with pytest.raises(ValueError, match="does not fail"):
        minify(reproduction)
    with monkeypatch.context() as patch:
        broken_passes.break_pass(patch, "simplify", broken_passes.refuse_hyperbolic_tangents)
        given = failing(reproduction)
    with pytest.raises(ValueError, match="does not fail"):
        minify(given)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline_module, "simplify", fail)
    with pytest.raises(ValueError, match="otherwise than the file says"):
        minify(given)


def test_the_class_of_a_message(tmp_path: Path) -> None:
    """Numbers, names, shapes and paths differ from program to program; words do not."""
    first, second = tmp_path / "abc" / "file.py", tmp_path.parent / "other.py"
    one = f"V6: the shape rule gives float32[4, 3] for '%12' in {first}"
    two = f"V6: the shape rule gives float32[1] for '%2' in {second}\nmore"
    assert message_class(one) == message_class(two)
    assert message_class(f"cannot read {first}") == message_class(f"cannot read {second}")
    assert message_class(f"cannot read {first}") != message_class(f"cannot write {first}")
    assert message_class("no rule for tanh") != message_class("no rule for sin")
