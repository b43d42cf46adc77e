"""Programs of kernels whose parameters are addresses write them and launch, without steps between;
of one kernel all at once."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import driver_stand_in
import pytest

from flamec.runtime import recording
from flamec.runtime.cuda.direct_launch import direct_launch
from flamec.runtime.cuda.driver import CudaError, context, driver
from flamec.runtime.cuda.kernel_binary import KernelBinary, Parameter
from flamec.runtime.cuda.module import KernelLaunch, LoadedKernel
from flamec.runtime.cuda.pointers import Pointer, sorted_setters

COUNT = 6


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> KernelLaunch:
    """A launch with parameters 90, 91, …"""
    driver_stand_in.install(monkeypatch)
    parameters = tuple(Parameter("pointer", 8, i) for i in range(COUNT))
    binary = KernelBinary("kernel", "sm_90", b"", 128, 0, 32, 0, parameters)
    found = KernelLaunch(LoadedKernel(context(0), binary))
    found.set_arguments(*range(90, 90 + COUNT))
    return found


def given_by(launch: KernelLaunch, slots: Sequence[Sequence[int]], offset: int = 0) -> Any:
    """For each address the setters of the parameters that it is."""
    return [sorted_setters([Pointer(launch, s, offset, 15, "x") for s in each]) for each in slots]


def direct(steps: Sequence[Any], given: Any, moved: Any = None, otherwise: Any = None) -> Any:
    return direct_launch(steps, given, 0, moved, otherwise)


@pytest.mark.parametrize(
    ("slots", "wanted"),
    [
        ([[0], [1], [2]], [16, 32, 48, 93, 94, 95]),
        ([[2], [0], [1]], [32, 48, 16, 93, 94, 95]),
        ([[0, 3], [], [1]], [16, 48, 92, 16, 94, 95]),
        ([[5]], [90, 91, 92, 93, 94, 16]),
        ([[0]], [16, 91, 92, 93, 94, 95]),
    ],
)
def test_parameters(launch: KernelLaunch, slots: list[list[int]], wanted: list[int]) -> None:
    run = direct([launch], given_by(launch, slots))
    cu: Any = driver()
    for factor in (3, 1):
        before = cu.calls["cuLaunchKernel"]
        run([16 * factor * (i + 1) for i in range(len(slots))])
        assert cu.calls["cuLaunchKernel"] == before + 1
    assert list(launch.values) == wanted


def test_what_is_no_direct_launch(launch: KernelLaunch) -> None:
    plain = given_by(launch, [[0], [1]])
    assert direct([launch], plain) is not None

    def other(address: int) -> None: ...

    assert direct([], []) is None
    assert direct([other], plain) is None
    assert direct([launch, other], plain) is None
    assert direct([launch, launch], [*plain, sorted_setters([other])]) is None
    assert direct([launch, launch], given_by(launch, [[0], [1]], offset=8)) is None
    assert direct([launch], given_by(launch, [[0], [1]], offset=8)) is None
    assert direct([launch], [*plain, sorted_setters([other])]) is None
    assert direct([launch], [([], [])]) is None
    second = KernelLaunch(launch.kernel)
    assert direct([launch], [*plain, *given_by(second, [[2]])]) is None
    with pytest.raises(struct.error, match="expected 2 items"):
        direct([launch], plain)([16])


def test_several_kernels(launch: KernelLaunch) -> None:
    """Each has the addresses that it is given; some are behind one of them."""
    second = KernelLaunch(launch.kernel)
    second.set_arguments(*range(70, 70 + COUNT))
    both = [Pointer(launch, 0, 0, 15, "x"), Pointer(second, 3, 32, 15, "x")]
    given = [sorted_setters(both), *given_by(second, [[1]])]
    cu: Any = driver()
    run = direct([launch, second], given)
    for factor in (3, 1):
        before = cu.calls["cuLaunchKernel"]
        run([16 * factor, 160 * factor])
        assert cu.calls["cuLaunchKernel"] == before + 2
    assert list(launch.values) == [16, 91, 92, 93, 94, 95]
    assert list(second.values) == [70, 160, 72, 48, 74, 75]
    seen: list[Any] = []
    run = direct([launch, second], given, lambda stream: True, seen.append)
    run([32, 320])
    assert seen == [[32, 320]] and launch.values[0] == 16


def test_memory_that_moved_is_left_to_the_steps(launch: KernelLaunch) -> None:
    seen: list[Any] = []
    moves = [True, False]
    run = direct([launch], given_by(launch, [[0]]), lambda stream: moves.pop(0), seen.append)
    run([16])
    assert seen == [[16]] and launch.values[0] == 90
    run([32])
    assert seen == [[16]] and launch.values[0] == 32


def test_a_profile_is_left_to_the_steps(
    launch: KernelLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    run = direct([launch], given_by(launch, [[0]]), None, seen.append)
    monkeypatch.setattr(recording, "recorder", object())
    run([16])
    assert seen == [[16]] and launch.values[0] == 90


def test_a_launch_that_fails(launch: KernelLaunch) -> None:
    cu: Any = driver()
    cu.results |= {"cuGetErrorName": (0, b"CUDA_ERROR_X"), "cuGetErrorString": (0, b"no")}
    failing = KernelLaunch(launch.kernel)
    failing._submit = lambda *_: (1,)
    with pytest.raises(CudaError, match=r"launching kernel with grid \(1, 1, 1\) failed: .*_X"):
        direct([failing], given_by(failing, [[0]]))([16])
    with pytest.raises(CudaError, match=r"launching kernel with grid \(1, 1, 1\) failed: .*_X"):
        direct([launch, failing], given_by(failing, [[0]]))([16])
