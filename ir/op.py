"""What an operation is: the ``Op`` record and the registry.

One op is one declaration (``ops/``): the types it accepts, its shape rule,
its NumPy meaning, its derivative written as IR, and the scalar text of both
backends. Passes read ``kind`` and the facts below, never names.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flamec.ir.types import TensorType

if TYPE_CHECKING:
    from flamec.ir.builder import Builder
    from flamec.ir.user_kernel import UserKernel


class OpKind(enum.Enum):
    """How an op moves data; decides how it is fused and lowered."""

    ELEMENTWISE = "elementwise"  # same shape after broadcasting
    REDUCTION = "reduction"  # folds axes
    CONTRACTION = "contraction"  # dot_general
    CONVOLUTION = "convolution"  # sums of products over windows
    ATTENTION = "attention"  # products, a softmax and products, without the scores in memory
    VIEW = "view"  # the same elements at other places; no arithmetic
    ASSEMBLE = (
        "assemble"  # places inputs side by side or into another (concatenate, interleave, pad, …)
    )
    CREATION = "creation"  # no array inputs: full, iota, dim_size
    RANDOM = "random"  # counter-based bits
    GATHER = "gather"  # reads at computed places
    SCATTER = "scatter"  # writes at computed places
    SCAN = "scan"  # running reductions
    TRANSFER = "transfer"  # the same elements on another device
    BARRIER = "barrier"  # the first operand, with another derivative
    REQUIREMENT = "requirement"  # the second operand, or an error where the first does not hold
    CUSTOM = "custom"  # the first operands, with a derivative that the user wrote
    SORT = "sort"  # puts an axis in order: a kernel of its own on a GPU, NumPy on the host
    KERNEL = "kernel"  # a kernel that the user wrote, between dense arrays
    HOST = "host"  # computed by NumPy in the host's memory, compiled or not
    LOOP = "loop"  # runs a graph of its own once for each step (scan)
    BRANCH = "branch"  # runs one of its graphs (cond)
    WHILE = "while"  # runs its graphs as often as one of them says (while_loop)
    UNBOUNDED = "unbounded"  # needs memory whose size nobody can plan; evaluated, never compiled
    CALL = "call"  # a whole compiled program, on the eager tape only
    COMPOSITE = "composite"  # several operations at once, on the eager tape only

    __hash__ = object.__hash__  # each exists once; the inherited one is a call of Python


# the kinds that a plan has as control flow around the kernels of other graphs
CONTROL = (OpKind.LOOP, OpKind.BRANCH, OpKind.WHILE)

Attributes = Mapping[str, Any]
Types = tuple[TensorType, ...]


class DerivativeContext:
    """What a derivative rule may look at.

    ``inputs[i]`` and ``outputs[i]`` are available only if the op declares that
    it saves them; types are always there. ``needs[i]`` tells whether input i
    wants a gradient. Values are graph Values or Tensors: rules treat them as opaque
    and compute with the builder only.
    """

    __slots__ = ("attributes", "input_types", "inputs", "needs", "output_types", "outputs")

    def __init__(
        self,
        attributes: Attributes,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        input_types: Types,
        output_types: Types,
        needs: tuple[bool, ...],
    ) -> None:
        self.attributes = attributes
        self.inputs = inputs
        self.outputs = outputs
        self.input_types = input_types
        self.output_types = output_types
        self.needs = needs


Derivative = Callable[..., Sequence[Any]]  # (builder, context, *output gradients)
BatchRule = Callable[..., Any]  # (builder, batch size, op, operands, attributes), see batching.py

ALL = "all"


@dataclass(frozen=True, eq=False)
class Op:
    """One primitive operation.

    - ``infer(types, attributes)`` -> the result types; raises TypeError or ValueError
      with shapes and dimension in the message.
    - ``evaluate(attributes, *arrays)`` -> NumPy result (a tuple for several results).
      16-bit floats arrive as float32 and are rounded by the caller. ``attributes`` are concrete.
      Of an op computed on the host: new arrays, and the attributes are numbers, bools and text.
    - ``derivative(b, ctx, *output_gradients)`` -> a gradient or None for each input.
      An output gradient is None where that output was not used (only for several outputs).
      None instead of a rule: not differentiable (gradient zero).
    - ``saves_inputs`` / ``saves_outputs``: positions that the derivative reads, "all", or a
      ``slice`` of positions (for ops with any number of operands). For inputs also a mapping:
      the gradient of input i reads the inputs at ``saves_inputs[i]``. For outputs also a
      function of the attributes that gives one of these.
    - ``c`` / ``triton``: scalar text of an elementwise op with ``{0}``, ``{1}`` … for operands and
      ``{t}`` for the lane type of the first operand (``f32``, ``f64``, ``i64`` …, ``b`` for bool)
      and ``{r}`` for that of the result, or a mapping from lane type to such text; for
      reductions the combining text of ``{0}`` and ``{1}``.
    - ``triton_approximate``: cheaper Triton text by lane type, a few units of float32 off, for
      values that are rounded to 16 bits afterwards.
    - ``jumps``: the result may change much where a float changes little (floor, remainder);
      results that are no floats do so anyway.
    - ``commutative``; ``identity`` (of a binary op: its right unit; of a fold: the
      start value, given the dtype); ``involution`` (f(f(x)) = x); ``idempotent`` (f(f(x)) = f(x)).
    - ``expensive``: cheaper to keep than to compute twice.
    - ``scan_of``: of a scan the names of the reduction that gives its last element, and of the
      elementwise operation that joins what two neighbouring parts give.
    - ``takes_over``: of a running extreme the comparison by which an element, or one that is NaN,
      takes its place.
    - ``compensated`` (of a reduction that adds): long folds of floats carry along what rounding
      loses. ``drifts`` (of a reduction or scan): errors grow with the number of elements, so that a
      CPU computes float32 in float64.
    - ``inexact``: the last bits of a float result depend on whose implementation computes it (a
      polynomial, an order of additions); all others round each result once, or not at all.
    - ``write_back(b, parent, child, attributes)`` for views: the parent with the child's
      elements replaced, which is how a write through a view is expressed without mutation.
    - ``counted``: values decide on the size of the result, which an attribute says; so a batch has
      no rule, because each example would have a size of its own.
    - ``batch``: the rule of ``batching.py`` by which it is applied to a batch, if that is not
      the one of its kind.
    - ``kernel``: the forms of an operation of kind KERNEL.
    - ``dimensions``: the attributes that hold sizes or positions, which may be symbolic.
    """

    name: str
    kind: OpKind
    infer: Callable[[Types, Attributes], TensorType | Types]
    evaluate: Callable[..., Any]
    derivative: Derivative | None = None
    saves_inputs: tuple[int, ...] | slice | str | Mapping[int, tuple[int, ...]] = ()
    saves_outputs: tuple[int, ...] | slice | str | Callable[[Attributes], slice] = ()
    c: str | Mapping[str, str] | None = None
    triton: str | Mapping[str, str] | None = None
    triton_approximate: Mapping[str, str] | None = None
    jumps: bool = False
    commutative: bool = False
    associative: bool = False
    involution: bool = False
    idempotent: bool = False
    identity: Any = None
    expensive: bool = False
    scan_of: tuple[str, str] | None = None
    takes_over: str = ""
    compensated: bool = False
    drifts: bool = False
    inexact: bool = False
    write_back: Callable[[Builder, Any, Any, Attributes], Any] | None = None
    dimensions: tuple[str, ...] = ()
    counted: bool = False
    batch: BatchRule | None = None
    kernel: UserKernel | None = None
    doc: str = ""

    @property
    def may_report(self) -> bool:
        """Whether a program looks at values there, and may report an error."""
        return self.kind in (OpKind.GATHER, OpKind.SCATTER, OpKind.REQUIREMENT)

    def infer_types(self, types: Types, attributes: Attributes) -> Types:
        """The types of the results; asked once for operands without symbols if nothing else
        decides. Equal types without symbols are one object."""
        key: tuple[object, ...] | None = None
        if not attributes and self.kernel is None:
            key = (self, *[type.number for type in types])
            known = _inferred.get(key)
            if known is not None:
                return known
        result = self.infer(types, attributes)
        made = result if isinstance(result, tuple) else (result,)
        if not all(type.is_static for type in made):
            return made
        made = tuple([type.first for type in made])
        if key is not None and all(type.is_static for type in types):
            if len(_inferred) >= _MOST_INFERRED:
                _inferred.clear()
            _inferred[key] = made
        return made

    def saved_inputs(self, needs: Sequence[bool]) -> tuple[int, ...]:
        """The inputs that the derivative reads if only some inputs need a gradient."""
        saves = self.saves_inputs
        if isinstance(saves, tuple):
            return saves
        if isinstance(saves, (slice, str)):
            return _positions(saves, len(needs))
        return tuple({j: None for i, need in enumerate(needs) if need for j in saves[i]})

    def saved_outputs(self, count: int, attributes: Attributes) -> tuple[int, ...]:
        saves = self.saves_outputs
        if isinstance(saves, tuple):
            return saves
        return _positions(saves(attributes) if callable(saves) else saves, count)

    def __repr__(self) -> str:
        return f"<Op {self.name}>"


def _positions(saved: tuple[int, ...] | slice | str, count: int) -> tuple[int, ...]:
    if isinstance(saved, slice):
        return tuple(range(count))[saved]
    if isinstance(saved, str):
        return tuple(range(count))
    return saved


_inferred: dict[tuple[object, ...], Types] = {}  # by operation and numbers of types
_MOST_INFERRED = 1 << 14

REGISTRY: dict[str, Op] = {}
USER_OPS: dict[str, Op] = {}  # kernels that users declared; a name may be declared again


def register(op: Op) -> Op:
    """Add an op to the registry; ValueError if the name is taken."""
    if op.name in REGISTRY:
        raise ValueError(f"op {op.name!r} is declared twice")
    REGISTRY[op.name] = op
    return op


def register_user_op(op: Op) -> Op:
    """Add a user's kernel, or put it in the place of an earlier one of its name.

    ValueError for the name of a primitive.
    """
    if op.name in REGISTRY:
        raise ValueError(f"{op.name!r} is a primitive operation")
    USER_OPS[op.name] = op
    return op


def lookup(name: str) -> Op:
    """The operation of a name: a primitive, or a user's kernel. KeyError if there is none."""
    op = REGISTRY.get(name) or USER_OPS.get(name)
    if op is None:
        raise KeyError(f"no op is called {name!r}")
    return op


def is_registered(op: Op) -> bool:
    """Whether ``lookup`` finds this very operation under its name."""
    return (REGISTRY.get(op.name) or USER_OPS.get(op.name)) is op
