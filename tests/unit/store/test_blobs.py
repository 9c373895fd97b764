"""Blob files: whole or not there, and what they say they are."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perstackd.adapters.store.blobs import FileBlobs
from perstackd.domain.errors import PerstackError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[FileBlobs]:
    opened = await FileBlobs.open(tmp_path / "blobs", threads=2, waiting=4)
    yield opened
    await opened.close()


def path_of(tmp_path: Path, digest: str) -> Path:
    text = digest.removeprefix("sha256:")
    return tmp_path / "blobs" / text[:2] / text[2:]


async def test_a_blob_is_one_file_named_by_its_digest_and_nothing_unfinished_stays(
    blobs: FileBlobs, tmp_path: Path
) -> None:
    digest = await blobs.put(b"data")
    await blobs.put(b"data")
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [path_of(tmp_path, digest)]
    assert path_of(tmp_path, digest).read_bytes() == b"data"


async def test_the_same_bytes_are_not_written_twice(blobs: FileBlobs, tmp_path: Path) -> None:
    path = path_of(tmp_path, await blobs.put(b"data"))
    before = path.stat()
    await blobs.put(b"data")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_a_blob_that_was_cut_short_is_written_again(blobs: FileBlobs, tmp_path: Path) -> None:
    path = path_of(tmp_path, await blobs.put(b"data"))
    path.write_bytes(b"da")
    after_a_crash = await FileBlobs.open(tmp_path / "blobs", threads=1, waiting=1)
    digest = await after_a_crash.put(b"data")
    await after_a_crash.close()
    assert await blobs.get(digest) == b"data"


async def test_bytes_that_were_changed_are_not_given_out_as_the_blob(blobs: FileBlobs, tmp_path: Path) -> None:
    digest = await blobs.put(b"data")
    path_of(tmp_path, digest).write_bytes(b"evil")
    with pytest.raises(PerstackError) as caught:
        await blobs.get(digest)
    assert caught.value.reason == "store_corrupt"


async def test_what_an_earlier_process_left_unfinished_is_dropped_at_open(blobs: FileBlobs, tmp_path: Path) -> None:
    digest = await blobs.put(b"data")
    left = tmp_path / "blobs" / "tmp" / "left"
    left.write_bytes(b"half")
    again = await FileBlobs.open(tmp_path / "blobs", threads=1, waiting=4)
    assert not left.exists()
    assert await again.get(digest) == b"data"
    await again.close()


async def test_a_directory_that_went_away_is_unavailable_and_leaves_nothing(blobs: FileBlobs, tmp_path: Path) -> None:
    for directory in (tmp_path / "blobs").iterdir():
        if directory.name != "tmp":
            directory.rmdir()
    with pytest.raises(PerstackError) as caught:
        await blobs.put(b"data")
    assert caught.value.reason == "store_unavailable"
    assert list((tmp_path / "blobs" / "tmp").iterdir()) == []
