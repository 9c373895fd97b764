"""Blobs from a sandbox: whole and true, or the result that refers to them is an error."""

import hashlib

import pytest

from perstackd.app.blob_intake import MAX_KEPT, BlobIntake
from perstackd.domain.messages import BlobPart, ToolResultPart
from perstackd.domain.session import BlobChunk
from tests.fakes.store import FakeStore

pytestmark = pytest.mark.anyio
LIMIT = 8192


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def lost(intake: BlobIntake, name: str, size: int) -> bool:
    (result,) = await intake.checked((ToolResultPart("a", (BlobPart(name, size, "text/plain"),)),))
    return result.is_error


async def test_a_whole_blob_is_kept_and_a_forged_reference_is_an_error() -> None:
    store = FakeStore()
    intake = BlobIntake(store.blobs, LIMIT)
    await intake.take(BlobChunk(digest(b"abcd"), 0, b"ab", False))
    await intake.take(BlobChunk(digest(b"abcd"), 2, b"cd", True))
    await intake.take(BlobChunk(digest(b"other"), 0, b"forged", True))
    assert not await lost(intake, digest(b"abcd"), 4)
    assert await lost(intake, digest(b"abcd"), 5)
    assert await lost(intake, digest(b"other"), 6)
    assert list(store.contents) == [digest(b"abcd")]


async def test_what_is_begun_and_never_ended_is_bounded_together() -> None:
    intake = BlobIntake(FakeStore().blobs, LIMIT)
    for number in range(50):
        for offset in range(0, LIMIT, 1024):
            await intake.take(BlobChunk(str(number), offset, b"x" * 1024, False))
    assert sum(len(upload.data) for upload in intake._open.values()) <= LIMIT


@pytest.mark.parametrize("size", [1, LIMIT])
async def test_what_one_sandbox_leaves_in_the_store_is_bounded_small_blobs_too(size: int) -> None:
    store = FakeStore()
    intake = BlobIntake(store.blobs, LIMIT)
    for number in range(500):
        data = number.to_bytes(2, "big").ljust(size, b"x")
        await intake.take(BlobChunk(digest(data), 0, data, True))
    assert 0 < len(store.contents) <= MAX_KEPT * LIMIT / max(size, 4096)
