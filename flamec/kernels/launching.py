"""What a user's caller does, recorded: launches of Triton kernels and calls of C functions.

In: the caller, run once for each choice of types, with ``ArrayArgument``s. Out: data
(``ir/user_kernel.py``). Nothing is launched here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flamec.codegen.lower.lanes import memory_type
from flamec.codegen.triton.source import ALIGNMENT
from flamec.codegen.triton.text import POINTERS
from flamec.ir.op import Attributes, Types
from flamec.ir.plan import KernelSource
from flamec.ir.shape import Dim, SymbolicDim, is_multiple
from flamec.ir.user_kernel import (
    ArrayArgument,
    CForm,
    FunctionCall,
    KernelArgument,
    KernelLaunch,
)
from flamec.kernels.triton_source import TritonFunction

_OPTIONS = frozenset(("num_warps", "num_stages", "num_ctas", "maxnreg"))
_DEFAULTS = {"num_warps": 4, "num_stages": 3}


def array_arguments(names: Sequence[str], operands: Types, results: Types) -> list[ArrayArgument]:
    """What a caller is given: operands, then results."""
    pairs = zip(operands, names, strict=True)
    found = [ArrayArgument(i, type, name) for i, (type, name) in enumerate(pairs)]
    count = len(operands)
    return [*found, *(ArrayArgument(count + i, t, f"result {i}") for i, t in enumerate(results))]


class TritonLauncher:
    """``kernel[grid](*arguments, CONSTANT=..., num_warps=...)``, as in Triton, only recorded."""

    def __init__(self, function: TritonFunction, launches: list[KernelLaunch]) -> None:
        self._function = function
        self._launches = launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **named: Any) -> None:
            self._launches.append(_launch(self._function, grid, arguments, named))

        return launch


def _launch(
    function: TritonFunction, grid: Any, arguments: Sequence[Any], named: Mapping[str, Any]
) -> KernelLaunch:
    options = {**_DEFAULTS, **{k: v for k, v in named.items() if k in _OPTIONS}}
    given = dict(zip(function.parameters, arguments, strict=False))
    if len(arguments) > len(function.parameters):
        raise TypeError(
            f"{function.name} takes {len(function.parameters)} arguments, {len(arguments)} were "
            "given"
        )
    for name, value in named.items():
        if name in _OPTIONS and name not in function.parameters:
            continue
        if name not in function.parameters:
            raise TypeError(f"{function.name} has no parameter {name!r}")
        if name in given:
            raise TypeError(f"{function.name} was given {name!r} twice")
        given[name] = value
    given = {**function.defaults, **given}
    missing = [n for n in function.parameters if n not in given]
    if missing:
        raise TypeError(f"{function.name} was not given {', '.join(missing)}")
    parameters: list[tuple[str, str]] = []
    constants: dict[str, Any] = {}
    aligned: list[str] = []
    passed: list[KernelArgument] = []
    for name in function.parameters:
        value = given[name]
        if name in function.constants:
            constants[name] = _constant(function, name, value)
            parameters.append((name, "constexpr"))
            continue
        kind, value, even = _argument(function, name, value)
        parameters.append((name, kind))
        passed.append(value)
        if even:
            aligned.append(name)
    source = KernelSource(
        function.text, function.name, tuple(parameters), constants, tuple(aligned), options
    )
    return KernelLaunch(source, _grid(function, grid, constants), tuple(passed))


def _constant(function: TritonFunction, name: str, value: Any) -> Any:
    if isinstance(value, SymbolicDim):
        return int(value)  # a guard while tracing: the program is for this size alone
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"{function.name}: the constant {name} cannot be a {type(value).__name__}; numbers, flags "
        "and text can"
    )


def _argument(function: TritonFunction, name: str, value: Any) -> tuple[str, KernelArgument, bool]:
    """The kind of a parameter, its value, and whether it is a multiple of 16."""
    if isinstance(value, ArrayArgument):
        return POINTERS[memory_type(value.dtype)], value, True
    if isinstance(value, bool):
        return "i32", int(value), False
    if isinstance(value, int):
        small = -(1 << 31) <= value < 1 << 31
        return "i32" if small else "i64", value, value % ALIGNMENT == 0
    if isinstance(value, SymbolicDim):
        return "i64", value, is_multiple(value, ALIGNMENT)
    if isinstance(value, float):
        return "fp32", value, False
    raise TypeError(
        f"{function.name}: the argument {name} cannot be a {type(value).__name__}; arrays and "
        "numbers can"
    )


def _grid(
    function: TritonFunction, grid: Any, constants: Mapping[str, Any]
) -> tuple[Dim, Dim, Dim]:
    if callable(grid):
        grid = grid(dict(constants))
    dims = tuple(grid) if isinstance(grid, (tuple, list)) else (grid,)
    plain = all(isinstance(d, (int, SymbolicDim)) and not isinstance(d, bool) for d in dims)
    if not plain or not 1 <= len(dims) <= 3:
        raise TypeError(f"{function.name}: a grid is one to three integers, not {grid!r}")
    x, y, z = (*dims, 1, 1)[:3]
    return x, y, z


def triton_form(
    functions: Sequence[TritonFunction],
    caller: Callable[..., Any],
    names: Sequence[str],
    operands: Types,
    results: Types,
    attributes: Attributes,
) -> tuple[KernelLaunch, ...]:
    """The launches that ``caller(*kernels, *operands, *results, **attributes)`` makes."""
    launches: list[KernelLaunch] = []
    kernels = [TritonLauncher(f, launches) for f in functions]
    arrays = array_arguments(names, operands, results)
    caller(*kernels, *arrays, **attributes)
    _check_results(arrays[len(operands) :], launches, "launch")
    return tuple(launches)


class CProgram:
    """``program.function(*arguments)`` or ``program.function[jobs](*arguments)``, recorded."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self.calls: list[FunctionCall] = []

    def __getattr__(self, function: str) -> CFunction:
        if function.startswith("_"):
            raise AttributeError(function)
        if not re.search(rf"\b{re.escape(function)}\b", self._text):
            raise TypeError(f"the C text of {self._name} has no function {function!r}")
        return CFunction(self._name, function, self.calls)


