"""Kernels that users write: what an operation of kind KERNEL becomes on each device.

In: types of operands and results, attributes. Out: calls of C functions, launches of Triton
kernels: data, like everything else that the back ends are given. Invariant: the same types and
attributes give the same calls, and those are hashed with a graph, so that a program in a cache
belongs to the sources that are there now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flamec.ir.op import Attributes, Types
from flamec.ir.plan import KernelSource
from flamec.ir.shape import Dim, format_dim, product
from flamec.ir.types import DType, TensorType


@dataclass(frozen=True, slots=True)
class ArrayArgument:
    """An operand or a result as a caller of kernels sees it: a dense, row-major array.

    ``index`` counts operands, then results. Sizes may be symbolic.
    """

    index: int
    type: TensorType
    name: str = ""

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    def size(self, axis: int) -> Dim:
        """The size of an axis."""
        return self.type.shape[axis]

    def stride(self, axis: int) -> Dim:
        """The distance of two neighbours along an axis, in elements."""
        return product(self.type.shape[axis % max(1, self.ndim) + 1 :])

    def numel(self) -> Dim:
        """The number of elements."""
        return product(self.type.shape)


KernelArgument = ArrayArgument | Dim | float


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of a C function. ``jobs``: how many parts of the work there are; the function's
    first two arguments are then the first part and the one behind the last. None: one call."""

    function: str
    arguments: tuple[KernelArgument, ...]
    jobs: Dim | None = None


@dataclass(frozen=True, slots=True)
class CForm:
    """C text, which is put into the program once, and the calls of its functions, in order."""

    text: str
    calls: tuple[FunctionCall, ...]


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """A launch of a Triton kernel; ``arguments``: of the parameters that are no constants."""

    source: KernelSource
    grid: tuple[Dim, Dim, Dim]
    arguments: tuple[KernelArgument, ...]


@dataclass(frozen=True, eq=False)
class UserKernel:
    """The forms that a user gave an operation, each from (operand types, result types, attributes).

    ``host``: whether NumPy can compute it (``Op.evaluate``). ``declared``: the module and the file
    in which the user declares it.
    """

    c: Callable[[Types, Types, Attributes], CForm] | None = None
    triton: Callable[[Types, Types, Attributes], tuple[KernelLaunch, ...]] | None = None
    host: bool = False
    declared: tuple[str, str] = ("", "")

    def key(self, operands: Types, results: Types, attributes: Attributes) -> str:
        """All that a program on the results' device takes over from the forms, as text."""
        parts = [f"host={self.host}"]
        on_cpu = results[0].device.type == "cpu"
        if on_cpu and self.c is not None:
            form = self.c(operands, results, attributes)
            parts += [form.text, *(_call_text(call) for call in form.calls)]
        if not on_cpu and self.triton is not None:
            for launch in self.triton(operands, results, attributes):
                parts += [launch.source.to_json(), ",".join(map(format_dim, launch.grid))]
                parts += [_argument_text(a) for a in launch.arguments]
        return "\n".join(parts)


def _call_text(call: FunctionCall) -> str:
    jobs = "" if call.jobs is None else format_dim(call.jobs)
    return f"{call.function}[{jobs}]({', '.join(map(_argument_text, call.arguments))})"


def _argument_text(argument: KernelArgument) -> str:
    if isinstance(argument, ArrayArgument):
        return f"array {argument.index}"
    return repr(argument) if isinstance(argument, (bool, float)) else format_dim(argument)
