"""gradcheck, gradgradcheck and anomaly mode: what is right passes, what is wrong is named."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.autograd import Function, detect_anomaly, gradcheck, gradgradcheck
from flamec.autograd.gradcheck import GradcheckError


def point(*shape: int) -> Any:
    rng = np.random.default_rng(0)
    return flamec.tensor(rng.standard_normal(shape), dtype=flamec.float64, requires_grad=True)


class Wrong(Function):
    """x * x with a first derivative that is wrong, or a second that is missing."""

    factor = 2.0
    detaches = False

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return g * (x.detach() if Wrong.detaches else x) * Wrong.factor


@pytest.mark.parametrize("fast", [False, True])
def test_right_derivatives_pass(fast: bool) -> None:
    def several(x: Any, n: int, w: Any) -> Any:
        return flamec.sin(x @ w) * n, x.sum(), x > 0

    assert gradcheck(several, (point(3, 2), 2, point(2, 4)), fast_mode=fast)
    assert gradgradcheck(several, (point(3, 2), 2, point(2, 4)), fast_mode=fast)
    assert gradcheck(flamec.compile(lambda x: flamec.tanh(x).sum(0)), point(3, 2), fast_mode=fast)
    assert gradgradcheck(
        lambda x: x.exp(), point(3), gen_non_contig_grad_outputs=True, fast_mode=fast
    )
    assert gradcheck(lambda x: x * 2, point(0, 3), fast_mode=fast)


@pytest.mark.parametrize("fast", [False, True])
def test_wrong_derivatives_are_found(fast: bool) -> None:
    Wrong.factor, Wrong.detaches = 2.001, False
    assert gradcheck(Wrong.apply, point(3), rtol=1e-2, fast_mode=fast)
    Wrong.factor = 3.0
    with pytest.raises(GradcheckError, match="Jacobian mismatch for output 0 with respect to inp"):
        gradcheck(Wrong.apply, point(3), fast_mode=fast)
    assert not gradcheck(Wrong.apply, point(3), raise_exception=False, fast_mode=fast)
    Wrong.factor, Wrong.detaches = 2.0, True
    assert gradcheck(Wrong.apply, point(3), fast_mode=fast)
    with pytest.raises(GradcheckError, match="mismatch"):
        gradgradcheck(Wrong.apply, point(3), fast_mode=fast)


def test_what_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="at least one input"):
        gradcheck(lambda x: x, point(2).detach())
    with pytest.raises(GradcheckError, match="expected to be zero"):
        gradcheck(lambda x: x.detach() * 2, point(2))
    with pytest.warns(UserWarning, match="double precision"):
        gradcheck(lambda x: x * 2, flamec.ones(2, requires_grad=True), eps=1e-2, atol=1e-2)


def broken(x: Any) -> Any:
    y = x * 2
    z = flamec.sqrt(y - y)  # here
    return (z * 0).sum()


def broken_forward(x: Any) -> Any:
    z = flamec.log(x - 10)  # here
    return flamec.exp(z).sum()


@pytest.mark.parametrize("f", [broken, broken_forward])
@pytest.mark.parametrize("compiled", [False, True])
def test_anomaly_mode_names_the_forward_line(f: Any, compiled: bool) -> None:
    lines, first = inspect.getsourcelines(f)
    line = first + next(i for i, text in enumerate(lines) if "# here" in text)
    run = flamec.compile(f) if compiled else f
    run(point(3)).backward()  # no error outside of the mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with detect_anomaly(), pytest.raises(RuntimeError, match="returned nan values") as info:
            run(point(3)).backward()
    assert f"{__file__}:{line}" in str(info.value)
    assert "# here" in str(info.value)
    assert ("made first" in str(info.value)) == (f is broken_forward)


def test_anomaly_mode_is_a_switch() -> None:
    assert not flamec.autograd.is_anomaly_enabled()
    flamec.autograd.set_detect_anomaly(True, check_nan=False)
    try:
        assert flamec.autograd.is_anomaly_enabled()
        broken(point(3)).backward()
        with flamec.autograd.set_detect_anomaly(False):
            assert not flamec.autograd.is_anomaly_enabled()
        assert flamec.autograd.is_anomaly_enabled()
    finally:
        flamec.autograd.set_detect_anomaly(False)
    with pytest.warns(UserWarning, match="Anomaly"), detect_anomaly():
        broken_value = (point(3) * 2).sum()
        broken_value.backward()
    assert not flamec.autograd.is_anomaly_enabled()


@pytest.mark.parametrize("fast", [False, True])
def test_derivatives_are_checked_where_the_inputs_are(gpu: Any, fast: bool) -> None:
    x = flamec.tensor([0.5, -1.5], dtype=flamec.float64, device=gpu, requires_grad=True)
    y = flamec.tensor([[2.0, 1.0]], dtype=flamec.float64, device=gpu, requires_grad=True)
    options: dict[str, Any] = {"fast_mode": fast, "check_batched_grad": True}
    assert gradcheck(lambda x, y: (x * y, y.sin()), (x, y), check_forward_ad=True, **options)
    assert gradgradcheck(lambda x, y: x * x * y, (x, y), **options)


def test_the_function_and_its_module_have_one_name() -> None:
    """As in PyTorch: whoever imports from the module leaves the function where it is."""
    from flamec.autograd.gradcheck import gradcheck, gradgradcheck

    assert flamec.autograd.gradcheck is gradcheck
    assert flamec.autograd.gradgradcheck is gradgradcheck
