"""Python numbers that a compiled call computes in Python: over its arguments and Python's state.

While a function is traced, a number that changes from call to call is a ``RuntimeNumber`` with an
``Expression``: a place (an argument, ``LIMITS[0]``, ``self.step``), or what Python's operators and
the functions of ``math`` make of places. It has the number that it is in the traced call. Out:
Python text that computes it at each call (``ExpressionWriter``), exactly as the function would.
What the function decides by it becomes a condition of the program (``decide``); what needs the
number itself, a condition that it is this one (``settle``); a size or an index, a symbol of the
trace (``host_sizes.py``). Invariant: an expression is an input of the graph only where it meets a
tensor.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CellType
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.errors import CompileError, user_location
from flamec.guarded_values import MISSING, class_attribute
from flamec.ir.shape import SymbolicDim, evaluate_dim, format_dim
from flamec.state import thread
from flamec.structures import flatten
from flamec.tensor import RuntimeNumber, Tensor

if TYPE_CHECKING:
    from flamec.host_state import HostState

Function = Callable[..., Any]

OPERATOR_TEXTS: dict[Any, str] = {
    operator.add: "({} + {})",
    operator.sub: "({} - {})",
    operator.mul: "({} * {})",
    operator.truediv: "({} / {})",
    operator.floordiv: "({} // {})",
    operator.mod: "({} % {})",
    operator.pow: "({} ** {})",
    operator.and_: "({} & {})",
    operator.or_: "({} | {})",
    operator.xor: "({} ^ {})",
    operator.lshift: "({} << {})",
    operator.rshift: "({} >> {})",
    operator.lt: "({} < {})",
    operator.le: "({} <= {})",
    operator.gt: "({} > {})",
    operator.ge: "({} >= {})",
    operator.eq: "({} == {})",
    operator.ne: "({} != {})",
    operator.neg: "(-{})",
    operator.pos: "(+{})",
}
MOST_NODES = 64  # of one expression; a longer one is the number that it is


@dataclass(frozen=True, eq=False)
class Place:
    """Where Python keeps a value: ``owner[key]``, a closure's variable, an attribute of a class.

    ``path``: the keys that lead on, into tuples and lists there.
    """

    owner: Any
    key: Any
    name: str
    path: tuple[int, ...] = ()

    @property
    def identity(self) -> tuple[int, Any]:
        """Equal for what is kept in one place; of places without a path."""
        return (id(self.owner), self.key)

    @property
    def is_slot(self) -> bool:
        """Whether it is an attribute of an object that has no dictionary."""
        return not isinstance(self.owner, (CellType, type, dict, list))

    def get(self) -> Any:
        owner = self.owner
        if isinstance(owner, CellType):
            value = owner.cell_contents
        elif isinstance(owner, type):
            value = vars(owner)[self.key]
        elif self.is_slot:
            value = object.__getattribute__(owner, self.key)
        else:
            value = owner[self.key]
        return self._following(value)

    def part(self, number: int) -> Place:
        """Of a place with a tuple or list, that of one of its numbers."""
        return Place(self.owner, self.key, self.name, (number,))

    def _following(self, value: Any) -> Any:
        for step in self.path:
            value = value[step]
        return value

    def present(self) -> Any:
        """As ``get``; MISSING if there is nothing."""
        try:
            return self.get()
        except (KeyError, IndexError, AttributeError, ValueError):
            return MISSING

    def put(self, value: Any) -> None:
        """Keep another value there, or with MISSING none; not for places with a path."""
        if value is MISSING:
            self._delete()
        elif isinstance(self.owner, CellType):
            self.owner.cell_contents = value
        elif isinstance(self.owner, type):
            setattr(self.owner, self.key, value)
        elif self.is_slot:
            object.__setattr__(self.owner, self.key, value)
        else:
            self.owner[self.key] = value

    def _delete(self) -> None:
        if self.present() is MISSING:
            return
        if isinstance(self.owner, CellType):
            del self.owner.cell_contents
        elif isinstance(self.owner, type):
            delattr(self.owner, self.key)
        elif self.is_slot:
            object.__delattr__(self.owner, self.key)
        else:
            del self.owner[self.key]

    def text(self, name: Callable[[Any], str]) -> str:
        """The Python expression that reads it; as a target, it writes."""
        owner = name(self.owner)
        if isinstance(self.owner, CellType):
            text = f"{owner}.cell_contents"
        elif isinstance(self.owner, type) or self.is_slot:
            text = f"{owner}.{self.key}"
        else:
            key = repr(self.key) if isinstance(self.key, (str, int)) else name(self.key)
            text = f"{owner}[{key}]"
        return text + "".join(f"[{step}]" for step in self.path)

    def target(self, name: Callable[[Any], str]) -> str:
        """The Python expression that writes it."""
        return self.text(name)


@dataclass(frozen=True)
class Inherited(Place):
    """An attribute that an instance of ``kind`` may have from its class: ``owner`` is the
    instance's dictionary, which gets one of its own when it is written."""

    kind: type = object

    def part(self, number: int) -> Place:
        return Inherited(self.owner, self.key, self.name, (number,), self.kind)

    def get(self) -> Any:
        if self.key in self.owner:
            return super().get()
        return self._following(class_attribute(self.kind, self.key))

    def present(self) -> Any:
        return super().present() if self.key in self.owner else MISSING

    def put(self, value: Any) -> None:
        if value is class_attribute(self.kind, self.key):
            self.owner.pop(self.key, None)
        else:
            super().put(value)

    def text(self, name: Callable[[Any], str]) -> str:
        held, key = name(self.owner), repr(self.key)
        text = f"({held}[{key}] if {key} in {held} else {name(self.kind)}.{self.key})"
        return text + "".join(f"[{step}]" for step in self.path)

    def target(self, name: Callable[[Any], str]) -> str:
        return super().text(name)


