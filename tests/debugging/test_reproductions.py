"""A compilation that fails names its stage, leaves a file that shows it again, and stops."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

import broken_passes
import pytest
from own_process import run_python

import flamec
from flamec.codegen.c import emit
from flamec.codegen.lower import graph as lowered_groups
from flamec.config import default_options
from flamec.debugging.recording import MOST_FILES, save
from flamec.debugging.replay import failure_of, replay, signature_of, signature_of_error
from flamec.debugging.reproduction import Reproduction, read, to_text
from flamec.errors import CompileError, StageError
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.passes import pipeline as pipeline_module
from flamec.ir.types import TensorType, float32
from flamec.saving.errors import FileFormatError


def program(x: flamec.Tensor, w: flamec.Tensor) -> flamec.Tensor:
    hidden = flamec.tanh(x @ w) * 3.0
    return (hidden - hidden.exp()).sum(1)


def compiled(tmp_path: Path, **options: object) -> flamec.compiler.CompiledFunction:
    return flamec.compile(backend="c", cache_folder=tmp_path / "cache", **options)(program)


def call(f: flamec.compiler.CompiledFunction) -> flamec.Tensor:
    return f(flamec.ones(4, 3), flamec.ones(3, 5))


def failure(f: flamec.compiler.CompiledFunction) -> StageError:
    with pytest.raises(StageError) as caught:
        call(f)
    return caught.value


def python(path: Path, folder: Path, prologue: str = "") -> subprocess.CompletedProcess[str]:
    """Run a reproduction in a process of its own, after ``prologue``."""
    code = f"{prologue}\nimport runpy, sys\nrunpy.run_path(sys.argv[1], run_name='__main__')"
    command = ("-c", code, path) if prologue else (path,)
    return run_python(*command, cache=folder / "other", without=("CC",))


def test_a_pass_that_raises_names_itself_and_the_file_fails_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = compiled(tmp_path)
    with monkeypatch.context() as patch:
        broken_passes.break_pass(patch, "simplify", broken_passes.refuse_hyperbolic_tangents)
        error = failure(f)
        assert error.stage == "simplify"
        assert isinstance(error.cause, KeyError)
        assert re.search(r"test_reproductions\.py:\d+", str(error))
        path = error.reproduction
        assert path is not None
        assert f"python {path}" in str(error)
        assert path.parent == tmp_path / "cache" / "reproductions"
        found = read(path)
        assert found.stage == "simplify"
        assert "tanh" in {n.op.name for n in found.graph.nodes}
        assert "test_reproductions.py" in path.read_text()  # the user's lines
        again = failure_of(found)
        assert again is not None
        assert signature_of_error(again) == signature_of(found)
        assert again.reproduction is None
        assert replay(path)[0] == 1
    assert replay(path) == (0, f"nothing failed; the file was written for {found.failure}")
    assert call(f).shape == (4,)


def test_the_file_runs_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        broken_passes.break_pass(patch, "simplify", broken_passes.refuse_hyperbolic_tangents)
        path = failure(compiled(tmp_path)).reproduction
    assert path is not None
    assert python(path, tmp_path).returncode == 0  # where the pass is whole
    prologue = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n"
        "import broken_passes, pytest\n"
        "broken_passes.break_pass(pytest.MonkeyPatch(), 'simplify', "
        "broken_passes.refuse_hyperbolic_tangents)"
    )
    done = python(path, tmp_path, prologue)
    assert done.returncode == 1, done.stderr
    assert "the same failure" in done.stderr
    assert "KeyError" in done.stderr


def test_a_graph_that_breaks_an_invariant_names_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_a_node(graph: Graph) -> Graph:
        return Graph(graph.inputs, graph.nodes[1:], graph.outputs, graph.updates, graph.name)

    f = compiled(tmp_path, verify=True)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "autocast", lose_a_node)
        error = failure(f)
        assert error.stage == "autocast"
        assert "V2" in str(error.cause)
        assert error.reproduction is not None
        assert read(error.reproduction).options["verify"] is True
        assert replay(error.reproduction)[0] == 1


def test_failing_lowering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LookupError("no such value")

    with monkeypatch.context() as patch:
        patch.setattr(lowered_groups.GroupLowering, "lower", fail)
        error = failure(compiled(tmp_path))
        assert (error.stage, error.reproduction is not None) == ("lower", True)
        assert error.reproduction is not None
        assert replay(error.reproduction)[0] == 1


@pytest.mark.parametrize(
    ("owner", "name", "stage"),
    [(lowered_groups, "fuse", "fuse"), (emit.Emitter, "text", "emit")],
)
def test_any_exception_of_code_generation_names_its_stage(
    owner: object, name: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("nothing to divide by")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        error = failure(compiled(tmp_path))
        assert error.stage == stage
        assert "ZeroDivisionError" in str(error)
        assert error.reproduction is not None
        assert replay(error.reproduction)[0] == 1


def test_a_failing_c_compiler_in_this_and_another_process(tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'error: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    error = failure(compiled(tmp_path, c_compiler=str(broken)))
    assert error.stage == "compile"
    assert error.reproduction is not None
    done = python(error.reproduction, tmp_path)
    assert done.returncode == 1
    assert "out of order" in done.stderr
    broken.write_text('#!/bin/sh\nexec cc "$@"\n')
    assert python(error.reproduction, tmp_path).returncode == 0


def test_the_evaluator_names_a_failing_pass_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = flamec.compile(backend="evaluate", cache_folder=tmp_path / "cache")(program)
    with monkeypatch.context() as patch:
        broken_passes.break_pass(patch, "simplify", broken_passes.refuse_hyperbolic_tangents)
        assert failure(f).stage == "simplify"


def test_what_the_machine_lacks_is_no_failure_of_a_stage(tmp_path: Path) -> None:
    f = compiled(tmp_path, c_compiler=str(tmp_path / "nothing"))
    with pytest.raises(CompileError) as caught:
        call(f)
    assert not isinstance(caught.value, StageError)
    assert not (tmp_path / "cache" / "reproductions").exists()


def test_derivatives_written_in_python_do_not_hinder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Twice(flamec.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x.tanh()

        @staticmethod
        def backward(ctx, g):  # type: ignore[no-untyped-def]
            return 2 * g

    @flamec.compile(backend="c", cache_folder=tmp_path / "cache")
    def f(x: flamec.Tensor) -> flamec.Tensor:
        return Twice.apply(x).sum()

    with monkeypatch.context() as patch:
        broken_passes.break_pass(patch, "simplify", broken_passes.refuse_hyperbolic_tangents)
        with pytest.raises(StageError) as caught:
            f(flamec.ones(3, requires_grad=True))
        path = caught.value.reproduction
        assert path is not None
        assert replay(path)[0] == 1


# where files go ----------------------------------------------------------------------------


def test_the_folder_is_an_option_and_an_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLAMEC_REPRODUCTION_DIR", raising=False)
    options = default_options(cache_folder=tmp_path)
    assert options.reproduction_folder == tmp_path / "reproductions"
    monkeypatch.setenv("FLAMEC_REPRODUCTION_DIR", str(tmp_path / "elsewhere"))
    assert default_options().reproduction_folder == tmp_path / "elsewhere"
    assert default_options(reproduction_folder=None).reproduction_folder is None
    monkeypatch.setenv("FLAMEC_VERIFY", "1")
    assert default_options().verify
    monkeypatch.setenv("FLAMEC_VERIFY", "yes")
    with pytest.raises(ValueError, match="FLAMEC_VERIFY"):
        default_options()


def test_a_folder_that_cannot_be_used_does_not_hide_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with monkeypatch.context() as patch:
        broken_passes.break_pass(patch, "simplify", broken_passes.refuse_hyperbolic_tangents)
        error = failure(compiled(tmp_path, reproduction_folder=place))
    assert error.reproduction is None
    assert "the pass simplify failed" in str(error)
    assert "no reproduction could be written" in str(error)


def graph_of(value: float) -> Graph:
    b = GraphBuilder()
    x = b.input(TensorType((2,), float32))
    return b.build([b.mul(x, b.constant(value, x.type))], name='a "quoted" name\\')


def test_files_are_private_and_few(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    for number in range(MOST_FILES + 3):
        path = save(Reproduction(graph_of(float(number)), stage="fuse"), folder)
    assert len(list(folder.glob("*.py"))) == MOST_FILES
    assert path.exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert save(Reproduction(graph_of(float(number)), stage="fuse"), folder) == path


def test_a_file_is_read_back_as_it_was(tmp_path: Path) -> None:
    graph = graph_of(2.5)
    values = {0: flamec.tensor([1.0, float("nan")]).numpy()}
    given = Reproduction(
        graph, "simplify", "KeyError", 'quotes """ and \\', ("simplify",), {"verify": True},
        {}, values, 7,
    )  # fmt: skip
    path = tmp_path / "file.py"
    path.write_text(to_text(given))
    found = read(path)
    assert found.graph.fingerprint() == graph.fingerprint()
    assert found.graph.name == graph.name
    assert found.message == given.message
    assert found.values[0].tobytes() == values[0].tobytes()
    assert (found.passes, found.options, found.seed) == (("simplify",), {"verify": True}, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('no')", "REPRODUCTION"),
        ("REPRODUCTION = {'format': 99}\nGRAPH = ''", "format 99"),
        ("REPRODUCTION = {'format': 1, 'imports': []}\nGRAPH = 'graph'", "graph"),
        ("REPRODUCTION = __import__('os').abort()\nGRAPH = ''", "malformed"),
        ("REPRODUCTION = {", "SyntaxError"),
    ],
)
def test_another_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        read(path)


def test_a_pass_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    found = Reproduction(graph_of(1.0), "gone", "KeyError", "", ("gone", "simplify"))
    with pytest.raises(ValueError, match="no pass gone"):
        failure_of(found)
