"""flamec: a deep-learning framework whose core is a compiler.

The names are PyTorch's: ``flamec.tensor``, ``flamec.nn``, ``flamec.optim``,
``flamec.no_grad``. ``flamec.compile`` turns a function, a module or a whole training
step into one program.
"""

# ruff: noqa: F401, F403 - this module exists to re-export

import math as _math
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from flamec import autograd, func, linalg, methods, random, return_types
from flamec import trace as _trace  # now: imported later it would replace the function trace
from flamec.autocast_mode import *
from flamec.autograd import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)
from flamec.autograd import gradcheck as _gradcheck  # now, for the same reason as trace
from flamec.conditional import cond, while_loop
from flamec.control_flow import fori_loop, scan
from flamec.conversion import (
    as_tensor,
    asarray,
    from_dlpack,
    from_numpy,
    frombuffer,
    scalar_tensor,
    tensor,
)
from flamec.default_device import get_default_device, set_default_device
from flamec.dtype_limits import finfo, iinfo
from flamec.float32_precision import (
    get_float32_matmul_precision,
    set_float32_matmul_precision,
)
from flamec.functional.activation import (
    celu,
    celu_,
    hardshrink,
    prelu,
    relu,
    relu_,
    rrelu,
    rrelu_,
    selu,
    selu_,
    threshold,
    threshold_,
)
from flamec.functional.added_products import *
from flamec.functional.arithmetic import *
from flamec.functional.comparison import *
from flamec.functional.creation import *
from flamec.functional.decompositions import *
from flamec.functional.diagonals import (
    block_diag,
    diag,
    diag_embed,
    diagflat,
    diagonal,
    diagonal_scatter,
    tril,
    tril_indices,
    triu,
    triu_indices,
)
from flamec.functional.distance import cosine_similarity, pairwise_distance, pdist, renorm
from flamec.functional.einsum import einsum
from flamec.functional.elementwise import *
from flamec.functional.gathering import (
    gather,
    index_add,
    index_copy,
    index_fill,
    index_put,
    index_reduce,
    index_select,
    put,
    scatter,
    scatter_add,
    scatter_reduce,
    take,
    take_along_dim,
)
from flamec.functional.grids import cartesian_prod, combinations, meshgrid, unravel_index
from flamec.functional.joining import (
    cat,
    chunk,
    column_stack,
    dsplit,
    dstack,
    hsplit,
    hstack,
    narrow,
    narrow_copy,
    select,
    split,
    split_with_sizes,
    stack,
    tensor_split,
    unbind,
    vsplit,
    vstack,
)
from flamec.functional.linear import bilinear
from flamec.functional.linear_systems import *
from flamec.functional.masking import (
    argwhere,
    masked_fill,
    masked_scatter,
    masked_select,
    nonzero,
)
from flamec.functional.matrix import *
from flamec.functional.matrix_functions import *
from flamec.functional.normalization import rms_norm
from flamec.functional.number_parts import *
from flamec.functional.numeric_gradient import *
from flamec.functional.order_statistics import *
from flamec.functional.polygamma import *
from flamec.functional.promotion import can_cast, promote_types, result_type
from flamec.functional.reduction import *
from flamec.functional.reflections import geqrf, orgqr
from flamec.functional.reordering import flip, fliplr, flipud, roll, rot90
from flamec.functional.repeating import repeat_interleave, tile
from flamec.functional.sampling import *
from flamec.functional.scan import *
from flamec.functional.searching import *
from flamec.functional.shape import (
    adjoint,
    atleast_1d,
    atleast_2d,
    atleast_3d,
    broadcast_shapes,
    broadcast_tensors,
    broadcast_to,
    clone,
    flatten,
    moveaxis,
    movedim,
    permute,
    ravel,
    reshape,
    squeeze,
    swapaxes,
    swapdims,
    t,
    transpose,
    unflatten,
    unsqueeze,
)
from flamec.functional.slice_updates import select_scatter, slice_scatter
from flamec.functional.sorting import *
from flamec.functional.statistics import *
from flamec.functional.strided import as_strided, as_strided_scatter
from flamec.functional.top_level import *
from flamec.functional.unary import *
from flamec.functional.uniqueness import *
from flamec.functional.windows import *
from flamec.ir.types import (
    Device,
    DType,
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from flamec.ir.types import bool_ as bool
from flamec.memory import fill, is_same_size, numel
from flamec.memory_format import *
from flamec.methods import detach
from flamec.printing import set_printoptions
from flamec.random import (
    Generator,
    default_generator,
    fork_rng,
    get_rng_state,
    initial_seed,
    manual_seed,
    seed,
    set_rng_state,
)
from flamec.resizing import *
from flamec.state import get_default_dtype, set_default_dtype
from flamec.tensor import Size, Tensor
from flamec.type_names import *
from flamec.values import (
    conj,
    conj_physical,
    is_complex,
    is_conj,
    is_floating_point,
    is_neg,
    is_nonzero,
    is_signed,
    is_tensor,
    real,
    resolve_conj,
    resolve_neg,
)

double, float, half = float64, float32, float16
long, int, short = int64, int32, int16
device, dtype = Device, DType
concat = concatenate = cat
row_stack = vstack
inf, nan, pi, e = _math.inf, _math.nan, _math.pi, _math.e
newaxis = None
globals().update({name: getattr(Tensor, name) for name in methods.IN_PLACE_FUNCTIONS})

__version__ = "0.1.0"

if _TYPE_CHECKING:
    from flamec import (
        amp,
        array_api,
        backends,
        compiler,
        cuda,
        data,
        nn,
        optim,
        profiler,
        sklearn,
        testing,
        utils,
    )
    from flamec.amp import GradScaler
    from flamec.autograd import is_anomaly_enabled
    from flamec.compiler import compile
    from flamec.cuda import OutOfMemoryError
    from flamec.deployment.dim import Dim
    from flamec.deployment.exporter import export
    from flamec.func import vmap
    from flamec.functional.bessel import i0
    from flamec.functional.binomial import binomial
    from flamec.functional.incomplete_gamma import igamma, igammac
    from flamec.functional.low_rank import pca_lowrank, svd_lowrank
    from flamec.functional.multivariate_gamma import mvlgamma
    from flamec.functional.older_functions import (
        batch_norm,
        constant_pad_nd,
        frobenius_norm,
        instance_norm,
        lu,
        nonzero_static,
        norm_except_dim,
        nuclear_norm,
        range,
        unsafe_chunk,
        unsafe_split,
        unsafe_split_with_sizes,
    )
    from flamec.kernels.declaration import kernel
    from flamec.kernels.launching import cdiv, next_power_of_2
    from flamec.nn.functional import (
        adaptive_avg_pool1d,
        avg_pool1d,
        channel_shuffle,
        conv1d,
        conv2d,
        conv3d,
        conv_transpose1d,
        conv_transpose2d,
        conv_transpose3d,
        max_pool1d,
        max_pool2d,
        max_pool3d,
        pixel_shuffle,
        pixel_unshuffle,
    )
    from flamec.process_settings import (
        are_deterministic_algorithms_enabled,
        get_deterministic_debug_mode,
        get_num_interop_threads,
        get_num_threads,
        is_deterministic_algorithms_warn_only_enabled,
        set_deterministic_debug_mode,
        set_flush_denormal,
        set_num_interop_threads,
        set_num_threads,
        use_deterministic_algorithms,
    )
    from flamec.saving import load, save

_LAYERS = (
    "adaptive_avg_pool1d", "avg_pool1d", "channel_shuffle", "conv1d",
    "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "max_pool1d",
    "max_pool2d", "max_pool3d", "pixel_shuffle", "pixel_unshuffle",
)  # fmt: skip

_SETTINGS = (
    "are_deterministic_algorithms_enabled", "get_deterministic_debug_mode",
    "get_num_interop_threads", "get_num_threads",
    "is_deterministic_algorithms_warn_only_enabled", "set_deterministic_debug_mode",
    "set_flush_denormal", "set_num_interop_threads", "set_num_threads",
    "use_deterministic_algorithms",
)  # fmt: skip

_OLDER = (
    "batch_norm", "constant_pad_nd", "frobenius_norm", "instance_norm", "lu", "nonzero_static",
    "norm_except_dim", "nuclear_norm", "range", "unsafe_chunk", "unsafe_split",
    "unsafe_split_with_sizes",
)  # fmt: skip

_CONDITIONS = (
    "_assert", "_check", "_check_index", "_check_is_size", "_check_not_implemented",
    "_check_tensor_all", "_check_type", "_check_value",
)  # fmt: skip

# Imported when first used, so that ``import flamec`` stays quick: name -> module that has it.
_LATE = {
    "Dim": "flamec.deployment.dim",
    "GradScaler": "flamec.amp",
    "OutOfMemoryError": "flamec.cuda",
    "accelerator": "",
    "amp": "",
    "array_api": "",
    "backends": "",
    "binomial": "flamec.functional.binomial",
    "cdiv": "flamec.kernels.launching",
    "compile": "flamec.compiler",
    "compiler": "",
    "is_anomaly_enabled": "flamec.autograd",
    "jit": "",
    "distributed": "",
    "distributions": "",
    "export": "flamec.deployment.exporter",
    "fake_quantize_per_channel_affine": "flamec.functional.fake_quantization",
    "fake_quantize_per_tensor_affine": "flamec.functional.fake_quantization",
    "mark_dynamic": "flamec.size_bounds",
    "cuda": "",
    "data": "",
    "i0": "flamec.functional.bessel",
    "igamma": "flamec.functional.incomplete_gamma",
    "igammac": "flamec.functional.incomplete_gamma",
    "kernel": "flamec.kernels.declaration",
    "load": "flamec.saving",
    "mvlgamma": "flamec.functional.multivariate_gamma",
    "next_power_of_2": "flamec.kernels.launching",
    "nn": "",
    "optim": "",
    "pca_lowrank": "flamec.functional.low_rank",
    "poisson": "flamec.functional.poisson",
    "profiler": "",
    "save": "flamec.saving",
    "signal": "",
    "multiprocessing": "",
    "sklearn": "",
    "special": "",
    "svd_lowrank": "flamec.functional.low_rank",
    "testing": "",
    "types": "",
    "utils": "",
    "version": "",
    "vmap": "flamec.func",
    **dict.fromkeys(_CONDITIONS, "flamec.conditions"),
    **dict.fromkeys(_OLDER, "flamec.functional.older_functions"),
    **dict.fromkeys(_LAYERS, "flamec.nn.functional"),
    **dict.fromkeys(_SETTINGS, "flamec.process_settings"),
}


def __getattr__(name: str) -> _Any:
    if name not in _LATE:
        raise AttributeError(f"module 'flamec' has no attribute {name!r}")
    from importlib import import_module

    owner = _LATE[name]
    value = getattr(import_module(owner), name) if owner else import_module(f"flamec.{name}")
    globals()[name] = value
    return value
