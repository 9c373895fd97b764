"""Blobs that come up from a sandbox in chunks: bounded, checked against their digest, kept in the blob store."""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from perstackd.domain.messages import BlobPart, ToolResultPart
from perstackd.domain.session import BlobChunk
from perstackd.domain.tool_calls import error_result
from perstackd.ports.event_store import Blobs

MAX_OPEN: Final = 4
MAX_KEPT: Final = 32
"""Largest blobs that one sandbox may leave in the store."""
_LEAST_COST: Final = 4 << 10


@dataclass(slots=True)
class _Upload:
    """What came so far of a blob. Hashed as it comes, because all at once takes long enough for others to notice."""

    data: bytearray = field(default_factory=bytearray)
    hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, data: bytes) -> None:
        self.data += data
        self.hash.update(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self.hash.hexdigest()}"


class BlobIntake:
    """One sandbox's uploads. What does not fit together is dropped: the result that refers to it becomes an error."""

    def __init__(self, blobs: Blobs, max_bytes: int) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._open: dict[str, _Upload] = {}
        self._kept: dict[str, int] = {}
        self._room = MAX_KEPT * max_bytes

    async def take(self, chunk: BlobChunk) -> None:
        """Add a chunk; store the blob when it is the last."""
        upload = self._open.setdefault(chunk.digest, _Upload())
        too_much = self._held() + len(chunk.data) > self._max_bytes or len(self._open) > MAX_OPEN
        if chunk.offset != len(upload.data) or too_much:
            del self._open[chunk.digest]
            return
        upload.add(chunk.data)
        if chunk.last:
            del self._open[chunk.digest]
            size = len(upload.data)
            if upload.digest == chunk.digest and self._pays(chunk.digest, size):
                self._kept[await self._blobs.put(bytes(upload.data))] = size

    def _held(self) -> int:
        """Bytes in memory, of all blobs that are not complete."""
        return sum(len(upload.data) for upload in self._open.values())

    def _pays(self, digest: str, size: int) -> bool:
        """Whether a blob fits in what is left; one that is kept already costs nothing."""
        cost = 0 if digest in self._kept else max(size, _LEAST_COST)
        if cost > self._room:
            return False
        self._room -= cost
        return True

    def checked(self, results: tuple[ToolResultPart, ...]) -> tuple[ToolResultPart, ...]:
        """Results whose blobs did arrive; the others as errors."""
        return tuple(self._checked(result) for result in results)

    def _checked(self, result: ToolResultPart) -> ToolResultPart:
        for part in result.content:
            if isinstance(part, BlobPart) and self._kept.get(part.digest) != part.size:
                return error_result(
                    result.call_id, "result_lost", "the sandbox did not deliver the bytes of this result"
                )
        return result
