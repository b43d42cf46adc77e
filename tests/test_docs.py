"""The documentation is true: its sessions give what they show, what it names is there."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SOURCES = ("flamec", "ir", "codegen", "runtime")
ROOMS = ("flamec", "ir", "codegen", "runtime", "tests", "benchmarks", "examples", "docs", ".ci")
FOREIGN = {  # named though no file of the tree holds them
    "utils.py",  # there is none
    "graph.txt",  # in archives of exported programs
    "plan.json",
    "tuning.json",  # in the cache
    "FILE-minified.py",  # what `flamec minify` writes
    "vexpm1_f32",  # a macro makes it
    "last1",  # in generated Python
    "fma",  # the processor's
}
_SESSION = re.compile(r"^```pycon\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"[\w./-]+\.(?:py|md|j2|c|h|js|mjs|json|toml|txt)")
_NAME = re.compile(r"[a-z]\w*(?:\.\w+)*(?:\(\))?|[A-Z]\w*[a-z]\w*(?:\.\w+)*")
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_sessions_give_what_they_show(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # for the files that they write
    sessions = "".join(_SESSION.findall(page.read_text()))
    test = doctest.DocTestParser().get_doctest(sessions, {}, page.name, str(page), 0)
    results = doctest.DocTestRunner().run(test)
    assert results.failed == 0


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def words(files: list[Path]) -> set[str]:
    code = [path for path in files if path.suffix in {".py", ".j2", ".c", ".h"}]
    code.remove(Path(__file__))
    return {word for path in code for word in re.findall(r"\w+", path.read_text())}


def _quoted(page: Path) -> list[str]:
    return _QUOTED.findall(_BLOCK.sub("", page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_that_are_named_exist(page: Path, files: list[Path]) -> None:
    names = [name for name in _quoted(page) if _FILE.fullmatch(name)]
    alone = {path.name for path in files} | {path.name for path in ROOT.iterdir()} | FOREIGN
    missing = [
        name
        for name in names
        if Path(name).name not in alone
        or (name.startswith(tuple(f"{room}/" for room in ROOMS)) and not (ROOT / name).exists())
    ]
    assert not missing


def test_every_folder_of_the_package_is_in_the_overview() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    markers = [m for room in SOURCES for m in (ROOT / room).rglob("__init__.py")]
    folders = [marker.parent.relative_to(ROOT).as_posix() for marker in markers]
    assert not [folder for folder in folders if f"`{folder}/" not in page]


def test_every_module_says_what_it_is_for() -> None:
    files = [path for room in SOURCES for path in (ROOT / room).rglob("*.py")]
    silent = [path for path in files if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_names_are_in_the_code(page: Path, words: set[str]) -> None:
    names = [name for name in _quoted(page) if _NAME.fullmatch(name) and not _FILE.fullmatch(name)]
    known = words | FOREIGN
    unknown = [name for name in names if not set(re.findall(r"\w+", name)) <= known]
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page: Path) -> None:
    links = _LINK.findall(_QUOTED.sub("", _BLOCK.sub("", page.read_text())))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing
