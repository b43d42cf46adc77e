"""Convolutions become products whose arrays stay in one order from layer to layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.codegen.c.product import run_along_depth
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.kernel import Load, Place, ResultSteps
from flamec.ir.op import DerivativeContext, OpKind, lookup
from flamec.ir.passes.lower_convolutions import lower_convolutions
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.types import Device, DType, TensorType, bfloat16, float64


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
    """Only, to be flattened, the result on its way out: the image is read as it comes."""
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
    assert permutations(graph) == [(5, 6, 2, 3)]
    assert not any(n.op.kind is OpKind.CONVOLUTION for n in graph.nodes)


def test_a_global_mean_needs_no_permutation_at_all() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert permutations(optimized(model, flamec.randn(5, 3, 8, 8))) == []


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


def test_gradients_of_strides_of_an_image_read_one_array_with_borders() -> None:
    """Four products of three rows each, with as many columns as there are places; the borders that
    they need are put around the gradient once."""
    conv = nn.Conv2d(3, 40, 7, stride=2, padding=3, bias=False)

    @flamec.compile
    def step(x: flamec.Tensor, g: flamec.Tensor) -> Any:
        return flamec.autograd.grad(conv(x), [x], g)

    x, g = flamec.randn(2, 3, 20, 36, requires_grad=True), flamec.randn(2, 40, 10, 18)
    step(x, g)
    compiled = step.programs[0].prepared.compiled
    assert [k.operations[0] for k in compiled.kernels].count("pad") == 1
    found = [k.parts[0].program.contraction for k in compiled.kernels if k.kind == "matmul"]
    assert [(c.batch, c.rows, c.columns) for c in found if c is not None] == [(2, 3, 180)] * 4
    wanted = flamec.autograd.grad(conv(x), [x], g)[0]
    assert flamec.allclose(step(x, g)[0], wanted, atol=1e-4)


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
    """Neither the kernel's elements nor the windows are rearranged: there is a step for the
    borders, and the product."""
    for size in (2, 16):
        conv = nn.Conv2d(16, 64, 3, padding=1, bias=False)
        steps = gradient_steps(conv, 2, 16, size, size)
        assert [s.operations for s in steps] == [("pad",), ("dot_general",)]


def loads_of(model: nn.Module, *shape: int) -> list[Place]:
    """What the kernel with nine products for each element loads, compiled to C."""
    compiled = flamec.compile(model)
    with flamec.no_grad():
        compiled(flamec.randn(*shape))
    kernels = compiled.programs[0].prepared.compiled.kernels
    (sums,) = (k for k in kernels if k.operations.count("mul") == 9)
    return [s.place for s in sums.parts[0].program.statements() if isinstance(s, Load)]


def test_kernels_of_one_channel_are_read_along_the_channels() -> None:
    """A few numbers are put in order so that what is read for each place lies side by side."""
    before = nn.Conv2d(8, 32, 1, bias=False)
    depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
    places = loads_of(nn.Sequential(before, depthwise), 4, 8, 9, 11)
    assert len(places) == 18
    assert {place.at.inner[-1] for place in places} == {1}


def test_kernels_of_one_channel_follow_rows_where_channels_come_first() -> None:
    """Nothing is rearranged: a row's places are lanes, its channel's elements the same in all."""
    depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
    places = loads_of(depthwise, 4, 32, 9, 11)
    assert [place.at.inner[-1] for place in places].count(1) == 9
    assert {place.at.inner[-1] for place in places} == {0, 1}


@pytest.mark.parametrize(
    ("shape", "conv"),
    [
        ((2, 8, 9, 11), nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=False)),
        ((2, 3, 9, 11), nn.Conv2d(3, 10, 3, stride=2, padding=1, bias=False)),
    ],
    ids=["groups", "an image"],
)
def test_few_channels_that_come_first_are_not_rearranged(
    shape: tuple[int, ...], conv: nn.Module
) -> None:
    """One step puts borders around the array, and one multiplies, each writing row by row."""
    compiled = flamec.compile(conv)
    with flamec.no_grad():
        compiled(flamec.randn(*shape))
    steps = compiled.programs[0].prepared.plan.steps
    assert [step.operations for step in steps] == [("pad",), ("dot_general",)]


@pytest.mark.parametrize(("channels", "batch"), [(20, 2), (200, 1)])
def test_places_are_columns_where_sums_are_short(channels: int, batch: int) -> None:
    """Kernels of one element: a product for each image, row by row, or one that is transposed."""
    conv = nn.Conv2d(channels, 70, 1, bias=False)
    compiled = flamec.compile(conv)
    with flamec.no_grad():
        compiled(flamec.randn(2, channels, 14, 14))
    (kernel,) = compiled.programs[0].prepared.compiled.kernels
    product = kernel.parts[0].program.contraction
    assert product is not None and product.batch == batch
    assert (product.stored is None) == (batch == 2)


@pytest.mark.parametrize(
    ("outputs", "width", "batch"), [(32, 14, 1), (32, 16, 2), (16, 24, 1), (16, 40, 2), (12, 24, 2)]
)
def test_places_are_columns_where_rows_fill_vectors(outputs: int, width: int, batch: int) -> None:
    """Or where channels would not either: a product for each image, else one."""
    conv = nn.Conv2d(8, outputs, 3, padding=1, bias=False)
    compiled = flamec.compile(conv)
    with flamec.no_grad():
        compiled(flamec.randn(2, 8, 14, width))
    kernels = compiled.programs[0].prepared.compiled.kernels
    found = [k.parts[0].program.contraction for k in kernels]
    assert [c.batch for c in found if c is not None] == [batch]


def test_many_channels_that_come_first_are_not_rearranged() -> None:
    """The product reads single elements of the array within its borders, and not what is in them,
    and writes the result with channels first; so do both gradients."""
    conv = nn.Conv2d(70, 80, 3, padding=1, bias=False)

    @flamec.compile
    def step(x: flamec.Tensor, g: flamec.Tensor) -> Any:
        y = conv(x)
        return y, flamec.autograd.grad(y, [x, conv.weight], g)

    step(flamec.randn(8, 70, 7, 9, requires_grad=True), flamec.randn(8, 80, 7, 9))
    compiled = step.programs[0].prepared.compiled
    names = [k.operations[0] for k in compiled.kernels]
    assert sorted(names) == ["dot_general"] * 3 + ["pad"] * 2
    found = [k.parts[0].program for k in compiled.kernels if k.kind == "matmul"]
    assert not any(program.passes for program in found)
    for program, (down, across) in zip(found, STORED, strict=True):
        c = program.contraction
        assert c is not None and c.stored == ResultSteps(0, down, across)
        assert [(b.low, b.high) for b in c.left.borders] == [(1, 8), (1, 10)]
        assert [(b.row, b.along) for b in c.left.borders] == [(1, 1), (2, 2)]


def test_zeros_of_few_places_are_multiplied() -> None:
    """They are fewer than what the kernel's elements cost that are put in the order of others."""
    for batch, left_out in ((1, False), (2, False), (16, True)):
        compiled = flamec.compile(nn.Conv2d(64, 64, 3, padding=1, bias=False), dynamic=False)
        with flamec.no_grad():
            compiled(flamec.randn(batch, 64, 7, 7))
        kernel = compiled.programs[0].prepared.compiled.kernels[-1]
        product = kernel.parts[0].program.contraction
        assert product is not None and bool(product.left.borders) is left_out


