"""Generators: the state of random numbers, and the uniform and normal numbers drawn from it.

A generator's state is an ordinary int64 tensor (seed, offset) that each draw reads
and then advances by primitives. So a compiled program reads and writes it like
any captured tensor, and gives the same numbers as eager code. Bits come from
the counter-based Philox (``ir/ops/random.py``): one offset stands for four words.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from flamec.conversion import constant_array, on_device
from flamec.device_array import DeviceArray
from flamec.dispatch import write
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import as_device
from flamec.functional.primitives import ops
from flamec.functional.promotion import constant
from flamec.fusing import fused
from flamec.ir.shape import Dim, product
from flamec.ir.types import (
    CPU,
    Device,
    DType,
    TensorType,
    bfloat16,
    float16,
    float32,
    float64,
    int64,
    uint8,
)
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import concrete_array

Shape = Sequence[Dim]

_DEFAULT_SEED = 67280421310721


class Generator:
    """A stream of random numbers. ``state``: the tensor (seed, offset)."""

    def __init__(self, device: Any = "cpu") -> None:
        self.device: Device = as_device("Generator", device)
        self.state = _state_tensor(_state_array(_DEFAULT_SEED), self.device)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of ``seed``, an int of 64 bits with or without sign, anew."""
        words = _state_array(_checked_seed(seed))
        if thread.trace is None:
            write(self.state, constant_array(words, self.device), "manual_seed")
        else:
            place = ops.iota(shape=(2,), axis=0, dtype=int64, device=self.device)
            write(self.state, ops.mul(ops.sub(1, place), int(words[0])), "manual_seed")
        return self

    def seed(self) -> int:
        """Start from a seed that the operating system chose at random; returns it."""
        seed = int.from_bytes(os.urandom(8), "little") >> 1
        self.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """The seed in use."""
        return int(_concrete_state(self, "initial_seed()")[0]) & 0xFFFFFFFFFFFFFFFF

    def get_state(self) -> Tensor:
        """A copy of the state on the CPU, 16 bytes (uint8): seed and offset, lowest byte first."""
        words = ops.reshape(on_device(ops.convert(self.state, dtype=int64), CPU), shape=(2, 1))
        moved = ops.shift_right(words, _byte_places(CPU))
        return ops.reshape(ops.convert(ops.bitwise_and(moved, 255), dtype=uint8), shape=(16,))

    def set_state(self, new_state: Tensor) -> Generator:
        """Continue from a state that ``get_state`` gave."""
        if (
            not isinstance(new_state, Tensor)
            or new_state._type.dtype is not uint8
            or new_state._type.shape != (16,)
        ):
            raise OperationTypeError(
                "set_state(): the state must be a uint8 tensor of shape [16], as get_state() "
                f"gives (at {user_location()})"
            )
        # each byte has bits of its own, so the sum, which may wrap to a negative number, is exact
        octets = ops.convert(ops.reshape(new_state, shape=(2, 8)), dtype=int64)
        moved = ops.shift_left(octets, _byte_places(new_state.device))
        write(self.state, on_device(ops.sum(moved, axes=(1,)), self.device), "set_state")
        return self

    def clone_state(self) -> Generator:
        """Another generator that continues with the same numbers."""
        return Generator(self.device).set_state(self.get_state())

    def __getstate__(self) -> dict[str, Any]:
        return {"device": self.device, "state": _concrete_state(self, "pickling").tolist()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.device = state["device"]
        self.state = _state_tensor(np.array(state["state"], dtype=np.int64), self.device)

    def __repr__(self) -> str:
        return f"<flamec.Generator on {self.device}>"


def _state_tensor(words: np.ndarray, device: Device) -> Tensor:
    """The tensor of a generator; see ``tensor.is_generator_state``."""
    tensor = constant_array(words, device)
    tensor.__dict__["_generator"] = True
    return tensor


def _byte_places(device: Device) -> Tensor:
    """Where the bytes of a number of 64 bits begin."""
    return ops.mul(ops.iota(shape=(8,), axis=0, dtype=int64, device=device), 8)


def _state_array(seed: int) -> np.ndarray:
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed
    return np.array([signed, 0], dtype=np.int64)


def _checked_seed(seed: Any) -> int:
    seed = int(seed)
    if not -(1 << 63) <= seed < 1 << 64:
        raise OperationError(
            f"manual_seed(): {seed} does not fit into 64 bits (at {user_location()})"
        )
    return seed


def _concrete_state(generator: Generator, what: str) -> np.ndarray:
    return concrete_array(generator.state, what)


def _default(generator: Generator) -> Generator:
    """The default generator of its device, from which programs may draw unasked."""
    generator.state.__dict__["_generator"] = "default"
    return generator


default_generator = _default(Generator())
_gpu_generators: dict[Device, Generator] = {}


def generator_of(device: Device) -> Generator:
    """The default generator of a device; a GPU's starts with the seed set last for all."""
    if device.type == "cpu":
        return default_generator
    known = _gpu_generators.get(device)
    if known is None:
        trace, thread.trace = thread.trace, None  # its state is not part of the program
        try:
            known = _gpu_generators[device] = _default(Generator(device))
            known.manual_seed(_seed_of_all)
        finally:
            thread.trace = trace
    return known


_seed_of_all = _DEFAULT_SEED


# the default generator ---------------------------------------------------------------


def manual_seed(seed: int) -> Generator:
    """Seed the default generators of all devices; returns the CPU's."""
    global _seed_of_all
    _seed_of_all = _checked_seed(seed)
    for generator in _gpu_generators.values():
        generator.manual_seed(seed)
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default generators of all devices at random; returns the seed."""
    chosen = default_generator.seed()
    manual_seed(chosen)
    return chosen


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """A copy of the default generator's state."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Continue from a state that ``get_rng_state`` gave."""
    default_generator.set_state(new_state)


@contextmanager
def fork_rng(devices: Iterable[Any] | None = None, enabled: bool = True) -> Iterator[None]:
    """What the block draws from the default generators leaves their states as they were.

    ``devices``: the GPUs whose generators are kept beside the CPU's; None: those in use.
    """
    if not enabled:
        yield
        return
    if devices is None:
        kept = list(_gpu_generators.values())
    else:
        kept = [generator_of(as_device("fork_rng", device)) for device in devices]
    generators = list(dict.fromkeys((default_generator, *kept)))
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def default_states(devices: Iterable[Device] = ()) -> dict[Generator, Tensor]:
    """Copies of the states of the default generators in use, and of those of ``devices``."""
    for device in devices:
        generator_of(device)
    generators = (default_generator, *_gpu_generators.values())
    return {generator: generator.get_state() for generator in generators}


@contextmanager
def states_kept(states: Mapping[Generator, Tensor] | None) -> Iterator[None]:
    """Draw from ``states`` in the block, and go on afterwards as if nothing had been drawn.

    None: nothing is done.
    """
    with fork_rng(enabled=states is not None):
        for generator, state in (states or {}).items():
            generator.set_state(state)
        yield


# drawing -----------------------------------------------------------------------------


def random_words(shape: Shape, generator: Generator | None = None, device: Device = CPU) -> Tensor:
    """Random 32-bit words as int32; advances the generator by one for each four words."""
    return _words(tuple(shape), _state_of(generator, device))


def _state_of(generator: Generator | None, device: Device) -> Tensor:
    """The state of a generator, which must be one of this device."""
    source = generator_of(device) if generator is None else generator
    if not isinstance(source, Generator):
        raise OperationTypeError(
            f"generator must be a flamec.Generator, not {type(source).__name__} "
            f"(at {user_location()})"
        )
    if source.device != device:
        raise OperationError(
            f"expected a generator on {device}, but it is on {source.device} (at {user_location()})"
        )
    return source.state


def _words(shape: tuple[Dim, ...], state: Tensor) -> Tensor:
    words: Tensor = ops.random_bits(state, shape=shape)
    step = ops.iota(shape=(2,), axis=0, dtype=int64, device=state._type.device)
    used = ops.mul(step, (product(shape) + 3) // 4)
    write(state, ops.add(state, used), "random_bits")
    return words


_MANTISSA_BITS = {float32: 24, float16: 11, bfloat16: 8}


def uniform_numbers(
    shape: Shape,
    dtype: DType = float32,
    device: Device = CPU,
    generator: Generator | None = None,
) -> Tensor:
    """Numbers in [0, 1): multiples of 2^-24 (float32), 2^-53 (float64), 2^-11, 2^-8 (16 bits)."""
    shape = tuple(shape)
    if _are_many(shape, device, generator):
        return uniform_like(_memory(shape, dtype))
    return _draw(_state_of(generator, device), shape, dtype, False)


def _uniform_numbers(shape: tuple[Dim, ...], dtype: DType, state: Tensor) -> Tensor:
    if dtype is float64:
        words = _words((2, *shape), state)
        return _in_unit(dtype, _part(words, 0), _part(words, 1))
    return _in_unit(dtype, _words(shape, state))


def _in_unit(dtype: DType, words: Tensor, lower: Tensor | None = None) -> Tensor:
    """Numbers in [0, 1) of words, of two each for float64."""
    if lower is not None:
        high = ops.cast(_top_bits(words, 27), float64)
        low = ops.cast(_top_bits(lower, 26), float64)
        return ops.mul(ops.add(ops.mul(high, 2.0**26), low), 2.0**-53)
    bits = _MANTISSA_BITS[dtype]
    return ops.cast(ops.mul(ops.cast(_top_bits(words, bits), float32), 2.0**-bits), dtype)


def _top_bits(words: Tensor, count: int) -> Tensor:
    """The highest ``count`` bits of each word, as a nonnegative number."""
    return ops.bitwise_and(ops.shift_right(words, 32 - count), (1 << count) - 1)


def _part(words: Tensor, position: int) -> Tensor:
    """``words[position]``."""
    whole = words._type.shape
    rank = len(whole)
    row = ops.slice(
        words, starts=(position, *(0,) * (rank - 1)), sizes=(1, *whole[1:]), steps=(1,) * rank
    )
    return ops.reshape(row, shape=whole[1:])


def normal_numbers(
    shape: Shape,
    dtype: DType = float32,
    device: Device = CPU,
    generator: Generator | None = None,
) -> Tensor:
    """Numbers of the standard normal distribution.

    Box and Muller, "A note on the generation of random normal deviates", Annals of
    Mathematical Statistics 29(2), 1958.
    """
    shape = tuple(shape)
    if _are_many(shape, device, generator):
        return normal_like(_memory(shape, dtype))
    return _draw(_state_of(generator, device), shape, dtype, True)


def _normal_numbers(shape: tuple[Dim, ...], dtype: DType, state: Tensor) -> Tensor:
    compute = dtype.compute
    if state._type.device.type == "cpu":
        pairs = _uniform_numbers((2, *shape), compute, state)
        first, second = _part(pairs, 0), _part(pairs, 1)
    else:  # parts of words, which so need no memory
        wide = compute is float64
        words = _words((4 if wide else 2, *shape), state)
        rows = [_part(words, i) for i in range(4 if wide else 2)]
        first, second = _in_unit(compute, *rows[::2]), _in_unit(compute, *rows[1::2])
    radius = ops.sqrt(ops.mul(ops.log(ops.sub(1.0, first)), -2.0))
    angle = ops.mul(second, 2.0 * math.pi)
    return ops.cast(ops.mul(radius, ops.cos(angle)), dtype)


def _draw(
    state: Tensor, shape: tuple[Dim, ...], dtype: DType, normal: bool, scale: Tensor | None = None
) -> Tensor:
    """Numbers times ``scale``, of the same dtype and shape (); on a GPU by one program."""
    draw = _drawn_at_once if _is_program(state, shape) else _drawn
    return draw(state, shape, dtype, normal, scale)


def state_for_program(shape: Shape, device: Device, generator: Generator | None) -> Tensor | None:
    """The state that a program which draws is given in eager mode on a GPU, as its first operand or
    behind the tensor that it changes; None where a draw is none."""
    if device.type == "cpu" or thread.trace is not None or 0 in shape:
        return None
    return _state_of(generator, device)


def numbers_of(state: Tensor, shape: Shape, dtype: DType, normal: bool) -> Tensor:
    """Uniform or standard normal numbers of a generator with this state, which goes on."""
    return (_normal_numbers if normal else _uniform_numbers)(tuple(shape), dtype, state)


def _is_program(state: Tensor, shape: tuple[Dim, ...]) -> bool:
    """Whether a draw in eager mode is one program that is given the generator's state."""
    return thread.trace is None and state._array.__class__ is DeviceArray and 0 not in shape


def _drawn(
    state: Tensor, shape: tuple[Dim, ...], dtype: DType, normal: bool, scale: Tensor | None
) -> Tensor:
    numbers = numbers_of(state, shape, dtype, normal)
    return numbers if scale is None else ops.mul(numbers, scale)


_drawn_at_once = fused("shape")(_drawn)

_LEAST_COMPILED = 1 << 18  # numbers: NumPy takes some 20 ms for so many


def _are_many(shape: tuple[Dim, ...], device: Device, generator: Generator | None) -> bool:
    """Whether a draw in eager mode is one program: NumPy would take a dozen passes over memory."""
    if generator is not None or thread.trace is not None or device.type != "cpu":
        return False
    count = product(shape)
    return isinstance(count, int) and count >= _LEAST_COMPILED


def _memory(shape: tuple[Dim, ...], dtype: DType) -> Tensor:
    """What says the type of the numbers to draw; nothing is written there."""
    return Tensor._from_array(np.empty(shape, dtype.numpy), TensorType(shape, dtype))


@fused()
def uniform_like(input: Tensor, scale: Tensor | None = None) -> Tensor:
    """``uniform_numbers`` of the type of ``input``, from the default generator.

    They are multiplied by ``scale``, of the same dtype and shape ().
    """
    type = input._type
    return _draw(_state_of(None, type.device), type.shape, type.dtype, False, scale)


@fused()
def normal_like(input: Tensor, scale: Tensor | None = None) -> Tensor:
    """``normal_numbers`` of the type of ``input``, from the default generator; see above."""
    type = input._type
    return _draw(_state_of(None, type.device), type.shape, type.dtype, True, scale)


def scaled_numbers(
    normal: bool,
    shape: Shape,
    dtype: DType,
    device: Device,
    generator: Generator | None,
    scale: float,
    shift: float,
) -> Tensor:
    """``normal_numbers`` or ``uniform_numbers``, times ``scale`` plus ``shift``."""
    shape = tuple(shape)
    if _are_many(shape, device, generator):
        draw_like = normal_like if normal else uniform_like
        numbers = draw_like(_memory(shape, dtype), constant(scale, dtype))
        if dtype.is_half:
            return ops.add(numbers, shift)
        # not in the program, where product and sum would be rounded at once
        np.add(numbers._array, dtype.numpy.type(shift), out=numbers._array)
        return numbers
    state = _state_of(generator, device)
    if _is_program(state, shape) and not dtype.is_half:
        return ops.add(_draw(state, shape, dtype, normal, constant(scale, dtype, device)), shift)
    return ops.add(ops.mul(_draw(state, shape, dtype, normal), scale), shift)


_WIDEST_PRODUCT = 1 << 31


def integer_numbers(
    low: Dim,
    high: Dim,
    shape: Shape,
    dtype: DType = int64,
    device: Device = CPU,
    generator: Generator | None = None,
) -> Tensor:
    """Integers in [low, high).

    A span of up to 2^31 multiplies a word by it and keeps the upper half (Lemire,
    "Fast random integer generation in an interval", ACM TOMACS 29(1), 2019, without
    its rejection); a wider span takes the remainder of 63 bits.
    """
    span = high - low
    shape = tuple(shape)
    if isinstance(span, int) and span > _WIDEST_PRODUCT:
        words = ops.cast(random_words((2, *shape), generator, device), int64)
        lower = ops.bitwise_and(_part(words, 1), 0xFFFFFFFF)
        wide = ops.bitwise_or(ops.shift_left(_part(words, 0), 32), lower)
        if span < 1 << 63:
            wide = ops.remainder(ops.bitwise_and(wide, (1 << 63) - 1), span)
        return ops.cast(ops.add(wide, low), dtype)
    if _are_many(shape, device, generator):
        ends = constant(span, int64, device), constant(low, int64, device)
        return _integers_like(_memory(shape, dtype), *ends)
    state = _state_of(generator, device)
    if _is_program(state, shape):  # with operands for numbers, so that it serves all of them
        ends = constant(span, int64, device), constant(low, int64, device)
        return _drawn_integers_at_once(state, shape, dtype, *ends)
    return _drawn_integers(state, shape, dtype, span, low)


def _drawn_integers(
    state: Tensor, shape: tuple[Dim, ...], dtype: DType, span: Any, low: Any
) -> Tensor:
    words = ops.bitwise_and(ops.cast(_words(shape, state), int64), 0xFFFFFFFF)
    return ops.cast(ops.add(ops.shift_right(ops.mul(words, span), 32), low), dtype)


_drawn_integers_at_once = fused("shape")(_drawn_integers)


@fused()
def _integers_like(input: Tensor, span: Tensor, low: Tensor) -> Tensor:
    """``integer_numbers`` of the type of ``input``, from the default generator."""
    type = input._type
    return _drawn_integers(_state_of(None, type.device), type.shape, type.dtype, span, low)


__all__ = [
    "Generator",
    "default_generator",
    "fork_rng",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "seed",
    "set_rng_state",
]
