"""Plans that are kept have no lines of the program that made them, wherever a line may stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import flamec
from flamec import Tensor
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.plan import ExecutionPlan
from flamec.places import with_places, without_places
from flamec.prepared import Prepared
from flamec.program import Program

THIS = Path(__file__).name


def decided(x: Tensor) -> Tensor:
    """A host call in a branch, in a loop that a value ends, beside kernels."""

    def step(i: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        y = flamec.cond(
            x.sum() > 0,
            lambda x: flamec.linalg.inv(x + 3 * flamec.eye(3)),
            lambda x: x.exp(),
            (x,),
        )
        return i + 1, y

    x = flamec.while_loop(lambda i, x: i < 4, step, (flamec.tensor(0), x))[1]
    return x[x.argmax(1) + 1]  # may be out of range: an error that names the line


def prepared(function: object) -> Prepared:
    made = CompiledFunction(function, replace(default_options(), backend="evaluate"))
    program = made.compile_variant((flamec.ones(3, 3),), {})
    assert isinstance(program, Program)
    return program.prepared


def test_lines_are_positions_in_what_is_kept_and_come_back() -> None:
    program = prepared(decided)
    plan = compile_graph(program.optimized).plan
    assert plan.to_json().count(THIS) >= 6, "a loop, a branch, a host call, kernels, an error"
    assert any(THIS in message for message in plan.errors)
    kept = without_places(plan, program.graph)
    assert THIS not in kept.to_json()
    read = ExecutionPlan.from_json(kept.to_json())
    assert with_places(read, program.graph) == plan


def test_another_program_with_the_same_graph_gets_its_own_lines() -> None:
    first = prepared(decided)
    namespace = {"flamec": flamec, "Tensor": Tensor}
    text = Path(__file__).read_text()
    body = text[text.index("def decided") : text.index("def prepared")]
    exec(compile("\n" * 500 + body, "elsewhere.py", "exec"), namespace)
    second = prepared(namespace["decided"])
    plan = compile_graph(first.optimized).plan
    found = with_places(without_places(plan, first.graph), second.graph).to_json()
    assert THIS not in found and found.count("elsewhere.py:5") == plan.to_json().count(THIS)


def test_another_program_with_the_same_graph_names_what_it_calls() -> None:
    first = prepared(lambda x: x.index_select(0, x[0].long()))
    second = prepared(lambda x: flamec.nn.functional.embedding(x[0].long(), x))
    plan = compile_graph(first.optimized).plan
    found = with_places(without_places(plan, first.graph), second.graph).to_json()
    assert "embedding at" in found and "index_select" not in found