# rows and columns of results: of the image, of its gradient, of the kernel's
STORED = (
    (((8, 80 * 63), (63, 1)), ((80, 63),)),
    (((8, 70 * 63), (63, 1)), ((70, 63),)),
    (((630, 1),), ((80, 630),)),
)


def test_infinite_weights_meet_the_zeros_around_an_image() -> None:
    values = flamec.compile(lambda x, w: nn.functional.conv2d(x, w, padding=1))
    weight = flamec.randn(80, 70, 3, 3)
    weight[3, 4, 0, 0] = float("inf")
    found = values(flamec.ones(2, 70, 7, 9), weight).isnan().tolist()
    wanted = [[y == 0 or x == 0 for x in range(9)] for y in range(7)]
    assert found[1][3] == wanted and not any(map(any, found[1][2]))


def test_borders_of_other_numbers_are_multiplied() -> None:
    conv = nn.Conv2d(20, 40, 3, bias=False)

    def values(x: flamec.Tensor) -> flamec.Tensor:
        return conv(flamec.nn.functional.pad(x, (1, 1, 1, 1), value=1.0))

    compiled = flamec.compile(values)
    x = flamec.randn(2, 20, 5, 6)
    with flamec.no_grad():
        assert flamec.allclose(compiled(x), values(x), atol=1e-5)
    kernels = compiled.programs[0].prepared.compiled.kernels
    (product,) = (k.parts[0].program.contraction for k in kernels if k.kind == "matmul")
    assert product is not None and product.left.borders == ()


@pytest.mark.parametrize("first", [0, 1])
def test_of_equal_products_each_knows_its_own_borders(first: int) -> None:
    """An image of the same size that was given none, and one with borders elsewhere."""
    conv, pad = nn.Conv2d(70, 80, 3, bias=False), nn.functional.pad

    def values(x: flamec.Tensor, y: flamec.Tensor) -> list[flamec.Tensor]:
        images = [pad(x, (1, 1, 1, 1)), y, pad(x, (2, 0, 0, 2))]
        return [conv(image) for image in (*images[first:], *images[:first])]

    compiled = flamec.compile(values)
    x, y = flamec.randn(2, 70, 5, 6), flamec.randn(2, 70, 7, 8)
    with flamec.no_grad():
        for found, wanted in zip(compiled(x, y), values(x, y), strict=True):
            assert flamec.allclose(found, wanted, atol=1e-4)


