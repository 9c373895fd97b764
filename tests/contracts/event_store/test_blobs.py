"""What every store promises of blobs, held by the one in memory and the one on disk."""

import asyncio

import pytest

from perstackd.domain.errors import Kind
from perstackd.ports.event_store import Store
from tests.contracts.event_store.stored import refusal

pytestmark = pytest.mark.anyio


async def test_blobs_are_found_by_the_digest_of_their_bytes(store: Store) -> None:
    digest = await store.blobs.put(b"hello")
    assert digest == "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert await store.blobs.put(b"hello") == digest
    assert await store.blobs.get(digest) == b"hello"
    assert await store.blobs.get(await store.blobs.put(b"")) == b""


@pytest.mark.parametrize(
    ("offset", "length", "expected"), [(1, 3, b"ell"), (4, None, b"o"), (0, 0, b""), (5, 9, b""), (99, None, b"")]
)
async def test_ranges_of_blobs(store: Store, offset: int, length: int | None, expected: bytes) -> None:
    assert await store.blobs.get(await store.blobs.put(b"hello"), offset, length) == expected


async def test_an_unknown_blob_is_not_found(store: Store) -> None:
    error = await refusal(store.blobs.get("sha256:" + "0" * 64))
    assert (error.kind, error.reason) == (Kind.NOT_FOUND, "blob_not_found")


@pytest.mark.parametrize(
    "digest",
    ["", "sha256:", "sha256:../../etc/passwd", "md5:" + "0" * 64, "sha256:" + "A" * 64, "sha256:" + "0" * 64 + "\n"],
)
async def test_what_is_no_digest_is_invalid(store: Store, digest: str) -> None:
    error = await refusal(store.blobs.get(digest))
    assert (error.kind, error.reason) == (Kind.INVALID, "digest_invalid")


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1)])
async def test_negative_ranges_are_invalid(store: Store, offset: int, length: int | None) -> None:
    digest = await store.blobs.put(b"hello")
    assert (await refusal(store.blobs.get(digest, offset, length))).reason == "range_invalid"


async def test_the_same_blob_put_many_times_at_once_is_one(store: Store) -> None:
    assert len(set(await asyncio.gather(*(store.blobs.put(b"x" * 100_000) for _ in range(20))))) == 1
