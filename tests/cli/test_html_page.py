"""``flamec dump --html``: what is in the page."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from flamec.cli.example_inputs import example_inputs
from flamec.cli.html_page import html_page
from flamec.cli.page_data import page_data
from flamec.cli.stages import inspect
from flamec.cli.target import load_target
from flamec.ir.passes.plan_memory import plan_memory

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "flamec" / "cli" / "page"


NESTED = """
import flamec

w = flamec.ones(3, 3)


def nested(x):
    def turn(i, h):
        return i + 1, flamec.cond(h.sum() > 0, lambda h: flamec.tanh(h @ w), lambda h: h + 1, (h,))

    def body(c, row):
        _, h = flamec.while_loop(lambda i, h: i < 3, turn, (0, c + row))
        return h, h.sum()

    return flamec.scan(body, flamec.zeros(3), x)
"""


# the data ------------------------------------------------------------------------------
def test_nodes_and_kernels_know_each_other(step: tuple[Any, dict[str, Any]]) -> None:
    prepared, data = step
    (program,) = data["programs"]
    nodes, kernels = program["nodes"], program["kernels"]
    assert [k["name"] for k in kernels] == [s.name for s in prepared.compiled.plan.steps]
    for number, kernel in enumerate(kernels):
        assert kernel["nodes"] and all(number in nodes[n]["kernels"] for n in kernel["nodes"])
    for number, node in enumerate(nodes):
        assert all(number in kernels[k]["nodes"] for k in node["kernels"])
        assert all(operand < number for operand in node["inputs"])
    computing = [n for n in nodes if n.get("kind") in ("contraction", "reduction")]
    assert computing and all(n["kernels"] for n in computing)


@pytest.mark.parametrize("gpu", ["", "sm_90"])
def test_nodes_in_bodies_know_their_kernels(tmp_path: Path, gpu: str) -> None:
    """Also where a back end's passes changed a body: a product that is brought to its form."""
    file = tmp_path / "nested.py"
    file.write_text(NESTED)
    target = load_target(f"{file}:nested")
    example = example_inputs(target, ["float32[5,3]"])
    inspection = inspect(target, example, target.function.options)
    (program,) = page_data(inspection, "nested", example.origin, target=gpu)["programs"]
    named = [(k["name"], k["operations"]) for k in program["kernels"] if not k["nodes"]]
    assert [name for name in named if "dot_general" in name[1]] == []
    products = [n for n in program["nodes"] if n["op"] == "dot_general"]
    assert products and all(n["kernels"] for n in products)
    for number, node in enumerate(program["nodes"]):
        assert all(operand < number for operand in node["inputs"])


def test_bytes_and_arithmetic_are_those_of_the_plan(step: tuple[Any, dict[str, Any]]) -> None:
    prepared, data = step
    plan, (program,) = prepared.compiled.plan, data["programs"]
    for kernel, described in zip(program["kernels"], plan.steps, strict=True):
        assert kernel["read"] == described.bytes_read
        assert kernel["written"] == described.bytes_written
        assert kernel["flops"] == described.flops
    product = next(n for n in program["nodes"] if n["op"] == "dot_general")
    assert product["flops"] == 2 * 16 * 10 * 5
    assert product["line"]["text"] == "loss = criterion(model(x), y)"


def test_every_kernel_has_its_c_functions(step: tuple[Any, dict[str, Any]]) -> None:
    prepared, data = step
    (program,) = data["programs"]
    for number, kernel in enumerate(program["kernels"]):
        *called, own = kernel["functions"]
        assert own == f"step_{number}"
        for name in kernel["functions"]:
            assert program["functions"][name] in prepared.compiled.plan.source
        assert all(
            f"{name}(" in program["functions"][own] or name in program["functions"][own]
            for name in called
        )


def test_memory_is_the_planned_arena(step: tuple[Any, dict[str, Any]]) -> None:
    prepared, data = step
    memory, plan = data["programs"][0]["memory"], prepared.compiled.plan
    layout = plan_memory(plan, {})
    assert memory["peak"] == layout.peak_bytes
    assert {b["buffer"]: b["offset"] for b in memory["blocks"]} == layout.offsets
    for a in memory["blocks"]:
        for b in memory["blocks"]:
            at_once = a["first"] < b["last"] and b["first"] < a["last"]
            if a is not b and at_once:  # those that follow one another in place meet in one step
                apart = (
                    a["offset"] + a["bytes"] <= b["offset"]
                    or b["offset"] + b["bytes"] <= a["offset"]
                )
                assert apart


def test_all_stages_are_in_the_page(step: tuple[Any, dict[str, Any]]) -> None:
    _, data = step
    assert set(data["stages"]) == {
        "trace", "grad", "autocast", "optimized", "fused", "kernel", "plan", "source",
    }  # fmt: skip
    assert "flamec_program" in data["stages"]["source"][0]["text"]
    assert [p["name"] for p in data["programs"][0]["passes"]][-1] == "fuse, lower, emit"


# the file ------------------------------------------------------------------------------
def test_the_page_needs_nothing_else(step: tuple[Any, dict[str, Any]]) -> None:
    data = {**step[1], "inputs": "</script><b>%SCRIPTS%"}
    text = html_page(data)
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=", text)
    assert "@import" not in text
    (embedded,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', text, re.S
    )
    assert json.loads(embedded) == json.loads(json.dumps(data, default=str))


def test_libraries_are_those_that_were_fetched() -> None:
    manifest = json.loads((PAGE / "vendor" / "manifest.json").read_text())
    wanted = json.loads((PAGE / "package.json").read_text())["dependencies"]
    locked = json.loads((PAGE / "package-lock.json").read_text())["packages"]
    notices = (PAGE / "vendor" / "THIRD_PARTY.md").read_text()
    files = {p.name for p in (PAGE / "vendor").glob("*.js")}
    assert files == set(manifest)
    for name, entry in manifest.items():
        content = (PAGE / "vendor" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name
        assert wanted[entry["package"]] == entry["version"]
    for path, entry in locked.items():
        if path:
            heading = (
                f"## {path.removeprefix('node_modules/')} {entry['version']} ({entry['license']})"
            )
            assert heading in notices
    words = " ".join(notices.split())
    for name in files:
        for comment in re.findall(r"/\*!(.*?)\*/", (PAGE / "vendor" / name).read_text(), re.S):
            said = " ".join(re.sub(r"^\s*\* ", "", comment, flags=re.M).split())
            assert said in words or f"see {name}.LEGAL.txt" in said, name


def test_the_page_has_the_licences_of_what_is_in_it(step: tuple[Any, dict[str, Any]]) -> None:
    notices = (PAGE / "vendor" / "THIRD_PARTY.md").read_text()
    assert "Framer.js, copyright Koen Bok" in notices
    assert notices in html_page(step[1])


def test_the_command_writes_a_page_with_a_run(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert (
        f"wrote {out}" in run("dump", "program.py:decorated", "--html", str(out), "--profile").out
    )
    text = out.read_text()
    (embedded,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', text, re.S
    )
    data = json.loads(embedded.replace("<\\/", "</"))
    events = [e for lane in data["profile"] for e in lane["events"]]
    assert {e["name"] for e in events if e["kind"] == "program"} == {"decorated"}
    kernels = data["programs"][0]["kernels"]
    assert sum(e["kind"] == "kernel" for e in events) == 3 * len(kernels)
    assert "belongs to --html" in run("dump", "program.py:decorated", "--profile", code=2).err
