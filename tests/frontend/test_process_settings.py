"""Switches of the process: determinism, threads of CPU programs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import flamec


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads = flamec.get_num_threads()
    yield
    flamec.use_deterministic_algorithms(False)
    flamec.set_num_threads(threads)


def test_what_varies_is_refused_when_determinism_is_asked_for() -> None:
    assert not flamec.are_deterministic_algorithms_enabled()
    flamec.compile(lambda x: x, deterministic=False)
    flamec.use_deterministic_algorithms(True)
    assert flamec.are_deterministic_algorithms_enabled()
    flamec.compile(lambda x: x), flamec.compile(lambda x: x, deterministic=True)
    with pytest.raises(RuntimeError, match="use_deterministic_algorithms"):
        flamec.compile(lambda x: x, deterministic=False)
    flamec.use_deterministic_algorithms(True, warn_only=True)
    assert flamec.is_deterministic_algorithms_warn_only_enabled()
    with pytest.warns(UserWarning, match="results that vary"):
        flamec.compile(lambda x: x, deterministic=False)


def test_threads_of_programs_that_are_there_and_to_come() -> None:
    x = flamec.randn(64, 512)
    first = flamec.compile(lambda x: (x * 2).sum(1))
    wanted = first(x)
    threads = first.programs[0].prepared.threads
    assert threads == flamec.get_num_threads()
    flamec.set_num_threads(threads + 2)
    assert flamec.get_num_threads() == first.programs[0].prepared.threads == threads + 2
    assert first(x).tolist() == wanted.tolist()
    second = flamec.compile(lambda x: (x * 3).sum(1))
    second(x)
    assert second.programs[0].prepared.threads == threads + 2
    own = flamec.compile(lambda x: (x * 4).sum(1), threads=threads + 1)
    own(x)
    flamec.set_num_threads(1)
    assert own.programs[0].prepared.threads == threads + 1
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(RuntimeError, match="positive integer"):
            flamec.set_num_threads(wrong)  # type: ignore[arg-type]


def test_the_name_of_a_grad_fn() -> None:
    x = flamec.ones(2, requires_grad=True)
    assert (x * 2).grad_fn.name() == "MulBackward0"
    assert x.grad_fn is None
