"""Neural networks: modules, their parameters, initialisation and functional forms."""

import sys
from types import ModuleType

from flamec.nn import functional, init
from flamec.nn.activation import *  # noqa: F403
from flamec.nn.activation import __all__ as _activations
from flamec.nn.containers import *  # noqa: F403
from flamec.nn.containers import __all__ as _containers
from flamec.nn.gradient_clipping import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from flamec.nn.layers import *  # noqa: F403
from flamec.nn.layers import __all__ as _layers
from flamec.nn.loss import *  # noqa: F403
from flamec.nn.loss import __all__ as _losses
from flamec.nn.module import Module
from flamec.nn.parameter import Buffer, Parameter
from flamec.nn.parameter_vector import parameters_to_vector, vector_to_parameters
from flamec.nn.transformer import *  # noqa: F403
from flamec.nn.transformer import __all__ as _transformers

# PyTorch's name for these; a real module, so that it can be imported from.
utils = ModuleType("flamec.nn.utils", "Gradient clipping and parameter vectors.")
utils.__dict__.update(
    clip_grad_norm_=clip_grad_norm_,
    clip_grad_value_=clip_grad_value_,
    clip_grads_with_norm_=clip_grads_with_norm_,
    get_total_norm=get_total_norm,
    parameters_to_vector=parameters_to_vector,
    vector_to_parameters=vector_to_parameters,
)
sys.modules[utils.__name__] = utils

__all__ = [
    "Buffer",
    "Module",
    "Parameter",
    "functional",
    "init",
    "utils",
    *_activations,
    *_containers,
    *_layers,
    *_losses,
    *_transformers,
]
