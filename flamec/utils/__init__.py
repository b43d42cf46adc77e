"""PyTorch's names for ``flamec.data`` and for checkpointing.

``from flamec.utils.data import DataLoader``, ``from flamec.utils.checkpoint import checkpoint``.
"""

from flamec import data as _data
from flamec.autograd import checkpointing as _checkpointing
from flamec.conversion import from_dlpack
from flamec.namespace import file_namespaces, namespace
from flamec.removable_handle import RemovableHandle

data = namespace(
    "flamec.utils.data",
    "Datasets and loaders, defined in flamec.data.",
    **{name: getattr(_data, name) for name in _data.__all__},
)
_FILES = {
    "dataset": "ChainDataset ConcatDataset Dataset IterableDataset StackDataset Subset "
    "TensorDataset random_split",
    "sampler": "BatchSampler RandomSampler Sampler SequentialSampler SubsetRandomSampler "
    "WeightedRandomSampler",
    "dataloader": "DataLoader default_collate default_convert get_worker_info",
    "distributed": "DistributedSampler",
}
vars(data).update(file_namespaces("flamec.utils.data", _FILES, vars(data)))
hooks = namespace("flamec.utils.hooks", "Handles of hooks.", RemovableHandle=RemovableHandle)
dlpack = namespace("flamec.utils.dlpack", "Exchange of memory.", from_dlpack=from_dlpack)

checkpoint = namespace(
    "flamec.utils.checkpoint",
    "Values that backward computes again instead of keeping.",
    **{name: getattr(_checkpointing, name) for name in _checkpointing.__all__},
)

__all__ = ["checkpoint", "data", "dlpack", "hooks"]
