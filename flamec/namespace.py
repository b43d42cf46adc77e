"""Namespaces that exist because PyTorch has them: modules made of names defined elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

__all__ = ["file_namespaces", "namespace"]


def namespace(name: str, doc: str, **members: Any) -> ModuleType:
    """A real module called ``name``, so that it can be imported from."""
    module = ModuleType(name, doc)
    module.__dict__.update(members, __all__=sorted(members))
    sys.modules[name] = module
    return module


def file_namespaces(
    package: str, files: Mapping[str, str], members: Mapping[str, Any]
) -> dict[str, ModuleType]:
    """The modules that PyTorch has below ``package``, from which programs import.

    ``files``: the names in each of them, which are ``members`` of the package here.
    """
    return {
        file: namespace(
            f"{package}.{file}", "As in PyTorch.", **{name: members[name] for name in names.split()}
        )
        for file, names in files.items()
    }
