"""What a caller may say about the code to be generated; plain data, part of cache keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Union

from flamec.codegen.triton.attention_schedule import AttentionSchedule
from flamec.codegen.triton.product_schedule import ProductSchedule, target_facts
from flamec.ir.shape import Dim, evaluate_dim, is_nonnegative_atom, symbols_of

if TYPE_CHECKING:
    from flamec.codegen.triton.tiling import Tile
    from flamec.ir.kernel import Contraction

Schedule = Union["Tile", ProductSchedule, AttentionSchedule]
FLOAT32_PRODUCTS = ("ieee", "tf32x3", "tf32")


@dataclass(frozen=True)
class CodegenOptions:
    """How to generate code.

    - ``fuse``: False makes one kernel of each task, for comparisons.
    - ``size_hints``: symbol -> a size that is typical for it. Code is right for every size and
      fast near the hints; hints with the same least power of two above them give the same code.
    - ``size_bounds``: symbol -> the largest value that it has, by the caller's promise: a block
      may hold whole rows. Hints of these symbols are not rounded.
    - ``near``: the caller promises that no symbol is larger than its hint.
    - ``narrow``: the caller promises that no array of a call with symbolic sizes has 2**31 or
      more elements, so that indices on a GPU are 32-bit numbers.
    - ``deterministic``: False lets a GPU add in any order what meets in one place (``index_put``
      with ``add``, the derivative of ``index``), which is faster where many rows meet.
    - ``strict``: elementwise results have the bits that they have operation by operation.
    - ``target``: the GPU that schedules are chosen for.
    - ``schedules``: given schedules of parts of kernels, by ``PartKey.text`` (``part_key.py``).
    - ``float32_products``: how a GPU multiplies float32 matrices: exactly as float32
      (``"ieee"``), as three products of operands split in two (``"tf32x3"``), or with operands
      rounded to 10 bits of mantissa (``"tf32"``). ``float32_convolutions``: the same for the
      products that convolutions become, and their gradients.
    - ``memory_budget``: from 1 (hardly more than the least work) to 0 (the least memory): what is
      computed again instead of being kept (``fit_memory_budget``).
    """

    fuse: bool = True
    size_hints: Mapping[str, int] = field(default_factory=dict)
    size_bounds: Mapping[str, int] = field(default_factory=dict)
    near: bool = False
    narrow: bool = False
    deterministic: bool = True
    strict: bool = False
    target: str = "sm_90"
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    float32_products: str = "ieee"
    float32_convolutions: str = "ieee"
    memory_budget: float = 1.0

    def __post_init__(self) -> None:
        hints, bounds = self.size_hints, self.size_bounds
        rounded = {n: hints[n] if n in bounds else power_of_two(hints[n]) for n in sorted(hints)}
        object.__setattr__(self, "size_hints", rounded)
        target_facts(self.target)
        for name in ("float32_products", "float32_convolutions"):
            if getattr(self, name) not in FLOAT32_PRODUCTS:
                raise ValueError(
                    f"{name} must be one of {', '.join(FLOAT32_PRODUCTS)}, not "
                    f"{getattr(self, name)!r}"
                )

    def typical(self, size: Dim) -> int | None:
        """A size as a number, by the hints for its symbols; None where one has no hint."""
        if isinstance(size, int):
            return size
        if not symbols_of(size) <= set(self.size_hints):
            return None
        try:
            return max(1, evaluate_dim(size, self.size_hints))
        except ZeroDivisionError:
            return None

    def roughly(self, size: Dim) -> int | None:
        """``typical``, but the same for neighbouring classes of sizes (``fusion_sizes``)."""
        if isinstance(size, int) or not symbols_of(size) <= set(self.size_bounds):
            return self.typical(size)
        try:
            return max(1, evaluate_dim(size, self.fusion_sizes))
        except ZeroDivisionError:
            return None

    def most(self, size: Dim) -> int | None:
        """The largest value that a size can have; None where nothing bounds it."""
        if isinstance(size, int):
            return size
        if not symbols_of(size) <= set(self.size_bounds):
            return None
        return _largest(size, self.size_bounds)

    def room_for(self, size: Dim) -> int | None:
        """``most``, also where hints are bounds: what memory there must be for a size."""
        if self.near and symbols_of(size) <= set(self.size_hints):
            return _largest(size, self.size_hints)
        return self.most(size)

    def precision_of(self, product: Contraction) -> str:
        """How a GPU multiplies a product's operands where they are float32."""
        return self.float32_convolutions if product.part_of else self.float32_products

    @property
    def fusion_sizes(self) -> dict[str, int]:
        """What the symbols of a class of sizes count as where loops are fused and lowered: roughly,
        so that most neighbouring classes are lowered once. Nothing without bounds."""
        steps = {
            s: (power_of_two(bound).bit_length()) // 2 for s, bound in self.size_bounds.items()
        }
        return {s: max(1, 3 * 4**step // 4) for s, step in steps.items()}

    @property
    def key(self) -> str:
        """All that code depends on, as text."""
        return json.dumps(asdict(self), sort_keys=True)


def _largest(dim: Dim, bounds: Mapping[str, int]) -> int | None:
    """The value of a dimension for the largest symbols, without what is subtracted; None where
    something is subtracted that may be negative."""
    if isinstance(dim, int):
        return dim
    total = 0
    for monomial, coefficient in dim.terms:
        value = coefficient
        for atom in monomial:
            if atom[0] == "s":
                value *= bounds[atom[1]]
                continue
            if atom[0] == "min":
                ends = [_largest(part, bounds) for part in atom[1:]]
                known = [end for end in ends if end is not None]
                if not known or not (coefficient > 0 or is_nonnegative_atom(atom)):
                    return None
                value *= min(known)
                continue
            dividend = _largest(atom[1], bounds)
            if dividend is None or coefficient < 0:
                return None
            whole = isinstance(atom[2], int) and atom[2] > 0
            value *= max(0, dividend) // (atom[2] if whole else 1)
        total += value if coefficient > 0 or not monomial else 0
    return max(0, total)


def power_of_two(size: int) -> int:
    """The least power of two that is at least ``size`` and at least 1."""
    return 1 << max(0, size - 1).bit_length()
