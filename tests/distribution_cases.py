"""The cases and numbers of tests of distributions, the same for flamec and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

FOLLOWING = {  # a distribution; how far PyTorch's formulas are from the derivative
    "Gamma(a, b)": 1e-3, "Gamma(a + 20, b)": 1e-3, "Chi2(a)": 1e-3, "Beta(a, b)": 2e-2,
    "Dirichlet(w)": 2e-2, "Dirichlet(w * 30)": 2e-2, "StudentT(a, r, b)": 1e-3,
}  # fmt: skip


def scope(package: Any) -> dict[str, Any]:
    """The names that cases use, with the same numbers for either package."""
    random = np.random.default_rng(5)
    spd = random.standard_normal((2, 3, 3))
    arrays = {
        "a": random.random(4) + 0.4,
        "b": random.random(4) + 0.3,
        "r": random.standard_normal(4),
        "s": random.standard_normal(4),
        "p": random.random(4) * 0.8 + 0.1,
        "m": random.standard_normal((2, 3)),
        "w": random.random((2, 3)) + 0.2,
        "vw": random.random((2, 3, 2)) + 0.2,
        "spd": spd @ spd.transpose(0, 2, 1) + np.eye(3),
    }
    found = {name: package.tensor(array, requires_grad=True) for name, array in arrays.items()}
    found["cholesky"] = package.linalg.cholesky
    found["i"] = package.tensor([0.0, 1.0, 1.0, 0.0], dtype=package.float64)
    found["i2"] = package.tensor([2, 0])
    found["t"] = package.tensor(0.7, dtype=package.float64)
    found["torch_count"] = package.tensor([3.0, 4.0, 5.0, 6.0], dtype=package.float64)
    found["hot"] = package.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=package.float64)
    found["counts"] = package.tensor([[1.0, 0.0, 3.0], [2.0, 2.0, 0.0]], dtype=package.float64)
    return {**vars(package.distributions), **found}
