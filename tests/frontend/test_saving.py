"""Saving and loading: every structure comes back; files appear complete or not at all."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim
from flamec.saving.errors import FileFormatError
from flamec.saving.structure import decode, encode

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"]


def same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, flamec.Tensor):
        assert found.dtype is wanted.dtype and found.shape == wanted.shape
        assert found.requires_grad == wanted.requires_grad
        ours, theirs = found.detach().numpy(), wanted.detach().numpy()
        assert ours.tobytes() == theirs.tobytes()
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            same(found[key], wanted[key])
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            same(a, b)
    else:
        assert found == wanted or found != found


def everything() -> dict[Any, Any]:
    tensor = flamec.from_numpy(np.arange(6.0).reshape(2, 3))
    return {
        "numbers": [
            1,
            -(2**70),
            2.5,
            float("nan"),
            float("inf"),
            float("-inf"),
            True,
            None,
            1 + 2j,
        ],
        "text": ("ü\n\0", b"\0\xff", ""),
        "tensors": {name: flamec.ones(2, 3).to(getattr(flamec, name)) for name in DTYPES},
        "bool": flamec.tensor([True, False]),
        "shapes": [
            flamec.tensor(3.0),
            flamec.zeros(0, 4),
            tensor.t(),
            tensor[:, 1],
            flamec.ones(1),
        ],
        "nan": flamec.tensor([float("nan"), -0.0, float("inf")]),
        "grad": flamec.ones(2).requires_grad_(),
        "parameter": nn.Parameter(flamec.ones(2)),
        "frozen": nn.Parameter(flamec.ones(2), requires_grad=False),
        "array": np.arange(4, dtype=np.int16),
        "number": np.float32(2.5),
        5: {(1, "a"): [], None: {}, True: ()},
        "ordered": OrderedDict(b=1, a=2),
        "counter": Counter("aab"),
        "sets": [{1, 2}, frozenset({"x"})],
        "types": [flamec.bfloat16, flamec.device("cpu"), flamec.Size([1, 2])],
        "tensor": "a key named like a marker",
        "dict": {"dict": 1},
    }


@pytest.mark.parametrize("mmap", [False, True])
def test_everything_comes_back(tmp_path: Path, mmap: bool) -> None:
    path = tmp_path / "file"
    flamec.save(everything(), path)
    same(flamec.load(path, mmap=mmap), everything())
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_open_files_and_bare_tensors() -> None:
    buffer = io.BytesIO()
    flamec.save(flamec.arange(3), buffer)
    buffer.seek(0)
    assert flamec.load(buffer).tolist() == [0, 1, 2]


def test_training_continues_from_a_file(tmp_path: Path) -> None:
    def training() -> tuple[nn.Module, optim.Optimizer, Any]:
        flamec.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        optimizer = optim.AdamW(model.parameters(), lr=0.1)
        return model, optimizer, optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])

    def step(model: nn.Module, optimizer: optim.Optimizer, schedule: Any) -> float:
        optimizer.zero_grad()
        loss = (model(flamec.ones(2, 3)) - 3).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    whole = training()
    expected = [step(*whole) for _ in range(8)]
    first = training()
    assert [step(*first) for _ in range(4)] == expected[:4]
    flamec.save([part.state_dict() for part in first], tmp_path / "state")
    second = training()
    step(*second)
    for part, state in zip(second, flamec.load(tmp_path / "state"), strict=True):
        part.load_state_dict(state)
    assert [step(*second) for _ in range(4)] == expected[4:]


@pytest.mark.parametrize("mmap", [False, True])
def test_shared_memory_is_stored_once_and_shared_again(tmp_path: Path, mmap: bool) -> None:
    weight = flamec.ones(1000)
    flamec.save(
        {"a": weight, "b": weight, "c": weight.detach(), "part": weight[1:3]}, tmp_path / "x"
    )
    assert (tmp_path / "x").stat().st_size < 6000
    loaded = flamec.load(tmp_path / "x", mmap=mmap)
    assert loaded["a"] is loaded["b"] and loaded["a"] is not loaded["c"]
    loaded["a"].fill_(7)
    assert loaded["c"][0].item() == 7 and loaded["part"][0].item() == 1
    assert flamec.load(tmp_path / "x")["a"][0].item() == 1  # the file is not written to


def test_other_programs_read_the_tensors(tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    state = {"layer.weight": flamec.ones(2, 3), "layer.bias": flamec.zeros(3, dtype=flamec.int8)}
    flamec.save(state, tmp_path / "ours")
    found = numpy_files.load_file(tmp_path / "ours")
    assert sorted(found) == sorted(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
    numpy_files.save_file({"q": np.arange(6.0).reshape(2, 3)}, tmp_path / "theirs")
    assert flamec.load(tmp_path / "theirs")["q"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, lambda: 1]}, r"the object\['a'\]\[1\] is a builtins.function"),
        (nn.Linear(1, 1), "flamec.nn.layers.Linear.*state_dict"),
        ({flamec.ones(1): 1}, "a key of the object is a Tensor"),
        ([object()], "builtins.object"),
        ({"a": np.array(["x"])}, r"the object\['a'\] is a NumPy value of dtype <U1"),
        ([np.uint16(1)], r"the object\[0\] is a NumPy value of dtype uint16"),
        (np.array([None]), "NumPy value of dtype object"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "x"
    flamec.save({"old": 1}, path)
    with pytest.raises(TypeError, match=message):
        flamec.save(value, path)
    assert flamec.load(path) == {"old": 1} and [f.name for f in tmp_path.iterdir()] == ["x"]


def test_a_structure_within_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(TypeError, match="contains itself"):
        flamec.save(value, io.BytesIO())


KILLED = """
import os, signal, sys
import numpy as np, flamec
from flamec.saving import safetensors_format
write = safetensors_format.write
def dies(file, tensors, metadata):
    write(file, tensors, metadata)
    file.truncate(file.tell() // 2)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
safetensors_format.write = dies
flamec.save({"new": flamec.ones(100000)}, sys.argv[1])
"""


def test_a_process_killed_while_saving_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    flamec.save({"old": flamec.ones(3)}, path)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], capture_output=True, check=False
    )
    assert done.returncode == -9, done.stderr
    assert path.read_bytes() == before
    assert flamec.load(path)["old"].tolist() == [1, 1, 1]


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "state"
    flamec.save([1], path)
    path.chmod(0o640)

    def fails(*_: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("flamec.saving.safetensors_format.write", fails)
        with pytest.raises(OSError, match="No space"):
            flamec.save([2], path)
    assert flamec.load(path) == [1] and [f.name for f in tmp_path.iterdir()] == ["state"]
    flamec.save([3], path)
    assert flamec.load(path) == [3] and path.stat().st_mode & 0o777 == 0o640


def test_a_full_disk_and_a_closed_folder_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    flamec.save([1], path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            flamec.save({"a": flamec.ones(5000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert flamec.load(path) == [1] and [f.name for f in tmp_path.iterdir()] == ["state"]
    with pytest.raises(FileNotFoundError):
        flamec.save([2], tmp_path / "nowhere" / "state")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    flamec.save([1], tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and flamec.load(tmp_path / "target") == [1]


# damaged files --------------------------------------------------------------------------------


def _file(header: Any, content: bytes = b"") -> io.BytesIO:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return io.BytesIO(len(text).to_bytes(8, "little") + text + content)


def _tensor(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (io.BytesIO(b""), "neither a safetensors file nor"),
        (io.BytesIO(b"hello"), "neither a safetensors file nor"),
        (io.BytesIO(b"\xff" * 20), "neither a safetensors file nor"),
        (_file(b"{no json"), "header cannot be read"),
        (_file([1]), "header cannot be read"),
        (_file(_tensor(dtype="F7"), b"x" * 8), "unknown dtype"),
        (_file(_tensor(shape=[-2]), b"x" * 8), "bad shape"),
        (_file(_tensor(shape=[2.0]), b"x" * 8), "bad shape"),
        (_file(_tensor(shape=[3]), b"x" * 8), "needs 12 bytes"),
        (_file(_tensor(data_offsets=[4, 12]), b"x" * 12), "needs 8 bytes from 0"),
        (_file(_tensor(), b"x" * 4), "4 bytes of tensors, but 8"),
        (_file(_tensor(), b"x" * 12), "12 bytes of tensors, but 8"),
        (_file({"__metadata__": {"flamec": "{"}}), "structure cannot be read"),
        (_file({"__metadata__": {"flamec": '{"call": "os.system"}'}}), "structure cannot be read"),
        (_file({"__metadata__": {"flamec": '{"tensor": "b", "object": 0}'}}), "structure cannot"),
        (io.BytesIO(b"\x80\x02}q\x00."), "bare pickle"),
        (io.BytesIO(b"PK\x03\x04 and no more"), "damaged zip"),
    ],
)
def test_damaged_files(file: io.BytesIO, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        flamec.load(file)


def test_truncation_anywhere_is_noticed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    flamec.save({"a": flamec.ones(5), "b": [flamec.zeros(2, 2)]}, buffer)
    whole = buffer.getvalue()
    for length in range(len(whole)):
        with pytest.raises(FileFormatError):
            flamec.load(io.BytesIO(whole[:length]))


def test_arguments() -> None:
    with pytest.raises(ValueError, match="would execute"):
        flamec.load(io.BytesIO(), weights_only=False)
    with pytest.raises(TypeError, match="function of storages"):
        flamec.load(io.BytesIO(), map_location=lambda storage, place: storage)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a path"):
        flamec.load(io.BytesIO(), mmap=True)
    with pytest.raises(FileNotFoundError):
        flamec.load("/does/not/exist")


def test_a_device_that_is_not_here_is_named() -> None:
    tensors: dict[str, np.ndarray] = {}
    tree = encode({"a": flamec.ones(2)}, tensors)
    tree["dict"][0][1]["device"] = "cuda:97"
    from flamec.saving.placement import placement
    from flamec.saving.safetensors_format import Entry

    for wanted, is_fine in ((None, False), ("cpu", True), ({"cuda:97": "cpu"}, True)):
        entries = {name: Entry(array, placement(wanted)) for name, array in tensors.items()}
        if is_fine:
            assert decode(tree, entries)["a"].tolist() == [1, 1]
        else:
            with pytest.raises(RuntimeError, match=r"'cuda:97'.*map_location='cpu'"):
                decode(tree, entries)
