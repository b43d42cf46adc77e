"""PyTorch's switches of libraries: ``torch.backends``.

What they say of float32 on a GPU holds here, too: ``fp32_precision`` is ``"ieee"``, ``"tf32"`` or
``"none"``, and what is ``"none"`` is asked of the next wider one: ``cuda.matmul.fp32_precision``,
``cudnn.conv.fp32_precision`` and ``cudnn.rnn.fp32_precision`` of ``cudnn.fp32_precision``, that of
``backends.fp32_precision``. ``cuda.matmul.allow_tf32`` (False) and ``cudnn.allow_tf32`` (True) are
the older names. Convolutions follow ``conv``, everything else that is multiplied ``matmul``,
recurrent layers among them: ``rnn`` can be set and chooses nothing.

Nor do the other switches, which can be set and read: flamec calls no cuDNN, its results do not vary
from run to run (``deterministic`` of ``compile``), and schedules are tried out by
``compile(mode=...)`` alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from flamec.attention_switches import switches
from flamec.float32_precision import (
    allow_tf32,
    allows_tf32,
    precision_for,
    restore_settings,
    saved_settings,
    set_precision,
)
from flamec.namespace import namespace

__all__ = ["cuda", "cudnn", "flags", "mkl", "mkldnn", "mps", "openmp"]


class _Precision:
    """A place where the precision of some operations is set; other attributes are refused."""

    __slots__ = ("_kind",)

    def __init__(self, kind: str) -> None:
        self._kind = kind

    @property
    def fp32_precision(self) -> str:
        """How a GPU multiplies float32: ``"ieee"``, ``"tf32"`` or ``"none"``."""
        return precision_for(self._kind)

    @fp32_precision.setter
    def fp32_precision(self, precision: str) -> None:
        set_precision(self._kind, precision)


class _Matmul(_Precision):
    """What programs set for matrix products on a GPU."""

    __slots__ = (
        "allow_bf16_reduced_precision_reduction",
        "allow_fp16_accumulation",
        "allow_fp16_reduced_precision_reduction",
    )

    def __init__(self) -> None:
        super().__init__("matmul")
        self.allow_bf16_reduced_precision_reduction = True
        self.allow_fp16_reduced_precision_reduction = True
        self.allow_fp16_accumulation = False

    @property
    def allow_tf32(self) -> bool:
        """Whether float32 matrices are multiplied as TF32 on a GPU."""
        return allows_tf32(self._kind)

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        allow_tf32(allowed, self._kind)


class _Cudnn(_Precision):
    """What programs set for cuDNN."""

    __slots__ = ("benchmark", "benchmark_limit", "conv", "deterministic", "enabled", "rnn")

    def __init__(self) -> None:
        super().__init__("cuda")
        self.benchmark = False
        self.benchmark_limit = 10
        self.deterministic = self.enabled = True
        self.conv, self.rnn = _Precision("conv"), _Precision("rnn")

    @property
    def allow_tf32(self) -> bool:
        """Whether float32 convolutions are TF32 on a GPU; RuntimeError where ``conv`` and ``rnn``
        differ."""
        return allows_tf32("conv", "rnn")

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        allow_tf32(allowed, "conv", "rnn")

    def is_available(self) -> bool:
        """Whether cuDNN is used: never."""
        return False

    def version(self) -> int | None:
        """The version of cuDNN: None."""
        return None

    @contextmanager
    def flags(
        self,
        enabled: bool = False,
        benchmark: bool = False,
        benchmark_limit: int = 10,
        deterministic: bool = False,
        allow_tf32: bool = True,
        fp32_precision: str = "none",
    ) -> Iterator[None]:
        """Other settings for a block; as in PyTorch, what is not given is set to its default."""
        names = ("enabled", "benchmark", "benchmark_limit", "deterministic")
        saved, others = saved_settings(), [getattr(self, name) for name in names]
        try:
            given = (enabled, benchmark, benchmark_limit, deterministic)
            for name, value in zip(names, given, strict=True):
                setattr(self, name, value)
            self.allow_tf32 = allow_tf32
            self.fp32_precision = fp32_precision
            yield
        finally:
            restore_settings(saved)
            for name, value in zip(names, others, strict=True):
                setattr(self, name, value)


@contextmanager
def flags(fp32_precision: str = "none") -> Iterator[None]:
    """Another ``fp32_precision`` of everything for a block."""
    saved = saved_settings()
    try:
        set_precision("generic", fp32_precision)
        yield
    finally:
        restore_settings(saved)


class _Backends(ModuleType):
    """The module, whose ``fp32_precision`` is a setting."""

    @property
    def fp32_precision(self) -> str:
        """How a GPU multiplies float32 where nothing narrower is set."""
        return precision_for("generic")

    @fp32_precision.setter
    def fp32_precision(self, precision: str) -> None:
        set_precision("generic", precision)


def _no_device(*_: Any) -> bool:
    """Whether there is such a device or library: never."""
    return False


def _is_built() -> bool:
    """Whether programs can run on NVIDIA GPUs, if there are any."""
    return True


cudnn = _Cudnn()
sys.modules["flamec.backends.cudnn"] = cudnn  # type: ignore[assignment]  # import flamec.backends.cudnn
cuda = namespace(
    "flamec.backends.cuda",
    "Switches of CUDA's libraries.",
    matmul=_Matmul(),
    is_built=_is_built,
    **switches(),
)
mps = namespace(
    "flamec.backends.mps", "Apple's GPUs.", is_available=_no_device, is_built=_no_device
)
mkl = namespace("flamec.backends.mkl", "Intel's MKL.", is_available=_no_device)
mkldnn = namespace("flamec.backends.mkldnn", "Intel's oneDNN.", is_available=_no_device)
openmp = namespace("flamec.backends.openmp", "OpenMP.", is_available=_no_device)
sys.modules[__name__].__class__ = _Backends
