"""Run plans for GPUs in Triton's interpreter: kernels as NumPy programs, on any machine.

In: a plan with Triton kernels, input arrays, sizes. Out: outputs and updated inputs. Triton must
be imported with TRITON_INTERPRET=1, so tests do this in a process of their own
(``python triton_interpreter.py case ...``, see ``triton_cases.py``). The interpreter expects
tensors of PyTorch; ``PointerArgument`` shows it as much of one as it looks at. It has no
libdevice: ``_Libdevice`` stands in for it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import interpreter_shortcuts  # noqa: F401 - the interpreter takes less time
import ml_dtypes
import numpy as np
import scipy.special
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle
from triton.tools.tensor_descriptor import TensorDescriptor

from flamec.host_evaluation import evaluate_host_call
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import (
    Action,
    Argument,
    Branch,
    Copy,
    ExecutionPlan,
    Fill,
    HostCall,
    KernelSource,
    Launch,
    MemoryLayout,
    Places,
    Undecided,
    unrolled,
)
from flamec.ir.shape import evaluate_dim, evaluate_shape
from flamec.ir.types import dtype_named
from flamec.runtime.control_steps import BranchStep, LoopStep
from flamec.runtime.cuda.error_words import split_word
from flamec.runtime.cuda.step_order import step_order
from flamec.runtime.host_calls import host_array
from flamec.runtime.program_errors import program_error

PROCESSORS = 2  # of the device that persistent kernels see

_POINTED = {
    "*fp32": "float32",
    "*fp64": "float64",
    "*fp16": "float16",
    "*bf16": "bfloat16",
    "*i8": "int8",
    "*i16": "int16",
    "*i32": "int32",
    "*i64": "int64",
    "*u8": "uint8",
}


class _ElementType(str):
    """The name of a dtype, with the size that descriptors ask for."""

    @property
    def itemsize(self) -> int:
        return dtype_named(self).itemsize


class PointerArgument:
    """An address in host memory that looks like a tensor to the interpreter."""

    def __init__(self, address: int, kind: str) -> None:
        self.address, self.dtype = address, _ElementType(_POINTED[kind])

    def data_ptr(self) -> int:
        return self.address

    def untyped_storage(self) -> PointerArgument:
        return self

    def cpu(self) -> PointerArgument:
        return self

    def copy_(self, other: PointerArgument) -> None:
        assert other.address == self.address

    def new_empty(self, size: int, device: str) -> PointerArgument:
        return PointerArgument(0, next(k for k, v in _POINTED.items() if v == self.dtype))

    def set_(self, storage: PointerArgument, offset: int, size: Any, stride: Any) -> None:
        self.address = storage.address

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return (1,)

    def stride(self) -> tuple[int, ...]:
        return (1,)


class _Libdevice:
    """The functions of libdevice that kernels call, by NumPy and SciPy in float64."""

    _SPECIAL: Mapping[str, Callable[..., Any]] = {
        "rint": np.rint,
        "asin": np.arcsin,
        "acos": np.arccos,
        "atan": np.arctan,
        "asinh": np.arcsinh,
        "acosh": np.arccosh,
        "atanh": np.arctanh,
        "atan2": np.arctan2,
        "pow": np.power,
        "rsqrt": lambda x: 1 / np.sqrt(x),
        "erf": scipy.special.erf,
        "erfc": scipy.special.erfc,
        "erfinv": scipy.special.erfinv,
        "lgamma": lambda x: np.where(np.isneginf(x), np.inf, scipy.special.gammaln(x)),
    }
    _EXACT = ("nextafter", "copysign", "fmod", "signbit")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = self._SPECIAL.get(name) or getattr(np, name)

        def call(*arguments: Any) -> Any:
            arrays = [a.handle.data for a in arguments]
            dtype = arrays[0].dtype
            if name not in self._EXACT:
                arrays = [a.astype(np.float64) for a in arrays]
            with np.errstate(all="ignore"):
                result = np.asarray(function(*arrays))
            if name == "signbit":
                result, kind = result.astype(np.int32), tl.int32
            else:
                result, kind = result.astype(dtype), arguments[0].dtype
            handle = TensorHandle(result, kind)
            return tl.core.tensor(handle, tl.block_type(kind, list(result.shape)))

        return call


def _to_tf32(x: np.ndarray) -> np.ndarray:
    """Floats of 32 bits with 10 bits behind the point, the nearest, halves away from zero."""
    bits = x.view(np.uint32)
    nearest = (bits + np.uint32(1 << 12)) & ~np.uint32((1 << 13) - 1)
    return np.where(np.isnan(x), bits, nearest).view(np.float32)


_INSTRUCTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "ex2.approx.ftz.f32": np.exp2,
    "rcp.approx.ftz.f32": np.reciprocal,
    "cvt.rna.tf32.f32": _to_tf32,
    "cvt.rn.bf16x2.f32": lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32),
    "and.b32 $1, $2": lambda x: x.view(ml_dtypes.bfloat16).astype(np.float32),
}


_SHARED = np.zeros(48 << 10, np.uint8)  # of the block that runs


def _inline_assembly(
    text: str, constraints: str, operands: Sequence[Any], dtype: Any, *rest: Any
) -> Any:
    """The few instructions that the library's functions name themselves."""
    if "shared" in text:
        return _in_shared_memory(text, [np.asarray(o.handle.data) for o in operands], dtype)
    (function,) = (f for name, f in _INSTRUCTIONS.items() if name in text)
    (operand,) = operands
    with np.errstate(all="ignore"):
        result = np.asarray(function(operand.handle.data))
    kind = tl.block_type(tl.float32, list(result.shape))
    return tl.core.tensor(TensorHandle(result, tl.float32), kind)


