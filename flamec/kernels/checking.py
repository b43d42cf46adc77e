"""Compare what a user gave a kernel: forms with each other, rules with what they stand for.

In: a kernel and arguments. Out: the names of the checks that were made. AssertionError says what
differs. The first form (NumPy, else C, else Triton) is what the others are measured by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import flamec
from flamec.debugging.comparison import Results, deviation
from flamec.errors import OperationError, OperationTypeError
from flamec.kernels import c_execution
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.kernels.declaration import Kernel

_MOST_ELEMENTS = 1000  # of whose Jacobians all elements are compared
_UNITS = 64  # of a dtype's precision, relative to a result's largest element


def check(kernel: Kernel, operands: Sequence[Tensor], attributes: dict[str, Any]) -> list[str]:
    """See the module's docstring. The operands are on the CPU, or on a GPU."""
    done = []
    first = _results(kernel(*operands, **attributes))
    on_gpu = operands[0].device.type == "cuda"
    if not on_gpu and kernel.op.kernel is not None and kernel.op.kernel.c and kernel.has_numpy:
        arrays = [np.ascontiguousarray(t.detach().numpy()) for t in operands]
        types = tuple(t._type for t in operands)
        found = c_execution.run(kernel.op, types, kernel.attributes(attributes), arrays)
        _compare(kernel, "the C form", first, [flamec.tensor(a) for a in found])
        done.append("c")
    if on_gpu and (kernel.has_numpy or (kernel.op.kernel is not None and kernel.op.kernel.c)):
        here = _results(kernel(*(t.detach().cpu() for t in operands), **attributes))
        _compare(kernel, "the Triton form", here, [t.cpu() for t in first])
        done.append("triton")

    def function(*given: Tensor) -> Any:
        return kernel(*given, **attributes)

    compiled = flamec.compile(fullgraph=True)(function)
    _compare(kernel, "the compiled kernel", first, _results(compiled(*operands)))
    done.append("compiled")
    batch = [flamec.stack([t, t.flip(0) if t.ndim else t * 2]) for t in operands]
    if kernel.has_batching:
        together = _results(flamec.vmap(function)(*batch))
        for i in range(2):
            one = _results(function(*(t[i] for t in batch)))
            _compare(kernel, "the batching rule", one, [t[i] for t in together])
        done.append("batching")
    if kernel.has_derivative and _check_derivative(function, operands, kernel.has_numpy):
        done.append("derivative")
    return done


def _check_derivative(
    function: Callable[..., Any], operands: Sequence[Tensor], has_numpy: bool
) -> bool:
    """Whether the derivative could be compared with differences, for which it takes float64.

    The NumPy form is asked for it; others are what they are, so their operands are taken as given.
    """
    double = flamec.float64
    if has_numpy:
        operands = [t.detach().cpu() for t in operands]
        operands = [t.to(double) if t.is_floating_point() else t for t in operands]
    floats = [t for t in operands if t.is_floating_point()]
    if not floats or any(t.dtype is not double for t in floats):
        return False
    wanted = [t.detach().clone() for t in operands]
    try:
        function(*wanted)
    except (OperationError, OperationTypeError):  # a kernel for other dtypes only
        return False
    wanted = [t.requires_grad_() if t.is_floating_point() else t for t in wanted]
    elements = sum(t.numel() for t in floats)
    flamec.autograd.gradcheck(function, wanted, fast_mode=elements > _MOST_ELEMENTS)
    return True


def _results(found: Any) -> list[Tensor]:
    return [t.detach() for t in (found if isinstance(found, tuple) else (found,))]


def _compare(kernel: Kernel, what: str, wanted: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    for position, (right, other) in enumerate(zip(wanted, found, strict=True)):
        name = (f"result {position}",)
        pair = [Results(name, (t.cpu().numpy(),)) for t in (right, other)]
        precision = flamec.finfo(right.dtype).eps if right.dtype.is_floating_point else 0.0
        differs = deviation(pair[0], pair[1], _UNITS * precision)
        if differs is not None:
            raise AssertionError(f"{kernel.name}: {what} differs: {differs}")
