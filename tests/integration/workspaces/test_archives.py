"""Archives into and out of real named workspaces: hostile archives, and hostile sandboxes at the same time."""

import asyncio
import io
import os
import stat
import tarfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import cast

import pytest

from perstackd.domain.errors import Kind, PerstackError
from tests.fakes.managed_workspaces import archive as files_archive
from tests.fakes.managed_workspaces import contents
from tests.integration.workspaces.rig import MANAGED, TENANT, ManagedRig, managed_rig, off_loop

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
SIZE = 32 << 20


@pytest.fixture(params=["plain", "sized"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ManagedRig]:
    with managed_rig(tmp_path, named_bytes=SIZE if request.param == "sized" else 0) as made:
        yield made


Piece = tuple[str, bytes, bytes | str]
FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def archive(*pieces: Piece, mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writing:
        for name, kind, what in pieces:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.mtime = kind, mode, 0, 1_700_000_000
            content = what if isinstance(what, bytes) else b""
            entry.size, entry.linkname = len(content), what if isinstance(what, str) else ""
            writing.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 10_000):
        yield data[at : at + 10_000]


async def put(real: ManagedRig, data: bytes, path: str = "") -> None:
    await real.managed.unpack(TENANT, "notes", path, pieces(data))


async def get(real: ManagedRig, path: str = "") -> bytes:
    return b"".join([piece async for piece in real.managed.pack(TENANT, "notes", path)])


@contextmanager
def opened(real: ManagedRig) -> Iterator[Path]:
    """The workspace as the host finds it while somebody has it."""
    held = off_loop(lambda: real.workspaces.store.hold(TENANT, "notes", make=False))
    try:
        yield Path(f"/proc/self/fd/{held.data}")
    finally:
        off_loop(lambda: real.workspaces.store.let_go(held))


def left_over(real: ManagedRig) -> list[Path]:
    """Found by a walk that does not mind what goes away meanwhile."""
    walks = (os.walk(top) for top in (real.settings.state, real.settings.runtime))
    entries = (Path(top, name) for walk in walks for top, below, files in walk for name in (*below, *files))
    return [path for path in entries if path.name.startswith(".put-")]


async def test_what_was_unpacked_belongs_to_the_workspaces_owner_and_has_no_special_bits(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    tree = archive(
        ("d", DIR, b""), ("d/f", FILE, b"x"), ("d/l", LINK, "f"), ("made/by/itself", FILE, b"y"), mode=0o6777
    )
    await put(real, tree, "deep/in")
    with opened(real) as top:
        found = [top / "deep/in", *sorted((top / "deep/in").rglob("*"))]
        assert [path.name for path in found] == ["in", "d", "f", "l", "made", "by", "itself"]
        for path in found:
            seen = path.lstat()
            assert (seen.st_uid, seen.st_gid) == (MANAGED, MANAGED), path
            assert stat.S_ISLNK(seen.st_mode) or not seen.st_mode & 0o7000, path
        assert (top / "deep/in/d/f").stat().st_mtime == 1_700_000_000
    assert left_over(real) == []


HOSTILE: dict[str, tuple[Piece, ...]] = {
    "absolute link": (("l", LINK, "/etc"),),
    "link out": (("d/l", LINK, "../../x"),),
    "link that goes up behind a name": (("d/e/up", LINK, "../.."), ("d/e/out", LINK, "up/../../etc")),
    "file through a link": (("l", LINK, "d"), ("d/x", FILE, b"x"), ("l/y", FILE, b"y")),
    "directory over a link": (("l", LINK, "."), ("l", DIR, b"")),
    "hard link out": (("h", HARD, "../../../etc/passwd"),),
    "absolute hard link": (("h", HARD, "/etc/passwd"),),
    "hard link to what is not in it": (("h", HARD, "kept"),),
    "hard link through a link": (("d/f", FILE, b"x"), ("l", LINK, "d"), ("h", HARD, "l/f")),
    "hard link to a link": (("l", LINK, "x"), ("h", HARD, "l")),
    "hard link to the root": (("h", HARD, "."),),
    "device": (("dev", tarfile.CHRTYPE, b""),),
    "fifo": (("fifo", tarfile.FIFOTYPE, b""),),
    "file and directory": (("a", FILE, b"x"), ("a/b", FILE, b"y")),
    "directory and file": (("a/b", FILE, b"y"), ("a", FILE, b"x")),
    "root as a file": ((".", FILE, b"x"),),
    "too deep": (("d/" * 80 + "f", FILE, b"x"),),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_archive_is_refused_whole(real: ManagedRig, name: str) -> None:
    await real.managed.create(TENANT, "notes", 0)
    await put(real, files_archive({"kept": b"kept"}))
    with pytest.raises(PerstackError) as refused:
        await put(real, archive(("good", FILE, b"good"), *HOSTILE[name]))
    assert (refused.value.kind, refused.value.reason) == (Kind.DENIED, "archive_refused")
    assert contents(await get(real)) == {"kept": b"kept"}
    assert left_over(real) == []


async def test_links_and_hard_links_within_an_archive_are_kept(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    tree = archive(("d/f", FILE, b"x"), ("d/up", LINK, "../d/f"), ("h", HARD, "d/f"), ("d/f2", HARD, "./d/f"))
    await put(real, tree, "sub")
    with opened(real) as top:
        assert (top / "sub/d/up").readlink() == Path("../d/f")
        assert (top / "sub/h").stat().st_nlink == 3
    assert contents(await get(real, "sub")) == {"d/f": b"x", "d/f2": b"x", "h": b"x"}


async def test_a_later_entry_of_the_same_name_counts(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    await put(real, archive(("a", FILE, b"first"), ("a", LINK, "b"), ("a", FILE, b"last")))
    assert contents(await get(real)) == {"a": b"last"}


async def test_what_is_a_directory_on_one_side_only_is_a_conflict_and_nothing_is_changed(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    await put(real, files_archive({"a/b": b"old", "z": b"old"}))
    for conflicting in ({"a": b"x", "0": b"new"}, {"0": b"new", "z/y": b"x"}):
        with pytest.raises(PerstackError) as refused:
            await put(real, files_archive(conflicting))
        assert (refused.value.kind, refused.value.reason) == (Kind.PRECONDITION, "archive_conflict")
    assert contents(await get(real)) == {"a/b": b"old", "z": b"old"}


async def test_a_planted_link_is_replaced_never_followed(real: ManagedRig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("safe")
    await real.managed.create(TENANT, "notes", 0)
    with opened(real) as top:
        (top / "f").symlink_to(outside / "f")
        (top / "d").symlink_to(outside)
    await put(real, files_archive({"f": b"new"}))
    with pytest.raises(PerstackError) as refused:
        await put(real, files_archive({"d/f": b"bad"}))
    assert refused.value.reason == "archive_conflict"
    with pytest.raises(PerstackError) as refused:
        await put(real, files_archive({"x": b"bad"}), "d")
    assert refused.value.reason == "archive_conflict"
    with pytest.raises(PerstackError) as denied:
        await get(real, "d/f")
    assert denied.value.reason == "workspace_file_refused"
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"f": "safe"}
    with tarfile.open(fileobj=io.BytesIO(await get(real))) as reading:
        assert {entry.name: entry.type for entry in reading} == {"d": LINK, "f": FILE}


@contextmanager
def racing(change: Callable[[], object]) -> Iterator[list[int]]:
    """A hostile sandbox in a thread: does `change` again and again; counts how often."""
    stop, turns = threading.Event(), [0]

    def run() -> None:
        while not stop.is_set():
            try:
                change()
            except OSError:
                continue
            finally:
                turns[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield turns
    finally:
        stop.set()
        thread.join(20)


async def test_nothing_is_written_outside_while_a_sandbox_exchanges_directories_and_links(
    real: ManagedRig, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    await real.managed.create(TENANT, "notes", 0)
    with opened(real) as top:
        (top / "d/e").mkdir(parents=True)
        (top / "link").symlink_to(outside)

        def exchange() -> None:
            (top / "d").rename(top / "aside")
            (top / "link").rename(top / "d")
            (top / "d").rename(top / "link")
            (top / "aside").rename(top / "d")

        refused = set()
        with racing(exchange) as turns:
            for number in range(150):
                try:
                    await put(real, files_archive({f"d/e/{number}": b"x", f"d/{number}/f": b"y"}))
                except PerstackError as error:
                    refused.add(error.reason)
        assert turns[0] > 100
    assert refused <= {"workspace_changed", "archive_conflict"}
    assert list(outside.iterdir()) == []
    assert left_over(real) == []


async def test_nothing_from_outside_is_read_while_a_sandbox_exchanges_files_and_links(
    real: ManagedRig, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("SECRET" * 10)
    await real.managed.create(TENANT, "notes", 0)
    with opened(real) as top:
        (top / "d").mkdir()
        (top / "d/secret").write_text("public" * 10)
        (top / "d2").symlink_to(tmp_path)

        def exchange() -> None:
            (top / "d").rename(top / "aside")
            (top / "d2").rename(top / "d")
            (top / "d").rename(top / "d2")
            (top / "aside").rename(top / "d")

        refused = set()
        with racing(exchange) as turns:
            for _ in range(150):
                assert b"SECRET" not in await get(real)
                try:
                    assert b"SECRET" not in await get(real, "d/secret")
                except PerstackError as error:
                    refused.add(error.reason)
        assert refused <= {"workspace_file_refused", "workspace_file_not_found"}
        assert turns[0] > 100


async def test_a_file_that_grows_and_shrinks_makes_a_whole_archive(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    await put(real, files_archive({"f": bytes(700_000), "z": b"last"}))
    with opened(real) as top:

        def resize() -> None:
            os.truncate(top / "f", 10)
            os.truncate(top / "f", 900_000)

        with racing(resize):
            for _ in range(30):
                assert contents(await get(real))["z"] == b"last"


async def test_sockets_and_fifos_are_left_out_and_never_opened(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    await put(real, files_archive({"f": b"x"}))
    with opened(real) as top:
        os.mkfifo(top / "fifo")
        os.mknod(top / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        async with asyncio.timeout(10):
            assert contents(await get(real)) == {"f": b"x"}


async def test_a_sparse_bomb_is_not_sent(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", SIZE)
    with opened(real) as top:
        with (top / "bomb").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(PerstackError) as refused:
            await get(real)
    assert (refused.value.kind, refused.value.reason) == (Kind.EXHAUSTED, "workspace_too_large")


async def test_a_tree_deeper_than_can_be_packed_is_said_and_can_be_removed(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    with opened(real) as top:
        directory = os.open(top, os.O_RDONLY)
        for _ in range(900):
            os.mkdir("d", dir_fd=directory)
            inner = os.open("d", os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = inner
        os.close(directory)
    with pytest.raises(PerstackError) as refused:
        await get(real)
    assert refused.value.reason == "workspace_too_deep"
    await real.managed.all(TENANT)
    await real.managed.remove(TENANT, "notes")
    assert await real.managed.all(TENANT) == ()


async def test_a_caller_that_leaves_in_the_middle_leaves_nothing_behind(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    await put(real, files_archive({"f": bytes(2 << 20)}))
    before = len(os.listdir("/proc/self/fd"))

    async def endless() -> AsyncIterator[bytes]:
        yield files_archive({"new": bytes(1 << 20)})[: 1 << 19]
        await asyncio.Event().wait()

    upload = asyncio.create_task(real.managed.unpack(TENANT, "notes", "", endless()))
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(left_over, real):
            await asyncio.sleep(0.01)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    async with aclosing(cast("AsyncGenerator[bytes, None]", real.managed.pack(TENANT, "notes", ""))) as download:
        async for _ in download:
            break
    await real.managed.remove(TENANT, "notes")
    assert left_over(real) == []
    assert len(os.listdir("/proc/self/fd")) == before


async def test_only_so_many_transfers_go_on_at_once(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    never = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        await never.wait()
        yield b""

    uploads = [asyncio.create_task(real.managed.unpack(TENANT, "notes", "", endless())) for _ in range(4)]
    async with asyncio.timeout(10):
        while len(await asyncio.to_thread(left_over, real)) < 4:
            await asyncio.sleep(0.01)
    with pytest.raises(PerstackError) as refused:
        await get(real)
    assert (refused.value.kind, refused.value.reason, refused.value.retryable) == (
        Kind.EXHAUSTED,
        "too_many_transfers",
        True,
    )
    never.set()
    ended = await asyncio.gather(*uploads, return_exceptions=True)
    assert {error.reason for error in ended if isinstance(error, PerstackError)} == {"archive_invalid"}
    assert contents(await get(real)) == {}
