"""PyTorch's older ``weight_norm`` and ``spectral_norm``, whose names are in many checkpoints.

The parameters stand beside the weight they make (``weight_g`` and ``weight_v``; ``weight_orig``,
``weight_u`` and ``weight_v``), and the weight is a property. New code uses
``flamec.nn.utils.parametrizations``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.dispatch import write
from flamec.functional.distance import normalize
from flamec.nn.module import Module
from flamec.nn.parameter import Parameter
from flamec.nn.parametrizations import _WeightNorm, as_matrix, output_dimension
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = ["remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"]


def _replace(
    module: Module, name: str, kind: str, parts: tuple[str, ...], make: Callable[[Any], Tensor]
) -> None:
    """Let a class of the module's own have a property ``name``, made from ``parts``."""

    def refuse(self: Module, value: Any) -> None:
        raise AttributeError(f"{name} is made by {kind}; set {', '.join(parts)} instead")

    base = type(module)
    members: dict[str, Any] = {
        name: property(make, refuse),
        "__module__": base.__module__,
        "_made_by": (kind, name, parts),
    }
    module.__class__ = type(base.__name__, (base,), members)


def _restore(module: Module, name: str, kind: str) -> Module:
    """Make ``name`` an ordinary parameter again, with its present value."""
    found_kind, found_name, parts = type(module).__dict__.get("_made_by", ("", "", ()))
    if (found_kind, found_name) != (kind, name):
        raise ValueError(f"{kind} of '{name}' not found in {module}")
    with no_grad():
        value = getattr(module, name).detach()
    module.__class__ = type(module).__bases__[0]
    for part in parts:
        delattr(module, part)
    module.register_parameter(name, Parameter(value))
    return module


def _taken(module: Module, name: str) -> Tensor:
    """Take a parameter out of the module."""
    weight = module._parameters.get(name)
    if weight is None:
        raise ValueError(f"Module '{module}' has no parameter with name '{name}'")
    del module._parameters[name]
    return weight.detach()


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """``name`` = ``name_g`` * ``name_v`` / |``name_v``|, a length for each index of ``dim``."""
    weight = _taken(module, name)
    norm = _WeightNorm(dim)
    parts = (f"{name}_g", f"{name}_v")
    with no_grad():
        for part, value in zip(parts, norm.right_inverse(weight), strict=True):
            module.register_parameter(part, Parameter(value))

    def make(owner: Any) -> Tensor:
        return norm.forward(*(getattr(owner, part) for part in parts))

    _replace(module, name, "weight_norm", parts, make)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make the weight an ordinary parameter again; ValueError if it is none of weight_norm's."""
    return _restore(module, name, "weight_norm")


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """``name`` = ``name_orig`` / its largest singular value, followed by power iterations.

    In training each read makes ``n_power_iterations`` iterations on the buffers.
    """
    if n_power_iterations <= 0:
        raise ValueError(
            "Expected n_power_iterations to be positive, but got "
            f"n_power_iterations={n_power_iterations}"
        )
    weight = _taken(module, name)
    axis = output_dimension(module) if dim is None else dim
    parts = (f"{name}_orig", f"{name}_u", f"{name}_v")
    module.register_parameter(parts[0], Parameter(weight))
    with no_grad():
        for part, size in zip(parts[1:], as_matrix(weight, axis).shape, strict=True):
            start = weight.new_empty(size).normal_(0, 1)
            module.register_buffer(part, normalize(start, dim=0, eps=eps))

    def make(owner: Any) -> Tensor:
        original, u, v = (getattr(owner, part) for part in parts)
        matrix = as_matrix(original, axis)
        if owner.training:
            with no_grad():
                for _ in range(n_power_iterations):
                    write(v, normalize(matrix.t().mv(u), dim=0, eps=eps), "spectral_norm")
                    write(u, normalize(matrix.mv(v), dim=0, eps=eps), "spectral_norm")
            u, v = u.clone(), v.clone()
        return original / u.dot(matrix.mv(v))

    _replace(module, name, "spectral_norm", parts, make)
    return module


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Make the weight an ordinary parameter again; ValueError if it is none of spectral_norm's."""
    return _restore(module, name, "spectral_norm")