def test_gradients_of_kernels_in_groups_are_summed_along_rows() -> None:
    conv = nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=False)

    @flamec.compile
    def step(x: flamec.Tensor, g: flamec.Tensor) -> Any:
        return flamec.autograd.grad((conv(x) * g).sum(), [conv.weight])

    step(flamec.randn(2, 8, 9, 20), flamec.randn(2, 12, 9, 20))
    compiled = step.programs[0].prepared.compiled
    assert [k.operations for k in compiled.kernels] == [("pad",), ("dot_general",)]
    contraction = compiled.kernels[1].parts[0].program.contraction
    assert contraction is not None
    assert run_along_depth(contraction) == 20


def test_places_of_many_channels_are_not_a_power_of_two_apart() -> None:
    first, second = nn.Conv2d(3, 512, 1, bias=False), nn.Conv2d(512, 4, 3, padding=1, bias=False)
    compiled = flamec.compile(nn.Sequential(first, second))
    with flamec.no_grad():
        compiled(flamec.randn(1, 3, 2, 3))
    kernels = compiled.programs[0].prepared.compiled.kernels
    *_, found = (k.parts[0].program.contraction for k in kernels if k.kind == "matmul")
    assert found is not None and found.left.uneven is not None
    assert {stride for _, stride in found.left.uneven.free} == {528, 528 * 5}


def test_gradients_of_strides_of_kernels_of_one_channel_multiply_no_zeros() -> None:
    conv = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)

    @flamec.compile
    def step(x: flamec.Tensor, g: flamec.Tensor) -> Any:
        return flamec.autograd.grad((conv(x) * g).sum(), [x])

    step(flamec.randn(2, 8, 16, 16).requires_grad_(), flamec.randn(2, 8, 8, 8))
    steps = step.programs[0].prepared.plan.steps
    products = 2 * 8 * 8 * 8 * 9
    assert sum(s.flops for s in steps) < 2.2 * products


def convolution(
    which: str, image: tuple[int, ...], kernel: tuple[int, ...], groups: int, dtype: DType = float64
) -> Graph:
    """A convolution on a GPU, or the gradient of its kernel; arrays lie with channels last."""
    b = GraphBuilder()

    def given(n: int, c: int, *spatial: int) -> Any:
        value = b.input(TensorType((n, *spatial, c), dtype, Device("cuda")))
        return b.permute(value, axes=(0, len(spatial) + 1, *range(1, 1 + len(spatial))))

    ones = (1,) * (len(image) - 2)
    attributes = {
        "strides": ones,
        "padding": tuple((k // 2, k // 2) for k in kernel[2:]),
        "lhs_dilation": ones,
        "rhs_dilation": ones,
        "groups": groups,
    }
    x, w = given(*image), given(*kernel)
    y = b.convolution(x, w, **attributes)
    if which == "forward":
        return b.build([y])
    g = given(*b.type_of(y).shape)
    rule = lookup("convolution").derivative
    assert rule is not None
    types = (b.type_of(x), b.type_of(w))
    context = DerivativeContext(attributes, [x, w], [], types, (b.type_of(y),), (False, True))
    return b.build([rule(b, context, g)[1]])


@pytest.mark.parametrize(
    ("image", "kernel", "groups"),
    [
        ((8, 8, 20, 18), (12, 2, 1, 1), 4),  # two channels and three results each
        ((3, 6, 90, 50), (6, 2, 3, 3), 3),
        ((2, 4, 9, 11), (4, 1, 3, 5), 4),  # sums of slices
        ((5, 4, 200), (4, 2, 3), 2),
    ],
)
def test_the_gradient_of_a_kernel_in_groups(
    image: tuple[int, ...], kernel: tuple[int, ...], groups: int
) -> None:
    """What is no number in one group stays there."""
    graph = convolution("kernel", image, kernel, groups)
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(v.type.shape) for v in graph.inputs]
    arrays[0][..., 0] = np.inf
    with np.errstate(invalid="ignore"):
        (wanted,), _ = evaluate_graph(graph, arrays)
        (found,), _ = evaluate_graph(lower_convolutions(graph), arrays)
    assert np.isfinite(wanted).any() and not np.isfinite(wanted).all()
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_groups_that_give_few_numbers_share_a_product() -> None:
    graph = convolution("kernel", (8, 128, 40, 40), (128, 4, 3, 3), 32)
    graph = run_passes(graph, pipeline())[0]
    (product,) = [n for n in graph.nodes if n.op.kind is OpKind.CONTRACTION]
    assert product.output.type.shape[0] == 2  # of 64 results each, in place of 32 of 4


@pytest.mark.parametrize("which", ["forward", "kernel"])
def test_channels_with_kernels_of_their_own_are_read_where_they_lie(which: str) -> None:
    """No borders and no casts in memory, and sums over everything in one kernel."""
    graph = convolution(which, (16, 64, 28, 28), (64, 1, 3, 3), 64, bfloat16)
    plan = compile_graph(run_passes(graph, pipeline())[0]).plan
    image = 16 * 64 * 28 * 28 * 2
    large = [s for s in plan.steps if s.bytes_read >= image]
    (step,) = large
    assert step.kind == ("pointwise" if which == "forward" else "reduction")
    assert step.bytes_read + step.bytes_written <= 2.1 * image
