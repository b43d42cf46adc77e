"""PyTorch's files are read without executing anything; malicious ones are refused."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn
from flamec.saving.errors import FileFormatError

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"]


def checkpoint() -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    weight = torch.arange(12.0).reshape(3, 4)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        **{name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in DTYPES},
        "bool": torch.tensor([True, False]),
        "views": [weight, weight.T, weight[1], weight[:, 1:3], weight.expand(2, 3, 4), weight[::2]],
        "tied": [weight, weight],
        "windows": torch.arange(6.0).as_strided((4, 3), (1, 1)),
        "shapes": [torch.tensor(3), torch.empty(0, 3), torch.ones(1, 1)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "grad": torch.ones(2, requires_grad=True),
        "plain": [
            1,
            -(2**70),
            2.5,
            float("inf"),
            None,
            True,
            "ü",
            b"\0\xff",
            (1, (2,), ()),
            1 + 2j,
        ],
        "containers": [
            {1, 2},
            frozenset({3}),
            collections.OrderedDict(b=1),
            collections.Counter("aab"),
        ],
        "types": [torch.Size([1, 2]), torch.float16, torch.device("cpu")],
        "default": collections.defaultdict(list, a=[1]),
        5: {(1, 2): "tuple key"},
    }


def same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, torch.Tensor):
        assert isinstance(found, nn.Parameter) == isinstance(wanted, torch.nn.Parameter)
        assert found.requires_grad == wanted.requires_grad
        assert found.dtype.name == str(wanted.dtype).removeprefix("torch.")
        assert tuple(found.shape) == tuple(wanted.shape)
        ours, theirs = found.detach().to(flamec.float64), wanted.detach().to(torch.float64)
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            same(found[key], wanted[key])
    elif type(wanted) in (list, tuple):
        assert type(found) is type(wanted) and len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            same(a, b)
    elif isinstance(wanted, (torch.dtype, torch.device, torch.Size)):
        assert str(found).replace("flamec.", "torch.") == str(wanted)
    else:
        assert type(found) is type(wanted) and found == wanted


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_checkpoints(tmp_path: Path, protocol: int, mmap: bool) -> None:
    wanted = checkpoint()
    torch.save(wanted, tmp_path / "x.pt", pickle_protocol=protocol)
    found = flamec.load(tmp_path / "x.pt", mmap=mmap)
    same(found, wanted)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    model.load_state_dict(found["model"])
    optimizer = flamec.optim.Adam(model.parameters())
    optimizer.load_state_dict(found["optimizer"])
    assert optimizer.param_groups[0]["amsgrad"] is True
    assert found["model"]._metadata == wanted["model"]._metadata


@pytest.mark.parametrize("mmap", [False, True])
def test_tensors_share_memory_as_they_did(tmp_path: Path, mmap: bool) -> None:
    torch.save(checkpoint(), tmp_path / "x.pt")
    found = flamec.load(tmp_path / "x.pt", mmap=mmap)
    weight, transposed, row, *_ = found["views"]
    weight.add_(100)
    assert transposed[1, 0].item() == row[1].item() - 4 == 101
    assert found["tied"][0][0, 0].item() == 100
    again = flamec.load(tmp_path / "x.pt", mmap=mmap)
    assert again["views"][0][0, 0].item() == 0  # the file is not written to


NUMPY: list[Any] = [
    *(np.dtype(name).type(1) for name in ("f8", "f4", "f2", "i8", "i2", "u1", "?", "c16")),
    *(np.arange(6, dtype=name).reshape(2, 3) for name in ("f8", "f4", "i4", "u2")),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(2.5),
    np.empty((0, 3), np.int16),
    b"",
    bytearray(b"ab"),
]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numbers_and_arrays_of_numpy(protocol: int) -> None:
    file = io.BytesIO()
    torch.save(NUMPY, file, pickle_protocol=protocol)
    file.seek(0)
    found = flamec.load(file)
    for mine, wanted in zip(found, NUMPY, strict=True):
        if isinstance(wanted, (np.ndarray, np.generic)):
            assert type(mine) is type(wanted) and mine.dtype == wanted.dtype
            assert mine.shape == wanted.shape
        np.testing.assert_array_equal(mine, wanted)
    found[8][0, 0] = 7.0  # memory of its own, which may be written


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array(["a"]), "dtype 'U1'"),
        (np.array([None]), "dtype 'O8'"),
        (np.zeros(2, [("a", "f4")]), "dtype 'V4'"),
        (np.arange(3, dtype=">i4"), "another order"),
        (np.datetime64("2020-01-01"), "dtype 'M8'"),
    ],
)
def test_other_arrays_are_refused(value: Any, message: str) -> None:
    file = io.BytesIO()
    torch.save({"a": value}, file)
    file.seek(0)
    with pytest.raises(FileFormatError, match=message):
        flamec.load(file)


def test_a_device_that_is_not_here_is_named(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.ones(2)}, file)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            text = b"X\x07\x00\x00\x00cuda:97"
            archive.writestr(name, content.replace(b"X\x03\x00\x00\x00cpu", text))
    with pytest.raises(RuntimeError, match=r"^a tensor was saved on 'cuda:97'.*map_location='cpu'"):
        flamec.load(path)
    assert flamec.load(path, map_location="cpu")["a"].tolist() == [1, 1]
    assert flamec.load(path, map_location={"cuda:97": "cpu"})["a"].tolist() == [1, 1]


def test_a_strict_load_lists_every_difference(tmp_path: Path) -> None:
    torch.save(
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).state_dict(),
        tmp_path / "x",
    )
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    differences = (
        '(?s)Missing.*"2.weight", "2.bias".*Unexpected.*"1.weight", "1.bias".*'
        "size mismatch for 0.weight"
    )
    with pytest.raises(RuntimeError, match=differences):
        model.load_state_dict(flamec.load(tmp_path / "x"))


# what is refused ----------------------------------------------------------------------------


class _Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_a_malicious_file_is_refused_and_nothing_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for number, attack in enumerate(
        (
            _Calls(os.system, f"touch {marker}"),
            _Calls(eval, f"open({str(marker)!r}, 'w')"),
            _Calls(getattr, "x", "upper"),
            _Calls(os.mkdir, str(marker)),
        )
    ):
        path = tmp_path / f"{number}.pt"
        torch.save({"weight": torch.ones(2), "x": attack}, path)
        with pytest.raises(FileFormatError, match=r"neither a tensor nor a plain container"):
            flamec.load(path)
        assert not marker.exists()
        torch.load(path, weights_only=False)  # the attack is real: PyTorch executes it
        assert number == 2 or marker.exists()
        if marker.is_dir():
            marker.rmdir()
        marker.unlink(missing_ok=True)


def test_whole_modules_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(FileFormatError, match=r"torch.nn.modules.linear.Linear.*state_dict"):
        flamec.load(tmp_path / "x.pt")


def _archive(program: bytes, storages: dict[str, bytes] | None = None) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    buffer.seek(0)
    return buffer


def _tensor(offset: int, size: tuple[int, ...], stride: tuple[int, ...], count: int) -> bytes:
    """The pickle of a tensor over storage 0."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", count)
            return None

    buffer = io.BytesIO()
    rebuild = torch._utils._rebuild_tensor_v2
    hooks: Any = collections.OrderedDict()
    Pickler(buffer, 2).dump(_Calls(rebuild, Storage(), offset, size, stride, False, hooks))
    return buffer.getvalue()