def _in_shared_memory(text: str, operands: list[np.ndarray], dtype: Any) -> Any:
    """Take some, which begins at address 0, and put, count or get elements by their addresses."""
    taken = re.search(r"exchange\[(\d+)\]", text)
    if taken:
        assert int(taken[1]) <= _SHARED.size
        _SHARED[:] = 0xFF
        return tl.core.tensor(TensorHandle(np.zeros(1, np.int32), tl.int32), tl.int32)
    bits = re.search(r"shared\S*\.[bus](16|32|64) ", text)
    assert bits
    if "setp" in text:
        return _combine(text, operands)
    room = _SHARED.view(f"int{bits[1]}")
    place, odd = np.divmod(operands[0], room.itemsize)
    assert not odd.any()
    if text.startswith("ld."):
        found = room[place]
        kind = tl.block_type(dtype, list(found.shape))
        return tl.core.tensor(TensorHandle(found, dtype), kind)
    if text.startswith("red."):
        np.add.at(room, place, 1)
    else:
        room[place] = np.broadcast_to(operands[1], place.shape)
    return None


def _combine(text: str, operands: list[np.ndarray]) -> None:
    """Add to numbers in shared memory, or let them grow, where the last operand says so."""
    at, *apart, value, wanted = np.broadcast_arrays(*operands)
    words = [np.broadcast_to(a // 4, wanted.shape)[wanted != 0] for a in (at, *apart)]
    value, room = value[wanted != 0], _SHARED.view(np.int32)
    if "max" in text:
        np.maximum.at(room, words[0], value)
    elif not apart:
        np.add.at(room, words[0], value)
    else:
        for low, high, term in zip(*words, value, strict=True):
            whole = (int(room[high]) << 32) + (int(room[low]) & 0xFFFFFFFF) + int(term)
            room[low], room[high] = np.array([whole], np.int64).view(np.int32)


tl.inline_asm_elementwise = _inline_assembly

_patch_tensor = interpreter._patch_lang_tensor


def _patch_with_index(tensor: Any, scope: Any) -> None:
    """Bounds of loops are arrays with one element, which NumPy 2.4 no longer makes a number."""
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


_create_dot = interpreter.InterpreterBuilder.create_dot


def _dot(self: Any, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
    """The interpreter keeps bfloat16 as integers and would multiply those."""
    widened = [
        TensorHandle(x.data.view(ml_dtypes.bfloat16).astype(np.float32), tl.float32)
        if x.dtype.scalar == tl.bfloat16
        else x
        for x in (a, b)
    ]
    result: TensorHandle = _create_dot(self, *widened, *rest)
    return result


_cast = interpreter.InterpreterBuilder.cast_impl


def _cast_rounded(self: Any, source: TensorHandle, to: Any) -> TensorHandle:
    """The interpreter would cut bits off where float32 becomes bfloat16; GPUs round."""
    if (source.dtype.scalar, to.scalar) == (tl.float32, tl.bfloat16):
        bits = source.data.astype(ml_dtypes.bfloat16).view(np.uint16)
        return TensorHandle(bits, tl.bfloat16)
    result: TensorHandle = _cast(self, source, to)
    return result


interpreter.InterpreterBuilder.cast_impl = _cast_rounded
interpreter.InterpreterBuilder.create_dot = _dot
interpreter._patch_lang_tensor = _patch_with_index
_modules: dict[str, ModuleType] = {}
_folder = tempfile.TemporaryDirectory(prefix="flamec-interpreter-")


def _module(source: KernelSource) -> ModuleType:
    key = hashlib.sha256(source.text.encode()).hexdigest()[:16]
    if key not in _modules:
        path = Path(_folder.name) / f"kernel_{key}.py"
        path.write_text(source.text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        _modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(_modules[key])
        if hasattr(_modules[key], "libdevice"):
            _modules[key].libdevice = _Libdevice()  # type: ignore[attr-defined]
    return _modules[key]


def run_plan(
    plan: ExecutionPlan, inputs: Sequence[np.ndarray], bindings: Mapping[str, int]
) -> tuple[list[np.ndarray], dict[int, np.ndarray]]:
    """Outputs, and the inputs that the plan updates, with temporaries at their planned places."""
    assert triton.knobs.runtime.interpret, "set TRITON_INTERPRET=1"
    layout = plan_memory(plan, bindings)
    arena = np.full(layout.peak_bytes + 64, 0x7B, np.uint8)
    memory: dict[int, np.ndarray] = {}
    for position, array in zip(plan.inputs, inputs, strict=True):
        memory[position] = np.array(array, copy=True, order="C")
    results = []
    for output in plan.outputs:
        shape = evaluate_shape(output.type.shape, bindings)
        memory[output.buffer] = np.zeros(shape, output.type.dtype.numpy)
        results.append(memory[output.buffer])
    for number, offset in layout.offsets.items():
        memory[number] = arena[offset:]
    for number, (lender, offset) in layout.guests.items():
        memory[number] = memory[lender].reshape(-1).view(np.uint8)[offset:]
    words = [n for n, buffer in enumerate(plan.buffers) if buffer.kind == "errors"]
    memory |= {number: np.zeros(1, np.int64) for number in words}
    counters = [n for n, buffer in enumerate(plan.buffers) if buffer.kind == "counters"]
    for number in counters:
        words_needed = evaluate_dim(plan.buffers[number].elements, bindings)
        memory[number] = np.zeros(max(1, words_needed), np.int32)

    windows: dict[int, int] = {}  # of loops that are running

    def address(buffer: int) -> int:
        if buffer in windows:
            return windows[buffer]
        place: int = memory[buffer].__array_interface__["data"][0]
        return place

    def run(action: Action) -> None:
        if isinstance(action, Launch):
            _launch(plan, action, bindings, address)
            return
        if isinstance(action, HostCall):
            arrays = [
                host_array(
                    address(o.buffer) + o.offset, evaluate_shape(o.shape, bindings), o.dtype.numpy
                )
                for o in (*action.operands, *action.results)
            ]
            given = len(action.operands)
            made = evaluate_host_call(action, arrays[:given])
            for target, source in zip(arrays[given:], made, strict=True):
                np.copyto(target, source)
            return
        count = evaluate_dim(action.bytes, bindings)
        if isinstance(action, Fill):
            ctypes.memset(address(action.buffer), action.byte, count)
        elif isinstance(action, Copy):
            source = address(action.source) + action.source_offset
            ctypes.memmove(address(action.target) + action.target_offset, source, count)

    def steps_of(actions: Sequence[Action], places: Places) -> list[Callable[[Any], None]]:
        return [
            partial(choose, action) if isinstance(action, Undecided) else lambda _, a=action: run(a)
            for action in unrolled(actions, bindings, places)
        ]

    def choose(choice: Undecided, stream: Any) -> None:
        """A loop or branch that the values decide, by what runs it on a GPU."""
        action, places = choice.action, choice.places
        step: BranchStep | LoopStep
        if isinstance(action, Branch):
            lists = (steps_of(a, places) for a in (action.first, action.second))
            step = BranchStep(action, *lists, _HostControlMemory())
        else:
            test, body = (steps_of(a, places) for a in (action.test, action.actions))
            moving = [w.buffer for w in action.windows]
            moving += [b for c in action.carried for b in (c.old, c.new)]
            moves = {b: [partial(windows.__setitem__, b)] for b in moving}
            step = LoopStep(action, bindings, test, body, moves, _HostControlMemory())
        for buffer in step.buffers:
            base, offset = choice.place(buffer)
            step.at[buffer] = address(base) + offset
        step(stream)

    steps = steps_of(plan.actions, {})
    for number in _late_first(plan, layout, bindings):
        steps[number](None)
    assert not any(memory[number].any() for number in counters), "a counter was left as it was"
    for number in words:
        if memory[number][0]:
            raise program_error(plan, *split_word(int(memory[number][0])))
    return results, {p: memory[plan.inputs[p]] for p in plan.updated}


def _late_first(
    plan: ExecutionPlan, layout: MemoryLayout, bindings: Mapping[str, int]
) -> Iterable[int]:
    """The actions in an order as far from the plan's as a captured graph may run them in."""
    uses: dict[int, list[int]] = {}
    numbers = []
    for position, action in enumerate(plan.actions):
        if not isinstance(action, Launch):
            return range(len(list(unrolled(plan.actions, bindings, {}))))
        numbers.append(action.step)
        for argument in action.arguments:
            uses.setdefault(argument.buffer, []).append(position)
    uses.pop(-1, None)  # numbers
    order = step_order(plan, layout, bindings, numbers, uses, shortest=True)
    if not order:
        return range(len(numbers))
    waiting, found = set(range(len(numbers))), []
    while waiting:
        found.append(max(n for n in waiting if waiting.isdisjoint(order[n])))
        waiting.remove(found[-1])
    return found


class _HostControlMemory:
    """See ``ControlMemory``: the memory of this process."""

    def read_integer(self, address: int, nbytes: int, stream: Any) -> int:
        return int.from_bytes(ctypes.string_at(address, nbytes), "little", signed=nbytes > 1)

    def write_integer(self, address: int, value: int, stream: Any) -> None:
        ctypes.c_int64.from_address(address).value = value

    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        ctypes.memmove(to, source, nbytes)

    def zero(self, to: int, nbytes: int, stream: Any) -> None:
        ctypes.memset(to, 0, nbytes)


def _descriptor(
    argument: Argument, kind: str, bindings: Mapping[str, int], address: int
) -> TensorDescriptor:
    """A tensor descriptor; the interpreter refuses what the copy engine could not read."""
    found = re.fullmatch(r"tensordesc<(\w+)\[([\d,]+)\]>", kind)
    assert found is not None and not isinstance(argument.value, float)
    base = PointerArgument(address + evaluate_dim(argument.value, bindings), f"*{found[1]}")
    shape = [max(1, size) for size in evaluate_shape(argument.shape, bindings)]
    strides = list(evaluate_shape(argument.strides, bindings))
    return TensorDescriptor(base, shape, strides, [int(n) for n in found[2].split(",")])


def _launch(
    plan: ExecutionPlan, action: Launch, bindings: Mapping[str, int], address: Callable[[int], int]
) -> None:
    source = plan.kernels[action.kernel]
    grid = evaluate_shape(action.grid, bindings)
    if min(grid) <= 0:
        return
    if action.per_processor:
        grid = (min(grid[0], action.per_processor * PROCESSORS), *grid[1:])
    arguments: dict[str, Any] = dict(source.constants)
    given = [(name, kind) for name, kind in source.parameters if kind != "constexpr"]
    for (name, kind), argument in zip(given, action.arguments, strict=True):
        if argument.shape:
            arguments[name] = _descriptor(argument, kind, bindings, address(argument.buffer))
        elif argument.buffer >= 0:
            assert not isinstance(argument.value, float)
            place = address(argument.buffer) + evaluate_dim(argument.value, bindings)
            arguments[name] = PointerArgument(place, kind)
        elif isinstance(argument.value, float):
            arguments[name] = argument.value
        else:
            arguments[name] = evaluate_dim(argument.value, bindings)
    with np.errstate(all="ignore"):
        kernel_of(source)[grid](**arguments)


def kernel_of(source: KernelSource) -> Any:
    """The kernel as a function of the interpreter."""
    return getattr(_module(source), source.function)
