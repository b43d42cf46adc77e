"""The tuning database: what stays, what processes add at once, damaged files, folders."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flamec.runtime.tuning_db import (
    FORMAT,
    TuningDatabase,
    TuningFileError,
    TuningKey,
    TuningRecord,
    TuningWarning,
    dump_records,
    parse_records,
)

KEY = TuningKey("k0", "64x128", "f32", "NVIDIA H200 sm_90", "3.6.0", "g")


def record(kernel: str = "k0", warps: int = 4, mode: str = "fast") -> TuningRecord:
    key = replace(KEY, kernel=kernel)
    return TuningRecord(key, {"form": "rows", "warps": warps}, 1e-6, 2e-6, 5, mode, "mul")


def test_records_are_found_again(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path / "cache")
    assert database.find(KEY) is None
    assert not (tmp_path / "cache").exists()
    assert database.add([record(), record("k1")]) == [record(), record("k1")]
    again = TuningDatabase(tmp_path / "cache")
    assert again.find(KEY) == record()
    assert again.records() == [record(), record("k1")]
    for name in ("kernel", "bucket", "dtype", "device", "triton", "generator"):
        assert again.find(replace(KEY, **{name: "other"})) is None


def test_what_is_there_stays_unless_the_search_was_more_thorough(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path)
    database.add([record(warps=4)])
    assert database.add([record(warps=8)]) == [record(warps=4)]
    assert database.add([record(warps=8, mode="max")]) == [record(warps=8, mode="max")]
    assert database.add([record(warps=2)]) == [record(warps=8, mode="max")]
    assert database.add([record(warps=1)], replace=True) == [record(warps=1)]
    assert TuningDatabase(tmp_path).records() == [record(warps=1)]


def test_another_process_sees_what_was_added(tmp_path: Path) -> None:
    first, second = TuningDatabase(tmp_path), TuningDatabase(tmp_path)
    assert second.records() == []
    first.add([record()])
    assert second.find(KEY) == record()
    second.add([record("k1")])
    assert first.records() == [record(), record("k1")]
    assert first.clear() == 2
    assert second.records() == []


RACE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_tuning_db import record
from flamec.runtime.tuning_db import TuningDatabase
database, number = TuningDatabase(Path(sys.argv[1])), int(sys.argv[2])
sys.stdin.readline()
for i in range(20):
    database.add([record(f"own{number}_{i}"), record(f"shared{i}", warps=1 << number % 4)])
print([database.find(record(f"shared{i}").key).schedule["warps"] for i in range(20)])
"""


def test_eight_processes_add_at_once(tmp_path: Path) -> None:
    """Nothing is lost, and all agree on what was added first."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path), str(number), str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = set()
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        answers.add(out)
    assert len(answers) == 1
    names = {r.key.kernel for r in TuningDatabase(tmp_path).records()}
    assert names == {f"own{n}_{i}" for n in range(8) for i in range(20)} | {
        f"shared{i}" for i in range(20)
    }
    assert not list((tmp_path / "tuning").glob(".writing-*"))


def test_eight_threads_add_at_once(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path)
    threads = [
        threading.Thread(target=lambda n=n: database.add([record(f"k{n}")])) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(TuningDatabase(tmp_path).records()) == 8


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "other"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: str) -> None:
    path = TuningDatabase(tmp_path).path
    TuningDatabase(tmp_path).add([record()])
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[:-40],
            "altered": content.replace(b'"warps": 4', b'"warps": 8'),
            "empty": b"",
            "other": b'{"format": "something else"}',
        }[damage]
    )
    damaged = path.read_bytes()
    database = TuningDatabase(tmp_path)
    with pytest.warns(TuningWarning, match="is damaged"):
        assert database.find(KEY) is None
    assert path.with_suffix(".damaged").read_bytes() == damaged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert database.add([record("k1")]) == [record("k1")]
        assert TuningDatabase(tmp_path).records() == [record("k1")]


def test_a_file_damaged_while_a_record_is_added(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path)
    database.add([record()])
    database.path.write_bytes(b"{")
    with pytest.warns(TuningWarning, match="is damaged"):
        database.add([record("k1")])
    assert TuningDatabase(tmp_path).records() == [record("k1")]


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    database = TuningDatabase(blocker / "cache")
    with pytest.warns(TuningWarning, match="cannot be used") as caught:
        assert database.add([record()]) == [record()]
        assert database.add([record(warps=8), record("k1")]) == [record(), record("k1")]
        assert database.find(KEY) == record()
        assert database.clear() == 2
    assert len(caught) == 1


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    TuningDatabase(tmp_path).add([record()])
    (tmp_path / "tuning").chmod(0o777)
    with pytest.warns(TuningWarning, match="other users"):
        database = TuningDatabase(tmp_path)
    assert database.find(KEY) is None


def test_export_and_import(tmp_path: Path) -> None:
    here, there = TuningDatabase(tmp_path / "here"), TuningDatabase(tmp_path / "there")
    here.add([record(), record("k1", mode="max")])
    there.add([record(warps=16), record("k2")])
    file = tmp_path / "exported.json"
    assert here.export_to(file) == 2
    assert there.import_from(file) == (2, 1)
    assert there.find(KEY) == record(warps=16)
    assert there.import_from(file, replace=True) == (2, 1)
    assert there.find(KEY) == record()
    assert there.import_from(file) == (2, 0)
    assert {r.key.kernel for r in there.records()} == {"k0", "k1", "k2"}


def test_records_round_trip() -> None:
    records = [record(), replace(record("k1"), seconds=None, heuristic_seconds=None)]
    assert parse_records(dump_records(records)) == records
    assert [r.label for r in parse_records(dump_records(records))] == ["mul", "mul"]


@pytest.mark.parametrize(
    "change",
    [
        {"key": {"kernel": "k"}},
        {"key": 3},
        {"mode": "off"},
        {"seconds": "1"},
        {"schedule": ["warps"]},
        {"schedule": {"warps": [4]}},
        {"tried": None},
        {"label": 1},
        {"surprise": 1},
    ],
)
def test_records_with_wrong_fields_are_refused(change: dict[str, object]) -> None:
    data = [{**asdict(record()), **change}]
    good = json.loads(dump_records([record()]))
    assert good["format"] == FORMAT
    from flamec.runtime.tuning_db import _digest

    text = json.dumps({"format": FORMAT, "sha256": _digest(data), "records": data})
    with pytest.raises(TuningFileError, match="a record"):
        parse_records(text.encode())
