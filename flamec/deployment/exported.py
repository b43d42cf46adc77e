"""``ExportedProgram``: a program from a file, called with NumPy arrays.

In: a file that ``export`` wrote. Out: a callable. Nothing is traced; machine code in the file is
used where it fits the processor or GPU, else its source is compiled.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from flamec.config import CompileOptions, default_options
from flamec.deployment import native_code
from flamec.deployment.archive import PROGRAM, Archive
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim, evaluate_shape, parse_dim
from flamec.ir.types import CPU, Device, DType, TensorType, dtype_named
from flamec.saving import structure as json_structure
from flamec.saving.errors import FileFormatError
from flamec.saving.safetensors_format import read as read_tensors
from flamec.size_oracle import ShapeGuard
from flamec.structures import Structure, flatten, unflatten


class ExportedProgram:
    """A compiled function from a file; ``program(*arrays)`` as the function was called.

    ``name``: of the function. ``graph``: its graph as text. ``kernels_compiled``: how many of its
    kernels had no machine code for this machine in the file. Calls from several threads wait
    for each other.
    """

    def __init__(self, file: BinaryIO, name: str, options: CompileOptions | None = None) -> None:
        archive = Archive(file, name, PROGRAM)
        manifest, members = archive.manifest, {m: archive.read(m) for m in archive}
        try:
            self._read(manifest, members)
        except (KeyError, ValueError, TypeError, AttributeError, SyntaxError) as error:
            raise FileFormatError(f"{name} contradicts itself: {error!r}") from error
        runner, self.kernels_compiled = native_code.load_runner(
            self.plan, self.device, manifest, members, options or default_options()
        )
        self._runner = runner
        self._lock = threading.Lock()
        self._weights = {
            position: self._placed(entry.array, self._inputs[position][1].device)
            for position, entry in self._entries.items()
        }
        del self._entries

    def _read(self, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
        self.name = str(manifest["name"])
        self.device = _device(manifest["device"])
        self.graph = members["graph.txt"].decode()
        self.plan = ExecutionPlan.from_json(members["plan.json"].decode())
        self._symbols = tuple(manifest["symbols"])
        self._names = tuple(manifest["argument_names"])
        self._arguments = _structure(manifest["arguments"])
        self._leaves = [
            _type(leaf) if "shape" in leaf else json_structure.decode(leaf["constant"], {})
            for leaf in manifest["leaves"]
        ]
        self._inputs = [(int(i["leaf"]), _type(i)) for i in manifest["inputs"]]
        self._outputs = [_type(o) for o in manifest["outputs"]]
        self._conditions = [
            ShapeGuard(_dim(left), relation, _dim(right), holds, None)
            for left, relation, right, holds in manifest["conditions"]
        ]
        self._results = manifest["results"]
        self._result_structure = _structure(manifest["result_structure"])
        content = io.BytesIO(members["weights.safetensors"])
        entries, _ = read_tensors(content, "weights.safetensors", None, Device)
        self._entries = {int(name): entry for name, entry in entries.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's results for NumPy arrays: new arrays, in the function's containers.

        TypeError and ValueError for arguments of another structure, dtype or shape than the
        program was exported for.
        """
        leaves, structure = flatten((args, kwargs))
        if structure != self._arguments:
            raise TypeError(
                f"{self.name}() takes {', '.join(self._names) or 'no arguments'}, in the "
                f"containers that it was exported with"
            )
        sizes = self._check(leaves)
        bindings = dict(zip(self._symbols, sizes, strict=True))
        with self._lock:
            outputs = self._run(leaves, sizes, bindings)
        results = [self._result(r, outputs, bindings) for r in self._results]
        return unflatten(self._result_structure, iter(results))

    def _check(self, leaves: Sequence[Any]) -> tuple[int, ...]:
        """The values of the symbols."""
        bindings: dict[str, int] = {}
        for position, (leaf, expected) in enumerate(zip(leaves, self._leaves, strict=True)):
            place = f"{self.name}(): {self._label(position)}"
            if not isinstance(expected, TensorType):
                if type(leaf) is not type(expected) or leaf != expected:
                    raise ValueError(f"{place} was {expected!r} at export, now it is {leaf!r}")
                continue
            if not isinstance(leaf, np.ndarray) or leaf.dtype != expected.dtype.numpy:
                found = getattr(leaf, "dtype", type(leaf).__name__)
                raise TypeError(
                    f"{place} must be a NumPy array of {expected.dtype.name}, not {found}"
                )
            if not _matches(leaf.shape, expected.shape, bindings):
                shape = [str(d) for d in expected.shape]
                raise ValueError(
                    f"{place} has shape {list(leaf.shape)}; exported for [{', '.join(shape)}]"
                    + (f" with {bindings}" if bindings else "")
                )
        for condition in self._conditions:
            if not condition.check(bindings):
                raise ValueError(
                    f"{self.name}(): the program was exported for sizes with {condition}; "
                    f"these are {bindings}"
                )
        return tuple([bindings[s] for s in self._symbols])

    def _run(
        self, leaves: Sequence[Any], sizes: tuple[int, ...], bindings: Mapping[str, int]
    ) -> list[np.ndarray]:
        invocation = self._runner.bind(sizes)
        kept = []  # until the program has run
        for position, (leaf, _) in enumerate(self._inputs):
            array = self._weights[position] if leaf < 0 else np.ascontiguousarray(leaves[leaf])
            if leaf >= 0:
                array = array.reshape(leaves[leaf].shape)
                kept.append(array)
            invocation.set_input(position, array)
        outputs = []
        for position, type in enumerate(self._outputs):
            array = np.empty(evaluate_shape(type.shape, bindings), type.dtype.numpy)
            invocation.set_output(position, array)
            outputs.append(array)
        invocation.run()
        return outputs

    def _result(
        self, result: Mapping[str, Any], outputs: Sequence[np.ndarray], bindings: Mapping[str, int]
    ) -> Any:
        if "output" in result:
            return outputs[result["output"]]
        if "size" in result:
            return evaluate_dim(_dim(result["size"]), bindings)
        if "shape" in result:
            return tuple(evaluate_dim(_dim(size), bindings) for size in result["shape"])
        return json_structure.decode(result["constant"], {})

    def _placed(self, array: np.ndarray, device: Device) -> Any:
        if device.type == "cpu":
            return array
        from flamec.gpu import gpu

        return gpu(device).upload(array)

    def _label(self, leaf: int) -> str:
        """The argument that a leaf belongs to."""
        first = 0
        for name, child in zip(self._names, self._arguments.children[0].children, strict=False):
            first += child.leaf_count
            if leaf < first:
                return name
        return f"argument {leaf}"

    def __repr__(self) -> str:
        types = ", ".join(
            f"{self._label(i)}: {leaf.dtype.name}[{', '.join(map(str, leaf.shape))}]"
            for i, leaf in enumerate(self._leaves)
            if isinstance(leaf, TensorType)
        )
        return f"<exported {self.name}({types}) on {self.device}>"


def _matches(shape: tuple[int, ...], expected: Sequence[Dim], bindings: dict[str, int]) -> bool:
    """Whether a shape fits; binds the symbols that it is the first to have."""
    if len(shape) != len(expected):
        return False
    for size, dim in zip(shape, expected, strict=True):
        wanted = bindings.setdefault(str(dim), size) if isinstance(dim, SymbolicDim) else dim
        if size != wanted:
            return False
    return True


def _structure(tree: Any) -> Structure:
    return flatten(json_structure.decode(tree, {}))[1]


def _type(data: Mapping[str, Any]) -> TensorType:
    shape = tuple(_dim(d) for d in data["shape"])
    dtype: DType = dtype_named(data["dtype"])
    return TensorType(shape, dtype, _device(data.get("device", "cpu")))


def _device(text: str) -> Device:
    return CPU if text == "cpu" else Device(text)


def _dim(data: int | str) -> Dim:
    return data if isinstance(data, int) else parse_dim(data)
