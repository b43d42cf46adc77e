"""Views share memory where NumPy can express them, and can be written through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from op_row import Draw
from op_table import ROWS

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph, run_op
from flamec.ir.op import REGISTRY, OpKind, lookup
from flamec.ir.types import TensorType, dtype_of_numpy, float64
from flamec.ir.verify import verify

VIEWS = sorted(name for name, op in REGISTRY.items() if op.kind is OpKind.VIEW)


def apply(name: str, attributes: dict[str, Any], x: np.ndarray) -> np.ndarray:
    op = lookup(name)
    types = op.infer_types((TensorType(x.shape, dtype_of_numpy(x.dtype)),), attributes)
    return run_op(op, attributes, (x,), types)[0]


def written_back(name: str, attributes: dict[str, Any], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    b = GraphBuilder()
    parent = b.input(TensorType(x.shape, float64))
    child = b.input(TensorType(y.shape, float64))
    result = lookup(name).write_back(b, parent, child, attributes)  # type: ignore[misc]
    return evaluate_graph(verify(b.build([result])), [x, y])[0][0]


def has_overlaps(view: np.ndarray, x: np.ndarray) -> bool:
    """Whether several elements of a view are one element of memory."""
    counted = np.zeros(x.size, np.int64)
    base = x.__array_interface__["data"][0]
    start = (view.__array_interface__["data"][0] - base) // x.itemsize
    for index in np.ndindex(*view.shape):
        step = sum(i * s // x.itemsize for i, s in zip(index, view.strides, strict=True))
        counted[start + step] += 1
    return bool((counted > 1).any())


@pytest.mark.parametrize("name", VIEWS)
def test_result_shares_memory(name: str) -> None:
    for sample in ROWS[name].make(Draw(float64, np.random.default_rng(0))):
        (x,) = sample.arrays
        view = apply(name, sample.attributes, x)
        assert not view.size or np.shares_memory(view, x)


@pytest.mark.parametrize("name", [v for v in VIEWS if v != "expand"])
def test_write_back_is_what_writing_into_the_view_does(name: str) -> None:
    rng = np.random.default_rng(0)
    for sample in ROWS[name].make(Draw(float64, rng)):
        (x,) = sample.arrays
        view = apply(name, sample.attributes, x)
        values = np.asarray(rng.normal(size=view.shape))
        if has_overlaps(view, x):
            with pytest.raises(ValueError, match="windows that overlap"):
                written_back(name, sample.attributes, x.copy(), values)
            continue
        found = written_back(name, sample.attributes, x.copy(), values)
        view[...] = values
        np.testing.assert_array_equal(found, x)


def test_write_back_through_expand() -> None:
    x, y = np.zeros(3), np.ones((1, 1, 3))
    np.testing.assert_array_equal(written_back("expand", {"shape": (1, 1, 3)}, x, y), np.ones(3))
    with pytest.raises(ValueError, match="several of its elements are one"):
        written_back("expand", {"shape": (2, 3)}, x, np.ones((2, 3)))
