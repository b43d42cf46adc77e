"""A program on the GPU for ``test_cuda_tuning.py``, which runs it in processes of its own.

Prints JSON: kernels compiled, packages imported, a hash of the results, their errors.
"""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np

import flamec
from flamec.tensor import Tensor

HEAVY = ("triton", "jinja2", "networkx")


@flamec.compile
def product(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w).relu()


@flamec.compile
def column_sums(y: Tensor) -> Tensor:
    return (y * y).sum(0)


def main() -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1000, 512), (512, 768)))
    y = rng.standard_normal((5000, 1000)).astype(np.float32)
    on_gpu = [flamec.tensor(a, device="cuda") for a in (x, w, y)]
    before = y.copy()
    results = [product(*on_gpu[:2]), column_sums(on_gpu[2])]
    found = [r.cpu().numpy() for r in results]
    x64, w64, y64 = (a.astype(np.float64) for a in (x, w, y))
    wanted = [np.maximum(x64 @ w64, 0), (y64 * y64).sum(0)]
    errors = [
        float(np.abs(f - e).max() / np.abs(e).max()) for f, e in zip(found, wanted, strict=True)
    ]
    stats = [f.stats for f in (product, column_sums)]
    facts = {
        "compiled": sum(s.kernels_compiled for s in stats),
        "from_cache": sum(s.kernels_from_cache for s in stats),
        "imported": [name for name in HEAVY if name in sys.modules],
        "digest": hashlib.sha256(b"".join(f.tobytes() for f in found)).hexdigest(),
        "errors": errors,
        "untouched": bool(np.array_equal(on_gpu[2].cpu().numpy(), before)),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
