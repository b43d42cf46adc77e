"""What ``export(dynamic=...)`` says of sizes, in the forms of torch.export's dynamic_shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import Dim
from flamec.errors import CompileError

T = flamec.Tensor
Shapes = tuple[tuple[int, ...], ...]
BATCH = Dim("batch", min=1, max=64)


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Any]:
    def make(function: Callable[..., Any], shapes: Any, dynamic: Any, **options: Any) -> Any:
        path = tmp_path / "program.flamec"
        arguments = tuple(flamec.ones(*shape) for shape in shapes)
        flamec.export(function, arguments, path, dynamic=dynamic, **options)
        return flamec.load(path)

    return make


def both(x: T, y: T) -> T:
    return x.sum(0) * 2 + y.sum(0)


def in_pairs(x: T) -> T:
    return x.reshape(-1, 2, 3).sum(1)


def without_first(x: T, y: T) -> T:
    return x + y[1:]


def halves(x: T, y: T) -> T:
    return x + in_pairs(y)


def fixed(x: T) -> T:
    return x.reshape(4, 3) * 2


CASES: dict[str, tuple[Any, Shapes, Any, list[Shapes], list[tuple[Shapes, str]]]] = {
    "a tuple of arguments": (
        both, ((4, 3), (5, 3)), ({0: BATCH}, None),
        [((7, 3), (5, 3)), ((1, 3), (5, 3))], [(((7, 3), (6, 3)), r"y has shape \[6, 3\]")],
    ),
    "a tuple of axes": (
        both, ((4, 3), (5, 3)), {"x": (BATCH, None), "y": [Dim.DYNAMIC, Dim.STATIC]},
        [((7, 3), (2, 3))], [(((65, 3), (5, 3)), "is 65; it must be at most 64")],
    ),
    "all axes": (lambda x: x * 2, ((4, 3),), (Dim.AUTO,), [((5, 7),), ((1, 1),)], []),
    "a number": (both, ((4, 3), (5, 3)), ({0: BATCH, 1: 3}, {0: 5}), [((7, 3), (5, 3))], []),
    "one more": (
        without_first, ((4, 3), (5, 3)), ({0: BATCH}, {0: BATCH + 1}),
        [((7, 3), (8, 3)), ((64, 3), (65, 3))], [(((7, 3), (9, 3)), "here batch = 7")],
    ),
    "one less": (
        without_first, ((4, 3), (5, 3)), ({0: Dim("n") - 1}, {0: Dim("n")}),
        [((7, 3), (8, 3)), ((0, 3), (1, 3))], [(((7, 3), (9, 3)), "n = 9")],
    ),
    "twice": (
        halves, ((4, 3), (8, 3)), ((BATCH, None), (2 * BATCH, None)),
        [((7, 3), (14, 3)), ((1, 3), (2, 3))], [(((7, 3), (9, 3)), "must be a multiple of 2")],
    ),
    "twice one": (
        halves, ((1, 3), (2, 3)), ((BATCH, None), (2 * BATCH, None)), [((7, 3), (14, 3))], [],
    ),
    "twice what is no size": (
        in_pairs, ((8, 3),), {"x": {0: 2 * Dim("half")}},
        [((14, 3),), ((0, 3),)], [(((9, 3),), "must be a multiple of 2")],
    ),
    "odd": (
        lambda x: in_pairs(x[1:]), ((9, 3),), {"x": {0: 2 * Dim("half") + 1}},
        [((15, 3),), ((1, 3),)], [(((8, 3),), "exported for sizes with")],
    ),
    "two of one root": (
        lambda x, y: in_pairs(x) + y.reshape(-1, 3, 3).sum(1), ((8, 3), (12, 3)),
        {"x": {0: 2 * Dim("n")}, "y": {0: 3 * Dim("n")}},
        [((14, 3), (21, 3))], [(((14, 3), (18, 3)), "exported for sizes with")],
    ),
    "fixed after all": (
        fixed, ((4, 3),), {"x": {0: Dim.AUTO}},
        [((4, 3),)], [(((5, 3),), r"x has shape \[5, 3\]; exported for \[4, 3\]")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_sizes_as_dynamic_shapes_says_them(name: str, exported: Callable[..., Any]) -> None:
    function, examples, dynamic, good, bad = CASES[name]
    program = exported(function, examples, dynamic)
    rng = np.random.default_rng(0)
    for shapes in good:
        arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
        wanted = function(*map(flamec.from_numpy, arrays)).numpy()
        np.testing.assert_allclose(program(*arrays), wanted, 1e-5, 1e-6)
    for shapes, message in bad:
        with pytest.raises(ValueError, match=message):
            program(*[np.zeros(shape, np.float32) for shape in shapes])


@pytest.mark.parametrize("said", [BATCH, "rows", Dim.DYNAMIC, 2 * BATCH])
def test_a_size_that_the_function_fixes_is_an_error(
    said: Any, exported: Callable[..., Any]
) -> None:
    line = fixed.__code__.co_firstlineno + 1
    message = rf"is to vary, and the function serves 4 alone.*dimensions\.py:{line}\)"
    with pytest.raises(CompileError, match=message):
        exported(fixed, ((4, 3),), {"x": {0: said}})


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"x": {0: 5}}, "axis 0 of x is 4 in the example, dynamic says 5"),
        ({"x": (BATCH,)}, "x has 2 axes, dynamic says of 1"),
        (({0: BATCH}, None, None), "a tuple of 3; there are 2 arguments, x, y"),
        ({"y": {0: 2 * BATCH}}, r"axis 0 of y is 5, which is 2\*batch for no batch"),
        (({0: BATCH}, {0: 5 * BATCH}), "'batch' are 4 and 1 in the examples"),
        ({"x": BATCH}, "names no axes of x, a tensor"),
        ({"x": {0: Dim("batch", max=3) + 2}, "y": {0: BATCH + 3}}, "'batch' is at most 3, and at"),
    ],
)
def test_what_examples_are_not_like_is_an_error(
    dynamic: Any, message: str, exported: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        exported(both, ((4, 3), (5, 3)), dynamic)


def test_arithmetic_of_sizes() -> None:
    assert 2 * (BATCH + 1) - 3 == BATCH * 2 - 1 and (2 * BATCH - 1).name == "2*batch - 1"
    with pytest.raises(ValueError, match="a factor is at least 1"):
        _ = BATCH * 0
    for wrong in (1.5, BATCH, True):
        with pytest.raises(TypeError, match="by whole numbers"):
            _ = BATCH * wrong


def test_torchs_name_of_the_argument_is_told(exported: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="dynamic_shapes is dynamic here"):
        exported(fixed, ((4, 3),), None, dynamic_shapes={"x": [0]})
