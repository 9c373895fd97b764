"""Blobs: files named by the SHA-256 of their bytes, STATE/blobs/ab/cdef...

All sizes are files. Most puts are of content that is there already (a definition, per job) and cost a look; a new one
costs two syncs outside the database, so that no large value ever passes through the log that every append shares.
"""

import asyncio
import hashlib
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from perstackd.adapters.store.failures import closed, corrupt, of_system
from perstackd.domain.errors import Kind, PerstackError

T = TypeVar("T")

KNOWN: Final = 1024
KNOWN_BYTES: Final = 64 << 10  # hashed on the loop: 64 KiB take about 40 microseconds

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{2})([0-9a-f]{62})")


def digest_of(data: bytes) -> str:
    """`sha256:HEX`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parts_of(digest: str) -> tuple[str, str]:
    """Directory and file name of a digest. Raises PerstackError INVALID `digest_invalid`."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        message = f"{digest[:80]!r} is not a digest; write sha256: and 64 characters of 0-9 a-f"
        raise PerstackError(Kind.INVALID, "digest_invalid", message)
    return match[1], match[2]


def not_found(digest: str) -> PerstackError:
    """NOT_FOUND `blob_not_found`."""
    message = f"there is no blob {digest}; it was never stored here, or its job was deleted"
    return PerstackError(Kind.NOT_FOUND, "blob_not_found", message, fields={"digest": digest})


def check_range(offset: int, length: int | None) -> None:
    """Raises PerstackError INVALID `range_invalid` for negative numbers."""
    if offset < 0 or (length is not None and length < 0):
        message = f"the range {offset}+{length} of a blob is not valid; offset and length are 0 or more bytes"
        raise PerstackError(Kind.INVALID, "range_invalid", message)


class FileBlobs:
    """Owns the directory and its threads, from `open` to `close`."""

    def __init__(self, root: Path, threads: int, waiting: int) -> None:
        self._root = root
        self._unfinished = root / "tmp"
        self._places = asyncio.Semaphore(waiting)
        self._closing = False
        self._known: OrderedDict[str, None] = OrderedDict()
        self._put_at: dict[str, float] = {}
        self._latest = 0.0
        self._looking = threading.Lock()
        self._executor = ThreadPoolExecutor(threads, "perstack-store-blobs")

    @classmethod
    async def open(cls, root: Path, *, threads: int, waiting: int) -> "FileBlobs":
        """Make the directory, drop what an earlier process left unfinished. Raises `store_unavailable`."""
        blobs = cls(root, threads, waiting)
        try:
            await blobs._run(blobs._prepare)
        except BaseException:
            await blobs.close()
            raise
        return blobs

    async def put(self, data: bytes) -> str:
        """As the port says. Small content that was put or found lately is not looked for again."""
        known = digest_of(data) if len(data) <= KNOWN_BYTES else ""
        if known in self._known:
            self._known.move_to_end(known)
            self._put_at[known] = self._now()
            return known
        digest = await self._run(lambda: self._put(data))
        if known:
            self._known[digest] = None
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
        return digest

    async def get(self, digest: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the port says; the whole of a blob is checked against its digest (`store_corrupt`), a range cannot be."""
        first, rest = parts_of(digest)
        check_range(offset, length)
        return await self._run(lambda: self._get(self._root / first / rest, digest, offset, length))

    async def all(self) -> tuple[str, ...]:
        """The digests of every blob that is kept, in order."""
        return await self._run(self._all)

    async def remove(self, digests: Iterable[str], put_before: float) -> int:
        """Delete those of them that this process was last given before `put_before` (seconds since the epoch), or
        never; returns the bytes that were freed. What a job puts at the same moment stays, or is written anew.
        """
        freed = 0
        for digest in digests:
            first, rest = parts_of(digest)
            self._known.pop(digest, None)  # the next put looks for the file
            path = self._root / first / rest
            freed += await self._run(partial(self._remove, path, digest, put_before))
        await self._run(partial(self._forget_puts, put_before))
        return freed

    async def close(self) -> None:
        """Finish what was begun. Idempotent."""
        self._closing = True
        await asyncio.to_thread(self._executor.shutdown)

    async def _run(self, act: Callable[[], T]) -> T:
        async with self._places:
            if self._closing:
                raise closed(self._root)
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._told, act)

    def _now(self) -> float:
        """Never before an earlier put: a clock that was set back must not make what is new look old."""
        self._latest = max(self._latest, time.time())
        return self._latest

    # --- in the threads ---------------------------------------------------------------------------------------------
    def _told(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except OSError as error:
            raise of_system(error, self._root) from error

    def _prepare(self) -> None:
        # All directories now: a directory that a put makes would not be durable yet for the next put into it.
        self._root.mkdir(mode=0o700, exist_ok=True)
        there = {entry.name for entry in self._root.iterdir()}
        for name in {"tmp", *(f"{number:02x}" for number in range(256))} - there:
            (self._root / name).mkdir(mode=0o700)
        for left in self._unfinished.iterdir():
            left.unlink()
        _sync_directory(self._root)
        _sync_directory(self._root.parent)

    def _put(self, data: bytes) -> str:
        digest = digest_of(data)
        first, rest = parts_of(digest)
        directory = self._root / first
        target = directory / rest
        with self._looking:  # a removal has ended, or sees that the blob was put
            self._put_at[digest] = self._now()
            there = _holds(target, len(data))
        if not there:
            self._write(target, data)
        # Also when it was there: its writer may not have come to this line.
        _sync_directory(directory)
        return digest

    def _all(self) -> tuple[str, ...]:
        found = (f"sha256:{path.parent.name}{path.name}" for path in self._root.glob("[0-9a-f][0-9a-f]/*"))
        return tuple(sorted(digest for digest in found if _DIGEST.fullmatch(digest)))

    def _remove(self, path: Path, digest: str, put_before: float) -> int:
        with self._looking:
            if self._put_at.get(digest, 0.0) >= put_before:
                return 0
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                return 0
            return size

    def _forget_puts(self, put_before: float) -> None:
        with self._looking:
            for digest, at in list(self._put_at.items()):
                if at < put_before and digest not in self._known:
                    del self._put_at[digest]

    def _write(self, target: Path, data: bytes) -> None:
        unfinished = self._unfinished / secrets.token_hex(16)
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            unfinished.replace(target)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise

    def _get(self, path: Path, digest: str, offset: int, length: int | None) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(-1 if length is None else length)
        except FileNotFoundError:
            raise not_found(digest) from None
        if offset == 0 and length is None and digest_of(data) != digest:
            raise corrupt(path, "its bytes do not have its digest")
        return data


def _holds(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
