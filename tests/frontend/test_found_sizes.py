"""Sizes that values decide (masks, nonzero, unique, item()): one program serves all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim
from flamec.functional import true_places

T = flamec.Tensor
COUNTS = (5, 3, 0, 1, 7, 12, 2, 0, 9, 1)


def masked(x: T) -> Any:
    return x[x > 0] * 2


def selected(x: T) -> Any:
    return x.masked_select(x > 0).sum(), flamec.masked_select(x.reshape(1, -1), x > 0)


def places(x: T) -> Any:
    return (x > 0).nonzero(), flamec.nonzero(x.clamp(min=0)), flamec.where(x > 0)[0]


def places_of_rows(x: T) -> Any:
    square = x.reshape(4, 3) > 0
    rows, columns = flamec.nonzero(square, as_tuple=True)
    return rows * 10 + columns, square.nonzero(), x.reshape(4, 3)[square]


def of_a_scalar(x: T) -> Any:
    return (x.sum() > 0).nonzero().shape[0], x.sum().reshape(())[x.sum() > -1e9]


def assigned(x: T) -> Any:
    y = x.clone()
    y[y > 0] = y[y > 0] ** 2 + 1
    y[x <= 0] = -1.0
    return y


def counted(x: T) -> Any:
    found = x[x > 0]
    return found.mean() if found.shape[0] > 2 else found.sum() * 0, found.numel(), found.shape


def two_masks(x: T) -> Any:
    positive, large = x[x > 0], x[x > 0.5]
    return positive.sum() + large.sum(), positive + x[x > 0], positive.shape[0] + large.shape[0]


def joined(x: T) -> Any:
    found = x[x > 0]
    return flamec.cat([found, x, found]), flamec.zeros(found.shape[0] + 1), found.reshape(-1, 1) * x


def different(x: T) -> Any:
    values, inverse, counts = flamec.unique(x.clamp(min=0), return_inverse=True, return_counts=True)
    return values, inverse, counts, flamec.unique_consecutive(x > 0)


def repeated(x: T) -> Any:
    times = (x > 0).to(flamec.int64) * 2
    return flamec.repeat_interleave(x, times), flamec.repeat_interleave(x, times.sum())


def of_item(x: T) -> Any:
    n = (x > 0).sum().item()
    return x[:n] * 2, flamec.arange(n), flamec.ones(n, 2), x[n:].sum(), x[-n:]


def sorted_part(x: T) -> Any:
    kept = x[x > 0]
    order = kept.argsort(descending=True)
    return kept[order], kept.cumsum(0), kept.softmax(0)


PROGRAMS: list[Callable[[T], Any]] = [
    masked,
    selected,
    places,
    places_of_rows,
    assigned,
    counted,
    two_masks,
    joined,
    different,
    repeated,
    of_item,
    sorted_part,
]


def inputs(count: int, size: int = 12) -> T:
    """``count`` different positive numbers among ``size``, in an order that depends on it."""
    numbers = np.where(np.arange(size) < count, 1, -1) * (np.arange(size) % 7 + 1) / 4
    return flamec.tensor(np.random.RandomState(count).permutation(numbers).tolist())


def same(one: Any, other: Any) -> None:
    if isinstance(one, flamec.Tensor):
        assert one.dtype is other.dtype and one.shape == other.shape
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-6)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    else:
        assert type(one) is type(other) and one == other


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_count_is_served(program: Callable[[T], Any]) -> None:
    compiled = flamec.compile(program, backend="evaluate")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in COUNTS:
            x = inputs(count)
            same(compiled(x), program(x))
    # one for the first count, one for any; some ask whether there are any, or one
    assert compiled.stats.traces <= 5 and compiled.stats.python_runs == 0
    traces = compiled.stats.traces
    for count in (4, 6, 8, 10, 11):
        same(compiled(inputs(count)), program(inputs(count)))
    assert compiled.stats.traces == traces


@pytest.mark.parametrize("program", [masked, assigned, different, of_item])
def test_in_c(program: Callable[[T], Any]) -> None:
    compiled = flamec.compile(program)
    for count in (5, 3, 7, 0, 12):
        same(compiled(inputs(count)), program(inputs(count)))


@pytest.mark.parametrize("program", [masked, places_of_rows, different])
def test_places_as_they_are_found_on_a_gpu(
    program: Callable[[T], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same operations, on the CPU."""

    def find(mask: T, read_size: Callable[[T], Any]) -> T:
        count = read_size(mask.sum())
        return true_places._places_on_gpu(mask, count)

    monkeypatch.setattr(true_places, "_places_in_program", find)
    compiled = flamec.compile(program, backend="evaluate")
    for count in (5, 3, 0, 12, 1):
        same(compiled(inputs(count)), program(inputs(count)))
    if program is masked:
        same(compiled(inputs(900, 3000)), program(inputs(900, 3000)))
        same(compiled(inputs(0, 0)), program(inputs(0, 0)))


