"""What a device can do at most: bytes and arithmetic a second.

Of GPUs the numbers are NVIDIA's, from the data sheets of the products; of the CPU they are measured
once in a process, with compiled programs: what no program of ours exceeds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

_SECONDS = 0.2  # of runs, of which the fastest counts: other work on the machine only slows them
_COPIED = 1 << 23  # float32 numbers; two arrays of them are more than most caches hold
_SIDES = (192, 384, 768)  # of the matrices that are multiplied; small ones meet fewer interruptions


@dataclass(frozen=True)
class Peaks:
    """The roofline of one device.

    ``matrix``: arithmetic a second of matrix products by dtype, ``vector`` of everything else; of a
    dtype that is missing nothing is known. ``origin`` says where the numbers are from.
    """

    bytes_per_second: float
    matrix: Mapping[str, float]
    vector: Mapping[str, float]
    origin: str

    def least_seconds(self, moved: int, flops: int, dtype: str, matrix: bool) -> float | None:
        """The time in which work can be done at best: the longer of memory's and arithmetic's."""
        peak = (self.matrix if matrix else self.vector).get(dtype)
        if peak is None and matrix:
            return None
        arithmetic = flops / peak if peak is not None else 0.0
        return max(moved / self.bytes_per_second, arithmetic)

    def __str__(self) -> str:
        matrix = ", ".join(f"{v / 1e12:.4g} TFLOP/s {name}" for name, v in self.matrix.items())
        return f"{self.bytes_per_second / 1e9:.0f} GB/s, products {matrix} ({self.origin})"


@dataclass(frozen=True)
class _Product:
    """A line of a data sheet: TB/s, and TFLOP/s without sparsity."""

    name: str
    memory: float
    float32: float
    tf32: float
    half: float
    float64: float


# The first whose name begins the device's. float32 products are computed as three of tf32.
_PRODUCTS = (
    _Product("NVIDIA H200", 4.8, 67, 494.5, 989.5, 67),
    _Product("NVIDIA H100 PCIe", 2.0, 51, 378, 756, 51),
    _Product("NVIDIA H100 NVL", 3.9, 60, 417.5, 835.5, 60),
    _Product("NVIDIA H100", 3.35, 67, 494.5, 989.5, 67),
    _Product("NVIDIA A100-SXM4-40GB", 1.555, 19.5, 156, 312, 19.5),
    _Product("NVIDIA A100-PCIE-40GB", 1.555, 19.5, 156, 312, 19.5),
    _Product("NVIDIA A100", 2.0, 19.5, 156, 312, 19.5),
    _Product("NVIDIA L40S", 0.864, 91.6, 183, 366, 1.43),
    _Product("NVIDIA L4", 0.3, 30.3, 60, 121, 0.47),
)

_known: dict[str, Peaks] = {}
_lock = threading.Lock()


def device_peaks(device: str) -> Peaks:
    """The roofline of ``"cpu"`` or of a GPU such as ``"cuda:0"``."""
    with _lock:
        if device not in _known:
            _known[device] = _measure_cpu() if device == "cpu" else _gpu_peaks(device)
        return _known[device]


def product_peaks(name: str) -> Peaks | None:
    """The roofline of a GPU by its product name; None if it is not in the table."""
    product = next((p for p in _PRODUCTS if name.startswith(p.name)), None)
    if product is None:
        return None
    tera = 1e12
    matrix = {
        "float32": product.tf32 / 3 * tera,
        "tf32": product.tf32 * tera,
        "float16": product.half * tera,
        "bfloat16": product.half * tera,
        "float64": product.float64 * tera,
    }
    vector = dict.fromkeys(("float32", "float16", "bfloat16", ""), product.float32 * tera)
    return Peaks(product.memory * tera, matrix, vector, f"data sheet of {product.name}")


def _gpu_peaks(device: str) -> Peaks:
    from flamec.runtime.cuda.driver import context

    name = context(int(device.rpartition(":")[2])).properties.name
    known = product_peaks(name)
    if known is not None:
        return known
    return Peaks(float("inf"), {}, {}, f"nothing is known of {name}")


def _measure_cpu() -> Peaks:
    """Run a copy and products with the default options; the best of some runs each."""
    import flamec

    with flamec.no_grad():
        source = flamec.from_numpy(np.ones(_COPIED, np.float32))
        target = flamec.from_numpy(np.zeros(_COPIED, np.float32))

        def copy(x: flamec.Tensor, y: flamec.Tensor) -> None:
            y.copy_(x + 1.0)

        seconds = _best(flamec.compile(copy), source, target)
        bandwidth = 2 * 4 * _COPIED / seconds
        rates = {}
        for dtype in (np.float32, np.float64):

            def multiply(x: flamec.Tensor, y: flamec.Tensor) -> flamec.Tensor:
                return x @ y

            found = []
            product: Callable[..., object] = flamec.compile(dynamic=True)(multiply)
            for side in _SIDES:
                a = flamec.from_numpy(np.ones((side, side), dtype))
                found.append(2 * side**3 / _best(product, a, a))
            rates[np.dtype(dtype).name] = max(found)
    # Half precision is computed in float32; whether a loop's arithmetic is vectors or not, it
    # cannot do more of it than the products.
    matrix = {**rates, "float16": rates["float32"], "bfloat16": rates["float32"]}
    vector = {**matrix, "": rates["float32"]}
    return Peaks(bandwidth, rates, vector, "measured in this process")


def _best(function: Callable[..., object], *arguments: object) -> float:
    function(*arguments)
    best, end = float("inf"), perf_counter() + _SECONDS
    while (start := perf_counter()) < end:
        function(*arguments)
        best = min(best, perf_counter() - start)
    return best
