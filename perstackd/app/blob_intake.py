"""Blobs that come up from a sandbox in chunks: bounded, checked against their digest, kept in the blob store.

What is kept is without secret values and has its own digest; results are told by that one. Bytes of every kind are
scrubbed: their kind is what the sandbox says it is.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Final

from perstackd.app.scrubbing import Scrubber
from perstackd.domain.context_artefact import EXCERPT_HEAD, EXCERPT_TAIL, excerpt, is_text
from perstackd.domain.messages import BlobPart, TextPart, ToolResultPart
from perstackd.domain.scrub import Net
from perstackd.domain.session import BlobChunk
from perstackd.domain.tool_calls import error_result
from perstackd.ports.event_store import Blobs

MAX_OPEN: Final = 4
MAX_KEPT: Final = 32
"""Largest blobs that one sandbox may leave in the store."""
MEDIA_BYTES: Final = 32 << 20
"""Largest image or PDF: `readPdfFile` gives up to 30 MiB."""
_LEAST_COST: Final = 4 << 10
_SHOWN: Final = 16 << 10
"""Bytes of text of one result that a model is shown beside its artefacts: past that an artefact has no excerpt."""


@dataclass(slots=True)
class _Upload:
    """What came so far of a blob: `size` bytes, of which `data` is kept. Hashed and scrubbed as it comes, because all
    at once takes long enough for others to notice.
    """

    net: Net
    size: int = 0
    data: bytearray = field(default_factory=bytearray)
    lines: int = 0
    hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    held: str = ""

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self.hash.update(data)
        if self.net:
            passed, self.held = self.net.fed(self.held, data.decode("latin-1"))
            data = passed.encode("latin-1", "replace")
        self._keep(data)

    def end(self) -> None:
        """Nothing comes any more."""
        self._keep(self.net.text(self.held).encode("latin-1", "replace"))

    def _keep(self, data: bytes) -> None:
        self.data += data
        self.lines += data.count(b"\n")

    @property
    def digest(self) -> str:
        return f"sha256:{self.hash.hexdigest()}"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is known of a blob that is in the store: the size that was `sent`, and what is kept of it."""

    sent: int
    digest: str
    size: int
    lines: int


class BlobIntake:
    """One sandbox's uploads. What does not fit together is dropped: the result that refers to it becomes an error. A
    blob is at most `max_bytes`, an image or a PDF `media_bytes`; which it is, is known from the result that names it.
    """

    def __init__(
        self, blobs: Blobs, max_bytes: int, media_bytes: int = MEDIA_BYTES, *, scrubber: Scrubber | None = None
    ) -> None:
        self._blobs = blobs
        self._scrubber = scrubber or Scrubber()
        self._max_bytes = max_bytes
        self._most_bytes = max(max_bytes, media_bytes)
        self._open: dict[str, _Upload] = {}
        self._kept: dict[str, _Kept] = {}
        self._room = MAX_KEPT * max_bytes

    async def take(self, chunk: BlobChunk) -> None:
        """Add a chunk; store the blob when it is the last."""
        upload = self._open.setdefault(chunk.digest, _Upload(self._scrubber.bytes_net))
        too_much = self._held() + len(chunk.data) > self._most_bytes or len(self._open) > MAX_OPEN
        if chunk.offset != upload.size or too_much:
            del self._open[chunk.digest]
            return
        upload.add(chunk.data)
        if chunk.last:
            del self._open[chunk.digest]
            upload.end()
            size = len(upload.data)
            if upload.digest == chunk.digest and self._pays(chunk.digest, size):
                digest = await self._blobs.put(bytes(upload.data))
                self._kept[chunk.digest] = _Kept(upload.size, digest, size, upload.lines)

    def _held(self) -> int:
        """Bytes in memory, of all blobs that are not complete."""
        return sum(max(upload.size, len(upload.data)) for upload in self._open.values())

    def _pays(self, digest: str, size: int) -> bool:
        """Whether a blob fits in what is left; one that is kept already costs nothing."""
        cost = 0 if digest in self._kept else max(size, _LEAST_COST)
        if cost > self._room:
            return False
        self._room -= cost
        return True

    async def checked(self, results: tuple[ToolResultPart, ...]) -> tuple[ToolResultPart, ...]:
        """Results whose blobs did arrive; the others as errors. A large text has its head and tail before it, unless
        the result shows much text already. Raises what reading the store raises.
        """
        return tuple([await self._checked(result) for result in results])

    async def _checked(self, result: ToolResultPart) -> ToolResultPart:
        content: list[TextPart | BlobPart] = []
        room = _SHOWN - sum(len(part.text) for part in result.content if isinstance(part, TextPart))
        for part in result.content:
            if isinstance(part, BlobPart):
                kept = self._kept.get(part.digest)
                if kept is None or kept.sent != part.size or kept.sent > self._limit(part):
                    message = "the sandbox did not deliver the bytes of this result"
                    return error_result(result.call_id, "result_lost", message)
                part = replace(part, digest=kept.digest, size=kept.size)  # noqa: PLW2901 - the part as it is kept
                if is_text(part.media_type) and room > 0:
                    shown = await self._excerpt(part, kept)
                    room -= len(shown)
                    content.append(TextPart(shown))
            content.append(part)
        return replace(result, content=tuple(content))

    def _limit(self, part: BlobPart) -> int:
        media = part.media_type.startswith("image/") or part.media_type == "application/pdf"
        return self._most_bytes if media else self._max_bytes

    async def _excerpt(self, blob: BlobPart, kept: "_Kept") -> str:
        head = await self._blobs.get(blob.digest, 0, EXCERPT_HEAD)
        rest = max(len(head), kept.size - EXCERPT_TAIL)
        tail = await self._blobs.get(blob.digest, rest, EXCERPT_TAIL)
        return excerpt(head, tail, kept.size, kept.lines)
