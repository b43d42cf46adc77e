"""The execution plan: what codegen hands to the runtime.

A plan is data: buffers, steps in order, and the source text of one program
with one entry point. It can be written to JSON and read back, so a second
process runs it without tracing, passes or code generation. Sizes may be
symbolic; they are evaluated when sizes are bound.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flamec.ir.actions import (
    Action,
    Argument,
    Branch,
    Carried,
    Copy,
    Fill,
    HostCall,
    HostOperand,
    Launch,
    Loop,
    Places,
    Undecided,
    Window,
    action_of,
    dim_of,
    unrolled,
)
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim, format_dim, product
from flamec.ir.types import CPU, Device, DType, TensorType, dtype_named

__all__ = [
    "CONTROL_STEPS",
    "Action",
    "Argument",
    "Branch",
    "Buffer",
    "Carried",
    "Copy",
    "ExecutionPlan",
    "Fill",
    "HostCall",
    "HostOperand",
    "KernelSource",
    "Launch",
    "Loop",
    "LoopSpan",
    "MemoryLayout",
    "OutputSpec",
    "Places",
    "Step",
    "Undecided",
    "Window",
    "dense_elements",
    "unrolled",
]


CONTROL_STEPS = ("loop", "branch")  # the kinds of steps that run other steps
# Steps that one of a GPU may begin before: what those nearby left is in the cache.
MOST_OVERTAKEN = 8
_LONG = 4.0  # microseconds
_BANDWIDTH, _RATE = 4e6, 3e8  # bytes and operations a microsecond


@dataclass(frozen=True, slots=True)
class Buffer:
    """Dense memory that the program reads or writes.

    ``kind``: ``"input"`` (given by the caller), ``"output"`` (fresh memory that the
    caller gives and keeps), ``"temporary"`` (lives in the arena during the call), ``"window"`` (a
    part of another buffer, in every step of a loop another one), ``"errors"`` (a
    word of the device that is 0 until a kernel puts the code of an error there), ``"counters"``
    (words that are 0 whenever no kernel runs; all such buffers may be one).
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
    ``bytes_read``/``bytes_written`` count each distinct tensor once, in a loop once for every run
    of the loop's steps; ``operations`` are the names of the graph nodes inside, ``locations`` the
    user's lines, ``modules`` the paths of the modules that were called there, ``checks`` the nodes
    whose indices are checked, with their lines. The steps of a loop or a branch follow it; those of
    a loop whose steps only the running program knows count as one.
    """

    name: str
    kind: str  # "pointwise" | "reduction" | "matmul" | "scatter" | "scan" | "copy" | "loop" | ...
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    bytes_read: Dim
    bytes_written: Dim
    flops: Dim = 0
    in_place: tuple[tuple[int, int], ...] = ()
    operations: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()

    def is_long(self, bindings: Mapping[str, int]) -> bool:
        """Whether it takes so long on a large GPU that others are worth running beside it."""
        moved = evaluate_dim(self.bytes_read, bindings) + evaluate_dim(self.bytes_written, bindings)
        return max(moved / _BANDWIDTH, evaluate_dim(self.flops, bindings) / _RATE) >= _LONG


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
    ``rounded``: the descriptors of float32 arrays whose elements are rounded to tf32 (10 bits of
    mantissa) when they are copied; matrix instructions would cut the other bits off.
    """

    text: str
    function: str
    parameters: tuple[tuple[str, str], ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    rounded: tuple[str, ...] = ()

    @property
    def aligned_arguments(self) -> set[int]:
        """Positions of the arguments of a launch that are multiples of 16."""
        names = [name for name, kind in self.parameters if kind != "constexpr"]
        return {position for position, name in enumerate(names) if name in self.aligned}

    def to_json(self) -> str:
        """All of it, in one canonical form."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> KernelSource:
        """The inverse of ``to_json``."""
        return _kernel(json.loads(text))


@dataclass(frozen=True, slots=True)
class LoopSpan:
    """The steps from ``first`` to ``last`` are a loop or a branch; ``buffers`` are in use in all
    of them."""

    first: int
    last: int
    buffers: tuple[int, ...]


@dataclass(frozen=True)
class ExecutionPlan:
    """Buffers and steps of one compiled program.

    ``inputs[i]`` is the buffer of graph input i. ``updated`` are the positions of inputs
    that the program overwrites in place. ``symbols`` names the sizes in the order in
    which they are passed to the entry point. ``errors`` are the messages of the error
    codes 1, 2 … that the entry point may return. ``scratch`` is the number of bytes of
    private memory that each thread needs: ``FlamecCall.scratch`` points to ``threads`` times
    ``scratch`` rounded up to 64.

    ``loops``: which steps are run again and again, or not all of them. ``notes``: facts for the
    runtime. Of a program in C ``"functions"`` has for each step the number by which its source
    calls it.

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
    loops: tuple[LoopSpan, ...] = ()

    @property
    def kernel_count(self) -> int:
        return sum(step.kind not in CONTROL_STEPS for step in self.steps)

    def copies_into(self, position: int) -> bool:
        """Whether all of an input is copied to where it is, not only what is new of it."""
        buffer = self.inputs[position]
        return any(isinstance(a, Copy) and a.target == buffer for a in self.actions)

    def with_unaligned(self, positions: Collection[int]) -> ExecutionPlan:
        """The plan of kernels to which these inputs may be given at any address."""
        if not positions:
            return self
        buffers = {self.inputs[position] for position in positions}
        kernels = list(self.kernels)
        for action in self.actions:
            if not isinstance(action, Launch):
                continue
            source = kernels[action.kernel]
            names = [name for name, kind in source.parameters if kind != "constexpr"]
            given = zip(names, action.arguments, strict=True)
            odd = {name for name, argument in given if argument.buffer in buffers}
            aligned = tuple(name for name in source.aligned if name not in odd)
            kernels[action.kernel] = replace(source, aligned=aligned)
        return replace(self, kernels=tuple(kernels))

    def bytes_moved(self) -> Dim:
        """Bytes read and written by all steps together."""
        total: Dim = 0
        for step in self.steps:
            total = total + step.bytes_read + step.bytes_written
        return total

    def to_json(self) -> str:
        return json.dumps(self, default=_encode, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> ExecutionPlan:
        """The inverse of ``to_json``; KeyError, ValueError or TypeError for a malformed text."""
        data = json.loads(text)
        return ExecutionPlan(
            buffers=tuple(
                Buffer(b["name"], b["kind"], dtype_named(b["dtype"]), dim_of(b["elements"]))
                for b in data["buffers"]
            ),
            steps=tuple(
                Step(
                    name=s["name"],
                    kind=s["kind"],
                    reads=tuple(s["reads"]),
                    writes=tuple(s["writes"]),
                    bytes_read=dim_of(s["bytes_read"]),
                    bytes_written=dim_of(s["bytes_written"]),
                    flops=dim_of(s["flops"]),
                    in_place=tuple((w, r) for w, r in s["in_place"]),
                    operations=tuple(s["operations"]),
                    locations=tuple(s["locations"]),
                    checks=tuple(s["checks"]),
                    modules=tuple(s["modules"]),
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
            scratch=dim_of(data["scratch"]),
            notes=data["notes"],
            kernels=tuple(_kernel(k) for k in data["kernels"]),
            actions=tuple(action_of(a) for a in data["actions"]),
            loops=tuple(
                LoopSpan(s["first"], s["last"], tuple(s["buffers"])) for s in data["loops"]
            ),
        )


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    """Where each temporary buffer lies in the arena, for one binding of the sizes.

    ``offsets`` maps the position of a temporary buffer to its offset in bytes, a multiple of
    64. ``peak_bytes`` is the size of the arena. ``guests``: temporary buffers that are in the
    memory of an output instead, which is not written yet: the output's buffer and the offset there.
    """

    offsets: dict[int, int]
    peak_bytes: int
    guests: dict[int, tuple[int, int]] = field(default_factory=dict)

    def guests_by_lender(self) -> dict[int, list[tuple[int, int]]]:
        """For each output that lends its memory: buffers in it and their offsets."""
        found: dict[int, list[tuple[int, int]]] = {}
        for buffer, (lender, offset) in self.guests.items():
            found.setdefault(lender, []).append((buffer, offset))
        return found


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
    if isinstance(value, SymbolicDim):
        return format_dim(value)
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _kernel(data: dict[str, Any]) -> KernelSource:
    data["parameters"] = tuple((name, kind) for name, kind in data["parameters"])
    data["aligned"] = tuple(data["aligned"])
    data["rounded"] = tuple(data.get("rounded", ()))
    return KernelSource(**data)


def _type(data: dict[str, Any]) -> TensorType:
    kind, index = data["device"]
    device = CPU if kind == "cpu" else Device(kind, index)
    return TensorType(tuple(dim_of(d) for d in data["shape"]), dtype_named(data["dtype"]), device)
