"""Windows: dtypes, options, in compiled functions."""

from __future__ import annotations

from typing import Any

import pytest

import flamec


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_windows_of_other_dtypes_are_rounded_once(dtype: str) -> None:
    exact = flamec.hann_window(9, dtype=flamec.float64)
    found = flamec.hann_window(9, dtype=getattr(flamec, dtype))
    assert found.dtype is getattr(flamec, dtype)
    assert found.tolist() == exact.to(found.dtype).tolist()


def test_options() -> None:
    assert flamec.hann_window(4, requires_grad=True).requires_grad
    assert flamec.signal.windows.hann(4, requires_grad=True).requires_grad
    assert flamec.hann_window(window_length=4, layout=flamec.strided, device="cpu").numel() == 4


def test_a_compiled_function_has_its_window() -> None:
    def run(x: Any) -> Any:
        return x * flamec.hann_window(8) + flamec.signal.windows.kaiser(8)

    x = flamec.arange(8.0)
    assert flamec.compile(run)(x).tolist() == pytest.approx(run(x).tolist())
