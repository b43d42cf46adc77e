"""Optimizer: parameter groups and state; what all optimizers share.

``param_groups`` is a list of dictionaries and ``state`` a dictionary keyed by
parameter, as in PyTorch; ``state_dict`` has PyTorch's layout. An optimizer's step
is written with tensor operations under ``no_grad``. While a function is compiled,
numbers of a group are inputs of the program (``runtime_number``), and state is
created outside the trace, so that it is captured and updated in place. All writes of
a step go through ``update``, so that ``skipping`` can make a step depend on a tensor.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from flamec.conversion import on_device
from flamec.dispatch import write
from flamec.functional.primitives import ops
from flamec.functional.promotion import constant
from flamec.ir.types import TensorType, float32, float64
from flamec.nn.hooks import RemovableHandle, add_hook
from flamec.nn.parameter import clear_gradients
from flamec.optim import eager_update
from flamec.optim.step_hooks import add_step_hook, with_step_hooks
from flamec.state import enable_grad, process, thread, trace_paused
from flamec.tensor import Tensor
from flamec.watching import unwatched

__all__ = [
    "Group",
    "Optimizer",
    "Parameters",
    "advance",
    "as_number",
    "filled_like",
    "new_scalar",
    "scalar",
    "skipping",
    "update",
]

required: Any = inspect.Parameter.empty  # in the place of a default that an older program demands

Group = dict[str, Any]
Parameters = Iterable[Tensor] | Iterable[Group] | Iterable[tuple[str, Tensor]]
ParamsT = Parameters  # PyTorch's name


class Optimizer:
    """Base class; a subclass defines ``new_state`` and ``update_group``, or ``step`` itself.

    The settings that PyTorch has for speed (``foreach``, ``capturable``, ``fused``) are
    accepted and change nothing: a compiled step is fused over all parameters, and its
    numbers are read anew at each call. With ``differentiable=True`` a step is recorded for
    autograd, and parameters need not be leaves.
    """

    def __init__(self, params: Parameters, defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or "
                "dicts, but got Tensor"
            )
        self.defaults = defaults
        self._hooks: dict[str, dict[int, Any]] = {name: {} for name in _HOOKS}
        self._update_programs = eager_update.UpdatePrograms()
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        groups: list[Any] = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)
        if defaults.get("fused"):
            if defaults.get("differentiable"):
                raise RuntimeError("`fused` does not support `differentiable`")
            if defaults.get("foreach"):
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "step" in cls.__dict__:
            own: Any = cls
            own.step = with_step_hooks(cls.__dict__["step"])

    # what a subclass defines -----------------------------------------------------
    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        """The state of one parameter before its first step: concrete tensors."""
        return {}

    def update_group(self, group: Group, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Change parameters, given with their gradients, by one step."""
        raise NotImplementedError

    # stepping --------------------------------------------------------------------
    @with_step_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient; returns ``closure()`` if given."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        previous = thread.grad_enabled
        thread.grad_enabled = bool(self.defaults.get("differentiable"))
        try:
            pending = []
            for group in self.param_groups:
                gradients = [(p, p.grad) for p in group["params"]]
                pairs = [(p, g) for p, g in gradients if g is not None]
                with trace_paused():  # all groups first: the trace relies on the state's keys
                    self._create_state(group, [p for p, _ in pairs])
                pending.append((group, pairs))
            eager_update.update(self, pending)
        finally:
            thread.grad_enabled = previous
        return loss

    def _create_state(self, group: Group, parameters: list[Tensor]) -> None:
        for parameter in parameters:
            if not self.state.get(parameter):
                state = self.new_state(group, parameter)
                if state:
                    self.state[parameter] = state
                    _name_tensors(state, parameter.__dict__.get("_name", ""))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of every parameter, or fill them with 0."""
        clear_gradients(self._parameters(), set_to_none)

    def _parameters(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"])

    # groups ----------------------------------------------------------------------
    def add_param_group(self, param_group: Group) -> None:
        """Add parameters with settings of their own; missing settings are the defaults."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        group = dict(param_group)
        group["params"] = _listed(group)
        for parameter in group["params"]:
            _check_parameter(parameter, bool(self.defaults.get("differentiable")))
        for name, default in self.defaults.items():
            group.setdefault(name, default)
        if len(group["params"]) != len(set(group["params"])):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters", stacklevel=3
            )
        known: set[Tensor] = set()
        for other in self.param_groups:
            known.update(other["params"])
            if ("param_names" in group) != ("param_names" in other):
                raise ValueError("all optimizer param groups should be with/without names")
        if not known.isdisjoint(group["params"]):
            raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(group)

    # saving ----------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """``{"state": {number: …}, "param_groups": […]}``, parameters numbered in order."""
        for hook in self._hooks["state_dict_pre"].values():
            hook(self)
        numbers: dict[Tensor, int] = {}
        for parameter in self._parameters():
            numbers.setdefault(parameter, len(numbers))
        groups = [
            {
                **{k: v for k, v in group.items() if k != "params"},
                "params": [numbers[p] for p in group["params"]],
            }
            for group in self.param_groups
        ]
        state = {
            numbers[p] if isinstance(p, Tensor) else p: dict(entry)
            for p, entry in self.state.items()
            if entry
        }
        result: dict[str, Any] = {"state": state, "param_groups": groups}
        for hook in self._hooks["state_dict_post"].values():
            changed = hook(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a ``state_dict``; ValueError if its groups have other sizes.

        State gets its parameter's dtype and device, except for step counts. Settings that
        an older file lacks get the default of the optimizer's signature.
        """
        state_dict = dict(state_dict)
        for hook in self._hooks["load_state_dict_pre"].values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        saved_groups = deepcopy(state_dict["param_groups"])  # at once: groups may share a tensor
        if len(saved_groups) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        pairs = list(zip(saved_groups, self.param_groups, strict=True))
        if any(len(s["params"]) != len(g["params"]) for s, g in pairs):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                "optimizer's group"
            )
        parameters = {
            number: parameter
            for saved, group in pairs
            for number, parameter in zip(saved["params"], group["params"], strict=True)
        }
        state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for number, entry in state_dict["state"].items():
            parameter = parameters.get(number)
            if parameter is None:
                state[number] = deepcopy(entry)
            else:
                state[parameter] = {k: _loaded(k, v, parameter) for k, v in entry.items()}
        self.state = state
        defaults = self._signature_defaults()
        for saved, group in pairs:
            settings = {**defaults, **{k: v for k, v in saved.items() if k != "params"}}
            if "param_names" in group:
                settings.setdefault("param_names", group["param_names"])
            settings["params"] = group["params"]
            group.clear()
            group.update(settings)
        for hook in self._hooks["load_state_dict_post"].values():
            hook(self)

    def _signature_defaults(self) -> Group:
        """The settings as they are if nothing is said."""
        signature = inspect.signature(type(self).__init__).parameters
        return {
            name: signature[name].default
            if name in signature and signature[name].default is not inspect.Parameter.empty
            else value
            for name, value in self.defaults.items()
        }

    # hooks -----------------------------------------------------------------------
    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step; it may return new arguments."""
        return add_step_hook(self._hooks["step_pre"], hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step."""
        return add_step_hook(self._hooks["step_post"], hook)

    def register_state_dict_pre_hook(
        self, hook: Callable[[Optimizer], None], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer)`` before ``state_dict()``."""
        return add_hook(self._hooks["state_dict_pre"], hook, prepend)

    def register_state_dict_post_hook(
        self, hook: Callable[[Optimizer, Group], Group | None], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` after ``state_dict()``; it may return another."""
        return add_hook(self._hooks["state_dict_post"], hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Callable[[Optimizer, Group], Group | None], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` before loading; it may return another."""
        return add_hook(self._hooks["load_state_dict_pre"], hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Callable[[Optimizer], None], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer)`` after loading."""
        return add_hook(self._hooks["load_state_dict_post"], hook, prepend)

    def __repr__(self) -> str:
        text = f"{type(self).__name__} ("
        for number, group in enumerate(self.param_groups):
            text += f"\nParameter Group {number}\n"
            for key in sorted(group):
                if key != "params":
                    text += f"    {key}: {group[key]}\n"
        return text + ")"


def _listed(group: Group) -> list[Tensor]:
    """The group's parameters as a list; names, where given, move to ``param_names``."""
    params = group["params"]
    if isinstance(params, Tensor):
        return [params]
    if isinstance(params, set):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering "
            "of tensors in sets will change between runs. Please use a list instead."
        )
    entries = list(params)
    named = [e for e in entries if isinstance(e, tuple)]
    if named and len(named) != len(entries):
        raise ValueError("all optimizer params should be with/without names")
    if named:
        group["param_names"] = [name for name, _ in named]
        return [parameter for _, parameter in named]
    return entries


_HOOKS = (
    "step_pre",
    "step_post",
    "state_dict_pre",
    "state_dict_post",
    "load_state_dict_pre",
    "load_state_dict_post",
)


def _check_parameter(parameter: Any, differentiable: bool) -> None:
    if not isinstance(parameter, Tensor):
        raise TypeError(
            "optimizer can only optimize Tensors, but one of the params is "
            f"{type(parameter).__name__}"
        )
    if not differentiable and not (parameter.is_leaf or parameter._retains_grad):
        raise ValueError("can't optimize a non-leaf Tensor")


def _loaded(key: Any, value: Any, parameter: Tensor) -> Any:
    """A copy of a state entry, in the parameter's dtype and device except for a step count."""
    if isinstance(value, dict):
        return {k: _loaded(k, v, parameter) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_loaded(None, v, parameter) for v in value)
    if not isinstance(value, Tensor):
        if key == "step":  # a plain number in old files
            return new_scalar(parameter, float(value))
        return deepcopy(value)
    value = value.detach()
    if key == "step":
        return value.to(parameter.device, value.dtype, copy=True)
    dtype = value.dtype
    if parameter.dtype.is_floating_point and dtype.is_floating_point:
        dtype = parameter.dtype
    return value.to(parameter.device, dtype, copy=True)


# what the formulas are written with ----------------------------------------------------


@unwatched
def filled_like(parameter: Tensor, value: float = 0.0) -> Tensor:
    """``value`` in the parameter's shape and dtype, in memory of its own."""
    return ops.full_like(value, parameter._type)


@unwatched
def new_scalar(parameter: Tensor, value: float = 0.0) -> Tensor:
    """A step count or other number kept as state: a float32 tensor of shape ().

    float64 if that is the default dtype, as in PyTorch. It is on the parameter's device, so
    that a compiled step on a GPU counts there, as PyTorch's capturable optimizers do.
    """
    dtype = float64 if process.default_dtype is float64 else float32
    kind = TensorType((), dtype, parameter.device)
    return ops.full_like(value, kind)


def scalar(value: Any, like: Tensor) -> Tensor:
    """A number, or a tensor with one element, as a 0-d tensor of ``like``'s dtype."""
    if isinstance(value, Tensor):
        if value._type.shape:
            value = ops.reshape(value, shape=())
        return ops.cast(on_device(value, like._type.device), like._type.dtype)
    return constant(float(value), like._type.dtype, like._type.device)


class _StepCondition(threading.local):
    """``skip``: a bool tensor of shape () while steps depend on it, else None."""

    skip: Tensor | None = None


_condition = _StepCondition()


@contextmanager
def skipping(condition: Tensor) -> Iterator[None]:
    """Steps in the block change nothing, neither parameters nor state, where ``condition`` holds.

    ``condition``: bool, shape (). For compiled steps, which so contain both outcomes
    (``amp.GradScaler``); eager code asks the condition instead and does not step.
    """
    previous, _condition.skip = _condition.skip, condition
    try:
        yield
    finally:
        _condition.skip = previous


def update(target: Tensor, value: Tensor) -> Tensor:
    """Store ``value`` in ``target``'s memory, unless the step is skipped."""
    if _condition.skip is not None:
        value = ops.where(on_device(_condition.skip, target._type.device), target, value)
    return write(target, value, "step")


def advance(step: Tensor) -> None:
    """Add 1 to a step count, in place."""
    update(step, ops.add(step, 1.0))


def as_number(number: Tensor) -> Any:
    """A tensor of shape () for arithmetic: a float, or while tracing and on GPUs a tensor."""
    if thread.trace is None and number._type.device.type == "cpu":
        return number.item()
    return ops.cast(number, float64)


def _name_tensors(state: dict[str, Any], owner: str) -> None:
    """Let dumps of programs say which state of which parameter they read."""
    for key, value in state.items():
        if isinstance(value, Tensor):
            value.__dict__["_name"] = f"{owner}.{key}" if owner else key
