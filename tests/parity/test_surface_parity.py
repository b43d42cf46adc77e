"""The list of PyTorch's names (``flamec/cli/tier1.txt``): PyTorch has each, flamec has each, and
arguments have PyTorch's names, order and defaults.

Signatures come from Python where PyTorch has them there, else from the stubs that it is installed
with, which list every overload of its built-in functions.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flamec.cli import coverage
from flamec.cli.coverage import Name

torch = pytest.importorskip("torch")

OWN = {"optim.Lion"}  # names that PyTorch lacks


def theirs(name: Name) -> Any:
    if name.place == "data":
        name = dataclasses.replace(name, place="utils.data")
    return coverage.find(name, "torch")


def test_the_list_names_each_thing_once() -> None:
    names = coverage.names()
    assert len(names) == len(set(names)) > 1500


@pytest.mark.parametrize("family", coverage.families())
def test_every_name_is_there(family: str) -> None:
    missing = [str(n) for n in coverage.families()[family] if not coverage.is_present(n)]
    assert not missing


@pytest.mark.parametrize("family", coverage.families())
def test_every_name_is_pytorchs(family: str) -> None:
    for name in coverage.families()[family]:
        if str(name) not in OWN:
            theirs(name)


# signatures ------------------------------------------------------------------------------
STUBS = {
    "flamec": ("_VariableFunctions.pyi", None),
    "Tensor": ("__init__.pyi", "TensorBase"),
}
HARDWARE = {"layout", "pin_memory", "memory_format", "names"}  # taken in **options, or absent


@cache
def stub(file: str, owner: str | None) -> dict[str, list[ast.FunctionDef]]:
    """The overloads of each function of a stub file, or of a class in it."""
    tree: Any = ast.parse((Path(torch.__file__).parent / "_C" / file).read_text())
    if owner is not None:
        tree = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == owner)
    result = defaultdict(list)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            result[node.name].append(node)
    return result


def is_obsolete(overload: ast.FunctionDef) -> bool:
    """A deprecated order of arguments, or names of dimensions, which nothing else supports."""
    arguments = [*overload.args.posonlyargs, *overload.args.args]
    text = " ".join(ast.unparse(a.annotation) for a in arguments if a.annotation)
    first = arguments[0].arg if arguments else ""
    last = [a.arg for a in arguments][1:2]
    return (
        "ellipsis" in text
        or "Sequence[str" in text
        or (first in ("beta", "self") and last and last[0] in ("self", "alpha", "value"))
        or any(a.arg in ("out_dtype", "implicit") for a in (*arguments, *overload.args.kwonlyargs))
    )


# (name, argument): why it differs from the stub
DIFFERENT = {
    # the stub has several overloads, ours takes them all under the name of one
    "randint": "overloads", "randint_like": "overloads", "Tensor.random_": "overloads",
    "isin": "overloads", "result_type": "overloads", "scatter": "overloads",
    "Tensor.scatter": "overloads", "Tensor.scatter_": "overloads", "tensor_split": "overloads",
    "Tensor.tensor_split": "overloads", "hsplit": "overloads", "vsplit": "overloads",
    "dsplit": "overloads", "Tensor.hsplit": "overloads", "Tensor.vsplit": "overloads",
    "Tensor.dsplit": "overloads", "repeat_interleave": "overloads",
    "remainder": "overloads", "pow": "overloads", "float_power": "overloads",
    "xlogy": "overloads", "bitwise_and": "overloads", "bitwise_or": "overloads",
    "bitwise_xor": "overloads", "bitwise_left_shift": "overloads", "searchsorted": "overloads",
    "bitwise_right_shift": "overloads", "bucketize": "overloads",
    # what the stub says is not what PyTorch's parser takes
    "tensor": "positional", "Tensor.new_tensor": "positional", "asarray": "requires_grad=None",
    "rsub": "alpha is positional for numbers", "subtract": "alpha is positional for numbers",
    "Tensor.subtract": "alpha is positional for numbers",
    "Tensor.subtract_": "alpha is positional for numbers",
    "numel": "input", "Tensor.requires_grad_": "requires_grad", "Tensor.copy_": "src",
    "promote_types": "type1, type2 are positional",
    # the function has more arguments, those of its namesake in nn.functional
    "rrelu": "inplace", "rrelu_": "generator", "Tensor.softmax": "_stacklevel",
    "Tensor.log_softmax": "_stacklevel",
    "linspace": "steps is required", "logspace": "steps is required",
    "trapezoid": "dx=None is 1", "trapz": "dx=None is 1", "cumulative_trapezoid": "dx=None is 1",
    "conv1d": "padding", "conv2d": "padding", "conv3d": "padding", "avg_pool1d": "stride=None",
    "max_pool1d": "stride=None", "max_pool2d": "stride=None", "max_pool3d": "stride=None",
    "roll": "dims=None is ()", "Tensor.roll": "dims=None is ()",
}  # fmt: skip


def differences(name: Name, overload: ast.FunctionDef) -> list[str]:
    """What a caller by PyTorch's stub would not find in our function."""
    ours = coverage.find(name)
    parameters = inspect.signature(ours).parameters
    kinds = {p.kind for p in parameters.values()}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    arguments = overload.args
    positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    found = []
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        mine = [p.name for p in parameters.values() if p.kind in by_place][: len(positional)]
        skipped = 1 if name.place == "Tensor" else 0
        if mine[skipped:] != positional[skipped:]:
            found.append(f"{name}: arguments {mine} instead of {positional}")
    for argument in arguments.kwonlyargs:
        known = argument.arg in parameters or takes_any or argument.arg in HARDWARE
        if argument.arg == "out":
            known = known or getattr(ours, "takes_out", False)
        if not known:
            found.append(f"{name}: no argument {argument.arg}")
    defaults = dict(
        zip(
            positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True
        )
    )
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None:
            defaults[argument.arg] = default
    for argument_name, default in defaults.items():
        if argument_name in parameters and argument_name not in HARDWARE:
            mine_default, text = parameters[argument_name].default, ast.unparse(default)
            if text != "..." and mine_default != ast.literal_eval(text):
                found.append(f"{name}: {argument_name}={mine_default!r} instead of {text}")
    return found


