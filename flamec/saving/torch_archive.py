"""PyTorch's ``.pt`` and ``.pth`` files: a zip with a pickle and one file for each storage.

The pickle is read by ``pickle_machine``, twice: first to learn which parts of each storage
are tensors, then to make them, so that tensors which share memory do so again.
"""

from __future__ import annotations

import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flamec.functional.strided import as_strided
from flamec.ir.types import Device, DType, dtype_named
from flamec.nn.parameter import Parameter
from flamec.saving import numpy_pickles
from flamec.saving.errors import DAMAGED_ZIP, FileFormatError, MissingDeviceError
from flamec.saving.pickle_machine import Name, run
from flamec.saving.placement import Placement
from flamec.saving.safetensors_format import tensor_on
from flamec.tensor import Size, Tensor

__all__ = ["read"]

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_ALIASES = {  # other names of dtypes, which older files have
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
}

Geometry = tuple[int, tuple[int, ...], tuple[int, ...]]  # offset, size, stride


@dataclass
class _Storage:
    """One storage of the file, read when its first tensor is made."""

    key: str
    dtype: DType
    count: int
    device: str
    geometries: set[Geometry] = field(default_factory=set)
    base: Tensor | None = None


def read(file: BinaryIO, name: str, mapped: Path | None, place: Placement) -> Any:
    """What ``torch.save`` wrote: containers, numbers, text, tensors and parameters."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _Reader(archive, name, mapped, place).read()
    except (FileFormatError, MissingDeviceError):
        raise
    except DAMAGED_ZIP as error:
        raise FileFormatError(f"{name} is a damaged zip file ({error})") from error


class _Reader:
    def __init__(
        self, archive: zipfile.ZipFile, name: str, mapped: Path | None, place: Placement
    ) -> None:
        self.archive = archive
        self.name = name
        self.mapped = mapped
        self.place = place
        self.storages: dict[str, _Storage] = {}
        self.is_counting = True
        pickles = [n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl"]
        if len(pickles) != 1:
            raise FileFormatError(f"{name} is a zip file without the data.pkl of a PyTorch file")
        self.folder = pickles[0].removesuffix("data.pkl")
        self.members = set(archive.namelist())
        if f"{self.folder}constants.pkl" in self.members:
            raise FileFormatError(f"{name} is a TorchScript archive, which contains programs")

    def read(self) -> Any:
        order = f"{self.folder}byteorder"
        if order in self.members and self.archive.read(order) != b"little":
            raise FileFormatError(f"{self.name} was written on a big-endian machine")
        data = self.archive.read(f"{self.folder}data.pkl")
        try:
            self._run(data)
            self.is_counting = False
            return self._run(data)
        except FileFormatError as error:
            raise FileFormatError(f"{self.name}: {error}") from error

    def _run(self, data: bytes) -> Any:
        return run(data, self._calls(), _CONSTANTS, _STATES, self._storage)

    def _calls(self) -> dict[str, Callable[..., Any]]:
        return {
            **_CONTAINERS,
            **numpy_pickles.CALLS,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
            "torch._tensor._rebuild_from_type_v2": self._from_type,
        }

    # storages ------------------------------------------------------------------------
    def _storage(self, description: Any) -> _Storage:
        kind, storage_type, key, device, count = description
        if kind != "storage" or not isinstance(storage_type, Name):
            raise FileFormatError(f"unknown persistent id {description!r}")
        name = _STORAGES.get(storage_type.text.rpartition(".")[2])
        if name is None:
            raise FileFormatError(f"storages of {storage_type.text} are not supported")
        dtype = dtype_named(name)
        if key not in self.storages:
            if type(count) is not int or count < 0 or type(key) is not str:
                raise FileFormatError(f"bad storage {description!r}")
            self.storages[key] = _Storage(key, dtype, count, str(device))
        storage = self.storages[key]
        if storage.dtype is not dtype:
            raise FileFormatError(f"storage {key} is used as {dtype.name} and {storage.dtype.name}")
        return storage

    def _bytes(self, storage: _Storage) -> np.ndarray:
        member = f"{self.folder}data/{storage.key}"
        if member not in self.members:
            raise FileFormatError(f"storage {storage.key} is missing")
        info = self.archive.getinfo(member)
        needed = storage.count * storage.dtype.itemsize
        if info.file_size < needed:
            raise FileFormatError(
                f"storage {storage.key} has {info.file_size} bytes, not the {needed} of "
                f"{storage.count} elements of {storage.dtype.name}"
            )
        if not storage.count:
            return np.empty(0, storage.dtype.numpy)
        if self.mapped is not None and info.compress_type == zipfile.ZIP_STORED:
            with self.archive.open(info) as stream:
                stream.read(1)  # checks the member's own header
            begin = self._data_offset(info)
            array = np.memmap(self.mapped, storage.dtype.numpy, "c", begin, (storage.count,))
            return array.view(np.ndarray)
        raw = np.frombuffer(bytearray(self.archive.read(info)), np.uint8, needed)
        return raw.view(storage.dtype.numpy)

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        """Where the member's bytes begin: after its header, whose name and extra field vary."""
        file = self.archive.fp
        assert file is not None
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
        name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
        return info.header_offset + 30 + name + extra

    # tensors -------------------------------------------------------------------------
    def _tensor(
        self,
        storage: _Storage,
        offset: int,
        size: Any,
        stride: Any,
        requires_grad: bool = False,
        hooks: Any = None,
        metadata: Any = None,
    ) -> Any:
        if not isinstance(storage, _Storage):
            raise FileFormatError("a tensor without a storage")
        geometry = self._geometry(storage, offset, tuple(size), tuple(stride))
        if self.is_counting:
            storage.geometries.add(geometry)
            return None
        if metadata:
            raise FileFormatError("complex conjugate or negated tensors are not supported")
        tensor = self._made(storage, geometry)
        if requires_grad:
            tensor.requires_grad = True
        return tensor

    def _geometry(
        self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> Geometry:
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
            raise FileFormatError(f"a tensor of size {size}, stride {stride}, offset {offset}")
        last = offset + sum((d - 1) * s for d, s in zip(size, stride, strict=True))
        if 0 not in size and last >= storage.count:
            raise FileFormatError(
                f"a tensor of size {list(size)}, stride {list(stride)}, offset {offset} reaches "
                f"outside its storage of {storage.count} elements"
            )
        return offset, size, stride

    def _made(self, storage: _Storage, geometry: Geometry) -> Tensor:
        """A tensor over the storage, which is dense where all its tensors are the same."""
        offset, size, stride = geometry
        is_alone = len(storage.geometries) == 1 and stride == _dense_strides(size)
        if storage.base is None:
            array = self._bytes(storage)
            if is_alone:
                count = int(np.prod(size, dtype=np.int64))
                array = array[offset : offset + count].reshape(size)
            storage.base = tensor_on(array, self.place(storage.device))
        if is_alone:
            return storage.base.detach()
        try:
            return as_strided(storage.base, size, stride, offset).detach()
        except RuntimeError:  # no view can be made of it, such as overlapping windows
            whole = storage.base.detach().cpu().numpy()
            steps = tuple(s * whole.itemsize for s in stride)
            strided = np.lib.stride_tricks.as_strided(whole[offset:], size, steps)
            return tensor_on(np.array(strided), storage.base.device)

    def _parameter(
        self, data: Any, requires_grad: bool, hooks: Any = None, state: Any = None
    ) -> Any:
        if state:
            raise FileFormatError("a parameter with attributes of its own is not supported")
        return None if self.is_counting else Parameter(data, bool(requires_grad))

    def _from_type(self, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
        """A tensor, perhaps with Python attributes; only those without are plain data."""
        if not isinstance(function, Name) or not isinstance(kind, Name):
            raise FileFormatError("a tensor of an unknown class")
        if kind.text not in ("torch.Tensor", "torch.nn.parameter.Parameter") or state:
            raise FileFormatError(f"a {kind.text} with attributes of its own is not supported")
        return self._calls()[function.text](*arguments)


def _dense_strides(size: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for length in reversed(size):
        strides.insert(0, step)
        step *= max(length, 1)
    return tuple(strides)


def _latin1(text: str, encoding: str) -> bytes:
    """Protocol 2 writes bytes as text to be encoded."""
    if encoding != "latin1":
        raise FileFormatError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _byte_array(content: Any = b"", encoding: str = "latin1") -> bytearray:
    """Before protocol 5 of bytes, or of text to be encoded; not of a number, which is a length."""
    return bytearray(content if isinstance(content, bytes) else _latin1(content, encoding))


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(pairs)


def _set_versions(target: OrderedDict[Any, Any], state: Any) -> None:
    """A state_dict's OrderedDict has one attribute, the versions of the modules."""
    if not isinstance(state, dict) or not set(state) <= {"_metadata"}:
        raise FileFormatError(f"an OrderedDict has unknown attributes {state!r:.80}")
    target.__dict__.update(state)


_STATES: dict[type, Callable[[Any, Any], None]] = {
    OrderedDict: _set_versions,
    **numpy_pickles.STATES,
}


def _defaulted(factory: Any = None) -> dict[Any, Any]:
    """Without the function for missing keys, which is only a name here."""
    return defaultdict()


def _set_of(items: Any = ()) -> set[Any]:
    return set(items)


_CONTAINERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _defaulted,
    "collections.Counter": lambda pairs=(): Counter(dict(pairs)),
    "builtins.set": _set_of,
    "__builtin__.set": _set_of,
    "builtins.frozenset": lambda items=(): frozenset(items),
    "__builtin__.frozenset": lambda items=(): frozenset(items),
    "builtins.complex": complex,
    "__builtin__.complex": complex,
    "builtins.bytes": lambda: b"",
    "__builtin__.bytes": lambda: b"",
    "builtins.bytearray": _byte_array,
    "__builtin__.bytearray": _byte_array,
    "_codecs.encode": _latin1,
    "torch.Size": lambda dims=(): Size(dims),
    "torch.device": lambda *parts: Device(*parts),
    # mostly as the argument of a defaultdict
    "builtins.dict": lambda pairs=(): dict(pairs),
    "__builtin__.dict": lambda pairs=(): dict(pairs),
    "builtins.list": lambda items=(): list(items),
    "__builtin__.list": lambda items=(): list(items),
}


def _only_named(*_: Any) -> Any:
    raise FileFormatError("a class of tensors or storages is called")


for _name in ("torch.Tensor", "torch.nn.parameter.Parameter"):
    _CONTAINERS[_name] = _only_named
for _name in _STORAGES:
    _CONTAINERS[f"torch.{_name}"] = _only_named
    _CONTAINERS[f"torch.storage.{_name}"] = _only_named

_NAMED = {**{name: name for name in _STORAGES.values()}, **_ALIASES}
_CONSTANTS: dict[str, Any] = {f"torch.{k}": dtype_named(name) for k, name in _NAMED.items()}
