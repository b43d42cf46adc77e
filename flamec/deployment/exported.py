"""``ExportedProgram``: a program from a file, called with NumPy arrays.

In: a file that ``export`` wrote. Out: a callable. Nothing is traced; machine code in the file is
used where it fits the processor or GPU, else its source is compiled.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from flamec.config import CompileOptions, default_options
from flamec.deployment import native_code
from flamec.deployment.archive import PROGRAM, Archive
from flamec.deployment.formulas import Formula, decode
from flamec.deployment.numbers import Number, NumberCondition
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, evaluate_dim, evaluate_shape, multiple_of_symbol, parse_dim
from flamec.ir.types import CPU, Device, DType, TensorType, dtype_named
from flamec.runtime.fork_locks import held_in_forks
from flamec.saving import structure as json_structure
from flamec.saving.errors import FileFormatError
from flamec.saving.safetensors_format import read as read_tensors
from flamec.size_oracle import ShapeGuard
from flamec.structures import Structure, flatten, unflatten

_SYMBOL = re.compile(r"\b(?:(\d+)\*)?(s\d+)\b")  # with the number before it


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
        self._lock = held_in_forks(threading.Lock())  # during calls
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
        self._leaves = [_leaf(leaf) for leaf in manifest["leaves"]]
        numbers = {i for i, leaf in enumerate(self._leaves) if isinstance(leaf, Number)}
        formula = partial(decode, numbers=numbers)
        self._inputs = [
            (int(i["leaf"]), _type(i), formula(i["value"]) if "value" in i else None)
            for i in manifest["inputs"]
        ]
        self._sizes = {
            str(symbol): (str(size["name"]), Number.of(size))
            for symbol, size in manifest["sizes"].items()
        }
        self._host_sizes = [
            (str(s["symbol"]), int(s["sign"]), formula(s["value"])) for s in manifest["host_sizes"]
        ]
        self._number_conditions = [
            NumberCondition.of(c, numbers) for c in manifest["number_conditions"]
        ]
        self._outputs = [_type(o) for o in manifest["outputs"]]
        self._conditions = [
            ShapeGuard(_dim(left), relation, _dim(right), holds, None)
            for left, relation, right, holds in manifest["conditions"]
        ]
        self._results = [formula(r["value"]) if "value" in r else r for r in manifest["results"]]
        self._result_structure = _structure(manifest["result_structure"])
        content = io.BytesIO(members["weights.safetensors"])
        entries, _ = read_tensors(content, "weights.safetensors", None, Device)
        self._entries = {int(name): entry for name, entry in entries.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's results for NumPy arrays: new arrays, in the function's containers.

        TypeError and ValueError for arguments of another structure, dtype or shape than the
        program was exported for, and for sizes and numbers that do not keep to what was declared
        of them or to what Python decided by them.
        """
        leaves, structure = flatten((args, kwargs))
        if structure != self._arguments:
            raise TypeError(
                f"{self.name}() takes {', '.join(self._names) or 'no arguments'}, in the "
                f"containers that it was exported with"
            )
        bindings = self._check(leaves)
        with self._lock:
            outputs = self._run(leaves, bindings)
        results = [self._result(r, outputs, leaves, bindings) for r in self._results]
        return unflatten(self._result_structure, iter(results))

    def _check(self, leaves: list[Any]) -> dict[str, int]:
        """The values of the symbols. NumPy's numbers among the leaves become Python's."""
        bindings: dict[str, int] = {}
        for position, (leaf, expected) in enumerate(zip(leaves, self._leaves, strict=True)):
            place = f"{self.name}(): {self._label(position)}"
            if isinstance(expected, Number):
                leaves[position] = expected.checked(leaf, place)
                continue
            if not isinstance(expected, TensorType):
                if type(leaf) is not type(expected) or leaf != expected:
                    raise ValueError(f"{place} was {expected!r} at export, now it is {leaf!r}")
                continue
            if not isinstance(leaf, np.ndarray) or leaf.dtype != expected.dtype.numpy:
                array = isinstance(leaf, np.ndarray)
                found = leaf.dtype if array else f"a {type(leaf).__name__}"
                raise TypeError(
                    f"{place} must be a NumPy array of {expected.dtype.name}, not {found}"
                )
            self._check_bounds(leaf.shape, expected.shape, place)
            if not _matches(leaf.shape, expected.shape, bindings):
                shape = [self._named(str(d)) for d in expected.shape]
                raise ValueError(
                    f"{place} has shape {list(leaf.shape)}; exported for [{', '.join(shape)}]"
                    + (f" with {self._values(bindings)}" if bindings else "")
                )
        for symbol, sign, value in self._host_sizes:
            bindings[symbol] = sign * value.evaluate(leaves, bindings)
        for required in self._number_conditions:
            if not required.holds(leaves, bindings):
                text = required.text(self._label, lambda dim: self._named(str(dim)))
                raise self._refusal(f"calls with {text}", leaves, bindings)
        for symbol, sign, value in self._host_sizes:
            if not 0 <= bindings[symbol] < 2**63:
                text = value.text(self._label, lambda dim: self._named(str(dim)))
                relation = ">= 0" if sign > 0 else "< 0"
                raise self._refusal(f"calls with {text} {relation}", leaves, bindings)
        for condition in self._conditions:
            if not condition.check(bindings):
                raise self._refusal(f"sizes with {self._named(str(condition))}", leaves, bindings)
        return bindings

    def _check_bounds(self, shape: tuple[int, ...], expected: Sequence[Dim], place: str) -> None:
        """ValueError for a size that is not as ``Dim`` declares it."""
        if len(shape) != len(expected):
            return
        for axis, (size, dim) in enumerate(zip(shape, expected, strict=True)):
            found = multiple_of_symbol(dim)
            if found is not None:
                name, declared = self._sizes[found[1]]
                declared.checked(size, f"{place}: {name}, the size of axis {axis},")

    def _refusal(
        self, exported_for: str, leaves: Sequence[Any], bindings: Mapping[str, int]
    ) -> ValueError:
        numbers = {
            self._label(i): leaf
            for i, (leaf, expected) in enumerate(zip(leaves, self._leaves, strict=True))
            if isinstance(expected, Number)
        }
        return ValueError(
            f"{self.name}(): the program was exported for {exported_for}; "
            f"here {self._values(bindings, numbers)}"
        )

    def _named(self, text: str) -> str:
        """A text about symbols in the user's words: names of sizes, what numbers give others."""
        return _SYMBOL.sub(self._name_of, text)

    def _name_of(self, match: re.Match[str]) -> str:
        factor, symbol = match.groups()
        times = f"{factor}*" if factor else ""
        for other, sign, value in self._host_sizes:
            if other == symbol:
                text = value.text(self._label, lambda dim: self._named(str(dim)))
                return times + (text if sign > 0 else f"-{text}")
        name, size = self._sizes[symbol]
        if size.multiple_of == int(factor or 1):
            return name
        return times + (name if size.multiple_of == 1 else f"({name} / {size.multiple_of})")

    def _values(self, bindings: Mapping[str, int], numbers: Mapping[str, Any] = {}) -> str:
        known = [(*self._sizes[s], n) for s, n in bindings.items() if s in self._sizes]
        sizes = {name: size.multiple_of * n for name, size, n in known}
        return ", ".join(f"{name} = {value}" for name, value in {**sizes, **numbers}.items())

    def _run(self, leaves: Sequence[Any], bindings: Mapping[str, int]) -> list[np.ndarray]:
        invocation = self._runner.bind(tuple([bindings[s] for s in self._symbols]))
        kept = []  # until the program has run
        for position, (leaf, type, value) in enumerate(self._inputs):
            if value is not None:
                array = _scalar(value.evaluate(leaves, bindings), type, self.name)
            elif leaf < 0:
                array = self._weights[position]
            else:
                array = np.ascontiguousarray(leaves[leaf]).reshape(leaves[leaf].shape)
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
        self,
        result: Mapping[str, Any] | Formula,
        outputs: Sequence[np.ndarray],
        leaves: Sequence[Any],
        bindings: Mapping[str, int],
    ) -> Any:
        if isinstance(result, Formula):
            return result.evaluate(leaves, bindings)
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
            f"{self._label(i)}: {leaf.kind}"
            if isinstance(leaf, Number)
            else f"{self._label(i)}: {leaf.dtype.name}"
            f"[{', '.join(self._named(str(d)) for d in leaf.shape)}]"
            for i, leaf in enumerate(self._leaves)
            if isinstance(leaf, (TensorType, Number))
        )
        return f"<exported {self.name}({types}) on {self.device}>"


def _matches(shape: tuple[int, ...], expected: Sequence[Dim], bindings: dict[str, int]) -> bool:
    """Whether a shape fits; binds the symbols that it is the first to have."""
    if len(shape) != len(expected):
        return False
    for size, dim in zip(shape, expected, strict=True):
        factor, symbol = multiple_of_symbol(dim) or (0, "")
        wanted = factor * bindings.setdefault(symbol, size // factor) if factor else dim
        if size != wanted:
            return False
    return True


def _scalar(value: Any, type: TensorType, name: str) -> np.ndarray:
    try:
        return np.asarray(value, type.dtype.numpy)
    except OverflowError:
        raise ValueError(f"{name}(): {value} does not fit {type.dtype.name}") from None


def _leaf(data: Mapping[str, Any]) -> Any:
    """What a leaf of the arguments must be: of a type, a ``Number``, or this constant."""
    if "shape" in data:
        return _type(data)
    if "number" in data:
        return Number.of(data)
    return json_structure.decode(data["constant"], {})


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
