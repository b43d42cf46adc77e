"""PyTorch's switches of libraries, for programs that set them: ``torch.backends``.

``cuda.matmul.allow_tf32`` and ``cudnn.allow_tf32`` are ``set_float32_matmul_precision``. The others
can be set and read, and choose nothing: flamec calls no cuDNN, its results do not vary from run to
run (``deterministic`` of ``compile``), and schedules are tried out by ``compile(mode=...)`` alone.
"""

from __future__ import annotations

import sys
from typing import Any

from flamec.namespace import namespace
from flamec.state import get_float32_matmul_precision, set_float32_matmul_precision

__all__ = ["cuda", "cudnn", "mps"]


class _Tf32:
    """A switch that can be set as an attribute; others are refused."""

    __slots__ = ()

    @property
    def allow_tf32(self) -> bool:
        """Whether float32 matrices are multiplied as TF32 on a GPU."""
        return get_float32_matmul_precision() != "highest"

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        set_float32_matmul_precision("high" if allowed else "highest")


class _Cudnn(_Tf32):
    """What programs set for cuDNN."""

    __slots__ = ("benchmark", "deterministic", "enabled")

    def __init__(self) -> None:
        self.benchmark = False
        self.deterministic = self.enabled = True

    def is_available(self) -> bool:
        """Whether cuDNN is used: never."""
        return False


def _no_device(*_: Any) -> bool:
    """Whether there is such a device: never."""
    return False


cudnn = _Cudnn()
sys.modules["flamec.backends.cudnn"] = cudnn  # type: ignore[assignment]  # import flamec.backends.cudnn
cuda = namespace("flamec.backends.cuda", "Switches of CUDA's libraries.", matmul=_Tf32())
mps = namespace(
    "flamec.backends.mps", "Apple's GPUs.", is_available=_no_device, is_built=_no_device
)
