"""Convolutions become products whose arrays stay in one order from layer to layer."""

from __future__ import annotations

from typing import Any

import flamec
from flamec import nn
from flamec.ir.graph import Graph
from flamec.ir.op import OpKind


def optimized(step: Any, *arguments: Any) -> Graph:
    compiled = flamec.compile(step)
    with flamec.no_grad():  # nothing is kept for a derivative
        compiled(*arguments)
    return compiled.programs[0].prepared.optimized


def permutations(graph: Graph) -> list[tuple[int, ...]]:
    """The shapes of the images and larger arrays that are permuted."""
    found = [n for n in graph.nodes if n.op.name == "permute"]
    return [n.output.type.shape for n in found if n.output.type.shape[0] == 5]


def test_nothing_is_permuted_between_layers() -> None:
    """Only the image on its way in, and, to be flattened, the result on its way out."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.AvgPool2d(2, 1),
        nn.Flatten(),
    )
    graph = optimized(model, flamec.randn(5, 3, 16, 18))
    assert permutations(graph) == [(5, 16, 18, 3), (5, 6, 2, 3)]
    assert not any(n.op.kind is OpKind.CONVOLUTION for n in graph.nodes)


def test_a_global_mean_needs_no_permutation_at_all() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert permutations(optimized(model, flamec.randn(5, 3, 8, 8))) == [(5, 8, 8, 3)]


def test_neither_windows_nor_kernels_are_arranged_in_memory() -> None:
    """Products read the windows in the images and the kernels as they are stored, each way."""
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    @flamec.compile
    def step(x: flamec.Tensor) -> Any:
        return flamec.autograd.grad(model(x).square().sum(), [x, *model.parameters()])

    step(flamec.randn(1, 8, 16, 18).requires_grad_())
    steps = step.programs[0].prepared.plan.steps
    windows, kernel = 16 * 18 * 8 * 9 * 4, 8 * 8 * 9 * 4
    assert max(s.bytes_written for s in steps) < windows
    assert [s.kind for s in steps if s.bytes_written == kernel] == ["matmul"] * 2


def test_gradients_of_strides_multiply_no_zeros() -> None:
    """The same number of multiplications each way; those of the image's are in four products."""
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)

    @flamec.compile
    def step(x: flamec.Tensor) -> Any:
        return flamec.autograd.grad(conv(x).square().sum(), [x, conv.weight])

    step(flamec.randn(5, 4, 16, 18).requires_grad_())
    steps = step.programs[0].prepared.plan.steps
    work = 2 * 5 * 8 * 9 * 8 * 4 * 9
    products = [s.flops for s in steps if s.kind == "matmul"]
    whole = [flops for flops in products if flops >= work]
    assert len(whole) == 2 and max(whole) < 1.1 * work
    parts = [flops for flops in products if flops < work]
    assert len(parts) == 4 and sum(parts) == work


def gradient_steps(conv: nn.Module, *shape: int) -> list[Any]:
    """The steps of a program that gives a result and the gradient of a kernel."""

    @flamec.compile
    def step(x: flamec.Tensor, g: flamec.Tensor) -> Any:
        return flamec.autograd.grad((conv(x) * g).sum(), [conv.weight])

    x = flamec.randn(*shape)
    with flamec.no_grad():
        g = flamec.randn(*conv(x).shape)
    step(x, g)
    return list(step.programs[0].prepared.plan.steps)


def test_gradients_of_kernels_of_one_channel_are_folds() -> None:
    """Nine sums for each channel in one kernel, and not a product for each channel."""
    conv = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
    steps = gradient_steps(conv, 4, 32, 9, 11)
    assert not any(s.kind == "matmul" for s in steps)
    (fold,) = (s for s in steps if s.kind == "reduction")
    assert fold.operations.count("sum") == 9
    assert fold.flops < 2.5 * 4 * 32 * 9 * 11 * 9


def test_the_gradient_of_a_kernel_from_few_places_is_written_in_order() -> None:
    """What there is much of, the kernel's elements or the windows, is not rearranged."""
    for size, copies in ((2, 0), (16, 1)):
        conv = nn.Conv2d(16, 64, 3, padding=1, bias=False)
        (product,) = (
            s for s in gradient_steps(conv, 2, 16, size, size) if "dot_general" in s.operations
        )
        assert product.operations.count("copy") + product.operations.count("permute") == copies
