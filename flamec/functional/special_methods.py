"""Methods of tensors for functions that are rare, and loaded when one is first called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from flamec.tensor import Tensor


def _late(file: str, name: str) -> Callable[..., Any]:
    return getattr(import_module(f"flamec.functional.{file}"), name)


def i0(input: Tensor) -> Tensor:
    """The modified Bessel function of the first kind of order 0."""
    result: Tensor = _late("bessel", "i0")(input)
    return result


def igamma(input: Tensor, other: Tensor) -> Tensor:
    """The lower incomplete gamma function P; see ``special.gammainc``."""
    result: Tensor = _late("incomplete_gamma", "igamma")(input, other)
    return result


def igammac(input: Tensor, other: Tensor) -> Tensor:
    """The upper incomplete gamma function Q; see ``special.gammaincc``."""
    result: Tensor = _late("incomplete_gamma", "igammac")(input, other)
    return result


def mvlgamma(input: Tensor, p: int) -> Tensor:
    """The logarithm of the gamma function of matrices; see ``special.multigammaln``."""
    result: Tensor = _late("multivariate_gamma", "mvlgamma")(input, p)
    return result


def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """The first ``size`` rows of ``nonzero``, filled up with rows of ``fill_value``."""
    rows = _late("older_functions", "nonzero_static")
    result: Tensor = rows(input, size=size, fill_value=fill_value)
    return result


IN_PLACE: tuple[str, ...] = ("i0", "igamma", "igammac", "mvlgamma")
TENSOR_METHODS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function for function in (i0, igamma, igammac, mvlgamma, nonzero_static)
}
