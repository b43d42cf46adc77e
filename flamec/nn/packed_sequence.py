"""Sequences of different lengths in one tensor: packed, padded, and from one to the other.

A packed sequence holds the elements of all sequences, sorted by length from the longest, step by
step: those of the first steps, then those of the second, as far as sequences reach
(``torch.nn.utils.rnn``). Packing needs to know the longest length and the sum of all: a compiled
function is split there, and one program serves all lengths.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from flamec.conversion import from_numpy, tensor
from flamec.errors import DataDependentError, OperationError, user_location
from flamec.functional.creation import arange
from flamec.functional.elementwise import where
from flamec.functional.joining import cat, stack
from flamec.functional.scan import cumsum
from flamec.functional.searching import searchsorted
from flamec.functional.sorting import argsort
from flamec.ir.shape import Dim, format_dim, has_symbols, maximum
from flamec.ir.types import DType, float16, float32, float64, int8, int16, int32, int64, uint8
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import all_true, as_size, concrete_array

__all__ = [
    "PackedSequence", "invert_permutation", "pack_padded_sequence", "pack_sequence",
    "pad_packed_sequence", "pad_sequence", "unpack_sequence", "unpad_sequence",
]  # fmt: skip

_MOST_COMPARED = 4  # lengths that vary, of which the greatest is a formula

_NOT_SORTED = (
    "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can "
    "pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this "
    "requirement"
)


class _Fields(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Fields):
    """Sequences of different lengths, the longest first.

    ``data``: [sum of lengths, *]; ``batch_sizes``: int64 [longest length] on the CPU, how many
    sequences have an element at each step; ``sorted_indices``, ``unsorted_indices``: int64
    [sequences], the order by length and its inverse, or None for sequences that were in order.
    """

    def __new__(
        cls,
        data: Tensor,
        batch_sizes: Tensor,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        if batch_sizes.device.type != "cpu":
            raise ValueError(
                "batch_sizes should always be on CPU. Instances of PackedSequence should be "
                "instantiated by functions like pack_sequence and pack_padded_sequence"
            )
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same sequences in another dtype or on another device; ``batch_sizes`` stay."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        order, back = (
            None if x is None else x.to(data.device)
            for x in (self.sorted_indices, self.unsorted_indices)
        )
        return type(self)(data, self.batch_sizes, order, back)

    def cuda(self, device: Any = None) -> PackedSequence:
        """On a GPU."""
        return self.to("cuda" if device is None else device)

    def cpu(self) -> PackedSequence:
        """On the CPU."""
        return self.to("cpu")

    def _typed(self, dtype: DType) -> PackedSequence:
        return self.to(dtype=dtype)

    def double(self) -> PackedSequence:
        """In float64."""
        return self._typed(float64)

    def float(self) -> PackedSequence:
        """In float32."""
        return self._typed(float32)

    def half(self) -> PackedSequence:
        """In float16."""
        return self._typed(float16)

    def long(self) -> PackedSequence:
        """In int64."""
        return self._typed(int64)

    def int(self) -> PackedSequence:
        """In int32."""
        return self._typed(int32)

    def short(self) -> PackedSequence:
        """In int16."""
        return self._typed(int16)

    def char(self) -> PackedSequence:
        """In int8."""
        return self._typed(int8)

    def byte(self) -> PackedSequence:
        """In uint8."""
        return self._typed(uint8)

    @property
    def is_cuda(self) -> bool:
        """Whether the data is on a GPU."""
        return self.data.device.type == "cuda"


class PackedLayout:
    """Where the elements of packed sequences are if the sequences lie side by side.

    ``mask``: bool [time, sequences], where there is an element.
    """

    def __init__(self, batch_sizes: Tensor, count: Dim, batch: Dim, device: Any) -> None:
        sizes = batch_sizes.to(device)
        self._ends = cumsum(sizes, 0)
        self._starts = self._ends - sizes
        self._count, self._device = count, device
        columns = arange(batch, device=device)
        self.mask = columns < sizes.unsqueeze(1)
        self._places = where(self.mask, self._starts.unsqueeze(1) + columns, 0)

    def padded(self, data: Tensor, value: Any = 0) -> Tensor:
        """[count, *] -> [time, sequences, *], with ``value`` where there is no element."""
        mask = self.mask.reshape(*self.mask.shape, *(1,) * (data.ndim - 1))
        result = where(mask, data[self._places], value)
        assert isinstance(result, Tensor)
        return result

    def packed(self, padded: Tensor) -> Tensor:
        """The inverse of ``padded``."""
        rows = arange(self._count, device=self._device)
        times = searchsorted(self._ends, rows, right=True)
        result: Tensor = padded[times, rows - self._starts[times]]
        return result


def packed_layout(packed: PackedSequence, batch: Dim) -> PackedLayout:
    """The layout of packed sequences of which there are ``batch``."""
    data = packed.data
    return PackedLayout(packed.batch_sizes, data._type.shape[0], batch, data.device)


def packed_batch(name: str, packed: PackedSequence, hx: Sequence[Tensor] | None = None) -> Dim:
    """How many sequences are packed; RuntimeError where a trace cannot know that."""
    if packed.sorted_indices is not None:
        return packed.sorted_indices._type.shape[0]
    if hx is not None:
        return hx[0]._type.shape[1]
    try:
        return as_size(packed.batch_sizes[0], f"{name}: the number of sequences")
    except DataDependentError as error:
        raise DataDependentError(
            f"{name}: how many sequences are packed is not known while a function is compiled in "
            "one piece; pass hx to the layer, pack with enforce_sorted=False, or compile without "
            f"fullgraph=True (at {user_location()})"
        ) from error


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes ``permutation``, [n] of integers; None for None."""
    if permutation is None:
        return None
    inverse: Tensor = permutation.argsort()
    return inverse


