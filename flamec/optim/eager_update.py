"""An optimizer's update of all its parameters as one program, for steps that are not compiled.

In: an optimizer of this package and the gradients of a step. The update is a compiled function of
the gradients, which writes parameters and state in place; settings are read anew at each step. On
GPUs it always is one, on the CPU where the parameters are so many that operations one by one
take long (``cpu_eager``). Steps whose assumptions keep changing run operation by operation.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flamec import cpu_eager
from flamec.config import default_options
from flamec.errors import CompileError, DataDependentError
from flamec.optim import repeated_update
from flamec.state import process, thread
from flamec.tensor import Tensor
from flamec.watching import unwatched

if TYPE_CHECKING:
    from flamec.compiled_function import CompiledFunction
    from flamec.optim.optimizer import Optimizer

_OURS = "flamec.optim."
_MOST_TRACES = 4  # of one update; and so many sets of parameters that have gradients
_OPERATIONS = 12  # of an update rule for each parameter, about

Pairs = list[tuple[Tensor, Tensor]]


class UpdatePrograms(dict[Any, Any]):
    """Compiled updates by the parameters that have gradients; copies of an optimizer have none."""

    def __deepcopy__(self, memo: Any) -> UpdatePrograms:
        return UpdatePrograms()

    def __reduce__(self) -> Any:
        return (UpdatePrograms, ())


def update(optimizer: Optimizer, pending: Sequence[tuple[dict[str, Any], Pairs]]) -> None:
    """Run ``optimizer.update_group`` for each group, given with its parameters and gradients."""
    compiled = _compiled(optimizer, pending)
    if compiled is None:
        _update_groups(optimizer, pending)
        return
    gradients = [gradient for _, pairs in pending for _, gradient in pairs]
    try:
        compiled(gradients)
    except (CompileError, DataDependentError) as error:
        _give_up(optimizer, compiled)
        warnings.warn(
            f"{type(optimizer).__name__}: the update runs operation by operation, because it "
            f"cannot be compiled: {error}",
            RuntimeWarning,
            stacklevel=4,
        )
        _update_groups(optimizer, pending)
        return
    if compiled.stats.traces >= _MOST_TRACES:
        _give_up(optimizer, compiled)


def _update_groups(optimizer: Optimizer, pending: Sequence[tuple[dict[str, Any], Pairs]]) -> None:
    ours = type(optimizer).__module__.startswith(_OURS)
    update_group = unwatched(repeated_update.update_group) if ours else _update_group
    for group, pairs in pending:
        update_group(optimizer, group, pairs)


def _update_group(optimizer: Optimizer, group: dict[str, Any], pairs: Pairs) -> None:
    optimizer.update_group(group, pairs)


def _give_up(optimizer: Optimizer, compiled: CompiledFunction) -> None:
    programs = optimizer._update_programs
    programs.update({key: None for key, value in programs.items() if value is compiled})


def _compiled(
    optimizer: Optimizer, pending: Sequence[tuple[dict[str, Any], Pairs]]
) -> CompiledFunction | None:
    """The compiled update for these parameters; None where operations run one by one."""
    if (
        thread.trace is not None
        or process.anomaly is not None
        or optimizer.defaults.get("differentiable")
        or not type(optimizer).update_group.__module__.startswith(_OURS)
    ):
        return None
    key = tuple([(id(group), *[id(p) for p, _ in pairs]) for group, pairs in pending])
    programs = optimizer._update_programs
    if key not in programs:
        if len(programs) >= _MOST_TRACES or not _is_worth_compiling(pending):
            return None
        programs[key] = _compile(optimizer, pending)
    found: CompiledFunction | None = programs[key]
    return found


def _is_worth_compiling(pending: Sequence[tuple[dict[str, Any], Pairs]]) -> bool:
    tensors = [t for _, pairs in pending for pair in pairs for t in pair]
    devices = {t._type.device for t in tensors}
    if len(devices) != 1:
        return False
    if devices.pop().type != "cpu":
        return True
    work = sum(int(p.numel()) for _, pairs in pending for p, _ in pairs) * _OPERATIONS
    return work >= cpu_eager.LEAST_WORK and cpu_eager.can_compile()


class _Update:
    """The function that is compiled, as a method: so what the optimizer holds is guarded."""

    def __init__(
        self, optimizer: Optimizer, groups: list[tuple[dict[str, Any], list[Tensor]]]
    ) -> None:
        self.optimizer = optimizer
        self.param_groups = groups  # whose settings are read anew: ``guards.Recorder``

    def optimizer_update(self, gradients: list[Tensor]) -> None:
        remaining = iter(gradients)
        for group, parameters in self.param_groups:
            self.optimizer.update_group(group, [(p, next(remaining)) for p in parameters])


def _compile(
    optimizer: Optimizer, pending: Sequence[tuple[dict[str, Any], Pairs]]
) -> CompiledFunction:
    from flamec.compiled_function import CompiledFunction

    options = default_options(numerics="strict")  # the bits of operations one by one
    groups = [(group, [parameter for parameter, _ in pairs]) for group, pairs in pending]
    return CompiledFunction(_Update(optimizer, groups).optimizer_update, options, dynamic=False)
