"""Names of PyTorch's first years that programs still use: constructors, ``Variable``, switches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

MADE = """
torch.Tensor(2, 3).shape
torch.Tensor(5).shape
torch.Tensor().shape
torch.Tensor(torch.Size([2, 3])).shape
torch.Tensor([1, 2])
torch.Tensor((1, 2.5))
torch.Tensor([[1, 2], [3, 4]])
torch.Tensor(numpy.arange(3))
torch.Tensor(torch.arange(3))
torch.Tensor(torch.ones(2, requires_grad=True)).requires_grad
torch.FloatTensor([1, 2])
torch.FloatTensor(2, 3).shape
torch.DoubleTensor([0.1])
torch.LongTensor([1.7, 2])
torch.IntTensor([[3]])
torch.ShortTensor([3])
torch.CharTensor([-3])
torch.ByteTensor([3])
torch.BoolTensor([1, 0])
torch.HalfTensor([0.1])
torch.BFloat16Tensor([0.1])
torch.FloatTensor(torch.ones(2))
torch.ones(2).type(torch.LongTensor)
isinstance(torch.ones(2), torch.FloatTensor)
isinstance(torch.ones(2), torch.LongTensor)
torch.nn.Parameter(torch.Tensor(2, 3)).shape
torch.autograd.Variable(torch.ones(2)).requires_grad
torch.autograd.Variable(torch.ones(2), requires_grad=True).requires_grad
torch.autograd.Variable(torch.ones(2, requires_grad=True) * 2).requires_grad
isinstance(torch.ones(2), torch.autograd.Variable)
torch.backends.mps.is_available()
torch.backends.cudnn.benchmark
torch.backends.cudnn.allow_tf32
torch.backends.cudnn.fp32_precision
torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
torch.backends.cuda.matmul.allow_fp16_accumulation
torch.backends.cudnn.is_available()
torch.backends.cudnn.version()
"""


def plain(value: Any) -> Any:
    if isinstance(value, (flamec.Tensor, torch.Tensor)):
        return str(value.dtype).rpartition(".")[2], value.tolist()
    return tuple(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("text", MADE.strip().splitlines())
def test_expression(text: str) -> None:
    found, expected = (eval(text, {"torch": m, "numpy": np}) for m in (flamec, torch))
    assert plain(found) == plain(expected)


REFUSED = ["Tensor(2.5)", "Tensor('a')", "Tensor(True)", "LongTensor(torch.ones(2))"]


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    for package in (flamec, torch):
        with pytest.raises(TypeError):
            eval(f"torch.{text}", {"torch": package})


def test_the_memory_of_a_tensor_is_shared() -> None:
    for package in (flamec, torch):
        x = package.ones(2)
        for other in (package.Tensor(x), package.FloatTensor(x), package.autograd.Variable(x)):
            assert other.data_ptr() == x.data_ptr()


def test_switches_that_there_are_not_are_refused() -> None:
    flamec.backends.cudnn.benchmark = flamec.backends.cudnn.benchmark
    for place in (flamec.backends.cudnn, flamec.backends.cudnn.conv, flamec.backends.cuda.matmul):
        with pytest.raises(AttributeError):
            place.anything = True


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mixed_precision_of_cuda() -> None:
    from flamec.cuda.amp import GradScaler, autocast

    assert isinstance(autocast(), flamec.autocast) and autocast().device_type == "cuda"
    assert autocast().dtype is flamec.float16
    assert isinstance(GradScaler(init_scale=8.0), flamec.amp.GradScaler)


def test_a_state_from_before_batches_were_counted() -> None:
    found = []
    for package in (flamec, torch):
        model = package.nn.Sequential(package.nn.Linear(2, 3), package.nn.BatchNorm1d(3))
        state = {k: v for k, v in model.state_dict().items() if "batches" not in k}
        model.load_state_dict(dict(state))
        found.append(str(model.load_state_dict({"x": package.ones(1)}, strict=False)))
    assert found[0] == found[1]


@pytest.mark.parametrize("package", [flamec, torch], ids=["flamec", "torch"])
def test_older_names_warn(package: Any) -> None:
    init = package.nn.init
    x = package.empty(4, 4)
    for name, *arguments in (
        ("uniform", -1.0, 1.0), ("normal",), ("constant", 2.0), ("eye",), ("orthogonal",),
        ("xavier_uniform",), ("xavier_normal",), ("kaiming_uniform",), ("kaiming_normal",),
        ("sparse", 0.5),
    ):  # fmt: skip
        with pytest.warns(FutureWarning, match=f"`nn.init.{name}` is now deprecated"):
            assert getattr(init, name)(x, *arguments) is x
    kernel = package.empty(2, 2, 3)
    with pytest.warns(FutureWarning, match="nn.init.dirac_"):
        assert init.dirac(kernel)[1, 1].tolist() == [0.0, 1.0, 0.0]
    x = package.ones(4, requires_grad=True)
    (x * 3).sum().backward()
    with pytest.warns(FutureWarning, match="clip_grad_norm_"):
        assert package.nn.utils.clip_grad_norm([x], 1.0).item() == 6.0
    assert abs(x.grad.norm().item() - 1) < 1e-5


@pytest.mark.parametrize("package", [flamec, torch], ids=["flamec", "torch"])
def test_kernels_of_attention_can_be_chosen(package: Any) -> None:
    """In flamec that changes nothing."""
    attention, cuda = package.nn.attention, package.backends.cuda
    backends = attention.SDPBackend
    names = ("math_sdp", "flash_sdp", "mem_efficient_sdp", "cudnn_sdp")

    def enabled() -> list[bool]:
        return [getattr(cuda, f"{name}_enabled")() for name in names]

    assert enabled() == [True] * 4
    x = package.ones(1, 1, 2, 2)
    with attention.sdpa_kernel(backends.MATH):
        assert enabled() == [True, False, False, False]
        package.nn.functional.scaled_dot_product_attention(x, x, x)
        chosen = [backends.FLASH_ATTENTION, backends.EFFICIENT_ATTENTION]
        with attention.sdpa_kernel(chosen):
            assert enabled() == [False, True, True, False]
        assert enabled() == [True, False, False, False]
    assert enabled() == [True] * 4
    cuda.enable_flash_sdp(False)
    assert enabled() == [True, False, True, True]
    cuda.enable_flash_sdp(True)
    with pytest.raises(AssertionError, match="Backend must be"), attention.sdpa_kernel("math"):
        pass
    members = torch.nn.attention.SDPBackend.__members__
    assert {name: int(b) for name, b in backends.__members__.items()} == {
        name: int(b) for name, b in members.items()
    }


def test_functional_call_by_its_older_name() -> None:
    for package in (flamec, torch):
        import_ = __import__(f"{package.__name__}.nn.utils.stateless", fromlist=["functional_call"])
        layer = package.nn.Linear(2, 1, bias=False)
        weight = {"weight": package.tensor([[2.0, 3.0]])}
        assert import_.functional_call(layer, weight, package.ones(2)).tolist() == [5.0]


def test_whether_a_function_is_compiled() -> None:
    def function(x: Any) -> Any:
        return x + (1 if flamec.compiler.is_compiling() else 2)

    assert function(flamec.zeros(())).item() == 2
    assert flamec.compile(function)(flamec.zeros(())).item() == 1
    assert not (flamec.compiler.is_dynamo_compiling() or torch.compiler.is_compiling())


def test_modes_and_errors_at_the_top() -> None:
    for package in (flamec, torch):
        assert not package.is_anomaly_enabled()
        with package.autograd.detect_anomaly():
            assert package.is_anomaly_enabled()
        assert package.OutOfMemoryError is package.cuda.OutOfMemoryError


@pytest.mark.parametrize("package", [flamec, torch], ids=["flamec", "torch"])
def test_types_by_their_older_names(package: Any) -> None:
    x = package.ones(2, 3, dtype=package.float64)
    assert tuple(x.new(4).shape) == (4,) and x.new([1, 2]).tolist() == [1.0, 2.0]
    assert x.new(2, 2).dtype is package.float64 and x.new().numel() == 0
    assert x.new(x).data_ptr() == x.data_ptr() and x.new(x) is not x
    for wrong in ((x.float(),), (1.5, 2)):
        with pytest.raises(TypeError):
            x.new(*wrong)
    name = package.__name__
    assert package.typename(x) == f"{name}.DoubleTensor" == x.type()
    assert package.typename(3) == "int" and package.typename(str) == "str"
    assert package.typename(package.nn.Linear).endswith(".Linear")
    assert package.typename(package.nn.Linear) == package.typename(package.nn.Linear(1, 1))
    for given in (package.DoubleTensor, f"{name}.DoubleTensor"):
        try:
            package.set_default_tensor_type(given)
            assert package.ones(1).dtype is package.float64
        finally:
            package.set_default_tensor_type(package.FloatTensor)
        assert package.ones(1).dtype is package.float32
    with pytest.raises(TypeError):
        package.set_default_tensor_type(package.LongTensor)
    assert package.get_default_dtype() is package.float32


@pytest.mark.parametrize("package", [flamec, torch], ids=["flamec", "torch"])
def test_what_no_tensor_is(package: Any) -> None:
    x = package.ones(2)
    kinds = ("mkldnn", "mps", "nested", "sparse_csr", "vulkan", "xla", "xpu")
    assert not any(getattr(x, f"is_{kind}") for kind in kinds)
    assert not (x.is_conj() or x.is_neg() or package.is_conj(x) or package.is_neg(x))
    assert package.resolve_conj(x) is x and x.resolve_neg() is x and package.resolve_neg(x) is x
    signed = {d: getattr(package, d).is_signed for d in ("float16", "int8", "uint8", "bool")}
    assert signed == {"float16": True, "int8": True, "uint8": False, "bool": False}
    assert not package.float32.is_complex


@pytest.mark.parametrize("package", [flamec, torch], ids=["flamec", "torch"])
def test_determinism_by_words_and_numbers(package: Any) -> None:
    assert package.get_deterministic_debug_mode() == 0
    try:
        for mode, number in (("warn", 1), (2, 2), ("default", 0), (1, 1), ("error", 2), (0, 0)):
            package.set_deterministic_debug_mode(mode)
            assert package.get_deterministic_debug_mode() == number
            assert package.are_deterministic_algorithms_enabled() == (number > 0)
            only = package.is_deterministic_algorithms_warn_only_enabled()
            assert only == (number == 1)
        for wrong, error in (("often", RuntimeError), (3, RuntimeError), (None, TypeError)):
            with pytest.raises(error):
                package.set_deterministic_debug_mode(wrong)
    finally:
        package.use_deterministic_algorithms(False)
    assert package.set_flush_denormal(False) in (True, False)
