"""Attributes that users set on tensors (``weight.scale = 2.0``), as a trace meets them.

In: reads of attributes that a tensor of a trace lacks, and what the function has set. Out: guards
on captured tensors; for arguments, which are other tensors in each call, effects, so that the
function's Python code runs at each call.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flamec.errors import CompileError, is_framework_file, user_location
from flamec.guarded_values import MISSING
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.guards import Recorder

INTERNAL = ("_expression", "_generator", "_dynamic_axes")  # what flamec itself notes there


class TensorAttributes:
    """Of the tensors of one trace. ``proxies`` stand for the tensors among ``leaves``."""

    def __init__(self, recorder: Recorder, proxies: Sequence[Any], leaves: Sequence[Any]) -> None:
        self._recorder = recorder
        self._pairs = [
            (p, t) for p, t in zip(proxies, leaves, strict=False) if isinstance(t, Tensor)
        ]
        self._arguments = {id(proxy): tensor for proxy, tensor in self._pairs}
        self._set: list[tuple[Tensor, dict[str, Any]]] = []

    def missing(self, tensor: Tensor, name: str) -> Any:
        """What the user's code gets for an attribute that ``tensor`` lacks; MISSING if nothing."""
        recorder = self._recorder
        if not recorder.active or is_framework_file(sys._getframe(2).f_code.co_filename):
            return MISSING
        if tensor._trace is None:
            recorder.attribute_is_missing(tensor, name)
            return MISSING
        argument = self._arguments.get(id(tensor))
        found = MISSING if argument is None else argument.__dict__.get(name, MISSING)
        if found is not MISSING:
            recorder.effects.happen(
                f"the attribute {name} of an argument is read (at {user_location()})"
            )
        return found

    def note(self) -> None:
        """Note what the function, which has ended, has set on arguments.

        Raises CompileError for a tensor that the function computes.
        """
        for proxy, argument in self._pairs:
            held = {k: v for k, v in proxy.__dict__.items() if k not in INTERNAL}
            for name, value in held.items():
                if isinstance(value, Tensor) and value._trace is not None:
                    raise CompileError(
                        f"the attribute {name} of an argument is set to a tensor that is computed "
                        f"in the compiled function; return it instead (at {user_location()})"
                    )
                self._recorder.effects.happen(f"the attribute {name} of an argument is set")
            if held:
                self._set.append((argument, held))
        self._pairs.clear()  # whoever holds a tensor of the trace now has kept it
        self._arguments.clear()

    def hand_over(self) -> None:
        """Set on the arguments what the function has set on what stands for them."""
        for argument, held in self._set:
            argument.__dict__.update(held)
