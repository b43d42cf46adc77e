"""Kernels in C over symbolic sizes have versions for small and large ones: values in every class.

The oracle is NumPy. What is counted are versions and traces.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import flamec
from flamec.codegen.buffers import may_share
from flamec.codegen.lower.group import LoweredKernel
from flamec.ir.kernel import Kernel, Part
from tests.symbolic_programs import symbolic_program

SIZES = (1, 2, 15, 16, 100, 511, 512, 700)
SHAPES = [s for s in itertools.product(SIZES, SIZES) if s[0] * s[1] < 1 << 17]


def folded(x):
    """Folds along each axis, positions, a transposed result, and one that a temporary leads to."""
    y = x.exp()
    z = (y.t() * 2 + 1).contiguous()
    return x.argmax(-1), x.argmin(0), x.sum(0), x.amax(0), (x.t() + 1), z + z.sum(0)


def expected(x: np.ndarray) -> tuple[np.ndarray, ...]:
    z = np.exp(x.astype(np.float64)).T * 2 + 1
    return (
        x.argmax(-1), x.argmin(0), x.astype(np.float64).sum(0), x.max(0), x.T + 1, z + z.sum(0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def program():
    return symbolic_program(folded)


def kernels(function) -> tuple[Kernel, ...]:
    return function.programs[0].prepared.compiled.kernels


def test_values_in_every_class(program) -> None:
    for shape in [*SHAPES, (0, 3), (5000, 3), (3, 5000)]:
        x = np.random.default_rng(shape[1]).standard_normal(shape, np.float32)
        if 0 in shape:
            continue
        for found, exact in zip(program(flamec.from_numpy(x)), expected(x), strict=True):
            np.testing.assert_allclose(found.numpy(), exact, rtol=2e-4, atol=2e-4, err_msg=shape)
    assert program.stats.traces == 2


def test_nan_is_found_in_every_class(program) -> None:
    for shape in ((20, 3), (600, 3), (3, 600), (600, 100)):
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        x[shape[0] // 2, shape[1] // 2] = np.nan
        for found, exact in zip(program(flamec.from_numpy(x))[:5], expected(x)[:5], strict=True):
            np.testing.assert_allclose(found.numpy(), exact, rtol=2e-4, atol=2e-4)


def test_versions_are_few_and_chosen_by_sizes(program) -> None:
    parts = [p for kernel in kernels(program) for p in kernel.parts if p.versions]
    assert parts, "no kernel has versions"
    for part in parts:
        assert len(part.chosen) == 4 ** len(part.symbols)
        assert set(part.chosen) <= set(range(len(part.ways))) and len(part.ways) <= 4
    assert "where s0 is about" in str(program.programs[0].stages["kernel"])


def test_a_program_of_fixed_sizes_has_one_version() -> None:
    function = flamec.compile(folded, backend="c", dynamic=False)
    function(flamec.ones(600, 3))
    assert not [p for kernel in kernels(function) for p in kernel.parts if p.versions]


def test_memory_is_shared_only_if_every_version_allows_it(program) -> None:
    """A kernel may write over what it reads if the loops of all of its versions do."""
    lowered: list[LoweredKernel] = list(program.programs[0].prepared.compiled.lowered)
    seen = 0
    for kernel in lowered:
        for part in kernel.kernel.parts:
            written = [a for a in part.arguments if kernel.kernel.parameters[a].written]
            read = [a for a in part.arguments if not kernel.kernel.parameters[a].written]
            for r, w in itertools.product(read, written if part.versions else ()):
                alone = [may_share(_only(kernel, way), r, w) for way in part.ways]
                assert may_share(kernel, r, w) == all(alone)
                seen += 1
    assert seen


def _only(kernel: LoweredKernel, way: Part) -> LoweredKernel:
    part = replace(way, versions=(), symbols=(), chosen=())
    return LoweredKernel(replace(kernel.kernel, parts=(part,)), kernel.buffers)


def test_loops_of_fixed_sizes_are_those_of_the_version_for_them() -> None:
    """Short rows that are folded lie side by side whether their length is known or not."""
    for shape, kind in (((4096, 6), "along rows"), ((40, 600), "rows")):
        function = flamec.compile(lambda x: x.argmax(-1), backend="c", dynamic=False)
        function(flamec.ones(*shape))
        (kernel,) = kernels(function)
        assert [p.program.kind for p in kernel.parts] == [kind]


def test_positions_of_columns_are_narrow_where_rows_are_few_enough() -> None:
    """Half as many registers; which of equal ones, NaN and -inf count is the same."""
    function = symbolic_program(lambda x: (x.argmax(0), *x.min(0)))
    source = function.programs[0].stages["source"]
    assert "s0 < 2147483648 && high - low" in source and "vsel_i32(better" in source
    rng = np.random.default_rng(3)
    for shape in ((1, 3), (2, 16), (5, 17), (40, 20), (9, 40), (3, 130)):
        x = rng.integers(-2, 3, shape).astype(np.float32)
        x[rng.random(shape) < 0.1] = -np.inf
        x[rng.random(shape) < 0.05] = np.nan
        largest, least, place = function(flamec.from_numpy(x))
        np.testing.assert_array_equal(largest.numpy(), x.argmax(0))
        np.testing.assert_array_equal(least.numpy(), x.min(0))
        np.testing.assert_array_equal(place.numpy(), x.argmin(0))
    assert function.stats.traces == 2


def test_columns_of_few_rows_are_added_in_one_piece() -> None:
    """As they are where their number is known: what long sums need costs short ones nothing."""
    function = symbolic_program(lambda x: x.var(0))
    for rows in (129, 200, 256, 257):
        x = flamec.from_numpy(np.random.default_rng(rows).standard_normal((rows, 40), np.float32))
        fixed = flamec.compile(lambda x: x.var(0), backend="c", dynamic=False)
        np.testing.assert_array_equal(function(x).numpy(), fixed(x).numpy(), str(rows))
