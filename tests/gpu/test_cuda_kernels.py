"""Kernels on a GPU: arguments of every kind, tensor maps, shared memory, clusters, scratch."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from gpu_kernels import affine, matmul, numbers, transpose

from flamec.ir.plan import KernelSource
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.driver import CudaError
from flamec.runtime.cuda.graph import capture
from flamec.runtime.cuda.module import KernelLaunch, load_kernel
from flamec.runtime.cuda.triton_compiler import compile_kernel

pytestmark = pytest.mark.gpu


def launch_of(device: CudaDevice, source: KernelSource) -> KernelLaunch:
    binary, _ = compile_kernel(source, device.target, device.cache)
    return load_kernel(device.context, binary).launch()


def on_device(device: CudaDevice, array: np.ndarray) -> tuple[object, int]:
    memory, address = device.empty(array.nbytes)
    device.write(address, array)
    return memory, address


@pytest.mark.parametrize("n", [1, 1000, 1024, 100_003])
def test_pointwise(device: CudaDevice, n: int) -> None:
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    _x, x_address = on_device(device, x)
    _out, out_address = on_device(device, np.full(n + 1, np.nan, np.float32))
    launch = launch_of(device, affine())
    launch.grid = (-(-n // 1024), 1, 1)
    launch.set_arguments(x_address, out_address, n, 2.5, -1)
    launch(device.current_stream())
    result = np.empty(n + 1, np.float32)
    device.read(result, out_address)
    np.testing.assert_allclose(result[:n], x * np.float32(2.5) - 1, rtol=1e-6, atol=1e-6)
    assert np.isnan(result[n])


def test_clusters(device: CudaDevice) -> None:
    """Two blocks of a cluster share one program of the kernel: an extended launch."""
    if device.properties.major < 9:
        pytest.skip("this GPU has no clusters")
    n = 10_000
    launch = launch_of(device, replace(affine(), options={"num_warps": 4, "num_ctas": 2}))
    assert launch.kernel.binary.cluster == 2
    x = np.arange(n, dtype=np.float32)
    (_x, px), (_out, out) = on_device(device, x), on_device(device, np.zeros_like(x))
    launch.grid = (-(-n // 1024), 1, 1)
    launch.set_arguments(px, out, n, 2.0, 1.0)
    graph = capture(device.context, [launch])
    launch.set_number(4, 3.0)
    result = np.empty_like(x)
    for shift, run in ((3, launch), (1, graph.launch)):
        run(device.current_stream())
        device.read(result, out)
        assert (result == 2 * x + shift).all()


def test_numbers_of_every_type(device: CudaDevice) -> None:
    launch = launch_of(device, numbers())
    _out, out = on_device(device, np.zeros(4))
    launch.set_arguments(out, -7, -(2**40), 0.1, 1e300)
    launch(device.current_stream())
    result = np.empty(4)
    device.read(result, out)
    assert result.tolist() == [-7.0, -(2.0**40), float(np.float32(0.1)), 1e300]
    with pytest.raises(TypeError, match="takes 5 arguments, 2 were given"):
        launch.set_arguments(out, 1)


def matmul_inputs(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    m, n, k = shape
    random = np.random.default_rng(3)
    a = random.standard_normal((m, k)).astype(ml_dtypes.bfloat16)
    b = random.standard_normal((k, n)).astype(ml_dtypes.bfloat16)
    return a, b, a.astype(np.float64) @ b.astype(np.float64)


@pytest.mark.parametrize("shape", [(256, 384, 192), (200, 72, 136)])
def test_tensor_descriptors(device: CudaDevice, shape: tuple[int, int, int]) -> None:
    """98 KiB of shared memory and three tensor maps, also where blocks hang over the edges."""
    m, n, k = shape
    a, b, expected = matmul_inputs(shape)
    launch = launch_of(device, matmul())
    (_a, pa), (_b, pb) = on_device(device, a), on_device(device, b)
    _out, out = on_device(device, np.zeros((m, n), ml_dtypes.bfloat16))
    launch.grid = (-(-m // 128), -(-n // 128), 1)
    launch.set_array(0, pa, (m, k), (k, 1))
    launch.set_array(1, pb, (k, n), (n, 1))
    launch.set_array(2, out, (m, n), (n, 1))
    launch.set_number(3, k)
    launch(device.current_stream())
    result = np.empty((m, n), ml_dtypes.bfloat16)
    device.read(result, out)
    error = np.linalg.norm(result.astype(np.float64) - expected) / np.linalg.norm(expected)
    assert error < 1e-2
    _b2, other = on_device(device, (b.astype(np.float32) * 2).astype(ml_dtypes.bfloat16))
    launch.mover(1)(other)
    launch(device.current_stream())
    doubled = np.empty((m, n), ml_dtypes.bfloat16)
    device.read(doubled, out)
    assert (doubled.astype(np.float32) == 2 * result.astype(np.float32)).all()


def test_arrays_that_a_descriptor_cannot_describe(device: CudaDevice) -> None:
    launch = launch_of(device, matmul())
    if not launch.kernel.binary.tensor_maps:
        pytest.skip("this GPU has no tensor maps")
    _memory, address = device.empty(1 << 20)
    for shape, strides, offset, message in (
        ((64, 65), (65, 1), 0, "dimension 0 has 130"),
        ((64, 64), (64, 1), 8, "multiple of 16"),
        ((64, 64), (1, 64), 0, "last stride of 1"),
        ((0, 64), (64, 1), 0, "empty array"),
        ((64,), (1,), 0, "cannot describe shape"),
    ):
        with pytest.raises(ValueError, match=message):
            launch.set_array(0, address + offset, shape, strides)


def test_scratch_memory(device: CudaDevice) -> None:
    rows, columns = 64, 96
    x = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    launch = launch_of(device, transpose())
    (_x, px), (_out, out) = on_device(device, x), on_device(device, np.zeros_like(x))
    launch.grid = (rows // 32, columns // 32, 1)
    launch.set_arguments(px, out, rows, columns)
    if launch.scratch_bytes:
        _scratch, scratch = device.empty(launch.scratch_bytes)
        launch.set_scratch(scratch)
    launch(device.current_stream())
    result = np.empty((columns, rows), np.float32)
    device.read(result, out)
    assert (result == x.T).all()


def test_kernels_are_loaded_once(device: CudaDevice) -> None:
    assert launch_of(device, affine()).kernel is launch_of(device, affine()).kernel
    kernel = launch_of(device, affine()).kernel
    assert kernel.registers == kernel.binary.registers


def test_launch_errors_name_the_kernel(device: CudaDevice) -> None:
    launch = launch_of(device, affine())
    launch.grid = (0, 1, 1)
    with pytest.raises(CudaError, match=r"launching affine with grid \(0, 1, 1\)"):
        launch(device.current_stream())
    too_large = replace(matmul(256, 256, 64), options={"num_warps": 8, "num_stages": 4})
    with pytest.raises(ValueError, match=r"kernel matmul needs \d+ bytes of shared memory"):
        launch_of(device, too_large)
