"""Modules as functions of their parameters: ``functional_call``, ``stack_module_state``;
and batch normalisation that writes no statistics, as functions of modules need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flamec.errors import user_location
from flamec.functional.joining import stack
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.nn.module import Module

__all__ = ["functional_call", "replace_all_batch_norm_modules_", "stack_module_state"]


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """``module(*args, **kwargs)`` with other parameters and buffers, by path; it stays as it is.

    ``tie_weights``: a tensor that the module has under several paths is replaced under all of
    them. ``strict``: every parameter and buffer must be given, and nothing else. RuntimeError
    for unknown paths if strict, ValueError for a path in two of the dicts, or for tied paths that
    get different tensors.
    """
    given: dict[str, Tensor] = {}
    dicts = parameter_and_buffer_dicts
    for part in [dicts] if isinstance(dicts, Mapping) else dicts:
        repeated = sorted(given.keys() & part.keys())
        if repeated:
            raise ValueError(f"{repeated} appeared in multiple dictionaries; behavior is ambiguous")
        given.update(part)
    places: dict[str, tuple[dict[str, Any], str]] = {}
    registries: tuple[dict[str, Any], dict[str, Any]]
    for path, owner in module.named_modules(remove_duplicate=False):
        registries = owner._parameters, owner._buffers
        for registry in registries:
            for name in registry:
                places[f"{path}.{name}" if path else name] = registry, name
    unknown = sorted(given.keys() - places.keys())
    missing = sorted(places.keys() - given.keys())
    if strict and (unknown or missing):
        raise RuntimeError(
            f"Error(s) in functional_call: unexpected keys {unknown}, missing keys "
            f"{missing} (at {user_location()})"
        )
    if unknown:
        raise RuntimeError(
            f"functional_call: {type(module).__name__} has no parameter or buffer {unknown[0]!r} "
            f"(at {user_location()})"
        )
    if tie_weights:
        _tie(given, places)
    if args is None:
        args = ()
    elif not isinstance(args, tuple):
        args = (args,)
    before = []
    try:
        for path, tensor in given.items():
            held, name = places[path]
            before.append((held, name, held[name]))
            held[name] = tensor
        return module(*args, **(kwargs or {}))
    finally:
        for held, name, old in reversed(before):
            held[name] = old


def _tie(given: dict[str, Tensor], places: Mapping[str, tuple[dict[str, Any], str]]) -> None:
    """Give tied paths the tensor that one of them was given."""
    by_tensor: dict[int, list[str]] = {}
    for path, (registry, name) in places.items():
        if registry[name] is not None:
            by_tensor.setdefault(id(registry[name]), []).append(path)
    for paths in by_tensor.values():
        chosen = [path for path in paths if path in given]
        if len(paths) == 1 or not chosen:
            continue
        if any(given[path] is not given[chosen[0]] for path in chosen):
            raise ValueError(
                f"functional_call got multiple values for keys {chosen}, which are tied. Consider "
                "using tie_weights=False"
            )
        given.update(dict.fromkeys(paths, given[chosen[0]]))


def stack_module_state(
    models: Sequence[Module],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers of models of one kind, each stacked along a new first dimension.

    With ``vmap`` over ``functional_call`` that runs an ensemble at once. The parameters are
    leaves of their own. RuntimeError for no models, or models in different modes.
    """
    models = list(models)
    if not models:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    if any(m.training != models[0].training for m in models):
        raise RuntimeError(
            "stack_module_state: Expected all models to have the same training/eval mode."
        )
    if any(type(m) is not type(models[0]) for m in models):
        raise RuntimeError("stack_module_state: Expected all models to be of the same class.")
    states = [dict(m.named_parameters()) for m in models]
    buffers = [dict(m.named_buffers()) for m in models]
    parameters = {}
    for name, first in states[0].items():
        joined = stack([state[name].detach() for state in states])
        joined.requires_grad = first.requires_grad
        parameters[name] = joined
    return parameters, {name: stack([b[name] for b in buffers]) for name in buffers[0]}


def replace_all_batch_norm_modules_(root: Module) -> Module:
    """Let every batch normalisation in ``root`` be by the batch alone; returns ``root``.

    Their running statistics become None, in place, so that nothing is written when they are
    called, as ``vmap`` over a module asks for.
    """
    from flamec.nn.batch_normalization import _BatchNorm  # nn stands on this module

    for module in root.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False
    return root
