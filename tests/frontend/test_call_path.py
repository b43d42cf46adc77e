"""The generated call: what it keeps from call to call never shows in a result."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import flamec
from flamec import nn, optim


def linear_step(backend: str = "auto"):
    """A training step whose loss and gradients are known: loss = (w * x).sum()."""
    w = nn.Parameter(flamec.ones(3))

    @flamec.compile(backend=backend)
    def step(x):
        w.grad = None
        loss = (w * x).sum()
        loss.backward()
        return loss

    return w, step


@pytest.mark.parametrize("backend", ["auto", "evaluate"])
def test_results_that_are_held_keep_their_values(backend):
    _, step = linear_step(backend)
    losses = [step(flamec.full((3,), float(i))) for i in range(6)]
    arrays = [step(flamec.full((3,), float(i))).detach().numpy() for i in range(6)]
    views = [step(flamec.full((3,), float(i))).reshape(1) for i in range(6)]
    for i in range(6):
        assert float(losses[i]) == float(arrays[i]) == float(views[i][0]) == 3.0 * i


@pytest.mark.parametrize("hold", ["tensor", "detached", "array", "view"])
def test_a_gradient_that_is_held_is_not_written_again(hold):
    w, step = linear_step()
    step(flamec.full((3,), 1.0))
    held = {
        "tensor": lambda g: g,
        "detached": lambda g: g.detach(),
        "array": lambda g: g.numpy(),
        "view": lambda g: g[1:],
    }[hold](w.grad)
    step(flamec.full((3,), 2.0))
    assert np.asarray(held).tolist() == [1.0] * len(held)
    assert w.grad.tolist() == [2.0] * 3


def test_the_memory_of_a_gradient_is_used_again_if_nobody_holds_it():
    w, step = linear_step()
    step(flamec.full((3,), 1.0))
    address, version = w.grad.data_ptr(), w.grad._version
    step(flamec.full((3,), 2.0))
    assert w.grad.data_ptr() == address and w.grad._version == version + 1
    assert w.grad.tolist() == [2.0] * 3


def test_a_call_that_fails_leaves_no_memory_behind_to_be_written():
    table = nn.Parameter(flamec.zeros(4, 2))

    @flamec.compile
    def step(rows, x):
        table.grad = None
        loss = (table[rows] * x).sum()
        loss.backward()
        return loss

    good, bad = flamec.tensor([1, 3]), flamec.tensor([1, 9])
    x = flamec.full((2, 2), 2.0)
    step(good, x)
    held = table.grad
    with pytest.raises(IndexError):
        step(bad, x)
    table.grad = held
    del held
    step(good, x)
    assert table.grad.tolist() == [[0.0, 0.0], [2.0, 2.0], [0.0, 0.0], [2.0, 2.0]]


def test_strided_arguments_and_parameters_are_read_and_written_at_each_call():
    base, kept = flamec.zeros(4, 3), flamec.zeros(2, 2)

    @flamec.compile
    def add(x):
        x += 1.0
        kept.t().add_(1.0)
        return kept * 1.0

    for count in range(1, 4):
        held = add(base.t())
        assert base.tolist() == [[float(count)] * 3] * 4
        assert held.tolist() == kept.tolist() == [[float(count)] * 2] * 2


def test_a_parameter_with_other_memory_needs_no_new_program():
    w, step = linear_step()
    x = flamec.full((3,), 1.0)
    step(x)
    for i in range(3):
        w.data = flamec.full((3,), float(i))
        assert float(step(x)) == 3.0 * i
    assert step.stats.traces == 1


def test_a_parameter_of_another_dtype_needs_a_new_program_and_the_old_one_comes_back():
    w, step = linear_step()
    x = flamec.full((3,), 1.0)
    assert step(x).dtype is flamec.float32
    single = w.data
    w.data = flamec.full((3,), 2.0, dtype=flamec.float64)
    assert step(x).dtype is flamec.float64
    w.data = single
    loss = step(x)
    assert loss.dtype is flamec.float32 and float(loss) == 3.0
    assert step.stats.traces == 2 and "float32" in step.stats.guard_failures[0].reason


def test_memory_that_an_argument_comes_to_share_with_a_parameter_is_noticed():
    total = flamec.zeros(3)

    @flamec.compile
    def accumulate(x):
        total.add_(x)
        return total + x

    x = flamec.full((3,), 1.0)
    assert accumulate(x).tolist() == [2.0] * 3
    total.data = x
    assert accumulate(x).tolist() == [4.0] * 3  # total and x are both 2 after the addition
    assert x.tolist() == [2.0] * 3


def test_versions_count_writes_to_the_memory_that_a_parameter_has_now():
    total = flamec.zeros(3)

    @flamec.compile
    def accumulate(x):
        total.add_(x)

    x = flamec.ones(3)
    accumulate(x)
    total.data = flamec.zeros(3)
    before = total._version
    accumulate(x)
    assert total._version == before + 1 and total.tolist() == [1.0] * 3


def test_numbers_are_read_at_each_call_whatever_their_type():
    w = nn.Parameter(flamec.zeros(2))
    optimizer = optim.SGD([w], lr=1.0)

    @flamec.compile
    def step():
        optimizer.zero_grad()
        w.sum().backward()
        optimizer.step()

    expected = 0.0
    for rate in (1.0, 1.0, 2, True, np.float64(0.5), 0.0, -0.0, float("nan")):
        optimizer.param_groups[0]["lr"] = rate
        step()
        expected -= rate
        np.testing.assert_array_equal(w.detach().numpy(), [expected] * 2)
    assert step.stats.traces == 1


def test_dicts_whose_keys_are_compared_together_are_told_apart():
    first, second = {"a": 1.0, "b": 2.0}, {"c": 3.0, "d": 4.0}

    @flamec.compile
    def digits(x):
        for number in (*first.values(), *second.values()):
            x = x * 10.0 + number
        return x

    zero = flamec.zeros((), dtype=flamec.float64)
    assert float(digits(zero)) == 1234
    second.clear()
    second.update(b=2.0, c=3.0, d=4.0)
    del first["b"]
    assert float(digits(zero)) == 1234
    first["e"] = first.pop("a")
    first["b"] = 5.0
    assert float(digits(zero)) == 15234
    del first["e"]
    first["e"] = 1.0
    assert float(digits(zero)) == 51234


def test_threads_that_share_a_program_do_not_share_memory():
    @flamec.compile
    def double(x):
        return x * 2.0

    double(flamec.zeros(5))
    wrong = []

    def work(number):
        x = flamec.full((5,), float(number))
        for _ in range(200):
            if double(x).tolist() != [2.0 * number] * 5:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and double.stats.traces == 1


def test_the_generated_source_can_be_read():
    _, step = linear_step()
    step(flamec.ones(3))
    source = step.programs[0].path.source
    assert "def call(leaves):" in source and "run()" in source
    assert source.count("place(0, x)") == 1 and "for " not in source
