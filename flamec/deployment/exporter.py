"""``export``: trace and compile a function, and write its program to one file.

In: a function, example arguments, which sizes vary. Out: a file that ``flamec.load`` runs with
NumPy arrays, without the function's Python code, tracing, Triton or a C compiler (on a processor
like this one). What the function read while it was traced (modules' weights, numbers, flags) is
in the file as it was then.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flamec.capture import Captured, capture
from flamec.config import default_options
from flamec.deployment import native_code
from flamec.deployment.archive import PROGRAM, write_archive
from flamec.deployment.dim import Dim
from flamec.deployment.formulas import decode, encode
from flamec.deployment.numbers import NumberCondition
from flamec.deployment.varying import DynamicArguments, Varying, varying
from flamec.errors import CompileError, user_location
from flamec.host_numbers import Argument
from flamec.ir.shape import SymbolicDim, format_dim
from flamec.ir.types import TensorType
from flamec.places_as_numbers import places_as_numbers
from flamec.preparation import prepare
from flamec.prepared import VERSION, graph_device
from flamec.saving import structure as json_structure
from flamec.saving.files import write_atomically
from flamec.saving.safetensors_format import write as write_tensors
from flamec.structures import Structure, flatten, map_leaves, unflatten
from flamec.tensor import RuntimeNumber, Size, Tensor
from flamec.watching import unwatched


def export(
    function: Callable[..., Any],
    example_inputs: Sequence[Any],
    f: str | os.PathLike[str],
    *,
    dynamic: DynamicArguments | None = None,
    sizes: Sequence[Mapping[str, int]] = (),
    **options: Any,
) -> None:
    """Write a function or module, compiled for arguments like the examples, to the file ``f``.

    ``example_inputs``: the positional arguments, tensors or NumPy arrays in nested lists, tuples
    and dicts; numbers, text and flags become part of the program unless ``dynamic`` names them.

    ``dynamic``: for an argument (by its position or its name in the function, or in a tuple one for
    each) what may vary. Of a tensor the axes whose sizes do, as axes, as ``{axis: name}``, or in a
    tuple one name for each axis; sizes of one name are equal. Of a number (not a flag) its name: a
    call may give another. Instead of a name there may be a ``flamec.Dim``, with bounds, also
    ``2 * dim`` and ``dim + 1``, or ``Dim.AUTO``, which varies if the function allows it. Of a
    container the same for its parts: a list or a dict by keys. None, and a number, say that
    something stays. Sizes and whole numbers may be sizes, places, bounds of slices and operands;
    what Python decides by them while tracing is a condition of the program, which each call checks.

    ``sizes``: of a program for a GPU, values of all names of sizes and whole numbers, for whose
    classes of sizes (COMPILE.md) the file has code of its own, as it has for the examples'; others
    run code for all. On the CPU one code serves all sizes. ``options``: fields of
    ``CompileOptions``. The file appears whole or not at all.

    The function may change captured tensors in place (a module's running statistics, a random
    generator): a loaded program has its own copies, which its calls change. It is traced in the
    state that it is in: call ``eval()`` first on a module that is not to train.

    Raises CompileError for what a program without Python cannot do: writing to an argument,
    leaving gradients in ``.grad``, results that are no tensors, numbers, text or containers of
    them, a size that is to vary where the function serves one alone, and a number that varies but
    on whose value the program depends (a loop of Python over
    it); ValueError for axes that the arguments do not have, for examples that bounds do not allow,
    and for a size of 1, or of 1 times what it is a multiple of, where larger ones decide otherwise.

    >>> import flamec, numpy as np
    >>> model = flamec.nn.Linear(3, 2).eval()
    >>> path = getfixture("tmp_path") / "linear.flamec"  # doctest: +SKIP
    >>> flamec.export(model, (flamec.ones(4, 3),), path, dynamic={0: [0]})  # doctest: +SKIP
    >>> flamec.load(path)(np.ones((9, 3), np.float32)).shape  # doctest: +SKIP
    (9, 2)
    """
    if "dynamic_shapes" in options:
        raise TypeError("flamec.export: what torch.export calls dynamic_shapes is dynamic here")
    arguments = tuple(map_leaves(_example, tuple(example_inputs)))
    leaves, _ = flatten((arguments, {}))
    names = _argument_names(function, len(arguments))
    declared = varying(arguments, names, dynamic or {})
    named = [declared.examples, *_checked_names(sizes, declared)]
    name = str(getattr(function, "__name__", type(function).__name__))
    while True:
        captured = capture(_owned_results(function), arguments, {}, declared.dynamic, name)
        fixed = _fixed_sizes(captured, declared, name)
        if not fixed:
            break
        if captured.undo is not None:
            captured.undo()
        declared = declared.without(fixed)
    _refuse_effects(captured, name)
    _refuse_fixed_numbers(captured, declared, name)
    host_sizes = _described_host_sizes(captured)
    given = [_bindings(host_sizes, declared, leaves, n) for n in named]
    _refuse_other_examples(captured, declared, leaves, given[0])
    captured = places_as_numbers(captured)
    settings = default_options(**options)
    prepared = prepare(captured.graph, captured.symbols, settings)
    if prepared.plan is None:
        raise CompileError(f"{name}: export needs a C compiler (at {user_location()})")
    weights = _weights(captured)
    members = {
        "graph.txt": str(captured.graph).encode(),
        "plan.json": prepared.plan.to_json().encode(),
        "weights.safetensors": _tensors_file(weights),
    }
    bindings = [{symbol: known[symbol] for symbol in captured.symbols} for known in given]
    kernels, facts = native_code.gather(prepared, captured.symbols, bindings)
    members |= kernels
    facts |= _facts(captured, declared, leaves, names) | {"host_sizes": host_sizes}
    write_atomically(Path(f), lambda file: write_archive(file, PROGRAM, facts, members.items()))


def _example(leaf: Any) -> Any:
    """Memory of its own for each example, so that none is an alias of another."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        return Tensor._from_array(np.array(leaf))
    if isinstance(leaf, Tensor):
        copy = leaf.detach().clone()
        copy.requires_grad = leaf.requires_grad
        return copy
    return leaf


