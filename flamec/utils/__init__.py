"""PyTorch's names for ``flamec.data`` and for checkpointing.

``from flamec.utils.data import DataLoader``, ``from flamec.utils.checkpoint import checkpoint``.
"""

from flamec import data as _data
from flamec.autograd import checkpointing as _checkpointing
from flamec.namespace import namespace

data = namespace(
    "flamec.utils.data",
    "Datasets and loaders, defined in flamec.data.",
    **{name: getattr(_data, name) for name in _data.__all__},
)

checkpoint = namespace(
    "flamec.utils.checkpoint",
    "Values that backward computes again instead of keeping.",
    **{name: getattr(_checkpointing, name) for name in _checkpointing.__all__},
)

__all__ = ["checkpoint", "data"]
