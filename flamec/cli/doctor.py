"""``flamec doctor``: what works on this machine, and what to install where something does not.

Each check gives a ``Finding``. The command fails only if the core fails: if a compiled
function does not give the answer of the same function run eagerly.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.text import Text

from flamec.cli.console import (
    format_bytes,
    make_console,
    make_table,
    print_json,
    print_table,
)
from flamec.compiled_function import CompiledFunction
from flamec.config import CompileOptions, default_options
from flamec.dispatch import apply_named
from flamec.errors import CompileError
from flamec.prepared import VERSION
from flamec.runtime.cpu.blas import load_openblas, openblas_path
from flamec.runtime.cpu.compiler import CompileError as CompilerError
from flamec.runtime.cpu.compiler import (
    Compiler,
    NoCompilerError,
    compile_library,
    find_compiler,
)
from flamec.runtime.cpu.threads import available_cpus
from flamec.runtime.kernel_cache import KernelCache
from flamec.tensor import Tensor

_PACKAGES = ("numpy", "ml_dtypes", "networkx", "jinja2", "rich", "typer", "safetensors")
_PROBE = "int flamec_probe(int x) { return x + 1; }\n"
_STYLES = {"ok": "green", "warning": "yellow", "missing": "yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Finding:
    """``status``: "ok", "warning" (works, but worse), "missing" (optional), or "failed"."""

    name: str
    status: str
    detail: str
    advice: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Data for programs.")] = False,
) -> None:
    """Say what works on this machine and what to install if something does not.

    Exit code 0 if compiled functions give right answers here, else 1.
    """
    findings = examine(default_options())
    failed = any(f.status == "failed" for f in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(f) for f in findings]})
    else:
        console = make_console()
        table = make_table(("", "status", ""), ())
        for finding in findings:
            status = Text(finding.status, style=_STYLES[finding.status])
            table.add_row(Text(finding.name), status, Text(finding.detail))
            if finding.advice:
                table.add_row("", "", Text(f"-> {finding.advice}", style="italic"))
        print_table(console, table)
        console.print("\nflamec does not work here" if failed else "\nflamec works here")
    if failed:
        raise typer.Exit(1)


def examine(options: CompileOptions) -> list[Finding]:
    """All checks, in the order in which they are shown."""
    compiler, finding = _check_compiler(options)
    return [
        _versions(),
        *_packages(),
        finding,
        _check_program(options, compiler),
        _check_blas(),
        _check_cache(options),
        _check_threads(options),
        _check_triton(),
        _check_gpu(),
        *_optional_packages(),
    ]


def _versions() -> Finding:
    system = f"{platform.system()} {platform.machine()}"
    return Finding("flamec", "ok", f"{VERSION}, Python {platform.python_version()}, {system}")


def _packages() -> Iterator[Finding]:
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "failed", "not installed", f"pip install {name}")
    yield Finding("packages", "ok", ", ".join(versions))


def _check_compiler(options: CompileOptions) -> tuple[Compiler | None, Finding]:
    try:
        compiler = find_compiler(options.c_compiler)
    except NoCompilerError as error:
        advice = "apt install gcc, or pip install ziglang; until then programs run through NumPy"
        return None, Finding("C compiler", "warning", str(error), advice)
    try:
        _run_probe(compiler)
    except (CompilerError, OSError, ValueError) as error:
        advice = "set FLAMEC_CC to a working compiler, or pip install ziglang"
        return None, Finding("C compiler", "failed", f"{compiler.name}: {error}", advice)
    return compiler, Finding("C compiler", "ok", f"{compiler.name}: {compiler.version()}")


def _run_probe(compiler: Compiler) -> None:
    """Compile a function, load it and call it; ValueError for a wrong answer."""
    with tempfile.TemporaryDirectory(prefix="flamec-doctor-") as folder:
        path = Path(folder) / "probe.so"
        path.write_bytes(compile_library(compiler, _PROBE))
        answer = ctypes.CDLL(str(path)).flamec_probe(41)
    if answer != 42:
        raise ValueError(f"the compiled probe gave {answer} instead of 42")


def _check_program(options: CompileOptions, compiler: Compiler | None) -> Finding:
    """A whole compiled function against the same function run eagerly."""

    def probe(x: Tensor) -> Tensor:
        product = apply_named("mul", x, x)
        result: Tensor = apply_named("sum", apply_named("exp", product), axes=(1,))
        return result

    x = Tensor._from_array(np.linspace(-1.0, 1.0, 64, dtype=np.float32).reshape(4, 16))
    backend = "c" if compiler is not None and options.backend != "evaluate" else "evaluate"
    with tempfile.TemporaryDirectory(prefix="flamec-doctor-") as folder:
        function = CompiledFunction(
            probe, replace(options, backend=backend, cache_folder=Path(folder))
        )
        try:
            result = function(x)._array
        except (CompileError, OSError, RuntimeError) as error:
            return Finding("compiled function", "failed", f"{type(error).__name__}: {error}")
        count = function.stats.kernels_compiled
    expected = probe(x)._array
    if not np.allclose(np.asarray(result), np.asarray(expected), rtol=1e-5):
        return Finding("compiled function", "failed", "differs from the same function run eagerly")
    how = f"{count} kernels in C" if backend == "c" else "through NumPy"
    return Finding("compiled function", "ok", f"same answer as eager ({how})")


def _check_blas() -> Finding:
    advice = "pip install scipy-openblas32; until then matrix products run on plain loops"
    path = openblas_path()
    if path is None:
        return Finding("BLAS", "warning", "OpenBLAS is not installed", advice)
    try:
        blas = load_openblas(path)
    except OSError as error:
        return Finding("BLAS", "warning", f"{path.name} cannot be loaded: {error}", advice)
    version = importlib.metadata.version("scipy-openblas32")
    return Finding("BLAS", "ok", f"{blas.name} {version}")


def _check_cache(options: CompileOptions) -> Finding:
    folder = options.cache_folder
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cache = KernelCache(folder, options.cache_bytes)
        writable = not caught and os.access(folder, os.W_OK)
    if not writable:
        detail = str(caught[0].message) if caught else f"{folder} is read-only"
        return Finding("cache", "warning", detail, "set FLAMEC_CACHE_DIR to a folder of your own")
    used, bound = format_bytes(cache.total_bytes()), format_bytes(options.cache_bytes)
    return Finding("cache", "ok", f"{folder}: {used} of at most {bound}")


def _check_threads(options: CompileOptions) -> Finding:
    cpus = available_cpus()
    threads = options.threads or cpus
    detail = f"{threads} (this process may use {cpus} of {os.cpu_count()} processors)"
    if threads > cpus:
        return Finding("threads", "warning", detail, "FLAMEC_NUM_THREADS asks for too many")
    return Finding("threads", "ok", detail)


def _check_triton() -> Finding:
    if importlib.util.find_spec("triton") is None:
        return Finding("Triton", "missing", "not installed; needed for NVIDIA GPUs only")
    return Finding("Triton", "ok", importlib.metadata.version("triton"))


def _check_gpu() -> Finding:
    count = _cuda_devices()
    if not count:
        found = "no NVIDIA driver" if count is None else "no NVIDIA device"
        return Finding("GPU", "missing", f"{found}; flamec computes on the CPU")
    return Finding("GPU", "ok", f"{count} NVIDIA device{'s' if count > 1 else ''}")


def _cuda_devices() -> int | None:
    """How many devices the NVIDIA driver has; None without a driver."""
    name = ctypes.util.find_library("cuda")
    if name is None:
        return None
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return None
    count = ctypes.c_int(0)
    initialise: Callable[[int], int] = driver.cuInit
    if initialise(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _optional_packages() -> Iterator[Finding]:
    for module, package, purpose in (
        ("sklearn", "scikit-learn", "flamec demo"),
        ("torch", "torch", "comparisons in flamec bench"),
    ):
        if importlib.util.find_spec(module) is None:
            python = Path(sys.executable).name
            yield Finding(
                package,
                "missing",
                f"not installed; needed for {purpose} only",
                f"{python} -m pip install {package}",
            )
        else:
            yield Finding(package, "ok", importlib.metadata.version(package))
