"""What programs leave to the host, by the operations' own NumPy meaning.

In: a plan's ``HostCall`` and its operands. Out: its results. Errors are those of eager mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flamec.errors import OperationError, operation_error
from flamec.ir.evaluate import run_op
from flamec.ir.op import lookup
from flamec.ir.plan import HostCall
from flamec.ir.types import TensorType, dtype_of_numpy


def evaluate_host_call(call: HostCall, operands: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The results; OperationError and its kin with the line of the operation."""
    try:
        op = lookup(call.op)
    except KeyError:
        raise OperationError(
            f"the program calls the kernel {call.op}, which is not declared in this process; "
            "import the module that declares it"
        ) from None
    types = tuple(TensorType(a.shape, dtype_of_numpy(a.dtype)) for a in operands)
    attributes: Mapping[str, Any] = call.attributes
    try:
        return run_op(op, attributes, operands, op.infer_types(types, attributes))
    except (TypeError, ValueError, IndexError) as error:
        raise operation_error(op.name, error, call.location) from error
