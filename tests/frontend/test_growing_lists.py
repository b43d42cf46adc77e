"""Lists and deques to which compiled functions append: one program serves all calls."""

from __future__ import annotations

import heapq
import warnings
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from plain_states import plain, same

import flamec
from flamec import nn, optim

T = flamec.Tensor
CALLS = 6


class Log:
    """What functions append to, and a model whose training they log."""

    shared: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        flamec.manual_seed(0)
        self.net = nn.Linear(3, 1, dtype=flamec.float64)
        self.optimizer = optim.SGD(self.net.parameters(), lr=0.1)
        self.losses: list[Any] = []
        self.again = self.losses
        self.other: list[Any] = []
        self.recent: deque[Any] = deque(maxlen=3)
        self.by_name: dict[str, list[Any]] = {"loss": [], "norm": []}
        self.made: defaultdict[str, list[Any]] = defaultdict(list)
        self.inside = (self.losses, 1)
        self.heap: list[Any] = []
        self.step = 0
        self.stored: Any = None
        type(self).shared = []

    def state(self) -> Any:
        parts = [self.losses, self.other, self.recent, self.by_name, dict(self.made), self.heap]
        return plain([*parts, self.step, self.stored, self.shared])


def trained(log: Log, x: T) -> T:
    log.optimizer.zero_grad()
    loss = (log.net(x) ** 2).mean()
    loss.backward()
    log.optimizer.step()
    return loss


def numbers(log: Log, x: T) -> T:
    loss = trained(log, x)
    log.losses.append(loss.item())
    return loss


def tensors(log: Log, x: T) -> T:
    loss = trained(log, x)
    log.losses.append(loss)
    log.other.append(loss.detach())
    log.shared.append(x)  # the argument itself
    return loss


def records(log: Log, x: T) -> None:
    loss = trained(log, x)
    log.losses.append({"loss": loss.item(), "step": log.step, "parts": (x.sum(), [x.mean()])})
    log.step += 1


def extended(log: Log, x: T) -> T:
    log.losses.extend([x.sum(), x.mean().item(), "end"])
    log.losses += [log.step]
    log.step += 2
    return x * 2


def in_a_deque(log: Log, x: T) -> None:
    log.recent.append(x.sum().item())
    log.recent.appendleft(x.mean())


def by_name(log: Log, x: T) -> T:
    for name, value in (("loss", x.sum()), ("norm", x.norm())):
        log.by_name[name].append(value.item())
    return x + 1


def made_at_first(log: Log, x: T) -> T:
    log.made["loss"].append(x.sum().item())
    return x + 1


def by_two_names(log: Log, x: T) -> T:
    log.losses.append(x.sum())
    log.again.append(x.mean())
    return x + 1


def cleared(log: Log, x: T) -> T:
    log.other.clear()
    log.other.append(x.sum())
    log.other.append(x.mean())
    return log.other[0] + len(log.other)


def every_third(log: Log, x: T) -> T:
    log.step += 1
    if log.step % 3 == 0:
        log.losses.append(x.sum().item())
    return x * 2


def replaced_after(log: Log, x: T) -> T:
    log.losses.append(x.sum())
    log.stored = [x.mean(), x.sum()]
    return x * 2


def summed(log: Log, x: T) -> T:
    total = x.sum()
    log.losses.append(total)
    log.other.append((total, total))
    return total


ONE_PROGRAM = [  # each with the number of traces
    (numbers, 2),
    (tensors, 2),
    (records, 2),
    (extended, 2),
    (in_a_deque, 2),
    (by_name, 2),
    (made_at_first, 3),
    (by_two_names, 2),
    (cleared, 2),
    (every_third, 4),
    (replaced_after, 2),
    (summed, 2),
]


def by_another_way(log: Log, x: T) -> T:
    log.losses.append(x.sum())
    return x * len(log.inside[0])


def counted(log: Log, x: T) -> T:
    log.losses.append(x.sum())
    return x * len(log.losses)


def last_two(log: Log, x: T) -> T:
    log.losses.append(x.sum())
    if len(log.losses) > 2:
        log.losses.pop(0)
    return sum(log.losses)


def on_a_heap(log: Log, x: T) -> T:
    heapq.heappush(log.heap, -log.step)
    log.step += 1
    return x * 2


def returned(log: Log, x: T) -> Any:
    log.losses.append(x.sum())
    return log.losses


def stored_elsewhere(log: Log, x: T) -> T:
    log.losses.append(x.sum())
    log.stored = log.losses
    return x * 2


def asked_for_its_type(log: Log, x: T) -> T:
    log.losses.append(x.sum())
    return x * 2 if type(log.losses) is list else x


def asked_for_its_class(log: Log, x: T) -> T:
    log.losses.append(x.sum())
    return x * 2 if log.losses.__class__ is list and isinstance(log.losses, list) else x


def compared(log: Log, x: T) -> T:
    log.losses.append(1)
    return x * 2 if log.losses == [1, 1] else x


def added(log: Log, x: T) -> T:
    log.losses.append(x.sum())
    found = [x.mean()] + log.losses  # noqa: RUF005 - a sum of lists is what is tested
    return sum(found, x)


def an_object(log: Log, x: T) -> T:
    log.losses.append(log.other)
    log.other.append(x.sum())
    return x * 2


OTHERS = [
    by_another_way,
    counted,
    last_two,
    on_a_heap,
    returned,
    stored_elsewhere,
    asked_for_its_type,
    asked_for_its_class,
    compared,
    added,
    an_object,
]