class CFunction:
    """A function of the C text; ``function[jobs]`` divides its work among threads."""

    def __init__(
        self, kernel: str, function: str, calls: list[FunctionCall], jobs: Dim | None = None
    ) -> None:
        self._kernel, self._function, self._calls, self._jobs = kernel, function, calls, jobs

    def __getitem__(self, jobs: Any) -> CFunction:
        if not isinstance(jobs, (int, SymbolicDim)):
            raise TypeError(
                f"{self._kernel}: the number of jobs of {self._function} is an integer, not "
                f"{jobs!r}"
            )
        return CFunction(self._kernel, self._function, self._calls, jobs)

    def __call__(self, *arguments: Any) -> None:
        for value in arguments:
            if not isinstance(value, (ArrayArgument, int, float, SymbolicDim)):
                raise TypeError(
                    f"{self._kernel}: {self._function} cannot be given a {type(value).__name__}; "
                    "arrays and numbers can"
                )
        self._calls.append(FunctionCall(self._function, tuple(arguments), self._jobs))


def c_form(
    kernel: str,
    text: str,
    caller: Callable[..., Any],
    names: Sequence[str],
    operands: Types,
    results: Types,
    attributes: Attributes,
) -> CForm:
    """The calls that ``caller(program, *operands, *results, **attributes)`` makes."""
    program = CProgram(kernel, text)
    arrays = array_arguments(names, operands, results)
    caller(program, *arrays, **attributes)
    _check_results(arrays[len(operands) :], program.calls, "call")
    return CForm(text, tuple(program.calls))


def _check_results(
    results: Sequence[ArrayArgument],
    calls: Sequence[FunctionCall] | Sequence[KernelLaunch],
    what: str,
) -> None:
    """TypeError for a result with elements that nothing can write: its memory is whatever it is."""
    given = {a.index for call in calls for a in call.arguments if isinstance(a, ArrayArgument)}
    for result in results:
        if result.index not in given and 0 not in result.shape:
            raise TypeError(
                f"the caller gives {result.name} ({result.type}) to no {what}, so nothing writes it"
            )


def cdiv(a: Dim, b: Dim) -> Dim:
    """``a / b`` rounded up, for sizes that may be symbolic: blocks of ``b`` that cover ``a``."""
    result: Dim = -(-a // b)
    return result


def next_power_of_2(size: Dim) -> int:
    """The least power of two not below ``size``; while tracing a symbolic size is guarded."""
    return 1 << max(0, int(size) - 1).bit_length()
