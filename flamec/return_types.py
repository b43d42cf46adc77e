"""Named results of functions that return several tensors, as in ``torch.return_types``."""

from __future__ import annotations

from collections import namedtuple
from typing import Any


def _result_type(name: str, *fields: str) -> Any:
    """A named tuple that prints as PyTorch's structured results do."""

    def show(self: Any) -> str:
        parts = ",\n".join(f"{field}={value!r}" for field, value in zip(fields, self, strict=True))
        return f"flamec.return_types.{name}(\n{parts})"

    base = namedtuple(name, fields)  # type: ignore[misc]  # whose names vary
    return type(name, (base,), {"__slots__": (), "__repr__": show, "__module__": __name__})


max = _result_type("max", "values", "indices")
min = _result_type("min", "values", "indices")
cummax = _result_type("cummax", "values", "indices")
cummin = _result_type("cummin", "values", "indices")
sort = _result_type("sort", "values", "indices")
topk = _result_type("topk", "values", "indices")
kthvalue = _result_type("kthvalue", "values", "indices")
median = _result_type("median", "values", "indices")
nanmedian = _result_type("nanmedian", "values", "indices")
mode = _result_type("mode", "values", "indices")
linalg_cholesky_ex = _result_type("linalg_cholesky_ex", "L", "info")
linalg_eigh = _result_type("linalg_eigh", "eigenvalues", "eigenvectors")
linalg_inv_ex = _result_type("linalg_inv_ex", "inverse", "info")
linalg_lstsq = _result_type("linalg_lstsq", "solution", "residuals", "rank", "singular_values")
linalg_lu = _result_type("linalg_lu", "P", "L", "U")
linalg_lu_factor = _result_type("linalg_lu_factor", "LU", "pivots")
linalg_lu_factor_ex = _result_type("linalg_lu_factor_ex", "LU", "pivots", "info")
linalg_qr = _result_type("linalg_qr", "Q", "R")
frexp = _result_type("frexp", "mantissa", "exponent")
histogram = _result_type("histogram", "hist", "bin_edges")
geqrf = _result_type("geqrf", "a", "tau")
linalg_slogdet = _result_type("linalg_slogdet", "sign", "logabsdet")
linalg_solve_ex = _result_type("linalg_solve_ex", "result", "info")
linalg_svd = _result_type("linalg_svd", "U", "S", "Vh")
lu_unpack = _result_type("lu_unpack", "P", "L", "U")
qr = _result_type("qr", "Q", "R")
slogdet = _result_type("slogdet", "sign", "logabsdet")
svd = _result_type("svd", "U", "S", "V")
aminmax = _result_type("aminmax", "min", "max")
