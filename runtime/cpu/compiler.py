"""Turn C source into a shared object with the compiler of this machine.

In: C text. Out: the bytes of a shared object, or a ``CompileError`` that shows the
command, what the compiler said and where the source was kept. Finding and identifying a
compiler starts no process, so a warm start costs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

INCLUDE_FOLDER = Path(__file__).parent

# Not -ffast-math: it breaks NaN and infinities. Integers wrap; one arena serves all types,
# hence no strict aliasing.
TARGET_FLAGS = (
    "-std=gnu11",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-Wno-psabi",
)
NO_CONTRACTION = ("-ffp-contract=off",)  # a product is rounded before it is added to something
_LINK_FLAGS = ("-fPIC", "-shared", "-pthread")
_MESSAGE_LINES = 40
_INSTALL_HINT = (
    "install gcc or clang with the system's package manager, or run `pip install ziglang`, "
    "which holds a C compiler"
)


class CompileError(RuntimeError):
    """The C compiler failed.

    Attributes: ``command``, ``output`` (all that it printed), ``source_path`` (the kept source).
    """

    def __init__(self, command: Sequence[str], output: str, source_path: Path | None) -> None:
        self.command = tuple(command)
        self.output = output
        self.source_path = source_path
        lines = output.strip().splitlines() or ["(it printed nothing)"]
        excerpt = lines[:_MESSAGE_LINES]
        if len(lines) > len(excerpt):
            excerpt.append(f"... {len(lines) - len(excerpt)} more lines")
        kept = f"\nthe source was kept in {source_path}" if source_path else ""
        super().__init__(
            f"the C compiler failed: {shlex.join(self.command)}\n" + "\n".join(excerpt) + kept
        )


class NoCompilerError(RuntimeError):
    """This machine has no C compiler, or the one asked for is not there."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A command that takes gcc's arguments.

    ``identity`` changes when the compiler, its target flags or this processor's features do.
    """

    command: tuple[str, ...]
    identity: str

    @property
    def name(self) -> str:
        return shlex.join(self.command)

    def version(self) -> str:
        """The first line of what the compiler says about itself (starts a process)."""
        done = subprocess.run(
            [*self.command, "--version"], capture_output=True, text=True, check=False
        )
        lines = (done.stdout or done.stderr).splitlines()
        return lines[0] if lines else "unknown"


def find_compiler(explicit: str | None = None, environment_cc: str | None = None) -> Compiler:
    """The first of: ``explicit``, ``environment_cc``, cc, gcc, clang, the ziglang package.

    ``explicit`` and ``environment_cc`` are command lines (``"clang"``, ``"ccache gcc -m64"``).
    NoCompilerError if the one asked for does not exist, or if none is found.
    """
    for asked in (explicit, environment_cc):
        if asked:
            command = tuple(shlex.split(asked))
            path = shutil.which(command[0])
            if path is None:
                raise NoCompilerError(
                    f"the C compiler {asked!r} was asked for, but {command[0]!r} is not on the "
                    f"path; {_INSTALL_HINT}"
                )
            return _identified((path, *command[1:]), Path(path))
    for name in ("cc", "gcc", "clang"):
        path = shutil.which(name)
        if path is not None:
            return _identified((path,), Path(path))
    zig = importlib.util.find_spec("ziglang")
    if zig is not None and zig.origin is not None:
        return _identified((sys.executable, "-m", "ziglang", "cc"), Path(zig.origin).parent / "zig")
    raise NoCompilerError(f"no C compiler was found (cc, gcc, clang, ziglang); {_INSTALL_HINT}")


def _identified(command: tuple[str, ...], binary: Path) -> Compiler:
    file = binary.resolve()
    status = file.stat()
    facts = (
        *command[1:],
        str(file),
        str(status.st_size),
        str(status.st_mtime_ns),
        *TARGET_FLAGS,
        *_LINK_FLAGS,
        processor_features(),
    )
    return Compiler(command, _digest("\0".join(facts).encode()))


@lru_cache(maxsize=1)
def processor_features() -> str:
    """What ``-march=native`` depends on: the processor's family, model and feature flags."""
    wanted = (
        "vendor_id",
        "cpu family",
        "model",
        "flags",
        "CPU implementer",
        "CPU part",
        "Features",
    )
    found = [platform.machine()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        with cpuinfo.open() as lines:
            for line in lines:
                if not line.strip():
                    break  # one processor is enough
                name, _, value = line.partition(":")
                if name.strip() in wanted:
                    found.append(value.strip())
    return "|".join(found)


@lru_cache(maxsize=1)
def header_digest() -> str:
    """A hash over the header files that a program may include."""
    digest = hashlib.sha256()
    for header in sorted(INCLUDE_FOLDER.glob("*.h")):
        digest.update(header.name.encode() + b"\0" + header.read_bytes())
    return digest.hexdigest()


def library_key(compiler: Compiler, source: str, flags: Sequence[str] = ()) -> str:
    """The cache key of what ``compile_library`` gives for the same arguments."""
    return local_key(compiler, portable_key(source, flags))


def portable_key(source: str, flags: Sequence[str] = ()) -> str:
    """The part of ``library_key`` that is the same with every compiler and on every processor."""
    return _digest("\0".join((header_digest(), *flags, source)).encode())


def local_key(compiler: Compiler, portable: str) -> str:
    """The cache key here of what has this name on all machines."""
    return _digest(f"{compiler.identity}\0{portable}".encode())


def compile_library(
    compiler: Compiler,
    source: str,
    flags: Sequence[str] = (),
    keep_folder: Path | None = None,
) -> bytes:
    """The bytes of a shared object made from ``source``.

    ``flags`` come after the target flags. CompileError if the compiler fails; the source is
    then kept in ``keep_folder`` (or the system's folder for temporary files).
    """
    with tempfile.TemporaryDirectory(prefix="flamec-", ignore_cleanup_errors=True) as folder:
        source_path = Path(folder) / "program.c"
        library_path = Path(folder) / "program.so"
        command = [
            *compiler.command,
            *TARGET_FLAGS,
            *flags,
            *_LINK_FLAGS,
            f"-I{INCLUDE_FOLDER}",
            str(source_path),
            "-o",
            str(library_path),
            "-lm",
        ]
        here = ["env", f"TMPDIR={folder}"]  # so nothing is left of a compiler that is killed
        try:
            source_path.write_text(source)
            done = _run([*here, *command])
        except OSError as error:
            raise CompileError(command, str(error), _keep(source, keep_folder)) from error
        if done.returncode != 0 or not library_path.exists():
            output = done.stderr + done.stdout
            if done.returncode < 0:
                output += f"\nthe compiler was ended by signal {-done.returncode}"
            raise CompileError(command, output, _keep(source, keep_folder))
        return library_path.read_bytes()


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The outcome of a command. If waiting for it is interrupted, it ends with all that it has
    started: a compiler's parts would go on to write to a folder that is being deleted."""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        command, text=True, errors="replace", process_group=0, **options
    ) as process:
        try:
            output, errors = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def compile_assembly(compiler: Compiler, source: str, flags: Sequence[str] = ()) -> str:
    """The assembly text of ``source``, for people to read; CompileError as above."""
    command = [*compiler.command, *TARGET_FLAGS, *flags, f"-I{INCLUDE_FOLDER}", "-fPIC"]
    command += ["-S", "-x", "c", "-", "-o", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(command, done.stderr, _keep(source, None))
    return done.stdout


def _keep(source: str, folder: Path | None) -> Path | None:
    """Where the source lies, None if it cannot be written: the compiler's failure is the news."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="flamec-failed-", suffix=".c", dir=folder)
        with os.fdopen(handle, "w") as file:
            file.write(source)
    except OSError:
        return None
    return Path(name)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
