"""Nested Python structures as JSON, with tensors taken out and named by their place.

JSON's own types stand for themselves, except that a dict becomes ``{"dict": [[key, value],
…]}``: its keys keep their type and order. Other types are one-entry objects as well:
``{"tuple": […]}``, ``{"tensor": name}``. Only the types below exist; nothing else can be
made by decoding.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from flamec.ir.types import Device, DType, dtype_named
from flamec.nn.parameter import Buffer, Parameter
from flamec.saving.safetensors_format import DTYPES_OF_NUMPY, Entry
from flamec.tensor import Size, Tensor

__all__ = ["decode", "encode"]


def encode(value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """The JSON tree of ``value``; the arrays of its tensors go to ``tensors``.

    TypeError naming the place of anything that has no form in a file.
    """
    return _Encoder(tensors).encode(value, ())


class _Encoder:
    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = tensors
        self.known: dict[Any, str] = {}  # memory -> name
        self.objects: dict[int, int] = {}  # tensors met before, by identity -> number
        self.containers: set[int] = set()  # those around the present place

    def encode(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.array(value)
            if array.dtype not in DTYPES_OF_NUMPY:
                raise TypeError(
                    f"save(): {_place(path)} is a NumPy value of dtype {array.dtype}, which cannot "
                    f"be stored; {', '.join(map(str, DTYPES_OF_NUMPY))} can"
                )
            return {"array" if isinstance(value, np.ndarray) else "number": self._add(array, path)}
        for types, encoded in _LEAVES:
            if isinstance(value, types):
                return encoded(value)
        return self._container(value, path)

    def _container(self, value: Any, path: tuple[Any, ...]) -> Any:
        if id(value) in self.containers:
            raise TypeError(f"save(): {_place(path)} contains itself")
        self.containers.add(id(value))
        try:
            kind = type(value)
            if kind is list:
                return [self.encode(v, (*path, i)) for i, v in enumerate(value)]
            if kind in _SEQUENCES:
                items = sorted(value, key=repr) if kind in (set, frozenset) else value
                encoded = [self.encode(v, (*path, i)) for i, v in enumerate(items)]
                return {_SEQUENCES[kind]: encoded}
            if isinstance(value, Mapping):
                name = _MAPPINGS.get(kind, "dict")
                pairs = value.items()
                return {name: [[self._key(k, path), self.encode(v, (*path, k))] for k, v in pairs]}
        finally:
            self.containers.discard(id(value))
        raise TypeError(
            f"save(): {_place(path)} is a {kind.__module__}.{kind.__qualname__}, which cannot be "
            "stored; tensors, numbers, text and plain containers can (of a module or an optimizer, "
            "its state_dict())"
        )

    def _key(self, key: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(key, (Tensor, np.ndarray)):
            raise TypeError(f"save(): a key of {_place(path)} is a {type(key).__name__}")
        return self.encode(key, (*path, "key"))

    def _tensor(self, tensor: Tensor, path: tuple[Any, ...]) -> dict[str, Any]:
        number = self.objects.setdefault(id(tensor), len(self.objects))
        value = tensor.detach()
        device = str(tensor.device)
        array = value.cpu().numpy()
        address = value.data_ptr() if array.size else id(tensor._storage)
        memory = (address, device, array.shape, value.stride(), tensor.dtype)
        if memory not in self.known:
            self.known[memory] = self._add(array, path)
        encoded: dict[str, Any] = {"tensor": self.known[memory], "object": number}
        for kind, name in ((Parameter, "parameter"), (Buffer, "buffer")):
            if isinstance(tensor, kind):
                encoded["class"] = name
        if isinstance(tensor, Buffer):
            encoded["persistent"] = tensor.persistent
        if device != "cpu":
            encoded["device"] = device
        if tensor._requires_grad:
            encoded["requires_grad"] = True
        return encoded

    def _add(self, array: np.ndarray, path: tuple[Any, ...]) -> str:
        name = ".".join(map(str, path)) or "value"
        while name in self.tensors or name == "__metadata__":
            name += "_"
        self.tensors[name] = np.ascontiguousarray(array).reshape(array.shape)
        return name


def _place(path: tuple[Any, ...]) -> str:
    return "the object" + "".join(f"[{key!r}]" for key in path)


_LEAVES: tuple[tuple[Any, Any], ...] = (
    (DType, lambda v: {"dtype": v.name}),
    (Device, lambda v: {"device": str(v)}),
    (bytes, lambda v: {"bytes": base64.b64encode(v).decode()}),
    (complex, lambda v: {"complex": [repr(v.real), repr(v.imag)]}),
)
_SEQUENCES: dict[Any, str] = {
    tuple: "tuple",
    Size: "size",
    set: "set",
    frozenset: "frozenset",
}
_MAPPINGS: dict[Any, str] = {OrderedDict: "ordered", Counter: "counter"}


# reading -------------------------------------------------------------------------------


def decode(tree: Any, entries: Mapping[str, Entry]) -> Any:
    """The structure again, with the tensors of ``entries``."""
    return _Decoder(entries).decode(tree)


class _Decoder:
    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries
        self.objects: dict[int, Tensor] = {}

    def decode(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self.decode(v) for v in tree]
        if not isinstance(tree, dict):
            return tree
        if "tensor" in tree:
            return self._tensor(tree)
        ((kind, content),) = tree.items()
        if kind in _MADE_OF_SEQUENCE:
            return _MADE_OF_SEQUENCE[kind](self.decode(v) for v in content)
        if kind in _MADE_OF_PAIRS:
            return _MADE_OF_PAIRS[kind]((self.decode(k), self.decode(v)) for k, v in content)
        if kind == "array":
            return self.entries[content].array
        if kind == "number":
            return self.entries[content].array[()]
        return _MADE_OF_TEXT[kind](content)

    def _tensor(self, tree: dict[str, Any]) -> Tensor:
        number = tree["object"]
        if number in self.objects:
            return self.objects[number]
        entry = self.entries[tree["tensor"]]
        shared = entry.tensor_from(tree.get("device", "cpu"))
        tensor: Tensor = shared.detach()
        if "class" in tree:
            if tree["class"] == "parameter":
                tensor = Parameter(tensor, bool(tree.get("requires_grad")))
            else:
                tensor = Buffer(tensor, persistent=bool(tree["persistent"]))
        if tree.get("requires_grad") and not tensor._requires_grad:
            tensor.requires_grad = True
        self.objects[number] = tensor
        return tensor


def _counter(pairs: Any) -> Counter[Any]:
    return Counter(dict(pairs))


_MADE_OF_SEQUENCE: dict[str, Any] = {
    "tuple": tuple,
    "size": Size,
    "set": set,
    "frozenset": frozenset,
}
_MADE_OF_PAIRS: dict[str, Any] = {"dict": dict, "ordered": OrderedDict, "counter": _counter}
_MADE_OF_TEXT: dict[str, Any] = {
    "float": float,
    "dtype": dtype_named,
    "device": Device,
    "bytes": base64.b64decode,
    "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
}
