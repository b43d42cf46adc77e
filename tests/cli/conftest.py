"""A user's file, and a way to run the command line on it in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flamec.cli.example_inputs import example_inputs
from flamec.cli.page_data import page_data
from flamec.cli.stages import inspect
from flamec.cli.target import load_target

PROGRAM = '''
"""A file as a user would write it."""

import flamec
from flamec import nn, optim

print("importing the file prints")
flamec.manual_seed(0)
model = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 2))
optimizer = optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()


@flamec.compile
def step(x, y):
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


@flamec.compile(inputs=lambda: (flamec.ones(3, 4),))
def decorated(x):
    h = x * 2.0 * 1.0
    return h.exp().sum(dim=1)


def plain(x, scale=1.0):
    return x * x * scale


@flamec.autocast("cpu")
def mixed(x):
    with flamec.no_grad():
        return model(x)


@flamec.compile(fullgraph=True)
def hopeless(x):
    if x.sum() > 0:
        return x
    return -x


def nothing():
    return flamec.zeros(2) + 1.0


class Scaler:
    def __init__(self):
        self.factor = 3.0

    def apply(self, x):
        return x * self.factor


class Needy:
    def __init__(self, size):
        self.size = size

    def apply(self, x):
        return x


scaler = Scaler()


def flamec_inputs():
    return flamec.randn(16, 10), flamec.randint(0, 2, (16,))


def flamec_inputs_plain():
    return {"x": flamec.ones(2, 3)}
'''


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user") / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "flamec"


@pytest.fixture(scope="session")
def run(program: Path, cache_folder: Path) -> Run:
    """Run ``flamec`` with these arguments in the folder of the user's file."""

    def run(*arguments: str, code: int = 0, **environment: str) -> Done:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLAMEC_")}
        done = subprocess.run(
            [sys.executable, "-m", "flamec.cli.main", *arguments],
            cwd=program.parent,
            env={**inherited, "FLAMEC_CACHE_DIR": str(cache_folder), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="module")
def step(program: Path) -> tuple[Any, dict[str, Any]]:
    """The compiled training step of the user's file, and the data of its page."""
    target = load_target(f"{program}:step")
    example = example_inputs(target, ())
    inspection = inspect(target, example, target.function.options)
    return inspection.parts[0][1], page_data(inspection, "program.py:step", example.origin)
