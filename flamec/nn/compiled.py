"""CompiledModule: a module whose call runs as compiled programs.

Made by ``flamec.compile(module)``. As in PyTorch, the module itself is the
submodule ``_orig_mod``, and attributes that are not found here are its.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.nn.module import Module


class CompiledModule(Module):
    """Calls ``module`` through ``run`` (a compiled function of the same arguments)."""

    def __init__(self, module: Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self._orig_mod = module
        object.__setattr__(self, "compiled", run)
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.compiled(*args, **kwargs)

    @property
    def stats(self) -> Any:
        """Counters of the compiled function."""
        return self.compiled.stats

    @property
    def programs(self) -> Any:
        """The compiled variants."""
        return self.compiled.programs

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_orig_mod"), name)
