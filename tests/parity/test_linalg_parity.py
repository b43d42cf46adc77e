"""Linear algebra against PyTorch, errors included. Vectors are compared up to their sign."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parity_expressions import check_expression, expressions

torch = pytest.importorskip("torch")


def operands() -> dict[str, Any]:
    """a: regular, spd: positive definite, bad: not, sing: one singular, r: wide, tall, p: not
    contiguous, e: no rows, none: no matrices, v: a vector, i: integers."""
    rng = np.random.default_rng(11)
    a = torch.tensor(rng.normal(size=(2, 4, 4)).astype(np.float32))
    spd = a @ a.mT + torch.eye(4)
    bad = spd.clone()
    bad[1, 2, 2] = -1
    sing = a.clone()
    sing[1, 3] = 0
    return {
        "a": a,
        "b": torch.tensor(rng.normal(size=(2, 4, 3)).astype(np.float32)),
        "spd": spd,
        "bad": bad,
        "sing": sing,
        "r": torch.tensor(rng.normal(size=(2, 3, 5)).astype(np.float32)),
        "tall": torch.tensor(rng.normal(size=(2, 5, 3)).astype(np.float32)),
        "p": torch.tensor(rng.normal(size=(4, 4, 2)).astype(np.float32)).permute(2, 1, 0),
        "e": torch.ones(2, 0, 0),
        "none": torch.ones(0, 3, 3),
        "v": torch.tensor([1.0, -2.0, 0.5, 3.0]),
        "i": torch.arange(4).reshape(2, 2),
    }


@pytest.mark.parametrize("expression", expressions("linalg"))
def test_expression(expression: str) -> None:
    check_expression(expression, operands, 50)


def test_errors_name_the_matrix() -> None:
    import flamec

    names = operands()
    for name, function in (("bad", "cholesky"), ("sing", "inv")):
        with pytest.raises(torch.linalg.LinAlgError, match="Batch element 1"):
            getattr(torch.linalg, function)(names[name])
        mine, own = flamec.tensor(names[name].numpy()), getattr(flamec.linalg, function)
        message = rf"linalg\.{function}: .*Batch element 1.*test_linalg_parity\.py:\d+"
        for call in (own, flamec.compile(own)):
            with pytest.raises(flamec.linalg.LinAlgError, match=message):
                call(mine)
