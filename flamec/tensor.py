"""The Tensor: one class for concrete arrays and for values of a trace.

A concrete tensor holds a NumPy array (possibly a strided view). While tracing,
a tensor holds an IR value instead. Tensors that share memory share one
``Storage``; a view remembers the steps that lead to it from the storage's
base, which is how a write through one view reaches all the others without
mutation inside the IR (see ``dispatch.py``).

Operations are not defined here: ``methods.py`` attaches them from
``flamec.functional``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from flamec.errors import is_framework_file, warn_user
from flamec.guarded_values import MISSING
from flamec.ir.graph import Location, Value
from flamec.ir.op import Op
from flamec.ir.shape import Dim, text_for
from flamec.ir.types import CPU, Device, DType, TensorType, dtype_of_numpy
from flamec.state import thread

if TYPE_CHECKING:
    from flamec.trace import Trace

ViewStep = tuple[Op, dict[str, Any]]


class Size(tuple[Dim, ...]):
    """A shape; prints and behaves as PyTorch's ``torch.Size``."""

    __slots__ = ()

    def numel(self) -> Dim:
        """The number of elements of an array of this shape."""
        count: Dim = 1
        for dim in self:
            count = count * dim
        return count

    def __getitem__(self, item: Any) -> Any:
        result = super().__getitem__(item)
        return Size(result) if isinstance(item, slice) else result

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, tuple):
            what = type(other).__name__
            raise TypeError(f"can only concatenate tuple (not {what}) to flamec.Size")
        return Size(super().__add__(other))

    def __radd__(self, other: Any) -> Any:
        return Size(other + tuple(self)) if isinstance(other, tuple) else NotImplemented

    def __mul__(self, count: Any) -> Any:
        return Size(super().__mul__(count))

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return _size_text(self, sys._getframe(1))

    def __str__(self) -> str:
        return _size_text(self, sys._getframe(1))


def _size_text(size: Size, frame: FrameType) -> str:
    """What is printed of a shape; see ``ir.shape.text_for``."""
    return f"flamec.Size([{', '.join(text_for(dim, frame) for dim in size)}])"


class Storage:
    """What tensors that share memory have in common.

    ``version`` counts in-place changes, ``writer`` is the user's line of the last
    one. ``value`` is the autograd value of the base tensor (None: not tracked);
    ``base_type`` the base's type; ``base`` its array.
    """

    __slots__ = ("__weakref__", "base", "base_type", "value", "version", "writer")

    def __init__(self, base_type: TensorType, base: Any = None) -> None:
        self.base_type = base_type
        self.base = base
        self.version = 0
        self.writer: Location | None = None
        self.value: Value | None = None


class ExampleStorage(Storage):
    """The memory of what stands for an element of a batch in ``func.vmap``: of ``source``, without
    the dimension ``dim``. ``outer``: the trace that the batch belongs to, or None."""

    __slots__ = ("dim", "outer", "source")

    def __init__(
        self, base_type: TensorType, source: Tensor, dim: int, outer: Trace | None
    ) -> None:
        super().__init__(base_type)
        self.source = source
        self.dim = dim
        self.outer = outer