def run(function: Callable[[Log, T], Any], compiles: bool) -> tuple[Any, Any]:
    """Results and states of calls between which others change the lists, and the function."""
    log, found = Log(), []

    def directly(x: T) -> Any:
        return function(log, x)

    step: Any = flamec.compile(directly, backend="evaluate") if compiles else directly
    for k in range(CALLS):
        result = step(flamec.full((2, 3), 0.5 + k, dtype=flamec.float64))
        found.append((plain(result), log.state()))
        log.losses.append(0.25)
        if k == 2:
            log.losses.clear()
            log.recent.clear()
        if k == 3:
            log.losses = log.again = []
            log.inside = (log.losses, 1)
    return found, step


@pytest.mark.parametrize(("function", "traces"), ONE_PROGRAM)
def test_what_only_grows_has_one_program(function: Callable[..., Any], traces: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eager, _ = run(function, False)
        compiled, step = run(function, True)
    for one, other in zip(compiled, eager, strict=True):
        same(one, other)
    assert step.stats.traces == traces
    assert step.stats.python_runs == (1 if function is made_at_first else 0)


@pytest.mark.parametrize("function", OTHERS)
def test_what_is_read_as_well_is_as_in_eager_mode(function: Callable[..., Any]) -> None:
    eager, _ = run(function, False)
    compiled, _ = run(function, True)
    for one, other in zip(compiled, eager, strict=True):
        same(one, other)


def test_two_places_of_one_list_that_become_two_lists() -> None:
    log = Log()
    step = flamec.compile(lambda x: by_two_names(log, x), backend="evaluate")
    x = flamec.ones(2, dtype=flamec.float64)
    for _ in range(3):
        step(x)
    log.losses, log.again = [], []
    step(x)
    assert len(log.losses) == len(log.again) == 1
    log.again = log.losses
    step(x)
    assert len(log.losses) == 3


def test_the_list_may_be_an_argument_too() -> None:
    log = Log()

    def step(x: T, also: list[Any]) -> T:
        log.losses.append(x.sum())
        return x * (1 + len(also))

    compiled = flamec.compile(step, backend="evaluate")
    x = flamec.ones(2)
    assert [compiled(x, []).tolist() for _ in range(3)] == [[1.0, 1.0]] * 3
    log.losses.clear()
    compiled(x, log.losses)  # not the program that takes them for two lists
    assert len(log.losses) == 1


def test_what_was_appended_before_an_error_stays_once() -> None:
    log = Log()

    @flamec.compile(backend="evaluate")
    def step(x: T) -> None:
        log.losses.append(x.sum())
        if x.shape[0] == 3:
            raise ValueError("three")

    for n in (1, 2, 4):
        step(flamec.ones(n))
    with pytest.raises(ValueError, match="three"):
        step(flamec.ones(3))
    assert [v.item() for v in log.losses] == [1, 2, 4, 3]


def test_the_same_tensor_is_appended_stored_and_returned() -> None:
    log = Log()

    @flamec.compile(backend="evaluate")
    def step(x: T) -> T:
        y = x * 2
        log.losses.append(y)
        log.other.append([y])
        log.stored = y
        return y

    for _ in range(3):
        y = step(flamec.ones(2))
        assert log.losses[-1] is y and log.other[-1][0] is y and log.stored is y
    assert step.stats.python_runs == 0


def test_gradients_flow_through_what_was_appended() -> None:
    weight = flamec.tensor([1.0, 2.0], requires_grad=True)
    outputs: list[T] = []

    @flamec.compile(backend="evaluate")
    def step(x: T) -> None:
        outputs.append((x * weight).sum())

    for k in range(3):
        step(flamec.full((2,), float(k)))
    sum(outputs).backward()
    assert weight.grad.tolist() == [3.0, 3.0] and step.stats.traces == 2


def test_a_list_that_hooks_append_to() -> None:
    norms: list[float] = []
    weight = flamec.tensor([1.0, 2.0], requires_grad=True)

    def hook(gradient: T) -> T:
        norms.append(gradient.norm().item())
        return gradient * 2

    @flamec.compile(backend="evaluate")
    def step(x: T) -> T:
        y = x * weight
        y.register_hook(hook)
        return y.sum()

    for _ in range(5):
        step(flamec.ones(2)).backward()
    assert norms == pytest.approx([2**0.5] * 5) and weight.grad.tolist() == [10.0, 10.0]
    assert step.stats.traces <= 3


def test_what_is_in_a_list_that_others_append_to() -> None:
    """A trace that takes the list for one that only grows, and finds that it is read, begins again
    before the function changes what is in it."""
    seen = []
    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        weight = flamec.ones(3).requires_grad_()
        optimizer = flamec.optim.SGD([weight], lr=1.0)
        counts = [{"n": 1}]

        def step(x: T, counts: list[Any] = counts, optimizer: Any = optimizer) -> T:
            optimizer.param_groups[0]["lr"] *= 0.5
            counts[0]["n"] += 1
            return x * counts[0]["n"]

        wrapped, found = wrap(step), []
        for _ in range(4):
            result = wrapped(flamec.ones(2))
            found.append((result.tolist(), counts[0]["n"], optimizer.param_groups[0]["lr"]))
            optimizer.add_param_group({"params": [flamec.ones(3).requires_grad_()], "lr": 1.0})
            counts.append({"n": 0})
        seen.append(found)
    assert seen[0] == seen[1]
