"""Archives that arrive in pieces: what other programs write is read, what is hostile is refused at once."""

import contextlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstackd.adapters.workspaces.tar_reader import BLOCK, MAX_EXTENSION, Entry, EntryKind, TarReader
from perstackd.domain.errors import Kind, PerstackError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def read(data: bytes, size: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    reader, found = TarReader(), list[tuple[Entry, bytes]]()
    for at in range(0, len(data), size):
        for piece in reader.feed(data[at : at + size]):
            if isinstance(piece, Entry):
                found.append((piece, b""))
            else:
                entry, content = found.pop()
                found.append((entry, content + piece))
    reader.finish()
    return found


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.mtime = kind, len(content), 1_700_000_000
    for key, value in fields.items():
        setattr(made, key, value)
    return made, content


def archive(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as writing:
        for info, content in entries:
            writing.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def refusal(data: bytes, size: int = 1 << 20) -> PerstackError:
    with pytest.raises(PerstackError) as refused:
        read(data, size)
    return refused.value


@pytest.mark.parametrize("form", FORMATS)
def test_files_directories_and_links_of_each_format_are_read(form: str) -> None:
    long = "d" * 90 + "/" + "n" * 60
    data = archive(
        entry("d", tarfile.DIRTYPE, mode=0o755),
        entry("d/file", content=b"hello" * 300, mode=0o4755),
        entry("d/link", tarfile.SYMTYPE, linkname="file"),
        entry("d/hard", tarfile.LNKTYPE, linkname="d/file"),
        entry(long, content=b"x"),
        form=FORMATS[form],
    )
    found = read(data)
    assert [(e.path.rstrip(b"/"), e.kind, e.target) for e, _ in found] == [
        (b"d", EntryKind.DIRECTORY, b""),
        (b"d/file", EntryKind.FILE, b""),
        (b"d/link", EntryKind.SYMLINK, b"file"),
        (b"d/hard", EntryKind.HARDLINK, b"d/file"),
        (long.encode(), EntryKind.FILE, b""),
    ]
    assert found[1] == (Entry(b"d/file", EntryKind.FILE, 1500, 0o755, 1_700_000_000), b"hello" * 300)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_names_of_any_length_and_alphabet_are_read(form: str) -> None:
    name = "ä/" * 200 + "\udcff"
    found = read(archive(entry(name, content=b"x"), form=FORMATS[form]))
    assert found[0][0].path == name.encode(errors="surrogateescape")


def test_what_the_tar_program_writes_is_read(tmp_path: Path) -> None:
    tree = tmp_path / "t"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").write_bytes(b"content" * 1000)
    (tree / ("n" * 90)).write_bytes(b"")
    (tree / "link").symlink_to("a/b/file")
    for form in ("gnu", "pax", "ustar", "v7"):
        command = ["tar", f"--format={form}", "-C", str(tree), "-cf", "-", "."]
        data = subprocess.run(command, check=True, capture_output=True, timeout=20).stdout
        found = {e.path: (e.kind, content) for e, content in read(data)}
        assert found[b"./a/b/file"] == (EntryKind.FILE, b"content" * 1000)
        assert found[b"./link"][0] is EntryKind.SYMLINK


@given(st.integers(1, 3000))
def test_it_does_not_matter_how_the_archive_is_cut(size: int) -> None:
    data = archive(entry("a", content=b"1" * 513), entry("b" * 300, content=b"2" * 512), entry("c"))
    assert read(data, size) == read(data)


@given(st.binary(max_size=3000), st.integers(0, 4000))
def test_whatever_arrives_is_read_or_refused_and_nothing_else(noise: bytes, at: int) -> None:
    good = archive(entry("a" * 150, content=b"1" * 700), entry("b", tarfile.SYMTYPE, linkname="c" * 150))
    for data in (noise, good[:at] + noise + good[at + len(noise) :]):
        with contextlib.suppress(PerstackError):
            read(data, 700)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, b"Z"])
def test_devices_fifos_and_sparse_files_are_refused_by_name(kind: bytes) -> None:
    data = bytearray(archive(entry("bad"), form=tarfile.USTAR_FORMAT))
    data[156:157] = kind
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    error = refusal(bytes(data))
    assert (error.kind, error.reason) == (Kind.DENIED, "archive_refused")
    assert "bad" in error.message


def test_a_sparse_file_in_a_pax_header_is_refused() -> None:
    assert refusal(archive(entry("a", pax_headers={"GNU.sparse.major": "1"}))).reason == "archive_refused"


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    info, _ = entry(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_header_that_claims_to_be_huge_is_refused_before_it_is_read(kind: bytes) -> None:
    assert refusal(header(kind, MAX_EXTENSION + 1)).reason == "archive_invalid"
    assert refusal(header(kind, 1 << 62)).reason == "archive_invalid"


def test_a_chain_of_headers_is_refused() -> None:
    assert refusal(header(b"L", 0) * 9).reason == "archive_invalid"


def test_a_global_header_may_comment_and_may_not_rename() -> None:
    def with_global(record: bytes) -> bytes:
        return header(b"g", len(record)) + record.ljust(BLOCK, b"\0") + archive(entry("a"))

    assert [e.path for e, _ in read(with_global(b"18 comment=abcdef\n"))] == [b"a"]
    assert refusal(with_global(b"15 path=/etc/x\n")).reason == "archive_invalid"


@pytest.mark.parametrize(
    "record", [b"99 path=a\n", b"4 path=a\n", b"path=a\n", b"9 path=a", b"10 size=-1\n", b"9 size=x\n"]
)
def test_a_malformed_pax_header_is_invalid(record: bytes) -> None:
    data = header(b"x", len(record)) + record.ljust(BLOCK, b"\0") + archive(entry("a"))
    assert refusal(data).reason == "archive_invalid"


def test_a_wrong_checksum_and_something_behind_the_end_are_invalid() -> None:
    data = archive(entry("a"))
    assert refusal(b"b" + data[1:]).reason == "archive_invalid"
    assert refusal(data + archive(entry("b"))).reason == "archive_invalid"
    assert refusal(data[:BLOCK]).reason == "archive_invalid"


def test_a_size_too_large_for_octal_digits_is_read() -> None:
    info, _ = entry("a")
    info.size = 1 << 40
    (piece,) = TarReader().feed(info.tobuf(tarfile.GNU_FORMAT))
    assert isinstance(piece, Entry)
    assert piece.size == 1 << 40
