"""What a row of the op table says about one primitive, and how its samples are drawn.

In: a dtype and a random generator. Out: arrays and attributes that the op
accepts, and what the result must be according to an oracle that shares no
code with the op. Every oracle computes with float64 or with Python integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flamec.ir.types import ALL_DTYPES, CPU, DType, TensorType, dtype_of_numpy, float64

FLOATS = tuple(d for d in ALL_DTYPES if d.kind == "float")
INTEGERS = tuple(d for d in ALL_DTYPES if d.kind in ("int", "uint"))
NUMBERS = FLOATS + INTEGERS
BOOL = tuple(d for d in ALL_DTYPES if d.kind == "bool")
EVERY = NUMBERS + BOOL

Attributes = dict[str, Any]
Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Sample:
    """Operands and attributes of one application. ``finite``: free of NaN, infinities and ties."""

    arrays: tuple[np.ndarray, ...]
    attributes: Attributes = field(default_factory=dict)
    finite: bool = True

    @property
    def types(self) -> tuple[TensorType, ...]:
        return tuple(TensorType(a.shape, dtype_of_numpy(a.dtype)) for a in self.arrays)

    def __str__(self) -> str:
        shapes = ", ".join(f"{a.dtype}{list(a.shape)}" for a in self.arrays)
        return f"({shapes}) {self.attributes or ''}"


@dataclass(frozen=True, eq=False)
class ErrorInput:
    """Types that the op's rule must reject, and a part of the message."""

    types: tuple[TensorType, ...]
    attributes: Attributes
    exception: type[Exception]
    fragment: str


def bad(exception: type[Exception], fragment: str, *types: Any, **attributes: Any) -> ErrorInput:
    return ErrorInput(types, attributes, exception, fragment)


@dataclass(frozen=True, eq=False)
class Row:
    """One primitive.

    - ``dtypes``: what the data operands may be; every other dtype must be a TypeError.
    - ``make(draw)``: the samples; ``draw`` is a ``Draw`` bound to dtype and generator.
    - ``oracle(sample, *arrays)``: the result or results; floats arrive as float64 and the
      result is rounded by the caller, integers as Python integers (dtype object) and wrap.
    - ``ulps``: allowed error in units of the result dtype's epsilon, relative to the value,
      plus the same times ``scale`` absolutely (the size of the terms that cancel).
    - ``gradient``: the operands with a gradient that finite differences can check;
      ``orders``: up to which order.
    - ``symbolic(B)``: operand shapes with the symbol ``B`` and attributes that fit, or None.
    - ``admit``: makes the first operand drawn for it one that the op takes.
    - ``direction``: makes directions drawn for the first operand some in which it may move.
    - ``errors``: what must be rejected.
    """

    name: str
    dtypes: tuple[DType, ...]
    make: Callable[[Draw], list[Sample]]
    oracle: Callable[..., Any]
    ulps: float = 0.0
    scale: float = 0.0
    gradient: tuple[int, ...] = ()
    orders: int = 2
    symbolic: Callable[[Any, DType], tuple[tuple[TensorType, ...], Attributes]] | None = None
    admit: Callable[[np.ndarray], np.ndarray] | None = None
    direction: Callable[[np.ndarray], np.ndarray] | None = None
    errors: tuple[ErrorInput, ...] = ()

    def samples(self, dtype: DType, rng: np.random.Generator) -> list[Sample]:
        """Samples, each also with operands that are not contiguous."""
        samples = self.make(Draw(dtype, rng))
        return samples + [strided(s) for s in samples if any(a.ndim for a in s.arrays)]

    def gradient_samples(self, rng: np.random.Generator) -> list[Sample]:
        return [s for s in self.make(Draw(float64, rng)) if s.finite]

    def expected(self, sample: Sample, types: Sequence[TensorType]) -> tuple[np.ndarray, ...]:
        """The oracle's results in the dtypes of ``types``."""
        with np.errstate(all="ignore"):
            results = self.oracle(sample, *map(widened, sample.arrays))
            results = results if isinstance(results, tuple) else (results,)
            return tuple(narrowed(r, t) for r, t in zip(results, types, strict=True))

    def tolerance(self, dtype: DType) -> tuple[float, float]:
        """``(rtol, atol)`` for results of the dtype; zeros for what must be exact."""
        if dtype.kind != "float":
            return 0.0, 0.0
        epsilon = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10}.get(
            dtype.name, 2.0**-7
        )
        smallest = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24}.get(
            dtype.name, 2.0**-133
        )
        if not self.ulps:
            return 0.0, 0.0
        # a 16-bit result is a rounded float32 result: two units cover both roundings
        ulps = min(self.ulps, 2.0) if dtype.is_half else self.ulps
        return ulps * epsilon, ulps * (self.scale * epsilon + smallest)


