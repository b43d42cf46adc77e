"""``testing.assert_close`` accepts and refuses what PyTorch's does, and says the same."""

from __future__ import annotations

import re
from typing import Any

import pytest
from torch_comparison import torch

import flamec

CASES = """
T([1.0, 2.0]), T([1.0, 2.5])
T([1.0, 2.0]), T([1.0, 2.0 + 1e-6])
T([1.0, 2.0]), T([1.0, 2.0]).double()
T([1.0, 2.0]), T([1.0, 2.0]).double(), check_dtype=False
T([1.0, 2.0]), T([1.0])
T([[1.0, 2.0], [3.0, 4.0]]), T([[1.0, 2.1], [3.0, 9.0]])
T([[1.0, 2.0], [3.0, 4.0]]), T([[1.0, 2.1], [3.0, 4.3]]), rtol=0.0, atol=0.2
T([1.0, 2.0]), T([1.1, 2.1]), rtol=0.2, atol=0.0
T([float("nan")]), T([float("nan")])
T([float("nan")]), T([float("nan")]), equal_nan=True
T([float("inf")]), T([float("inf")])
T([float("inf"), 1.0]), T([1.0, float("inf")])
T([1, 2]), T([1, 3])
T([1, 2]), T([1, 2])
T([True, False]), T([True, True])
T([1.0]).half(), T([1.0009]).half()
T([1.0]).half(), T([1.01]).half()
T([1.0]).bfloat16(), T([1.008]).bfloat16()
T([]), T([])
T(1.0), T(2.0)
1.0, 2.0
1, 1
1, 2
[T([1.0]), T([2.0])], [T([1.0]), T([3.0])]
(T([1.0]), 2.0), (T([1.0]), 2.0)
[T([1.0])], [T([1.0]), T([1.0])]
{"a": T([1.0]), "b": [T([2.0])]}, {"a": T([1.0]), "b": [T([2.5])]}
{"a": T([1.0])}, {"b": T([1.0])}
T([[1.0, 2.0], [3.0, 4.0]]).t(), T([[1.0, 3.0], [2.0, 4.0]])
T([[1.0, 2.0], [3.0, 4.0]]).t(), T([[1.0, 3.0], [2.0, 4.0]]), check_stride=True
T([1.0]), T([2.0]), rtol=1.0
T([1.0]), T([2.0]), msg="they differ"
T([1.0]), T([2.0]), msg=lambda text: text.splitlines()[2]
None, None
None, T([1.0])
"""


def outcome(package: Any, case: str) -> tuple[str, str]:
    """What is raised, and its text without the package's name."""
    try:
        exec(f"assert_close({case})", {"T": package.tensor, **vars(package.testing)})
    except Exception as error:
        return type(error).__name__, str(error).replace("torch.", "").replace("flamec.", "")
    return "", ""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_assert_close(case: str) -> None:
    (kind, text), (wanted, other) = outcome(flamec, case), outcome(torch, case)
    assert kind == wanted, (text, other)
    if "difference" in other or "attribute" in other:
        for mine, theirs in zip(text.splitlines(), other.splitlines(), strict=True):
            digits = re.compile(r"\d+\.\d+(e-?\d+)?")
            assert digits.sub("#", mine) == digits.sub("#", theirs)
            numbers = [float(n.group()) for n in digits.finditer(mine)]
            assert numbers == pytest.approx(
                [float(n.group()) for n in digits.finditer(theirs)], rel=1e-3
            )
