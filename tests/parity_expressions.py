"""Parity with PyTorch by expressions: the same text evaluated with either framework.

``torch`` in an expression is PyTorch or flamec; other names are tensors that hold the
same values in both. What comes out must have the same structure, shapes, dtypes and
values; where PyTorch raises an error, flamec must raise one of the same family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import flamec

FOLDER = Path(__file__).parent / "parity"

ERRORS = (RuntimeError, TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError)

# relative and absolute tolerance; 16-bit results may be one unit in the last place off
TOLERANCE = {
    "float64": (1e-12, 1e-13),
    "float32": (2e-6, 1e-6),
    "float16": (2e-3, 1e-6),
    "bfloat16": (2e-2, 1e-6),
}


def array_of(tensor: Any) -> np.ndarray:
    """The values of a tensor of either framework; 16-bit floats as float32."""
    if isinstance(tensor, flamec.Tensor):
        array = tensor.detach().numpy()
        return array.astype(np.float32) if tensor.dtype.is_half else array
    import torch

    tensor = tensor.detach()
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return (tensor.float() if half else tensor).numpy(force=True)


def dtype_name(tensor: Any) -> str:
    return str(tensor.dtype).split(".")[-1]


def flamec_of(tensor: Any) -> flamec.Tensor:
    """A flamec tensor with the values, dtype, strides and requires_grad of a PyTorch tensor."""
    import torch

    detached = tensor.detach()
    if detached.dtype is torch.bfloat16:
        array = detached.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    else:
        array = detached.numpy()
    result = flamec.from_numpy(np.copy(array, order="K"))
    if not array.flags.c_contiguous and array.size:
        # the same strides, made by the same steps: a transposed base
        order = np.argsort([-s for s in array.strides], kind="stable")
        base = flamec.from_numpy(np.ascontiguousarray(array.transpose(order)))
        result = base.permute(*[int(i) for i in np.argsort(order)])
    return result.requires_grad_() if tensor.requires_grad else result


def is_torch(value: Any) -> bool:
    return type(value).__module__.startswith("torch") and hasattr(value, "detach")


def assert_same(mine: Any, theirs: Any, what: str, loosen: float = 1.0) -> None:
    """``mine`` (flamec's) equals ``theirs`` (PyTorch's) in structure, type and value."""
    if is_torch(theirs):
        assert isinstance(mine, flamec.Tensor), f"{what}: {mine!r} instead of a tensor"
        assert dtype_name(mine) == dtype_name(theirs), (
            f"{what}: dtype {mine.dtype} instead of {theirs.dtype}"
        )
        assert tuple(mine.shape) == tuple(theirs.shape), (
            f"{what}: shape {mine.shape} instead of {theirs.shape}"
        )
        rtol, atol = TOLERANCE.get(dtype_name(mine), (0.0, 0.0))
        np.testing.assert_allclose(
            array_of(mine),
            array_of(theirs),
            rtol=rtol * loosen,
            atol=atol * loosen,
            equal_nan=True,
            err_msg=what,
        )
    elif isinstance(theirs, (tuple, list)):
        assert isinstance(mine, (tuple, list)), f"{what}: {type(mine)} instead of a sequence"
        assert len(mine) == len(theirs), f"{what}: {len(mine)} results instead of {len(theirs)}"
        if hasattr(theirs, "n_fields"):
            names = [n for n in dir(theirs) if not n.startswith("_")]
            for name in set(names) & {"values", "indices", "min", "max"}:
                assert_same(getattr(mine, name), getattr(theirs, name), f"{what}.{name}", loosen)
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            assert_same(a, b, f"{what}[{i}]", loosen)
    elif type(theirs).__name__ == "dtype":
        assert str(mine).split(".")[-1] == str(theirs).split(".")[-1], what
    elif isinstance(theirs, float):
        assert math.isclose(mine, theirs, rel_tol=1e-6) or (mine != mine and theirs != theirs), what
    else:
        assert mine == theirs and type(mine) is type(theirs), f"{what}: {mine!r}, not {theirs!r}"


def check_expression(
    expression: str, make_names: Callable[[], Mapping[str, Any]], loosen: float = 1.0
) -> None:
    """Evaluate with both frameworks on fresh tensors and compare results, or errors."""
    import torch

    theirs_names = dict(make_names())
    mine_names = {k: flamec_of(v) if is_torch(v) else v for k, v in theirs_names.items()}
    common = {"math": math, "np": np, "nan": math.nan, "inf": math.inf}
    try:
        theirs = eval(expression, {"torch": torch, **common, **theirs_names})
    except (*ERRORS, AssertionError) as error:
        try:
            mine = eval(expression, {"torch": flamec, **common, **mine_names})
        except ERRORS:
            return
        raise AssertionError(
            f"{expression}: PyTorch raises {type(error).__name__} ({str(error)[:200]}), "
            f"flamec gives {mine!r}"
        ) from None
    mine = eval(expression, {"torch": flamec, **common, **mine_names})
    assert_same(mine, theirs, expression, loosen)
    for name, value in theirs_names.items():
        if is_torch(value):
            assert_same(mine_names[name], value, f"{name} after {expression}", loosen)


def expressions(family: str) -> list[str]:
    """The expressions of one family, one a line of its file."""
    lines = (FOLDER / f"{family}_expressions.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]
