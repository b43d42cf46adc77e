"""Convolutions and pools on a GPU without a GPU: values in Triton's interpreter, source, code."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from interpreted import run_interpreted
from op_table import COMPILED
from triton_cases import samples
from triton_convolutions import CASES, Case, compiled, conv

import flamec
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.product_schedule import ProductSchedule, target_facts
from flamec.ir.passes.lower_convolutions import lower_convolutions
from flamec.ir.plan import Launch, Step
from flamec.runtime.kernel_cache import KernelCache

TESTS = Path(__file__).parents[1]
GOLDEN = ("same borders", "split", "groups", "two of three")
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)
# as in a network: all that is proposed must fit
IMAGE = (32, 64, 28, 28)
LARGE = {
    "layer": Case(conv(2, padding=1), (IMAGE, (128, 64, 3, 3)), dtype=flamec.bfloat16),
    "strides": Case(conv(2, padding=1, stride=2), (IMAGE, (128, 64, 3, 3)), dtype=flamec.bfloat16),
    "image": Case(
        conv(2, padding=3, stride=2), ((32, 3, 56, 56), (64, 3, 7, 7)), dtype=flamec.bfloat16
    ),
    "float32": Case(conv(2, padding=1), (IMAGE, (128, 64, 3, 3))),
}


@needs_triton
def test_in_the_interpreter() -> None:
    names = list(CASES)
    results = run_interpreted("triton_convolutions.py", names)
    assert [r["row"] for r in results] == names
    assert not {r["row"]: r["wrong"] for r in results if r["wrong"]}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.launches])
def test_launches_of_the_forward_pass(name: str) -> None:
    """The product and, for a kernel as PyTorch has it, its arrangement; no borders, no windows."""
    plan = compiled(name, backward=False).plan
    assert len([a for a in plan.actions if isinstance(a, Launch)]) == CASES[name].launches


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "same borders",
        "even kernel",
        "strides",
        "dilation",
        "groups",
        "transposed",
        "volume",
    ],
)
def test_no_border_and_no_windows_are_stored(name: str) -> None:
    """Forward and backward: no step writes more than the largest of image, kernel and result."""
    plan = compiled(name).plan
    assert not any(set(step.operations) & {"pad", "windows"} for step in plan.steps)
    given = [plan.buffers[n].elements for n in (*plan.inputs, *(o.buffer for o in plan.outputs))]
    largest = max(n for n in given if isinstance(n, int))
    for step in plan.steps:
        assert _elements(step) <= largest, step


def _elements(step: Step) -> int:
    assert isinstance(step.bytes_written, int)
    return step.bytes_written // 4


@pytest.mark.parametrize("name", GOLDEN)
def test_source(name: str) -> None:
    file = TESTS / "golden" / f"triton_convolution_{name.replace(' ', '_')}.txt"
    source = compiled(name).plan.source
    if os.environ.get("FLAMEC_UPDATE_GOLDEN") == "1":
        file.write_text(source)
    assert source == file.read_text()


def test_bytes_without_a_sign_are_multiplied_as_those_with_one() -> None:
    """Triton's products take operands of one type: loaded ones, and those that are looked up."""
    row = next(row for row in COMPILED if row.name == "convolution")
    _, _, graph = next(samples(row, [flamec.uint8]))  # with borders
    kernels = compile_graph(lower_convolutions(graph)).plan.kernels
    (text,) = {k.text for k in kernels if "tl.dot(" in k.text}
    assert text.count(".to(tl.int8, bitcast=True)") == 2


def test_taps_are_numbers_where_a_block_has_one() -> None:
    """A step of the depth lies within one tap: its guards are of rows, not of a block."""
    source = compiled("same borders", backward=False).plan.source
    assert "a_e1 = ((first) // 16) % 3" in source
    assert "tl.multiple_of((first) % 16, 16)" in source


@needs_triton
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("name", LARGE)
def test_machine_code(
    name: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values stay in registers, blocks fit, and what is looked up is loaded ahead."""
    from flamec.runtime.cuda.triton_compiler import build_kernel

    monkeypatch.setitem(CASES, name, replace(LARGE[name], schedule=None))
    made = compiled(name, target=target)
    kernels = [k for k in made.plan.kernels if "tl.dot" in k.text]
    if os.environ.get("FLAMEC_TEST_LEVEL") != "full":
        kernels = kernels[:2]
    for kernel in kernels:
        binary = build_kernel(kernel, target, KernelCache(tmp_path))
        assert binary.registers <= 255 and binary.stack_bytes <= 16, name
        assert binary.shared_bytes <= target_facts(target).shared_bytes, name
        if name != "image" and "a_e2" in kernel.text and kernel.options["num_stages"] > 1:
            assert "async_copy_global_to_local" in binary.texts["ttgir"], name


def test_schedules_of_looked_up_operands_do_not_join_loops() -> None:
    for choice in compiled("plain").choices:
        schedule = choice.schedule
        assert not (isinstance(schedule, ProductSchedule) and schedule.persistent)
