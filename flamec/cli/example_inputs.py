"""Example arguments of the function that a command looks at.

They come from the first of: ``--input`` on the command line, the ``inputs=`` argument of
``flamec.compile``, a function ``flamec_inputs_NAME()`` or ``flamec_inputs()`` in the
file. A function without required parameters needs none.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import typer

from flamec.cli.target import Target, user_code
from flamec.ir.types import DType, dtype_named
from flamec.tensor import Tensor

HELP = (
    'An example argument, once for each: "float32[16,10]", "int64[16]<2" (integers below 2), '
    '"float32[3] grad", "mask=bool[16]" (by name), or a Python value such as 0.5. '
    "Tensors get random data."
)
DEFAULT_BOUND = 10

_TENSOR = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<dtype>[a-z]+\d*)\[(?P<shape>[\d,\s]*)\]"
    r"(?:\s*<\s*(?P<bound>\d+))?(?P<grad>\s+grad)?"
)
_NAMED = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.+)", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """Arguments of one call, and where they came from."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    origin: str


def example_inputs(target: Target, texts: Sequence[str], seed: int = 0) -> Example:
    """The arguments for ``target``; typer.BadParameter if nothing says what they are."""
    if texts:
        return _from_texts(texts, seed)
    decorator = target.function.example_inputs
    if decorator is not None:
        with user_code("the function given as inputs="):
            return as_example(decorator(), "inputs=")
    signature = inspect.signature(target.function.function)
    if not signature.parameters:
        return Example((), {}, "no arguments")
    for name in (f"flamec_inputs_{target.name.replace('.', '_')}", "flamec_inputs"):
        function = getattr(target.module, name, None)
        if function is not None:
            with user_code(f"{name}()"):
                return as_example(function(), f"{name}()")
    required = [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        raise typer.BadParameter(
            f"{target.name}{signature} needs example arguments. Give them with\n"
            f'  --input "float32[16,10]" (once for each of {", ".join(required)}),\n'
            "  @flamec.compile(inputs=lambda: (...)), or\n"
            "  a function flamec_inputs() in the file that returns a tuple."
        )
    return Example((), {}, "no arguments")


def as_example(value: Any, origin: str) -> Example:
    """What an inputs function returned: a tuple of arguments, a dict of them, or one argument."""
    if isinstance(value, tuple):
        return Example(value, {}, origin)
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return Example((), value, origin)
    return Example((value,), {}, origin)


def _from_texts(texts: Sequence[str], seed: int) -> Example:
    generator = np.random.default_rng(seed)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        name, value = parse_input(text, generator)
        if name is None:
            args.append(value)
        else:
            kwargs[name] = value
    return Example(tuple(args), kwargs, "--input")


def parse_input(text: str, generator: np.random.Generator) -> tuple[str | None, Any]:
    """One ``--input`` as (name or None, value); typer.BadParameter if it cannot be understood."""
    match = _TENSOR.fullmatch(text.strip())
    if match is not None:
        try:
            dtype = dtype_named(match["dtype"])
        except (KeyError, ValueError) as error:
            raise typer.BadParameter(f"{text!r}: {error}") from None
        sizes = [part for part in match["shape"].replace(" ", "").split(",") if part]
        bound = int(match["bound"]) if match["bound"] else DEFAULT_BOUND
        tensor = random_tensor(dtype, tuple(map(int, sizes)), bound, generator)
        if match["grad"]:
            if not dtype.is_floating_point:
                raise typer.BadParameter(f"{text!r}: only floating-point tensors take gradients")
            tensor._requires_grad = True
        return match["name"], tensor
    named = _NAMED.fullmatch(text.strip())
    name, literal = (named["name"], named["value"]) if named else (None, text)
    try:
        return name, ast.literal_eval(literal.strip())
    except (ValueError, SyntaxError):
        raise typer.BadParameter(
            f'{text!r} is neither a tensor such as "float32[16,10]" nor a Python value'
        ) from None


def random_tensor(
    dtype: DType, shape: tuple[int, ...], bound: int, generator: np.random.Generator
) -> Tensor:
    """Normal floats, integers in [0, bound), or coin flips."""
    if dtype.is_floating_point:
        values = generator.standard_normal(shape)
    elif dtype.name == "bool":
        values = generator.integers(0, 2, shape)
    else:
        values = generator.integers(0, max(bound, 1), shape)
    return Tensor._from_array(np.asarray(values).astype(dtype.numpy))
