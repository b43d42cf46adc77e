"""Programs over symbolic sizes, made as users get them: by calls with different ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flamec


def symbolic_program(function: Callable[..., Any]) -> Any:
    """A function of a matrix, compiled to C once with both sizes symbolic (two traces)."""
    compiled = flamec.compile(function, backend="c", fullgraph=True)
    for shape in ((3, 5), (4, 7)):
        compiled(flamec.ones(*shape))
    return compiled
