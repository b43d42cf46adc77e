"""Triton's interpreter in less time.

It makes a table of dtypes whenever it wants one, looks through ``triton.language`` again for each
call of a function, derives the same from each shape again, computes whether integers overflow to
tell nobody (``device_assert`` is silent unless kernels are debugged), and combines the elements of
a reduction or scan one by one. Importing this replaces these functions. Reductions and scans
combine neighbours, then what was combined of neighbours, as GPUs do; so functions also meet
operands that are combinations both, which they do not from left to right.

Run as a program with TRITON_INTERPRET=1 it compares both ways: a line of JSON for each case.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

_dtype_of_name = cache(interpreter._get_np_dtype)
_patch_lang = interpreter._patch_lang
_by_one_reduce = interpreter.ReduceOps.generic_reduce
_by_one_scan = interpreter.ScanOps.generic_scan


def _get_np_dtype(kind: Any) -> np.dtype[Any]:
    if isinstance(kind, tl.pointer_type):
        return np.dtype(np.uint64)
    if isinstance(kind, tl.block_type):
        return _get_np_dtype(kind.element_ty)
    dtype: np.dtype[Any] = _dtype_of_name(kind)
    return dtype


class _Lasting:
    """What was patched stays so: a process that interprets kernels does nothing else with them."""

    def restore(self) -> None:
        """Nothing."""


_MODULES: dict[str, ModuleType] = {"tl": tl, "core": tl.core}
_patched: set[Any] = set()


@cache
def _patch_modules(*names: str) -> None:
    _patch_lang(type("Function", (), {"__globals__": {n: _MODULES[n] for n in names}}))


def _patch_once(function: Any) -> _Lasting:
    if function not in _patched:
        seen = {id(value) for value in function.__globals__.values()}
        names = [name for name, module in _MODULES.items() if id(module) in seen]
        assert names, "triton.language must be visible from within jit'd function"
        _patch_modules(*names)
        _patched.add(function)
    return _Lasting()


def _combined(ops: Any, kinds: list[Any], *sides: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays of ``combine_fn(*sides[0], *sides[1])``, whose elements are of these dtypes."""
    arrays = [(a, kind) for side in sides for a, kind in zip(side, kinds, strict=True)]
    found = ops.combine_fn.fn(*(ops.to_tensor(a if a.ndim else a[()], k) for a, k in arrays))
    results = found if isinstance(found, tuple) else (found,)
    data = [r.handle.data if isinstance(r, tl.tensor) else np.asarray(r) for r in results]
    return [
        np.broadcast_to(
            made.reshape(old.shape) if made.size == old.size else made, old.shape
        ).astype(old.dtype)
        for made, old in zip(data, sides[0], strict=True)
    ]


def _generic_reduce(self: Any, input: tuple[Any, ...]) -> list[Any]:
    """Neighbours are combined, then neighbouring pairs, and so on, as on a GPU."""
    kinds = [x.dtype for x in input]
    rank, axis = input[0].handle.data.ndim, self.axis or 0
    arrays = [x.handle.data if self.axis is not None else x.handle.data.reshape(-1) for x in input]
    arrays = [np.moveaxis(a, axis, 0) for a in arrays]
    while len(arrays[0]) > 1:
        arrays = _combined(self, kinds, *([a[i::2] for a in arrays] for i in (0, 1)))
    if self.keep_dims and self.axis is None:
        arrays = [a.reshape((1,) * rank) for a in arrays]
    else:
        arrays = [np.moveaxis(a, 0, axis) if self.keep_dims else a[0] for a in arrays]
    return [self.to_tensor(a, kind) for a, kind in zip(arrays, kinds, strict=True)]


