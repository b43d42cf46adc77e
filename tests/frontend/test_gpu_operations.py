"""Every primitive in eager mode on a GPU, against the oracle of its row in the op table."""

from __future__ import annotations

from typing import Any

import driver_stand_in
import numpy as np
import pytest
from op_row import Row, Sample
from op_table import COMPILED, OP_TABLE
from simulated_gpu import SimulatedGpu

import flamec
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.dispatch import apply
from flamec.errors import OperationError
from flamec.functional import true_places
from flamec.ir.graph import Graph
from flamec.ir.op import OpKind, lookup
from flamec.ir.passes.place import on_one_device
from flamec.ir.plan import Launch
from flamec.ir.shape import symbols_of
from flamec.ir.types import ALL_DTYPES, Device, DType, float32, int64
from flamec.symbolic_sizes import rounded_hints

CASES = [
    pytest.param(row, dtype, id=f"{row.name}-{dtype.name}")
    for row in OP_TABLE
    for dtype in row.dtypes
]
# Each kind of kernel once for each op on a real GPU, where every program is compiled.
CHOSEN = [
    c
    for c in CASES
    if c.values[0] in COMPILED and (c.values[1] in (float32, int64) or len(c.values[0].dtypes) == 1)
]


def placed(array: np.ndarray, device: Device) -> flamec.Tensor:
    """The values on the device, lying there as they do in host memory if that has gaps."""
    if array.flags.c_contiguous or not array.ndim:
        return flamec.tensor(array, device=device)
    base = flamec.zeros(*array.shape[:-1], 2 * array.shape[-1], device=device)
    base = base.to(flamec.from_numpy(array[:0].copy()).dtype)
    view = base.flip(0)[..., ::2] if base.shape[0] > 1 else base[..., ::2]
    return view.copy_(flamec.tensor(array, device=device))


def _placed(value: Any, device: Device) -> Any:
    """An attribute for operands on the device: a place, or the body of a loop."""
    if isinstance(value, Graph):
        return on_one_device(value, device)
    return device if isinstance(value, Device) else value


def check(row: Row, dtype: DType, gpu: Device) -> None:
    op = lookup(row.name)
    for sample in row.samples(dtype, np.random.default_rng(1)):
        attributes = {name: _placed(value, gpu) for name, value in sample.attributes.items()}
        operands = [placed(a, gpu) for a in sample.arrays]
        with flamec.no_grad():
            result = apply(op, operands, attributes)
        results = result if isinstance(result, tuple) else (result,)
        types = op.infer_types(sample.types, sample.attributes)
        expected = row.expected(sample, types)
        rtol, atol = row.tolerance(dtype)
        for got, wanted in zip(results, expected, strict=True):
            assert got.device == gpu
            compare(got.cpu().numpy(), wanted, rtol, atol, sample)


def compare(got: np.ndarray, wanted: np.ndarray, rtol: float, atol: float, sample: Sample) -> None:
    assert got.dtype == wanted.dtype and got.shape == wanted.shape, str(sample)
    a, b = (x if x.dtype == bool else x.astype(np.float64) for x in (got, wanted))
    if wanted.dtype.kind in "iub":
        np.testing.assert_array_equal(got, wanted, err_msg=str(sample))
    else:
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=str(sample))


@pytest.mark.parametrize(("row", "dtype"), CASES)
def test_simulated(row: Row, dtype: DType, simulated: Any) -> None:
    check(row, dtype, Device("cuda", 0))


@pytest.mark.gpu
@pytest.mark.usefixtures("float32_convolutions")
@pytest.mark.skipif(not flamec.gpu.device_count(), reason="there is no GPU")
@pytest.mark.parametrize(("row", "dtype"), CHOSEN)
def test_real(row: Row, dtype: DType) -> None:
    check(row, dtype, Device("cuda", 0))


@pytest.mark.parametrize("row", COMPILED, ids=lambda row: row.name)
def test_programs_over_symbols_are_generated(row: Row, simulated: list[SimulatedGpu]) -> None:
    check(row, float32 if float32 in row.dtypes else row.dtypes[0], Device("cuda", 0))
    for symbols, prepared in zip(simulated[0].symbols, simulated[0].prepared, strict=True):
        plan = compile_graph(prepared.optimized).plan
        assert set(plan.symbols) <= set(symbols)
        for action in plan.actions:
            if isinstance(action, Launch):
                used = set().union(*map(symbols_of, action.grid))
                assert used <= set(plan.symbols)


