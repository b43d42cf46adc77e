"""Tensors as Python objects are copied: copy, deepcopy and pickle.

In: a tensor. Out: another with the same memory, a copy of it, or what pickle stores. Views in
one deepcopy stay views of one memory; nothing that a pickle holds is executed.
"""

from __future__ import annotations

import copy as python_copy
from pickle import PickleBuffer
from typing import Any

import numpy as np

from flamec.conversion import constant_array
from flamec.device_array import DeviceArray
from flamec.dispatch import apply
from flamec.errors import OperationError, user_location
from flamec.functional.arguments import as_device
from flamec.functional.shape import clone
from flamec.gpu import move
from flamec.ir.types import DType, dtype_named
from flamec.state import no_grad, thread
from flamec.tape import is_detached
from flamec.tensor import Storage, Tensor
from flamec.values import concrete_array


def _copied_storage(storage: Storage, memo: dict[int, Any]) -> Storage:
    if id(storage) not in memo:
        assert storage.base is not None
        base = storage.base
        if isinstance(base, DeviceArray):
            base = move(base, base.device)
        else:
            base = np.array(base, order="K")
        memo[id(storage)] = Storage(storage.base_type, base)
    result: Storage = memo[id(storage)]
    return result


def deepcopy(self: Tensor, memo: dict[int, Any]) -> Tensor:
    """A copy of a leaf, of its gradient and of its attributes; views in one copy stay views."""
    if id(self) in memo:
        known: Tensor = memo[id(self)]
        return known
    if not self.is_leaf:
        raise OperationError(
            "Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
            f"protocol at the moment; use clone() (at {user_location()})"
        )
    if thread.trace is not None:
        with no_grad():
            result = clone(self)
    else:
        storage = _copied_storage(self._storage, memo)
        array = storage.base
        view = Tensor._from_array(array, storage.base_type, storage)
        with no_grad():
            for op, attributes in self._steps:
                view = apply(op, (view,), attributes)
        result = type(self)._from_array(view._array, self._type, storage, self._steps)
    memo[id(self)] = result
    result._requires_grad = self._requires_grad
    if self._grad is not None:
        result._grad = python_copy.deepcopy(self._grad, memo)
    result.__dict__.update(python_copy.deepcopy(self.__dict__, memo))
    return result


def shallow_copy(self: Tensor) -> Tensor:
    """Another tensor object with the same memory."""
    if thread.trace is not None or self._array is None:
        raise OperationError(
            f"copy.copy() of a tensor cannot be compiled; use clone() or detach() "
            f"(at {user_location()})"
        )
    result = type(self)._from_array(self._array, self._type, self._storage, self._steps)
    result._requires_grad = self._requires_grad
    result.__dict__.update(self.__dict__)
    return result


def _rebuilt(
    kind: type[Tensor],
    content: bytes | bytearray | memoryview,
    dtype: str,
    shape: tuple[int, ...],
    requires_grad: bool,
    attributes: dict[str, Any],
    device: str = "cpu",
) -> Tensor:
    element: DType = dtype_named(dtype)
    if isinstance(content, bytes):  # cannot be written to
        content = bytearray(content)
    array = np.frombuffer(content, dtype=element.numpy).reshape(shape)
    place = as_device("unpickling", device)
    made = constant_array(array, place)
    result = kind._from_array(made._array, made._type)
    result._requires_grad = requires_grad
    result.__dict__.update(attributes)
    return result


def reduce_ex(self: Tensor, protocol: int) -> tuple[Any, ...]:
    """How pickle stores a tensor: its bytes in row-major order, dtype, shape and device.

    From protocol 5 on the bytes are a buffer, which pickle may leave out of band.
    """
    array = concrete_array(self, "pickling")
    if not self.is_leaf and not is_detached(self._steps) and self.requires_grad:
        raise OperationError(
            "a tensor that was computed from others and requires grad cannot be pickled; "
            f"pickle tensor.detach() (at {user_location()})"
        )
    content: Any = array.tobytes()
    if protocol >= 5 and isinstance(array, np.ndarray):
        content = PickleBuffer(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    arguments = (
        type(self),
        content,
        self._type.dtype.name,
        array.shape,
        self._requires_grad,
        dict(self.__dict__),
        str(self._type.device),
    )
    return _rebuilt, arguments
