"""The pure parts of sandbox-images/build."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "sandbox-images/build"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("sandbox_images_build", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))  # as for a script that is run
        patch.setattr(sys, "dont_write_bytecode", True)  # the script has no suffix that .gitignore could name
        patch.setitem(sys.modules, loader.name, module)  # where its dataclasses look themselves up
        loader.exec_module(module)
    return module


@pytest.fixture
def apt_sources(build: ModuleType) -> ModuleType:
    """Importable for the script alone."""
    return sys.modules["apt_sources"]


DEB822 = """Types: deb
# a note
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://other.invalid/apt
Suites: nodistro
Components: main

Types: deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.invalid/debian
Suites: bookworm
Components: main
"""


def test_only_binary_sources_of_the_release_are_taken(apt_sources: ModuleType) -> None:
    (stanza,) = apt_sources.from_deb822(DEB822, "bookworm")
    assert stanza.splitlines()[0] == "Types: deb"
    assert "Suites: bookworm bookworm-updates" in stanza
    assert "Signed-By: /usr/share/keyrings/debian.gpg" in stanza
    assert "#" not in stanza


def test_one_line_sources_become_stanzas(apt_sources: ModuleType) -> None:
    text = """
deb http://mirror.invalid/debian bookworm main contrib # a note
deb [arch=amd64 signed-by=/k.gpg] http://mirror.invalid/security bookworm-security main
deb-src http://mirror.invalid/debian bookworm main
deb http://other.invalid/apt cloud-bookworm main
# deb http://off.invalid/debian bookworm main
deb http://short.invalid bookworm
"""
    assert apt_sources.from_lines(text, "bookworm") == [
        "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: bookworm\nComponents: main contrib",
        "Types: deb\nURIs: http://mirror.invalid/security\nSuites: bookworm-security\nComponents: main\n"
        "Signed-By: /k.gpg",
    ]


def test_the_hash_follows_names_contents_and_executable_bits(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[build.content_hash.__module__], "ROOT", tmp_path)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.py").write_text("a")
    seen = {build.content_hash(tree)}
    (tree / "a.py").chmod(0o755)
    seen.add(build.content_hash(tree))
    (tree / "a.py").write_text("b")
    seen.add(build.content_hash(tree))
    (tree / "a.py").rename(tree / "b.py")
    seen.add(build.content_hash(tree))
    assert len(seen) == 4
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__/b.cpython-311.pyc").write_text("c")
    (tree / "b.pyi").write_text("d")
    assert build.content_hash(tree) in seen
    assert build.content_hash(tree, "more") not in seen


def test_without_an_engine_the_remedy_is_told(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(SystemExit) as caught:
        build.require_engine()
    assert caught.value.code == 1
    assert "systemctl start docker" in capsys.readouterr().err


def test_only_scripts_are_taken_out_of_installed_packages(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/script").write_text("#!/home/somebody/python\n")
    (tmp_path / "bin/program").write_bytes(b"\x7fELF")
    build.remove_scripts(tmp_path / "bin")
    assert [path.name for path in (tmp_path / "bin").iterdir()] == ["program"]
    (tmp_path / "bin/program").write_text("#!/bin/sh\n")
    build.remove_scripts(tmp_path / "bin")
    build.remove_scripts(tmp_path / "bin")
    assert list(tmp_path.iterdir()) == []


def test_parts_that_were_replaced_go_and_those_of_an_image_that_was_not_built_stay(build: ModuleType) -> None:
    engine = sys.modules[build.remove_superseded.__module__]
    tags = ["r:system-1", "r:system-2", "r:full-system-1", "r:origin-1"]
    assert engine.superseded(tags, {"r:system-2", "r:origin-1"}, by_kind=True) == ["r:system-1"]
    assert engine.superseded(tags, {"r:system-2"}, by_kind=False) == ["r:system-1", "r:full-system-1", "r:origin-1"]