def test_bounds_of_sizes() -> None:
    """Powers of four are known exactly, others within a factor of four."""
    sizes = [*range(1, 3000), 65535, 65536, 65537]
    bounds = rounded_hints({str(n): n for n in sizes})
    assert all(n <= bounds[str(n)] < 4 * n for n in sizes)
    assert all(bounds[str(n)] == n for n in (1, 4, 64, 256, 1024, 65536))
    assert len(set(bounds.values())) == 9


def test_every_dtype_goes_there_and_back(gpu: Device) -> None:
    for dtype in ALL_DTYPES:
        values = np.array([[0, 1, 5], [2, 3, 100]]).astype(dtype.numpy)
        x = flamec.tensor(values, device=gpu)
        assert x.dtype is dtype and x.cpu().numpy().tobytes() == values.tobytes()


def test_errors_name_operation_and_line(gpu: Device) -> None:
    with pytest.raises(OperationError, match=r"matmul.*test_gpu_operations\.py:\d+"):
        flamec.ones(2, 3, device=gpu) @ flamec.ones(2, 3, device=gpu)
    assert lookup("to_device").kind is OpKind.TRANSFER


@pytest.mark.parametrize("shape", [(1 << 15,), (3, 40_001), (2, 1, 33_000)])
def test_running_sums_of_long_rows(gpu: Any, shape: tuple[int, ...]) -> None:
    """By lines: infinities spoil what follows them alone, and gradients are sums from the end."""
    x = np.random.default_rng(0).standard_normal(shape)
    x[..., 20_000] = np.inf
    x.reshape(-1, shape[-1])[0, 30_000] = np.nan
    leaf = flamec.tensor(x, device=gpu, requires_grad=True)
    found = leaf.cumsum(-1)
    np.testing.assert_allclose(found.detach().cpu().numpy(), x.cumsum(-1), 1e-9, 1e-9)
    seed = np.random.default_rng(1).standard_normal(shape)
    found.backward(flamec.tensor(seed, device=gpu))
    assert leaf.grad is not None
    wanted = seed[..., ::-1].cumsum(-1)[..., ::-1]
    np.testing.assert_allclose(leaf.grad.cpu().numpy(), wanted, 1e-9, 1e-9)
    whole = flamec.tensor(np.arange(shape[-1]), device=gpu).cumsum(0)
    np.testing.assert_array_equal(whole.cpu().numpy(), np.arange(shape[-1]).cumsum())


def test_searches_in_tables_of_any_size(gpu: Any) -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 7, 16, 100):
        table, values = np.sort(rng.integers(0, 50, size)), rng.integers(-5, 60, 500)
        for right in (False, True):
            tensors = (flamec.tensor(a, device=gpu) for a in (table, values))
            found = flamec.searchsorted(*tensors, right=right).cpu().numpy()
            side = "right" if right else "left"
            np.testing.assert_array_equal(found, np.searchsorted(table, values, side))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1 << 17,), (300, 451)])
def test_true_places_of_large_masks(gpu: Any, shape: tuple[int, ...], share: float) -> None:
    random = np.random.default_rng(0)
    mask, values = random.random(shape) < share, random.standard_normal(shape)
    on_gpu = flamec.tensor(mask, device=gpu)
    assert on_gpu.numel() >= true_places.LEAST_ELEMENTS
    np.testing.assert_array_equal(on_gpu.nonzero().cpu().numpy(), np.argwhere(mask))
    x = flamec.tensor(values, device=gpu)
    for chosen in (x.masked_select(on_gpu), x[on_gpu]):
        np.testing.assert_array_equal(chosen.cpu().numpy(), values[mask])


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_true_places_of_no_elements_in_a_program(gpu: Any, shape: tuple[int, ...]) -> None:
    def places(x: Any) -> Any:
        mask = x > 0
        return mask.nonzero(), x[mask], x.masked_select(mask), x[mask].sum()

    results = flamec.compile(places)(flamec.zeros(shape, device=gpu))
    for found, wanted in zip(results, places(flamec.zeros(shape)), strict=True):
        np.testing.assert_array_equal(found.cpu().numpy(), wanted.numpy())


def test_lines_that_are_too_long_to_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their places do not fit in what a key leaves room for; programs are for all sizes."""
    driver_stand_in.install(monkeypatch)
    x = flamec.zeros(1, dtype=flamec.uint8, device="cuda").expand(1 << 31)  # one element
    compiled = [flamec.compile(lambda x: x.sort()[0] + 1, dynamic=d) for d in (False, True)]
    calls: Any = (flamec.sort, flamec.argsort, lambda x: x.topk(3), lambda x: x.kthvalue(2))
    for call in (*calls, *compiled):
        with pytest.raises(OperationError, match="a line of 2147483648 elements") as raised:
            call(x)
        assert str(raised.value).count("test_gpu_operations") == 1
    flamec.sort(x[1:])
