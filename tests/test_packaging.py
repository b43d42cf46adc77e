"""The wheel: every package and data file is in it, and nothing under a bare name."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAPPED = ("ir", "codegen", "runtime")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETTINGS = PROJECT["tool"]["setuptools"]


def package_folders() -> dict[str, Path]:
    """Package name -> folder, for each folder with an ``__init__.py``."""
    found: dict[str, Path] = {}
    for top in ("flamec", *MAPPED):
        for marker in (ROOT / top).rglob("__init__.py"):
            parts = marker.parent.relative_to(ROOT).parts
            name = ".".join(parts if top == "flamec" else ("flamec", *parts))
            found[name] = marker.parent
    return found


def data_files() -> set[str]:
    """Files other than Python source, as they must be named in the wheel."""
    names = set()
    for top in ("flamec", *MAPPED):
        for path in (ROOT / top).rglob("*"):
            if not path.is_file() or path.suffix in (".py", ".pyc"):
                continue
            inner = path.relative_to(ROOT).as_posix()
            names.add(inner if top == "flamec" else f"flamec/{inner}")
    return names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel built from a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    for top in ("flamec", *MAPPED):
        shutil.copytree(ROOT / top, tree / top, ignore=shutil.ignore_patterns("__pycache__"))
    output = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(output), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = output.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


def test_every_package_is_listed() -> None:
    assert sorted(SETTINGS["packages"]) == sorted(package_folders())


def test_every_source_folder_is_a_package() -> None:
    """A folder with Python files and no ``__init__.py`` would not be installed."""
    known = set(package_folders().values())
    for top in ("flamec", *MAPPED):
        for file in (ROOT / top).rglob("*.py"):
            assert file.parent in known, f"{file.parent.relative_to(ROOT)} has no __init__.py"


def test_the_mapping_covers_the_folders_outside_of_flamec() -> None:
    expected = {"flamec": "flamec"} | {f"flamec.{name}": name for name in MAPPED}
    assert SETTINGS["package-dir"] == expected


def test_the_wheel_has_every_module(wheel: list[str]) -> None:
    for name, folder in package_folders().items():
        for file in folder.glob("*.py"):
            assert f"{name.replace('.', '/')}/{file.name}" in wheel


def test_the_wheel_has_every_data_file(wheel: list[str]) -> None:
    assert data_files() <= set(wheel)


def test_nothing_is_installed_under_a_bare_name(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"flamec"}


def test_the_wheel_has_the_command_and_the_licence(wheel: list[str]) -> None:
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel)
    assert "flamec/cli/page/vendor/THIRD_PARTY.md" in PROJECT["project"]["license-files"]
    for file in PROJECT["project"]["license-files"]:
        assert any(name.endswith(f".dist-info/licenses/{file}") for name in wheel), file


@pytest.mark.parametrize("name", MAPPED)
def test_bare_names_cannot_be_imported_elsewhere(name: str, tmp_path: Path) -> None:
    program = (
        "import importlib.util\n"
        f"found = importlib.util.find_spec({name!r})\n"
        "assert found is None, found\n"
        f"import flamec.{name}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