@dataclass(frozen=True)
class Argument:
    """A number among the arguments of a call: the leaf ``position``; a place like another."""

    position: int
    name: str
    owner: Any = None
    path: tuple[int, ...] = ()

    @property
    def key(self) -> Any:
        return self.name

    @property
    def identity(self) -> tuple[Any, Any]:
        return ("argument", self.position)


@dataclass(frozen=True)
class Extent:
    """A size of the call's tensors."""

    dim: SymbolicDim
    owner: Any = None
    path: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return format_dim(self.dim)

    @property
    def identity(self) -> tuple[Any, Any]:
        return ("size", self.dim.terms)


class Expression:
    """A place, or a function of expressions and numbers.

    ``value``: the number in the traced call. ``moment``: how many of the actions that change
    Python's state (``HostState.act``) are before it. ``refusal``: why it has no value.
    """

    __slots__ = ("function", "moment", "operands", "place", "refusal", "size", "state", "value")

    def __init__(
        self,
        state: HostState,
        value: Any,
        moment: int,
        place: Place | Argument | Extent | None = None,
        function: Function | None = None,
        operands: tuple[Any, ...] = (),
        refusal: str = "",
    ) -> None:
        self.state = state
        self.value = value
        self.moment = moment
        self.place = place
        self.function = function
        self.operands = operands
        self.refusal = refusal
        self.size: int = 1 + sum(o.size for o in operands if isinstance(o, Expression))

    def evaluate(self, leaves: Sequence[Any], sizes: Mapping[str, int]) -> Any:
        """The number in a call with these arguments and values of symbols; while tracing that of
        the traced call."""
        if self.state.tracing:
            return self.value
        if isinstance(self.place, Argument):
            return leaves[self.place.position]
        if isinstance(self.place, Extent):
            return evaluate_dim(self.place.dim, sizes)
        if self.place is not None:
            assert isinstance(self.place, Place)
            return self.place.get()
        assert self.function is not None
        return self.function(
            *[o.evaluate(leaves, sizes) if isinstance(o, Expression) else o for o in self.operands]
        )

    def keep(self) -> None:
        """Have the number of the traced call, as the place is no more: the function took it away,
        so that its program is for that call alone."""
        assert self.place is not None
        self.place = Place({"value": self.value}, "value", self.place.name)

    def place_names(self) -> list[str]:
        """What the places that it is computed from are called, each once."""
        return list(dict.fromkeys(p.place.name for p in self.places() if p.place is not None))

    @property
    def of_sizes(self) -> bool:
        """Whether nothing but sizes decides on it."""
        return all(isinstance(e.place, Extent) for e in self.places())

    @property
    def of_arguments(self) -> bool:
        """Whether nothing but arguments decides on it."""
        return all(isinstance(e.place, Argument) for e in self.places())

    def key(self) -> Any:
        """Equal for expressions that are the same at each call."""
        if self.place is not None:
            return (self.place.identity, self.place.path, self.moment)
        operands = [o.key() if isinstance(o, Expression) else repr(o) for o in self.operands]
        return (self.function, *operands)

    def places(self) -> Iterator[Expression]:
        """The expressions of places that it is computed from."""
        if self.place is not None:
            yield self
        for operand in self.operands:
            if isinstance(operand, Expression):
                yield from operand.places()


