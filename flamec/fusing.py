"""``fused``: composite functions that eager mode runs as one program.

In: calls of a function written with primitives. Out: what the function returns, computed by one
program over symbolic sizes, with one for its derivative. Calls share a program if functions,
other arguments, dtypes and ranks are the same and sizes fit (``symbolic_sizes.py``). While a
function is traced, in anomaly mode, and where a call is not a function of its tensors alone, the
body runs as it stands, operation by operation, with the same result.
"""

from __future__ import annotations

import functools
import inspect
import math
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from flamec.device_array import ALIGNMENT, DeviceArray
from flamec.errors import OperationError
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import Device, DType, TensorType
from flamec.state import process, thread
from flamec.tape import tape_value
from flamec.tensor import Tensor
from flamec.watching import unwatched

if TYPE_CHECKING:
    from flamec.fused_call import FusedCall

F = TypeVar("F", bound=Callable[..., Any])

_MOST_CALLS = 4096
_LEAST_ON_CPU = 1 << 15  # elements of the first operand below which NumPy is quick enough
_KINDS = frozenset((DType, Device, TensorType, SymbolicDim))
_SCALARS = frozenset((bool, int, str, type(None)))


class Composite:
    """A function declared with ``fused``.

    ``dimensions``: the names and positions of arguments that are sizes; ``kernels``: of those
    whose sizes are numbers, see ``fused``. ``short``: it is one program only if that is short,
    because compiling a long one takes long.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        dimensions: tuple[str, ...],
        kernels: tuple[str, ...] = (),
        short: bool = False,
    ) -> None:
        self.function = function
        self.short = short
        self.name: str = function.__name__.lstrip("_")
        names = list(inspect.signature(function).parameters) if dimensions or kernels else []
        self.dimensions = tuple((name, names.index(name)) for name in dimensions)
        self.kernels = tuple((name, names.index(name)) for name in kernels)


COMPOSITES: list[Composite] = []


def fused(*dimensions: str, kernels: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Declare that eager mode runs a function as one program where that is possible.

    ``dimensions`` names the arguments that are sizes (``normalized_shape``), so that a program
    serves all of them. ``kernels`` names tensors of whose sizes a program has those below 16 as
    numbers (3x3 windows, images of 3 channels), because others need another program.
    The function may read its arguments, the default dtype, whether gradients are recorded, what
    autocast does and the default generators: nothing else, and not
    what tensors hold.
    """

    def declare(function: F) -> F:
        composite = Composite(function, dimensions, kernels)
        COMPOSITES.append(composite)
        traced = unwatched(function)  # it runs no code of the user

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if thread.trace is None:
                first = args[0] if args else next(iter(kwargs.values()), None)
                if isinstance(first, Tensor):
                    array = first._array
                    if array.__class__ is DeviceArray or array.size >= _LEAST_ON_CPU:
                        result = find(composite, args, kwargs)
                        if result is not None:
                            return result
                return function(*args, **kwargs)
            return traced(*args, **kwargs)

        made: Any = wrapper
        made.composite = composite
        return made

    return declare


class InPlace:
    """A function that writes to its first argument, as one program.

    ``function`` does the same operation by operation. Called, it says whether the program has run;
    if not, nothing was done, and the caller does it in another way, with all checks and errors.
    The program writes where the tensor lies, so that needs no more memory than the tensor has.
    ``on_cpu``: whether that is worth a program on the CPU, too.
    """

    def __init__(
        self,
        function: Callable[..., object],
        dimensions: tuple[str, ...] = (),
        on_cpu: bool = True,
    ) -> None:
        self.composite = Composite(function, dimensions, short=not on_cpu)
        self._least_on_cpu = _LEAST_ON_CPU if on_cpu else math.inf

    def __call__(self, target: Tensor, *args: Any, **kwargs: Any) -> bool:
        array = target._array
        if thread.trace is not None or array is None:
            return False
        if array.__class__ is DeviceArray:
            if not array.c_contiguous and 0 in array.strides:  # elements share a place
                return False
        elif array.size < self._least_on_cpu or not _is_plain(array.flags):
            return False
        return find(self.composite, (target, *args), kwargs) is not None


def _is_plain(flags: Any) -> bool:
    return flags.c_contiguous and flags.writeable


