"""The documentation is true: its sessions give what they show, what it names is there."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

import flamec
from flamec.cli.main import app

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
_DOTTED = re.compile(r"[a-z_]+(?:\.\w+)+(?=$|\()")
_COMMAND = re.compile(r"flamec [a-z-]|python (?:-m benchmarks\.|examples/)")
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


def _member(owner: Any, name: str) -> Any:
    """An attribute, or a module of a package; AttributeError if there is neither."""
    try:
        return getattr(owner, name)
    except AttributeError:
        try:
            return importlib.import_module(f"{owner.__name__}.{name}")
        except (ImportError, AttributeError):
            raise AttributeError(f"{owner} has no {name}") from None


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_dotted_names_can_be_looked_up(page: Path) -> None:
    """``flamec.cond(...)``, and ``optim.Lion`` where flamec has an ``optim``."""
    for text in _quoted(page):
        found = _DOTTED.match(text)
        if found is None or _FILE.fullmatch(text):
            continue
        first, *rest = found[0].split(".")
        place: Any = flamec
        if first != "flamec":
            try:
                place = _member(flamec, first)
            except AttributeError:
                continue  # a variable, or another library
        for name in rest:
            place = _member(place, name)


def _command_lines(page: Path) -> list[str]:
    text = page.read_text()
    shown = re.findall(r"^\$ ((?:flamec|python) .*)$", text, re.MULTILINE)
    lines = [line.partition("  #")[0] for line in shown]
    return [line for line in (*_quoted(page), *lines) if _COMMAND.match(line)]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_exist_with_their_options(page: Path) -> None:
    """Of ``flamec``, of the benchmarks and of the examples."""
    for line in _command_lines(page):
        program, *words = line.split()
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if program == "flamec":
            if not words or words[0].startswith("-"):
                assert options <= {"--install-completion", "--version", "--help"}, line
                continue
            command: Any = typer.main.get_group(app).commands[words[0]]
            inner = getattr(command, "commands", None)
            if inner is not None and len(words) > 1:
                command = inner[words[1]]
            known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            assert options <= known, line
        else:
            words = words[words[0] == "-m" :]
            file = words[0] if words[0].endswith(".py") else words[0].replace(".", "/") + ".py"
            known = set(re.findall(r"--[a-z-]+", (ROOT / file).read_text()))
            known |= set(re.findall(r"--[a-z-]+", (ROOT / "examples/training.py").read_text()))
            assert options <= known, line


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page: Path) -> None:
    links = _LINK.findall(_QUOTED.sub("", _BLOCK.sub("", page.read_text())))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing
