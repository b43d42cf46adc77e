"""Pinned memory: where it is, what waits and what does not, and errors where there is no GPU."""

from __future__ import annotations

import os
import threading
import time
from collections import namedtuple
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import gpu as gpus
from flamec.autograd.saved_tensors import save_on_cpu
from flamec.data import DataLoader, IterableDataset, TensorDataset, get_worker_info

Pair = namedtuple("Pair", "x y")


def test_a_pinned_copy(gpu: Any) -> None:
    x = flamec.arange(12.0).reshape(3, 4)
    pinned = x.pin_memory()
    assert pinned.is_pinned() and not x.is_pinned()
    assert flamec.equal(pinned, x) and pinned.dtype is x.dtype and pinned.device == x.device
    assert pinned.pin_memory() is pinned
    assert pinned[1:, ::2].is_pinned() and not (pinned + 1).is_pinned()
    pinned.add_(1)
    assert flamec.equal(pinned, x + 1)
    strided = x.t().pin_memory()
    assert strided.is_pinned() and flamec.equal(strided, x.t())
    assert flamec.zeros(0, 3).pin_memory().shape == (0, 3)


@pytest.mark.parametrize("name", ["bool", "int8", "int64", "bfloat16", "float16", "float64"])
def test_every_kind_of_element(name: str, gpu: Any) -> None:
    x = flamec.tensor([0, 1, 3]).to(getattr(flamec, name))
    pinned = x.pin_memory()
    assert pinned.dtype is x.dtype and flamec.equal(pinned, x)
    assert flamec.equal(pinned.to(gpu, non_blocking=True).cpu(), x)


def test_factories_give_pinned_memory(gpu: Any) -> None:
    made = [
        flamec.zeros(3, pin_memory=True),
        flamec.tensor([1.0, 2.0], pin_memory=True),
        flamec.rand(4, pin_memory=True),
        flamec.ones(2).new_full((3,), 7.0, pin_memory=True),
        flamec.empty(5, pin_memory=True),
    ]
    assert all(t.is_pinned() for t in made)
    assert not flamec.zeros(3, pin_memory=False).is_pinned()


def test_tensors_on_a_gpu_cannot_be_pinned(gpu: Any) -> None:
    x = flamec.zeros(3, device=gpu)
    assert not x.is_pinned()
    with pytest.raises(RuntimeError, match=r"only dense CPU tensors.*test_pinned_memory"):
        x.pin_memory()
    with pytest.raises(RuntimeError, match="only dense CPU tensors"):
        flamec.zeros(3, device=gpu, pin_memory=True)


def test_a_transfer_that_is_waited_for(gpu: Any) -> None:
    source = flamec.arange(1000.0).pin_memory()
    there = source.to(gpu)
    source.zero_()
    assert flamec.equal(there.cpu(), flamec.arange(1000.0))
    target = flamec.zeros(1000, device=gpu)
    source.fill_(3)
    target.copy_(source)
    source.zero_()
    assert (target == 3).all().item()


def test_a_transfer_that_is_not_waited_for(simulated: Any) -> None:
    source = flamec.arange(6.0).pin_memory()
    there = source.to("cuda", non_blocking=True)
    assert len(simulated[0].runtime.pending) == 1
    del source  # the block is kept until it has been read
    assert flamec.equal((there * 2).cpu(), flamec.arange(6.0) * 2)
    assert not simulated[0].runtime.pending
    flamec.arange(6.0).to("cuda", non_blocking=True)  # not pinned: waited for
    assert not simulated[0].runtime.pending
    flamec.arange(6.0).pin_memory().cuda(non_blocking=True)
    assert len(simulated[0].runtime.pending) == 1
    flamec.cuda.synchronize()
    assert not simulated[0].runtime.pending


def test_gradients_flow_through_an_asynchronous_transfer(gpu: Any) -> None:
    x = flamec.arange(4.0).pin_memory().requires_grad_()
    (x.to(gpu, non_blocking=True) ** 2).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 2, 4, 6] and x.grad.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not gpus.device_count(), reason="there is no GPU")
def test_blocks_are_not_used_again_before_they_have_been_read() -> None:
    wanted, found = [], []
    for number in range(50):
        source = flamec.full((1 << 18,), float(number), pin_memory=True)
        found.append(source.to("cuda", non_blocking=True))
        wanted.append(number)
        del source
    assert [t.max().item() for t in found] == [t.min().item() for t in found] == wanted


@pytest.mark.gpu
@pytest.mark.skipif(not gpus.device_count(), reason="there is no GPU")
@pytest.mark.alone
def test_a_transfer_overlaps_with_the_host() -> None:
    """The work before it takes longer than the call: the call has returned before it is done."""
    x = flamec.randn(4096, 4096, device="cuda")
    source = flamec.zeros(1 << 20, pin_memory=True)
    (x @ x).sum().item()
    for _ in range(30):
        y = x @ x
    there = source.to("cuda", non_blocking=True)
    assert not flamec.cuda.current_stream().query()
    assert y.shape == x.shape and there.sum().item() == 0


