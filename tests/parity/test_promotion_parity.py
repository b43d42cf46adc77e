"""The dtype of every pair of operands: dtypes x (tensor, zero-dimensional, number), as PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import flamec

torch = pytest.importorskip("torch")

NAMES = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (True, 3, 2.5)
OPERATIONS = ("add", "mul", "div", "maximum", "eq", "where", "pow", "logical_or", "atan2")


def _operands(framework: Any) -> list[Any]:
    tensors = [
        framework.ones(shape, dtype=getattr(framework, name))
        for shape in ((2,), ())
        for name in NAMES
    ]
    return [*tensors, *NUMBERS]


def _described(operand: Any) -> str:
    if isinstance(operand, (bool, int, float)):
        return repr(operand)
    return f"{operand.dtype}{list(operand.shape)}"


def test_result_type_of_all_pairs() -> None:
    mine, theirs = _operands(flamec), _operands(torch)
    wrong = []
    for (a, x), (b, y) in itertools.product(zip(mine, theirs, strict=True), repeat=2):
        got, want = flamec.result_type(a, b), torch.result_type(x, y)
        if str(got).split(".")[1] != str(want).split(".")[1]:
            wrong.append(f"{_described(x)} with {_described(y)}: {got}, not {want}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("default", ["float32", "float64"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_promote_as_pytorch(operation: str, default: str) -> None:
    def outcome(framework: Any, x: Any, y: Any) -> str:
        function = getattr(framework, operation)
        arguments = (x, y)
        if operation == "where":
            arguments = (framework.tensor([True, False]), x, y)
        try:
            return str(function(*arguments).dtype).split(".")[1]
        except (RuntimeError, TypeError):
            return "error"

    flamec.set_default_dtype(getattr(flamec, default))
    torch.set_default_dtype(getattr(torch, default))
    try:
        mine, theirs = _operands(flamec), _operands(torch)
        wrong = []
        for (a, x), (b, y) in itertools.product(zip(mine, theirs, strict=True), repeat=2):
            if not isinstance(x, torch.Tensor) and not isinstance(y, torch.Tensor):
                continue
            got, want = outcome(flamec, a, b), outcome(torch, x, y)
            if got != want:
                wrong.append(
                    f"{operation} of {_described(x)} and {_described(y)}: {got}, not {want}"
                )
    finally:
        flamec.set_default_dtype(flamec.float32)
        torch.set_default_dtype(torch.float32)
    assert not wrong, "\n".join(wrong)


def test_three_operands() -> None:
    wrong = []
    for names in itertools.product(NAMES, repeat=3):
        x, y, z = (torch.ones(2, dtype=getattr(torch, n)) for n in names)
        a, b, c = (flamec.ones(2, dtype=getattr(flamec, n)) for n in names)
        try:
            want = str(torch.addcmul(x, y, z).dtype)
        except (RuntimeError, TypeError):
            continue
        got = str(flamec.addcmul(a, b, c).dtype)
        if got.split(".")[1] != want.split(".")[1]:
            wrong.append(f"addcmul of {names}: {got}, not {want}")
    assert not wrong, "\n".join(wrong)


def test_casts_and_promotion_of_dtypes() -> None:
    for a, b in itertools.product(NAMES, repeat=2):
        x, y = getattr(torch, a), getattr(torch, b)
        mine = flamec.promote_types(getattr(flamec, a), getattr(flamec, b))
        assert mine.name == str(torch.promote_types(x, y)).split(".")[1]
        assert flamec.can_cast(getattr(flamec, a), getattr(flamec, b)) == torch.can_cast(x, y)


def test_numbers_of_numpy() -> None:
    import numpy as np

    for number in (np.float64(2), np.float32(2), np.int64(2)):
        for name in NAMES:
            x = torch.ones(2, dtype=getattr(torch, name))
            a = flamec.ones(2, dtype=getattr(flamec, name))
            assert str((a * number).dtype).split(".")[1] == str((x * number).dtype).split(".")[1]