def in_place(function: Callable[..., Any], store: Callable[[Tensor, Tensor], Any]) -> InPlace:
    """The form of a function whose result is put into its first argument by ``store``: on a GPU one
    program, on the CPU of functions that are ones without that."""
    composite: Composite | None = getattr(function, "composite", None)

    @functools.wraps(function if composite is None else composite.function)
    def stored(target: Tensor, *args: Any, **kwargs: Any) -> None:
        store(target, function(target, *args, **kwargs))

    dimensions = () if composite is None else tuple(name for name, _ in composite.dimensions)
    stored.__name__ = f"{stored.__name__.strip('_')}_"
    return InPlace(stored, dimensions, on_cpu=composite is not None)


def into(function: Callable[..., Any], store: Callable[[Tensor, Any], Any]) -> InPlace:
    """The form of a function on a GPU whose result is put by ``store`` into an argument before the
    function's own."""

    def stored(target: Tensor, *args: Any, **kwargs: Any) -> None:
        store(target, function(*args, **kwargs))

    stored.__name__ = function.__name__
    return InPlace(stored, on_cpu=False)


class _Calls(threading.local):
    """The thread's calls by key; None for one that is not fused. They hold addresses."""

    def __init__(self) -> None:
        self.known: dict[Any, FusedCall | None] = {}


_calls = _Calls()


def find(composite: Composite, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a call that is fused; None if it is not.

    A call that fails is not: operation by operation it fails with an error of the function's own.
    """
    found = _bound(composite, args, kwargs)
    if found is None:
        return None
    try:
        return found[0](found[1])
    except (IndexError, ZeroDivisionError, OperationError):
        if found[0].on_gpu:  # an error of an operation before this one
            raise
        return None


def program_call(function: Any, args: tuple[Any, ...]) -> Any:
    """What runs a composite, which is recorded for no operand, as one program on a GPU; else None.

    It takes the operands' arrays; see ``EagerCall``.
    """
    found = _bound(function.composite, args, {})
    return None if found is None else found[0].plain_call


def _bound(
    composite: Composite, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[FusedCall, list[Tensor]] | None:
    """What runs a call as one program, and its tensors; None if nothing does."""
    recording = thread.grad_enabled
    key: list[Any] = [
        composite,
        recording,
        process.float32_precision,
        process.default_dtype,
        id(thread.autocast),  # equal states are one object, which is kept
    ]
    tensors: list[Tensor] = []
    values: Sequence[Any] = args
    if kwargs:
        values = (*args, *kwargs.values())
        key.append(tuple(kwargs))
    for value in values:
        if isinstance(value, Tensor):
            array = value._array
            if array is None:
                return None
            key.append(value._type._number or value._type.number)
            if array.__class__ is DeviceArray:
                if not array.c_contiguous or array.address % ALIGNMENT:
                    key.append((array.strides, array.address % ALIGNMENT))
            elif not array.flags.c_contiguous:
                key.append(array.strides)
            if recording and (
                value._requires_grad or value._value is not None or value._storage.value is not None
            ):
                tracked = value._type.dtype.is_floating_point and tape_value(value) is not None
                if tracked:
                    key.append(True)
            tensors.append(value)
            continue
        if value.__class__ in _SCALARS:
            key.append(value.__class__)  # of which no other part is one
            key.append(value)
            continue
        try:
            key.append(constant_key(value))
        except TypeError:
            return None
    complete = tuple(key)
    known = _calls.known
    try:
        call = known[complete]
    except KeyError:
        if process.anomaly is not None:
            return None
        from flamec.fused_call import bind

        call = bind(composite, args, kwargs, tensors)
        if len(known) >= _MOST_CALLS:
            known.clear()
        known[complete] = call
    if call is None or process.anomaly is not None:
        return None
    if call.writes and not call.accepts(tensors):
        return None
    return call, tensors


def constant_key(value: Any) -> Any:
    """A key in which 1, 1.0 and True, 0.0 and -0.0 differ; TypeError for what is no constant."""
    kind = value.__class__
    if kind in _SCALARS:
        return (kind, value)
    if kind is float:
        return value.hex()
    if kind is tuple or kind is list or isinstance(value, tuple):
        return (kind, *map(constant_key, value))
    if kind in _KINDS:
        return value
    raise TypeError(f"{kind.__name__} is no constant")
