"""Namespaces that exist because PyTorch has them: modules made of names defined elsewhere."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__ = ["namespace"]


def namespace(name: str, doc: str, **members: Any) -> ModuleType:
    """A real module called ``name``, so that it can be imported from."""
    module = ModuleType(name, doc)
    module.__dict__.update(members, __all__=sorted(members))
    sys.modules[name] = module
    return module
