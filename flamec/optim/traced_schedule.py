"""``scheduler.step()`` in a compiled function: Python code that each call runs.

A scheduler computes with Python numbers, decides by them and calls the user's functions, so it is
not traced: it is an act of the program (``HostState.act``), at its place among the reads of
learning rates. In: the ``step`` of a scheduler. Out: the same, which in a trace is noted. Its
argument, a metric, may be a tensor of the program: then ``step`` follows the program, and what it
sets is not known in the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from flamec.errors import CompileError, user_location
from flamec.state import thread
from flamec.tensor import RuntimeNumber, Tensor

__all__ = ["repeated"]

_OURS = "flamec.optim."
_RATES = ("lr",)
_MOMENTA = ("momentum", "betas")


def repeated(step: Callable[..., Any]) -> Callable[..., Any]:
    """A ``step`` method that compiled functions repeat at each call."""

    @wraps(step)
    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if thread.trace is None:
            return step(self, *args, **kwargs)
        name = f"{type(self).__name__}.step()"
        host = thread.trace.host
        groups = self.optimizer.param_groups
        if host is None:
            raise CompileError(
                f"{name} is called in a function whose operations alone are repeated, as in vmap, "
                f"scan or a checkpoint (at {user_location()}); call it outside"
            )
        if any(isinstance(group["lr"], Tensor) and not _is_number(group["lr"]) for group in groups):
            raise CompileError(
                f"{name} writes to a learning rate that is a tensor (at {user_location()}): give "
                "the optimizer a number, or call it outside the compiled function"
            )

        count, keywords = len(args), tuple(kwargs)

        def run(*values: Any) -> None:
            step(self, *values[:count], **dict(zip(keywords, values[count:], strict=True)))

        schedulers = list(_with_parts(self))
        sets = _keys_set(schedulers)
        entries = [(group, sets) for group in groups]
        entries += [(scheduler.__dict__, _is_anything) for scheduler in schedulers]
        changed = [entry for entry, _ in entries]
        arguments = [_number(value) for value in (*args, *kwargs.values())]
        host.act(run, arguments, changed, entries, name)
        return None

    return stepped


def _is_number(value: Any) -> bool:
    return isinstance(value, RuntimeNumber)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and not _is_number(value) else value


def _with_parts(scheduler: Any) -> Iterator[Any]:
    """A scheduler and those that it steps."""
    yield scheduler
    for part in scheduler.__dict__.get("_schedulers", ()):
        yield from _with_parts(part)


def _keys_set(schedulers: list[Any]) -> Callable[[Any], bool]:
    """Which settings of an optimizer the schedulers may change: of the user's own, any."""
    if any(not type(s).__module__.startswith(_OURS) for s in schedulers):
        return _is_anything
    cycles = any(s.__dict__.get("cycle_momentum") for s in schedulers)
    keys = {*_RATES, *_MOMENTA} if cycles else set(_RATES)
    return lambda key: key in keys


def _is_anything(key: Any) -> bool:
    return True
