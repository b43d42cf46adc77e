"""The loader, with and without worker processes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from number_datasets import Counting, Numbers

import flamec
from flamec.data import (
    DataLoader,
    Dataset,
    get_worker_info,
)


class Large(Dataset[Any]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        return flamec.full((100, 50), float(index)), index


class Failing(Dataset[Any]):
    """Does something bad at sample 5."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            if self.what == "raise":
                raise KeyError("no such sample")
            if self.what == "own error":
                raise _OwnError(1, 2)
            if self.what == "exit":
                os._exit(3)
            if self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.what == "hang":
                time.sleep(60)
            if self.what == "unpicklable":
                return lambda: 1
        return index


class _OwnError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(first, second)


# the loader -------------------------------------------------------------------------------


def contents(loader: Any) -> list[Any]:
    return [
        (b["index"].tolist(), b["drawn"].tolist(), b["text"]) if isinstance(b, dict) else b
        for b in loader
    ]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_seed_gives_the_same_batches_whatever_the_number_of_workers(shuffle: bool) -> None:
    found = []
    for workers in (0, 1, 3):
        flamec.manual_seed(7)
        loader = DataLoader(
            Numbers(17), 4, shuffle, num_workers=workers, persistent_workers=workers == 3
        )
        epochs = [contents(loader), contents(loader)]
        found.append((epochs, flamec.rand(()).item()))
        assert len(loader) == 5
    assert found[0] == found[1] == found[2]
    first, second = found[0][0]
    assert [b[1] for b in first] != [b[1] for b in second]  # other random numbers each epoch
    drawn = [tuple(row) for batch in first for row in batch[1]]
    assert len(set(drawn)) == 17
    if shuffle:
        assert [b[0] for b in first] != [b[0] for b in second]


def test_the_generator_alone_decides() -> None:
    def run(seed: int) -> list[Any]:
        generator = flamec.Generator().manual_seed(seed)
        return contents(DataLoader(Numbers(8), 3, True, num_workers=2, generator=generator))

    before = flamec.get_rng_state().tolist()
    assert run(1) == run(1) != run(2)
    assert flamec.get_rng_state().tolist() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_options(workers: int) -> None:
    options: dict[str, Any] = {"num_workers": workers}
    data = Large()
    batches = list(DataLoader(data, 5, drop_last=True, **options))
    assert len(batches) == 4
    for number, (x, y) in enumerate(batches):
        assert x.shape == (5, 100, 50) and y.tolist() == list(range(5 * number, 5 * number + 5))
        assert (x[:, 0, 0] == y).all() and (x == x[:, :1, :1]).all()
        x.add_(1)  # what arrives in shared memory can be written to
    reverse = DataLoader(data, 7, sampler=range(23, -1, -1), **options)
    assert [y.tolist()[0] for _, y in reverse] == [23, 16, 9, 2]
    chosen = DataLoader(data, batch_sampler=[[3, 1], [2]], **options)
    assert [y.tolist() for _, y in chosen] == [[3, 1], [2]] and len(chosen) == 2
    single = list(DataLoader(data, batch_size=None, **options))
    assert len(single) == 24 and single[3][0].shape == (100, 50) and single[3][1] == 3
    summed = DataLoader(Failing(""), 3, collate_fn=sum, **options)
    assert list(summed) == [3, 12, 21, 30]
    assert list(DataLoader(Numbers(0), 3, **options)) == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_iterable_datasets(workers: int) -> None:
    loader = DataLoader(Counting(10), batch_size=2, num_workers=workers)
    for _ in range(2):
        batches = [b.tolist() for b in loader]
        assert sorted(i for b in batches for i in b) == list(range(10))
    if workers == 3:
        assert batches == [[0, 3], [1, 4], [2, 5], [6, 9], [7], [8]]
    dropped = DataLoader(Counting(7), batch_size=3, drop_last=True, num_workers=workers)
    assert all(len(b) == 3 for b in dropped)
    single = DataLoader(Counting(4), batch_size=None, num_workers=workers)
    assert sorted(single) == [0, 1, 2, 3]


