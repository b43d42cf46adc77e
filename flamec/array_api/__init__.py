"""The Python array API standard, version 2024.12, over flamec's tensors.

``Tensor.__array_namespace__()`` is this module, so that libraries written for the standard (SciPy,
scikit-learn) take tensors. Names, arguments and meaning are the standard's, and differ here and
there from PyTorch's names beside it: ``equal`` compares elements, ``std`` divides by the count.

Not there: complex dtypes, uint16 to uint64, and the extension ``fft``. Tensors stay PyTorch's:
``Tensor.size`` is a method (``array_api_compat.size(x)`` is the number of elements), slices have
positive steps, and the operator ``@`` wants equal dtypes (``matmul`` promotes them).
"""

# ruff: noqa: F401 - this module exists to re-export

from flamec.array_api import linalg
from flamec.array_api.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    from_dlpack,
    full,
    full_like,
    linspace,
    meshgrid,
    ones,
    ones_like,
    tril,
    triu,
    zeros,
    zeros_like,
)
from flamec.array_api.elementwise import (
    abs,
    acos,
    acosh,
    add,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    ceil,
    clip,
    conj,
    copysign,
    cos,
    cosh,
    divide,
    equal,
    exp,
    expm1,
    floor,
    floor_divide,
    greater,
    greater_equal,
    hypot,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    multiply,
    negative,
    nextafter,
    not_equal,
    positive,
    pow,
    real,
    reciprocal,
    remainder,
    round,
    sign,
    signbit,
    sin,
    sinh,
    sqrt,
    square,
    subtract,
    tan,
    tanh,
    trunc,
    where,
)
from flamec.array_api.information import (
    __array_namespace_info__,
    astype,
    can_cast,
    finfo,
    iinfo,
    isdtype,
    result_type,
)
from flamec.array_api.linalg import matmul, matrix_transpose, tensordot, vecdot
from flamec.array_api.manipulation import (
    broadcast_arrays,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    moveaxis,
    permute_dims,
    repeat,
    reshape,
    roll,
    squeeze,
    stack,
    tile,
    unstack,
)
from flamec.array_api.reduction import (
    all,
    any,
    argmax,
    argmin,
    argsort,
    count_nonzero,
    cumulative_prod,
    cumulative_sum,
    diff,
    max,
    mean,
    min,
    nonzero,
    prod,
    searchsorted,
    sort,
    std,
    sum,
    take,
    take_along_axis,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
    var,
)
from flamec.functional.shape import broadcast_shapes
from flamec.ir.types import bool_ as bool
from flamec.ir.types import float32, float64, int8, int16, int32, int64, uint8

__array_api_version__ = "2024.12"

e = 2.718281828459045
inf = float("inf")
nan = float("nan")
newaxis = None
pi = 3.141592653589793
