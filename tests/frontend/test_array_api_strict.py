"""``flamec.array_api`` function by function against ``array_api_strict``, the standard's own model.

Every function and operator is called for all dtypes, pairs of dtypes, numbers in the place of an
array, shapes that are broadcast, and options. What strict refuses is not asked.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

from flamec import array_api

strict = pytest.importorskip("array_api_strict")

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "float32", "float64")
OPTIONS: list[dict[str, Any]] = [
    {"axis": 0},
    {"axis": -1, "keepdims": True},
    {"axis": (0, 1)},
    {"axis": 1, "dtype": "float64"},
    {"axis": 0, "descending": True},
    {"axis": 1, "stable": True},
    {"axis": 0, "n": 2},
    {"correction": 1},
    {"axis": 0, "include_initial": True},
    {"k": 1},
    {"shift": 2},
    {"shift": (1, -1), "axis": (0, 1)},
    {"upper": True},
    {"ord": 1},
    {"ord": "fro"},
    {"offset": 1},
    {"rtol": 1e-3},
]
SKIPPED = {  # other tests: results are not arrays, not determined, or need other arguments
    "asarray", "arange", "astype", "empty", "empty_like", "finfo", "from_dlpack", "iinfo",
    "can_cast",
}  # fmt: skip
OF_FLOATS = {
    "cholesky", "det", "eigvalsh", "inv", "matrix_norm", "matrix_rank", "pinv", "slogdet", "solve",
    "svdvals", "vector_norm",
}  # fmt: skip
DECOMPOSITIONS = {"svd", "qr", "eigh", "eig", "eigvals"}  # signs may differ; tests of their own


def array(dtype: str, shape: tuple[int, ...] = (3, 4)) -> np.ndarray:
    generator = np.random.default_rng(len(shape))
    if dtype == "bool":
        return np.asarray(generator.integers(0, 2, shape), bool)
    if dtype.startswith("float"):
        values = generator.uniform(0.1, 0.9, shape)
        if shape[-2:] == (3, 3):  # definite, for what asks for that
            values = values @ np.swapaxes(values, -1, -2) + np.eye(3)
        return np.asarray(values, dtype)
    return np.asarray(generator.integers(1, 6, shape), dtype)


def options_of(function: Any, rank: int) -> Iterator[dict[str, Any]]:
    yield {}
    for options in OPTIONS if rank else ():
        if set(options) <= set(inspect.signature(function).parameters):
            yield options


def calls(module: Any) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Calls of the functions of a namespace: name, arguments, options."""
    for name, function in vars(module).items():
        if name.startswith("_") or name in SKIPPED | DECOMPOSITIONS:
            continue
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters.values()
        count = sum(p.kind is p.POSITIONAL_ONLY for p in parameters)
        if count == 1:
            for dtype, shape in product(DTYPES, ((3, 4), (), (0, 3), (3, 3), (2, 3, 3))):
                for options in options_of(function, len(shape)):
                    yield name, (array(dtype, shape),), options
        elif count == 2:
            for first, second in product(DTYPES, DTYPES):
                yield name, (array(first), array(second)), {}
                yield name, (array(first), array(second, ())), {}
                yield name, (array(first, (3, 1, 4)), array(second, (4, 1))), {}
                yield name, (array(first, (3, 3)), array(second, (3, 3))), {}
            for dtype, number in product(DTYPES, (True, 2, 0.5)):
                yield name, (array(dtype), number), {}
                yield name, (number, array(dtype)), {}


