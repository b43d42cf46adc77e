"""The frameworks that are compared, imported on demand and held to the same number of threads.

``flamec()``, ``torch()`` and ``jax()`` give the module or raise ``AbsentError``. flamec and torch
have the same names, so workloads are written once as a function of the framework, from which
``torch_like`` and ``functions`` make the contenders.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import AbsentError, Contender, Step

THREADS = 2

Arrays = tuple[np.ndarray, ...]


def limit_threads() -> None:
    """Hold every framework to ``THREADS`` processors; call before any of them is imported."""
    for name in ("FLAMEC", "OMP", "MKL", "OPENBLAS"):
        os.environ[f"{name}_NUM_THREADS"] = str(THREADS)
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, processors[:THREADS])


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise AbsentError(f"{name} is not installed") from None


def flamec() -> Any:
    """flamec, with the sub-modules that workloads use."""
    framework = _module("flamec")
    for part in ("nn", "nn.functional", "optim"):
        importlib.import_module(f"flamec.{part}")
    return framework


def torch() -> Any:
    """PyTorch on ``THREADS`` threads."""
    framework = _module("torch")
    framework.set_num_threads(THREADS)
    return framework


def jax() -> Any:
    """JAX on the CPU, unless the environment names another platform."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return _module("jax")


def scipy_special() -> Any:
    """SciPy's special functions, where NumPy has none."""
    return _module("scipy.special")


def torch_like(build: Callable[..., Step]) -> list[Contender]:
    """Contenders of flamec and torch, eager and compiled, from one source.

    ``build(framework, compile)`` makes the inputs and gives the step; ``compile`` leaves a
    function as it is for the eager ones.
    """

    def eager(framework: Callable[[], Any]) -> Step:
        return build(framework(), lambda function: function)

    def compiled(framework: Callable[[], Any]) -> Step:
        module = framework()
        return build(module, module.compile)

    return [
        Contender("flamec eager", lambda: eager(flamec)),
        Contender("flamec compiled", lambda: compiled(flamec)),
        Contender("torch eager", lambda: eager(torch)),
        Contender("torch.compile", lambda: compiled(torch)),
    ]


def jitted(arrays: Callable[[], Arrays], make: Callable[[Any], Callable[..., Any]]) -> Contender:
    """JAX: ``make(jax)`` is the function of the arrays that is compiled."""

    def prepare() -> Step:
        module = jax()
        inputs = [module.numpy.asarray(array) for array in arrays()]
        function = module.jit(make(module))
        return lambda: module.block_until_ready(function(*inputs))

    return Contender("jax", prepare)


def functions(
    arrays: Callable[[], Arrays],
    function: Callable[..., Any],
    in_jax: Callable[[Any], Callable[..., Any]],
    in_numpy: Callable[..., Any] | None = None,
) -> list[Contender]:
    """All contenders of a pure function of arrays.

    ``function(framework, *tensors)`` serves flamec and torch, ``in_jax(jax)`` gives JAX's
    function, ``in_numpy(*arrays)`` is NumPy's, if there is a sensible one.
    """

    def build(framework: Any, compile: Callable[[Any], Any]) -> Step:
        inputs = [framework.from_numpy(array) for array in arrays()]
        compiled = compile(lambda *tensors: function(framework, *tensors))
        return lambda: compiled(*inputs)

    def prepare_numpy() -> Step:
        assert in_numpy is not None
        inputs = arrays()
        return lambda: in_numpy(*inputs)

    contenders = [*torch_like(build), jitted(arrays, in_jax)]
    if in_numpy is not None:
        contenders.append(Contender("numpy", prepare_numpy))
    return contenders
