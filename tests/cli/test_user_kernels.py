"""User kernels in what the commands show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

USER = """
from user_kernels import squared_relu

import flamec


@flamec.compile(inputs=lambda: (flamec.ones(4, 3),))
def f(x):
    return squared_relu(x * 2.0, scale=0.5).sum(1)
"""


def test_the_kernel_is_shown_in_all_stages(run: Any, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(USER)
    target = f"{tmp_path / 'program.py'}:f"
    path = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    trace = run("dump", target, "--stage", "trace", **path).out
    assert "float32[4, 3] = squared_relu(%2, scale=0.5)" in trace
    assert "user_kernels" not in trace  # the line is the caller's
    assert "program.py:9" in trace
    triton = run("dump", target, "--stage", "triton", **path).out
    assert "def squared_relu_kernel(x, y, n, scale, BLOCK: tl.constexpr):" in triton
    assert "def positive(v):" in triton
    assert "squared_relu" in run("dump", target, "--stage", "plan", **path).out
    explained = run("explain", target, "--all", **path).out
    assert "squared_relu is a kernel that the user wrote" in explained
    assert run("bisect", target, **path).out.strip() == "no stage changes a result"
