"""Sizes and numbers that became inputs of a program are plain numbers to the user's Python: when
they are printed, hashed, returned, or asked for their types."""

from __future__ import annotations

import gc
import json
import math
import numbers
import random
import sys
import types
import warnings
import weakref

import numpy as np
import pytest

import flamec
from flamec.nn import functional as F

VALUES = (2.0, 3.0, 4.0, 2.5)


def by_match(x, k):
    match k:
        case float():
            return x * k
    return x - k


NUMBER_FUNCTIONS = {
    "isinstance": lambda x, k: x * k if isinstance(k, (int, float)) else x - k,
    "not a tensor": lambda x, k: x - k if isinstance(k, flamec.Tensor) else x * k,
    "type": lambda x, k: x * k if type(k) is float else x - k,
    "type in": lambda x, k: x * k if type(k) in (int, float) else x - k,
    "hasattr": lambda x, k: x - k if hasattr(k, "shape") else x * k,
    "getattr": lambda x, k: x - k if getattr(k, "dtype", None) else x * k,
    "callable": lambda x, k: x - k if callable(getattr(k, "detach", None)) else x * k,
    "abstract class": lambda x, k: x * k if isinstance(k, numbers.Real) else x - k,
    "method": lambda x, k: x * k if k.is_integer() else x - k,
    "in a list": lambda x, k: [x * v if isinstance(v, float) else x - v for v in [k, k + 1]][1],
    "match": by_match,
    "text": lambda x, k: (x * k, f"{k:.1f}", str(k), "%.2f" % k, repr(k)),  # noqa: UP031
    "math": lambda x, k: (x * math.sqrt(k), x * round(k), x * {2.0: 5}.get(k, 1)),
}


def with_size(function):
    return lambda x: function(x, x.shape[0])


def same(found, wanted) -> bool:
    return repr(found) == repr(wanted)


@pytest.mark.parametrize("name", NUMBER_FUNCTIONS)
def test_numbers_are_numbers(name: str) -> None:
    function = NUMBER_FUNCTIONS[name]
    compiled = flamec.compile(function, backend="evaluate")
    for value in VALUES:
        assert same(compiled(flamec.ones(2), value), function(flamec.ones(2), value)), value


def test_a_question_about_a_tensor_leaves_numbers_variable() -> None:
    def function(x, k):
        return x * k if isinstance(x, flamec.Tensor) and type(x) is not tuple else x

    compiled = flamec.compile(function, backend="evaluate")
    for value in (*VALUES, 7.0, 8.0):
        assert same(compiled(flamec.ones(2), value), flamec.ones(2) * value)
    assert compiled.stats.traces == 2


