"""The execution plan: what codegen hands to the runtime.

A plan is data: buffers, steps in order, and the source text of one program
with one entry point. It can be written to JSON and read back, so a second
process runs it without tracing, passes or code generation. Sizes may be
symbolic; they are evaluated when sizes are bound.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flamec.ir.shape import Dim, evaluate_dim, format_dim, parse_dim, product
from flamec.ir.types import CPU, Device, DType, TensorType, dtype_named


@dataclass(frozen=True, slots=True)
class Buffer:
    """Dense memory that the program reads or writes.

    ``kind``: ``"input"`` (given by the caller), ``"output"`` (fresh memory that the
    caller gives and keeps), ``"temporary"`` (lives in the arena during the call), ``"window"`` (a
    part of another buffer, in every step of a loop another one), ``"errors"`` (a
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
    ``bytes_read``/``bytes_written`` count each distinct tensor once, in a loop once for every run
    of the loop's steps; ``operations`` are the
    names of the graph nodes inside, ``locations`` the user's lines, ``modules`` the paths of the
    modules that were called there. The steps of a loop follow it.
    """

    name: str
    kind: str  # "pointwise" | "reduction" | "matmul" | "scatter" | "scan" | "loop" | "copy" | ...
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    bytes_read: Dim
    bytes_written: Dim
    flops: Dim = 0
    in_place: tuple[tuple[int, int], ...] = ()
    operations: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


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
    and ``per_processor`` blocks for each multiprocessor of the device. ``step``: the plan's step
    that the launch belongs to, -1 if none.
    """

    kernel: int
    grid: tuple[Dim, Dim, Dim]
    arguments: tuple[Argument, ...]
    most_blocks: int = 0
    per_processor: int = 0
    step: int = -1


@dataclass(frozen=True, slots=True)
class Fill:
    """Set the first ``bytes`` bytes of a buffer to ``byte``."""

    buffer: int
    bytes: Dim
    byte: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy ``bytes`` bytes of ``source`` to ``target``, which must not overlap it.

    The offsets say at which byte of the buffers they begin.
    """

    source: int
    target: int
    bytes: Dim
    source_offset: int = 0
    target_offset: int = 0


@dataclass(frozen=True, slots=True)
class HostOperand:
    """A buffer as a dense array that begins ``offset`` bytes behind its start."""

    buffer: int
    shape: tuple[Dim, ...]
    dtype: DType
    offset: int = 0


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


@dataclass(frozen=True, slots=True)
class Window:
    """In a loop the buffer ``buffer`` is element i of the array ``base``: ``stride`` bytes."""

    buffer: int
    base: int
    stride: Dim


@dataclass(frozen=True, slots=True)
class Carried:
    """A value of ``bytes`` bytes that each step of a loop reads as ``old`` and writes as ``new``.

    ``old`` is ``start`` in the first step, then what ``new`` was; ``new`` is ``other`` and ``last``
    in turns, in the last step ``last``. Without steps ``last`` becomes a copy of ``start``.
    """

    old: int
    new: int
    start: int
    last: int
    other: int
    bytes: Dim


@dataclass(frozen=True, slots=True)
class Loop:
    """Do ``actions`` ``count`` times, with the windows at element 0, 1, … (``reverse``: from the
    last to the first). A program in C has the loop in its text; then ``actions`` is empty."""

    count: Dim
    reverse: bool
    windows: tuple[Window, ...]
    carried: tuple[Carried, ...]
    actions: tuple[Action, ...]


Action = Launch | Fill | Copy | HostCall | Loop


@dataclass(frozen=True, slots=True)
class LoopSpan:
    """The steps from ``first`` to ``last`` are a loop; ``buffers`` are in use in all of them."""

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

    ``loops``: which steps are run again and again. ``notes``: facts for the runtime. Of a program
    in C ``"functions"`` has for each step the number by which its source calls it.

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
        return sum(step.kind != "loop" for step in self.steps)

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
            scratch=_dim(data["scratch"]),
            notes=data["notes"],
            kernels=tuple(_kernel(k) for k in data["kernels"]),
            actions=tuple(_action(a) for a in data["actions"]),
            loops=tuple(
                LoopSpan(s["first"], s["last"], tuple(s["buffers"])) for s in data["loops"]
            ),
        )


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    """Where each temporary buffer lies in the arena, for one binding of the sizes.

    ``offsets`` maps the position of a temporary buffer to its offset in bytes, a multiple of
    64. ``peak_bytes`` is the size of the arena.
    """

    offsets: dict[int, int]
    peak_bytes: int


Places = Mapping[int, tuple[int, int]]  # of windows: a buffer, and a place in it in bytes


def unrolled(actions: Sequence[Action], bindings: Mapping[str, int]) -> Iterator[Action]:
    """The actions in the order in which they are done, those of a loop once for each step.

    They are about whole buffers and places in them: there are no loops and no windows any more.
    """
    return _unrolled(actions, bindings, {})


def _unrolled(
    actions: Sequence[Action], bindings: Mapping[str, int], places: Places
) -> Iterator[Action]:
    for action in actions:
        if not isinstance(action, Loop):
            yield _placed(action, places) if places else action
            continue
        count = evaluate_dim(action.count, bindings)
        strides = [evaluate_dim(w.stride, bindings) for w in action.windows]
        if count == 0:
            for c in action.carried:
                yield _placed(Copy(c.start, c.last, c.bytes), places)
        for step in range(count):
            element = count - 1 - step if action.reverse else step
            inside = dict(places)
            for window, stride in zip(action.windows, strides, strict=True):
                base, offset = places.get(window.base, (window.base, 0))
                inside[window.buffer] = base, offset + element * stride
            for c in action.carried:
                turns = (c.last, c.other)
                old = c.start if step == 0 else turns[(count - step) % 2]
                new = turns[(count - 1 - step) % 2]
                inside[c.old] = places.get(old, (old, 0))
                inside[c.new] = places.get(new, (new, 0))
            yield from _unrolled(action.actions, bindings, inside)


def _placed(action: Action, places: Places) -> Action:
    """An action with places in whole buffers in place of windows."""

    def place(buffer: int) -> tuple[int, int]:
        return places.get(buffer, (buffer, 0))

    match action:
        case Launch():
            arguments = []
            for a in action.arguments:
                buffer, offset = place(a.buffer)
                arguments.append(
                    replace(a, buffer=buffer, value=a.value + offset)
                    if offset
                    else replace(a, buffer=buffer)
                )
            return replace(action, arguments=tuple(arguments))
        case Copy():
            source, behind = place(action.source)
            target, offset = place(action.target)
            return Copy(
                source,
                target,
                action.bytes,
                action.source_offset + behind,
                action.target_offset + offset,
            )
        case HostCall():
            return replace(
                action,
                operands=tuple(_placed_operand(o, *place(o.buffer)) for o in action.operands),
                results=tuple(_placed_operand(o, *place(o.buffer)) for o in action.results),
            )
        case Fill() if action.buffer not in places:
            return action
    raise ValueError(f"{action} cannot stand in a loop")


def _placed_operand(operand: HostOperand, buffer: int, offset: int) -> HostOperand:
    return replace(operand, buffer=buffer, offset=operand.offset + offset)


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
    data["rounded"] = tuple(data.get("rounded", ()))
    return KernelSource(**data)


def _action(data: dict[str, Any]) -> Action:
    """The action with these fields; each kind of action has a field that no other has."""
    if "windows" in data:
        return Loop(
            count=_dim(data["count"]),
            reverse=data["reverse"],
            windows=tuple(
                Window(w["buffer"], w["base"], _dim(w["stride"])) for w in data["windows"]
            ),
            carried=tuple(Carried(**{**c, "bytes": _dim(c["bytes"])}) for c in data["carried"]),
            actions=tuple(_action(a) for a in data["actions"]),
        )
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
            step=data["step"],
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
    return Copy(**{**data, "bytes": _dim(data["bytes"])})


def _host_operand(data: dict[str, Any]) -> HostOperand:
    shape = tuple(_dim(d) for d in data["shape"])
    return HostOperand(data["buffer"], shape, dtype_named(data["dtype"]), data["offset"])


def _dim(data: int | str) -> Dim:
    return data if isinstance(data, int) else parse_dim(data)


def _type(data: dict[str, Any]) -> TensorType:
    kind, index = data["device"]
    device = CPU if kind == "cpu" else Device(kind, index)
    return TensorType(tuple(_dim(d) for d in data["shape"]), dtype_named(data["dtype"]), device)
