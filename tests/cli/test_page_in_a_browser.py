"""``flamec dump --html``: what the page does in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_programs import large_page

from flamec.cli.example_inputs import example_inputs
from flamec.cli.html_page import html_page
from flamec.cli.page_data import page_data
from flamec.cli.stages import inspect
from flamec.cli.target import load_target

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "flamec" / "cli" / "page"


UPWARD = """
return inspection.graph.cy.edges().filter(e =>
  e.source().parent().same(e.target().parent())
  && e.source().position('y') >= e.target().position('y')).length;
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = (
        shutil.which("chromium") or shutil.which("chromium-browser"),
        shutil.which("chromedriver"),
    )
    if None in programs:
        pytest.skip(
            "chromium and chromedriver are not installed (Debian: chromium, chromium-driver)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--window-size=1400,900", "--force-device-scale-factor=1",
        "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    driver.set_script_timeout(120)
    yield driver
    driver.quit()


def opened(browser: Any, data: dict[str, Any], folder: Path) -> Any:
    path = folder / "page.html"
    path.write_text(html_page(data))
    browser.get(path.as_uri())
    assert browser.execute_script("return inspection.ready")
    return browser


def details(browser: Any) -> str:
    text: str = browser.execute_script("return document.getElementById('details').innerText")
    return text


def click_link(browser: Any, text: str) -> None:
    browser.execute_script(
        "const links = [...document.querySelectorAll('#details .link')];"
        "links.find(l => l.textContent.startsWith(arguments[0])).click()",
        text,
    )


def view(browser: Any, name: str) -> None:
    browser.execute_script(f"document.querySelector('[data-view={name}]').click()")


@pytest.fixture
def page(browser: Any, step: tuple[Any, dict[str, Any]], tmp_path: Path) -> Iterator[Any]:
    yield opened(browser, step[1], tmp_path)
    problems = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert not problems


def test_every_view_opens(page: Any) -> None:
    for name in ("stages", "kernels", "time", "memory", "graph"):
        view(page, name)
        assert page.execute_script(
            f"return document.getElementById('{name}').getBoundingClientRect().height > 300"
        )
    assert "kernels" in details(page)


def test_from_a_node_to_its_line_and_kernel_and_back(
    page: Any, step: tuple[Any, dict[str, Any]]
) -> None:
    nodes = step[1]["programs"][0]["nodes"]
    number = next(i for i, n in enumerate(nodes) if n["op"] == "dot_general")
    page.execute_script(
        f"inspection.graph.reveal([{number}]); inspection.graph.cy.$('#n{number}').emit('tap')"
    )
    text = details(page)
    assert "loss = criterion(model(x), y)" in text and "float32[16, 5]" in text
    assert "Sequential.0" in text and "1.60 k" in text  # 2 * 16 * 10 * 5
    kernel = nodes[number]["kernels"][0]
    assert f"kernel_{kernel} in C" in text and f"step_{kernel}(" in text
    click_link(page, f"kernel_{kernel}")
    assert f"kernel_{kernel} (matmul)" in details(page)
    click_link(page, "show its")
    marked = page.execute_script("return inspection.graph.cy.$('.marked').map(n => n.id())")
    computed = step[1]["programs"][0]["kernels"][kernel]["nodes"]
    assert f"n{number}" in marked
    assert set(marked) == {f"n{n}" for n in computed if nodes[n]["kind"] != "creation"}


def test_modules_open_and_close(page: Any) -> None:
    page.execute_script("document.getElementById('close-all').click()")
    boxes = page.execute_script(
        "return inspection.graph.cy.nodes('.closed').map(n => n.data('label'))"
    )
    assert any(label.startswith("Sequential") for label in boxes)
    before = page.execute_script("return inspection.graph.shownCount")
    page.execute_script("inspection.graph.cy.nodes('.closed')[0].emit('dbltap')")
    assert page.execute_script("return inspection.graph.shownCount") > before
    page.execute_script("document.getElementById('open-all').click()")
    shown = page.execute_script("return inspection.graph.cy.nodes('[id ^= \"n\"]').length")
    total = page.execute_script(
        "const nodes = inspection.data.programs[0].nodes;"
        "return nodes.filter((_, i) => inspection.graph.isShown(i)).length"
    )
    assert shown == total


def test_arrows_point_down_and_boxes_do_not_overlap(page: Any) -> None:
    page.execute_script("document.getElementById('open-all').click()")
    assert page.execute_script(UPWARD) == 0
    overlapping = page.execute_script(
        """
        const leaves = inspection.graph.cy.nodes().filter(n => !n.isParent());
        const boxes = leaves.map(n => n.boundingBox({ includeLabels: false }));
        let count = 0;
        boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => {
          if (a.x1 < b.x2 - 1 && b.x1 < a.x2 - 1 && a.y1 < b.y2 - 1 && b.y1 < a.y2 - 1) count++;
        }));
        return count;
        """
    )
    assert overlapping == 0


def test_times_are_those_of_the_program_at_hand(browser: Any, tmp_path: Path) -> None:
    """Forward and backward have kernels of the same names; what did not run has no times."""
    data = large_page(3, 4)
    other = {**data["programs"][0], "title": "backward", "name": "large_backward"}
    data["programs"].append(other)
    event = {"kind": "kernel", "start": 0.0, "length": 8.0, "depth": 0, "bytes": 64, "flops": 32}
    data["profile"] = [{"name": "cpu", "events": [{**event, "name": "large/kernel_1"}]}]
    opened(browser, data, tmp_path)
    view(browser, "kernels")
    cells = (
        "const cells = [...document.querySelectorAll('#kernel-table td:nth-child(6)')];"
        "return cells.map(c => c.innerText)"
    )
    assert browser.execute_script(cells) == ["", "8.00 µs", ""]
    browser.execute_script(
        "const p = document.getElementById('program'); p.value = 1; p.onchange()"
    )
    assert browser.execute_script(cells) == ["", "", ""]
    view(browser, "time")
    browser.execute_script(
        "const c = inspection.state.charts.time.at(-1); c.onChoose(c.blocks[0].data)"
    )
    assert details(browser).startswith("kernel_1 (")
    assert browser.execute_script("return inspection.state.program") == 0


def test_search_goes_from_match_to_match(page: Any) -> None:
    page.execute_script(
        "const s = document.getElementById('search'); s.value = 'dot_gen'; s.oninput();"
        "s.onkeydown({ key: 'Enter' }); s.onkeydown({ key: 'Enter' })"
    )
    found = page.execute_script("return document.getElementById('matches').textContent")
    total = page.execute_script(
        "return inspection.data.programs[0].nodes.filter(n => n.op === 'dot_general').length"
    )
    assert found == f"2 of {total}"
    assert details(page).startswith("dot_general")
    assert page.execute_script("return inspection.graph.cy.$('.marked').length") == 1


def test_a_line_is_found_in_all_stages(page: Any) -> None:
    view(page, "stages")
    place = page.execute_script(
        """
        const lines = inspection.state.columns[0].lines;
        const i = lines.lines.findIndex(l => l.includes('loss = criterion'));
        lines.element.scrollTop = i * 17; lines.draw();
        lines.window.children[i - lines.first].click();
        return inspection.state.line;
        """
    )
    assert place.startswith("program.py:")
    assert page.execute_script(
        "return inspection.state.columns.every("
        "c => c.lines.window.querySelectorAll('.same').length > 0)"
    )
    kept = page.execute_script("return document.querySelectorAll('.lines .window div').length")
    assert kept < 3 * 90  # only lines in sight are in the document


def test_charts_zoom_and_lead_to_kernels(page: Any) -> None:
    view(page, "memory")
    chosen = page.execute_script(
        """
        const chart = inspection.state.charts.memory[0], block = chart.blocks[0];
        const x = (block.x + block.w / 2 - chart.left) * chart.scale;
        const y = (chart.toY(block.y) + chart.toY(block.y + block.h)) / 2;
        const corner = chart.canvas.getBoundingClientRect();
        const at = { clientX: x + corner.left, clientY: y + corner.top, bubbles: true };
        for (const name of ['pointermove', 'pointerdown', 'pointerup'])
          chart.canvas.dispatchEvent(new PointerEvent(name, at));
        const before = chart.scale;
        chart.canvas.dispatchEvent(new WheelEvent('wheel', { deltaY: -300, cancelable: true }));
        return [block.data, chart.scale > before];
        """
    )
    assert chosen[1]
    assert details(page).startswith(f"kernel_{chosen[0]} (")


def drag(browser: Any, moves: int) -> None:
    """Drag the graph with the mouse."""
    actions = pytest.importorskip("selenium.webdriver").ActionChains(browser, duration=16)
    canvas = browser.find_element("id", "canvas")
    actions.move_to_element_with_offset(canvas, -300, -200).click_and_hold()
    for _ in range(moves):
        actions.move_by_offset(5, 3)
    actions.release().perform()


def wheel(browser: Any, amount: int) -> None:
    """Turn the wheel over the graph."""
    webdriver = pytest.importorskip("selenium.webdriver")
    origin = webdriver.common.actions.wheel_input.ScrollOrigin.from_element(
        browser.find_element("id", "canvas")
    )
    webdriver.ActionChains(browser).scroll_from_origin(origin, 0, amount).perform()


@pytest.mark.parametrize("boxed", [True, False], ids=["in modules", "flat"])
def test_five_thousand_nodes_stay_fluid(browser: Any, tmp_path: Path, boxed: bool) -> None:
    """Counted, not timed: what a frame has to do, and how many of them there are."""
    opened(browser, large_page(50, 100, boxed), tmp_path)
    if boxed:
        assert browser.execute_script("return inspection.graph.shownCount") < 100
        browser.execute_script("document.getElementById('close-all').click()")
        before = browser.execute_script("return inspection.layouts")
        browser.execute_script("document.getElementById('open-all').click()")
        # fifty equal modules of four equal parts: one layout of each kind, and the root's
        assert browser.execute_script("return inspection.layouts") - before <= 8
    assert (
        browser.execute_script("return inspection.graph.cy.nodes('[id ^= \"n\"]').length") == 5000
    )
    counts = (
        "const g = inspection.graph; return [g.frames, g.builds, inspection.layouts, g.cy.zoom()]"
    )
    before = browser.execute_script(counts)
    drag(browser, moves=40)
    frames, builds, layouts, zoom = browser.execute_script(counts)
    assert frames - before[0] >= 30  # it keeps up with the hand
    for _ in range(5):
        wheel(browser, -120)
    after = browser.execute_script(counts)
    assert after[3] > zoom and after[0] > frames
    assert (after[1], after[2]) == (builds, layouts) == (before[1], before[2])
    browser.execute_script(
        "const s = document.getElementById('search'); s.value = 'exp'; s.oninput();"
        "s.onkeydown({ key: 'Enter' })"
    )
    assert (
        browser.execute_script("return document.getElementById('matches').textContent")
        == "1 of 1250"
    )
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def test_kernels_for_a_gpu_have_their_triton_source(program: Path) -> None:
    target = load_target(f"{program}:step")
    example = example_inputs(target, ())
    inspection = inspect(target, example, target.function.options)
    data = page_data(inspection, "step", example.origin, target="sm_90")
    (shown,) = data["programs"]
    for kernel in shown["kernels"]:
        assert kernel["functions"]
        assert all("@triton.jit" in shown["functions"][name] for name in kernel["functions"])
    assert "@triton.jit" in data["stages"]["triton"][0]["text"]


def test_a_gpt_step(browser: Any, tmp_path: Path) -> None:
    """The example's whole training step: opened, searched, every box open."""
    target = load_target(f"{ROOT / 'examples' / 'gpt2.py'}:Training.step")
    example = example_inputs(target, ())
    inspection = inspect(target, example, target.function.options)
    data = page_data(inspection, "gpt2.py:Training.step", example.origin)
    opened(browser, data, tmp_path)
    nodes = data["programs"][0]["nodes"]
    assert len(nodes) > 1000
    assert browser.execute_script("return inspection.graph.shownCount") < 100
    browser.execute_script("document.getElementById('open-all').click()")
    shown = browser.execute_script("return inspection.graph.cy.nodes('[id ^= \"n\"]').length")
    hidden = ("input", "full", "iota")
    assert shown == sum(n["op"] not in hidden for n in nodes)
    assert browser.execute_script(UPWARD) == 0
    boxes = browser.execute_script("return [...inspection.graph.boxes.values()].map(b => b.name)")
    assert {"GPT2", "attention", "feed_forward"} <= set(boxes)
    assert any(name.endswith("· 2") for name in boxes)  # the backward pass
    for name in ("stages", "kernels", "time", "memory"):
        view(browser, name)
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
