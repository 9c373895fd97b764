import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from perstackctl.client import (
    DaemonDownError,
    InvalidError,
    SocketForbiddenError,
    SocketMissingError,
)
from perstackctl.client.address import DEFAULT_ADDRESS, diagnose, socket_path

# Run as somebody else: root may open everything, so the process gives its rights up first (and needs root for it).
AS_NOBODY = """
import os, sys
from pathlib import Path
from perstackctl.client.address import diagnose
os.setgroups([]); os.setgid(65534); os.setuid(65534)
error = diagnose(Path(sys.argv[1]))
print(type(error).__name__, error.exit_code, error.message, sep="|")
"""


@pytest.mark.parametrize("address", ["unix:/run/p/p.sock", "unix:///run/p/p.sock", "/run/p/p.sock", "/run/./p//p.sock"])
def test_an_address_is_a_unix_socket_or_a_path(address: str) -> None:
    assert socket_path(address) == Path("/run/p/p.sock")


def test_a_relative_path_counts_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert socket_path("./p.sock") == tmp_path / "p.sock"
    assert socket_path("unix:p.sock") == tmp_path / "p.sock"


@pytest.mark.parametrize("address", ["localhost:7000", "", "unix:", "perstackd", "/a\0b"])
def test_other_addresses_are_refused_with_an_example(address: str) -> None:
    with pytest.raises(InvalidError, match="write unix:/PATH") as refused:
        socket_path(address)
    assert refused.value.exit_code == 2
    assert DEFAULT_ADDRESS in refused.value.message


def test_a_path_that_no_socket_can_have_is_refused() -> None:
    with pytest.raises(InvalidError, match="longer than the 107 bytes"):
        socket_path("/" + "x" * 107)
    assert socket_path("/" + "x" * 106)


def test_a_missing_socket_is_told_from_other_troubles(tmp_path: Path) -> None:
    error = diagnose(tmp_path / "none.sock")
    assert isinstance(error, SocketMissingError)
    assert "systemctl start perstackd" in error.message
    (tmp_path / "file").touch()
    assert isinstance(diagnose(tmp_path / "file"), SocketMissingError)


def test_a_socket_that_nobody_listens_to_is_a_dead_daemon(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    error = diagnose(path)
    assert isinstance(error, DaemonDownError)
    assert "nobody listens" in error.message


def test_a_socket_that_takes_connections_has_no_diagnosis(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "p.sock"))
        listener.listen()
        assert diagnose(tmp_path / "p.sock") is None


def as_nobody(path: Path) -> str:
    argv = [sys.executable, "-c", AS_NOBODY, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def open_directory(tmp_path: Path) -> Path:
    """A directory that everybody can reach, down from the root."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o001 == 0 and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    return tmp_path


@pytest.mark.docker
def test_a_forbidden_socket_names_the_group_to_join(open_directory: Path) -> None:
    path = open_directory / "p.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        os.chown(path, 0, 4)
        path.chmod(0o660)
        said = as_nobody(path)
    assert said.startswith(f"{SocketForbiddenError.__name__}|7|")
    assert "join the group that owns it, adm (sudo usermod -aG adm nobody)" in said
    assert "admin of the daemon" in said


@pytest.mark.docker
def test_a_forbidden_directory_names_the_group_to_join(open_directory: Path) -> None:
    directory = open_directory / "run"
    directory.mkdir()
    path = directory / "p.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        os.chown(directory, 0, 4)
        directory.chmod(0o750)
        said = as_nobody(path)
    assert said.startswith(f"{SocketForbiddenError.__name__}|7|")
    assert "join the group that owns it, adm" in said


@pytest.mark.docker
def test_a_socket_of_its_owner_alone_sends_nobody_to_a_group(open_directory: Path) -> None:
    path = open_directory / "p.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o600)
        said = as_nobody(path)
    assert "only root may pass" in said
    assert "usermod" not in said
