"""``deterministic=True``: the same bytes in every process, on any number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from digests import digest

import flamec

PROCESSES = 10
THREADS = (1, 2, 3, 4, 5, 6, 7, 8, 1, 8)


def test_a_training_step_has_the_same_bytes_in_ten_processes() -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(digest, ["cpu"] * PROCESSES, THREADS))
    assert len(set(found)) == 1, dict(zip(THREADS, found, strict=True))


SIZES = [(1, 300, 400), (3, 1000, 700), (7, 513, 1025), (33, 1200, 64), (128, 784, 512),
         (130, 700, 3), (257, 384, 513), (1000, 64, 7), (97, 2048, 33)]  # fmt: skip


@pytest.mark.parametrize("dtype", [flamec.float32, flamec.float64], ids=str)
def test_products_do_not_depend_on_the_number_of_threads(dtype: flamec.dtype) -> None:
    """Alone, with an epilogue, transposed, in batches; a BLAS has other code for small matrices
    and for the edges of large ones."""

    def function(a: flamec.Tensor, b: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
        product = a @ b
        pair = flamec.stack([a, a * 2]) @ b
        return product * 1, flamec.softmax(a @ (b + 1), -1), a.t() @ product, pair, b.t() @ b

    flamec.manual_seed(0)
    for m, k, n in SIZES:
        a, b = flamec.randn(m, k, dtype=dtype), flamec.randn(k, n, dtype=dtype)
        expected: list[np.ndarray] = []
        for threads in (1, 2, 3, 5, 8):
            compiled: Any = flamec.compile(function, threads=threads, backend="c", dynamic=True)
            found = [t.numpy() for t in compiled(a, b)]
            expected = expected or found
            for position, (x, y) in enumerate(zip(found, expected, strict=True)):
                assert x.tobytes() == y.tobytes(), (m, k, n, threads, position)
