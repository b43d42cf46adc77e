"""The values of a tensor in Python: item, tolist, numpy, bool, int, float, format.

While a function is compiled, what has been traced so far is run to give the value
(``segments.py``), or DataDependentError is raised with the user's line. ``item`` alone gives
a number of the program there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flamec.device_array import DeviceArray
from flamec.dispatch import apply_named, tensor_builder, write
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import store
from flamec.functional.promotion import as_tensors, is_number
from flamec.gpu import gpu_of
from flamec.host_numbers import whole_expression_of
from flamec.ir.shape import Dim
from flamec.ir.types import DType, TensorType, bool_, dtype_of_numpy, float64, int64
from flamec.state import thread
from flamec.tensor import RuntimeNumber, Tensor


def concrete_array(tensor: Tensor, what: str, recurs: bool = False) -> np.ndarray:
    """The array of a tensor's values, for ``what`` (named in errors) to read in Python.

    A copy of a tensor on a GPU, after the work on it; a copy in a compiled function, too, which is
    split here (``recurs``: whether the same value is likely to come again).
    """
    if thread.trace is not None:
        found: np.ndarray = thread.trace.read_value(tensor, what, recurs)
        return found
    if tensor._array is None:
        raise OperationError(
            f"{what}: a tensor of a compiled function is used outside it; return it from the "
            f"function instead (at {user_location()})"
        )
    array = tensor._array
    return gpu_of(array).download(array) if isinstance(array, DeviceArray) else array


def numpy(self: Tensor, *, force: bool = False) -> np.ndarray:
    """A NumPy array that shares memory with the tensor (bfloat16 as ml_dtypes' type).

    ``force``: a copy from any device, and of a tensor that requires grad. Without it RuntimeError
    for the latter, TypeError for a tensor on another device.
    """
    if self._type.device.type != "cpu" and not force:
        raise OperationTypeError(
            f"can't convert {self._type.device} device type tensor to numpy. Use Tensor.cpu() to "
            f"copy the tensor to host memory first (at {user_location()})."
        )
    if self.requires_grad and not force:
        raise OperationError(
            "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead "
            f"(at {user_location()})."
        )
    array = concrete_array(self, "numpy()")
    if thread.trace is not None:
        array = thread.trace.lend(self, array)
    return array.view()  # its shape is the caller's to set


def _array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.array(numpy(self), dtype=dtype, copy=copy)


def _array_wrap(
    self: Tensor, array: np.ndarray, context: Any = None, return_scalar: bool = False
) -> Tensor:
    """NumPy's functions of tensors give tensors without history; bools are uint8 as in PyTorch."""
    array = np.asarray(array)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    return Tensor._from_array(array, TensorType(array.shape, dtype_of_numpy(array.dtype)))


def _one_value(self: Tensor, what: str, message: str, recurs: bool = False) -> Any:
    if self.shape.numel() != 1:
        raise OperationError(f"{message} (at {user_location()})")
    array = concrete_array(self, what, recurs)
    value = array.reshape(()).item()
    return float(value) if self._type.dtype.is_floating_point else value


def item(self: Tensor) -> bool | int | float:
    """The value of a tensor with one element, as a Python number.

    In a compiled function a number of the program (``RuntimeNumber``), unless the dtype is bool.
    """
    count = self.shape.numel()
    trace = thread.trace
    gives_number = trace is not None and trace.gives_numbers
    if gives_number and count == 1 and self._type.dtype is not bool_:
        number: Any = RuntimeNumber.of(_detached_number(self))
        return number
    value: bool | int | float = _one_value(
        self, "item()", f"a Tensor with {count} elements cannot be converted to Scalar"
    )
    return value


def tolist(self: Tensor) -> Any:
    """The values as nested lists of Python numbers; a number for a zero-dimensional tensor."""
    array = concrete_array(self, "tolist()")
    return (array.astype(np.float64) if self._type.dtype.is_half else array).tolist()


def _detached_number(tensor: Tensor) -> Tensor:
    """A tensor of the trace with the value of a Python number, that no gradient reaches."""
    dtype = float64 if tensor._type.dtype.is_floating_point else int64
    flat = apply_named("reshape", apply_named("detach", tensor), shape=())
    number: Tensor = apply_named("convert", flat, dtype=dtype)
    return number


def as_size(tensor: Tensor, what: str) -> Dim:
    """The whole number in a tensor, for ``what``, which takes a size: while tracing a symbol, if it
    is not always the same."""
    expression = whole_expression_of(tensor)
    if expression is not None:
        sizes = expression.state.sizes
        return sizes.size(expression) if sizes.serves(expression) else _int(tensor)
    trace = thread.trace
    execution = trace.execution if trace is not None and trace.can_read() else None
    return _int(tensor) if execution is None else execution.read_size(tensor, what)


def all_true(condition: Tensor, what: str) -> bool:
    """Whether a bool tensor is true everywhere, read by ``what``."""
    if thread.trace is None:
        return bool(concrete_array(condition, what).all())
    counts = apply_named("convert", condition, dtype=int64)
    total = apply_named("sum", counts, axes=tuple(range(condition.ndim)))
    count = tensor_builder.constant(condition.shape.numel(), total._type)
    return bool(concrete_array(apply_named("eq", total, count), what))


def required(
    x: Tensor,
    condition: Callable[[Any], Any],
    message: str,
    waits: bool = False,
    error: str = "ValueError",
) -> Tensor:
    """``x``, for whose elements (as an array or a tensor) ``condition`` holds.

    The error, whose ``message`` begins with the operation's name, is an OperationError at once, or
    a RuntimeError and ``error`` of the program. Values on a GPU are looked at in eager mode if
    the caller ``waits`` for them.
    """
    array = x._array
    if thread.trace is not None or array is None:
        result: Tensor = apply_named("require", condition(x), x, message=message, error=error)
        return result
    if isinstance(array, np.ndarray):
        holds = bool(np.all(condition(array)))
    else:
        holds = not waits or all_true(condition(x), message)
    if not holds:
        raise OperationError(f"{message} (at {user_location()})")
    return x


def within(low: float, high: float) -> Callable[[Any], Any]:
    """The condition that elements lie between two numbers, which they may be."""
    return lambda x: (x >= low) & (x <= high)


def truth(tensor: Tensor) -> Tensor:
    """A tensor that is true where ``tensor`` is; while tracing, one of bools."""
    if thread.trace is None or tensor._type.dtype is bool_:
        return tensor
    result: Tensor = tensor_builder.ne(tensor, tensor_builder.full_like(0, tensor._type))
    return result


def _bool(self: Tensor) -> bool:
    amount = "no values" if 0 in self._type.shape else "more than one value"
    message = f"Boolean value of Tensor with {amount} is ambiguous"
    return bool(_one_value(truth(self), "bool()", message))


_ONE_ELEMENT = "only one element tensors can be converted to Python scalars"


def _int(self: Tensor) -> int:
    if thread.trace is not None and self._type.dtype.is_floating_point:
        self = apply_named("trunc", self)
    return int(_one_value(self, "int()", _ONE_ELEMENT, recurs=True))


def _float(self: Tensor) -> float:
    return float(_one_value(self, "float()", _ONE_ELEMENT))


def _complex(self: Tensor) -> complex:
    return complex(_one_value(self, "complex()", _ONE_ELEMENT))


def _index(self: Tensor) -> int:
    message = "only integer tensors of a single element can be converted to an index"
    if self._type.dtype.is_floating_point:
        raise OperationTypeError(f"{message} (at {user_location()})")
    if self.shape.numel() != 1:
        raise OperationTypeError(f"{message} (at {user_location()})")
    return int(concrete_array(self, "an index").reshape(()))


def _format(self: Tensor, spec: str) -> str:
    if not self._type.shape:
        return format(_one_value(self, "format()", _ONE_ELEMENT), spec)
    if spec:
        raise TypeError(
            f"unsupported format string {spec!r} for a tensor of shape {list(self._type.shape)}"
        )
    return str(self)


def _contains(self: Tensor, element: Any) -> bool:
    if not isinstance(element, Tensor) and not is_number(element):
        raise OperationError(
            f"Tensor.__contains__ only supports Tensor or scalar, but you passed in a "
            f"{type(element)} (at {user_location()})"
        )
    found = apply_named("eq", *as_tensors("__contains__", self, element))
    absent = apply_named("eq", found, tensor_builder.full_like(False, found._type))
    return not all_true(absent, "the operator in")


def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is a floating-point type."""
    return input._type.dtype.is_floating_point


def is_complex(input: Tensor) -> bool:
    """Whether the dtype is complex; no dtype is."""
    return False


def real(input: Tensor) -> Tensor:
    """The real part: the tensor itself, as no dtype is complex."""
    return input


def conj_physical(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The conjugate: the tensor itself, as no dtype is complex."""
    return input if out is None else store("conj_physical", input, out)


def conj(input: Tensor) -> Tensor:
    """The conjugate: the tensor itself, as no dtype is complex."""
    return input


def is_signed(input: Tensor) -> bool:
    """Whether the dtype has negative values."""
    dtype: DType = input._type.dtype
    return dtype.is_signed


def is_conj(input: Tensor) -> bool:
    """Whether the tensor is a conjugate view; none is."""
    return False


def is_neg(input: Tensor) -> bool:
    """Whether the tensor is a view of negated values; none is."""
    return False


def resolve_conj(input: Tensor) -> Tensor:
    """The tensor itself, as none is a conjugate view."""
    return input


def resolve_neg(input: Tensor) -> Tensor:
    """The tensor itself, as none is a view of negated values."""
    return input


def is_tensor(obj: Any) -> bool:
    """Whether ``obj`` is a Tensor."""
    return isinstance(obj, Tensor)


def is_nonzero(input: Tensor) -> bool:
    """Whether the only element of ``input`` is not zero; RuntimeError for other sizes."""
    return _bool(input)


def apply_(self: Tensor, callable: Callable[[Any], Any]) -> Tensor:
    """Replace each element by what a Python function makes of it. CPU tensors only; slow."""
    array = _elements(self, "apply_()")
    results = np.array([callable(x) for x in array.reshape(-1).tolist()], array.dtype)
    return _store(self, results.reshape(array.shape), "apply_")


def map_(self: Tensor, other: Tensor, callable: Callable[[Any, Any], Any]) -> Tensor:
    """Replace each element by ``callable(element, element of other)``. CPU tensors only; slow."""
    array = _elements(self, "map_()")
    second = np.broadcast_to(_elements(other, "map_()"), array.shape)
    pairs = zip(array.reshape(-1).tolist(), second.reshape(-1).tolist(), strict=True)
    results = np.array([callable(a, b) for a, b in pairs], array.dtype)
    return _store(self, results.reshape(array.shape), "map_")


def _elements(tensor: Tensor, what: str) -> np.ndarray:
    if tensor.requires_grad:
        raise OperationError(
            f"Can't call {what} on Tensor that requires grad. Use tensor.detach() first "
            f"(at {user_location()})"
        )
    if tensor._type.device.type != "cpu":
        raise OperationTypeError(
            f"{what} is only implemented on CPU tensors (at {user_location()})"
        )
    return concrete_array(tensor, what)


def _store(target: Tensor, array: np.ndarray, name: str) -> Tensor:
    """Write values that were computed in Python."""
    return write(target, Tensor._from_array(array, target._type), name)


TENSOR_METHODS = {
    "is_conj": is_conj,
    "is_neg": is_neg,
    "resolve_conj": resolve_conj,
    "resolve_neg": resolve_neg,
    "numpy": numpy,
    "__array__": _array,
    "__array_wrap__": _array_wrap,
    "item": item,
    "tolist": tolist,
    "__bool__": _bool,
    "__int__": _int,
    "__float__": _float,
    "__complex__": _complex,
    "__index__": _index,
    "__format__": _format,
    "__contains__": _contains,
    "apply_": apply_,
    "map_": map_,
    "conj": conj,
    "conj_physical": conj_physical,
    "conj_physical_": conj_physical,
    "is_floating_point": is_floating_point,
    "is_complex": is_complex,
    "is_signed": is_signed,
    "is_nonzero": is_nonzero,
}
TENSOR_PROPERTIES = {"real": real}
