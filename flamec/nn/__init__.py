"""Neural networks: modules, their parameters, initialisation and functional forms."""

from flamec.attention_switches import SDPBackend, sdpa_kernel
from flamec.functional_call import functional_call
from flamec.namespace import file_namespaces, namespace
from flamec.nn import (
    functional,
    fusion,
    init,
    normalized_weights,
    orthogonal_matrices,
    packed_sequence,
    parametrizations,
    parametrize,
    prune,
)
from flamec.nn.activation import *  # noqa: F403
from flamec.nn.activation import __all__ as _activations
from flamec.nn.adaptive_softmax import AdaptiveLogSoftmaxWithLoss
from flamec.nn.batch_normalization import *  # noqa: F403
from flamec.nn.batch_normalization import __all__ as _batch_normalizations
from flamec.nn.containers import *  # noqa: F403
from flamec.nn.containers import __all__ as _containers
from flamec.nn.convolution import *  # noqa: F403
from flamec.nn.convolution import __all__ as _convolutions
from flamec.nn.embedding import *  # noqa: F403
from flamec.nn.embedding import __all__ as _embeddings
from flamec.nn.gradient_clipping import (
    clip_grad_norm,
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from flamec.nn.layers import *  # noqa: F403
from flamec.nn.layers import __all__ as _layers
from flamec.nn.lazy import *  # noqa: F403
from flamec.nn.lazy import __all__ as _lazy
from flamec.nn.loss import *  # noqa: F403
from flamec.nn.loss import __all__ as _losses
from flamec.nn.module import Module
from flamec.nn.multihead_attention import MultiheadAttention
from flamec.nn.parallel import DataParallel, SyncBatchNorm
from flamec.nn.parameter import Buffer, Parameter, skip_init
from flamec.nn.parameter_vector import parameters_to_vector, vector_to_parameters
from flamec.nn.pooling import *  # noqa: F403
from flamec.nn.pooling import __all__ as _poolings
from flamec.nn.pytorch_files import common_types_namespace, modules_namespace
from flamec.nn.rearrangement import *  # noqa: F403
from flamec.nn.rearrangement import __all__ as _rearrangements
from flamec.nn.recurrent import *  # noqa: F403
from flamec.nn.recurrent import __all__ as _recurrent
from flamec.nn.recurrent_cells import *  # noqa: F403
from flamec.nn.recurrent_cells import __all__ as _recurrent_cells
from flamec.nn.transformer import *  # noqa: F403
from flamec.nn.transformer import __all__ as _transformers

utils = namespace(
    "flamec.nn.utils",
    "Gradient clipping, parameter vectors, parametrisations and packed sequences.",
    clip_grad_norm=clip_grad_norm,
    clip_grad_norm_=clip_grad_norm_,
    clip_grad_value_=clip_grad_value_,
    clip_grads_with_norm_=clip_grads_with_norm_,
    get_total_norm=get_total_norm,
    parameters_to_vector=parameters_to_vector,
    vector_to_parameters=vector_to_parameters,
    skip_init=skip_init,
    **{name: getattr(normalized_weights, name) for name in normalized_weights.__all__},
    **{name: getattr(fusion, name) for name in fusion.__all__},
    stateless=namespace(
        "flamec.nn.utils.stateless",
        "The older name of flamec.func.functional_call.",
        functional_call=functional_call,
    ),
    rnn=namespace(
        "flamec.nn.utils.rnn",
        "Sequences of different lengths, packed and padded.",
        **{name: getattr(packed_sequence, name) for name in packed_sequence.__all__},
    ),
    prune=namespace(
        "flamec.nn.utils.prune",
        "Pruning by masks.",
        **{name: getattr(prune, name) for name in prune.__all__},
    ),
    parametrize=namespace(
        "flamec.nn.utils.parametrize",
        "Parameters computed from others each time they are read.",
        **{name: getattr(parametrize, name) for name in parametrize.__all__},
    ),
    parametrizations=namespace(
        "flamec.nn.utils.parametrizations",
        "Weight and spectral normalisation, and matrices that stay orthogonal.",
        **{name: getattr(parametrizations, name) for name in parametrizations.__all__},
        **{name: getattr(orthogonal_matrices, name) for name in orthogonal_matrices.__all__},
    ),
)

_FILES_OF_UTILS = {
    "clip_grad": "clip_grad_norm_ clip_grad_value_ clip_grads_with_norm_ get_total_norm",
    "fusion": " ".join(fusion.__all__),
    "convert_parameters": "parameters_to_vector vector_to_parameters",
}
vars(utils).update(file_namespaces("flamec.nn.utils", _FILES_OF_UTILS, vars(utils)))
modules = modules_namespace()
common_types = common_types_namespace()
attention = namespace(
    "flamec.nn.attention",
    "PyTorch's choice between kernels of attention.",
    SDPBackend=SDPBackend,
    sdpa_kernel=sdpa_kernel,
)

__all__ = [
    "AdaptiveLogSoftmaxWithLoss",
    "Buffer",
    "DataParallel",
    "Module",
    "MultiheadAttention",
    "Parameter",
    "SyncBatchNorm",
    "attention",
    "common_types",
    "functional",
    "init",
    "modules",
    "utils",
    *_activations,
    *_batch_normalizations,
    *_containers,
    *_convolutions,
    *_embeddings,
    *_layers,
    *_lazy,
    *_losses,
    *_poolings,
    *_rearrangements,
    *_recurrent,
    *_recurrent_cells,
    *_transformers,
]
