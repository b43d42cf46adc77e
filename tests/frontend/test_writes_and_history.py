"""Writes and autograd: histories, versions, detached memory; eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import Tensor, autograd

Function = Callable[[Tensor], Tensor]
EITHER = pytest.mark.parametrize("wrap", [lambda f: f, flamec.compile], ids=["eager", "compiled"])


def gradient(function: Function, wrap: Callable[[Function], Function]) -> list[float]:
    """The gradient of a function of three ones; backward runs inside and outside of it."""
    w = flamec.ones(3, requires_grad=True)
    wrap(function)(w).backward()
    outside = w.grad.tolist()
    w.grad = None

    def whole(w: Tensor) -> Tensor:
        loss = function(w)
        loss.backward()
        return loss

    wrap(whole)(w)
    assert w.grad.tolist() == outside
    return outside


@EITHER
def test_what_no_grad_computes_is_constant(wrap: Any) -> None:
    def function(w: Tensor) -> Tensor:
        with flamec.no_grad():
            z = w * 2
        return (w * z).sum()

    assert gradient(function, wrap) == [2.0, 2.0, 2.0]


@EITHER
def test_a_write_without_recording_keeps_the_history(wrap: Any) -> None:
    def by_no_grad(w: Tensor) -> Tensor:
        y = w * 1.0
        with flamec.no_grad():
            y.mul_(3.0)
        return (y * y).sum()

    def by_detach(w: Tensor) -> Tensor:
        y = w * 1.0
        y.detach()[0] = 3.0
        return (y * y).sum()

    assert gradient(by_no_grad, wrap) == [6.0, 6.0, 6.0]
    assert gradient(by_detach, wrap) == [6.0, 2.0, 2.0]


@EITHER
def test_copy_has_a_gradient_of_its_own(wrap: Any) -> None:
    def function(w: Tensor) -> Tensor:
        y = flamec.zeros(3)
        y.copy_(w)
        return flamec.autograd.grad((y * 3.0 + w * 2.0).sum(), y)[0]

    assert wrap(function)(flamec.ones(3, requires_grad=True)).tolist() == [3.0, 3.0, 3.0]


@EITHER
def test_a_copied_parameter_stays_its_own_leaf(wrap: Any) -> None:
    source, target = (flamec.ones(2, requires_grad=True) for _ in range(2))

    def step() -> Tensor:
        with flamec.no_grad():
            target.copy_(source)
        loss = (source * 2.0 + target * 5.0).sum()
        loss.backward()
        return loss

    wrap(step)()
    assert source.grad.tolist() == [2.0, 2.0]
    assert target.grad.tolist() == [5.0, 5.0]


@EITHER
def test_data_of_a_leaf_can_be_changed(wrap: Any) -> None:
    w = flamec.ones(3, requires_grad=True)

    def step() -> None:
        w.data.mul_(2.0)
        w.detach()[0] = 7.0

    wrap(step)()
    assert w.tolist() == [7.0, 2.0, 2.0]
    assert w.is_leaf


@EITHER
def test_leaves_refuse_recorded_writes(wrap: Any) -> None:
    w = flamec.ones(3, requires_grad=True)
    for change in (
        lambda w: w.mul_(2.0),
        lambda w: w[1:].zero_(),
        lambda w: w.__setitem__(0, 1.0),
    ):
        with pytest.raises(RuntimeError, match=r"leaf tensor that requires grad.*no_grad"):
            wrap(change)(w)


@EITHER
def test_gradients_through_a_chain_of_views(wrap: Any) -> None:
    def function(w: Tensor) -> Tensor:
        y = flamec.zeros(2, 3)
        row = y[1]
        row[:] = w
        y.t()[0] += w[0] * 2.0
        row.mul_(2.0)
        return (y * flamec.arange(6.0).reshape(2, 3)).sum()

    # y = [[2 w0, 0, 0], [2 (w0 + 2 w0), 2 w1, 2 w2]]
    assert gradient(function, wrap) == [18.0, 8.0, 10.0]


def test_changed_saved_value_names_both_lines() -> None:
    x = flamec.ones(3, requires_grad=True)
    y = x * 1.0
    z = y * y
    y.add_(1.0)
    lines = _line_numbers("z = y * y", "y.add_(1.0)")
    with pytest.raises(RuntimeError, match="version 1, expected version 0") as caught:
        z.sum().backward()
    for line in lines:
        assert f"test_writes_and_history.py:{line}" in str(caught.value)


def _line_numbers(*texts: str) -> list[int]:
    lines = [line.strip() for line in Path(__file__).read_text(encoding="utf-8").splitlines()]
    return [lines.index(text) + 1 for text in texts]


def test_a_value_that_no_gradient_reads_may_change() -> None:
    w = flamec.ones(3, requires_grad=True)
    x = flamec.ones(3)
    y = w * 2.0
    z = y * 3.0 + x
    y.add_(1.0)
    x.zero_()
    z.sum().backward()
    assert w.grad.tolist() == [6.0, 6.0, 6.0]


def test_views_made_without_recording_stay_cut_off() -> None:
    y = flamec.ones(3, requires_grad=True) * 2.0
    with flamec.no_grad():
        view = y[:2]
    assert not view.requires_grad
    view.fill_(5.0)
    assert y.tolist() == [5.0, 5.0, 2.0]


@EITHER
@pytest.mark.parametrize(
    "other", ["zero_", "fill_", "copy_", "copy_ tracked", "round_", "uniform_"]
)
def test_what_is_overwritten_gets_a_gradient_of_zero(other: str, wrap: Any) -> None:
    z = flamec.ones(3).requires_grad_()

    def function(w: Tensor) -> Tensor:
        y = w * 2.0
        match other:
            case "fill_":
                y.fill_(3.0)
            case "copy_":
                y.copy_(flamec.ones(3))
            case "copy_ tracked":
                y.copy_(z * 5.0)
            case _:
                getattr(y, other)()
        assert y.requires_grad
        return (y * y).sum()

    assert gradient(function, wrap) == [0.0, 0.0, 0.0]
    if other == "copy_ tracked":
        assert z.grad is not None and z.grad.tolist() == [100.0] * 3  # twice 50


@EITHER
def test_detach_in_place_cuts_off(wrap: Any) -> None:
    def function(w: Tensor) -> Tensor:
        y = w * 2.0
        y.detach_()
        return (y * w * 3.0).sum()

    assert gradient(function, wrap) == [6.0, 6.0, 6.0]


def test_detach_in_place() -> None:
    y = flamec.ones(3, requires_grad=True) * 2.0
    assert y.detach_() is y
    assert not y.requires_grad
    assert y.is_leaf
    with pytest.raises(RuntimeError, match="views"):
        (flamec.ones(3, requires_grad=True) * 2.0)[1:].detach_()


def test_read_only_memory_is_refused() -> None:
    array = np.ones(3)
    array.flags.writeable = False
    x = flamec.from_numpy(array)
    with pytest.raises(RuntimeError, match="read-only"):
        x.add_(1.0)
    assert x.clone().add_(1.0).tolist() == [2.0, 2.0, 2.0]


def test_versions_count_writes_of_every_view() -> None:
    x = flamec.zeros(4)
    view = x[1:].reshape(3, 1)
    view.add_(1.0)
    x.zero_()
    assert x._version == view._version == 2


@EITHER
@pytest.mark.parametrize("part", [slice(None), slice(0, 1)], ids=["whole", "part"])
def test_a_leaf_changed_between_its_uses_has_one_gradient(wrap: Any, part: slice) -> None:
    """d/dw of 3 w + 4 w + (w')^2, where w' is w scaled, or a part of it, unseen by autograd."""

    def function(w: Tensor) -> Tensor:
        first = (w * 3.0).sum()
        with flamec.no_grad():
            w[part].mul_(0.5)
        second = (w * 4.0).sum()
        w.data[part].mul_(4.0)
        return first + second + (w * 0.5 * w.detach()).sum()

    outside = flamec.ones(3, requires_grad=True)
    wrap(function)(outside).backward()
    expected = 7.0 + 0.5 * outside.detach().numpy()
    np.testing.assert_allclose(outside.grad.numpy(), expected, rtol=1e-6)

    def whole(w: Tensor) -> Tensor:
        loss = function(w)
        loss.backward()
        return loss

    inside = flamec.ones(3, requires_grad=True)
    wrap(whole)(inside)
    np.testing.assert_allclose(inside.grad.numpy(), expected, rtol=1e-6)
    by_grad = flamec.ones(3, requires_grad=True)
    (found,) = wrap(lambda w: flamec.autograd.grad(function(w), w))(by_grad)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@EITHER
def test_the_gradient_of_a_captured_leaf_that_was_changed(wrap: Any) -> None:
    leaf = flamec.tensor([1.0, 2.0, 4.0], requires_grad=True)
    leaf.register_hook(lambda gradient: gradient * 2.0)

    def outside(x: Tensor) -> Tensor:
        with flamec.no_grad():
            leaf.mul_(0.5)
        return x * leaf

    x = flamec.tensor([3.0, 5.0, 7.0])
    wrap(outside)(x).sum().backward()
    assert leaf.grad.tolist() == [6.0, 10.0, 14.0]
    leaf.grad = None

    def inside(x: Tensor) -> None:
        first = (x * leaf).sum()
        with flamec.no_grad():
            leaf.mul_(0.5)
        (first + (x * leaf).sum()).backward()

    wrap(inside)(x)
    assert leaf.grad.tolist() == [12.0, 20.0, 28.0]


@EITHER
def test_a_changed_leaf_that_the_result_does_not_use_gets_no_gradient(wrap: Any) -> None:
    changed, used = (flamec.ones(3, requires_grad=True) for _ in range(2))

    def function(x: Tensor) -> Tensor:
        with flamec.no_grad():
            changed.mul_(0.5)
        return (x * used).sum()

    wrap(function)(flamec.ones(3)).backward()
    assert changed.grad is None
    assert used.grad.tolist() == [1.0, 1.0, 1.0]


@EITHER
def test_writing_to_all_of_an_expanded_tensor_is_an_error(wrap: Any) -> None:
    captured = flamec.ones(1, 3).expand(4, 3)

    def of_argument(x: Tensor) -> Tensor:
        return x.mul_(0.5)

    def of_captured(x: Tensor) -> Tensor:
        return x + captured.mul_(0.5)

    def inside(x: Tensor) -> Tensor:
        return (x[:1] * 1.0).expand(4, 3).mul_(0.5)

    def of_view(x: Tensor) -> Tensor:
        return x[1:].t().mul_(0.5)

    wide = flamec.ones(1, 3).expand(4, 3)
    for function in (of_argument, of_captured, inside, of_view):
        with pytest.raises(RuntimeError, match=r"mul_.*share one place.*clone\(\).*history\.py"):
            wrap(function)(wide)
    assert wide.tolist() == [[1.0] * 3] * 4

    def rows(x: Tensor) -> Tensor:
        x[0].mul_(0.5)
        return x.sum()

    assert wrap(rows)(wide).item() == 6.0
    assert wrap(of_argument)(flamec.ones(3).expand(1, 3)).tolist() == [[0.5] * 3]


@pytest.mark.parametrize("dynamic", [None, True])
def test_only_sizes_that_overlap_refuse_a_write_to_an_expanded_tensor(dynamic: Any) -> None:
    @flamec.compile(dynamic=dynamic)
    def function(x: Tensor, row: Tensor) -> Tensor:
        wide = (row * 1.0).expand(x.shape[0], 3)
        return wide.add_(x)

    row = flamec.ones(1, 3)
    for count in (1, 2, 1, 3):
        x = flamec.ones(count, 3)
        if count == 1:
            assert function(x, row).tolist() == [[2.0] * 3]
        else:
            with pytest.raises(RuntimeError, match="share one place"):
                function(x, row)


@pytest.mark.parametrize("splits", [False, True])
def test_an_expanded_argument_after_a_plain_one_is_written_as_it_is(splits: bool) -> None:
    def first_row(x: Tensor) -> Tensor:
        h = x * 2.0
        x[0] = 1.0
        return h * h.mean().item() if splits else h

    compiled = flamec.compile(first_row)
    for expand in (False, True, False, True):
        mine, its = (flamec.tensor([[2.0, 3.0, 4.0]]) for _ in range(2))
        x, y = (t.expand(4, 3) if expand else t.repeat(4, 1) for t in (mine, its))
        np.testing.assert_allclose(compiled(y).numpy(), first_row(x).numpy(), rtol=1e-6)
        assert y.tolist() == x.tolist()

    whole = flamec.compile(lambda x: x.mul_(0.5))
    assert whole(flamec.ones(4, 3)).tolist() == [[0.5] * 3] * 4
    with pytest.raises(RuntimeError, match="share one place"):
        whole(flamec.ones(1, 3).expand(4, 3))


@pytest.mark.parametrize("create_graph", [False, True])
def test_an_input_that_changes_after_the_call(create_graph: bool) -> None:
    """An error where the gradient needs it, as in eager mode, else nothing: also of a pass that
    replays the call (``create_graph``)."""

    def gradient(wrap: Any, changed: int) -> list[float]:
        inputs = [flamec.tensor([k + 1.0, k + 2.0], requires_grad=True) for k in range(3)]
        result = wrap(lambda x, w, b: (x * x * w + b).sum())(*inputs)
        with flamec.no_grad():
            inputs[changed].mul_(2)
        return flamec.autograd.grad(result, inputs[0], create_graph=create_graph)[0].tolist()

    for wrap in (lambda f: f, lambda f: flamec.compile(f, backend="evaluate")):
        for changed in (0, 1):
            with pytest.raises(RuntimeError, match="was changed in place"):
                gradient(wrap, changed)
        assert gradient(wrap, 2) == [4.0, 12.0]


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_behind_detach_has_a_history_of_its_own(compiled: bool) -> None:
    def through_a_view(x: Any, y: Any) -> Any:
        part = x.detach()
        part[1:] = y[1:] * 2
        return part * 3

    def returned(x: Any, y: Any) -> Any:
        return x.detach().mul_(y)

    for function, want in ((through_a_view, [0, 6, 6]), (returned, [1, 2, 3])):
        x = flamec.tensor([1.0, 2.0, 3.0], requires_grad=True)
        y = flamec.tensor([4.0, 5.0, 6.0], requires_grad=True)
        (flamec.compile(function) if compiled else function)(x, y).sum().backward()
        assert y.grad.tolist() == want and x.grad is None


@EITHER
def test_a_leaf_that_is_a_view_is_one_leaf_when_its_memory_is_written(wrap: Any) -> None:
    def function(w: Tensor) -> Tensor:
        memory = w * 1
        part = memory[1:].requires_grad_()
        before = (part * 3).sum()
        memory.mul_(2)
        (found,) = autograd.grad(before + (part * part.detach()).sum(), part)
        return found

    assert wrap(function)(flamec.tensor([1.0, 2.0, 3.0])).tolist() == [7.0, 9.0]
