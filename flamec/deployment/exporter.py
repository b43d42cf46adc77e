"""``export``: trace and compile a function, and write its program to one file.

In: a function, example arguments, which sizes vary. Out: a file that ``flamec.load`` runs with
NumPy arrays, without the function's Python code, tracing, Triton or a C compiler (on a processor
like this one). What the function read while it was traced (modules' weights, numbers, flags) is
in the file as it was then.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flamec.capture import Captured, Dynamic, capture
from flamec.config import default_options
from flamec.deployment import native_code
from flamec.deployment.archive import PROGRAM, write_archive
from flamec.errors import CompileError, user_location
from flamec.ir.shape import Dim, format_dim
from flamec.ir.types import TensorType
from flamec.preparation import prepare
from flamec.prepared import VERSION, Prepared, graph_device
from flamec.saving import structure as json_structure
from flamec.saving.files import write_atomically
from flamec.saving.safetensors_format import write as write_tensors
from flamec.structures import Structure, flatten, map_leaves, unflatten
from flamec.tensor import Size, Tensor

DynamicSizes = Mapping[str | int, Iterable[int] | Mapping[int, str]]


def export(
    function: Callable[..., Any],
    example_inputs: Sequence[Any],
    f: str | os.PathLike[str],
    *,
    dynamic: DynamicSizes | None = None,
    sizes: Sequence[Mapping[str, int]] = (),
    **options: Any,
) -> None:
    """Write a function or module, compiled for arguments like the examples, to the file ``f``.

    ``example_inputs``: the positional arguments, tensors or NumPy arrays in nested lists, tuples
    and dicts; numbers, text and flags become part of the program. ``dynamic``: for an argument
    (its position, or its name in the function) the axes whose sizes may vary, as axes or as
    ``{axis: name}``; sizes of one name are equal. ``sizes``: of a program for a GPU, values of all
    those names, for whose classes of sizes (COMPILE.md) the file has code of its own, as it has for
    the examples' sizes; other sizes run code for all. On the CPU one code serves all sizes.
    ``options``: fields of ``CompileOptions``. The file appears whole or not at all.

    The function may change captured tensors in place (a module's running statistics, a random
    generator): a loaded program has its own copies, which its calls change. It is traced in the
    state that it is in: call ``eval()`` first on a module that is not to train.

    Raises CompileError for what a program without Python cannot do: writing to an argument,
    leaving gradients in ``.grad``, results that are no tensors, numbers, text or containers of
    them; ValueError for axes that the arguments do not have.

    >>> import flamec, numpy as np
    >>> model = flamec.nn.Linear(3, 2).eval()
    >>> path = getfixture("tmp_path") / "linear.flamec"  # doctest: +SKIP
    >>> flamec.export(model, (flamec.ones(4, 3),), path, dynamic={0: [0]})  # doctest: +SKIP
    >>> flamec.load(path)(np.ones((9, 3), np.float32)).shape  # doctest: +SKIP
    (9, 2)
    """
    arguments = tuple(map_leaves(_example, tuple(example_inputs)))
    leaves, _ = flatten((arguments, {}))
    names = _argument_names(function, len(arguments))
    varying, symbols = _dynamic_sizes(arguments, names, dynamic or {})
    named = _named_sizes(sizes, symbols)
    name = str(getattr(function, "__name__", type(function).__name__))
    captured = capture(_owned_results(function), arguments, {}, Dynamic(varying), name)
    _refuse_effects(captured, name)
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
    examples = _example_sizes(leaves, varying)
    kernels, facts = native_code.gather(prepared, captured.symbols, [examples, *named])
    members |= kernels
    facts |= _facts(captured, prepared, leaves, names)
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
        return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf

    def exported(*arguments: Any) -> Any:
        return map_leaves(owned, function(*arguments))

    return exported


def _argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """Names of the positional arguments, for ``dynamic`` and for errors."""
    forward = getattr(function, "forward", function)
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    if hasattr(forward, "__func__"):
        names = names[1:]
    return [names[i] if i < len(names) else f"argument {i}" for i in range(count)]


def _dynamic_sizes(
    arguments: tuple[Any, ...], names: list[str], dynamic: DynamicSizes
) -> tuple[dict[tuple[int, int], tuple[str, int]], dict[str, str]]:
    """``Dynamic.sizes``: the symbols by leaf and axis; and the symbols by the user's names."""
    found: dict[tuple[int, int], tuple[str, int]] = {}
    symbols: dict[str, str] = {}  # names of users may be no identifiers
    first = [0]
    for argument in arguments:
        first.append(first[-1] + len(flatten(argument)[0]))
    for key, axes in dynamic.items():
        position = names.index(key) if isinstance(key, str) and key in names else key
        if not isinstance(position, int) or not 0 <= position < len(arguments):
            raise ValueError(
                f"export: dynamic names the argument {key!r}; there are {', '.join(names)}"
            )
        argument = arguments[position]
        if not isinstance(argument, Tensor):
            raise ValueError(f"export: dynamic names {names[position]}, which is not a tensor")
        named = axes if isinstance(axes, Mapping) else {a: f"{position}.{a}" for a in axes}
        for axis, name in named.items():
            if not -argument.ndim <= axis < argument.ndim:
                raise ValueError(
                    f"export: {names[position]} has {argument.ndim} axes, dynamic names {axis}"
                )
            symbol = symbols.setdefault(name, f"s{len(symbols)}")
            size: Any = argument.shape[axis]
            example = size if size > 1 else 2 + len(symbols)
            found[first[position], axis % argument.ndim] = (symbol, example)
    return found, symbols