class Tensor:
    """An n-dimensional array that knows how it was computed.

    Create one with ``flamec.tensor``, ``flamec.zeros`` and the like; ``Tensor(...)`` itself is
    PyTorch's older constructor (``type_names.py``). Methods and operators have the names,
    arguments and results of PyTorch's.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_array",
        "_cached",
        "_grad",
        "_requires_grad",
        "_retains_grad",
        "_steps",
        "_storage",
        "_trace",
        "_type",
        "_value",
        "_value_version",
    )

    _array: Any  # a NumPy array, a DeviceArray on a GPU, or None while tracing
    _storage: Storage
    _steps: tuple[ViewStep, ...]
    _type: TensorType
    _trace: Trace | None
    _value: Value | None
    _value_version: int
    _cached: tuple[int, int, Value] | None
    _requires_grad: bool
    _retains_grad: bool
    _grad: Tensor | None

    __array_priority__ = 1000  # NumPy arrays on the left defer to us

    # construction -------------------------------------------------------------
    @classmethod
    def _from_array(
        cls,
        array: Any,
        type: TensorType | None = None,
        storage: Storage | None = None,
        steps: tuple[ViewStep, ...] = (),
    ) -> Tensor:
        """Wrap an array without copying; a new storage unless one is given."""
        self = object.__new__(cls)
        self._array = array
        if type is None:
            type = TensorType(array.shape, dtype_of_numpy(array.dtype), CPU)
        self._type = type
        self._storage = Storage(type, array) if storage is None else storage
        self._steps = steps
        self._trace = None
        self._value = None
        self._value_version = -1
        self._cached = None
        self._requires_grad = False
        self._retains_grad = False
        self._grad = None
        return self

    def _adopt(self, other: Tensor) -> None:
        """Have the memory and the type of a concrete tensor from now on; no history."""
        self._array, self._type = other._array, other._type
        self._storage, self._steps = other._storage, other._steps
        self._value, self._value_version, self._cached = None, -1, None

    @classmethod
    def _from_trace(
        cls,
        trace: Trace,
        type: TensorType,
        storage: Storage | None = None,
        steps: tuple[ViewStep, ...] = (),
    ) -> Tensor:
        """A tensor without data that stands for a value of ``trace``."""
        self = cls._from_array(_NO_DATA, type, storage, steps)
        self._array = None
        if storage is None:
            self._storage = Storage(type)
        self._trace = trace
        return self

    # description --------------------------------------------------------------
    @property
    def shape(self) -> Size:
        return Size(self._type.shape)

    @property
    def dtype(self) -> DType:
        return self._type.dtype

    @property
    def device(self) -> Device:
        return self._type.device

    @property
    def ndim(self) -> int:
        return len(self._type.shape)

    @property
    def itemsize(self) -> int:
        return self._type.dtype.itemsize

    @property
    def nbytes(self) -> Dim:
        return self.shape.numel() * self.itemsize

    @property
    def is_leaf(self) -> bool:
        """True for tensors that the user made, not an operation recorded for autograd."""
        return self._requires_grad or not self.requires_grad

    @property
    def requires_grad(self) -> bool:
        if self._requires_grad:
            if thread.trace is not None:
                _is_tracked(self)  # which notes that the trace depends on it
            return True
        if not self._type.dtype.is_floating_point:
            return False
        return _is_tracked(self)

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        _set_requires_grad(self, bool(flag))

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient of a leaf, or None."""
        found = self._grad if thread.trace is None else thread.trace.gradients.read(self)
        if found is None and not (self._requires_grad or self._retains_grad) and self.requires_grad:
            warn_user(
                "grad of a tensor that is not a leaf is None: backward() gives gradients to "
                "leaves. Call retain_grad() on it before backward(), or read a leaf's."
            )
        return found

    @grad.setter
    def grad(self, gradient: Tensor | None) -> None:
        if gradient is not None:
            if not isinstance(gradient, Tensor):
                raise TypeError(
                    f"assigned grad must be a Tensor or None, not {type(gradient).__name__}"
                )
            if gradient.shape != self.shape:
                raise RuntimeError(
                    f"assigned grad has shape {list(gradient.shape)}, but the tensor has "
                    f"shape {list(self.shape)}"
                )
            if gradient.dtype is not self.dtype:
                raise RuntimeError(
                    f"assigned grad has dtype {gradient.dtype}, but the tensor has {self.dtype}; "
                    "they must match"
                )
        if thread.trace is not None:
            thread.trace.gradients.write(self, gradient)
        else:
            self._grad = gradient

    @grad.deleter
    def grad(self) -> None:
        self.grad = None

    @property
    def _version(self) -> int:
        return self._storage.version

    # identity -----------------------------------------------------------------
    __hash__ = object.__hash__  # by identity; a function written in Python would be slower

    def __len__(self) -> int:
        if not self._type.shape:
            raise TypeError("len() of a 0-d tensor")
        return int(self._type.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        if not self._type.shape:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self)))

    def __reversed__(self) -> Tensor:
        """What ``reversed(x)`` gives: the rows in the other order, as one tensor."""
        flipped: Tensor = self.flip(0) if self._type.shape else self
        return flipped

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:  # called for attributes that are not there
            trace = thread.trace
            if trace is not None and trace.attributes is not None and name[:2] != "__":
                found = trace.attributes.missing(self, name)
                if found is not MISSING:
                    return found
            kind = type(self).__name__
            message = f"{kind!r} object has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=self)

    if TYPE_CHECKING:  # attached by methods.py

        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __xor__(self, other: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __eq__(self, other: Any) -> Tensor: ...  # type: ignore[override]  # elementwise
        def __ne__(self, other: Any) -> Tensor: ...  # type: ignore[override]  # elementwise
        def __bool__(self) -> bool: ...
        def __float__(self) -> float: ...
        def __int__(self) -> int: ...


class RuntimeNumber(Tensor):
    """A Python number that a compiled program reads anew at each call.

    It exists only while tracing; it promotes as a number, not as a zero-dimensional tensor.
    ``read`` gives the number itself. Its operators are in ``number_operators.py``. To code outside
    of the framework that asks ``isinstance(number, float)`` it is one.
    """

    __slots__ = ()
    __hash__ = Tensor.__hash__
    read: ClassVar[Callable[[RuntimeNumber], Any]]

    if not TYPE_CHECKING:  # which knows no such property

        @property
        def __class__(self) -> type:
            if is_framework_file(sys._getframe(1).f_code.co_filename):
                return RuntimeNumber
            return self._kind

    @property
    def _kind(self) -> type:
        """The class of the number."""
        dtype = self._type.dtype
        return bool if dtype.kind == "bool" else float if dtype.is_floating_point else int

    @staticmethod
    def of(tensor: Tensor) -> Tensor:
        """The same zero-dimensional tensor of a trace, marked as a Python number."""
        if type(tensor) is not RuntimeNumber:
            tensor.__class__ = RuntimeNumber
        return tensor


def is_generator_state(tensor: Tensor, default: bool = False) -> bool:
    """Whether a tensor is the state of a generator of random numbers; of a device's default one."""
    kind = tensor.__dict__.get("_generator")
    return kind == "default" if default else kind is not None


_NO_DATA = np.empty(0, np.float32)

# Set by dispatch.py, which knows about recording; a Tensor does not.
_is_tracked: Callable[[Tensor], bool]
_set_requires_grad: Callable[[Tensor, bool], None]


def connect(
    is_tracked: Callable[[Tensor], bool],
    set_requires_grad: Callable[[Tensor, bool], None],
) -> None:
    """Give tensors the questions that only the dispatcher can answer."""
    global _is_tracked, _set_requires_grad
    _is_tracked = is_tracked
    _set_requires_grad = set_requires_grad
