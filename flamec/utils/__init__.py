"""PyTorch's name for ``flamec.data``: ``from flamec.utils.data import DataLoader``."""

from flamec import data as _data
from flamec.namespace import namespace

data = namespace(
    "flamec.utils.data",
    "Datasets and loaders, defined in flamec.data.",
    **{name: getattr(_data, name) for name in _data.__all__},
)

__all__ = ["data"]