def _owned_results(function: Callable[..., Any]) -> Callable[..., Any]:
    def owned(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and not isinstance(leaf, RuntimeNumber):
            return leaf.detach().clone()
        return leaf

    own_leaves = unwatched(map_leaves)  # asks for types, also of numbers, and calls nothing

    def exported(*arguments: Any) -> Any:
        return own_leaves(owned, function(*arguments))

    return exported


def _argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """Names of the positional arguments, for ``dynamic`` and for errors."""
    forward = getattr(function, "forward", function)
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    if hasattr(forward, "__func__"):
        names = names[1:]
    return [names[i] if i < len(names) else f"argument {i}" for i in range(count)]


def _bindings(
    host_sizes: Sequence[Mapping[str, Any]],
    declared: Varying,
    leaves: Sequence[Any],
    given: Mapping[str, int],
) -> dict[str, int]:
    """The values of all symbols where what varies is as ``given`` by the user's names."""
    bindings = declared.bindings(given)
    numbers = list(leaves)
    for leaf, name in declared.numbers.items():
        numbers[leaf] = given.get(name, numbers[leaf])
    for size in host_sizes:
        value = size["sign"] * decode(size["value"], declared.numbers).evaluate(numbers, bindings)
        bindings[size["symbol"]] = value
    return bindings


def _checked_names(
    sizes: Sequence[Mapping[str, int]], declared: Varying
) -> list[Mapping[str, int]]:
    for given in sizes:
        if set(given) != set(declared.names):
            raise ValueError(
                f"export: sizes gives {', '.join(map(repr, given)) or 'nothing'}; dynamic names "
                f"{', '.join(map(repr, declared.names)) or 'no axes'}"
            )
    return list(sizes)


def _refuse_effects(captured: Captured, name: str) -> None:
    place = user_location()
    if captured.effects:
        effect = captured.effects[0]
        line = "" if "(at " in effect else f" (at {place})"
        raise CompileError(f"{name} cannot be exported: {effect}{line}")
    if captured.host.steps:
        raise CompileError(
            f"{name} changes Python's state (scheduler.step(), a count, a tensor that it stores), "
            f"which an exported program has not; do it outside (at {place})"
        )
    written = [g.result for g in captured.grads]
    if captured.host.last or any(r.kind != "constant" or r.value is not None for r in written):
        raise CompileError(
            f"{name} leaves gradients in .grad, which an exported program cannot; clear them "
            f"(zero_grad()) at its end, or return what autograd.grad() gives (at {place})"
        )
    for position in captured.graph.updates:
        if captured.sources[position].kind == "argument":
            raise CompileError(
                f"{name} writes to its argument {captured.graph.inputs[position].name}; return "
                f"the new values instead (at {place})"
            )
    for result in captured.results:
        if result.kind == "number":
            raise CompileError(
                f"{name} returns a number that .item() gave; return the tensor instead (at {place})"
            )
        plain = result.kind == "constant" and isinstance(
            result.value, (type(None), bool, int, float, str)
        )
        if not plain and result.kind not in ("fresh", "size", "host"):
            raise CompileError(
                f"{name} returns a {type(result.value).__name__}; an exported program returns "
                f"arrays, numbers, text and containers of them (at {place})"
            )


def _weights(captured: Captured) -> dict[str, np.ndarray]:
    """The values now of the graph's inputs that are not arguments, by position."""
    found = {}
    for position, source in enumerate(captured.sources):
        if source.kind == "argument":
            continue
        type = captured.graph.inputs[position].type
        if source.expression is not None:
            continue
        if source.kind == "number":
            value = np.asarray(source.read((), {}), type.dtype.numpy)
        elif source.tensor is not None:
            value = source.tensor.detach().cpu().numpy()
        else:
            assert source.storage is not None
            base = Tensor._from_array(source.storage.base, source.storage.base_type, source.storage)
            value = base.detach().cpu().numpy()
        found[str(position)] = np.ascontiguousarray(value).reshape(value.shape)
    return found


def _tensors_file(tensors: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    write_tensors(file, tensors, {})
    return file.getvalue()


def _refuse_fixed_numbers(captured: Captured, declared: Varying, name: str) -> None:
    """A number that is to vary and does not, because the function asked Python what it is."""
    for condition in captured.host.conditions.values():
        place = condition.expression.place
        if condition.kind == "value" and isinstance(place, Argument):
            called = declared.numbers[place.position]
            raise CompileError(
                f"{name} was exported with {called} = {condition.expected}, and Python needs that "
                f"value (at {condition.location}): a loop over range({called}), an operation that "
                f"takes no number that varies; use flamec.fori_loop, or leave it out of dynamic"
            )


def _fixed_sizes(captured: Captured, declared: Varying, name: str) -> set[str]:
    """The symbols of sizes that vary only if the function allows it, which does not.

    CompileError for other sizes that are to vary, and of which the program serves one.
    """
    sizes = captured.trace.oracle.hints
    names = {symbol: called for called, symbol in declared.symbols.items()}
    fixed = set()
    for guard in captured.shape_guards:
        if guard.relation != "==" or not guard.holds or len(guard.symbols) != 1:
            continue
        (symbol,) = guard.symbols
        if symbol not in names or not guard.fixes(symbol, sizes[symbol]):
            continue
        called = names[symbol]
        size = sizes[symbol] * declared.declared[called].multiple_of
        if called not in declared.automatic:
            raise CompileError(
                f"{name}: {declared.unnamed.get(called, called)} is to vary, and the function "
                f"serves {size} alone, as in the examples (at {guard.location}); leave it out of "
                "dynamic, or say flamec.Dim.AUTO of it"
            )
        fixed.add(symbol)
    return fixed


def _refuse_other_examples(
    captured: Captured, declared: Varying, leaves: list[Any], bindings: Mapping[str, int]
) -> None:
    """ValueError if the program would refuse the examples: small sizes are traced as larger ones,
    and something was decided by these."""
    numbers = captured.host.conditions.values()
    conditions = _number_conditions(captured)
    broken = [
        *(guard.location for guard in captured.shape_guards if not guard.check(bindings)),
        *(s.location for s in captured.host.sizes.found if bindings[s.symbol] < 0),
        *(
            condition.location
            for condition, data in zip(numbers, conditions, strict=True)
            if not NumberCondition.of(data, declared.numbers).holds(leaves, bindings)
        ),
    ]
    if broken:
        sizes = ", ".join(f"{name} = {declared.examples[name]}" for name in declared.symbols)
        raise ValueError(
            f"export: {captured.name} decides something by sizes (at {broken[0]}) that is not so "
            f"for the examples, {sizes}: it was traced for sizes larger than 1, and than 1 times "
            "what they are multiples of; give such examples"
        )


def _described_host_sizes(captured: Captured) -> list[dict[str, Any]]:
    """What numbers of the call give the symbols that are no sizes of arguments."""
    return [
        {
            "symbol": size.symbol,
            "sign": size.sign,
            "value": encode(size.expression, captured.name),
        }
        for size in captured.host.sizes.found
    ]


def _described_leaf(
    captured: Captured, declared: Varying, position: int, leaf: Any
) -> dict[str, Any]:
    if isinstance(leaf, Tensor):
        return _described(captured.argument_types[position])
    if position not in declared.numbers:
        return _constant(leaf)
    return _described_number(type(leaf), declared.declared.get(declared.numbers[position]))


def _described_number(kind: type, dim: Dim | None) -> dict[str, Any]:
    bounds = {} if dim is None else {"bounds": [dim.min, dim.max, dim.multiple_of]}
    return {"number": kind.__name__, **bounds}


def _facts(
    captured: Captured, declared: Varying, leaves: list[Any], names: list[str]
) -> dict[str, Any]:
    graph = captured.graph
    return {
        "version": VERSION,
        "name": captured.name,
        "device": str(graph_device(graph)),
        "arguments": _numbered(captured.structure),
        "argument_names": names,
        "leaves": [_described_leaf(captured, declared, i, x) for i, x in enumerate(leaves)],
        "inputs": [
            {"leaf": s.position if s.kind == "argument" else -1, **_described(v.type)}
            | ({} if s.expression is None else {"value": encode(s.expression, captured.name)})
            for s, v in zip(captured.sources, graph.inputs, strict=True)
        ],
        "outputs": [_described(v.type) for v in graph.outputs],
        "symbols": list(captured.symbols),
        "sizes": {
            symbol: {
                "name": _shown_name(name, symbol, declared),
                **_described_number(int, declared.declared[name]),
            }
            for name, symbol in declared.symbols.items()
        },
        "number_conditions": _number_conditions(captured),
        "conditions": [
            [format_dim(g.left), g.relation, format_dim(g.right), g.holds]
            for g in captured.shape_guards
        ],
        "results": [
            {"output": r.position}
            if r.kind == "fresh"
            else _described_size(r.value)
            if r.kind == "size"
            else {"value": encode(r.value, captured.name)}
            if r.kind == "host"
            else _constant(r.value)
            for r in captured.results
        ],
        "result_structure": _numbered(captured.result_structure),
    }


def _shown_name(name: str, symbol: str, declared: Varying) -> str:
    if name in declared.unnamed:
        return symbol
    return f"({name})" if " " in name and name in declared.derived else name


def _number_conditions(captured: Captured) -> list[dict[str, Any]]:
    return [
        {
            "kind": c.kind,
            "of": encode(c.expression, captured.name),
            "expected": c.expected.__name__ if c.kind == "type" else _constant(c.expected),
        }
        for c in captured.host.conditions.values()
    ]


def _described_size(size: SymbolicDim | Size) -> dict[str, Any]:
    if isinstance(size, Size):
        return {"shape": [format_dim(dim) for dim in size]}
    return {"size": format_dim(size)}


def _described(type: TensorType) -> dict[str, Any]:
    return {
        "dtype": type.dtype.name,
        "shape": [d if isinstance(d, int) else format_dim(d) for d in type.shape],
        "device": str(type.device),
    }


def _constant(value: Any) -> dict[str, Any]:
    try:
        return {"constant": json_structure.encode(value, {})}
    except TypeError as error:
        raise CompileError(
            f"an exported program cannot have a {type(value).__name__} as argument "
            f"(at {user_location()})"
        ) from error


def _numbered(structure: Structure) -> Any:
    """A structure as JSON, with the numbers of its leaves in their places."""
    return json_structure.encode(unflatten(structure, iter(range(structure.leaf_count))), {})
