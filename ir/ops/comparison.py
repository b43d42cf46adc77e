"""Elementwise comparisons of two operands of one dtype: declarations only.

Results are bool; comparisons with NaN are false, except ``ne``. Nothing here
has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flamec.ir.op import Op, OpKind, register
from flamec.ir.ops.elementwise import ANY, elementwise_rule
from flamec.ir.types import bool_


def comparison(
    name: str,
    evaluate: Callable[[np.ndarray, np.ndarray], np.ndarray],
    operator: str,
    commutative: bool = False,
) -> Op:
    """Declare a comparison that Python writes with ``operator``."""
    return register(
        Op(
            name=name,
            kind=OpKind.ELEMENTWISE,
            infer=elementwise_rule(name, 2, ANY, bool_),
            evaluate=lambda attributes, x, y: evaluate(x, y),
            c=f"v{name}_{{t}}({{0}}, {{1}})",
            triton=f"({{0}} {operator} {{1}})",
            commutative=commutative,
            doc=f"x {operator} y.",
        )
    )


comparison("eq", np.equal, "==", commutative=True)
comparison("ne", np.not_equal, "!=", commutative=True)
comparison("lt", np.less, "<")
comparison("le", np.less_equal, "<=")
comparison("gt", np.greater, ">")
comparison("ge", np.greater_equal, ">=")
