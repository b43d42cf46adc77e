"""Sizes that change from call to call: few compilations, exact results, declared bounds."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.ir.shape import evaluate_dim

T = flamec.Tensor
F = nn.functional


class Block(nn.Module):
    """A transformer's block over [batch, length, 8], with a mask over lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: T) -> T:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, length, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).reshape(batch, length, width))


def pooled(x: T) -> Any:
    return x.sum(0), (x * x).sum(), x.reshape(-1), flamec.cat([x, x], 1), x[:, ::2]


def rolled(x: T) -> T:
    shifted = F.pad(x, (0, 0, 1, 0))[:, :-1]
    return (x - shifted).cumsum(1) * flamec.arange(x.shape[1])[:, None]


def sizes_in_random_order(count: int) -> list[tuple[int, int]]:
    rng = random.Random(0)
    batches, lengths = list(range(count)), list(range(count))
    rng.shuffle(batches)
    rng.shuffle(lengths)
    return list(zip(batches, lengths, strict=True))


@pytest.mark.parametrize("function", [pooled, rolled, Block()], ids=["pooled", "rolled", "block"])
def test_many_sizes_take_two_compilations(function: Callable[[T], Any]) -> None:
    flamec.manual_seed(0)
    compiled = flamec.compile(function)
    sizes = sizes_in_random_order(50)
    assert {0, 1} <= {b for b, _ in sizes} & {n for _, n in sizes}
    for batch, length in sizes:
        x = flamec.randn(batch, length, 8)
        got, expected = compiled(x), function(x)
        pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
        for a, b in pairs:
            assert a.shape == b.shape
            np.testing.assert_allclose(
                a.detach().numpy(), b.detach().numpy(), rtol=1e-4, atol=1e-5, err_msg=f"{x.shape}"
            )
    assert compiled.stats.traces == 2


def test_many_sizes_of_a_training_step_take_two_compilations() -> None:
    models = []
    for compiled in (False, True):
        flamec.manual_seed(0)
        model = Block()
        optimizer = flamec.optim.SGD(model.parameters(), lr=0.01)

        def step(x: T, y: T, model: Any = model, optimizer: Any = optimizer) -> T:
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        run = flamec.compile(step) if compiled else step
        for batch, length in sizes_in_random_order(12):
            run(flamec.randn(batch, length, 8), flamec.randn(batch, length, 8))
        if compiled:
            assert run.stats.traces == 2
        models.append(model)
    for p, q in zip(*(m.parameters() for m in models), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-3, atol=1e-5)


def test_a_size_that_decides_has_a_program_for_each_answer() -> None:
    compiled = flamec.compile(lambda x: x[:, -1:].sum(0))
    for length in (4, 3, 0, 9, 1, 0):
        x = flamec.randn(2, length)
        assert compiled(x).tolist() == x[:, -1:].sum(0).tolist()
    assert compiled.stats.traces == 3 and "s0 - 1 >= 0" in compiled.stats.guard_failures[1].reason


def test_dynamic_true_is_one_compilation_and_false_one_for_each_size() -> None:
    for dynamic, traces in ((True, 1), (False, 3)):
        compiled = flamec.compile(lambda x: (x * 2).sum(0), dynamic=dynamic)
        for rows in (4, 7, 3):
            assert compiled(flamec.ones(rows, 3)).tolist() == [2.0 * rows] * 3
        assert compiled.stats.traces == traces


def test_the_warning_of_many_programs_names_the_line_that_needs_a_number() -> None:
    def added(x: T) -> T:
        total = x[0] * 0
        for row in range(x.shape[0]):  # the line
            total = total + x[row]
        return total

    compiled = flamec.compile(added, backend="evaluate")
    line = added.__code__.co_firstlineno + 2
    with pytest.warns(RuntimeWarning, match=rf"numbers, .*:{line} .*flamec\.fori_loop"):
        for rows in range(1, 12):
            compiled(flamec.ones(rows, 2))
    assert compiled.stats.guard_failures[-1].reason.endswith(f":{line})")


