"""Modules as state: of which of them a trace guards what it reads.

In: any object. Out: whether it is the user's module, or one of the framework's own.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import numpy as np

from flamec.errors import is_framework_file
from flamec.watching import STDLIB


def is_followed(value: Any) -> bool:
    """Whether what code reads from a module is guarded."""
    return value is np or value is os or is_user_module(value) or is_ours(value)


def is_ours(value: Any) -> bool:
    return isinstance(value, ModuleType) and is_framework_file(getattr(value, "__file__", "") or "")


def is_user_module(value: Any) -> bool:
    if not isinstance(value, ModuleType):
        return False
    file = getattr(value, "__file__", None)
    if file is None or is_framework_file(file) or file.startswith(STDLIB):
        return False
    return not value.__name__.startswith(("numpy", "flamec"))