def _numpy(name: str, arguments: bytes) -> io.BytesIO:
    """The pickle of a call of one of NumPy's functions with two arguments."""
    return _archive(
        b"\x80\x04cnumpy._core.multiarray\n" + name.encode() + b"\n" + arguments + b"\x86R."
    )


DATA = struct.pack("<6f", *range(6))


def test_a_file_made_by_hand_is_read() -> None:
    found = flamec.load(_archive(_tensor(1, (2, 2), (2, 1), 6), {"0": DATA}))
    assert found.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (_archive(_tensor(0, (7,), (1,), 6), {"0": DATA}), "outside its storage of 6"),
        (_archive(_tensor(3, (2, 2), (2, 1), 6), {"0": DATA}), "outside its storage"),
        (_archive(_tensor(0, (2,), (-1,), 6), {"0": DATA}), "stride"),
        (_archive(_tensor(-1, (2,), (1,), 6), {"0": DATA}), "offset"),
        (_archive(_tensor(0, (2,), (1,), 7), {"0": DATA}), "has 24 bytes, not the 28"),
        (_archive(_tensor(0, (2,), (1,), 6), {}), "storage 0 is missing"),
        (_archive(b"\x80\x02}q\x00"), "damaged|no end"),
        (_archive(b"\x80\x02cos\nsystem\n."), "asks for os.system"),
        (_archive(b"\x80\x02]q\x00h\x05."), "damaged"),
        (_archive(b"\x80\x02(."), "damaged"),
        (_archive(b"\x80\x02K\x01K\x02R."), "not a function"),
        (_archive(b"\x80\x02}K\x01b."), "sets attributes of a dict"),
        (_archive(b"\x80\x02K\x01K\x02s."), "damaged"),
        (_archive(b"(ios\nsystem\n."), "opcode INST"),
        (_archive(b"\x80\x04\x82\x01."), "opcode EXT1"),
        (_archive(b""), "damaged"),
        (_archive(b"\x80\x02})" + b"\x85" * 99999 + b"K\x01s."), "tuples nested 201 deep"),
        (_archive(b"\x80\x02)q\x00" + b"h\x00\x86q\x00" * 99 + b"."), "with .* elements"),
        (_archive(b"\x80\x04\x8f()" + b"(\x91" * 3 + b"\x85" * 99999 + b"\x90."), "nested"),
        (_numpy("scalar", b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85RC\x00"), "dtype 'O8'"),
        (_numpy("scalar", b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85RC\x04abcd"), "4 bytes, not 8"),
        (_numpy("scalar", b"K\x01C\x00"), "without a dtype"),
        (_numpy("_reconstruct", b"cnumpy\nndarray\n)R)"), "ndarray is called"),
        (_numpy("memmap", b"NN"), r"asks for numpy\._core\.multiarray\.memmap"),
    ],
)
def test_damaged_archives(file: io.BytesIO, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        flamec.load(file)


def test_other_zip_files_and_old_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme", "hello")
    buffer.seek(0)
    with pytest.raises(FileFormatError, match=r"without the data.pkl"):
        flamec.load(buffer)
    torch.save({"a": torch.ones(1)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    with pytest.raises(FileFormatError, match=r"before 1\.6"):
        flamec.load(tmp_path / "old")


def test_a_file_with_altered_bytes_is_read_or_refused() -> None:
    """Whatever is altered: no other error, which a program would not expect."""
    file = io.BytesIO()
    torch.save({"a": torch.arange(5.0), "b": [np.float64(2), "text"]}, file)
    generator, refused = np.random.default_rng(0), 0
    for _ in range(400):
        content = bytearray(file.getvalue())
        for place in generator.integers(len(content), size=generator.integers(1, 4)):
            content[place] = generator.integers(256)
        try:
            flamec.load(io.BytesIO(content))
        except FileFormatError:
            refused += 1
    assert refused > 100
