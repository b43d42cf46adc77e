"""Linear algebra under PyTorch's names (``torch.linalg``).

LAPACK runs on the CPU, through NumPy. Inside compiled functions the program calls it between
kernels; tensors on a GPU are fetched, and results are sent back, which waits for the GPU.
"""

from flamec.errors import LinAlgError
from flamec.functional.decompositions import (
    cholesky_ex,
    eigh,
    eigvalsh,
    lu,
    lu_factor,
    lu_factor_ex,
    svdvals,
)
from flamec.functional.decompositions import linalg_cholesky as cholesky
from flamec.functional.decompositions import linalg_qr as qr
from flamec.functional.decompositions import linalg_svd as svd
from flamec.functional.linear_systems import (
    det,
    inv,
    inv_ex,
    lstsq,
    matrix_rank,
    pinv,
    solve,
    solve_ex,
    solve_triangular,
    tensorinv,
    tensorsolve,
)
from flamec.functional.linear_systems import linalg_lu_solve as lu_solve
from flamec.functional.linear_systems import linalg_slogdet as slogdet
from flamec.functional.matrix import matmul
from flamec.functional.matrix_functions import (
    cond,
    matrix_exp,
    matrix_norm,
    matrix_power,
    multi_dot,
    norm,
    vander,
    vecdot,
    vector_norm,
)
from flamec.functional.matrix_functions import linalg_cross as cross
from flamec.functional.matrix_functions import linalg_diagonal as diagonal
from flamec.functional.reflections import householder_product

__all__ = [
    "LinAlgError", "cholesky", "cholesky_ex", "cond", "cross", "det", "diagonal", "eigh",
    "eigvalsh", "householder_product", "inv", "inv_ex", "lstsq", "lu", "lu_factor", "lu_factor_ex",
    "lu_solve", "matmul", "matrix_exp", "matrix_norm", "matrix_power", "matrix_rank", "multi_dot",
    "norm", "pinv", "qr", "slogdet", "solve", "solve_ex", "solve_triangular", "svd", "svdvals",
    "tensorinv", "tensorsolve", "vander", "vecdot", "vector_norm",
]  # fmt: skip
