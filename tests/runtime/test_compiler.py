"""Finding a compiler, its identity, and errors that a person can act on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from flamec.runtime.cpu import compiler as compiler_module
from flamec.runtime.cpu.compiler import (
    CompileError,
    Compiler,
    NoCompilerError,
    compile_assembly,
    compile_library,
    find_compiler,
    library_key,
)

GOOD = "int64_t answer(void) { return 42; }"


def test_a_compile_error_shows_command_message_and_source(
    compiler: Compiler, tmp_path: Path
) -> None:
    source = '#include "flamec_vector.h"\nint broken(void) { return undeclared_name; }\n'
    with pytest.raises(CompileError) as caught:
        compile_library(compiler, source, keep_folder=tmp_path / "kept")
    error = caught.value
    assert "undeclared_name" in str(error)
    assert compiler.command[0] in str(error)
    assert error.source_path is not None
    assert str(error.source_path) in str(error)
    assert error.source_path.read_text() == source
    assert error.source_path.parent == tmp_path / "kept"


def test_a_long_message_is_cut_and_kept_whole(compiler: Compiler, tmp_path: Path) -> None:
    source = "\n".join(f"int f{i}(void) {{ return missing_{i}; }}" for i in range(100))
    with pytest.raises(CompileError, match="more lines") as caught:
        compile_library(compiler, source, keep_folder=tmp_path)
    assert "missing_99" in caught.value.output


def test_a_compiler_that_cannot_be_started(tmp_path: Path) -> None:
    program = tmp_path / "cc"
    program.write_text("not a program")
    program.chmod(0o755)
    with pytest.raises(CompileError):
        compile_library(find_compiler(str(program)), GOOD, keep_folder=tmp_path)


def test_a_compiler_that_fails_in_silence(tmp_path: Path) -> None:
    program = tmp_path / "cc"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(CompileError, match="printed nothing"):
        compile_library(find_compiler(str(program)), GOOD, keep_folder=tmp_path)


def test_a_compiler_that_is_killed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, temporary = tmp_path / "cc", tmp_path / "temporary"
    program.write_text('#!/bin/sh\n: > "$TMPDIR/ccAbCdEf.s"\nkill -9 $$\n')
    program.chmod(0o755)
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(compiler_module.tempfile, "tempdir", str(temporary))
    with pytest.raises(CompileError, match="signal 9"):
        compile_library(find_compiler(str(program)), GOOD, keep_folder=tmp_path / "kept")
    assert not list(temporary.iterdir())


def test_a_compiler_that_is_interrupted_ends_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts write to the folder that is deleted then: KeyboardInterrupt, and no other error."""
    monkeypatch.setattr(compiler_module.tempfile, "tempdir", str(tmp_path))
    part = (
        "while [ $((n += 1)) -lt 30000 ]; do : > $TMPDIR/part$n; [ $n = 500 ] && kill -INT $0; done"
    )
    compiler = Compiler(("sh", "-c", f"sh -c '{part}' {os.getpid()} & wait"), "")
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            compile_library(compiler, "int x;", ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.iterdir())


def test_a_source_that_cannot_be_written(compiler: Compiler, tmp_path: Path) -> None:
    """The compiler's failure is told, not that of keeping the source."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CompileError, match="undeclared_name") as caught:
        compile_library(
            compiler, "int f(void) { return undeclared_name; }", keep_folder=tmp_path / "file" / "a"
        )
    assert caught.value.source_path is None


def test_without_any_compiler_the_error_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiler_module.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiler_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoCompilerError, match="pip install ziglang"):
        find_compiler()
    with pytest.raises(NoCompilerError, match="'clang-99' was asked for"):
        find_compiler(environment_cc="clang-99")


def test_the_order_of_choice(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert find_compiler(first, second).command == (first,)
    assert find_compiler(None, second + " -m64").command == (second, "-m64")


def test_ziglang_is_the_last_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "ziglang"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "zig").write_text("binary")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compiler_module.shutil, "which", lambda name: None)
    assert find_compiler().command[1:] == ("-m", "ziglang", "cc")


def test_identity_follows_the_compilers_file(tmp_path: Path) -> None:
    program = tmp_path / "cc"
    program.write_text("#!/bin/sh\n# 1\n")
    program.chmod(0o755)
    before = find_compiler(str(program))
    assert find_compiler(str(program)) == before
    assert find_compiler(f"{program} -O1").identity != before.identity
    program.write_text("#!/bin/sh\n# two\n")
    assert find_compiler(str(program)).identity != before.identity


def test_identifying_a_compiler_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    library_key(find_compiler(), GOOD)


def test_keys_differ_by_source_and_flags(compiler: Compiler) -> None:
    keys = {
        library_key(compiler, GOOD),
        library_key(compiler, GOOD + " "),
        library_key(compiler, GOOD, ["-O1"]),
    }
    assert len(keys) == 3


def test_the_key_follows_the_headers(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = library_key(compiler, GOOD)
    monkeypatch.setattr(compiler_module, "INCLUDE_FOLDER", tmp_path)
    compiler_module.header_digest.cache_clear()
    try:
        assert library_key(compiler, GOOD) != before
    finally:
        compiler_module.header_digest.cache_clear()


def test_version_and_assembly_are_readable(compiler: Compiler) -> None:
    assert any(character.isdigit() for character in compiler.version())
    text = compile_assembly(compiler, '#include "flamec_vector.h"\n' + GOOD)
    assert "answer:" in text
