"""Arguments that are views of one memory: windows of a sequence are inputs like any others, unless
the function writes to them."""

from __future__ import annotations

from typing import Any

import pytest

import flamec


def _written(x, y):
    x.add_(1)
    return y * 2


def _written_late(x, y):
    z = x * y
    y[1:3] = z[:2]
    return x + z


READING = {
    "product": lambda x, y: x * y,
    "returned": lambda x, y: (x, y[1:], x * 2),
    "identity": lambda x, y: x * 2 if x is y else x + y,
    "branch": lambda x, y: x * 2 if x.sum() > 40 else y * 3,
    "gradient": lambda x, y: flamec.func.grad(lambda v: (v * y).sum())(x),
}
WRITING = {
    "written": _written,
    "written late": _written_late,
    "both": lambda x, y: (x.add_(y), y.mul_(x))[0] * 1,
}


def _windows(n: int) -> list[flamec.Tensor]:
    data = flamec.arange(24.0)
    return [data, data[n : n + 4], data[n + 1 : n + 5], data.view(6, 4)[n], data[:4]]


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple):
        return all(_same(f, w) for f, w in zip(found, wanted, strict=True))
    return flamec.equal(found, wanted)


@pytest.mark.parametrize("name", [*READING, *WRITING])
def test_views_of_one_memory(name: str) -> None:
    function = {**READING, **WRITING}[name]
    compiled = flamec.compile(function, backend="evaluate", max_variants=100)
    for n in range(4):
        for first in range(1, 5):
            for second in range(1, 5):
                mine, eager = _windows(n), _windows(n)
                found = compiled(mine[first], mine[second])
                assert _same(found, function(eager[first], eager[second])), (n, first, second)
                assert flamec.equal(mine[0], eager[0]), (n, first, second)
                if name == "returned":
                    assert found[1].data_ptr() == mine[second].data_ptr() + 4


@pytest.mark.parametrize("name", READING)
def test_windows_take_one_program(name: str) -> None:
    compiled = flamec.compile(READING[name], backend="evaluate")
    sequence = flamec.arange(40.0)
    for start in range(0, 30, 3):
        compiled(sequence[start : start + 4], sequence[start + 1 : start + 5])
    assert compiled.stats.traces == (2 if name == "branch" else 1)


def test_windows_of_any_length() -> None:
    compiled = flamec.compile(READING["product"], backend="evaluate")
    sequence = flamec.arange(40.0)
    for start in range(10):
        x, y = sequence[start : start + start + 2], sequence[start + 1 : start + start + 3]
        assert flamec.equal(compiled(x, y), x * y)
    assert compiled.stats.traces == 2


def test_a_tensor_that_is_given_twice_takes_one_program_for_all_sizes() -> None:
    compiled = flamec.compile(READING["product"], backend="evaluate")
    for size in (3, 5, 1, 0, 7):
        x = flamec.arange(size + 2.0)[1:]
        assert flamec.equal(compiled(x, x), x * x)
    assert compiled.stats.traces == 2, compiled.stats.guard_failures


@pytest.mark.parametrize("dynamic", [None, True])
def test_a_tensor_given_twice_where_two_of_other_sizes_were_before(dynamic: bool | None) -> None:
    def function(x, y, box):
        return (x.sum() + y.sum()) * box[0].shape[0] + box[0].sum()

    compiled = flamec.compile(function, backend="evaluate", dynamic=dynamic)
    for sizes, names in [
        ((3, 4, 5), "xyz"),
        ((5, 6, 7), "xxx"),
        ((2, 9, 7), "xyy"),
        ((8, 4, 1), "xyx"),
        ((3, 3, 3), "xyz"),
        ((0, 3, 2), "xxy"),
        ((1, 1, 1), "xxx"),
    ]:
        tensors = dict(zip("xyz", map(flamec.ones, sizes), strict=True))
        x, y, z = (tensors[name] for name in names)
        assert flamec.equal(compiled(x, y, [z]), function(x, y, [z])), (sizes, names)


def test_a_captured_tensor_in_the_memory_of_two_arguments() -> None:
    sequence = flamec.arange(12.0)
    head = sequence[:4]

    def function(x, y):
        head.add_(1)
        return x * y + head

    compiled = flamec.compile(function, backend="evaluate")
    other = sequence.clone()
    for start in range(3):
        found = compiled(sequence[start : start + 4], sequence[start + 1 : start + 5])
        other[:4] += 1
        wanted = other[start : start + 4] * other[start + 1 : start + 5] + other[:4]
        assert flamec.equal(found, wanted)
        assert flamec.equal(sequence, other)


@pytest.mark.parametrize("twice", [False, True])
def test_the_layout_of_a_captured_view_of_an_arguments_memory(twice: bool) -> None:
    matrix = flamec.arange(12.0).reshape(4, 3)
    row = matrix[1]

    def function(x, y, box):
        return x * row.stride(0) + y * row.storage_offset() + box[0]

    compiled = flamec.compile(function, backend="evaluate")
    for start in range(3):
        arguments = matrix[start : start + 2], row, [row if twice else flamec.ones(3)]
        assert flamec.equal(compiled(*arguments), function(*arguments))
