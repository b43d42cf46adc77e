"""What the parts of one kernel share: parameters, uniform values, results over everything.

Uniform values are computed once, before the parallel region; values that follow from
folds over everything are computed once, after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flamec.codegen.lower.lanes import memory_type
from flamec.ir.graph import Value
from flamec.ir.kernel import Parameter, Statement
from flamec.ir.shape import Dim


@dataclass(eq=False)
class PartialResults:
    """A buffer for the partial results of a fold over rows."""

    memory: str
    elements: Dim


Memory = Value | PartialResults


@dataclass
class Section:
    """A list of statements and the names that they define, by what they stand for."""

    statements: list[Statement] = field(default_factory=list)
    names: dict[object, str] = field(default_factory=dict)


class ParameterList:
    """The buffers of a program or kernel in order of first use."""

    def __init__(self) -> None:
        self.buffers: list[Memory] = []
        self.parameters: list[Parameter] = []
        self._number: dict[Memory, int] = {}

    def __contains__(self, buffer: Memory) -> bool:
        return buffer in self._number

    def number(self, buffer: Memory, written: bool = False) -> int:
        found = self._number.get(buffer)
        if found is None:
            found = self._number[buffer] = len(self.buffers)
            self.buffers.append(buffer)
            self.parameters.append(Parameter(_memory_of(buffer), written))
        elif written and not self.parameters[found].written:
            self.parameters[found] = replace(self.parameters[found], written=True)
        return found


def _memory_of(buffer: Memory) -> str:
    return memory_type(buffer.type.dtype) if isinstance(buffer, Value) else buffer.memory


class ErrorTable:
    """The messages of a program's error codes; equal messages share one code.

    ``{detail}`` in a message stands for ``FlamecCall.error_detail``. ``asked`` counts how often
    a code was asked for.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.asked = 0

    def code(self, message: str) -> int:
        self.asked += 1
        if message not in self.messages:
            self.messages.append(message)
        return self.messages.index(message) + 1


class KernelBuilder:
    """Collects the uniform statements of a kernel while its parts are lowered."""

    def __init__(self, errors: ErrorTable) -> None:
        self.errors = errors
        self.parameters = ParameterList()
        self.uniform = Section()
        self.finish = Section()
        self._counter = 0

    def new_name(self) -> str:
        self._counter += 1
        return f"scalar{self._counter}"

    def folded(self, value: Value) -> str:
        """The name under which a fold over everything is known when the parts are done."""
        name = self.new_name()
        self.finish.names[value] = name
        return name
