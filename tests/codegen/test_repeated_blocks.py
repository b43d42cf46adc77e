"""Equal blocks of a network are compiled once: counted, not timed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from equal_layers import BACK_ENDS, for_c, graph, on_a_gpu

import flamec
from flamec import nn
from flamec.codegen.autotune import select_schedules
from flamec.codegen.compile_graph import compile_graph as compile_for_c
from flamec.codegen.lower.graph import GraphLowering
from flamec.codegen.lower.group import GroupLowering
from flamec.codegen.lower.kernel_builder import ErrorTable, ParameterList, PartialResults
from flamec.codegen.lower.repetition import RepeatedParts
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton import gpu_form, written_kernels
from flamec.codegen.triton.choice import choose_schedule
from flamec.codegen.triton.compile_graph import compile_graph as compile_for_triton
from flamec.codegen.triton.launches import kernel_writer
from flamec.codegen.triton.written_kernels import WrittenKernels
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.build_tasks import build_tasks
from flamec.ir.builder import GraphBuilder
from flamec.ir.kernel import Constant, Load, Part
from flamec.ir.passes.fuse import fuse
from flamec.ir.passes.fusion_groups import FusionOptions
from flamec.ir.passes.fusion_state import Dependencies, FusionState
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.plan import Argument, Copy, ExecutionPlan, Launch
from flamec.ir.task_signature import TaskSignatures
from flamec.ir.tasks import Task
from flamec.ir.types import Device, TensorType, float32


def lowered(layers: int, back_end: str) -> tuple[int, int, set[object]]:
    """How many kernels there are, how many were lowered, and the programs that they run."""
    prepare, options, guarded = BACK_ENDS[back_end]
    result = GraphLowering(
        prepare, options, ErrorTable(), reuse=back_end == "c", guarded=guarded
    ).lower(graph(layers, back_end))
    kernels = result.kernels
    fresh = [kernel for kernel in kernels if kernel.model is None]
    programs: set[object] = {part.program for k in kernels for part in k.kernel.parts}
    return len(kernels), len(fresh), programs


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_more_layers_need_no_more_lowering(back_end: str) -> None:
    # the norm of all gradients is kernels of 96 additions each, and of 15 at the end
    few, many = lowered(9, back_end), lowered(25, back_end)
    assert many[0] > 2 * few[0], "there are more kernels"
    assert many[1] == few[1], "and none more is lowered"
    assert many[2] == few[2], "because they run the same programs"


def lowered_anew(
    _: RepeatedParts, tasks: Sequence[Task], lower: Callable[[], tuple[Part, ParameterList]]
) -> Part:
    return lower()[0]


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_a_copy_is_what_lowering_would_have_given(
    back_end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, options, guarded = BACK_ENDS[back_end]
    context = build_tasks(prepare(graph(3, back_end)), guarded)
    fusion = fuse(context, options)
    reuse, errors = back_end == "c", ErrorTable()
    groups = GroupLowering(context, errors, TaskSignatures(context), reuse)
    copies, parts = 0, 0
    for group, stores in zip(fusion.groups, fusion.stores(), strict=True):
        found = groups.lower(group, stores, "kernel")
        with monkeypatch.context() as patch:
            patch.setattr(RepeatedParts, "part", lowered_anew)
            alone = GroupLowering(context, errors, TaskSignatures(context), reuse).lower(
                group, stores, "kernel"
            )
        copies += found.model is not None
        parts += len(found.kernel.parts) - len({id(p.program) for p in found.kernel.parts})
        assert found.kernel == alone.kernel
        for one, other in zip(found.buffers, alone.buffers, strict=True):
            if isinstance(one, PartialResults):
                assert isinstance(other, PartialResults)
                assert (one.memory, one.elements) == (other.memory, other.elements)
            else:
                assert one is other
    assert copies > len(fusion.groups) // 4
    assert parts > 20, "a bundle of writers has copies, too"


def test_more_layers_need_no_more_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels between other buffers are written once, and their launches are what they would be."""

    def written(layers: int) -> tuple[int, ExecutionPlan]:
        count = 0

        def counted(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            return kernel_writer(*arguments)

        monkeypatch.setattr(written_kernels, "kernel_writer", counted)
        plan = on_a_gpu(layers).plan
        return count, plan

    (few, _), (many, plan) = written(9), written(25)
    assert many == few < len(plan.actions) // 4
    monkeypatch.setattr(WrittenKernels, "_place", lambda *_: object())  # never known
    each, anew = written(25)
    assert each > 4 * many
    assert launches(plan) == launches(anew)
    assert [(k.text, k.options) for k in plan.kernels] == [
        (k.text, k.options) for k in anew.kernels
    ]
    assert len(plan.buffers) == len(anew.buffers) > len(plan.inputs) + len(plan.outputs)
    for one, other in zip(plan.steps, anew.steps, strict=True):
        assert len(one.writes) == len(other.writes) and one.name == other.name
        assert len(one.in_place) == len(other.in_place)


def test_more_layers_need_no_more_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(layers: int) -> tuple[int, int]:
        count = 0

        def counted(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            return choose_schedule(*arguments)

        monkeypatch.setattr(gpu_form, "choose_schedule", counted)
        found = on_a_gpu(layers)
        in_forms, count = count, 0
        keys = {choice.name for choice in found.choices}
        selection = select_schedules(found.lowered, CodegenOptions(), lambda _: None)
        assert set(selection.parts) == keys
        return in_forms, count

    assert chosen(9) == chosen(25) < (120, 120)


def launches(plan: ExecutionPlan) -> list[object]:
    """The launches of a plan, its buffers numbered in the order of their use."""
    numbers: dict[int, int] = {}

    def of(argument: Argument) -> object:
        if argument.buffer < 0:
            return argument
        buffer = plan.buffers[argument.buffer]
        number = numbers.setdefault(argument.buffer, len(numbers))
        facts = (buffer.kind, buffer.dtype, buffer.elements)
        return number, facts, replace(argument, buffer=0)

    found: list[object] = []
    for action in plan.actions:
        assert isinstance(action, (Launch, Copy))
        if isinstance(action, Launch):
            found.append((action.kernel, action.grid, *map(of, action.arguments)))
    return found


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_what_was_loaded_before_for_one_of_two_equal_parts(back_end: str) -> None:
    """The first copy finds its element where the conversion loaded it; the second finds nothing."""

    def copies(a: flamec.Tensor, b: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
        return a.double(), a.clone(), b.clone()

    step = CompiledFunction(copies, replace(default_options(), backend="evaluate"))
    traced = run_passes(step.trace((flamec.ones(()), flamec.ones(())), {}).graph, pipeline())[0]
    prepare, options, guarded = BACK_ENDS[back_end]
    lowering = GraphLowering(prepare, options, ErrorTable(), reuse=False, guarded=guarded)
    (kernel,) = lowering.lower(traced).kernels
    loads = [s for s in kernel.kernel.uniform if isinstance(s, Load)]
    assert len(loads) == 2, "one for each argument"


def test_borders_without_memory_keep_their_numbers() -> None:
    """Equal kernels but for the number that their operand has around it."""
    b = GraphBuilder()
    results = []
    for number in (0.0, 2.0, 3.0, 2.0):
        image = b.input(TensorType((64, 100), float32, Device("cuda", 0)))
        around = b.full_like(number, image.type.with_shape(()))
        results.append(b.sum(b.pad(image, around, low=(0, 1), high=(0, 1)), axes=(1,)))
    kernels = compile_for_triton(b.build(results)).kernels
    found = [[s.value for s in k.uniform if isinstance(s, Constant)] for k in kernels]
    assert found == [[], [2.0], [3.0], [2.0]]


def test_more_layers_need_hardly_more_triton_kernels() -> None:
    few, many = on_a_gpu(9), on_a_gpu(25)
    assert len(many.plan.actions) > 2 * len(few.plan.actions)
    added = {k.text for k in many.plan.kernels} - {k.text for k in few.plan.kernels}
    assert len(many.plan.kernels) <= len(few.plan.kernels) + 6
    assert all("block_number" in text for text in added), "only optimizers' side by side"


def test_a_long_chain_of_scalars_is_lowered() -> None:
    """The norms of many gradients are added one after the other."""
    parameters = [nn.Parameter(flamec.ones(2 + i % 3)) for i in range(400)]
    optimizer = flamec.optim.SGD(parameters, lr=0.1)

    def step() -> flamec.Tensor:
        loss = sum((p * p).sum() for p in parameters)
        loss.backward()
        total = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return total

    compiled = CompiledFunction(step, replace(default_options(), backend="evaluate"))
    optimized = run_passes(compiled.trace((), {}).graph, pipeline())[0]
    result = GraphLowering(for_c, FusionOptions(), ErrorTable(), reuse=True)
    kernels = result.lower(optimized).kernels
    assert sum(len(kernel.kernel.parts) for kernel in kernels) >= 400


def test_more_layers_need_no_more_c() -> None:
    """But a row of a table for each kernel, and the rows of an optimizer's tables."""
    found, rows = [], []
    for layers in (3, 9):
        source = compile_for_c(graph(layers, "c")).plan.source
        functions = re.findall(r"^static [\w() ]*\b(\w+?)_\d+\(", source, re.MULTILINE)
        found.append(Counter(functions))
        rows.append(len(re.findall(r"^    \{\d+, 0, steps_\d+, \d+\}", source, re.MULTILINE)))
    few, many = found
    assert rows[1] > 2 * rows[0] > 2 * few["steps"]
    assert many.pop("scalars") <= few.pop("scalars") + 2, "blocks at the ends of a long chain"
    assert few == many, "loops, products, and kernels of equal structure"


def test_an_optimizer_of_many_parameters_computes_what_eager_mode_does(tmp_path: Path) -> None:
    """Its parts and scalars come from tables; some sizes do not fill a vector."""
    shapes = [(1 + i % 5, 1 + i % 7) for i in range(40)] + [(33,), (1,), (0,)]

    def trained(compiled: bool) -> list[list[float]]:
        rng = np.random.default_rng(0)
        parameters = [
            nn.Parameter(flamec.from_numpy(rng.standard_normal(s, np.float32))) for s in shapes
        ]
        some = {"params": parameters[::2], "weight_decay": 0.1}
        groups = [some, {"params": parameters[1::2], "lr": 0.03, "weight_decay": 0.0}]
        optimizer = flamec.optim.AdamW(groups, lr=0.1)

        def step(scale: flamec.Tensor) -> flamec.Tensor:
            optimizer.zero_grad()
            loss = sum((p * p * scale).sum() for p in parameters)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            return loss

        run = flamec.compile(step, backend="c", cache_folder=tmp_path) if compiled else step
        losses = [run(flamec.tensor(1.0 + i)).item() for i in range(4)]
        counts = [optimizer.state[p]["step"].item() for p in parameters]
        return [losses, counts, *(p.detach().flatten().tolist() for p in parameters)]

    for found, expected in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


def test_what_is_no_part_of_an_island_is_in_none_of_its_groups() -> None:
    """Islands are looked at by themselves, but what they read is made outside."""
    b = GraphBuilder()
    x, w = (b.input(TensorType((64, 64), float32)) for _ in range(2))
    product = b.dot_general(b.tanh(x), w, contract=((1,), (0,)), batch=((), ()))
    context = build_tasks(b.build([b.sub(w, product)]))
    *outside, last = context.tasks
    state = FusionState(Dependencies(context, [last]))
    assert state.is_in(last, state.groups())
    assert outside and not any(state.is_in(task, state.groups()) for task in outside)