def in_one_step(a: Any, b: Any) -> tuple[Any, Any]:
    """What is added to a whole number, and what was added to it before, in one: a count of layers
    is then as short an expression as a count of calls."""
    if type(b) is int and isinstance(a, Expression) and a.function is operator.add:
        first, before = a.operands
        if type(before) is int and type(first.value) is int:
            return first, before + b
    return a, b


def gives_one_type(function: Function, operands: tuple[Any, ...]) -> bool:
    """Whether a power, or the least or greatest of numbers, is an int or a float whatever the
    numbers are: a float's power by an int is a float, others depend on them."""
    kinds = [type(o.value if isinstance(o, Expression) else o) for o in operands]
    if function is not operator.pow:
        return len(set(kinds)) == 1
    return issubclass(kinds[0], float) and issubclass(kinds[1], int)


class ExpressionWriter:
    """Python text of expressions; one that occurs again is the variable of its first text.

    ``name``: gives a variable that holds an object; ``argument``: the text of a leaf of the
    arguments; ``extent``: that of a size.
    """

    def __init__(
        self,
        name: Callable[[Any], str],
        argument: Callable[[int], str],
        extent: Callable[[SymbolicDim], str] = format_dim,
    ) -> None:
        self._name = name
        self._argument = argument
        self._extent = extent
        self._variables: dict[Expression, str] = {}

    def text(self, expression: Any) -> str:
        """An expression of Python, to be evaluated before those that are asked for later."""
        if not isinstance(expression, Expression):
            return self._constant(expression)
        known = self._variables.get(expression)
        if known is not None:
            return known
        if isinstance(expression.place, Extent):
            return f"({self._extent(expression.place.dim)})"
        if isinstance(expression.place, Argument):
            return self._argument(expression.place.position)
        if expression.place is not None:
            text = expression.place.text(self._name)
        else:
            operands = [self.text(operand) for operand in expression.operands]
            form = OPERATOR_TEXTS.get(expression.function)
            if form is not None:
                text = form.format(*operands)
            else:
                text = f"{self._name(expression.function)}({', '.join(operands)})"
        variable = self._variables[expression] = f"h{len(self._variables)}"
        return f"({variable} := {text})"

    def _constant(self, value: Any) -> str:
        if (
            value is None
            or type(value) in (bool, int)
            or (type(value) is float and math.isfinite(value))
        ):
            return f"({value!r})"
        return self._name(value)


# numbers ------------------------------------------------------------------------------------


def expression_of(value: Any) -> Expression | None:
    """The expression that a number of a trace stands for; None for other values."""
    if not isinstance(value, RuntimeNumber):
        return None
    found: Expression | None = value.__dict__.get("_expression")
    if found is not None and found.refusal:
        raise CompileError(f"{found.refusal} (at {user_location()})")
    return found


def whole_expression_of(value: Any) -> Expression | None:
    """As ``expression_of``, for what is a size or a place: of a NumPy scalar the int."""
    expression = expression_of(value)
    if expression is not None and isinstance(expression.value, np.integer):
        return expression.state.apply(int, (expression,))
    return expression


