"""Rows of docs/FROM_PYTORCH.md on settings, devices, errors and whole packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from differences import raises, row

import flamec
from flamec import nn
from flamec.float32_precision import restore_settings, saved_settings
from flamec.runtime.cuda.driver import cuda_version
from flamec.state import process

torch = pytest.importorskip("torch")


@row("torch.backends")
def _() -> None:
    for package in (flamec, torch):
        assert package.backends.cudnn.allow_tf32 and not package.backends.cuda.matmul.allow_tf32
        assert package.backends.cudnn.conv.fp32_precision == "tf32"
    assert flamec.backends.cudnn.deterministic  # whatever is set
    assert not torch.backends.cudnn.deterministic


@row("nn.attention.sdpa_kernel")
def _() -> None:
    x = flamec.ones(1, 1, 2, 2)
    attention = flamec.compile(nn.functional.scaled_dot_product_attention)
    for backend in nn.attention.SDPBackend:
        with nn.attention.sdpa_kernel(backend):
            assert attention(x, x, x).tolist() == [[[[1.0, 1.0]] * 2]]
    assert attention.stats.traces == 1


@row("torch.version")
def _() -> None:
    assert {"__version__", "cuda", "git_version", "debug"} <= set(dir(torch.version))
    assert flamec.version.__version__ == flamec.__version__
    assert flamec.version.cuda == cuda_version()


@row("older switches of TF32 after newer ones")
def _() -> None:
    saved = saved_settings()
    try:
        for package in (flamec, torch):
            package.backends.cuda.matmul.fp32_precision = "tf32"
        assert flamec.backends.cuda.matmul.allow_tf32
        assert flamec.get_float32_matmul_precision() == "high"
        with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
            assert torch.backends.cuda.matmul.allow_tf32
        flamec.backends.cudnn.rnn.fp32_precision = "ieee"
        with pytest.raises(RuntimeError, match="not one answer"):
            assert flamec.backends.cudnn.allow_tf32
    finally:
        restore_settings(saved)
        torch.backends.cuda.matmul.fp32_precision = "none"


@row("float32 recurrent layers on a GPU")
def _() -> None:
    assert torch.backends.cudnn.rnn.fp32_precision == "tf32"
    chosen = process.float32_precision
    saved = saved_settings()
    for precision in ("ieee", "tf32"):
        flamec.backends.cudnn.rnn.fp32_precision = precision
        assert flamec.backends.cudnn.rnn.fp32_precision == precision
        assert process.float32_precision is chosen
    restore_settings(saved)


@row("errors")
def _() -> None:
    assert issubclass(flamec.errors.OperationError, (RuntimeError, ValueError))
    with pytest.raises(RuntimeError) as caught:
        nn.Sequential(nn.Linear(3, 2))(flamec.ones(1, 4))
    assert isinstance(caught.value, ValueError) and __file__ in str(caught.value)
    where, fix = caught.value.__notes__
    assert where == "in module 0 (Linear)" and fix.startswith("likely fix: ")


@row("array API")
def _() -> None:
    assert not hasattr(torch.Tensor, "__array_namespace__")
    assert flamec.ones(1).__array_namespace__() is flamec.array_api


@row("optimizers")
def _() -> None:
    assert not hasattr(torch.optim, "Lion") and flamec.optim.Lion


@row("distributions")
def _() -> None:
    for name in ("Wishart", "LKJCholesky", "ContinuousBernoulli"):
        assert hasattr(torch.distributions, name) and not hasattr(flamec.distributions, name)


@row("backward under autocast")
def _() -> None:
    def gradient(package: Any, run: Callable[[Any], Any]) -> float:
        weight = package.full((8, 8), 1.0 / 3, requires_grad=True)
        result = run(lambda x: x @ weight @ weight)(package.full((4, 8), 1.0 / 7))
        with package.autocast("cpu", dtype=package.bfloat16):
            result.sum().backward()
        found: float = weight.grad[0, 0].item()
        return found

    exact = 8 * 4 / 7 * 2 / 3
    assert abs(gradient(torch, lambda f: f) / exact - 1) > 1e-4
    for run in (lambda f: f, flamec.compile):
        assert abs(gradient(flamec, run) / exact - 1) < 1e-6


@row("several devices")
def _() -> None:
    assert torch.distributed.is_available() and not flamec.distributed.is_available()
    layer = nn.Linear(2, 2)
    x = flamec.ones(1, 2)
    assert flamec.equal(nn.DataParallel(layer)(x), layer(x))
    raises(lambda: nn.DataParallel(layer, device_ids=[0, 1]), RuntimeError)
    raises(flamec.distributed.init_process_group, RuntimeError)