def _named_sizes(
    sizes: Sequence[Mapping[str, int]], symbols: Mapping[str, str]
) -> list[dict[str, int]]:
    """The values of the symbols for each choice of sizes."""
    for given in sizes:
        if set(given) != set(symbols):
            raise ValueError(
                f"export: sizes gives {', '.join(map(repr, given)) or 'nothing'}; dynamic names "
                f"{', '.join(map(repr, symbols)) or 'no axes'}"
            )
    return [{symbols[name]: int(size) for name, size in given.items()} for given in sizes]


def _example_sizes(
    leaves: Sequence[Any], varying: Mapping[tuple[int, int], tuple[str, int]]
) -> dict[str, int]:
    """The values of the symbols for the examples."""
    return {symbol: leaves[leaf].shape[axis] for (leaf, axis), (symbol, _) in varying.items()}


def _refuse_effects(captured: Captured, name: str) -> None:
    place = user_location()
    if captured.effects:
        raise CompileError(f"{name} cannot be exported: {captured.effects[0]} (at {place})")
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
        if not plain and result.kind not in ("fresh", "size"):
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
        if source.kind == "number":
            value = np.asarray(source.read(()), type.dtype.numpy)
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


def _facts(
    captured: Captured, prepared: Prepared, leaves: list[Any], names: list[str]
) -> dict[str, Any]:
    graph = captured.graph
    return {
        "version": VERSION,
        "name": captured.name,
        "device": str(graph_device(graph)),
        "arguments": _numbered(captured.structure),
        "argument_names": names,
        "leaves": [
            _described(captured.argument_types[i]) if isinstance(leaf, Tensor) else _constant(leaf)
            for i, leaf in enumerate(leaves)
        ],
        "inputs": [
            {"leaf": s.position if s.kind == "argument" else -1, **_described(v.type)}
            for s, v in zip(captured.sources, graph.inputs, strict=True)
        ],
        "outputs": [_described(v.type) for v in graph.outputs],
        "symbols": list(captured.symbols),
        "conditions": [
            [format_dim(g.left), g.relation, format_dim(g.right), g.holds]
            for g in captured.shape_guards
        ],
        "results": [
            {"output": r.position}
            if r.kind == "fresh"
            else _described_size(r.value)
            if r.kind == "size"
            else _constant(r.value)
            for r in captured.results
        ],
        "result_structure": _numbered(captured.result_structure),
    }


def _described_size(size: Dim | Size) -> dict[str, Any]:
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
