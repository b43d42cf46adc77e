"""PyTorch's files of layers, for programs that import from them: ``torch.nn.modules.conv``.

``modules_namespace`` makes ``flamec.nn.modules`` with a module for each of PyTorch's files, which
has the layers that the file has there, and the base classes that programs test for
(``_BatchNorm``, ``_ConvNd``, ``_Loss``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from types import ModuleType
from typing import Any

from flamec.namespace import namespace
from flamec.nn import (
    activation,
    adaptive_softmax,
    batch_normalization,
    containers,
    convolution,
    embedding,
    global_hooks,
    layers,
    lazy,
    loss,
    module,
    multihead_attention,
    pooling,
    rearrangement,
    recurrent,
    recurrent_cells,
    transformer,
)
from flamec.nn.module_state import IncompatibleKeys

__all__ = ["common_types_namespace", "modules_namespace"]


def _ntuple(n: int, name: str = "parse") -> Callable[[Any], tuple[Any, ...]]:
    """A function that repeats a number ``n`` times, and makes a tuple of anything iterable."""

    def parse(x: Any) -> tuple[Any, ...]:
        return tuple(x) if isinstance(x, Iterable) else tuple(repeat(x, n))

    parse.__name__ = name
    return parse


def _get_clones(module: module.Module, N: int) -> containers.ModuleList:
    """``N`` deep copies of a module."""
    return containers.ModuleList([copy.deepcopy(module) for _ in range(N)])


def consume_prefix_in_state_dict_if_present(state_dict: dict[str, Any], prefix: str) -> None:
    """Take a prefix, as ``module.`` of ``DataParallel``, from the keys that have it, in place."""
    for key in list(state_dict):
        if key.startswith(prefix):
            state_dict[key[len(prefix) :]] = state_dict.pop(key)


# PyTorch's file -> the layers in it, and the names of base classes with what they are here
_FILES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "activation": (" ".join((*activation.__all__, "MultiheadAttention")), {}),
    "adaptive": ("AdaptiveLogSoftmaxWithLoss", {"_ASMoutput": adaptive_softmax._ASMoutput}),
    "batchnorm": (
        "BatchNorm1d BatchNorm2d BatchNorm3d LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d",
        {
            "_BatchNorm": batch_normalization._BatchNorm,
            "_NormBase": batch_normalization._Norm,
        },
    ),
    "channelshuffle": ("ChannelShuffle", {}),
    "container": ("Sequential ModuleList ModuleDict ParameterList ParameterDict", {}),
    "conv": (
        "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d LazyConv1d "
        "LazyConv2d LazyConv3d LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d",
        {
            "_ConvNd": convolution._Convolution,
            "_ConvTransposeNd": convolution._ConvTranspose,
        },
    ),
    "distance": ("PairwiseDistance CosineSimilarity", {}),
    "dropout": (
        "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout",
        {"_DropoutNd": layers._DropoutModule},
    ),
    "flatten": ("Flatten Unflatten", {}),
    "fold": ("Fold Unfold", {}),
    "instancenorm": (
        "InstanceNorm1d InstanceNorm2d InstanceNorm3d LazyInstanceNorm1d LazyInstanceNorm2d "
        "LazyInstanceNorm3d",
        {"_InstanceNorm": batch_normalization._InstanceNorm},
    ),
    "linear": (
        "Bilinear Identity LazyLinear Linear",
        {"NonDynamicallyQuantizableLinear": layers.NonDynamicallyQuantizableLinear},
    ),
    "loss": (
        " ".join(loss.__all__),
        {"_Loss": loss._Loss, "_WeightedLoss": loss._WeightedLoss},
    ),
    "module": (
        "Module",
        {
            "_IncompatibleKeys": IncompatibleKeys,
            **{name: getattr(global_hooks, name) for name in global_hooks.__all__},
        },
    ),
    "normalization": ("LocalResponseNorm LayerNorm GroupNorm RMSNorm", {}),
    "padding": (
        " ".join(name for name in rearrangement.__all__ if "Pad" in name),
        {"_ConstantPadNd": rearrangement._ConstantPad},
    ),
    "pixelshuffle": ("PixelShuffle PixelUnshuffle", {}),
    "pooling": (
        " ".join(pooling.__all__),
        {
            "_MaxPoolNd": pooling._MaxPool,
            "_MaxUnpoolNd": pooling._MaxUnpool,
            "_LPPoolNd": pooling._LPPool,
            "_AdaptiveAvgPoolNd": pooling._AdaptiveAvgPool,
            "_AdaptiveMaxPoolNd": pooling._AdaptiveMaxPool,
        },
    ),
    "rnn": ("RNNBase RNN LSTM GRU RNNCellBase RNNCell LSTMCell GRUCell", {}),
    "sparse": ("Embedding EmbeddingBag", {}),
    "transformer": (
        " ".join(transformer.__all__),
        {"_get_clones": _get_clones, "_get_activation_fn": transformer.activation_function},
    ),
    "upsampling": ("Upsample UpsamplingNearest2d UpsamplingBilinear2d", {}),
    "utils": (
        "",
        {
            "consume_prefix_in_state_dict_if_present": consume_prefix_in_state_dict_if_present,
            "_ntuple": _ntuple,
            "_single": _ntuple(1, "_single"),
            "_pair": _ntuple(2, "_pair"),
            "_triple": _ntuple(3, "_triple"),
            "_quadruple": _ntuple(4, "_quadruple"),
        },
    ),
}
_OWNERS = (
    activation, adaptive_softmax, batch_normalization, containers, convolution, embedding, layers,
    lazy, loss, module, multihead_attention, pooling, rearrangement, recurrent, recurrent_cells,
    transformer,
)  # fmt: skip


def modules_namespace() -> ModuleType:
    """``flamec.nn.modules``: every layer, and a module for each of PyTorch's files."""
    every = {name: getattr(owner, name) for owner in _OWNERS for name in owner.__all__}
    files = {
        file: namespace(
            f"flamec.nn.modules.{file}",
            f"What PyTorch has in torch/nn/modules/{file}.py.",
            **{name: every[name] for name in names.split()},
            **bases,
        )
        for file, (names, bases) in _FILES.items()
    }
    return namespace("flamec.nn.modules", "Layers by PyTorch's files.", **every, **files)


def common_types_namespace() -> ModuleType:
    """``flamec.nn.common_types``: a number or a tuple of as many as there are dimensions."""
    several: Any = tuple
    sizes = {f"_size_{n}_t": int | several[(int,) * n] for n in range(1, 7)}
    return namespace(
        "flamec.nn.common_types",
        "Types that annotations of layers name.",
        _size_any_t=int | tuple[int, ...],
        **sizes,
    )
