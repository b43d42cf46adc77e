"""Which version this is: ``torch.version``.

``cuda``: the newest CUDA that NVIDIA's driver runs, such as ``"12.8"``, or None where no GPU can be
used; flamec is built without CUDA's libraries, so there is no version that it was built for.
``git_version``: ``"Unknown"``, as PyTorch says of what was not built in a checkout.
"""

from __future__ import annotations

import sys
from types import ModuleType

from flamec import __version__
from flamec.runtime.cuda.driver import cuda_version

__all__ = ["__version__", "cuda", "debug", "git_version", "hip", "rocm", "xpu"]

git_version = "Unknown"
debug = False
hip: str | None = None
rocm: str | None = None
xpu: str | None = None
cuda: str | None


class _Version(ModuleType):
    """The module: the driver is loaded when it is asked for."""

    @property
    def cuda(self) -> str | None:
        """The newest CUDA that the driver runs; None without a GPU."""
        return cuda_version()


sys.modules[__name__].__class__ = _Version
