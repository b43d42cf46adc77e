"""Rows of the primitives that move, fold and address elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import op_oracles as oracles
from op_row import (
    EVERY,
    FLOATS,
    Attributes,
    Draw,
    Row,
    Sample,
    bad,
    tensor,
)

from flamec.ir.types import CPU, bool_, float32, float64, int32, int64

X = tensor(2, 3, dtype=float32)
INDEX = tensor(4, dtype=int64)


def applications(*cases: tuple[Any, Attributes]) -> Callable[[Draw], list[Sample]]:
    """Samples over operands of the given shapes, each with its attributes."""

    def make(draw: Draw) -> list[Sample]:
        return [Sample(tuple(draw(*s) for s in shapes), attrs) for shapes, attrs in cases]

    return make


def symbolic(types: Callable[[Any], Any], attributes: Callable[[Any], Attributes]) -> Any:
    """Operand shapes and attributes, both as functions of the symbol."""
    return lambda B, dtype: (tuple(tensor(*s, dtype=dtype) for s in types(B)), attributes(B))


# views ---------------------------------------------------------------------
def _windows(axes: Any, counts: Any, sizes: Any, steps: Any, dilations: Any) -> Attributes:
    return {
        "axes": axes,
        "counts": counts,
        "sizes": sizes,
        "steps": steps,
        "dilations": dilations,
    }


def _slice(starts: Any, sizes: Any, steps: Any) -> Attributes:
    return {"starts": starts, "sizes": sizes, "steps": steps}


def _diagonal(offset: int, axis1: int, axis2: int) -> Attributes:
    return {"offset": offset, "axis1": axis1, "axis2": axis2}


VIEW_ROWS = [
    Row(
        "reshape",
        EVERY,
        applications(
            (((),), {"shape": (1, 1)}),
            (((6,),), {"shape": (2, 3)}),
            (((2, 3, 4),), {"shape": (4, 6)}),
            (((0, 3),), {"shape": (5, 0)}),
            (((1,),), {"shape": ()}),
        ),
        oracles.reshape,
        gradient=(0,),
        symbolic=symbolic(lambda B: [(B, 6)], lambda B: {"shape": (B * 2, 3)}),
        errors=(
            bad(ValueError, "6 elements", X, shape=(4,)),
            bad(ValueError, "negative size", X, shape=(-1, 6)),
        ),
    ),
    Row(
        "permute",
        EVERY,
        applications(
            (((),), {"axes": ()}),
            (((2, 3),), {"axes": (1, 0)}),
            (((2, 3, 4),), {"axes": (2, 0, 1)}),
            (((2, 0, 4),), {"axes": (1, 2, 0)}),
        ),
        oracles.permute,
        gradient=(0,),
        symbolic=symbolic(lambda B: [(B, 2, 3)], lambda B: {"axes": (2, 0, 1)}),
        errors=(
            bad(ValueError, "not a permutation", X, axes=(0, 0)),
            bad(ValueError, "2 dimensions", X, axes=(0, 1, 2)),
        ),
    ),
    Row(
        "expand",
        EVERY,
        applications(
            (((),), {"shape": (2, 3)}),
            (((3, 1),), {"shape": (2, 3, 4)}),
            (((1,),), {"shape": (0,)}),
            (((0, 1),), {"shape": (0, 3)}),
        ),
        oracles.expand,
        gradient=(0,),
        symbolic=symbolic(lambda B: [(B, 1)], lambda B: {"shape": (4, B, 3)}),
        errors=(
            bad(ValueError, "dimension 0 has size 2", X, shape=(4, 3)),
            bad(ValueError, "more dimensions", X, shape=(3,)),
        ),
    ),
    Row(
        "slice",
        EVERY,
        applications(
            (((),), _slice((), (), ())),
            (((7,),), _slice((1,), (3,), (2,))),
            (((7,),), _slice((6,), (7,), (-1,))),
            (((7,),), _slice((5,), (3,), (-2,))),
            (((4, 5),), _slice((1, 3), (3, 2), (1, -1))),
            (((4, 5),), _slice((0, 2), (4, 0), (1, 1))),
            (((0, 5),), _slice((-1, 4), (0, 5), (-1, -1))),
        ),
        oracles.slice_,
        gradient=(0,),
        symbolic=symbolic(
            lambda B: [(B + 2, 3, B)], lambda B: _slice((1, 2, B - 1), (B, 3, B), (1, -1, -1))
        ),
        errors=(
            bad(ValueError, "outside dimension 1", X, **_slice((0, 1), (2, 3), (1, 1))),
            bad(ValueError, "outside dimension 0", X, **_slice((-1, 0), (2, 3), (1, 1))),
            bad(ValueError, "step 0", X, **_slice((0, 0), (2, 3), (0, 1))),
            bad(ValueError, "2 dimensions", X, **_slice((0,), (2,), (1,))),
        ),
    ),
    Row(
        "windows",
        EVERY,
        applications(
            (((5,),), _windows((0,), (3,), (3,), (1,), (1,))),
            (((2, 6),), _windows((1,), (3,), (2,), (2,), (1,))),
            (((2, 9),), _windows((1,), (3,), (2,), (3,), (2,))),
            (((8, 2),), _windows((0,), (2,), (3,), (3,), (2,))),
            (((2, 7, 2),), _windows((1,), (2,), (2,), (4,), (1,))),
            (((6, 7),), _windows((0, 1), (2, 3), (3, 2), (2, 2), (1, 2))),
            (((5, 2, 4),), _windows((0, 2), (2, 2), (3, 3), (2, 1), (1, 1))),
            (((3, 0),), _windows((0,), (3,), (1,), (1,), (1,))),
            (((3,),), _windows((0,), (0,), (5,), (1,), (1,))),
        ),
        oracles.windows,
        gradient=(0,),
        symbolic=symbolic(
            lambda B: [(B, B * 2 + 1)], lambda B: _windows((1,), (B,), (3,), (2,), (1,))
        ),
        errors=(
            bad(ValueError, "need 4 elements", X, **_windows((1,), (2,), (3,), (1,), (1,))),
            bad(ValueError, "sorted", X, **_windows((1, 0), (1, 1), (1, 1), (1, 1), (1, 1))),
            bad(ValueError, "step 0", X, **_windows((1,), (1,), (1,), (0,), (1,))),
            bad(ValueError, "size 0", X, **_windows((1,), (1,), (0,), (1,), (1,))),
            bad(ValueError, "out of range", X, **_windows((2,), (1,), (1,), (1,), (1,))),
            bad(ValueError, "2 entries for 1", X, **_windows((1,), (1, 1), (1,), (1,), (1,))),
        ),
    ),
    Row(
        "diagonal",
        EVERY,
        applications(
            (((3, 3),), _diagonal(0, 0, 1)),
            (((2, 5),), _diagonal(1, 0, 1)),
            (((5, 2),), _diagonal(-2, 0, 1)),
            (((2, 3, 4),), _diagonal(1, 2, 0)),
            (((3, 3),), _diagonal(4, 0, 1)),
            (((0, 3),), _diagonal(0, 0, 1)),
        ),
        oracles.diagonal,
        gradient=(0,),
        symbolic=symbolic(lambda B: [(B, 3, B)], lambda B: _diagonal(0, 0, 2)),
        errors=(
            bad(ValueError, "both 1", X, **_diagonal(0, 1, 1)),
            bad(ValueError, "axis 2 is out of range", X, **_diagonal(0, 0, 2)),
        ),
    ),
    Row(
        "detach",
        EVERY,
        applications((((),), {}), (((2, 3),), {}), (((0,),), {})),
        lambda sample, x: x,
        symbolic=symbolic(lambda B: [(B, 2)], lambda B: {}),
        errors=(bad(TypeError, "1 operand", X, X),),
    ),
    Row(
        "overwrite",
        EVERY,
        applications((((), ()), {}), (((2, 3), (2, 3)), {}), (((0,), (0,)), {})),
        lambda sample, new, old: new,
        symbolic=symbolic(lambda B: [(B, 2), (B, 2)], lambda B: {}),
        errors=(bad(TypeError, "2 operands", X),),
    ),
]


# assembly ------------------------------------------------------------------
def _border(low: Any, high: Any) -> Attributes:
    return {"low": low, "high": high}


def _window(starts: Any, steps: Any) -> Attributes:
    return {"starts": starts, "steps": steps}


ASSEMBLE_ROWS = [
    Row(
        "concatenate",
        EVERY,
        applications(
            (((3,),), {"axis": 0}),
            (((2,), (0,), (3,)), {"axis": 0}),
            (((2, 3), (2, 1)), {"axis": 1}),
            (((0, 3), (2, 3), (1, 3)), {"axis": 0}),
        ),
        oracles.concatenate,
        gradient=(0, 1, 2),
        symbolic=symbolic(lambda B: [(B, 2), (3, 2), (B, 2)], lambda B: {"axis": 0}),
        errors=(
            bad(TypeError, "at least one", axis=0),
            bad(ValueError, "dimension 1 is 4 against 3", X, tensor(2, 4, dtype=float32), axis=0),
            bad(ValueError, "dimensions", X, tensor(2, dtype=float32), axis=0),
            bad(ValueError, "axis 2 is out of range", X, X, axis=2),
            bad(TypeError, "dtype", X, tensor(2, 3, dtype=int32), axis=0),
        ),
    ),
    Row(
        "interleave",
        EVERY,
        applications(
            (((3,), (2,)), {"axes": (0,), "steps": (2,)}),
            (((2, 1), (2, 1), (2, 0)), {"axes": (1,), "steps": (3,)}),
            (((2, 2), (2, 1), (1, 2), (1, 1)), {"axes": (0, 1), "steps": (2, 2)}),
            (((0, 2), (0, 2)), {"axes": (0,), "steps": (2,)}),
            (((2, 3, 2),), {"axes": (0, 2), "steps": (1, 1)}),
        ),
        oracles.interleave,
        gradient=(0, 1),
        symbolic=symbolic(lambda B: [(B, 2), (B, 2)], lambda B: {"axes": (0,), "steps": (2,)}),
        errors=(
            bad(TypeError, "1 operands for steps", X, axes=(0,), steps=(2,)),
            bad(ValueError, "must be sorted", X, X, axes=(1, 0), steps=(2, 1)),
            bad(ValueError, "its share", X, tensor(2, 1, dtype=float32), axes=(1,), steps=(2,)),
            bad(ValueError, "dimensions", X, tensor(2, dtype=float32), axes=(0,), steps=(2,)),
            bad(ValueError, "axis 2 is out of range", X, X, axes=(2,), steps=(2,)),
            bad(TypeError, "dtype", X, tensor(2, 3, dtype=int32), axes=(0,), steps=(2,)),
        ),
    ),
    Row(
        "pad",
        EVERY,
        applications(
            (((), ()), _border((), ())),
            (((3,), ()), _border((2,), (1,))),
            (((2, 3), ()), _border((0, 1), (2, 0))),
            (((0, 2), ()), _border((1, 0), (1, 1))),
        ),
        oracles.pad,
        gradient=(0, 1),
        symbolic=symbolic(lambda B: [(B, 2), ()], lambda B: _border((1, B), (0, 2))),
        errors=(
            bad(
                ValueError, "negative amount", X, tensor(dtype=float32), **_border((-1, 0), (0, 0))
            ),
            bad(ValueError, "shape []", X, X, **_border((0, 0), (0, 0))),
            bad(ValueError, "1 entries", X, tensor(dtype=float32), **_border((0,), (0, 0))),
        ),
    ),
    Row(
        "slice_update",
        EVERY,
        applications(
            (((), ()), _window((), ())),
            (((7,), (3,)), _window((1,), (2,))),
            (((7,), (3,)), _window((6,), (-2,))),
            (((4, 5), (2, 5)), _window((1, 0), (1, 1))),
            (((4, 5), (0, 5)), _window((4, 0), (1, 1))),
        ),
        oracles.slice_update,
        gradient=(0, 1),
        symbolic=symbolic(lambda B: [(B + 3, 2), (B, 2)], lambda B: _window((1, 1), (1, -1))),
        errors=(
            bad(ValueError, "outside dimension 1", X, X, **_window((0, 1), (1, 1))),
            bad(
                ValueError,
                "number of dimensions",
                X,
                INDEX.with_dtype(float32),
                **_window((0,), (1,)),
            ),
        ),
    ),
]


# indexing ------------------------------------------------------------------
_INDEXED = (
    # shape of x, number of index tensors, their shape
    ((5,), 1, ()),
    ((5,), 1, (7,)),
    ((5, 3), 1, (4,)),
    ((4, 3), 2, (2, 2)),
    ((4, 3, 2), 2, (5,)),
    ((4, 0), 1, (3,)),
    ((3, 2), 1, (0,)),
)


def _positions(draw: Draw, shape: tuple[int, ...], count: int, places: Any) -> list[np.ndarray]:
    return [draw.positions(shape[axis], *places) for axis in range(count)]


def _make_index(draw: Draw) -> list[Sample]:
    samples = [
        Sample((draw(*shape), *_positions(draw, shape, count, places)))
        for shape, count, places in _INDEXED
    ]
    narrow = [index.astype(np.int32) for index in _positions(draw, (4, 3), 2, (6,))]
    samples.append(Sample((draw(4, 3), *narrow)))
    known = [index % size for index, size in zip(narrow, (4, 3), strict=True)]
    samples.append(Sample((draw(4, 3), *known), {"inside": True}))
    return samples


def _make_index_put(draw: Draw) -> list[Sample]:
    modes = ["set", "any", "amax", "amin"]
    if draw.dtype.kind != "bool":
        modes += ["add", "prod"]
    samples = []
    for mode in modes:
        for shape, count, places in _INDEXED:
            indices = _positions(draw, shape, count, places)
            if mode in ("set", "any"):  # the order of equal places is not specified: have none
                distinct = draw.rng.permutation(max(math.prod(shape[:count]), math.prod(places)))
                if len(distinct) > math.prod(shape[:count]):
                    continue
                chosen = distinct[: math.prod(places)].reshape(places)
                indices = list(np.unravel_index(chosen, shape[:count]))
            arrays = (draw(*shape), draw(*places, *shape[count:]), *indices)
            samples.append(Sample(arrays, {"mode": mode}, finite=mode in ("set", "any", "add")))
    every = draw.rng.permutation(5)  # what is put nowhere is not specified
    samples.append(Sample((draw(5, 3), draw(5, 3), every), {"mode": "over"}, finite=True))
    some = np.array([1, 3, 0, -1, 2, -7])  # and what has a negative index is left out
    samples.append(Sample((draw(4, 3), draw(6, 3), some), {"mode": "over"}, finite=True))
    pairs = np.array([1, 1, 0, -1, 0]), np.array([0, 1, 1, 1, 0])
    samples.append(Sample((draw(2, 2), draw(5), *pairs), {"mode": "over"}, finite=True))
    if draw.dtype.kind != "bool":  # one place hit often
        crowded = (draw(3, 2), draw(40, 2), np.zeros(40, np.int64))
        samples.append(Sample(crowded, {"mode": "add"}))
    return samples


INDEXING_ROWS = [
    Row(
        "index",
        EVERY,
        _make_index,
        oracles.index,
        gradient=(0,),
        symbolic=lambda B, dtype: ((tensor(5, B, dtype=dtype), tensor(B, dtype=int64)), {}),
        errors=(
            bad(TypeError, "at least one index", X),
            bad(TypeError, "must be int64 or int32", X, tensor(4)),
            bad(ValueError, "must be equal", X, INDEX, tensor(5, dtype=int64)),
            bad(IndexError, "3 index tensors", X, INDEX, INDEX, INDEX),
        ),
    ),
    Row(
        "index_put",
        EVERY,
        _make_index_put,
        oracles.index_put,
        ulps=4,
        scale=128.0,
        gradient=(0, 1),
        symbolic=lambda B, dtype: (
            (tensor(5, B, dtype=dtype), tensor(4, B, dtype=dtype), INDEX),
            {"mode": "add"},
        ),
        errors=(
            bad(ValueError, "unknown mode", X, X, tensor(2, dtype=int64), mode="max"),
            bad(ValueError, "have shape [4, 3]", X, X, INDEX, mode="set"),
            bad(TypeError, "dtype", X, X.with_dtype(float64), tensor(2, dtype=int64), mode="set"),
            bad(TypeError, "bool", *(X.with_dtype(bool_),) * 2, tensor(2, dtype=int64), mode="add"),
        ),
    ),
]

TRANSFER_ROWS = [
    Row(
        "to_device",
        EVERY,
        applications((((2, 3),), {"device": CPU}), (((0,),), {"device": CPU})),
        lambda sample, x: x,
        gradient=(0,),
        symbolic=symbolic(lambda B: ((B, 3),), lambda B: {"device": CPU}),
        errors=(bad(TypeError, "must be a Device", X, device="cuda"),),
    ),
]


HOST_FUNCTIONS = {"exp": np.exp, "atan2": np.arctan2, "cumsum": lambda x: np.cumsum(x, 0)}


def _on_host(function: str, arguments: str = "{}") -> Attributes:
    return {"function": function, "arguments": arguments}


HOST_ROWS = [
    Row(
        "host",
        FLOATS,
        applications(
            (((2, 3),), _on_host("exp")),
            (((2, 3), (2, 3)), _on_host("atan2")),
            (((4,),), _on_host("cumsum", '{"axis": 0}')),
            (((0, 3),), _on_host("exp")),
        ),
        lambda sample, *arrays: HOST_FUNCTIONS[sample.attributes["function"]](*arrays),
        ulps=4,
        symbolic=symbolic(lambda B: ((B, 3),), lambda B: _on_host("exp")),
        errors=(
            bad(TypeError, "1 operand", X, X, **_on_host("exp")),
            bad(ValueError, "axis 2 is out of range", X, **_on_host("cumsum", '{"axis": 2}')),
        ),
    ),
]


TRUE_PLACES_ROWS = [
    Row(
        "true_places",
        (bool_,),
        applications(
            (((6,),), {"count": 2}),
            (((2, 3),), {"count": 3}),
            (((),), {"count": 1}),
            (((0, 3),), {"count": 0}),
            (((5,),), {"count": 0}),
            (((4,),), {"count": 6}),  # more than there are places
        ),
        lambda sample, mask: _first_places(mask, sample.attributes["count"]),
        symbolic=symbolic(lambda B: ((B, 3),), lambda B: {"count": B}),
        errors=(
            bad(TypeError, "must be bool", X, count=1),
            bad(ValueError, "must not be negative", X.with_dtype(bool_), count=-1),
            bad(TypeError, "1 operand", *(X.with_dtype(bool_),) * 2, count=1),
        ),
    ),
]


def _first_places(mask: np.ndarray, count: int) -> np.ndarray:
    found = [number for number, flag in enumerate(mask.reshape(-1).tolist()) if flag][:count]
    return np.array(found + [0] * (count - len(found)), np.int64)


STRUCTURE_ROWS = [
    *TRUE_PLACES_ROWS,
    *VIEW_ROWS,
    *ASSEMBLE_ROWS,
    *INDEXING_ROWS,
    *TRANSFER_ROWS,
    *HOST_ROWS,
]
