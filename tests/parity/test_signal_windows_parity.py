"""``signal.windows`` and ``hann_window`` and its like against PyTorch: values, options, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

WINDOWS = [
    "bartlett({M}, sym={s})", "blackman({M}, sym={s})", "cosine({M}, sym={s})",
    "exponential({M}, sym={s})", "exponential({M}, tau=3.0, sym={s})",
    "exponential({M}, center=1, tau=0.7, sym=False)", "gaussian({M}, sym={s})",
    "gaussian({M}, std=2.5, sym={s})", "general_cosine({M}, a=[0.4, 0.3, 0.2, 0.1], sym={s})",
    "general_hamming({M}, sym={s})", "general_hamming({M}, alpha=0.7, sym={s})",
    "hamming({M}, sym={s})", "hann({M}, sym={s})", "kaiser({M}, sym={s})",
    "kaiser({M}, beta=0.0, sym={s})", "kaiser({M}, beta=30.0, sym={s})", "nuttall({M}, sym={s})",
]  # fmt: skip
OF_PACKAGE = [
    "bartlett_window({M}, {s})", "blackman_window({M}, {s})", "hamming_window({M}, {s})",
    "hamming_window({M}, {s}, 0.5, 0.4)", "hamming_window({M}, periodic={s}, alpha=0.6)",
    "hann_window({M}, {s})", "kaiser_window({M}, {s})", "kaiser_window({M}, {s}, beta=3.0)",
]  # fmt: skip
LENGTHS = [0, 1, 2, 3, 8, 33]


def call(package: Any, text: str, length: int, flag: bool, **options: Any) -> Any:
    text = text.format(M=length, s=flag)
    place = package if "_window(" in text else package.signal.windows
    return eval(f"place.{text[:-1]}, **options)", {"place": place, "options": options})


@pytest.mark.parametrize("text", [*WINDOWS, *OF_PACKAGE])
def test_values(text: str) -> None:
    for length in LENGTHS:
        for flag in (True, False):
            wanted = call(torch, text, length, flag, dtype=torch.float64)
            found = call(flamec, text, length, flag, dtype=flamec.float64)
            assert found.dtype is flamec.float64 and tuple(found.shape) == (length,)
            np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-12, atol=1e-14)
            assert call(flamec, text, length, flag).dtype is flamec.float32


def test_every_window_is_tested() -> None:
    names = {text.partition("(")[0] for text in WINDOWS}
    assert set(torch.signal.windows.__all__) == names == set(flamec.signal.windows.__all__)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hann_window(-1)", RuntimeError),
        ("hann_window(4, dtype=p.int64)", RuntimeError),
        ("hann_window(4.0)", TypeError),
        ("signal.windows.hann(-1)", ValueError),
        ("signal.windows.hann(4, dtype=p.float16)", ValueError),
        ("signal.windows.hann(4.0)", TypeError),
        ("signal.windows.hann(4, True)", TypeError),
        ("signal.windows.exponential(4, tau=0.0)", ValueError),
        ("signal.windows.exponential(4, center=1.0)", ValueError),
        ("signal.windows.gaussian(4, std=0.0)", ValueError),
        ("signal.windows.general_cosine(4, a=[])", ValueError),
        ("signal.windows.general_cosine(4, a=3)", TypeError),
        ("signal.windows.kaiser(4, beta=-1.0)", ValueError),
    ],
)
def test_refused_as_in_pytorch(text: str, error: type[Exception]) -> None:
    for package in (torch, flamec):
        with pytest.raises(error):
            eval(f"p.{text}", {"p": package})
