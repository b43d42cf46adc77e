"""Dtypes of calls in an autocast region against PyTorch, for every policy and type of device.

The CPU's are PyTorch's own results, with their values; CUDA's are those of fake tensors,
which have PyTorch's dtypes and no data, so that no GPU is needed. What PyTorch refuses is
not compared: flamec accepts more mixtures of dtypes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from parity_expressions import ERRORS, TOLERANCE, array_of, expressions, flamec_of, is_torch

import flamec
from flamec.functional import autocasting
from flamec.functional.autocasting import Policy

torch = pytest.importorskip("torch")

COMBINATIONS = ["xxx", "hhh", "xhh", "hxx", "hhx", "ddd"]
VALUES = np.random.default_rng(5).uniform(0.2, 0.9, (3, 4, 4))
LOWER = ["bfloat16", "float16"]


def operands(lower: str) -> dict[str, Any]:
    """x0, h1, d2 …: float32, 16 bits, float64 in three places; x0v …: their rows; labels i."""
    dtypes = {"x": torch.float32, "h": getattr(torch, lower), "d": torch.float64}
    names = {
        f"{name}{place}": torch.tensor(values).to(dtype)
        for name, dtype in dtypes.items()
        for place, values in enumerate(VALUES)
    }
    names.update({f"{name}v": tensor[0].clone() for name, tensor in list(names.items())})
    return {**names, "i": torch.tensor([2, 0, 3, 1])}


def calls() -> list[str]:
    """Every expression with every combination of dtypes of its operands."""
    found: dict[str, None] = {}
    for template in expressions("autocast"):
        for x, y, z in COMBINATIONS:
            found[template.format(a=f"{x}0", b=f"{y}1", c=f"{z}2")] = None
    return list(found)


@contextmanager
def region(package: Any, device: str, lower: str) -> Iterator[None]:
    """An autocast state, set directly: autocast("cuda") refuses without a GPU."""
    before = package.is_autocast_enabled(device), package.get_autocast_dtype(device)
    package.set_autocast_enabled(device, True)
    package.set_autocast_dtype(device, getattr(package, lower))
    try:
        yield
    finally:
        package.set_autocast_enabled(device, before[0])
        package.set_autocast_dtype(device, before[1])
        package.clear_autocast_cache()


def evaluated(package: Any, expression: str, names: dict[str, Any]) -> Any:
    """The result, or the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return eval(expression, {"torch": package, "F": package.nn.functional, **names})
        except (*ERRORS, AssertionError) as error:
            return error


def dtypes_of(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [dtypes_of(v) for v in value]
    return str(getattr(value, "dtype", value)).split(".")[-1]


def difference(expression: str, mine: Any, theirs: Any) -> str | None:
    """What differs in the dtypes, if PyTorch has a result."""
    if isinstance(theirs, Exception) or dtypes_of(mine) == dtypes_of(theirs):
        return None
    return f"{expression}: {dtypes_of(mine)}, not {dtypes_of(theirs)}"


@pytest.mark.parametrize("lower", LOWER)
def test_cpu(lower: str) -> None:
    wrong, compared = [], 0
    for expression in calls():
        theirs_names = operands(lower)
        names = {k: flamec_of(v) for k, v in theirs_names.items()}
        with region(torch, "cpu", lower):
            theirs = evaluated(torch, expression, theirs_names)
        with region(flamec, "cpu", lower):
            mine = evaluated(flamec, expression, names)
        wrong.append(difference(expression, mine, theirs))
        if not wrong[-1] and is_torch(theirs):
            compared += 1
            # a float32 result may come from rounded intermediate values
            np.testing.assert_allclose(
                array_of(mine).astype(np.float64),
                array_of(theirs).astype(np.float64),
                rtol=TOLERANCE[lower][0],
                atol=TOLERANCE[lower][0],
                err_msg=expression,
            )
    assert not any(wrong), "\n".join(["", *filter(None, wrong)])
    assert compared > 500


@pytest.mark.parametrize("lower", LOWER)
def test_cuda(lower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    monkeypatch.setattr(autocasting, "device_type", lambda tensor: "cuda")
    wrong, compared = [], 0
    reals = operands(lower)
    names = {k: flamec_of(v) for k, v in reals.items()}
    with FakeTensorMode():
        fakes = {k: torch.empty(v.shape, dtype=v.dtype, device="cuda") for k, v in reals.items()}
        for expression in calls():
            with region(torch, "cuda", lower):
                theirs = evaluated(torch, expression, fakes)
            with region(flamec, "cuda", lower):
                mine = evaluated(flamec, expression, names)
            wrong.append(difference(expression, mine, theirs))
            compared += not isinstance(theirs, Exception)
    assert not any(wrong), "\n".join(["", *filter(None, wrong)])
    assert compared > 500


def test_every_function_with_a_policy_is_compared() -> None:
    text = "\n".join(expressions("autocast"))
    declared = set()
    for package in (flamec, flamec.nn.functional):
        for name in dir(package):
            policies = getattr(getattr(package, name), "autocast_policies", {})
            if policies and Policy.REFUSED not in policies.values():
                declared.add(getattr(package, name).__name__)
    missing = {name for name in declared if f"{name}(" not in text}
    assert not missing - {"gumbel_softmax"}  # random
    assert len(declared) > 60


_OTHER_NAMES = {"cross_entropy_loss": "cross_entropy"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_function_that_pytorch_casts_has_a_policy(device: str) -> None:
    key = "Autocast" + device.upper()
    registered = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    missing, known = set(), 0
    for full_name in registered:
        name = full_name.removeprefix("aten::").partition(".")[0]
        name = _OTHER_NAMES.get(name, name)
        function = getattr(flamec.nn.functional, name, None) or getattr(flamec, name, None)
        if function is None:
            continue
        known += 1
        if device not in getattr(function, "autocast_policies", {}):
            missing.add(name)
    # einsum's products have the policy on the CPU, its sums have none
    assert missing <= {"einsum"}
    assert known > 15