def widened(array: np.ndarray) -> np.ndarray:
    """float64 for floats, Python integers for integers, bool unchanged."""
    if array.dtype == np.bool_:
        return array
    return np.asarray(array.astype(object if array.dtype.kind in "iu" else np.float64))


def narrowed(result: Any, type: TensorType) -> np.ndarray:
    """Rounded to a float dtype, or wrapped around into an integer one."""
    array = np.asarray(result)
    if type.dtype.kind in ("int", "uint"):
        bits = 8 * type.dtype.itemsize
        wrapped = [int(v) % (1 << bits) for v in array.reshape(-1)]
        unsigned = np.array(wrapped, dtype=f"u{type.dtype.itemsize}")
        return unsigned.view(type.dtype.numpy).reshape(array.shape)
    return array.astype(type.dtype.numpy)


def strided(sample: Sample) -> Sample:
    """The same values in memory with gaps, the first dimension running backwards."""

    def spread(array: np.ndarray) -> np.ndarray:
        if array.ndim == 0:
            return array
        base = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[::-1]
        base[..., ::2] = array
        return base[..., ::2]

    return replace(sample, arrays=tuple(map(spread, sample.arrays)))


class Draw:
    """Draws operands of one dtype."""

    def __init__(self, dtype: DType, rng: np.random.Generator) -> None:
        self.dtype = dtype
        self.rng = rng

    def __call__(self, *shape: int, domain: Interval = (-3.0, 3.0)) -> np.ndarray:
        """Uniform over ``domain`` for floats, over a few more integers, fair coins for bool."""
        low, high = domain
        dtype = self.dtype.numpy
        if self.dtype.kind == "bool":
            return np.asarray(self.rng.random(shape) < 0.5)
        if self.dtype.kind == "float":
            return np.asarray(self.rng.uniform(low, high, shape)).astype(dtype)
        floor = max(int(np.iinfo(dtype).min), int(np.ceil(4 * low)))
        return np.asarray(self.rng.integers(floor, int(4 * high) + 1, shape)).astype(dtype)

    def array(self, values: Sequence[Any]) -> np.ndarray:
        return np.array(values, dtype=np.float64).astype(self.dtype.numpy)

    def positions(self, size: int, *shape: int) -> np.ndarray:
        """Valid indices of a dimension, half of them counted from the end."""
        return np.asarray(self.rng.integers(-size, size, shape), dtype=np.int64)

    def specials(self) -> np.ndarray:
        """Values at which implementations go wrong."""
        if self.dtype.kind == "bool":
            return np.array([False, True])
        if self.dtype.kind == "float":
            info = np.finfo(np.float32 if self.dtype.is_half else self.dtype.numpy)
            extremes = [] if self.dtype.is_half else [float(info.max), float(info.tiny)]
            plain = [0.0, -0.0, 0.5, 1.0, -1.0, 2.0, 3.0, -2.5, np.inf, -np.inf, np.nan]
            return self.array([*plain, *extremes])
        info = np.iinfo(self.dtype.numpy)
        values = [v for v in (0, 1, 2, 3, 7, -1, -2, -7) if v >= info.min]
        return np.array([*values, info.min, info.max], dtype=self.dtype.numpy)


def tensor(*shape: Any, dtype: DType = float64) -> TensorType:
    return TensorType(shape, dtype, CPU)