@pytest.mark.parametrize("program", [masked, places, counted])
def test_masks_of_many_elements_of_many_sizes(program: Callable[[T], Any]) -> None:
    compiled = flamec.compile(program, backend="evaluate")
    for size, count in ((200, 50), (200, 70), (300, 90), (100, 3), (250, 200), (77, 76)):
        same(compiled(inputs(count, size)), program(inputs(count, size)))
    assert compiled.stats.traces <= 4 and compiled.stats.python_runs == 0


def test_a_mask_without_dimensions() -> None:
    compiled = flamec.compile(of_a_scalar, backend="evaluate")
    for count in (12, 0, 12):
        same(compiled(inputs(count)), of_a_scalar(inputs(count)))


def test_sizes_are_symbols_from_the_first_call_on_request_and_never_on_another() -> None:
    always, never = (flamec.compile(masked, dynamic=d, backend="evaluate") for d in (True, False))
    for count in (5, 3, 7):
        same(always(inputs(count)), never(inputs(count)))
    assert always.stats.traces == 1 and never.stats.traces == 3


@pytest.mark.parametrize("inside", [True, False])
def test_training_on_what_a_mask_leaves(inside: bool) -> None:
    found = []
    for compiles in (False, True):
        flamec.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def forward(x: T, mask: T, model: nn.Module = model) -> T:
            return (model(x[mask]) ** 2).mean()

        def step(
            x: T, mask: T, optimizer: Any = optimizer, forward: Callable[..., T] = forward
        ) -> T:
            optimizer.zero_grad()
            loss = forward(x, mask)
            loss.backward()
            optimizer.step()
            return loss.detach()

        if compiles and not inside:
            forward = flamec.compile(forward, backend="evaluate")
        whole = flamec.compile(step, backend="evaluate") if compiles and inside else step
        losses = []
        for count in (5, 3, 9, 2, 12):
            flamec.manual_seed(count)
            x, mask = flamec.randn(12, 3), inputs(count) > 0
            losses.append(
                (whole(x, mask, forward=forward) if not inside else whole(x, mask)).item()
            )
        found.append(losses)
        last: Any = forward if not inside else whole
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert last.stats.traces == 2 and last.stats.python_runs == 0


def test_a_mixture_of_experts_has_a_program_for_each_choice_of_busy_experts() -> None:
    flamec.manual_seed(0)
    experts, gate = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)]), nn.Linear(4, 3)

    def mixture(x: T) -> T:
        share = gate(x).softmax(-1)
        best, out = share.argmax(-1), flamec.zeros_like(x)
        for number, expert in enumerate(experts):
            places = flamec.where(best == number)[0]
            out.index_add_(0, places, expert(x[places]) * share[places, number].unsqueeze(-1))
        return out

    compiled = flamec.compile(mixture, backend="evaluate")
    for _ in range(8):
        x = flamec.randn(16, 4)
        same(compiled(x).detach(), mixture(x).detach())
    assert compiled.stats.traces == 2 and len(compiled.programs[0].splits) == 3
    assert "the number of True elements gives a size" in str(compiled.programs[0].splits[0])


