"""``examples/gpt2.py`` in flamec and in PyTorch, as the benchmarks have it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def _twin() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "gpu" / "gpt2.py"
    specification = importlib.util.spec_from_file_location("gpt2_twin", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


_module = _twin()
SOURCE, example, set_weights = _module.SOURCE, _module.example, _module.set_weights
