"""A store that cannot be written: running jobs wait and try again, and everybody can ask why. One of a daemon."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import anyio
import structlog

from perstackd.domain.errors import Kind, PerstackError
from perstackd.ports.event_store import Blobs

T = TypeVar("T")
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
_log = structlog.get_logger()


class StoreTrouble:
    """`patience_s` bounds how long one trouble is waited out, from its beginning; 0 is not at all."""

    def __init__(self, patience_s: float = 3600.0) -> None:
        self.why = ""
        """Why the store refuses what running jobs write; empty while it does not."""
        self._patience = patience_s
        self._since = 0.0
        self._closed = anyio.Event()
        self._changed = anyio.Event()

    async def persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """What `write` returns. While it fails with `store_unavailable`, of which nothing is kept then, it is called
        again, after pauses that can be cancelled. Raises what it raises, once patience is over or the daemon stops.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                written = await write()
            except PerstackError as error:
                if (error.kind, error.reason) != (Kind.UNAVAILABLE, "store_unavailable") or not self._waits(error):
                    raise
            else:
                self._over()
                return written
            with anyio.move_on_after(pause):
                await self._closed.wait()
            pause = min(2 * pause, LONGEST_PAUSE)

    def close(self) -> None:
        """Nobody waits any more: the next process goes on from what is stored. Idempotent."""
        self._closed.set()

    async def changed(self) -> None:
        """Wait until it begins or ends."""
        await self._changed.wait()

    def _waits(self, error: PerstackError) -> bool:
        now = anyio.current_time()
        if not self.why:
            self._since, self.why = now, error.message
            _log.error("the store cannot be written, running jobs wait", why=error.message, seconds=self._patience)
            self._tell()
        return now < self._since + self._patience and not self._closed.is_set()

    def _over(self) -> None:
        if self.why:
            self.why = ""
            _log.info("the store can be written again", seconds=round(anyio.current_time() - self._since, 1))
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class PatientBlobs:
    """Implements `Blobs`: what a running job puts waits as its events do."""

    def __init__(self, blobs: Blobs, trouble: StoreTrouble) -> None:
        self._blobs = blobs
        self._trouble = trouble

    async def put(self, data: bytes) -> str:
        return await self._trouble.persist(partial(self._blobs.put, data))

    async def get(self, digest: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self._blobs.get(digest, offset, length)
