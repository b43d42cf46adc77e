"""GPUs for tests of tensors: simulated ones anywhere, the real one with ``-m gpu``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import simulated_gpu

from flamec.ir.types import Device
from flamec.runtime.cuda.driver import unavailable_reason

_REASON = unavailable_reason()
_REAL = pytest.param(
    "real",
    marks=[pytest.mark.gpu, pytest.mark.skipif(_REASON is not None, reason=str(_REASON))],
)


@pytest.fixture(params=["simulated", _REAL])
def gpu(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A GPU that tensors can be put on."""
    if request.param == "simulated":
        simulated_gpu.install(monkeypatch)
    yield Device("cuda", 0)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[simulated_gpu.SimulatedGpu]:
    """Two simulated GPUs, and no real ones."""
    return simulated_gpu.install(monkeypatch)