SIZE_FUNCTIONS = {
    "shape": lambda x: (x.shape, x.size(), x.shape[0] + 1, [x.shape[0]], x.shape[:1], x * 2),
    "text": lambda x: (f"{x.shape[0]:3d}", f"{x.shape}", str(x.shape), x.shape.numel(), x * 2),
    "percent": lambda x: ("%d of %s" % (x.shape[0], x.shape[1]), x * 2),  # noqa: UP031
    "key": lambda x: {2: x * 2, 3: x * 3, 4: x * 4}.get(x.shape[0], x),
    "set": lambda x: x if x.shape[0] in {3, 4} else x * 2,
    "keys made": lambda x: {x.shape[0]: x},
    "type": with_size(lambda x, n: x * 2 if isinstance(n, int) else x),
    "type itself": with_size(
        lambda x, n: (x * 2 if type(n) is int else x, type(x), type(n) is int)
    ),
    "types": with_size(
        lambda x, n: (
            type(math.sqrt(n)) is float,
            type(n / 2) in (int, float),
            type(int(n / 2)) in (int,),
        )
    ),
    "abstract class": with_size(lambda x, n: x * 2 if isinstance(n, numbers.Integral) else x),
    "length": lambda x: (x * len(x), len(x), [0] * len(x), f"{len(x)}", max(len(x), 3), x.numel()),
    "json": lambda x: (x * 2, json.dumps({"rows": x.shape[0]})),
    "bits": with_size(lambda x, n: (x * (n & 3), n & 5, n >> 1, n << 2, n | 1, 3 ^ n, ~n, 1 << n)),
    "signs": with_size(lambda x, n: (x * abs(n - 3), +n, round(n), math.floor(n), round(n, -1))),
    "division": with_size(lambda x, n: (x * divmod(n, 2)[1], divmod(7, n + 1))),
    "powers": with_size(lambda x, n: (x * 2**n, n**2, n**n, 0.5**n, (n + 1) ** -1, n**0.5)),
    "attributes": with_size(lambda x, n: (x * n.real, n.imag, n.denominator, n.bit_length())),
    "floats": with_size(lambda x, n: (x.int() * (n / 2), x.int() + n**0.5, flamec.full((), n / 2))),
    "float tensors": with_size(
        lambda x, n: (flamec.tensor(n / 2), flamec.tensor([n / 2, 1]), flamec.as_tensor(n / 3))
    ),
    "negative quotients": with_size(
        lambda x, n: (x if (n - 4) // 2 < 0 else -x, x if -9 // (n + 1) <= -3 else -x)
    ),
}


@pytest.mark.parametrize("name", SIZE_FUNCTIONS)
def test_sizes_are_integers(name: str) -> None:
    function = SIZE_FUNCTIONS[name]
    compiled = flamec.compile(function, backend="evaluate")
    for rows in (2, 3, 4, 0, 1, 5):
        x = flamec.ones(rows, 2)
        assert same(compiled(x), function(x)), rows


# what Python computes of sizes by way of floats -> how many programs there may be
ROUNDED_SIZES = {
    "ceil": (with_size(lambda x, n: x[: math.ceil(n / 4)] * 2), 2),
    "floor": (with_size(lambda x, n: x[math.floor(n * 0.7) :] * 2), 2),
    "round": (with_size(lambda x, n: x.topk(round(n * 0.5), 0)[0]), 2),
    "whole": (with_size(lambda x, n: x[: int(n * 0.5)] * 2), 2),
    "numpy": (with_size(lambda x, n: x[: int(np.ceil(n / 4))] * 2), 2),
    "padding": (with_size(lambda x, n: F.pad(x, (0, 0, 0, math.ceil(n / 8) * 8 - n))), 2),
    "parts": (with_size(lambda x, n: x.split([round(n / 3), n - round(n / 3)])[1] * 2), 2),
    "less": (with_size(lambda x, n: x * min(1.0, n / 6)), 2),
    "truth": (with_size(lambda x, n: x * 2 if n * 0.5 - 2 else x), 3),
    "value": (with_size(lambda x, n: (x * 2, n / 4, math.ceil(n / 4), -(n / 2))), 2),
    "turns": (with_size(lambda x, n: sum([x * i for i in range(math.ceil(n / 4))], x)), 5),
    "least and greatest": (
        with_size(lambda x, n: (x[: min(n, 5)] * 2, x * max(1, n // 3), min(x.shape), abs(n - 4))),
        2,
    ),
    "crop": (
        with_size(lambda x, n: x.t()[:, (n - min(n, 6)) // 2 :][:, : min(n, 6)].sum(0)),
        2,
    ),
    "last": (with_size(lambda x, n: x[max(0, n - 3) :] * max(n / 2, 2.0)), 2),
    # functions of math, NumPy and int
    "roots": (with_size(lambda x, n: (x / math.sqrt(n + 1), (n + 1) ** -0.5 * x, n**0.5)), 2),
    "logarithms": (with_size(lambda x, n: x * math.log(n + 1) / n * math.exp(-n / 3)), 3),
    "of numpy": (with_size(lambda x, n: (x * np.log1p(n), np.sqrt(n / 2), int(np.rint(n / 3)))), 2),
    "levels": (with_size(lambda x, n: x[: int(math.log2(n + 1))] * float(n)), 2),
    "squares": (
        with_size(lambda x, n: x[: math.isqrt(n) ** 2].reshape(*[math.isqrt(n)] * 2, 2)),
        2,
    ),
    "up to a power of 2": (
        with_size(
            lambda x, n: F.pad(x, (0, 0, 0, (1 << n.bit_length()) - n)) + n % (n.bit_count() + 1)
        ),
        2,
    ),
    "ranges": (
        with_size(
            lambda x, n: (flamec.arange(0, n, 0.5), x.sum() * flamec.arange(0, 1, 1 / (n + 1)))
        ),
        2,
    ),
    "permutation": (with_size(lambda x, n: x[flamec.randperm(n)].sum()), 2),
    "types": (
        with_size(lambda x, n: x * (2 if isinstance(int(n / 2), int) else math.comb(n, 2))),
        2,
    ),
    "in one": (with_size(lambda x, n: x[: int(float(int(n) / 3) + 0.5)] * (1 / float(n + 1))), 2),
    "gradient": (
        with_size(
            lambda x, n: flamec.func.grad(lambda y: (y.sin() * math.sqrt(n)).sum() * n**1.5)(x)
        ),
        2,
    ),
}


@pytest.mark.filterwarnings("ignore:.*different assumptions")
@pytest.mark.parametrize("name", ROUNDED_SIZES)
def test_sizes_that_python_rounds_are_sizes(name: str) -> None:
    function, programs = ROUNDED_SIZES[name]
    compiled = flamec.compile(function, backend="evaluate", fullgraph=True)
    for rows in (4, 9, 2, 12, 3, 8, 5, 11, 1, 0, 10):
        x = flamec.arange(2.0 * rows).reshape(-1, 2)
        assert same(compiled(x), function(x)), rows
    assert compiled.stats.traces <= programs, compiled.stats.guard_failures


def test_a_number_that_is_made_whole_varies() -> None:
    compiled = flamec.compile(lambda x, k: x * int(k / 4), backend="evaluate", fullgraph=True)
    for k in range(4, 20):
        assert compiled(flamec.ones(2), k).tolist() == [k // 4] * 2
    assert compiled.stats.traces == 2
    assert "int" not in globals()


def test_powers_of_sizes_may_be_larger_than_what_programs_take() -> None:
    compiled = flamec.compile(with_size(lambda x, n: (x[:1] * 1.0, 2**n)), backend="evaluate")
    for rows in (4, 5, 62, 63, 64, 7, 100):
        assert compiled(flamec.ones(rows))[1] == 2**rows
    assert compiled.stats.traces <= 5


class Compares:
    """The code of its method compares a class, so that it must be Python's own."""

    def called(self, n: int) -> int:
        return 2 if type(n) is int else 3


def test_code_that_compares_classes_finds_those_of_python() -> None:
    compiled = flamec.compile(
        lambda x: x[: int(len(x) / 2)] * Compares().called(5), backend="evaluate"
    )
    for rows in range(4, 12):
        assert compiled(flamec.ones(rows)).tolist() == [2.0] * (rows // 2)


def half(n):
    return int(n / 2)


def test_code_that_compares_classes_after_it_has_called_code_that_converts() -> None:
    def function(x):
        y = x * half(len(x))
        return y if type(rows) is int else -y

    compiled = flamec.compile(function, backend="evaluate")
    for rows in range(4, 8):
        assert compiled(flamec.ones(rows)).tolist() == [rows // 2] * rows


def test_stand_ins_are_no_state_of_a_module_that_is_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = types.ModuleType("module_that_converts")
    other.__file__ = "module_that_converts.py"
    exec("def half(n):\n    return int(n / 2)", vars(other))
    monkeypatch.setitem(sys.modules, other.__name__, other)

    def function(x):
        import module_that_converts  # type: ignore[import-not-found]

        return x * module_that_converts.half(len(x)) * whole(2.0)

    compiled = flamec.compile(function, backend="evaluate", dynamic=True)
    for rows in range(4, 8):
        assert compiled(flamec.ones(rows)).tolist() == [rows // 2 * 2.0] * rows
    assert compiled.stats.traces == 1 and compiled.stats.python_runs == 0
    assert "int" not in vars(other)
    held = weakref.ref(other.half)
    del sys.modules[other.__name__]
    del other, compiled
    gc.collect()
    assert held() is None


def whole(x):
    return int(x)


def test_the_greatest_of_nothing_is_the_error_that_it_is() -> None:
    def function(x):
        with pytest.raises(TypeError, match="at least 1 argument"):
            max()  # type: ignore[call-overload]
        return x + 1

    assert flamec.compile(function, backend="evaluate")(flamec.ones(1)).item() == 2


def test_numbers_of_sizes_in_programs_that_are_split_and_that_have_gradients() -> None:
    def function(x):
        scale = math.sqrt(len(x) + 1)
        y = x * scale
        return (y * 2 if y.sum().item() > 10 else y * 3) * int(len(x) / 2)

    compiled = flamec.compile(function, backend="evaluate")
    for rows in (4, 9, 2, 12, 3, 1, 8):
        x = flamec.arange(1.0 * rows)
        assert same(compiled(x), function(x)), rows
        one, two = (flamec.ones(rows, requires_grad=True) for _ in range(2))
        compiled(one).sum().backward()
        function(two).sum().backward()
        assert same(one.grad, two.grad), rows
    assert compiled.stats.traces <= 6 and compiled.stats.python_runs == 0


def test_returned_shapes_need_no_program_of_their_own() -> None:
    compiled = flamec.compile(lambda x: (x.shape, x * 2), backend="evaluate")
    for rows in range(7):
        shape, _ = compiled(flamec.ones(rows, 2))
        assert type(shape) is flamec.Size and shape == (rows, 2)
    assert compiled.stats.traces == 2


def test_a_length_needs_no_program_of_its_own() -> None:
    compiled = flamec.compile(lambda x: (x.sum() / len(x), len(x)), backend="evaluate")
    for rows in range(1, 8):
        mean, length = compiled(flamec.ones(rows, 2))
        assert mean.item() == 2.0 and type(length) is int and length == rows
    assert compiled.stats.traces == 2
    assert len.__module__ == "builtins" and len(flamec.ones(3)) == 3


@pytest.mark.parametrize("name", ["amax", "max", "argmax", "median", "quantile"])
def test_extremes_of_nothing_are_errors_where_sizes_vary(name: str) -> None:
    arguments = (0.5,) if name == "quantile" else ()
    compiled = flamec.compile(lambda x: getattr(x, name)(*arguments), backend="evaluate")
    plain = lambda x: getattr(x, name)(*arguments)  # noqa: E731
    for rows in (3, 4, 5):
        assert same(compiled(flamec.ones(rows)), plain(flamec.ones(rows)))
    if name == "median":  # of nothing it is NaN
        assert math.isnan(compiled(flamec.ones(0)).item())
        return
    with pytest.raises((IndexError, flamec.errors.OperationError)) as eager:
        plain(flamec.ones(0))
    with pytest.raises(eager.type):
        compiled(flamec.ones(0))
    assert same(compiled(flamec.ones(6)), plain(flamec.ones(6)))


class Sizes:
    def __init__(self) -> None:
        self.pair: tuple[int, int] = (0, 0)
        self.shape = flamec.Size([])
        self.named: dict[str, int] = {}
        self.count = 0
        self.nested: list[tuple[int, list[int]]] = []

    def keep(self, x: flamec.Tensor) -> flamec.Tensor:
        self.pair = (x.shape[0], 2 * x.shape[1])
        self.shape = x.shape
        self.named = dict(self.named, rows=x.shape[0])
        self.count += x.numel()
        self.nested = [(x.shape[0] + 1, [x.shape[0]])]
        return x * 2


@pytest.mark.filterwarnings("ignore:.*Python code")
def test_sizes_that_are_kept_are_integers() -> None:
    mine, plain = Sizes(), Sizes()
    compiled = flamec.compile(mine.keep, backend="evaluate")
    for rows in (2, 3, 4, 3, 5):
        compiled(flamec.ones(rows, 2))
        plain.keep(flamec.ones(rows, 2))
        assert repr(vars(mine)) == repr(vars(plain))
        assert type(mine.pair[0]) is type(mine.nested[0][0]) is type(mine.named["rows"]) is int
        assert type(mine.shape) is flamec.Size and type(mine.count) is int


COMPUTED_NUMBERS = {
    "float": lambda x: x * (2 if isinstance(x.sum().item(), float) else 3),
    "result of arithmetic": lambda x: x * (2 if isinstance(-x.sum().item() * 2, float) else 3),
    "int": lambda x: x * (2 if isinstance(x.sum().int().item(), int) else 3),
    "no float": lambda x: x * (2 if isinstance(x.sum().int().item(), float) else 3),
    "abstract class": lambda x: x * (2 if isinstance(x.sum().item(), numbers.Real) else 3),
    "match": lambda x: by_match(x, x.sum().item()),
}


@pytest.mark.parametrize("name", COMPUTED_NUMBERS)
def test_a_number_that_the_program_computes_is_a_float_or_an_int(name: str) -> None:
    function = COMPUTED_NUMBERS[name]
    compiled = flamec.compile(function, backend="evaluate", fullgraph=True)
    for start in (1.0, 2.0):
        x = flamec.arange(3.0) + start
        assert flamec.equal(compiled(x), function(x))
    assert compiled.stats.traces == 1


@pytest.mark.parametrize(
    "number",
    [np.float16(1.5), np.float32(2.1), np.float64(0.1), np.uint8(250), np.int64(3), np.bool_(True)],
    ids=lambda number: type(number).__name__,
)
def test_scalars_of_numpy(number: np.generic) -> None:
    """Dtypes, and what Python computes with them, are those of eager mode."""

    def function(x, k):
        return x * k, x + k, k * x, k * 2, (k + k) / 3, k.dtype, isinstance(k, float), k.item()

    compiled = flamec.compile(function, backend="evaluate", max_variants=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # np.uint8(250) * 2
        for value in (number, type(number)(1), number):
            for dtype in (flamec.float32, flamec.int64, flamec.float16, flamec.float64):
                x = flamec.ones(3, dtype=dtype)
                expected, found = function(x, value), compiled(x, value)
                for a, b in zip(expected, found, strict=True):
                    assert type(a) is type(b) and getattr(a, "dtype", 0) == getattr(b, "dtype", 0)
                    assert np.array_equal(np.asarray(a), np.asarray(b))
    assert compiled.stats.python_runs == 0


def in_parts(x: flamec.Tensor) -> list[flamec.Tensor]:
    return [x[i : i + 4].sum(0) for i in range(0, x.shape[0], 4)]


def backwards(x: flamec.Tensor) -> list[flamec.Tensor]:
    return [x[i] for i in range(len(x) - 1, -1, -5)]


def in_quarters(x: flamec.Tensor) -> list[flamec.Tensor]:
    part = max(x.shape[0] // 4, 1)
    return [x[i : min(i + part, len(x))].sum(0) for i in range(0, x.shape[0], part)]


def asked(x: flamec.Tensor) -> list[flamec.Tensor]:
    turns = range(0, x.shape[0], 6)
    assert isinstance(turns, range) and 6 in turns and turns[-1] % 6 == 0
    return [x * len(turns), *[x[i] for i in reversed(turns)]]


@pytest.mark.parametrize(
    ("function", "most"), [(in_parts, 15), (backwards, 7), (in_quarters, 7), (asked, 6)]
)
def test_loops_over_parts_have_a_program_for_each_number_of_parts(function, most) -> None:
    """Of 24 sizes; that the last of parts of a fixed size is a whole one may be another."""
    compiled = flamec.compile(function, backend="evaluate", max_variants=20)
    sizes = list(range(8, 32))
    random.Random(0).shuffle(sizes)
    for rows in sizes:
        x = flamec.arange(rows * 2.0).reshape(rows, 2)
        expected, found = function(x), compiled(x)
        assert len(expected) == len(found)
        assert all(map(flamec.equal, found, expected))
    assert compiled.stats.traces <= most, compiled.stats.guard_failures
