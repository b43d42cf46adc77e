"""The safetensors format: a length, a JSON header, the tensors' bytes.

Read and written here rather than by the package of that name, whose NumPy interface
knows no bfloat16 and copies what a memory map would give. Every offset and size in
a header is checked before it is used.

Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flamec.ir.types import DType, dtype_named
from flamec.saving.errors import FileFormatError
from flamec.saving.placement import Placement
from flamec.tensor import Tensor

__all__ = ["DTYPES_OF_NUMPY", "Entry", "read", "tensor_on", "write"]

LARGEST_HEADER = 100_000_000  # bytes, as in the format's own reader
ALIGNMENT = 8

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES: dict[str, DType] = {code: dtype_named(name) for name, code in _CODES.items()}
DTYPES_OF_NUMPY: dict[np.dtype[Any], str] = {dtype.numpy: code for code, dtype in _DTYPES.items()}


@dataclass
class Entry:
    """A tensor of a file. ``array`` has its values on the CPU; ``tensor`` is on its device."""

    array: np.ndarray
    place: Placement
    _tensor: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        return self.tensor_from("cpu")

    def tensor_from(self, device: str) -> Tensor:
        """The tensor, which was saved on ``device``; always the same memory."""
        if self._tensor is None:
            self._tensor = tensor_on(self.array, self.place(device))
        return self._tensor


def tensor_on(array: np.ndarray, device: Any) -> Tensor:
    """A tensor over an array that nobody else has, moved to its device."""
    tensor = Tensor._from_array(array)
    return tensor if device == tensor.device else tensor.to(device)


def write(file: Any, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write dense arrays of NumPy's or ml_dtypes' types, those of the largest items first."""
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in order:
        array = tensors[name]
        end = offset + array.nbytes
        header[name] = {
            "dtype": DTYPES_OF_NUMPY[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in order:
        array = tensors[name]
        if array.size:
            file.write(_raw(array))


def _raw(array: np.ndarray) -> memoryview:
    """The bytes of a dense array that is not empty."""
    return array.reshape(-1).view(np.uint8).data


def read(
    file: BinaryIO, name: str, mapped: Path | None, place: Placement
) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors by name, and the metadata; FileFormatError for what is not such a file."""
    start = file.tell()
    end = file.seek(0, 2)
    file.seek(start)
    length = int.from_bytes(file.read(8), "little")
    if end - start < 8 or not 2 <= length <= min(LARGEST_HEADER, end - start - 8):
        raise FileFormatError(
            f"{name} is neither a safetensors file nor a PyTorch archive, or it was cut off"
        )
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        described = {key: _described(value) for key, value in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileFormatError(f"{name}: its header cannot be read ({error!r})") from error
    first = start + 8 + length
    _check_ranges(name, described, end - first)
    entries = {}
    for key, (dtype, shape, begin, _) in described.items():
        array: np.ndarray
        if mapped is not None and 0 not in shape:
            mapping = np.memmap(mapped, dtype.numpy, "c", first + begin, tuple(shape))
            array = mapping.view(np.ndarray)
        else:
            file.seek(first + begin)
            array = np.empty(shape, dtype.numpy)
            if array.size and file.readinto(_raw(array)) < array.nbytes:  # type: ignore[attr-defined]  # BinaryIO lacks it
                raise FileFormatError(f"{name} ends within tensor {key!r}")
        entries[key] = Entry(array, place)
    return entries, metadata


_Described = tuple[DType, tuple[int, ...], int, int]


def _described(value: Any) -> _Described:
    begin, end = value["data_offsets"]
    shape = tuple(value["shape"])
    if value["dtype"] not in _DTYPES:
        raise ValueError(f"unknown dtype {value['dtype']!r}")
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"bad shape {shape} or offsets {begin}, {end}")
    return _DTYPES[value["dtype"]], shape, begin, end


def _check_ranges(name: str, described: Mapping[str, _Described], size: int) -> None:
    """The tensors' bytes follow each other without holes and end with the file."""
    position = 0
    for key, (dtype, shape, begin, end) in sorted(
        described.items(), key=lambda item: (item[1][2], item[1][3])
    ):
        needed = math.prod(shape) * dtype.itemsize
        if begin != position or end - begin != needed:
            raise FileFormatError(
                f"{name}: tensor {key!r} of shape {list(shape)} needs {needed} bytes from "
                f"{position}, but its offsets are {begin} and {end}"
            )
        position = end
    if position != size:
        raise FileFormatError(f"{name} has {size} bytes of tensors, but {position} are described")