def pack_padded_sequence(
    input: Tensor,
    lengths: Tensor | Sequence[int],
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Pack sequences that lie side by side: [time, sequences, *] or, ``batch_first``, [sequences,
    time, *].

    ``lengths``: one for each sequence, on the CPU. ``enforce_sorted``: they do not increase;
    else sequences are sorted here. RuntimeError for lengths that do not fit.
    """
    name = "pack_padded_sequence"
    trace = thread.trace
    if isinstance(lengths, Tensor) and trace is not None and trace.can_read():
        found = _packed_in_program(input, lengths, batch_first, enforce_sorted)
        if found is not None:
            return found
    sizes = _numbers(name, lengths)
    order = None
    if not enforce_sorted:
        order = np.argsort(-sizes, kind="stable")
        sizes = sizes[order]
    if input.numel() == 0 and isinstance(input.numel(), int):
        raise OperationError(f"Cannot pack empty tensors. (at {user_location()})")
    x = input.transpose(0, 1) if batch_first else input
    steps, batch = x.shape[0], x.shape[1]
    if len(sizes) != batch:
        raise OperationError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(sizes)} "
            f"(batch_size={batch}) (at {user_location()})"
        )
    if sizes.min() <= 0:
        raise OperationError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' "
            f"that is <= 0 (at {user_location()})"
        )
    if (np.diff(sizes) > 0).any():
        raise OperationError(f"{_NOT_SORTED} (at {user_location()})")
    if steps < int(sizes[0]):
        raise OperationError(
            f"{name}: a length is {sizes[0]}, but the input has {steps} steps "
            f"(at {user_location()})"
        )
    present = np.arange(sizes[0])[:, None] < sizes
    times, columns = np.nonzero(present)
    indices = None
    if order is not None:
        columns = order[columns]
        indices = from_numpy(order).to(input.device)
    rows = x[from_numpy(times).to(input.device), from_numpy(columns).to(input.device)]
    return PackedSequence(rows, from_numpy(present.sum(1)), indices)


def _packed_in_program(
    input: Tensor, lengths: Tensor, batch_first: bool, enforce_sorted: bool
) -> PackedSequence | None:
    """As ``pack_padded_sequence``, of lengths that the program reads; None for wrong ones."""
    x = input.transpose(0, 1) if batch_first else input
    batch = x._type.shape[1]
    if lengths.device.type != "cpu" or lengths.numel() != batch or input.numel() == 0:
        return None
    sizes = lengths.reshape(-1).to(int64)
    fit = (sizes > 0) & (sizes <= x._type.shape[0])
    if enforce_sorted:
        fit = fit & cat([sizes[1:] <= sizes[:-1], fit[:1]])
    if not all_true(fit, "pack_padded_sequence: lengths"):
        return None
    order = None
    if not enforce_sorted:
        order = argsort(sizes, descending=True, stable=True)
        sizes, order = sizes[order], order.to(input.device)
        x = x.index_select(1, order)
    longest = as_size(sizes.amax(), "pack_padded_sequence: the longest length")
    count = as_size(sizes.sum(), "pack_padded_sequence: the sum of lengths")
    batch_sizes = (arange(longest).unsqueeze(1) < sizes).sum(1)
    layout = PackedLayout(batch_sizes, count, batch, input.device)
    return PackedSequence(layout.packed(x), batch_sizes, order)


def _numbers(name: str, lengths: Any) -> np.ndarray:
    if isinstance(lengths, Tensor):
        if lengths.device.type != "cpu":
            raise OperationError(f"{name}: lengths must be on the CPU (at {user_location()})")
        lengths = concrete_array(lengths, f"{name}: lengths")
    return np.asarray(lengths, dtype=np.int64).reshape(-1)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Packed sequences side by side in their own order, and their lengths (int64, on the CPU).

    The result is [time, sequences, *] or, ``batch_first``, [sequences, time, *], where time is the
    longest length or ``total_length``. ValueError if that is less than the longest.
    """
    data, sizes, _, back = sequence
    batch = packed_batch("pad_packed_sequence", sequence)
    layout = packed_layout(sequence, batch)
    padded = layout.padded(data, padding_value)
    steps = sizes.shape[0]
    if total_length is not None:
        if total_length < steps:
            raise ValueError(
                "Expected total_length to be at least the length of the longest sequence in input, "
                f"but got total_length={total_length} and max sequence length being {steps}"
            )
        more = (total_length - steps, *padded.shape[1:])
        padded = cat([padded, padded.new_full(more, padding_value)])
    lengths = (arange(batch, device=sizes.device) < sizes.unsqueeze(1)).sum(0)
    if back is not None:
        padded, lengths = padded.index_select(1, back), lengths[back.to("cpu")]
    return padded.transpose(0, 1) if batch_first else padded, lengths


def pad_sequence(
    sequences: Tensor | Iterable[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Tensors [length, *] side by side: [longest, sequences, *] or, ``batch_first``, [sequences,
    longest, *], filled up at the ``padding_side``.

    RuntimeError for no sequences, or if they differ in more than their lengths.
    """
    if padding_side not in ("left", "right"):
        raise OperationError(
            f"Expected padding_side to be one of left or right, but got {padding_side}. "
            f"(at {user_location()})"
        )
    tensors = list(sequences)
    if not tensors:
        raise OperationError(f"received an empty list of sequences (at {user_location()})")
    longest = _longest([t.shape[0] for t in tensors])
    rows = []
    for sequence in tensors:
        fill = sequence.new_full(
            (longest - sequence.shape[0], *tensors[0].shape[1:]), padding_value
        )
        parts = [sequence, fill] if padding_side == "right" else [fill, sequence]
        rows.append(cat(parts))
    return stack(rows, 0 if batch_first else 1)


def _longest(lengths: Sequence[Dim]) -> Dim:
    """The greatest of some lengths. Of a few that vary it is a size without conditions."""
    if len({format_dim(length) for length in lengths}) <= _MOST_COMPARED:
        return functools.reduce(maximum, lengths)
    return max(lengths)  # a formula would be twice as long for each


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack tensors [length, *], by length from the longest if ``enforce_sorted``."""
    lengths: Any = [t.shape[0] for t in sequences]
    if has_symbols(lengths):
        lengths = tensor(lengths)
    return pack_padded_sequence(pad_sequence(sequences), lengths, False, enforce_sorted)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False
) -> list[Tensor]:
    """The sequences of given lengths that lie side by side, each [length, *]."""
    x = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    sizes = _numbers("unpad_sequence", lengths)
    return [row[:size] for row, size in zip(x, sizes.tolist(), strict=True)]


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The packed sequences, each [length, *], in their own order."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
