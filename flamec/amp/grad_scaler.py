"""``GradScaler``: a loss scale that keeps small float16 gradients from becoming 0.

In: losses to multiply, optimizers to step. The scale and the count of good steps are
tensors, and nothing in ``scale``, ``unscale_``, ``step`` or ``update`` needs their values in
Python while a function is compiled: a compiled training step contains both outcomes
of the check for infinities and chooses on the device. Micikevicius et al. 2018, "Mixed
Precision Training", section 3.2.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flamec.conversion import on_device
from flamec.dispatch import write
from flamec.errors import user_location
from flamec.functional import arithmetic, reduction
from flamec.functional.comparison import isfinite, logical_and, logical_not, logical_or
from flamec.functional.creation import full
from flamec.functional.primitives import narrowed, ops, widened
from flamec.ir.types import float16, float32, float64, int32
from flamec.optim.optimizer import Optimizer, scalar, skipping
from flamec.runtime_numbers import runtime_number
from flamec.state import no_grad, thread
from flamec.tensor import Tensor

__all__ = ["GradScaler"]


class _Stage(enum.Enum):
    UNSCALED = "unscale_() was called"
    STEPPED = "step() was called"


@dataclass
class _Progress:
    """What happened to an optimizer since the last update; ``found_inf``: bool, shape ()."""

    stage: _Stage
    found_inf: Tensor | None


class GradScaler:
    """Scales losses, checks gradients for infinities, and adapts the scale.

    A step whose gradients have an infinity or NaN is skipped, and the scale multiplied by
    ``backoff_factor``; after ``growth_interval`` steps without it is multiplied by
    ``growth_factor``, as long as it stays finite. With ``enabled=False`` every method does
    what it would without scaling. ``device``: where the scale lives; CUDA where there is none
    warns and disables. Raises AssertionError unless growth_factor > 1 and backoff_factor < 1.
    """

    def __init__(
        self,
        device: Any = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self._enabled = bool(enabled)
        if self._enabled and str(device).startswith("cuda"):
            from flamec import cuda

            if not cuda.is_available():
                warnings.warn(
                    "GradScaler is enabled, but CUDA is not available. Disabling.", stacklevel=2
                )
                self._enabled = False
        if not self._enabled:
            return
        assert growth_factor > 1.0, "The growth factor must be > 1.0."
        assert backoff_factor < 1.0, "The backoff factor must be < 1.0."
        self._settings: dict[str, float] = {
            "growth_factor": growth_factor,
            "backoff_factor": backoff_factor,
            "growth_interval": growth_interval,
        }
        self._scale: Tensor = full((), float(init_scale), dtype=float32, device=device)
        self._growth_tracker: Tensor = full((), 0, dtype=int32, device=device)
        self._scale.__dict__["_name"] = "scale"
        self._growth_tracker.__dict__["_name"] = "growth_tracker"
        self._progress: dict[Optimizer, _Progress] = {}

    # a training step -----------------------------------------------------------------
    def scale(self, outputs: Any) -> Any:
        """``outputs``, a tensor or an iterable of tensors, times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return arithmetic.mul(outputs, on_device(self._scale, outputs._type.device))
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(self.scale(x) for x in outputs)
        if isinstance(outputs, Iterable):
            return map(self.scale, outputs)
        raise ValueError("outputs must be a Tensor or an iterable of Tensors")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer's parameters by the scale, to clip them say.

        Raises RuntimeError if that was done since the last ``update``, ValueError for float16
        gradients, whose parameters should be float32.
        """
        if not self._enabled:
            return
        progress = self._progress.get(optimizer)
        if progress is not None:
            raise RuntimeError(
                "unscale_() has already been called on this optimizer since the last update()."
                if progress.stage is _Stage.UNSCALED
                else "unscale_() is being called after step()."
            )
        with no_grad():
            inverse = ops.cast(ops.div(1.0, ops.cast(self._scale, float64)), float32)
            found: Tensor | None = None
            for gradient in _gradients(optimizer):
                if gradient._type.dtype is float16:
                    raise ValueError(
                        f"Attempting to unscale FP16 gradients. (at {user_location()})"
                    )
                bad = reduction.any(logical_not(isfinite(gradient)))
                bad = on_device(bad, self._scale._type.device)
                found = bad if found is None else logical_or(found, bad)
                wide = widened(gradient)
                factor = ops.cast(on_device(inverse, gradient._type.device), wide._type.dtype)
                scaled = narrowed(ops.mul(wide, factor), gradient._type.dtype)
                write(gradient, scaled, "unscale_")
        self._progress[optimizer] = _Progress(_Stage.UNSCALED, found)

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Unscale the gradients, unless that was done, and step if all of them are finite.

        Returns what ``optimizer.step`` does, None if it was skipped. Raises RuntimeError for a
        second step before ``update``, or a closure, AssertionError if there is no gradient.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        if optimizer not in self._progress:
            self.unscale_(optimizer)
        progress = self._progress[optimizer]
        if progress.stage is _Stage.STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        found = progress.found_inf
        assert found is not None, "No inf checks were recorded for this optimizer."
        result = None
        if thread.trace is not None:
            with skipping(found):
                result = optimizer.step(*args, **kwargs)
        elif not found.item():
            result = optimizer.step(*args, **kwargs)
        progress.stage = _Stage.STEPPED
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale to what the steps since the last update found, or set it.

        Raises AssertionError if there was no step and no ``new_scale``.
        """
        if not self._enabled:
            return
        with no_grad():
            if new_scale is not None:
                self._set_scale(new_scale)
            else:
                self._adapt()
        self._progress.clear()

    def _adapt(self) -> None:
        found: Tensor | None = None
        for progress in self._progress.values():
            if progress.found_inf is not None:
                bad = progress.found_inf
                found = bad if found is None else logical_or(found, bad)
        assert found is not None, "No inf checks were recorded prior to update."
        wide = ops.cast(self._scale, float64)
        count = ops.add(self._growth_tracker, 1)
        interval = scalar(runtime_number(self._settings, "growth_interval"), wide)
        due = ops.eq(ops.cast(count, float64), interval)
        grown = self._scaled(wide, "growth_factor")
        grows = logical_and(due, isfinite(grown))
        kept = ops.where(grows, grown, self._scale)
        scale = ops.where(found, self._scaled(wide, "backoff_factor"), kept)
        tracker = ops.where(logical_or(found, due), 0, count)
        write(self._scale, scale, "update")
        write(self._growth_tracker, tracker, "update")

    def _scaled(self, scale: Tensor, setting: str) -> Tensor:
        product = ops.mul(scale, scalar(runtime_number(self._settings, setting), scale))
        return ops.cast(product, float32)

    def _set_scale(self, value: float | Tensor) -> None:
        if not isinstance(value, Tensor):
            write(self._scale, ops.constant(float(value), self._scale._type), "update")
            return
        if value._type.dtype is not float32 or value.shape.numel() != 1 or value.requires_grad:
            raise AssertionError(
                "new_scale should be a float or a 1-element float32 tensor with "
                "requires_grad=False."
            )
        write(
            self._scale, on_device(ops.reshape(value, shape=()), self._scale._type.device), "update"
        )

    # settings ------------------------------------------------------------------------
    def is_enabled(self) -> bool:
        """Whether this instance scales."""
        return self._enabled

    def get_scale(self) -> float:
        """The scale now; 1.0 if disabled."""
        return float(self._scale.item()) if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the scale is multiplied by after ``growth_interval`` good steps."""
        return self._settings["growth_factor"]

    def set_growth_factor(self, new_factor: float) -> None:
        """Set the growth factor; a compiled step reads it anew."""
        self._settings["growth_factor"] = new_factor

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by after a skipped step."""
        return self._settings["backoff_factor"]

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set the backoff factor; a compiled step reads it anew."""
        self._settings["backoff_factor"] = new_factor

    def get_growth_interval(self) -> int:
        """How many good steps in a row let the scale grow."""
        return int(self._settings["growth_interval"])

    def set_growth_interval(self, new_interval: int) -> None:
        """Set the growth interval; a compiled step reads it anew."""
        self._settings["growth_interval"] = new_interval

    # saving --------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Scale, factors, interval and the count of good steps, as numbers; {} if disabled."""
        if not self._enabled:
            return {}
        tracker = self._growth_tracker.item()
        return {"scale": self.get_scale(), **self._settings, "_growth_tracker": tracker}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a ``state_dict``; RuntimeError for that of a disabled scaler."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved "
                "from a disabled instance of GradScaler."
            )
        for name in self._settings:
            self._settings[name] = state_dict[name]
        with no_grad():
            self._set_scale(state_dict["scale"])
            tracker = ops.constant(int(state_dict["_growth_tracker"]), self._growth_tracker._type)
            write(self._growth_tracker, tracker, "load_state_dict")


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return [g for g in (p.grad for p in parameters) if g is not None]
