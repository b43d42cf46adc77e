"""The execution plan: what codegen hands to the runtime.

A plan is data: buffers, steps in order, and the source text of one program
with one entry point. It can be written to JSON and read back, so a second
process runs it without tracing, passes or code generation. Sizes may be
symbolic; they are evaluated when sizes are bound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flamec.ir.shape import Dim, format_dim, parse_dim, product
from flamec.ir.types import CPU, Device, DType, TensorType, dtype_named


@dataclass(frozen=True, slots=True)
class Buffer:
    """Dense memory that the program reads or writes.

    ``kind``: ``"input"`` (given by the caller), ``"output"`` (fresh memory that the
    caller gives and keeps), ``"temporary"`` (lives in the arena during the call), ``"errors"`` (a
    word of the device that is 0 until a kernel puts the code of an error there).
    ``elements`` may be symbolic.
    """

    name: str
    kind: str
    dtype: DType
    elements: Dim

    @property
    def bytes(self) -> Dim:
        return self.elements * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel, library call or copy of the program, in execution order.

    ``reads``/``writes`` are buffer positions. ``in_place`` lists (write, read) pairs
    that may share memory because each element is read before it is written.
    ``bytes_read``/``bytes_written`` count each distinct tensor once; ``operations`` are the
    names of the graph nodes inside, ``locations`` the user's lines.
    """

    name: str
    kind: str  # "pointwise" | "reduction" | "matmul" | "scatter" | "scan" | "copy" | ...
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    bytes_read: Dim
    bytes_written: Dim
    flops: Dim = 0
    in_place: tuple[tuple[int, int], ...] = ()
    operations: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """An output of the program: which buffer, and the type of the tensor in it."""

    buffer: int
    type: TensorType