def _operands(values: tuple[Any, ...]) -> tuple[HostState | None, tuple[Any, ...]]:
    """The values with expressions for numbers; no state if they are not all known to Python."""
    state: HostState | None = None
    found: list[Any] = []
    for value in values:
        expression = expression_of(value)
        if expression is not None:
            state = expression.state
            found.append(expression)
        elif (size := _of_sizes(value)) is not None:
            found.append(size)
        elif type(value) in (int, float, bool) or isinstance(value, np.generic):
            found.append(value)
        else:
            return None, ()
    return state, tuple(found)


def computed(function: Function, *values: Any) -> Any:
    """``function(*values)`` of numbers, at least one of them with an expression; else None."""
    state, operands = _operands(values)
    return None if state is None else state.number(state.apply(function, operands))


def computed_of_sizes(function: Function, *values: Any) -> Any:
    """``function(*values)`` of sizes and numbers that each call computes in Python, as a size or a
    number; None for others."""
    expression = of_sizes(function, *values)
    if expression is None or expression.moment:
        return None
    if type(expression.value) is int and expression.state.sizes.serves(expression):
        return expression.state.sizes.size(expression)
    return expression.state.number(expression)


def decide(function: Function, *values: Any) -> bool | None:
    """As ``computed``, for the truth of a function's result: a condition of the program."""
    state, operands = _operands(values)
    return None if state is None else state.decide(state.apply(function, operands))


def mark_of_sizes(number: Tensor, expression: Expression | None) -> None:
    """Say of a number that the program computes of sizes how Python does before it runs."""
    if expression is not None and expression.size <= MOST_NODES and not expression.moment:
        number.__dict__["_of_sizes"] = expression


def of_sizes(function: Function, *values: Any) -> Expression | None:
    """``function(*values)`` where one value is a size or computed of sizes, and all are known to
    Python before the program runs; None for others."""
    operands, found = [], None
    for value in values:
        known = _of_sizes(value)
        found = found or known
        operands.append(known or expression_of(value) or value)
    kinds = (Expression, int, float, np.generic)
    if found is None or not all(isinstance(o, kinds) for o in operands):
        return None
    return found.state.apply(function, tuple(operands))


def _of_sizes(value: Any) -> Expression | None:
    found: Expression | None = None
    if isinstance(value, SymbolicDim):
        found = None if thread.trace is None else thread.trace.oracle.expression(value)
    elif isinstance(value, RuntimeNumber):
        found = value.__dict__.get("_of_sizes")
    return found


def is_computed(value: Any) -> bool:
    """Whether Python computes a number at each call before the program runs."""
    return (expression_of(value) or _of_sizes(value)) is not None


def is_of_sizes(value: Any) -> bool:
    """Whether a number is computed of sizes alone, before the program runs."""
    expression = expression_of(value) or _of_sizes(value)
    return expression is not None and expression.of_sizes


def settle(value: Any) -> Any:
    """The number itself, of which the program depends from now on; None for other values."""
    expression = expression_of(value) or _of_sizes(value)
    return None if expression is None else expression.state.settle(expression)


def settle_as(kind: Function, value: Any) -> Any:
    """As ``settle``, of the number that ``kind`` (``int``, ``float``) makes of it."""
    expression = expression_of(value) or _of_sizes(value)
    if expression is None or type(expression.value) is kind:
        return settle(value)
    return expression.state.settle(expression.state.apply(kind, (expression,)))


def refuse_computed(value: Any, name: str, place: str) -> None:
    """An error if what an act changes is a number that only the program's run gives."""
    leaves = flatten(value)[0] if type(value) in (tuple, list) else [value]
    if any(_is_computed(leaf) for leaf in leaves):
        raise CompileError(
            f"{name} changes {place}, which this call has set to a number that the program "
            f"computes (at {user_location()}); do one of them outside the compiled function"
        )


def _is_computed(value: Any) -> bool:
    return isinstance(value, Tensor) and value._trace is not None and expression_of(value) is None