def _note(worker: int) -> None:
    random_seed = get_worker_info().seed  # type: ignore[union-attr]
    os.environ["NOTED"] = f"{worker} {random_seed}"


class Noted(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None and len(info.dataset) == 4
        return os.environ["NOTED"], info.id, info.num_workers, os.getpid()


def test_worker_init_fn_and_persistent_workers() -> None:
    loader = DataLoader(Noted(), None, num_workers=2, worker_init_fn=_note, persistent_workers=True)
    first, second = list(loader), list(loader)
    assert [s[1] for s in first] == [0, 1, 0, 1] and {s[2] for s in first} == {2}
    assert [s[0].split()[0] for s in first] == ["0", "1", "0", "1"]
    assert first == second  # the same processes
    third = iter(loader)
    next(third)
    assert list(loader) == first  # an abandoned pass leaves nothing behind
    with pytest.raises(StopIteration):
        next(third)
    assert get_worker_info() is None


def test_spawned_workers() -> None:
    loader = DataLoader(Large(), 12, num_workers=1, multiprocessing_context="spawn")
    assert [y.tolist()[0] for _, y in loader] == [0, 12]


# what goes wrong --------------------------------------------------------------------------


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_an_exception_carries_the_worker_s_traceback() -> None:
    loader = DataLoader(Failing("raise"), 2, num_workers=2)
    iterator = iter(loader)
    pids = [p.pid for p in iterator.workers.processes]  # type: ignore[attr-defined]
    with pytest.raises(KeyError) as error:
        list(iterator)
    text = str(error.value)
    assert "Caught KeyError in DataLoader worker process 0" in text
    assert 'raise KeyError("no such sample")' in text and "test_data.py" in text
    assert not _alive(pids)
    with pytest.raises(RuntimeError, match=r"Caught _OwnError in DataLoader worker process 0"):
        list(DataLoader(Failing("own error"), 2, num_workers=2))
    with pytest.raises(Exception, match=r"(?s)Caught .*pickle"):
        list(DataLoader(Failing("unpicklable"), None, num_workers=1))
    with pytest.raises(KeyError, match="no such sample"):
        list(DataLoader(Failing("raise"), 2))


@pytest.mark.parametrize(
    ("what", "message"),
    [("exit", "exited with exit code 3"), ("kill", "was killed by signal SIGKILL")],
)
@pytest.mark.parametrize("persistent", [False, True])
def test_a_dying_worker_is_named(what: str, message: str, persistent: bool) -> None:
    loader = DataLoader(Failing(what), 2, num_workers=2, persistent_workers=persistent)
    iterator = iter(loader)
    pids = [p.pid for p in iterator.workers.processes]  # type: ignore[attr-defined]
    found = [next(iterator).tolist(), next(iterator).tolist()]
    with pytest.raises(RuntimeError, match=rf"DataLoader worker 0 \(pid \d+\) {message}"):
        next(iterator)
    assert found == [[0, 1], [2, 3]] and not _alive(pids)
    assert next(iter(loader)).tolist() == [0, 1]  # the loader can be used again


def test_a_worker_that_fails_to_start() -> None:
    def init(worker: int) -> None:
        raise ValueError(f"no licence for {worker}")

    with pytest.raises(ValueError, match=r"(?s)Caught ValueError.*no licence for 0"):
        list(DataLoader(Numbers(4), num_workers=1, worker_init_fn=init))


def test_timeout() -> None:
    loader = DataLoader(Failing("hang"), 2, num_workers=1, timeout=0.3)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(RuntimeError, match=r"timed out after 0.3 seconds: worker 0"):
        list(iterator)


PROGRAM = """
import sys, time
import numpy as np
from flamec.data import DataLoader, Dataset
class Slow(Dataset):
    def __len__(self): return 1000
    def __getitem__(self, i):
        time.sleep(0.01)
        return np.zeros(10000)
loader = DataLoader(Slow(), 2, num_workers=2)
iterator = iter(loader)
print(*[p.pid for p in iterator.workers.processes], flush=True)
for _ in iterator:
    print("batch", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_program(how: signal.Signals) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None and program.stderr is not None
    pids = [int(p) for p in program.stdout.readline().split()]
    assert len(pids) == 2 and program.stdout.readline() == "batch\n"
    if how is signal.SIGINT:
        os.killpg(program.pid, how)  # as a terminal does: workers get it too
    else:
        program.kill()
    _, errors = program.communicate(timeout=60)
    if how is signal.SIGINT:
        assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
    for _ in range(600):
        if not _alive(pids):
            break
        time.sleep(0.05)
    assert not _alive(pids)


def _held() -> tuple[int, int, int]:
    """Objects, open files and shared memory mappings of this process."""
    gc.collect()
    mappings = Path("/proc/self/maps").read_text().count("flamec-data")
    return len(gc.get_objects()), len(list(Path("/proc/self/fd").iterdir())), mappings


@pytest.mark.parametrize("persistent", [False, True])
def test_nothing_grows_over_10_epochs(persistent: bool) -> None:
    loader = DataLoader(Large(), 4, num_workers=2, persistent_workers=persistent)
    held = []
    for _ in range(10):
        for x, _y in loader:
            assert x.shape == (4, 100, 50)
        del x, _y
        held.append(_held())
    segments = {name for name in os.listdir("/dev/shm") if "flamec" in name}  # noqa: PTH208
    assert not segments
    most = 2 * 4 if persistent else 0  # files that workers fill again
    assert held[9][2] <= most
    assert held[9][1] - held[9][2] == held[1][1] - held[1][2]
    assert held[9][0] - held[1][0] < 50, [h[0] for h in held]


class Megabytes(Dataset):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full(1 << 20, index, np.uint8)


@pytest.mark.parametrize("workers", [0, 1])
def test_resident_memory_does_not_grow_over_10_epochs(workers: int) -> None:
    loader = DataLoader(Megabytes(), 2, num_workers=workers)
    resident = []
    for _ in range(10):
        for x in loader:
            assert x[0, 0] == x[0, -1]
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
    assert max(resident[2:]) - resident[1] < len(loader.dataset) // 3, resident  # MiB


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"num_workers": -1}, "non-negative"),
    ({"timeout": -1}, "non-negative"),
    ({"prefetch_factor": 2}, "prefetch_factor"),
    ({"num_workers": 1, "prefetch_factor": 0}, "prefetch_factor"),
    ({"persistent_workers": True}, "num_workers > 0"),
    ({"multiprocessing_context": "fork"}, "multi-process"),
    ({"num_workers": 1, "multiprocessing_context": "thread"}, "valid start method"),
    ({"sampler": [1], "shuffle": True}, "mutually exclusive"),
    ({"batch_sampler": [[1]], "batch_size": 2}, "mutually exclusive"),
    ({"batch_size": None, "drop_last": True}, "mutually exclusive"),
    ({"batch_size": 0}, "batch_size"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataLoader(Numbers(3), **arguments)


def test_bad_arguments_for_iterable_datasets() -> None:
    for arguments in ({"shuffle": True}, {"sampler": [1]}, {"batch_sampler": [[1]]}):
        with pytest.raises(ValueError, match="IterableDataset"):
            DataLoader(Counting(3), **arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        len(DataLoader(Counting(3)))


def test_pytorch_s_name_for_the_module() -> None:
    from flamec.utils.data import DataLoader as same

    assert same is DataLoader and flamec.utils.data.Dataset is Dataset


def test_tensors_leave_pickles_as_buffers() -> None:
    import pickle

    for tensor in (flamec.ones(1000), flamec.ones(9, dtype=flamec.bfloat16), flamec.ones(2, 3).t()):
        buffers: list[pickle.PickleBuffer] = []
        content = pickle.dumps(tensor, protocol=5, buffer_callback=buffers.append)
        assert len(buffers) == 1 and len(content) < 500
        back = pickle.loads(content, buffers=[bytearray(b.raw()) for b in buffers])
        assert back.dtype is tensor.dtype and back.tolist() == tensor.tolist()
        assert pickle.loads(pickle.dumps(tensor, protocol=5)).tolist() == tensor.tolist()
