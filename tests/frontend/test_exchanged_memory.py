"""``tensor.data = other`` in compiled functions: the same as eager, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import flamec
from flamec import nn


class World:
    """A parameter, its moving average, and a place for what the functions keep."""

    def __init__(self) -> None:
        self.p = nn.Parameter(flamec.tensor([1.0, 2.0]))
        self.average = flamec.tensor([10.0, 20.0])
        self.view = self.p.detach()
        self.kept: Any = None

    def values(self) -> list[Any]:
        kept = None if self.kept is None else self.kept.tolist()
        return [self.p.tolist(), self.average.tolist(), self.view.tolist(), kept]


def scaled(w: World) -> Any:
    w.p.data = w.p.data * 1.5
    return (w.p * 2).sum()


def itself(w: World) -> Any:
    w.p.data = w.p.data
    w.p.data.mul_(3)
    return w.p.sum()


def kept_copy(w: World) -> Any:
    old = w.p.data.clone()
    w.p.data = old * 2
    w.p.mul_(3)
    w.p.data = old
    w.p.add_(1)
    return old * 1, w.p * 1


def kept_in_a_place(w: World) -> Any:
    old = w.p.data.clone()
    half = old[:1]
    w.p.add_(5)
    w.p.data = old
    w.p.mul_(2)
    w.kept = old
    return half * 1


def history_of_the_old_memory(w: World) -> Any:
    part, old = w.p[:1], w.p.data
    w.p.data = old * 2
    w.p.data = old
    w.p.grad = None
    (part * 3).sum().backward()
    return w.p.grad, old * 1


def with_gradient(w: World) -> Any:
    w.p.data = (w.p - 0.5).detach()
    loss = (w.p * w.p).sum()
    loss.backward()
    return loss.detach(), w.p.grad


def part_of_another(w: World) -> Any:
    both = flamec.stack([w.p, w.p * 2])
    w.p.data = both[1]
    result = both.sum() + w.p
    w.p.data = (both * 3)[0]
    w.p.add_(1)
    return result, both.sum() + w.p


def recorded(w: World) -> Any:
    with flamec.enable_grad():
        y = w.p * 3
    w.p.data = y
    return y.sum() + w.p


def written_constant(w: World) -> Any:
    constant = flamec.tensor([1.0, 2.0])
    w.p.data = constant
    w.p.mul_(2)
    return constant * 1


def moving_average(w: World) -> Any:
    old, new = w.p.data, w.average.data
    w.p.data = old * 0.5 + new * 0.5
    return w.p.sum()


def old_part(w: World) -> Any:
    first = w.p.detach()[:1]
    w.p.data = w.p.data * 2
    return first + w.p


def old_memory_written(w: World) -> Any:
    old = w.p.data
    first = old[:1]
    w.p.data = old * 2
    first.mul_(10)
    w.p.add_(1)
    return old, first * 1, w.p * 1


def old_memory_again(w: World) -> Any:
    backup = w.p.data
    w.p.data = w.p.data * 3
    result = w.p.sum()
    w.p.data = backup
    w.p.add_(1)
    return result, backup * 1


@pytest.mark.filterwarnings("ignore:.*Python code")
@pytest.mark.parametrize(
    "f",
    [
        moving_average,
        old_part,
        old_memory_written,
        old_memory_again,
        scaled,
        itself,
        kept_copy,
        kept_in_a_place,
        with_gradient,
        history_of_the_old_memory,
        part_of_another,
        recorded,
        written_constant,
    ],
)
def test_memory_made_in_the_function_is_shared_as_in_eager_mode(f: Callable[..., Any]) -> None:
    found = []
    for compiled in (False, True):
        world, results = World(), []

        def step(world: World = world) -> Any:
            if f in (with_gradient, history_of_the_old_memory):
                return f(world)
            with flamec.no_grad():
                return f(world)

        run = flamec.compile(step) if compiled else step
        for _ in range(4):
            value = run()
            results.append([v.tolist() for v in (value if isinstance(value, tuple) else (value,))])
        if f is kept_in_a_place:
            assert world.kept.data_ptr() == world.p.data_ptr() and not world.kept.requires_grad
        if compiled and f in (scaled, itself, moving_average, old_memory_again):
            assert run.stats.traces == 1
        world.view = world.p.detach()  # whether an old view sees the new values is not compared
        found.append((results, world.values()))
    assert found[0] == found[1]


def written_as_a_part(w: World) -> Any:
    both = flamec.stack([w.p, w.p * 2])
    w.p.data = both[1]
    w.p.mul_(2)
    return both.sum()


def written_as_the_whole(w: World) -> Any:
    both = flamec.stack([w.p, w.p * 2])
    w.p.data = both[1]
    both.mul_(2)
    return w.p.sum()


def written_before_another(w: World) -> Any:
    both = flamec.stack([w.p, w.p * 2])
    w.p.data = both[1]
    w.p.mul_(2)
    w.p.data = w.p * 2
    return both.sum()


def evaluated_with_the_average(w: World) -> Any:
    backup = w.p.data
    w.p.data = w.average
    result = w.p.sum()
    w.p.data = backup
    return result


def exchanged(w: World) -> Any:
    w.p.data, w.average.data = w.average.data, w.p.data
    return w.p.sum()


def tied(w: World) -> Any:
    w.p.data = w.average
    w.average.mul_(2)
    return w.p.sum()


def old_view_before(w: World) -> Any:
    before = w.view.sum()
    w.p.data = w.p.data * 2
    return before + w.p


def old_view_after(w: World) -> Any:
    w.p.data = w.p.data * 2
    return w.view + w.p


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (evaluated_with_the_average, "memory that was made outside"),
        (exchanged, "memory that was made outside"),
        (tied, "memory that was made outside"),
        (old_view_before, "share the old memory, and would keep it"),
        (old_view_after, "is used that has the memory from before"),
        (written_as_a_part, "other memory was written"),
        (written_as_the_whole, "other memory was written"),
        (written_before_another, "other memory was written"),
    ],
)
def test_an_exchange_that_is_no_write_is_refused_and_changes_nothing(f: Any, why: str) -> None:
    world = World()
    before = world.values()

    @flamec.compile
    def step() -> Any:
        with flamec.no_grad():
            return f(world)

    for _ in range(2):
        with pytest.raises(flamec.errors.CompileError, match=why) as caught:
            step()
        assert __file__ in str(caught.value) and "copy_()" in str(caught.value)
        assert world.values() == before
    with flamec.no_grad():
        f(world)  # as it stands it works


def test_an_argument_in_the_memory_of_another_keeps_it() -> None:
    @flamec.compile
    def step(p: Any, view: Any) -> Any:
        p.data = p.data * 2
        return view * 1

    p = flamec.tensor([1.0, 2.0])
    with pytest.raises(flamec.errors.CompileError, match="would keep it"):
        step(p, p[:])
    assert p.tolist() == [1.0, 2.0]
    assert step(p, flamec.ones(2)).tolist() == [1.0, 1.0] and p.tolist() == [2.0, 4.0]
