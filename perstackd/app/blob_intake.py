"""Blobs that come up from a sandbox in chunks: bounded, checked against their digest, kept in the blob store."""

import hashlib
from typing import Final

from perstackd.domain.messages import BlobPart, ToolResultPart
from perstackd.domain.session import BlobChunk
from perstackd.domain.tool_calls import error_result
from perstackd.ports.event_store import Blobs

MAX_OPEN: Final = 4


class BlobIntake:
    """One sandbox's uploads. What does not fit together is dropped: the result that refers to it becomes an error."""

    def __init__(self, blobs: Blobs, max_bytes: int) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._open: dict[str, bytearray] = {}
        self._kept: dict[str, int] = {}

    async def take(self, chunk: BlobChunk) -> None:
        """Add a chunk; store the blob when it is the last."""
        buffer = self._open.setdefault(chunk.digest, bytearray())
        too_much = len(buffer) + len(chunk.data) > self._max_bytes or len(self._open) > MAX_OPEN
        if chunk.offset != len(buffer) or too_much:
            del self._open[chunk.digest]
            return
        buffer += chunk.data
        if chunk.last:
            data = bytes(self._open.pop(chunk.digest))
            if f"sha256:{hashlib.sha256(data).hexdigest()}" == chunk.digest:
                self._kept[await self._blobs.put(data)] = len(data)

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