def test_two_counts_that_happened_to_be_equal() -> None:
    def function(x: T, y: T) -> T:
        return x[x > 0] + y[y > 0]

    compiled = flamec.compile(function, backend="evaluate")
    for count in (4, 6, 2):
        same(compiled(inputs(count), inputs(count)), function(inputs(count), inputs(count)))
    with pytest.raises(RuntimeError):
        compiled(inputs(3), inputs(5))
    with pytest.raises(RuntimeError):
        function(inputs(3), inputs(5))
    same(compiled(inputs(8), inputs(8)), function(inputs(8), inputs(8)))


def test_a_negative_number_is_no_size() -> None:
    def function(x: T, n: T) -> T:
        return x[: n.item()]

    compiled = flamec.compile(function, backend="evaluate")
    for n in (5, 3, -2, 7, -1, 0, 4):
        same(compiled(inputs(6), flamec.tensor(n)), function(inputs(6), flamec.tensor(n)))


def test_python_that_runs_each_time_gets_numbers() -> None:
    seen: list[int] = []

    @flamec.compile(backend="evaluate")
    def function(x: T) -> T:
        found = x[x > 0]
        seen.append(found.shape[0])
        print("called", found.shape[0])
        return found

    with pytest.warns(RuntimeWarning, match="print"):
        for count in (5, 3, 0):
            assert function(inputs(count)).shape == (count,)
    assert seen == [5, 3, 0] and all(type(n) is int for n in seen)


def test_repeats_that_are_negative_are_an_error() -> None:
    compiled = flamec.compile(flamec.repeat_interleave, backend="evaluate")
    x = flamec.arange(3)
    assert compiled(x, flamec.tensor([2, 0, 1])).tolist() == [0, 0, 2]
    with pytest.raises(RuntimeError, match="nonnegative"):
        compiled(x, flamec.tensor([2, -1, 1]))


@pytest.mark.parametrize("weighted", [False, True])
def test_counts_have_a_program_for_all_values(weighted: bool) -> None:
    """What ``minlength`` covers is a condition; else the length is a size of the program."""

    def count(x: flamec.Tensor, w: flamec.Tensor) -> tuple[flamec.Tensor, flamec.Tensor]:
        weights = w if weighted else None
        return flamec.bincount(x, weights, 6) * 2, flamec.bincount(x, weights) + 1

    compiled, rng = flamec.compile(count, backend="evaluate"), np.random.default_rng(0)
    for high in (4, 6, 3, 5, 2, 6, 1):
        x, w = rng.integers(0, high, 8), rng.standard_normal(8)
        x[3] = high - 1
        found = compiled(flamec.from_numpy(x), flamec.from_numpy(w))
        given = w if weighted else None
        np.testing.assert_allclose(found[0].numpy(), np.bincount(x, given, 6) * 2)
        np.testing.assert_allclose(found[1].numpy(), np.bincount(x, given) + 1)
    assert compiled.stats.traces <= 2
    assert compiled(flamec.tensor([7, 0]), flamec.ones(2, dtype=flamec.float64))[0].shape == (8,)
    with pytest.raises(RuntimeError, match="negative values"):
        compiled(flamec.tensor([1, -1]), flamec.ones(2, dtype=flamec.float64))


def test_a_trace_that_is_given_up_warns_of_nothing() -> None:
    """Traced first with the size of the first call, where the number of classes is another."""

    def loss(classes: Any, target: Any) -> Any:
        n = int(classes.max()) + 1
        counts = flamec.zeros(n).scatter_add_(0, classes, flamec.ones(classes.shape[0]))
        return flamec.nn.functional.l1_loss(counts, target)

    compiled = flamec.compile(loss, backend="evaluate")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for n in (2, 3, 4, 3):
            assert compiled(flamec.arange(n), flamec.full((n,), 1.5)).item() == 0.5
        assert not seen, seen[0].message
        compiled(flamec.tensor([0, 1, 1]), flamec.ones(1))
    assert "different to the input size ([2])" in str(seen[0].message) and len(seen) == 1
    assert (seen[0].filename, seen[0].category) == (__file__, UserWarning)
