"""Blobs from a sandbox: whole and true, or the result that refers to them is an error."""

import hashlib

import pytest

from perstackd.app.blob_intake import MAX_KEPT, BlobIntake
from perstackd.domain.messages import BlobPart, TextPart, ToolResultPart
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
    intake = BlobIntake(FakeStore().blobs, LIMIT, LIMIT)
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


async def kept(intake: BlobIntake, data: bytes, media_type: str = "text/plain") -> BlobPart:
    await intake.take(BlobChunk(digest(data), 0, data, True))
    return BlobPart(digest(data), len(data), media_type)


async def test_of_a_large_text_the_head_and_the_tail_are_shown_and_how_much_is_between() -> None:
    intake = BlobIntake(FakeStore().blobs, 1 << 20)
    blob = await kept(intake, b"first\n" + b"between\n" * 10_000 + b"last\n")
    (result,) = await intake.checked((ToolResultPart("a", (blob,)),))
    shown, reference = result.content
    assert isinstance(shown, TextPart)
    assert shown.text.startswith("first\nbetween\n")
    assert shown.text.endswith("between\nlast\n")
    assert "75915 bytes in 9489 lines left out here, from line 384 on" in shown.text
    assert reference == blob


async def test_an_image_and_what_stands_beside_much_text_have_no_excerpt() -> None:
    intake = BlobIntake(FakeStore().blobs, 1 << 20)
    image, log = await kept(intake, b"\x89PNG", "image/png"), await kept(intake, b"x" * 50_000)
    shown = TextPart("y" * 20_000)
    results = (ToolResultPart("a", (image,)), ToolResultPart("b", (shown, log)))
    assert await intake.checked(results) == results


async def test_the_excerpts_of_one_result_are_bounded_together() -> None:
    intake = BlobIntake(FakeStore().blobs, 1 << 20)
    blobs = [await kept(intake, bytes([65 + number]) * 40_000) for number in range(20)]
    (result,) = await intake.checked((ToolResultPart("a", tuple(blobs)),))
    texts = [part.text for part in result.content if isinstance(part, TextPart)]
    assert 16 << 10 <= sum(map(len, texts)) < 24 << 10
    assert [part for part in result.content if isinstance(part, BlobPart)] == blobs


async def test_a_large_picture_is_kept_where_a_large_text_is_not() -> None:
    data = b"x" * (3 * LIMIT)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    for media_type, lost in (("image/png", False), ("application/pdf", False), ("text/plain", True)):
        intake = BlobIntake(FakeStore().blobs, LIMIT, 4 * LIMIT)
        await intake.take(BlobChunk(digest, 0, data, True))
        (result,) = await intake.checked((ToolResultPart("a", (BlobPart(digest, len(data), media_type),)),))
        assert result.is_error is lost
