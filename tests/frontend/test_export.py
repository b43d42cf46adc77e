"""Programs as files: exported, loaded and run in other processes with NumPy in and out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.config import default_options
from flamec.deployment.archive import PROGRAM, Archive, write_archive
from flamec.deployment.exported import ExportedProgram
from flamec.errors import CompileError
from flamec.nn import functional as F
from flamec.saving.errors import FileFormatError


def _numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _model() -> nn.Module:
    flamec.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)
    ).eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "program.flamec"


def test_a_model_is_loaded_and_gives_the_same(file: Path) -> None:
    model, x = _model(), _numbers(5, 1, 8, 8)
    flamec.export(model, (x,), file)
    program = flamec.load(file)
    assert isinstance(program, ExportedProgram) and program.kernels_compiled == 0
    np.testing.assert_allclose(
        program(x), model(flamec.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-5
    )
    assert repr(program) == "<exported Sequential(input: float32[5, 1, 8, 8]) on cpu>"
    assert "convolution" in program.graph


IN_ANOTHER_PROCESS = """
import json, sys
import numpy as np
import flamec
program = flamec.load(sys.argv[1])
x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
result = program({"x": x, "scale": 2.0})
print(json.dumps({
    "result": result["y"].tolist(), "rows": result["rows"], "compiled": program.kernels_compiled,
    "heavy": [m for m in ("jinja2", "triton", "networkx") if m in sys.modules],
    "traced": "flamec.capture" in sys.modules,
}))
"""


def test_another_process_with_an_empty_cache_compiles_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = flamec.from_numpy(_numbers(6, 4, seed=1))

    def scaled(inputs: dict[str, Any]) -> dict[str, Any]:
        y = (inputs["x"] @ weight) * inputs["scale"]
        return {"y": y.softmax(1), "rows": y.shape[0]}

    flamec.export(scaled, ({"x": _numbers(3, 6), "scale": 2.0},), file)
    monkeypatch.setenv("FLAMEC_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    z = _numbers(3, 6).astype(np.float64) @ _numbers(6, 4, seed=1) * 2
    wanted = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(found.pop("result"), wanted, rtol=1e-5)
    assert found == {"rows": 3, "compiled": 0, "heavy": [], "traced": False}


def test_sizes_that_vary(file: Path) -> None:
    def pairwise(x: Any, y: Any) -> Any:
        return (x @ y.T).relu(), x.shape[0] * 2

    dynamic = {"x": {0: "batch"}, "y": [0]}
    flamec.export(pairwise, (_numbers(4, 3), _numbers(5, 3)), file, dynamic=dynamic)
    program = flamec.load(file)
    for n, m in ((4, 5), (1, 1), (0, 3), (33, 17)):
        x, y = _numbers(n, 3), _numbers(m, 3, seed=1)
        found, twice = program(x, y)
        np.testing.assert_allclose(found, np.maximum(x @ y.T, 0), rtol=1e-5, atol=1e-6)
        assert twice == 2 * n
    with pytest.raises(ValueError, match=r"y has shape \[4, 2\]; exported for \[s1, 3\]"):
        program(_numbers(4, 3), _numbers(4, 2))


def test_equal_names_are_equal_sizes(file: Path) -> None:
    dynamic: Any = {0: {0: "n"}, 1: {0: "n"}}
    flamec.export(lambda x, y: x + y, (_numbers(4), _numbers(4)), file, dynamic=dynamic)
    program = flamec.load(file)
    assert program(_numbers(9), _numbers(9)).shape == (9,)
    with pytest.raises(ValueError, match="y has shape"):
        program(_numbers(9), _numbers(8))


def test_state_is_the_programs_own(file: Path) -> None:
    model = nn.BatchNorm1d(3)

    def train(x: Any) -> Any:
        return model(x)

    flamec.export(train, (_numbers(8, 3),), file)
    program = flamec.load(file)
    before = model.running_mean.numpy().copy()
    reference = nn.BatchNorm1d(3)
    for seed in range(3):
        x = _numbers(8, 3, seed=seed)
        wanted = reference(flamec.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(program(x), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.running_mean.numpy(), before)
    evaluated = reference.eval()(flamec.from_numpy(x)).detach().numpy()
    assert not np.allclose(evaluated, wanted)


def test_a_training_step_trains(file: Path) -> None:
    def losses(step: Any) -> list[float]:
        x, y = _numbers(16, 4), _numbers(16, 1, seed=1)
        return [float(np.asarray(step(x, y))) for _ in range(6)]

    def make() -> Any:
        flamec.manual_seed(1)
        model = nn.Linear(4, 1)
        optimizer = flamec.optim.Adam(model.parameters(), 0.1)

        def step(x: Any, y: Any) -> Any:
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return step

    step = make()
    wanted = losses(lambda x, y: step(flamec.from_numpy(x), flamec.from_numpy(y)).detach().numpy())
    flamec.export(make(), (_numbers(16, 4), _numbers(16, 1, seed=1)), file)
    np.testing.assert_allclose(losses(flamec.load(file)), wanted, rtol=1e-4)
    assert wanted[-1] < wanted[0]


def test_random_numbers_go_on(file: Path) -> None:
    flamec.manual_seed(4)
    flamec.export(lambda x: F.dropout(x, 0.5), (np.ones(64, np.float32),), file)
    program = flamec.load(file)
    first, second = program(np.ones(64, np.float32)), program(np.ones(64, np.float32))
    assert set(first) == {0.0, 2.0} and not np.array_equal(first, second)


def test_all_dtypes(file: Path) -> None:
    arrays = [
        np.ones(3, d)
        for d in ("float64", "float16", ml_dtypes.bfloat16, "int64", "int32", "int16", "uint8")
    ]
    arrays.append(np.array([True, False, True]))
    flamec.export(lambda *xs: [x + x for x in xs[:-1]] + [~xs[-1]], arrays, file)
    for found, array in zip(flamec.load(file)(*arrays), arrays, strict=True):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, ~array if array.dtype == bool else array + array)


def test_wrong_arguments_are_refused(file: Path) -> None:
    flamec.export(lambda x, flag: x * 2 if flag else x, (_numbers(3), True), file)
    program = flamec.load(file)
    assert program(_numbers(3)[::-1], True)[0] == 2 * _numbers(3)[2]
    with pytest.raises(TypeError, match="x must be a NumPy array of float32, not float64"):
        program(np.ones(3), True)
    with pytest.raises(TypeError, match="x must be a NumPy array of float32, not a Tensor"):
        program(flamec.ones(3), True)
    with pytest.raises(TypeError, match="containers that it was exported with"):
        program([1.0, 2.0, 3.0], True)
    with pytest.raises(ValueError, match=r"x has shape \[4\]; exported for \[3\]"):
        program(_numbers(4), True)
    with pytest.raises(ValueError, match="flag was True at export, now it is False"):
        program(_numbers(3), False)
    with pytest.raises(TypeError, match="takes x, flag"):
        program(_numbers(3))


def test_what_cannot_be_exported_is_refused(file: Path) -> None:
    layer = nn.Linear(3, 1)

    def leaves_gradients(x: Any) -> Any:
        layer(x).sum().backward()
        return x.sum()

    with pytest.raises(CompileError, match=r"leaves gradients in \.grad"):
        flamec.export(leaves_gradients, (_numbers(2, 3),), file)
    with pytest.raises(CompileError, match="writes to its argument"):
        flamec.export(lambda x: x.add_(1), (_numbers(3),), file)
    with pytest.raises(CompileError, match="returns an object of type object"):
        flamec.export(lambda x: (x, object()), (_numbers(3),), file)
    with pytest.raises(CompileError, match=r"print\(\) is called \(at [^)]*\)$"):
        flamec.export(lambda x: (print("once"), x)[1], (_numbers(3),), file)
    with pytest.raises(ValueError, match="dynamic names the argument 'z'"):
        flamec.export(lambda x: x, (_numbers(3),), file, dynamic={"z": [0]})
    with pytest.raises(ValueError, match="x has 1 axes, dynamic names 1"):
        flamec.export(lambda x: x, (_numbers(3),), file, dynamic={"x": [1]})
    assert not file.exists() and not list(file.parent.iterdir())


def test_a_condition_on_sizes_is_checked(file: Path) -> None:
    def halves(x: Any) -> Any:
        return x[:4] if x.shape[0] > 4 else x

    flamec.export(halves, (_numbers(9),), file, dynamic={0: [0]})
    program = flamec.load(file)
    assert program(_numbers(7)).shape == (4,)
    with pytest.raises(ValueError, match="exported for sizes with"):
        program(_numbers(3))


def _altered(content: bytes, member: str, change: Any) -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
        new.comment = old.comment
        for name in old.namelist():
            data = change(old.read(name)) if name == member else old.read(name)
            if data is not None:
                new.writestr(name, data)
    return result.getvalue()


def test_altered_files_are_refused(file: Path) -> None:
    flamec.export(_model(), (_numbers(1, 1, 8, 8),), file)
    content = file.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.namelist()
    assert {"manifest.json", "graph.txt", "plan.json", "weights.safetensors"} < set(members)
    assert any(m.startswith("kernels/") for m in members)

    def flipped(data: bytes) -> bytes:
        return data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]

    for member in members:
        with pytest.raises(FileFormatError, match=f"{member} was altered"):
            ExportedProgram(io.BytesIO(_altered(content, member, flipped)), "file")
    for member in members[:-1]:
        with pytest.raises(FileFormatError, match="members were added or removed"):
            ExportedProgram(io.BytesIO(_altered(content, member, lambda _: None)), "file")
    for length in (len(content) // 3, len(content) - 3):
        with pytest.raises(FileFormatError):
            ExportedProgram(io.BytesIO(content[:length]), "file")
    flipped_anywhere = bytearray(content)
    for place in range(40, len(content), len(content) // 23):
        flipped_anywhere[place] ^= 4
        with pytest.raises(FileFormatError):
            ExportedProgram(io.BytesIO(bytes(flipped_anywhere)), "file")
        flipped_anywhere[place] ^= 4


def _rewritten(file: Path, changes: dict[str, str], text: tuple[bytes, bytes]) -> io.BytesIO:
    """The file with other facts, and another text in its plan, and with the hashes of these."""
    archive = Archive(io.BytesIO(file.read_bytes()), "file", PROGRAM)
    manifest, members = archive.manifest, {m: archive.read(m) for m in archive}
    members["plan.json"] = members["plan.json"].replace(*text)
    facts = {k: v for k, v in manifest.items() if k not in ("members", "flamec", "format")}
    other = io.BytesIO()
    write_archive(other, PROGRAM, facts | changes, members.items())
    other.seek(0)
    return other


def test_code_for_another_processor_is_compiled_anew(file: Path, tmp_path: Path) -> None:
    x = _numbers(7)
    flamec.export(lambda x: x.exp(), (x,), file)
    options = default_options(cache_folder=tmp_path / "cache")
    program = ExportedProgram(_rewritten(file, {"target": "another"}, (b"", b"")), "file", options)
    assert program.kernels_compiled == 1
    np.testing.assert_allclose(program(x), np.exp(x), rtol=1e-5)


def test_a_program_of_another_flamec_that_cannot_be_compiled_by_this_one(file: Path) -> None:
    flamec.export(lambda x: x.exp(), (_numbers(7),), file)
    changed = (
        {"target": "another", "headers": "others"},
        (b"/* kernel_0:", b"#error\\n/* kernel_0:"),
    )
    with pytest.raises(CompileError, match="was exported by a flamec whose C headers are others"):
        ExportedProgram(_rewritten(file, *changed), "file")


def test_equal_exports_are_equal_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b")]
    for path in files:
        flamec.export(_model(), (_numbers(1, 1, 8, 8),), path)
    assert files[0].read_bytes() == files[1].read_bytes()