def converted(package: Any, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return package.asarray(value.copy())
    return getattr(package, value) if value in ("float64",) else value


def result(package: Any, function: Any, args: Any, options: Any) -> Any:
    given = {k: converted(package, v) if k == "dtype" else v for k, v in options.items()}
    return function(*(converted(package, a) for a in args), **given)


def plain(value: Any) -> Any:
    """A result as arrays and Python's values, with the names of its fields."""
    if isinstance(value, (tuple, list)):
        return [getattr(value, "_fields", None), *map(plain, value)]
    inner = getattr(value, "_array", None)
    if isinstance(inner, np.ndarray):
        return inner
    if hasattr(value, "__array_namespace__"):
        return value.numpy()
    return str(value).rsplit(".", maxsplit=1)[-1]


def known(name: str, args: tuple[Any, ...], wanted: Any, found: Any) -> bool:
    """Whether a difference is one of those that the standard allows, or the dtypes' absence."""
    if isinstance(wanted, np.ndarray) and wanted.dtype == np.uint64:
        return bool(found.dtype == np.int64)  # there is no uint64: sums of uint8
    kinds = {a.dtype.kind for a in args if isinstance(a, np.ndarray)}
    if len(kinds) == 2:  # integer with float: not defined
        return True
    return name == "argsort" and args[0].ndim == 0


def different(mine: Any, theirs: Any) -> bool:
    if isinstance(theirs, list):
        return len(mine) != len(theirs) or any(map(different, mine, theirs))
    if not isinstance(theirs, np.ndarray):
        return bool(mine != theirs)
    if (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
        return True
    return not np.allclose(mine, theirs, 2e-5, 1e-6, equal_nan=True)


def check(name: str, wanted: Any, found: Any, args: Any, options: Any) -> str | None:
    """What is wrong, None if nothing is; "refused" where strict gives no result."""
    try:
        expected = plain(result(strict, wanted, args, options))
    except Exception:
        return "refused"
    where = f"{name} {[getattr(a, 'dtype', a) for a in args]} {options}"
    try:
        mine = plain(result(array_api, found, args, options))
    except Exception as error:
        return f"{where}: {type(error).__name__}: {error}"
    if different(mine, expected) and not known(name, args, expected, mine):
        return f"{where}: {mine} instead of {expected}"
    return None


@pytest.mark.parametrize("part", ["", "linalg"])
@pytest.mark.filterwarnings("ignore")
def test_functions(part: str) -> None:
    theirs = getattr(strict, part) if part else strict
    ours = getattr(array_api, part) if part else array_api
    wrong: list[str] = []
    compared = 0
    for name, args, options in calls(theirs):
        if not hasattr(ours, name):
            continue  # test_the_namespace_is_complete
        if name in ("cumulative_sum", "cumulative_prod", "repeat") and (
            not isinstance(args[0], np.ndarray) or args[0].ndim == 0 or args[-1] is True
        ):
            continue  # the standard asks for a dimension, and for whole numbers
        if name in OF_FLOATS and any(a.dtype.kind != "f" for a in args if hasattr(a, "dtype")):
            continue
        message = check(name, getattr(theirs, name), getattr(ours, name), args, options)
        compared += message != "refused"
        wrong += [message] if message not in (None, "refused") else []
    assert not wrong, "\n".join(wrong[:20])
    assert compared > (200 if part else 1500)


NAMES = "add sub mul truediv floordiv mod pow and_ or_ xor lshift rshift lt le gt ge eq ne"
BINARY = [*NAMES.split(), *(f"i{n.strip('_')}" for n in NAMES.split()[:12])]


def operators() -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    for name in BINARY:
        function = getattr(operator, name)
        for first, second in product(DTYPES, DTYPES):
            yield name, function, (array(first), array(second))
        for dtype, number in product(DTYPES, (True, 2, 0.5)):
            yield name, function, (array(dtype), number)
            if name[0] != "i":
                yield name, function, (number, array(dtype))
    for name in ("neg", "pos", "abs", "invert"):
        for dtype in DTYPES:
            yield name, getattr(operator, name), (array(dtype),)
    for dtype in DTYPES:  # the operator @ asks for equal dtypes, as PyTorch's
        yield "matmul", operator.matmul, (array(dtype), array(dtype, (4, 2)))


@pytest.mark.filterwarnings("ignore")
def test_operators() -> None:
    wrong, compared = [], 0
    for name, function, args in operators():
        message = check(name, function, function, args, {})
        compared += message != "refused"
        wrong += [message] if message not in (None, "refused") else []
    assert not wrong, "\n".join(wrong[:20])
    assert compared > 500


def test_what_the_namespace_says_of_itself() -> None:
    mine, theirs = array_api.__array_namespace_info__(), strict.__array_namespace_info__()
    absent = {"uint16", "uint32", "uint64", "complex64", "complex128"}
    for kind in (None, "bool", "signed integer", "unsigned integer", "integral", "numeric"):
        assert set(mine.dtypes(kind=kind)) == set(theirs.dtypes(kind=kind)) - absent
    both = ("bool", "real floating")
    assert set(mine.dtypes(kind=both)) == set(theirs.dtypes(kind=both))
    assert mine.capabilities().keys() == theirs.capabilities().keys()
    assert mine.default_dtypes().keys() == theirs.default_dtypes().keys()
    assert mine.default_device() in mine.devices()
    for dtype in DTYPES:
        info = array_api.iinfo if "int" in dtype else array_api.finfo
        if dtype == "bool":
            continue
        wanted = (strict.iinfo if "int" in dtype else strict.finfo)(getattr(strict, dtype))
        found = info(getattr(array_api, dtype))
        assert (found.bits, found.min, found.max) == (wanted.bits, wanted.min, wanted.max)
        for other in DTYPES:
            pair = [getattr(array_api, dtype), getattr(array_api, other)]
            theirs_pair = [getattr(strict, dtype), getattr(strict, other)]
            try:
                wanted = strict.result_type(*theirs_pair)
            except TypeError:
                continue
            assert (
                str(array_api.result_type(*pair)).rsplit(".", 1)[-1]
                == str(wanted).rsplit(".", 1)[-1]
            )
