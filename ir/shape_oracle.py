"""Who answers what the form of a symbolic size leaves open.

While a program is traced the oracle in force answers from the sizes at hand and records the answer
as a guard. Where there is none, ``Undecidable`` is raised: nothing is assumed in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from flamec.ir.symbolic_dim import Dim, SymbolicDim


class Undecidable(TypeError):
    """A relation between symbolic dimensions that their form does not settle."""


class ShapeOracle(Protocol):
    """Answers questions about symbols while tracing, and records them as guards.

    ``one_program``: whether there will be no other program for what the answers do not hold for.
    """

    one_program: bool

    def decide(self, left: Dim, relation: str, right: Dim) -> bool: ...
    def specialize(self, dim: SymbolicDim) -> int: ...
    def converts(self, dim: SymbolicDim, kind: type, frame: FrameType) -> None:
        """``frame`` is about to make an int or a float of a size."""
        ...

    def as_scalar(self, dim: SymbolicDim) -> Any: ...
    def computed(self, function: Callable[..., Any], *operands: Any) -> Any:
        """``function(*operands)``, which Python computes at each call: a size if it is whole, else
        a number; None if it cannot."""
        ...

    def serves(self, frame: FrameType) -> bool:
        """Whether the frame is code that takes sizes for plain integers: the user's."""
        ...


oracle_in_force: ContextVar[ShapeOracle | None] = ContextVar("flamec_shape_oracle", default=None)


@contextmanager
def using_oracle(oracle: ShapeOracle | None) -> Iterator[None]:
    """Let ``oracle`` answer undecidable questions within the block."""
    token = oracle_in_force.set(oracle)
    try:
        yield
    finally:
        oracle_in_force.reset(token)
