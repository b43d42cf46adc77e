"""Mixed precision: which functions cast their operands while autocast is on, and to what.

``autocasts`` states the policy of a public function where it is defined, for each type
of device. In an autocast region the function's floating-point operands on that device
are converted before it runs, and its own body runs with autocast off; functions without
a policy take operands as they come. float64 is never touched. Policies are PyTorch's:
"Automatic Mixed Precision package", section "Autocast Op Reference".

The conversions are ``convert`` nodes whose attribute ``autocast`` names the policy; the
pass ``ir/passes/autocast.py`` makes them plain.
"""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.primitives import ops
from flamec.ir.types import DType, float32, float64
from flamec.state import thread
from flamec.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])


class Policy(enum.Enum):
    """What becomes of a function's operands in an autocast region."""

    LOWER = "lower_precision"  # the region's dtype: matrix products, which are fast in it
    FLOAT32 = "float32"  # sums, powers, losses, which need range or precision
    WIDEST = "widest"  # float32 if any operand is, so that the operands agree
    REFUSED = "refused"  # the derivative overflows in lower precision, wherever it is computed


LOWER, FLOAT32, WIDEST, REFUSED = Policy


def autocasts(
    cpu: Policy | None = None, cuda: Policy | None = None, unless: str | None = None
) -> Callable[[F], F]:
    """Declare a function's policy on each type of device; None: operands as they come.

    ``unless``: the argument that, if true, leaves operands as they come, too. The function gets
    two attributes: ``autocast_policies`` (device type -> Policy) and ``without_autocast``, itself
    with autocast off, which in-place forms are made of.
    """
    policies = {d: p for d, p in (("cpu", cpu), ("cuda", cuda)) if p is not None}

    def declare(function: F) -> F:
        signature = inspect.signature(function)

        def casts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
            return unless is None or not signature.bind(*args, **kwargs).arguments.get(unless)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if thread.autocast.enabled:
                return _call(function, policies, args, kwargs, casts(args, kwargs))
            return function(*args, **kwargs)

        @functools.wraps(function)
        def without_autocast(*args: Any, **kwargs: Any) -> Any:
            if thread.autocast.enabled:
                return _call(function, policies, args, kwargs, casts=False)
            return function(*args, **kwargs)

        made: Any = wrapper
        made.autocast_policies = policies
        made.without_autocast = without_autocast
        return made

    return declare


def without_autocast(function: F) -> F:
    """The function with autocast off, for forms that compute in the dtypes they are given."""
    return getattr(function, "without_autocast", function)


def _call(
    function: Callable[..., Any],
    policies: Mapping[str, Policy],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    casts: bool = True,
) -> Any:
    """Call ``function`` on operands cast by its policy; as they are where ``out`` is given."""
    state = thread.autocast
    device = _device_type((*args, *kwargs.values()))
    policy = policies.get(device or "")
    if policy is None or device not in state.enabled:
        return function(*args, **kwargs)
    if casts and kwargs.get("out") is None:
        if policy is REFUSED:
            raise OperationError(
                f"{function.__name__} is unsafe to autocast, because its derivative is often not "
                "representable in lower precision: use binary_cross_entropy_with_logits (in which "
                f"the sigmoid is part of the loss) instead (at {user_location()})"
            )
        dtype = _target(function.__name__, policy, device, (*args, *kwargs.values()))
        cast = functools.partial(_cast, dtype=dtype, device=device, policy=policy)
        args = tuple([_converted(x, cast) for x in args])
        kwargs = {name: _converted(x, cast) for name, x in kwargs.items()}
    thread.autocast = state.with_enabled(device, False)
    try:
        return function(*args, **kwargs)
    finally:
        thread.autocast = state


def _operands(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, and in lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _operands(value)


def device_type(tensor: Tensor) -> str:
    """The type of device whose policies hold for a tensor."""
    return tensor._type.device.type


def _device_type(values: Iterable[Any]) -> str | None:
    """The type of device on which a call runs: the first tensor's."""
    first = next(_operands(values), None)
    return None if first is None else device_type(first)


def _is_eligible(tensor: Tensor, device: str) -> bool:
    dtype = tensor._type.dtype
    return device_type(tensor) == device and dtype.is_floating_point and dtype is not float64


def _target(name: str, policy: Policy, device: str, values: Iterable[Any]) -> DType:
    lower = thread.autocast.dtype(device)
    if policy is LOWER:
        return lower
    if policy is FLOAT32:
        return float32
    found = {t._type.dtype for t in _operands(values) if _is_eligible(t, device)}
    if float32 in found:
        return float32
    if found - {lower}:
        raise OperationTypeError(
            f"{name}: an operand is {(found - {lower}).pop().name}, but the autocast region "
            f"computes in {lower.name} (at {user_location()})"
        )
    return lower


def _converted(value: Any, cast: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return cast(value)
    if isinstance(value, (list, tuple)) and any(True for _ in _operands(value)):
        return type(value)(_converted(x, cast) for x in value)
    return value


def _cast(tensor: Tensor, dtype: DType, device: str, policy: Policy) -> Tensor:
    """``tensor`` in ``dtype``; a float32 leaf that needs gradients is cast once a region.

    One cast has one derivative: gradients of several uses are summed in ``dtype`` and
    reach the leaf in the leaf's own dtype. A leaf that was written to is cast again.
    """
    if not _is_eligible(tensor, device) or tensor._type.dtype is dtype:
        return tensor
    kept = (
        thread.autocast.cache_enabled
        and len(thread.autocast_regions) > 0
        and tensor._requires_grad
        and tensor._type.dtype is float32
        and policy is LOWER
        and not tensor._steps
    )
    if not kept:
        return ops.convert(tensor, dtype=dtype, autocast=policy.value)
    trace = thread.trace
    casts = thread.autocast_casts if trace is None else trace.autocast_casts
    version = tensor._storage.version if trace is None else trace.root_of(tensor).version
    key = (id(tensor), dtype, thread.grad_enabled)
    known = casts.get(key)
    if known is None or known[1] != version:
        result = ops.convert(tensor, dtype=dtype, autocast=policy.value)
        known = casts[key] = (tensor, version, result)  # holds the tensor: its id stays its own
    return known[2]


def clear_casts() -> None:
    """Forget the casts of parameters that are kept."""
    thread.autocast_casts.clear()
    if thread.trace is not None:
        thread.trace.autocast_casts.clear()