def stubbed() -> list[Name]:
    return [
        n
        for n in coverage.names()
        if n.place in STUBS and coverage.is_present(n) and n.name in stub(*STUBS[n.place])
        and not n.name.startswith("__") and callable(coverage.find(n))
    ]  # fmt: skip


def test_built_in_functions_have_pytorchs_arguments() -> None:
    problems: dict[str, list[str]] = {}
    for name in stubbed():
        for overload in stub(*STUBS[name.place])[name.name]:
            if not is_obsolete(overload):
                found = differences(name, overload)
                if found:
                    problems.setdefault(str(name), []).extend(found)
    unexpected = [
        text for name, found in problems.items() if name not in DIFFERENT for text in found
    ]
    assert not unexpected, "\n".join(unexpected)
    stale = set(DIFFERENT) - set(problems)
    assert not stale, f"these agree now: {sorted(stale)}"
    assert len(stubbed()) > 800


def parameters_of(thing: Any) -> list[tuple[str, Any, str]] | None:
    """Names, kinds and defaults (as text) of the arguments; None if Python does not know them."""
    try:
        signature = inspect.signature(thing.__init__ if isinstance(thing, type) else thing)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return None
    return [
        (p.name, p.kind, getattr(p.default, "__name__", str(p.default)).replace("flamec", "torch"))
        for p in parameters
    ]


# name -> why its arguments are not PyTorch's
OWN_ARGUMENTS = {
    "is_tensor": "may be named", "set_default_dtype": "may be named",
    "norm": "out= is keyword-only", "tensordot": "out= is keyword-only",
    "nn.functional.tanh": "has out=", "nn.functional.sigmoid": "has out=",
    "autograd.backward": "grad_variables has long been obsolete",
    "autograd.no_grad": "is a decorator without calling it, as PyTorch's is by __new__",
    "no_grad": "is a decorator without calling it, as PyTorch's is by __new__",
    "func.jacrev": "a private argument", "random.fork_rng": "private arguments",
    "data.random_split": "the default generator, by None",
    "save": "never pickles", "compile": "options of another compiler",
    "Tensor.__dlpack__": "options are handed on",
}  # fmt: skip
SELF = {"self", "input", "tensor", "obj"}


def test_functions_and_classes_in_python_have_pytorchs_arguments() -> None:
    problems = {}
    checked = 0
    for name in coverage.names():
        if str(name) in OWN or not coverage.is_present(name) or not callable(coverage.find(name)):
            continue
        wanted = parameters_of(theirs(name))
        if wanted is None:
            continue
        checked += 1
        mine = parameters_of(coverage.find(name))
        if name.place == "Tensor" and mine and mine[0][0] in SELF:
            mine, wanted = mine[1:], wanted[1:]
        if name.name.startswith("__") and mine is not None:  # only Python calls it
            mine, wanted = mine[: len(wanted)], mine[: len(wanted)]
        if mine != wanted:
            problems[str(name)] = f"{name}: {mine} instead of {wanted}"
    unexpected = [text for name, text in problems.items() if name not in OWN_ARGUMENTS]
    assert not unexpected, "\n".join(unexpected)
    stale = set(OWN_ARGUMENTS) - set(problems)
    assert not stale, f"these agree now: {sorted(stale)}"
    assert checked > 400