def test_batches_are_pinned(gpu: Any) -> None:
    data = TensorDataset(flamec.arange(10.0), flamec.arange(10))
    for workers in (0, 1):
        batches = list(DataLoader(data, 4, pin_memory=True, num_workers=workers))
        assert [len(x) for x, _ in batches] == [4, 4, 2]
        assert all(x.is_pinned() and y.is_pinned() for x, y in batches)
        assert np.concatenate([y.numpy() for _, y in batches]).tolist() == list(range(10))
    nested = [{"pair": Pair(flamec.ones(2), 3), "name": "a"} for _ in range(2)]
    (batch,) = DataLoader(nested, 2, pin_memory=True)
    assert batch["pair"].x.is_pinned() and batch["pair"].y.is_pinned() and batch["name"]


class Counted:
    """Samples 0, 1, ...; ``fails_at`` raises, ``dies_at`` ends the process."""

    def __init__(self, fails_at: int = -1, dies_at: int = -1, sleeps_at: int = -1) -> None:
        self.fails_at, self.dies_at, self.sleeps_at = fails_at, dies_at, sleeps_at

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        if index == self.fails_at:
            raise ValueError("no such sample")
        if index == self.dies_at:
            os._exit(7)
        if index == self.sleeps_at:
            time.sleep(60)
        return flamec.full((4,), float(index))


def test_the_next_batch_is_copied_while_one_is_used(gpu: Any) -> None:
    loader = DataLoader(Counted(), 2, pin_memory=True, num_workers=1, persistent_workers=True)
    threads = threading.active_count()
    for _ in range(2):
        batches: Any = iter(loader)
        assert len(batches) == 4
        found = []
        for count in range(4):
            found.append(next(batches))
            if count == 0:
                second, third = batches._pinned._answers  # on the way, unasked for
                assert second.result()[2][0].is_pinned() and third.result()[2][0].is_pinned()
        assert [int(b[0, 0]) for b in found] == [0, 2, 4, 6]
        assert all(b.is_pinned() for b in found)
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(batches)
        assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fails_at": 4}, ValueError, "no such sample"),
        ({"dies_at": 4}, RuntimeError, r"worker 0 .* exited with exit code 7"),
    ],
)
def test_an_error_ahead_is_raised_where_its_batch_is_asked_for(
    options: dict[str, int], error: type[Exception], message: str, gpu: Any
) -> None:
    batches: Any = iter(DataLoader(Counted(**options), 2, pin_memory=True, num_workers=1))
    assert int(next(batches)[0, 0]) == 0
    assert not wait(batches._pinned._answers, 60).not_done  # the third has come to nothing
    assert int(next(batches)[0, 0]) == 2
    with pytest.raises(error, match=message):
        next(batches)


def test_a_worker_that_is_too_slow(gpu: Any) -> None:
    loader = DataLoader(Counted(sleeps_at=2), 2, pin_memory=True, num_workers=1, timeout=0.5)
    threads = threading.active_count()
    batches = iter(loader)
    assert int(next(batches)[0, 0]) == 0
    with pytest.raises(RuntimeError, match="timed out after"):
        next(batches)
    assert threading.active_count() == threads


def test_the_end_of_a_dataset_of_unknown_length(gpu: Any) -> None:
    class Endless(IterableDataset):
        def __iter__(self) -> Any:
            info = get_worker_info()
            assert info is not None
            return iter([np.full(3, 10 * info.id + i) for i in range(2 + 3 * info.id)])

    found = list(DataLoader(Endless(), 2, pin_memory=True, num_workers=2))
    assert all(b.is_pinned() for b in found)
    assert [b[:, 0].tolist() for b in found] == [[0, 1], [10, 11], [12, 13], [14]]


def test_an_iteration_that_is_given_up(gpu: Any) -> None:
    loader = DataLoader(Counted(), 2, pin_memory=True, num_workers=1, persistent_workers=True)
    first = iter(loader)
    next(first)
    assert [int(b[0, 0]) for b in loader] == [0, 2, 4, 6]


def test_objects_with_a_method_of_their_own(gpu: Any) -> None:
    class Batch:
        def __init__(self, samples: list[Any]) -> None:
            self.samples, self.was_pinned = samples, False

        def pin_memory(self) -> Batch:
            self.was_pinned = True
            return self

    (batch,) = DataLoader([1, 2], 2, pin_memory=True, collate_fn=Batch)
    assert isinstance(batch, Batch) and batch.was_pinned


def test_saved_tensors_wait_in_pinned_memory(gpu: Any) -> None:
    x = flamec.arange(3.0, device=gpu).requires_grad_()
    with save_on_cpu(pin_memory=True):
        y = x * x
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 2, 4]


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "device_count", lambda: 0)
    x = flamec.zeros(2)
    assert not x.is_pinned()
    with pytest.raises(RuntimeError, match=r"Cannot access accelerator device.*test_pinned"):
        x.pin_memory()
    with pytest.raises(RuntimeError, match="Cannot access accelerator device"):
        flamec.zeros(2, pin_memory=True)
    with pytest.warns(UserWarning, match="no accelerator is found"):
        batches = list(DataLoader(TensorDataset(flamec.arange(4)), 2, pin_memory=True))
    assert [b[0].tolist() for b in batches] == [[0, 1], [2, 3]]


def test_in_a_compiled_function_it_is_refused(gpu: Any) -> None:
    with pytest.raises(flamec.errors.CompileError, match=r"pin_memory cannot be compiled"):
        flamec.compile(lambda t: t.pin_memory())(flamec.zeros(2))
