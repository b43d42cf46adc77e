"""How a kernel reaches the matrices of a product: by pointers, or by tensor descriptors.

In: operands of a ``Contraction`` and dense results. Out: text, and ``Described`` arrays. A
descriptor needs one dimension without gaps, and an offset and other strides that are multiples
of 16 bytes whatever the symbolic sizes are (CUDA driver API, cuTensorMapEncodeTiled).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flamec.codegen.lower.lanes import MEMORY_BYTES
from flamec.codegen.triton.source import ALIGNMENT, Described, is_multiple
from flamec.codegen.triton.text import POINTERS, dim, factor
from flamec.ir.kernel import Contraction, MatrixOperand, RowProgram
from flamec.ir.layout import Factor, coalesce, dense_strides
from flamec.ir.shape import Dim, structurally_equal

_MOST_DIMENSIONS = 5
_LONGEST = 1 << 31  # coordinates are 32-bit numbers
_DESCRIBED = ("f16", "bf16", "f32", "i8", "u8", "i32")


@dataclass(frozen=True)
class DescribedOperand:
    """An operand for the copy engine.

    ``shape`` and ``strides`` are those of ``batch`` dimensions (with the text of the index of
    each), then of the two of the matrix, of which one is contracted.
    """

    offset: Dim
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    batch: tuple[str, ...]
    contracted_first: bool

    def array(
        self, parameter: int, memory: str, free_block: int, contracted_block: int
    ) -> Described:
        block = (free_block, contracted_block)
        if self.contracted_first:
            block = (contracted_block, free_block)
        return described(parameter, memory, self.offset, self.shape, self.strides, block)

    def store(self, name: str, free: str, block: str, sizes: tuple[int, int]) -> str:
        """Write a block of rows, which lie one after the other, from this one on."""
        if self.batch:
            block = f"tl.reshape({block}, {(*(1 for _ in self.batch), *sizes)})"
        return f"{name}.store([{', '.join((*self.batch, free, '0'))}], {block})"

    def load(
        self, name: str, free: str, contracted: str, sizes: tuple[int, int], left: bool
    ) -> str:
        """The block of the matrix at these elements, rows x depth (left) or depth x columns."""
        first, second = (contracted, free) if self.contracted_first else (free, contracted)
        text = f"{name}.load([{', '.join((*self.batch, first, second))}])"
        if self.batch:
            shape = sizes if self.contracted_first is not left else sizes[::-1]
            text = f"tl.reshape({text}, {shape})"
        return text if self.contracted_first is not left else f"tl.trans({text})"


def described(
    parameter: int,
    memory: str,
    offset: Dim,
    shape: tuple[Dim, ...],
    strides: tuple[Dim, ...],
    block: tuple[int, int],
) -> Described:
    """An array of which a kernel moves blocks of its last two dimensions."""
    whole = (*(1 for _ in shape[2:]), *block)
    sizes = ",".join(map(str, whole))
    kind = f"tensordesc<{POINTERS[memory][1:]}[{sizes}]>"
    return Described(f"p{parameter}", kind, offset * MEMORY_BYTES[memory], shape, strides)


def describe_operand(
    operand: MatrixOperand, memory: str, free: Dim, contracted: Dim
) -> DescribedOperand | None:
    """An operand as the copy engine sees it; None if that cannot read it."""
    if memory not in _DESCRIBED:
        return None
    matrix = _matrix(operand, free, contracted)
    if matrix is None:
        return None
    contracted_first = not structurally_equal(operand.contracted, 1)
    outer: list[Factor] = []
    texts: list[str] = []
    rest = "batch"
    for size, stride in reversed(coalesce(Factor(*f) for f in operand.batch)):
        index, rest = f"({rest} % {factor(size)})", f"({rest} // {factor(size)})"
        if not structurally_equal(size, 1) and not structurally_equal(stride, 0):
            outer.insert(0, Factor(size, stride))
            texts.insert(0, f"{index}.to(tl.int32)")
    sizes = (*(f.size for f in outer), *(f.size for f in matrix))
    strides = (*(f.stride for f in outer), *(f.stride for f in matrix))
    if not is_describable(memory, operand.offset, sizes, strides):
        return None
    return DescribedOperand(operand.offset, sizes, strides, tuple(texts), contracted_first)


def _matrix(operand: MatrixOperand, free: Dim, contracted: Dim) -> tuple[Factor, Factor] | None:
    """The two dimensions, the one without gaps last; the stride of a single row is free."""
    inner, outer = Factor(contracted, operand.contracted), Factor(free, operand.free)
    if not structurally_equal(inner.stride, 1):
        inner, outer = outer, inner
    if not structurally_equal(inner.stride, 1):
        return None
    if structurally_equal(outer.size, 1):
        if not isinstance(inner.size, int):
            return None
        outer = Factor(1, -(-inner.size // ALIGNMENT) * ALIGNMENT)
    return outer, inner


def is_describable(memory: str, offset: Dim, sizes: Sequence[Dim], strides: Sequence[Dim]) -> bool:
    """Whether a tensor map can describe such an array, whatever its symbolic sizes are."""
    if memory not in _DESCRIBED or len(sizes) > _MOST_DIMENSIONS:
        return False
    if any(isinstance(size, int) and not 1 <= size < _LONGEST for size in sizes):
        return False
    if any(isinstance(stride, int) and stride < 1 for stride in strides):
        return False
    elements = ALIGNMENT // MEMORY_BYTES[memory]
    return all(is_multiple(d, elements) for d in (offset, *strides[:-1]))


def dense_result(c: Contraction, memory: str, copies: int = 1) -> tuple[Dim, ...] | None:
    """The shape under which a row-major result goes to memory by descriptor, or None."""
    batch = c.batch * copies
    single = structurally_equal(batch, 1)
    shape = (c.rows, c.columns) if single else (batch, c.rows, c.columns)
    return shape if is_describable(memory, 0, shape, dense_strides(shape)) else None


def operand_memory(program: RowProgram, operand: MatrixOperand) -> str:
    """The type in which an operand is multiplied."""
    if operand.prologue is not None:
        return operand.prologue.memory
    return program.parameters[operand.parameter].memory


def matrix_start(operand: MatrixOperand) -> str:
    """Where the matrix of a batch starts, in elements."""
    terms, rest = [dim(operand.offset)], "batch"
    for size, stride in reversed(operand.batch):
        terms.append(f"({rest} % {factor(size)}) * {factor(stride)}")
        rest = f"({rest} // {factor(size)})"
    return " + ".join(terms)
