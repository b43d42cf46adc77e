"""What ResNet-50's training step in bfloat16 is on a GPU: counted kernels and bytes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import flamec
from flamec.codegen.compile_graph import CompiledGraph
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.plan import Step
from flamec.nn import functional as F
from flamec.program import Program

ROOT = Path(__file__).parents[2]
BATCH, SIZE, CLASSES = 32, 64, 1000
STAGE = BATCH * (SIZE // 4) ** 2 * 2  # bytes of one channel of an activation of the first stage


@pytest.fixture(autouse=True)
def repository_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT))
    yield
    for name in [m for m in sys.modules if m.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


@cache
def compiled(first_stage: int) -> CompiledGraph:
    from benchmarks.models.resnet import resnet50

    model = resnet50(flamec, CLASSES, counts=(first_stage, 1, 1, 1))
    optimizer = flamec.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        with flamec.autocast("cpu", dtype=flamec.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    function = CompiledFunction(step, replace(default_options(), backend="evaluate"))
    images = flamec.zeros(BATCH, 3, SIZE, SIZE)
    program = function.compile_variant((images, flamec.zeros(BATCH, dtype=flamec.int64)), {})
    assert isinstance(program, Program)
    return compile_graph(program.prepared.optimized)


def _look(step: Step) -> Any:
    optimizer = step.kind == "pointwise" and step.operations.count("add") > 30
    return ("optimizer",) if optimizer else (step.kind, step.operations, step.bytes_written)


def of_one_block() -> list[Step]:
    """The steps that a third bottleneck of the first stage adds to two."""
    two, three = (Counter(map(_look, compiled(n).plan.steps)) for n in (2, 3))
    added = three - two
    found = []
    for step in compiled(3).plan.steps:
        if added[_look(step)]:
            added[_look(step)] -= 1
            found.append(step)
    return found


def test_kernels_of_one_block() -> None:
    steps = of_one_block()
    kinds = Counter(step.kind for step in steps)
    assert kinds["matmul"] == 9  # three convolutions, each with two gradients
    assert kinds["reduction"] == 6  # statistics and their gradients
    pointwise = [s for s in steps if s.kind == "pointwise"]
    # what follows statistics is one kernel each way
    assert sum("mul" in s.operations for s in pointwise) == 6
    assert set(kinds) <= {"matmul", "reduction", "pointwise", "copy"}


def _bytes(step: Step) -> int:
    assert isinstance(step.bytes_read, int) and isinstance(step.bytes_written, int)
    return step.bytes_read + step.bytes_written


def test_no_activation_is_only_moved() -> None:
    """No borders, windows or permutations: only kernels of convolutions, and the image."""
    image = BATCH * 3 * SIZE * SIZE * 4
    for step in compiled(2).plan.steps:
        moves = set(step.operations) <= {"reshape", "copy", "permute", "pad", "slice", "convert"}
        weights = 512 * 512 * 9 * 4
        assert not moves or _bytes(step) <= max(2 * image, 2 * weights), step


def test_bytes_of_one_block() -> None:
    """In activations of 64 channels: the block's own are 1, 1 and 4 of them."""
    total = sum(_bytes(step) for step in of_one_block()) / (64 * STAGE)
    assert total < 100


def test_statistics_are_found_in_one_pass() -> None:
    forward = [s for s in of_one_block() if s.kind == "reduction" and "rsqrt" in s.operations]
    assert len(forward) == 3
    for step in forward:
        assert step.operations.count("sum") == 2
        assert isinstance(step.bytes_written, int) and step.bytes_written < STAGE


def test_pools_make_no_windows() -> None:
    pooled = BATCH * (SIZE // 4) ** 2 * 64
    steps = compiled(2).plan.steps
    forward = next(s for s in steps if s.operations.count("gt") >= 8)
    assert forward.kind == "pointwise"
    assert forward.bytes_written == pooled * (2 + 1)  # the largest elements and their numbers
    backward = next(s for s in steps if s.operations.count("eq") >= 4)
    assert isinstance(backward.bytes_written, int)
    assert backward.bytes_written <= 1.05 * 4 * pooled * 2


def test_state_has_the_names_of_torchvision() -> None:
    from benchmarks.models.resnet import resnet18, resnet50

    small, large = resnet18(flamec).state_dict(), resnet50(flamec).state_dict()
    assert (len(small), len(large)) == (122, 320)
    for name, shape in (
        ("conv1.weight", (64, 3, 7, 7)),
        ("layer2.0.downsample.0.weight", (128, 64, 1, 1)),
        ("layer4.1.bn2.running_var", (512,)),
        ("fc.weight", (1000, 512)),
    ):
        assert tuple(small[name].shape) == shape
    assert tuple(large["layer3.5.conv3.weight"].shape) == (1024, 256, 1, 1)
    assert tuple(large["layer4.0.downsample.1.num_batches_tracked"].shape) == ()
    assert sum(p.numel() for p in resnet50(flamec).parameters()) == 25_557_032
    assert sum(p.numel() for p in resnet18(flamec).parameters()) == 11_689_512