def _generic_scan(self: Any, input: tuple[Any, ...]) -> list[Any]:
    """What ends at an element is combined with what ends before it: of 1, 2, 4 ... elements."""
    kinds = [x.dtype for x in input]
    arrays = [np.moveaxis(x.handle.data, self.axis, 0) for x in input]
    length, distance = len(arrays[0]), 1
    while distance < length:
        before = [np.roll(a, distance, 0) for a in arrays]
        made = _combined(self, kinds, before, arrays)
        arrays = [
            np.concatenate([a[:distance], m[distance:]]) for a, m in zip(arrays, made, strict=True)
        ]
        distance *= 2
    results = [np.ascontiguousarray(np.moveaxis(a, 0, self.axis)) for a in arrays]
    return [self.to_tensor(r, kind) for r, kind in zip(results, kinds, strict=True)]


_block_type, _tensor = tl.block_type.__init__, tl.tensor.__init__
_broadcast = TritonSemantic.broadcast_impl_value
_blocks: dict[tuple[int, ...], tuple[Any, int, str]] = {}
_tensors: dict[int, tuple[Any, Any]] = {}


def _init_block_type(self: Any, element_ty: Any, shape: Any) -> None:
    """Types of equal shapes share what is derived from the shape."""
    key = tuple(getattr(size, "value", size) for size in shape)
    if key not in _blocks:
        _block_type(self, element_ty, shape)
        _blocks[key] = self.shape, self.numel, f"{self.shape}"
    self.element_ty = element_ty
    self.shape, self.numel, text = _blocks[key]
    self.name = f"<{text}, {element_ty}>"


def _init_tensor(self: Any, handle: Any, type: Any) -> None:
    shape = type.shape if type.is_block() else None  # never freed: _blocks has it
    if id(shape) not in _tensors:
        _tensor(self, handle, type)
        _tensors[id(shape)] = self.shape, self.numel
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = _tensors[id(shape)]


def _broadcast_others(self: Any, lhs: Any, rhs: Any) -> Any:
    if lhs.shape is rhs.shape:
        return lhs, rhs
    return _broadcast(self, lhs, rhs)


interpreter._get_np_dtype = _get_np_dtype
interpreter._patch_lang = _patch_once
interpreter.ReduceOps.generic_reduce = _generic_reduce
interpreter.ScanOps.generic_scan = _generic_scan
tl.block_type.__init__ = _init_block_type
tl.tensor.__init__ = _init_tensor
TritonSemantic.broadcast_impl_value = _broadcast_others
interpreter.interpreter_builder.options = replace(
    interpreter.interpreter_builder.options, sanitize_overflow=False
)


def _check() -> None:
    """Reductions and scans are those of the interpreter: of a function that does not commute."""

    def compose(a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
        """First x -> a x + b, then x -> c x + d."""
        return tl.add(c, 0) * a, c * b + d

    interpreter._patch_lang(compose)
    rng = np.random.default_rng(0)
    function = SimpleNamespace(fn=compose)
    for shape, axis in [((16,), 0), ((4, 8), 0), ((4, 8), 1), ((2, 4, 2), 1), ((16,), None)]:
        arrays = [rng.integers(-3, 4, shape).astype(np.int64) for _ in range(2)]
        kind = tl.block_type(tl.int64, list(shape))
        given = tuple(tl.tensor(interpreter.TensorHandle(a, tl.int64), kind) for a in arrays)
        pairs = []
        for keep in (False, True):
            reduction = interpreter.ReduceOps(axis, function, keep)
            pairs.append((_by_one_reduce(reduction, given), reduction.generic_reduce(given)))
        if axis is not None:
            scan = interpreter.ScanOps(axis, function, False)
            pairs.append((_by_one_scan(scan, given), scan.generic_scan(given)))
        same = all(
            x.type == y.type and np.array_equal(x.handle.data, y.handle.data)
            for wanted, found in pairs
            for x, y in zip(wanted, found, strict=True)
        )
        print(json.dumps({"row": f"{shape} along {axis}", "wrong": [] if same else ["differs"]}))


if __name__ == "__main__":
    _check()