def test_a_convolution_whose_length_must_fit_a_fixed_number_of_targets() -> None:
    """Lengths 15 and 16 give eight positions each, which only the guards know."""
    net = flamec.nn.Conv1d(5, 3, 3, padding=1, stride=2)

    def gradients(x: flamec.Tensor, targets: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
        logits = net(x).transpose(1, 2).flatten(0, 1)
        loss = flamec.nn.functional.cross_entropy(logits, targets)
        return flamec.autograd.grad(loss, list(net.parameters()))

    compiled = flamec.compile(gradients, backend="evaluate")
    for length in (15, 16, 17, 18, 22):
        x = flamec.randn(4, 5, length)
        targets = flamec.randint(0, 3, (4 * ((length - 1) // 2 + 1),))
        for found, wanted in zip(compiled(x, targets), gradients(x, targets), strict=True):
            np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernel", [3, 4])
def test_images_of_any_even_size_go_down_and_up_again(kernel: int) -> None:
    """That the halves twice are the whole again is known of symbolic sizes after tracing, too."""
    downs = [flamec.nn.Conv2d(2, 2, kernel, 2, 1) for _ in range(2)]
    up = flamec.nn.Upsample(scale_factor=2)
    mixes = [flamec.nn.Conv2d(4, 2, 1) for _ in downs]

    def step(x: Any) -> Any:
        seen = []
        for down in downs:
            seen.append(x)
            x = down(x)
        for mix in mixes:
            x = mix(flamec.cat([up(x), seen.pop()], 1))
        return x, *flamec.autograd.grad(x.square().sum(), downs[0].weight)

    compiled = flamec.compile(step, backend="evaluate")
    for size in ((8, 12), (16, 20), (4, 8), (12, 20)):
        x = flamec.randn(2, 2, *size)
        for mine, wanted in zip(compiled(x), step(x), strict=True):
            np.testing.assert_allclose(
                mine.detach().numpy(), wanted.detach().numpy(), rtol=1e-3, atol=1e-4
            )
    assert compiled.stats.traces == 2, compiled.stats.guard_failures


def test_a_prediction_for_each_place_is_split_into_anchors() -> None:
    net = flamec.nn.Conv2d(2, 6 * 3, 3, 2, 1)

    def step(x: Any) -> Any:
        y = net(x)
        n, _, h, w = y.shape
        y = y.view(n, -1, 3, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, 3)
        return flamec.autograd.grad(y.sigmoid().square().sum(), net.weight)[0]

    compiled = flamec.compile(step, backend="evaluate")
    for size in (16, 9, 12, 7):
        x = flamec.randn(2, 2, size, size)
        np.testing.assert_allclose(compiled(x).numpy(), step(x).numpy(), rtol=1e-3, atol=1e-4)
    assert compiled.stats.traces == 2, compiled.stats.guard_failures


def test_channels_in_groups_may_vary() -> None:
    """That the groups divide the channels is known of symbolic sizes after tracing, too."""

    def step(x: Any, w: Any) -> Any:
        y = F.conv2d(x, w, padding=1, groups=3)
        return y, *flamec.autograd.grad((y * y).sum(), (x, w))

    compiled = flamec.compile(step, dynamic=True)
    generator = np.random.default_rng(0)
    for batch, channels, out, size in ((4, 6, 9, 7), (5, 12, 15, 8), (1, 9, 6, 5)):
        arrays = (
            generator.standard_normal((batch, channels, size, size + 1)),
            (generator.standard_normal((out, channels // 3, 3, 3))),
        )
        x, w = (flamec.tensor(a, requires_grad=True) for a in arrays)
        for mine, wanted in zip(compiled(x, w), step(x, w), strict=True):
            np.testing.assert_allclose(
                mine.detach().numpy(), wanted.detach().numpy(), rtol=1e-10, atol=1e-10
            )
    assert compiled.stats.traces == 1, compiled.stats.guard_failures


def test_gradients_of_operands_whose_sizes_are_two_symbols_that_are_equal() -> None:
    f = flamec.compile(lambda x, y: x * y, backend="evaluate")
    f(flamec.ones(4, 3), flamec.ones(1, 3))
    for rows in (5, 6):
        x = flamec.full((rows, 3), 2.0, requires_grad=True)
        y = flamec.full((rows, 3), 3.0, requires_grad=True)
        f(x, y).sum().backward()
        assert x.grad is not None and x.grad.tolist() == [[3.0] * 3] * rows
        assert y.grad is not None and y.grad.tolist() == [[2.0] * 3] * rows
    assert f.stats.traces == 2


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (96, 12), (64, 64)])
def test_eager_grouped_convolutions_are_one_program(channels: int, groups: int) -> None:
    """Sizes that are multiples of one number, by the kernel's, and of another, by the groups'."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, channels, 20, 20), np.float32)
    w = rng.standard_normal((channels, channels // groups, 3, 3), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one says that it runs operation by operation
        found = F.conv2d(flamec.from_numpy(x), flamec.from_numpy(w), padding=1, groups=groups)
    of_one = channels // groups
    part = F.conv2d(
        flamec.from_numpy(x[:, :of_one].astype(np.float64)),
        flamec.from_numpy(w[:of_one].astype(np.float64)),
        padding=1,
    )
    np.testing.assert_allclose(found.numpy()[:, :of_one], part.numpy(), 1e-4, 1e-4)


def test_running_sums_in_logs_and_gradients_of_products_need_no_array_of_pairs() -> None:
    """With sizes that vary they are linear recurrences, as with those that do not."""

    def running(x: flamec.Tensor, weights: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
        logs, products = x.logcumsumexp(1), x.cumprod(1)
        return logs, *flamec.autograd.grad((logs * weights + products * weights).sum(), x)

    def exact(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logs, gradient = np.logaddexp.accumulate(x, 1), np.zeros_like(x)
        for j in range(x.shape[1]):
            for i in range(j, x.shape[1]):
                others = np.delete(x[:, : i + 1], j, 1).prod(1)
                gradient[:, j] += weights[:, i] * (np.exp(x[:, j] - logs[:, i]) + others)
        return logs, gradient

    function = flamec.compile(running, fullgraph=True)
    rng = np.random.default_rng(0)
    for shape in ((2, 3), (4, 7), (1, 1), (3, 40), (0, 5), (20, 2)):
        x, weights = rng.uniform(-2, 2, shape), rng.standard_normal(shape)
        x.flat[:1] = 0
        found = function(flamec.tensor(x, requires_grad=True), flamec.tensor(weights))
        for result, wanted in zip(found, exact(x, weights), strict=True):
            np.testing.assert_allclose(result.detach().numpy(), wanted, 1e-9, 1e-9)
    assert function.stats.traces == 2
    plan = function.programs[0].prepared.plan
    sizes = dict.fromkeys(plan.symbols, 1000)
    assert max(evaluate_dim(b.elements, sizes) for b in plan.buffers) <= 1000 * 1001


@pytest.mark.parametrize(
    "mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "bilinear corners"]
)
def test_images_of_any_size_are_resampled(mode: str) -> None:
    """By a factor and to the size of another image, as eager mode does with its tables."""
    mode, _, corners = mode.partition(" ")
    options: dict[str, Any] = {"mode": mode, **({"align_corners": True} if corners else {})}

    def resampled(x: T, like: T) -> tuple[T, T]:
        to = F.interpolate(x, size=like.shape[-2:], **options)
        return F.interpolate(x, scale_factor=2, **options), to

    function = flamec.compile(resampled, fullgraph=True)
    rng = np.random.default_rng(0)
    shapes = [((4, 5), (7, 3)), ((6, 7), (9, 11)), ((1, 1), (1, 4)), ((5, 2), (1, 1))]
    for image, other in [*shapes, ((17, 33), (33, 17)), ((8, 8), (8, 3)), ((2, 3), (40, 50))]:
        x = flamec.from_numpy(rng.standard_normal((2, 3, *image), np.float32))
        like = flamec.zeros(1, 1, *other)
        for found, wanted in zip(function(x, like), resampled(x, like), strict=True):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-6, atol=1e-6)
    assert function.stats.traces == 2


def test_one_value_per_channel_is_no_batch_to_train_on() -> None:
    """As in eager mode, also where sizes are symbolic; running statistics stay as they were."""
    norm = nn.BatchNorm1d(3)
    function = flamec.compile(norm)
    for shape in ((4, 3, 5), (6, 3, 7), (1, 3, 9), (9, 3, 1)):
        function(flamec.randn(*shape))
    before = norm.running_mean.numpy().copy()
    with pytest.raises(flamec.errors.OperationError, match="more than 1 value per channel"):
        function(flamec.randn(1, 3, 1))
    np.testing.assert_array_equal(norm.running_mean.numpy(), before)
    function(flamec.randn(2, 3, 1))
    assert len(function.programs) <= 2


def test_sequences_of_no_steps_are_refused_as_in_eager_mode() -> None:
    layer = flamec.nn.GRU(2, 3)
    compiled = flamec.compile(layer)
    for steps in (2, 3, 1):
        assert compiled(flamec.ones(steps, 4, 2))[0].shape == (steps, 4, 3)
    for call in (layer, compiled):
        with pytest.raises(RuntimeError, match="sequence length to be larger than 0"):
            call(flamec.ones(0, 4, 2))
    assert compiled(flamec.ones(7, 4, 2))[0].shape == (7, 4, 3)
    assert len(compiled.programs) == 2


@pytest.mark.parametrize("dynamic", [None, True])
def test_a_batch_of_none_leaves_normalization_as_it_was(dynamic: bool | None) -> None:
    """Gradients of its weight and bias are sums of nothing."""
    layer = flamec.nn.BatchNorm2d(3)

    def gradients(x):  # type: ignore[no-untyped-def]
        layer.zero_grad()
        layer(x).sum().backward()
        return layer.weight.grad, layer.bias.grad

    for function in (gradients, flamec.compile(gradients, dynamic=dynamic)):
        function(flamec.ones(2, 3, 4, 5))
        before = [flamec.clone(b) for b in (layer.running_mean, layer.running_var)]
        for found in function(flamec.ones(0, 3, 4, 5)):
            np.testing.assert_array_equal(found.numpy(), np.zeros(3))
        for now, was in zip((layer.running_mean, layer.running_var), before, strict=True):
            np.testing.assert_array_equal(now.numpy(), was.numpy())


def test_strides_leave_no_border_to_be_copied() -> None:
    """Which places of an image the last stride leaves out depends on its size."""
    kernel = flamec.from_numpy(np.arange(1.0, 7.0).reshape(2, 3, 1, 1))
    compiled = flamec.compile(lambda x: F.conv2d(x, kernel, stride=2), backend="c")
    for height, width in ((5, 6), (6, 9), (7, 7), (1, 2), (8, 4)):
        x = np.random.default_rng(width).integers(-9, 9, (2, 3, height, width)).astype(float)
        exact = np.einsum("oi,bihw->bohw", kernel.numpy()[:, :, 0, 0], x[:, :, ::2, ::2])
        np.testing.assert_array_equal(compiled(flamec.from_numpy(x)).numpy(), exact)
    assert compiled.stats.traces == 2
    assert len(compiled.programs[0].prepared.compiled.plan.steps) == 1


def test_images_smaller_than_a_window_are_refused_as_in_eager_mode() -> None:
    kernel = flamec.ones(2, 2, 3, 3)
    functions: list[Callable[[T], T]] = [
        lambda x: F.conv2d(x, kernel),
        lambda x: F.max_pool2d(x, 3, 2),
        lambda x: F.avg_pool2d(x, 3),
    ]
    for function in functions:
        compiled = flamec.compile(function)
        for size in (9, 12, 3, 30):
            compiled(flamec.ones(2, 2, size, size))
        assert compiled.stats.traces == 2
        for size in (2, 1, 0):
            for run in (function, compiled):
                with pytest.raises(flamec.errors.OperationError, match="size"):
                    run(flamec.ones(2, 2, size, size))


def test_gradients_of_pooling_with_windows_that_leave_a_rest() -> None:
    """The last elements of an image that no window covers get zeros, whatever its size."""

    def gradients(x: T) -> tuple[T, ...]:
        loss = F.max_pool2d(x, 2, 3).sum() + F.avg_pool2d(x, 2, 3, 1).square().sum()
        return flamec.autograd.grad(loss, x)

    function = flamec.compile(gradients)
    for size in (7, 9, 6, 8, 10, 5, 17):
        x = flamec.randn(2, 2, size, size + 1).requires_grad_()
        np.testing.assert_allclose(
            function(x)[0].numpy(), gradients(x)[0].numpy(), rtol=1e-5, atol=1e-6
        )
    assert function.stats.traces == 2


def exact_pooling_gradients(
    x: np.ndarray, g: float, kernel: int, step: int, border: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of the sums of ``g`` times the largest elements squared, and of the means squared."""
    largest = np.pad(x, border, constant_values=-np.inf)
    mean = np.pad(x, border)
    of_largest, of_mean = np.zeros_like(largest), np.zeros_like(mean)
    for corner in itertools.product(
        *(range(0, n + 2 * border - kernel + 1, step) for n in x.shape)
    ):
        window = tuple(slice(c, c + kernel) for c in corner)
        at = np.unravel_index(largest[window].argmax(), (kernel, kernel))
        of_largest[window][at] += 2 * g * largest[window][at]
        of_mean[window] += 2 * g * mean[window].mean() / kernel**2
    inside = tuple(slice(border, border + n) for n in x.shape)
    return of_largest[inside], of_mean[inside]


def test_gradients_of_pooling_over_images_of_any_size() -> None:
    """Windows that overlap, touch, leave gaps and a rest: each element looks at its windows."""
    cases = ((3, 1, 1), (2, 2, 0), (3, 2, 1), (2, 3, 1), (5, 3, 2), (3, 3, 0))

    def gradients(x: T) -> list[T]:
        found = []
        for kernel, step, border in cases:
            for pool in (F.max_pool2d, F.avg_pool2d):
                loss = (pool(x, kernel, step, border) ** 2 * 3).sum()
                found += flamec.autograd.grad(loss, x)
        return found

    function = flamec.compile(gradients, backend="c")
    for shape in ((7, 9), (9, 11), (5, 5), (6, 17), (16, 8), (18, 33)):
        x = np.random.default_rng(shape[0]).permutation(shape[0] * shape[1]).reshape(shape)
        x = x / 10 + 1.0
        found = function(flamec.tensor(x[None, None], requires_grad=True))
        wanted = [g for case in cases for g in exact_pooling_gradients(x, 3.0, *case)]
        for position, (y, exact) in enumerate(zip(found, wanted, strict=True)):
            np.testing.assert_allclose(y.numpy()[0, 0], exact, 1e-9, 1e-9, err_msg=str(position))
    assert function.stats.traces == 2
    plan = function.programs[0].prepared.plan
    sizes = dict.fromkeys(plan.symbols, 100)  # height, width, and how many images
    assert max(evaluate_dim(b.elements, sizes) for b in plan.buffers) < 2 * 110 * 110 * 100, (
        "nothing as large as all windows is made"
    )