@dataclass(frozen=True)
class KernelSource:
    """A GPU kernel as text, and how it is specialised.

    ``text``: a Python module that imports triton and defines ``function`` with ``@triton.jit``.
    ``parameters``: name and type of each, in the function's order: ``"*fp32"``, ``"i32"``,
    ``"fp32"``, ``"tensordesc<bf16[128,64]>"`` or ``"constexpr"``, whose value is in
    ``constants``. ``aligned``: the pointers and integers that are multiples of 16.
    ``options``: Triton's (``num_warps``, ``num_stages``, ``num_ctas``, ``maxnreg`` …).
    """

    text: str
    function: str
    parameters: tuple[tuple[str, str], ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """All of it, in one canonical form."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> KernelSource:
        """The inverse of ``to_json``."""
        return _kernel(json.loads(text))


@dataclass(frozen=True, slots=True)
class Argument:
    """What a launch passes for one parameter that is not a constant.

    A number: ``value``, where ``buffer`` is -1. A pointer: ``value`` bytes behind the start of
    a buffer. A tensor descriptor: ``shape`` and ``strides`` (in elements, the last is 1) of the
    array that starts there, too.
    """

    buffer: int = -1
    value: Dim | float = 0
    shape: tuple[Dim, ...] = ()
    strides: tuple[Dim, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """Run ``ExecutionPlan.kernels[kernel]``; nothing happens if a dimension of the grid is 0.

    Bounds of the first dimension of the grid for persistent kernels, 0 for none: ``most_blocks``,
    and ``per_processor`` blocks for each multiprocessor of the device.
    """

    kernel: int
    grid: tuple[Dim, Dim, Dim]
    arguments: tuple[Argument, ...]
    most_blocks: int = 0
    per_processor: int = 0


@dataclass(frozen=True, slots=True)
class Fill:
    """Set the first ``bytes`` bytes of a buffer to ``byte``."""

    buffer: int
    bytes: Dim
    byte: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the first ``bytes`` bytes of ``source`` to ``target``, which must not overlap it."""

    source: int
    target: int
    bytes: Dim


@dataclass(frozen=True, slots=True)
class HostOperand:
    """A whole buffer as a dense array."""

    buffer: int
    shape: tuple[Dim, ...]
    dtype: DType


@dataclass(frozen=True, slots=True)
class HostCall:
    """Compute the operation ``op`` by its NumPy meaning, in the host's memory.

    All operands are read before a result is written. ``attributes`` are numbers, bools and text;
    ``location`` is the user's line.
    """

    op: str
    attributes: Mapping[str, Any]
    operands: tuple[HostOperand, ...]
    results: tuple[HostOperand, ...]
    location: str = ""


Action = Launch | Fill | Copy | HostCall


@dataclass(frozen=True)
class ExecutionPlan:
    """Buffers and steps of one compiled program.

    ``inputs[i]`` is the buffer of graph input i. ``updated`` are the positions of inputs
    that the program overwrites in place. ``symbols`` names the sizes in the order in
    which they are passed to the entry point. ``errors`` are the messages of the error
    codes 1, 2 … that the entry point may return. ``scratch`` is the number of bytes of
    private memory that each thread needs: ``FlamecCall.scratch`` points to ``threads`` times
    ``scratch`` rounded up to 64.

    A program for a GPU has ``kernels`` and the ``actions`` that use them, in order; ``source``
    is then there to be read. A program in C has in ``actions`` only the calls of the host, which
    it asks for by number (``FlamecCall.host``).
    """

    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    input_types: tuple[TensorType, ...]
    outputs: tuple[OutputSpec, ...]
    updated: tuple[int, ...]
    symbols: tuple[str, ...]
    source: str
    entry: str = "flamec_program"
    language: str = "c"
    errors: tuple[str, ...] = ()
    scratch: Dim = 0
    notes: dict[str, Any] = field(default_factory=dict)
    kernels: tuple[KernelSource, ...] = ()
    actions: tuple[Action, ...] = ()

    @property
    def kernel_count(self) -> int:
        return len(self.steps)

    def bytes_moved(self) -> Dim:
        """Bytes read and written by all steps together."""
        total: Dim = 0
        for step in self.steps:
            total = total + step.bytes_read + step.bytes_written
        return total

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=_encode, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> ExecutionPlan:
        """The inverse of ``to_json``; KeyError, ValueError or TypeError for a malformed text."""
        data = json.loads(text)
        return ExecutionPlan(
            buffers=tuple(
                Buffer(b["name"], b["kind"], dtype_named(b["dtype"]), _dim(b["elements"]))
                for b in data["buffers"]
            ),
            steps=tuple(
                Step(
                    name=s["name"],
                    kind=s["kind"],
                    reads=tuple(s["reads"]),
                    writes=tuple(s["writes"]),
                    bytes_read=_dim(s["bytes_read"]),
                    bytes_written=_dim(s["bytes_written"]),
                    flops=_dim(s["flops"]),
                    in_place=tuple((w, r) for w, r in s["in_place"]),
                    operations=tuple(s["operations"]),
                    locations=tuple(s["locations"]),
                )
                for s in data["steps"]
            ),
            inputs=tuple(data["inputs"]),
            input_types=tuple(_type(t) for t in data["input_types"]),
            outputs=tuple(OutputSpec(o["buffer"], _type(o["type"])) for o in data["outputs"]),
            updated=tuple(data["updated"]),
            symbols=tuple(data["symbols"]),
            source=data["source"],
            entry=data["entry"],
            language=data["language"],
            errors=tuple(data["errors"]),
            scratch=_dim(data["scratch"]),
            notes=data["notes"],
            kernels=tuple(_kernel(k) for k in data["kernels"]),
            actions=tuple(_action(a) for a in data["actions"]),
        )


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    """Where each temporary buffer lies in the arena, for one binding of the sizes.

    ``offsets`` maps the position of a temporary buffer to its offset in bytes, a multiple of
    64. ``peak_bytes`` is the size of the arena.
    """

    offsets: dict[int, int]
    peak_bytes: int


def dense_elements(type: TensorType) -> Dim:
    return product(type.shape)


def _encode(value: Any) -> Any:
    if isinstance(value, DType):
        return value.name
    if isinstance(value, TensorType):
        return {
            "shape": [d if isinstance(d, int) else format_dim(d) for d in value.shape],
            "dtype": value.dtype.name,
            "device": [value.device.type, value.device.index],
        }
    return format_dim(value)


def _kernel(data: dict[str, Any]) -> KernelSource:
    data["parameters"] = tuple((name, kind) for name, kind in data["parameters"])
    data["aligned"] = tuple(data["aligned"])
    return KernelSource(**data)


def _action(data: dict[str, Any]) -> Action:
    """The action with these fields; each kind of action has a field that no other has."""
    if "kernel" in data:
        x, y, z = data["grid"]
        return Launch(
            kernel=data["kernel"],
            grid=(_dim(x), _dim(y), _dim(z)),
            arguments=tuple(
                Argument(
                    buffer=a["buffer"],
                    value=a["value"] if isinstance(a["value"], float) else _dim(a["value"]),
                    shape=tuple(_dim(d) for d in a["shape"]),
                    strides=tuple(_dim(d) for d in a["strides"]),
                )
                for a in data["arguments"]
            ),
            most_blocks=data["most_blocks"],
            per_processor=data["per_processor"],
        )
    if "op" in data:
        return HostCall(
            op=data["op"],
            attributes=data["attributes"],
            operands=tuple(_host_operand(o) for o in data["operands"]),
            results=tuple(_host_operand(o) for o in data["results"]),
            location=data["location"],
        )
    if "byte" in data:
        return Fill(data["buffer"], _dim(data["bytes"]), data["byte"])
    return Copy(data["source"], data["target"], _dim(data["bytes"]))


def _host_operand(data: dict[str, Any]) -> HostOperand:
    shape = tuple(_dim(d) for d in data["shape"])
    return HostOperand(data["buffer"], shape, dtype_named(data["dtype"]))


def _dim(data: int | str) -> Dim:
    return data if isinstance(data, int) else parse_dim(data)


def _type(data: dict[str, Any]) -> TensorType:
    kind, index = data["device"]
    device = CPU if kind == "cpu" else Device(kind, index)
    return TensorType(tuple(_dim(d) for d in data["shape"]), dtype_named(data["dtype"]), device)
