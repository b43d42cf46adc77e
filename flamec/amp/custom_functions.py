"""``custom_fwd`` and ``custom_bwd``: custom functions in an autocast region."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flamec.autocast_mode import autocast
from flamec.ir.types import DType, float64
from flamec.state import thread
from flamec.structures import map_leaves
from flamec.tensor import Tensor

__all__ = ["custom_bwd", "custom_fwd"]


def custom_fwd(
    fwd: Callable[..., Any] | None = None, *, device_type: str, cast_inputs: DType | None = None
) -> Any:
    """Decorate ``Function.forward``: in a region, floating-point arguments on the device are cast
    to ``cast_inputs`` and the body runs with autocast off; without ``cast_inputs`` it runs in the
    region's state, which ``custom_bwd`` restores in backward.
    """
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    def cast(value: Any) -> Any:
        wanted = (
            isinstance(value, Tensor)
            and value.dtype.is_floating_point
            and value.dtype is not float64
            and value.device.type == device_type
        )
        return value.to(cast_inputs) if wanted else value

    @functools.wraps(fwd)
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        state = thread.autocast
        enabled = device_type in state.enabled
        ctx._dtype = state.dtype(device_type)
        if cast_inputs is None or not enabled:
            ctx._fwd_used_autocast = enabled
            return fwd(ctx, *args, **kwargs)
        ctx._fwd_used_autocast = False
        with autocast(device_type, enabled=False):
            return fwd(ctx, *map_leaves(cast, args), **map_leaves(cast, kwargs))

    return forward


def custom_bwd(bwd: Callable[..., Any] | None = None, *, device_type: str) -> Any:
    """Decorate ``Function.backward``: it runs in the autocast state that ``forward`` ran in."""
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def backward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        with autocast(device_type, dtype=ctx._dtype, enabled=ctx._fwd_used_autocast):
            return bwd(ctx, *args, **kwargs)

    return backward
