"""What is installed is what lies in the folders: by a wheel, by an editable install, with and without links."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.import_graph import PACKAGE, ROOMS, ROOT
from faceanon_engine import __version__

pytest.importorskip("setuptools", "77", reason="setuptools from 77 on is not installed: pip install '.[dev]'")

# What belongs to the package by its ending, and folders of which everything does.
ENDINGS = {".py", ".pyi", ".cu", ".cuh"}
DATA_FOLDERS = ("engine/assets", "demo/assets", "demo/bundle")
# Of the folders beside the package, none: pip would put them into everybody's environment.
OURS_ALONE = {PACKAGE, f"faceanon_engine-{__version__}.dist-info"}


def tracked_files() -> list[Path]:
    """Files and links of the repository as git knows them, those that are about to be committed included."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout: what belongs to it is not known")
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(name) for name in done.stdout.split("\0") if name and os.path.lexists(ROOT / name)]


def in_package(file: Path) -> bool:
    """Whether a file of the repository is to be installed."""
    if file.parts[0] not in (PACKAGE, *ROOMS) or (ROOT / file).is_symlink():
        return False
    return file.suffix in ENDINGS or file.name == "py.typed" or str(file.parent) in DATA_FOLDERS


def installed_as(file: Path) -> str:
    """The name of a file of the repository in the package."""
    return str(file) if file.parts[0] == PACKAGE else f"{PACKAGE}/{file}"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files, so that building leaves nothing beside them, and nothing left helps it."""
    folder = tmp_path_factory.mktemp("source")
    for file in tracked_files():
        if file.parts[0] in (PACKAGE, *ROOMS) or len(file.parts) == 1:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file, follow_symlinks=False)
    return folder


def build(source: Path, kind: str, output: Path) -> Path:
    """A wheel by the build backend that pyproject.toml names, as pip calls it; `kind` is "wheel" or "editable"."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(output)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output / done.stdout.splitlines()[-1]


def without_links(source: Path, copy: Path) -> Path:
    """A copy as a checkout is on a system that makes files of links."""
    shutil.copytree(source, copy, symlinks=True)
    for room in ROOMS:
        (copy / PACKAGE / room).unlink()
        (copy / PACKAGE / room).write_text(f"../{room}")
    return copy


def clean() -> dict[str, str]:
    """The environment without the path to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(copy, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    with open(ROOT / "pyproject.toml", "rb") as stream:
        settings = tomllib.load(stream)["tool"]["setuptools"]
    folders = {Path(installed_as(file)).parent for file in tracked_files() if in_package(file) and file.suffix == ".py"}
    assert sorted(settings["packages"]) == sorted(".".join(folder.parts) for folder in folders)
    places = {PACKAGE: PACKAGE} | {f"{PACKAGE}.{room}": room for room in ROOMS}
    assert settings["package-dir"] == places


def test_the_links_lead_to_the_rooms() -> None:
    links = {file.name: os.readlink(ROOT / file) for file in tracked_files() if (ROOT / file).is_symlink()}
    assert links == {room: f"../{room}" for room in ROOMS}


def test_every_room_says_that_it_has_types() -> None:
    typed = {file.parts[0] for file in tracked_files() if file.name == "py.typed" and len(file.parts) == 2}
    assert typed == {PACKAGE, *ROOMS}


def test_a_wheel_holds_what_the_folders_hold(wheel: Path) -> None:
    entries = [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]
    assert len(entries) == len(set(entries)), "nothing is there twice"
    assert {name.partition("/")[0] for name in entries} == OURS_ALONE
    expected = {installed_as(file) for file in tracked_files() if in_package(file)}
    assert {name for name in entries if name.startswith(f"{PACKAGE}/")} == expected
    for name in (
        "engine/assets/centerface.onnx",
        "engine/assets/facemesh.onnx",
        "demo/bundle/bundle.json",
        "kernels/cuda/common.cuh",
        "py.typed",
    ):
        assert f"{PACKAGE}/{name}" in expected


def test_without_links_the_wheel_is_the_same(copy: Path, wheel: Path, tmp_path: Path) -> None:
    source = without_links(copy, tmp_path / "source")
    with zipfile.ZipFile(build(source, "wheel", tmp_path)) as other, zipfile.ZipFile(wheel) as usual:
        assert sorted(other.namelist()) == sorted(usual.namelist())


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    name = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    metadata = zipfile.ZipFile(wheel).read(name).decode()
    assert re.findall(r"^Version: (.*)$", metadata, re.MULTILINE) == [__version__]
    face = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.targets[0]): node.value for node in face.body if isinstance(node, ast.Assign)}
    assert ast.literal_eval(assigned["__version__"]) == __version__, "setuptools reads it without importing anything"
    assert __version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


LOOKS = """
import runpy, sys
import faceanon_engine
from faceanon_engine.engine.models.bundle import Bundle
print(faceanon_engine.__file__)
print(Bundle.open("demo").path)
print(faceanon_engine.__version__)
sys.argv = ["faceanon-engine", "anonymize", "--help"]
runpy.run_module("faceanon_engine.cli.main", run_name="__main__")
"""


def look(python: Path | str, elsewhere: Path, environment: dict[str, str]) -> Iterator[str]:
    """What a program outside of the repository sees of the package, line by line; the bundle's path is real."""
    command = [str(python), "-c", LOOKS]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--margin" in done.stdout
    yield from done.stdout.splitlines()


def test_what_a_wheel_installs_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    done = subprocess.run([*command, "--target", target, wheel], capture_output=True, text=True, env=clean())
    if "No module named pip" in done.stderr:
        pytest.skip("pip is not installed here")
    assert done.returncode == 0, done.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    seen = look(sys.executable, elsewhere, clean() | {"PYTHONPATH": str(target)})
    assert next(seen) == str(target / PACKAGE / "__init__.py")
    assert next(seen) == str(target / PACKAGE / "demo" / "bundle")
    assert next(seen) == __version__


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_an_editable_install_is_the_folders_themselves(links: bool, copy: Path, tmp_path: Path) -> None:
    """What pip does with it: the few files of the editable wheel lie in an environment, the modules stay in place."""
    source = tmp_path / "source"
    if links:
        shutil.copytree(copy, source, symlinks=True)
    else:
        without_links(copy, source)
    made = build(source, "editable", tmp_path)
    venv.create(tmp_path / "environment", with_pip=False, symlinks=True)
    python = tmp_path / "environment" / "bin" / "python"
    if not python.exists():
        pytest.skip("environments are laid out differently on this system")
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(ask, capture_output=True, text=True, check=True, env=clean()).stdout.strip())
    zipfile.ZipFile(made).extractall(packages)
    # The environment has what this one has: only the package is its own.
    here = [path for path in sys.path if "site-packages" in path or "dist-packages" in path]
    (packages / "others.pth").write_text("\n".join(here) + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # Wherever it is started, also with the checkout itself on the path, as pytest has it.
    for environment in (clean(), clean() | {"PYTHONPATH": str(source)}):
        seen = look(python, elsewhere, environment)
        assert Path(next(seen)) == source / PACKAGE / "__init__.py"
        assert Path(next(seen)).resolve() == source / "demo" / "bundle"
        assert next(seen) == __version__
    # It is never stale: what is added to a folder is there.
    (source / "engine" / "system" / "added.py").write_text("VALUE = 7\n")
    code = f"import {PACKAGE}.engine.system.added as added; print(added.VALUE)"
    done = subprocess.run([python, "-c", code], cwd=elsewhere, env=clean(), capture_output=True, text=True)
    assert done.stdout == "7\n", done.stderr
