"""Settings of float32 on a GPU have, after any changes, the values that they have in PyTorch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

import flamec
from flamec.float32_precision import restore_settings, saved_settings

torch = pytest.importorskip("torch")

PRECISIONS = (
    "torch.backends",
    "torch.backends.cudnn",
    "torch.backends.cudnn.conv",
    "torch.backends.cudnn.rnn",
    "torch.backends.cuda.matmul",
)
SWITCHES = ("torch.backends.cudnn", "torch.backends.cuda.matmul")
OLDER = (*(f"{place}.allow_tf32" for place in SWITCHES), "torch.get_float32_matmul_precision()")


def newer(rng: random.Random) -> str:
    """A statement that sets a precision."""
    value = rng.choice(("ieee", "tf32", "none"))
    return f"{rng.choice(PRECISIONS)}.fp32_precision = {value!r}"


def older(rng: random.Random) -> str:
    """One that sets it under a name that is older."""
    if rng.random() < 0.6:
        return f"{rng.choice(SWITCHES)}.allow_tf32 = {rng.random() < 0.5}"
    return f"torch.set_float32_matmul_precision({rng.choice(('highest', 'high', 'medium'))!r})"


def value(text: str, package: Any) -> Any:
    """Of an expression."""
    return eval(text, {"torch": package})


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    saved = saved_settings()
    kept = [(p, value(f"{p}.fp32_precision", torch)) for p in PRECISIONS]
    yield
    restore_settings(saved)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for place in PRECISIONS[:2]:
        exec(f"{place}.fp32_precision = 'none'", {"torch": torch})
    exec("torch.backends.cuda.matmul.fp32_precision = 'none'", {"torch": torch})
    assert kept == [(p, value(f"{p}.fp32_precision", torch)) for p in PRECISIONS]


@pytest.mark.filterwarnings("ignore")
def test_defaults() -> None:
    for place in PRECISIONS:
        text = f"{place}.fp32_precision"
        assert value(text, flamec) == value(text, torch), text
    for text in OLDER:
        assert value(text, flamec) == value(text, torch), text


def set_in_both(statement: str) -> None:
    for package in (flamec, torch):
        exec(statement, {"torch": package})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(20))
def test_after_changes(seed: int) -> None:
    # a kind that nobody set has a default of its own, which PyTorch cannot set again
    for place in PRECISIONS:
        set_in_both(f"{place}.fp32_precision = 'none'")
    rng = random.Random(seed)
    done = []
    for _ in range(12):
        done.append(newer(rng) if rng.random() < 0.6 else older(rng))
        set_in_both(done[-1])
        for place in PRECISIONS:
            text = f"{place}.fp32_precision"
            assert value(text, flamec) == value(text, torch), (text, done)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(5))
def test_older_names(seed: int) -> None:
    """By themselves: PyTorch mixes them with others not at all, or tells what was set last."""
    rng = random.Random(seed)
    done, compared = [], 0
    for _ in range(12):
        done.append(older(rng))
        set_in_both(done[-1])
        for text in OLDER:
            try:
                wanted = value(text, torch)
            except RuntimeError:  # two of the older names that say different things
                continue
            assert value(text, flamec) == wanted, (text, done)
            compared += 1
    assert compared > 20


@pytest.mark.filterwarnings("ignore")
def test_refused() -> None:
    for package in (flamec, torch):
        for text in ("torch.backends.fp32_precision", "torch.backends.cudnn.conv.fp32_precision"):
            with pytest.raises(RuntimeError):
                exec(f"{text} = 'half'", {"torch": package})
