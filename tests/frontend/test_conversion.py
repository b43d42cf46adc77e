"""Tensors from data, in other dtypes, and back to Python; errors with the user's line."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.errors import DataDependentError

F32, F64, I64 = flamec.float32, flamec.float64, flamec.int64


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (3, I64, ()),
        (3.5, F32, ()),
        (True, flamec.bool, ()),
        ([1, 2], I64, (2,)),
        ([1, 2.0], F32, (2,)),
        ([True, 2], I64, (2,)),
        ([True, False], flamec.bool, (2,)),
        ([[1, 2], [3, 4.5]], F32, (2, 2)),
        ([], F32, (0,)),
        ([[]], F32, (1, 0)),
        ([[], []], F32, (2, 0)),
        (range(3), I64, (3,)),
        ((1, 2), I64, (2,)),
        (np.float64(3), F64, ()),
        (np.int32(3), flamec.int32, ()),
        ([np.float64(3)], F64, (1,)),
        ([np.float32(1), 2.0], F32, (2,)),
        ([np.int32(3), 1], I64, (2,)),
        ([np.array([1.0, 2.0])], F64, (1, 2)),
        ([np.bool_(True)], flamec.bool, (1,)),
        (np.float16(1), flamec.float16, ()),
        (np.zeros((2, 3), np.int8), flamec.int8, (2, 3)),
        ([flamec.tensor(1, dtype=flamec.int8), 2], I64, (2,)),
        ([flamec.tensor([1.0]), flamec.tensor(2.0)], F32, (2,)),
        (flamec.ones(2, dtype=flamec.float16), flamec.float16, (2,)),
    ],
)
def test_inferred_dtype_and_shape(data: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    x = flamec.tensor(data)
    assert (x.dtype, x.shape) == (dtype, shape)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([[1, 2], [3]], ValueError, "expected sequence of length 2 at dim 1 \\(got 1\\)"),
        ([[1, 2], 3], TypeError, "not a sequence"),
        ([3, [1, 2]], TypeError, "list"),
        ("abc", TypeError, "invalid data type 'str'"),
        (["a"], TypeError, "invalid data type 'str'"),
        (None, TypeError, "could not infer dtype of NoneType"),
        ({1: 2}, TypeError, "could not infer dtype of dict"),
        ([2**64], RuntimeError, "without overflow"),
        (np.array(["a"]), TypeError, "no flamec equivalent"),
        (np.zeros(2, np.complex64), TypeError, "no flamec equivalent"),
        ([flamec.ones(2), flamec.zeros(2)], ValueError, "only one element tensors"),
    ],
)
def test_bad_data(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        flamec.tensor(data)
    assert "test_conversion.py" in str(caught.value)


def test_dtype_argument_converts() -> None:
    assert flamec.tensor([1.7, -1.7], dtype=flamec.int32).tolist() == [1, -1]
    assert flamec.tensor([0, 2], dtype=flamec.bool).tolist() == [False, True]
    assert flamec.tensor([1, 2], dtype=float).dtype is F64
    assert flamec.tensor(-1, dtype=flamec.uint8).item() == 255
    assert flamec.tensor([0.1], dtype=flamec.bfloat16).item() == 0.10009765625
    with pytest.raises(RuntimeError, match="300 cannot be converted to type uint8"):
        flamec.tensor(300, dtype=flamec.uint8)
    with pytest.raises(RuntimeError, match="Expected one of cpu, cuda"):
        flamec.tensor(1, device="quantum")


def test_default_dtype_is_used() -> None:
    flamec.set_default_dtype(F64)
    try:
        assert flamec.tensor([1.5]).dtype is F64
        assert flamec.tensor([]).dtype is F64
    finally:
        flamec.set_default_dtype(F32)


def test_tensor_copies_and_from_numpy_shares() -> None:
    array = np.zeros(3, np.float32)
    copied, shared, same = flamec.tensor(array), flamec.from_numpy(array), flamec.as_tensor(array)
    array[0] = 1.0
    assert (copied[0].item(), shared[0].item(), same[0].item()) == (0.0, 1.0, 1.0)
    shared[1] = 5.0
    assert array[1] == 5.0
    assert flamec.as_tensor(array, dtype=F64).dtype is F64
    assert np.shares_memory(shared.numpy(), array)
    with pytest.raises(TypeError, match=r"expected np\.ndarray"):
        flamec.from_numpy([1])  # type: ignore[arg-type]


def test_from_numpy_takes_any_strides() -> None:
    array = np.arange(12.0).reshape(3, 4)
    x = flamec.from_numpy(array.T[::-1, 1:])
    np.testing.assert_array_equal(x.numpy(), array.T[::-1, 1:])
    x[0, 0] = -1.0
    assert array[1, 3] == -1.0
    assert not x.is_contiguous()
    assert x.stride() == (-1, 4)
    assert x.reshape(-1).tolist() == array.T[::-1, 1:].reshape(-1).tolist()


def test_tensor_of_a_tensor_is_a_detached_copy() -> None:
    w = flamec.ones(2, requires_grad=True)
    x = flamec.tensor(w)
    assert not x.requires_grad
    x[0] = 3.0
    assert w.tolist() == [1.0, 1.0]
    assert flamec.tensor(1.0, requires_grad=True).is_leaf
    with pytest.raises(RuntimeError, match="floating"):
        flamec.tensor(1, requires_grad=True)


def test_to_and_its_relatives() -> None:
    x = flamec.tensor([1.5, -2.5])
    assert x.to(F32) is x and x.float() is x and x.cpu() is x
    assert x.to(F32, copy=True) is not x
    assert x.to("cpu", F64).dtype is F64
    assert x.to(device="cpu", dtype=flamec.int8).tolist() == [1, -2]
    assert x.to(flamec.zeros(1, dtype=I64)).dtype is I64
    for name, dtype in {
        "double": F64,
        "half": flamec.float16,
        "bfloat16": flamec.bfloat16,
        "long": I64,
        "int": flamec.int32,
        "short": flamec.int16,
        "char": flamec.int8,
        "bool": flamec.bool,
    }.items():
        assert getattr(x, name)().dtype is dtype
    assert x.byte().dtype is flamec.uint8
    assert x.type() == "flamec.FloatTensor"
    assert x.type(F64).dtype is x.type("flamec.DoubleTensor").dtype is F64
    assert x.type_as(flamec.tensor(1)).dtype is I64
    with pytest.raises(TypeError, match="unexpected keyword"):
        x.to(colour="red")


@pytest.mark.skipif(flamec.cuda.is_available(), reason="is about machines without a GPU")
def test_a_gpu_where_there_is_none() -> None:
    calls: list[Callable[[], Any]] = [
        lambda: flamec.tensor(1, device="cuda"),
        lambda: flamec.zeros(2, device="cuda"),
        flamec.zeros(2).cuda,
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="not available"):
            call()


def test_conversion_is_differentiable() -> None:
    w = flamec.ones(2, requires_grad=True)
    (w.double() * 3.0).sum().backward()
    assert w.grad.dtype is F32
    assert w.grad.tolist() == [3.0, 3.0]


def test_values_in_python() -> None:
    assert flamec.tensor(3).item() == 3 and isinstance(flamec.tensor(3).item(), int)
    assert isinstance(flamec.tensor(2.5, dtype=flamec.bfloat16).item(), float)
    assert flamec.tensor([[True]]).item() is True
    assert flamec.tensor([[1.5, 2.0]]).tolist() == [[1.5, 2.0]]
    assert flamec.tensor([0.5], dtype=flamec.float16).tolist() == [0.5]
    assert int(flamec.tensor(2.7)) == 2 and float(flamec.tensor([2])) == 2.0
    assert [10, 20, 30][flamec.tensor(1)] == 20
    assert list(range(flamec.tensor([3]))) == [0, 1, 2]
    assert bool(flamec.tensor([0.0])) is False
    assert f"{flamec.tensor(3.14159):.2f}" == "3.14"
    assert 2 in flamec.tensor([1, 2]) and 5 not in flamec.tensor([1, 2])
    assert flamec.tensor([1.0, 2.0]).numpy().tolist() == [1.0, 2.0]
    assert np.asarray(flamec.ones(2)).dtype == np.float32
    assert np.array(flamec.ones(2), dtype=np.float64).dtype == np.float64


def test_values_in_python_errors() -> None:
    x = flamec.ones(2, 2)
    for action, error, message in (
        (x.item, RuntimeError, "4 elements cannot be converted to Scalar"),
        (lambda: bool(x), RuntimeError, "more than one value is ambiguous"),
        (lambda: bool(flamec.ones(0)), RuntimeError, "no values is ambiguous"),
        (lambda: int(x), ValueError, "only one element"),
        (lambda: [1][flamec.tensor(0.0)], TypeError, "only integer tensors"),
        (lambda: f"{x:.2f}", TypeError, "unsupported format string"),
        (lambda: "a" in x, RuntimeError, "only supports Tensor or scalar"),
        (lambda: len(flamec.tensor(1)), TypeError, "0-d"),
        (lambda: iter(flamec.tensor(1)), TypeError, "0-d"),
        (flamec.ones(1, requires_grad=True).numpy, RuntimeError, "detach"),
    ):
        with pytest.raises(error, match=message):
            action()
    assert flamec.ones(1, requires_grad=True).numpy(force=True).tolist() == [1.0]


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: bool(x),
        lambda x: float(x),
        lambda x: f"{x:.3f}",
        lambda x: x.nonzero(),
        lambda x: 1.0 in x,
    ],
)
def test_values_cannot_be_read_in_one_graph(use: Any) -> None:
    @flamec.compile(fullgraph=True)
    def function(x: flamec.Tensor) -> flamec.Tensor:
        use(x.sum())
        return x

    with pytest.raises(DataDependentError, match=r"test_conversion\.py:\d+"):
        function(flamec.ones(2))


def test_data_become_constants_of_a_program_that_writes_do_not_change() -> None:
    weights = np.array([1.0, 2.0], np.float32)

    @flamec.compile
    def function(x: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
        counter = flamec.tensor([10.0, 20.0])
        counter += x
        stacked = flamec.tensor([x[0] * 2, 3.0, x[1]])
        shifted = flamec.tensor(weights)
        shifted += x
        return counter, stacked, shifted, flamec.tensor(x.shape[0])

    x = flamec.tensor([1.0, 2.0])
    for _ in range(3):
        counter, stacked, shifted, size = function(x)
        assert counter.tolist() == [11.0, 22.0]
        assert stacked.tolist() == [2.0, 3.0, 2.0]
        assert shifted.tolist() == [2.0, 4.0]
        assert size.item() == 2
    weights[0] = 5.0
    assert function(x)[2].tolist() == [6.0, 4.0]


def test_copies_of_the_object() -> None:
    base = flamec.arange(6.0).reshape(2, 3)
    w = flamec.ones(2, requires_grad=True)
    (w * 2.0).sum().backward()
    first, second, leaf = copy.deepcopy((base, base[1], w))
    second.zero_()
    assert first.tolist() == [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    assert base[1].tolist() == [3.0, 4.0, 5.0]
    assert leaf.requires_grad and leaf.grad.tolist() == [2.0, 2.0] and leaf.grad is not w.grad
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(w * 1.0)
    alias = copy.copy(base)
    alias[0, 0] = 9.0
    assert base[0, 0].item() == 9.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64", "bool"])
def test_pickle(dtype: str) -> None:
    x = flamec.tensor([[1, 0], [2, 3]]).to(getattr(flamec, dtype)).T
    y = pickle.loads(pickle.dumps(x))
    assert y.dtype is x.dtype and y.tolist() == x.tolist()
    y[0, 0] = 5
    w = flamec.ones(2, requires_grad=True)
    stream = io.BytesIO()
    pickle.dump({"w": w}, stream)
    assert pickle.loads(stream.getvalue())["w"].requires_grad
    with pytest.raises(RuntimeError, match="pickled"):
        pickle.dumps(w * 2.0)


def test_dlpack() -> None:
    x = flamec.arange(4.0)
    shared = np.from_dlpack(x)
    back = flamec.from_dlpack(np.arange(3.0))
    assert shared.tolist() == x.tolist() and back.dtype is F64
    assert x.__dlpack_device__() == (1, 0)
    x[0] = 7.0
    assert shared[0] == 7.0
    with pytest.raises(BufferError, match="require gradient"):
        np.from_dlpack(flamec.ones(1, requires_grad=True))


def test_memory_of_a_tensor() -> None:
    x = flamec.arange(24.0).reshape(2, 3, 4)
    view = x[:, 1:].transpose(0, 2)
    assert view.stride() == (1, 4, 12) and view.stride(-1) == 12
    assert view.storage_offset() == 4
    assert view.data_ptr() == x.data_ptr() + 16
    assert not view.is_contiguous() and view.contiguous().is_contiguous()
    assert x.contiguous() is x
    assert (x.element_size(), x.nbytes, x.numel(), x.nelement()) == (4, 96, 24, 24)
    assert (x.dim(), x.ndimension(), x.size(), x.size(-1)) == (3, 3, (2, 3, 4), 4)
    assert x.is_set_to(x[:]) and not x.is_set_to(view)
    assert flamec.zeros(2, 1).expand(2, 3).stride() == (1, 0)
    with pytest.raises(IndexError, match="out of range"):
        x.size(3)


def test_data_and_set() -> None:
    w = flamec.ones(2, requires_grad=True)
    w.data = flamec.tensor([3.0, 4.0, 5.0])
    assert w.requires_grad and w.shape == (3,)
    (w * w).sum().backward()
    assert w.grad.tolist() == [6.0, 8.0, 10.0]
    other = flamec.zeros(2)
    x = flamec.ones(3)
    x.set_(other)
    x[0] = 1.0
    assert other.tolist() == [1.0, 0.0]


def test_filling() -> None:
    x = flamec.zeros(2, 2, dtype=flamec.int32)
    assert x.fill_(2.9).tolist() == [[2, 2], [2, 2]]
    assert x[0].fill_(flamec.tensor(7)).tolist() == [7, 7]
    assert x.zero_().tolist() == [[0, 0], [0, 0]]
    assert x.copy_(flamec.tensor([1.5, -1.5])).tolist() == [[1, -1], [1, -1]]
    with pytest.raises(RuntimeError, match="overflow"):
        flamec.zeros(1, dtype=flamec.int8).fill_(1000)
    with pytest.raises(RuntimeError, match="0-dimension"):
        x.fill_(flamec.ones(2))
    with pytest.raises(RuntimeError, match="cannot be broadcast"):
        x.copy_(flamec.ones(3))


def test_new_tensors() -> None:
    x = flamec.ones(2, dtype=F64)
    assert x.new_zeros(2, 3).shape == (2, 3) and x.new_zeros((2,)).dtype is F64
    assert x.new_ones(2, dtype=I64).tolist() == [1, 1]
    assert x.new_full((2,), 3).tolist() == [3.0, 3.0]
    assert x.new_tensor([1, 2]).dtype is F64
    assert x.new_empty(0).shape == (0,)
    assert x.new_ones(1, requires_grad=True).requires_grad
    with pytest.raises(TypeError, match="unexpected keyword"):
        x.new_ones(2, colour=1)


def test_tensors_that_change_shape_in_place() -> None:
    x = flamec.arange(6.0).reshape(1, 2, 3)
    alias = x[0]
    assert x.squeeze_() is x and x.shape == (2, 3)
    assert x.t_().stride() == (1, 3) and x.unsqueeze_(-1).shape == (3, 2, 1)
    x[1, 0, 0] = 9.0
    assert alias[0, 1].item() == 9.0
    with pytest.raises(RuntimeError, match="leaf"):
        flamec.ones(2, requires_grad=True).unsqueeze_(0)

    @flamec.compile
    def inside(x: flamec.Tensor) -> flamec.Tensor:
        y = (x * 2.0).transpose_(0, 1)
        y[0] += 1.0
        return y

    assert inside(flamec.zeros(2, 3)).tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_fill_diagonal() -> None:
    for shape, wrap in (((5, 2), False), ((5, 2), True), ((2, 4), True), ((3, 3, 3), False)):
        expected = np.zeros(shape)
        np.fill_diagonal(expected, 2.0, wrap=wrap)
        assert flamec.zeros(*shape).fill_diagonal_(2.0, wrap).tolist() == expected.tolist()
    with pytest.raises(RuntimeError, match="equal length"):
        flamec.zeros(2, 2, 3).fill_diagonal_(1.0)


def test_grad_fn() -> None:
    w = flamec.ones(2, requires_grad=True)
    assert w.grad_fn is None and flamec.ones(2).grad_fn is None
    assert (w * 2.0).grad_fn.op.name == "mul"
    assert (w * 2.0).detach().grad_fn is None
