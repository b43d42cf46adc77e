"""L-BFGS (Liu and Nocedal 1989; Nocedal and Wright, Numerical Optimization, algorithm 7.4).

All parameters together are one vector. The number of evaluations depends on values, so
a step runs eagerly; the closure it calls may be compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.errors import CompileError, user_location
from flamec.functional.joining import cat
from flamec.functional.shape import clone, reshape
from flamec.optim.optimizer import Optimizer, Parameters, filled_like, update
from flamec.optim.strong_wolfe import Point, search
from flamec.optim.updates import check_rate
from flamec.state import enable_grad, no_grad, thread
from flamec.tensor import Tensor

__all__ = ["LBFGS"]

_LEAST_CURVATURE = 1e-10  # below it a pair of differences says nothing about the Hessian


class LBFGS(Optimizer):
    """Steps along a quasi-Newton direction that the last gradients' differences give.

    There is one group of parameters, and ``step`` needs a closure. State belongs to the
    first parameter, as in PyTorch.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_rate(lr)
        super().__init__(
            params,
            {
                "lr": lr,
                "max_iter": max_iter,
                "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Up to ``max_iter`` iterations; returns the loss at the start.

        ``closure``: clears the gradients, computes the loss, calls ``backward``, returns the
        loss. RuntimeError for an unknown ``line_search_fn``; CompileError while compiling.
        """
        if thread.trace is not None:
            raise CompileError(
                "LBFGS.step() calls its closure as often as the values need and cannot be "
                f"compiled (at {user_location()}); call it outside, with a compiled closure"
            )
        if closure is None:
            raise TypeError("LBFGS.step() needs a closure that computes the loss")
        if self.param_groups[0]["line_search_fn"] not in (None, "strong_wolfe"):
            raise RuntimeError("only 'strong_wolfe' is supported")
        with no_grad():
            return self._minimize(closure)

    def _minimize(self, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        state = self.state[group["params"][0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        first_loss = _evaluated(closure)
        loss, gradient = float(first_loss), self._gradient()
        evaluations = 1
        state["func_evals"] += 1
        if _largest(gradient) <= group["tolerance_grad"]:
            return first_loss
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            self._set_direction(state, gradient)
            direction = state["d"]
            previous_loss = loss
            state["prev_flat_grad"], state["prev_loss"] = clone(gradient), loss
            length = float(group["lr"])
            if state["n_iter"] == 1:
                length *= min(1.0, 1.0 / float(gradient.abs().sum()))
            state["t"] = length
            slope = float(gradient.dot(direction))
            if slope > -group["tolerance_change"]:
                break
            is_last = iteration == group["max_iter"]
            used = 0
            if group["line_search_fn"] is not None:
                start = [clone(p) for p in group["params"]]

                def at(step: float, d: Tensor = direction, x: Any = start) -> tuple[float, Tensor]:
                    return self._evaluate_at(closure, x, step, d)

                origin = Point(0.0, loss, gradient, slope)
                best, used = search(at, origin, length, direction, group["max_eval"] - evaluations)
                loss, gradient, length = best.value, best.gradient, best.step
                state["t"] = length
                self._move(length, direction)
            else:
                self._move(length, direction)
                if not is_last:  # what it would give is not used in the last iteration
                    loss, gradient = float(_evaluated(closure)), self._gradient()
                    used = 1
            evaluations += used
            state["func_evals"] += used
            if (
                is_last
                or evaluations >= group["max_eval"]
                or _largest(gradient) <= group["tolerance_grad"]
                or _largest(direction * length) <= group["tolerance_change"]
                or abs(loss - previous_loss) < group["tolerance_change"]
            ):
                break
        return first_loss

    def _set_direction(self, state: dict[str, Any], gradient: Tensor) -> None:
        """Remember the last differences and set ``state["d"]``: two-loop recursion."""
        if state["n_iter"] == 1:
            state.update(d=-gradient, old_dirs=[], old_stps=[], ro=[], H_diag=1)
            return
        change, step = gradient - state["prev_flat_grad"], state["d"] * state["t"]
        curvature = change.dot(step)
        history: tuple[list[Tensor], ...] = (state["old_dirs"], state["old_stps"], state["ro"])
        changes, steps, inverses = history
        if float(curvature) > _LEAST_CURVATURE:
            if len(changes) == self.param_groups[0]["history_size"]:
                for kept in history:
                    kept.pop(0)
            changes.append(change)
            steps.append(step)
            inverses.append(1.0 / curvature)
            state["H_diag"] = curvature / change.dot(change)
        result = -gradient
        weights: list[Tensor] = []
        for y, s, inverse in zip(changes[::-1], steps[::-1], inverses[::-1], strict=True):
            weights.append(s.dot(result) * inverse)
            result = result - y * weights[-1]
        result = result * state["H_diag"]
        for y, s, inverse, weight in zip(changes, steps, inverses, weights[::-1], strict=True):
            result = result + s * (weight - y.dot(result) * inverse)
        state["d"] = result

    # the parameters as one vector ------------------------------------------------------
    def _gradient(self) -> Tensor:
        parts = [
            reshape(filled_like(p) if p.grad is None else p.grad, (-1,))
            for p in self.param_groups[0]["params"]
        ]
        return cat(parts)

    def _move(self, length: float, direction: Tensor) -> None:
        start = 0
        for parameter in self.param_groups[0]["params"]:
            count = parameter.numel()
            part = reshape(direction[start : start + count], parameter.shape)
            update(parameter, parameter + part * length)
            start += count

    def _evaluate_at(
        self, closure: Callable[[], Any], start: list[Tensor], length: float, direction: Tensor
    ) -> tuple[float, Tensor]:
        """Loss and gradient ``length`` along ``direction``; the parameters stay at ``start``."""
        self._move(length, direction)
        loss, gradient = float(_evaluated(closure)), self._gradient()
        for parameter, value in zip(self.param_groups[0]["params"], start, strict=True):
            update(parameter, value)
        return loss, gradient


def _evaluated(closure: Callable[[], Any]) -> Any:
    with enable_grad():
        return closure()


def _largest(vector: Tensor) -> float:
    return float(vector.abs().max())
