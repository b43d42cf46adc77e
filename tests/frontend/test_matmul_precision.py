"""``set_float32_matmul_precision``: what it accepts, and what is compiled again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import flamec
from flamec.ir.types import Device


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    flamec.set_float32_matmul_precision("highest")


def test_names() -> None:
    assert flamec.get_float32_matmul_precision() == "highest"
    for name in ("high", "medium", "highest"):
        flamec.set_float32_matmul_precision(name)
        assert flamec.get_float32_matmul_precision() == name
    for wrong in ("tf32", "HIGH", None):
        with pytest.raises(ValueError, match="'highest', 'high' or 'medium'"):
            flamec.set_float32_matmul_precision(wrong)


@pytest.mark.parametrize(("dtype", "traces"), [(flamec.float32, 2), (flamec.bfloat16, 1)])
def test_a_change_compiles_products_of_float32_again(
    gpu: Device, dtype: flamec.dtype, traces: int
) -> None:
    compiled = flamec.compile(lambda x, y: x @ y)
    x = flamec.ones(4, 8, dtype=dtype, device=gpu)
    y = flamec.ones(8, 4, dtype=dtype, device=gpu)
    assert compiled(x, y).tolist() == [[8.0] * 4] * 4
    flamec.set_float32_matmul_precision("high")
    for _ in range(2):
        assert compiled(x, y).tolist() == [[8.0] * 4] * 4
    assert compiled.stats.traces == traces
    flamec.set_float32_matmul_precision("highest")
    compiled(x, y)
    assert compiled.stats.traces == traces  # the first program is still there


def test_what_has_no_products_is_left_alone(gpu: Device) -> None:
    for function in (lambda x: x + 1, lambda x: (x.cpu() @ x.cpu()).sum()):
        compiled = flamec.compile(function)
        for precision in ("highest", "high"):
            flamec.set_float32_matmul_precision(precision)
            compiled(flamec.ones(4, 4, device=gpu))
        assert compiled.stats.traces == 1


def test_eager_products_follow(gpu: Device) -> None:
    """Programs of single operations are kept for each precision."""
    from flamec import gpu_eager

    x = flamec.ones(4, 4, device=gpu)
    counts = []
    for precision in ("highest", "high", "high"):
        flamec.set_float32_matmul_precision(precision)
        assert (x @ x).tolist() == [[4.0] * 4] * 4
        counts.append(len(gpu_eager._programs))
    assert counts[0] < counts[1] == counts[2]
