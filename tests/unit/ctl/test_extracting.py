"""Archives that a sandbox filled, unpacked on the caller's machine; and directories packed for the daemon."""

import io
import os
import socket
import stat
import tarfile
from pathlib import Path

import pytest

from perstackctl.archives.extracting import Extracted, extract
from perstackctl.archives.packing import PIECE, packed
from perstackctl.client.errors import InvalidError

FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def archive(*pieces: tuple[str, bytes, bytes | str]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writing:
        for name, kind, what in pieces:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid = kind, 0o6777, 0
            content = what if isinstance(what, bytes) else b""
            entry.size, entry.linkname = len(content), what if isinstance(what, str) else ""
            writing.addfile(entry, io.BytesIO(content))
    buffer.seek(0)
    return buffer


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path / "out"


def test_files_directories_and_links_come_out_without_special_bits(into: Path) -> None:
    done = extract(archive(("d", DIR, b""), ("d/f", FILE, b"x"), ("d/up", LINK, "../d/f"), ("e/g", FILE, b"")), into)
    assert done == Extracted(4, [])
    assert (into / "d/up").read_bytes() == b"x"
    assert not (into / "d/f").stat().st_mode & 0o7000


@pytest.mark.parametrize(
    "entry",
    [
        ("/etc/x", FILE, b"bad"),
        ("../outside/x", FILE, b"bad"),
        ("d/../../outside/x", FILE, b"bad"),
        ("l", LINK, "/etc/passwd"),
        ("l", LINK, "../outside"),
        ("d/l", LINK, "a/../../x"),
        ("h", HARD, "/etc/passwd"),
        ("p", tarfile.FIFOTYPE, b""),
        ("c", tarfile.CHRTYPE, b""),
    ],
)
def test_what_leaves_the_directory_is_left_out_and_named(into: Path, entry: tuple[str, bytes, bytes | str]) -> None:
    done = extract(archive(entry, ("good", FILE, b"good")), into)
    assert done.left_out == [entry[0]]
    assert [path.name for path in into.iterdir()] == ["good"]
    assert list((into.parent / "outside").iterdir()) == []


def test_nothing_is_written_through_a_link_of_the_archive(into: Path) -> None:
    extract(
        archive(("d", LINK, "e"), ("e", DIR, b""), ("e/f", FILE, b"x"), ("f", LINK, "e/f"), ("f", FILE, b"y")), into
    )
    assert (into / "e/f").read_bytes() == b"x"


def test_nothing_is_written_through_a_link_that_was_there(into: Path) -> None:
    into.mkdir()
    (into / "d").symlink_to(into.parent / "outside")
    (into / "f").symlink_to(into.parent / "outside/f")
    with pytest.raises(InvalidError, match="is a link"):
        extract(archive(("f", FILE, b"mine"), ("d/x", FILE, b"bad")), into)
    assert (into / "f").read_bytes() == b"mine"
    assert list((into.parent / "outside").iterdir()) == []


def test_what_is_no_archive_is_said(into: Path) -> None:
    with pytest.raises(InvalidError, match="cannot be read"):
        extract(io.BytesIO(b"x" * 2000), into)


def test_a_packed_directory_comes_out_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d/large").write_bytes(os.urandom(PIECE + 1000))
    (source / "run").write_text("#!")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("d/large")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source / "s"))
        pieces = list(packed(source))
    assert max(map(len, pieces)) == PIECE
    extract(io.BytesIO(b"".join(pieces)), tmp_path / "out")
    assert (tmp_path / "out/d/large").read_bytes() == (source / "d/large").read_bytes()
    assert stat.S_IMODE((tmp_path / "out/run").stat().st_mode) == 0o755
    assert (tmp_path / "out/link").readlink() == Path("d/large")
    assert not (tmp_path / "out/s").exists()
    assert "was left out" in capsys.readouterr().err
