"""Results as messages: small ones inline, large ones as blobs that go up first, all within a message's bounds."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from perstack_runner.messages import Blob, BlobChunk, BlobRef, Limits, Part, Result, Structured, Text, ToolResults
from perstack_runner.tools.outcome import Outcome

CHUNK_BYTES: Final = 256 << 10
MESSAGE_BYTES: Final = 768 << 10
"""Inline content of one ToolResults; the link carries messages up to 1 MiB."""
TURN_BLOB_BYTES: Final = 32 << 20
"""Of one turn: its chunks are kept in memory until they are acknowledged."""
MEDIA_BYTES: Final = TURN_BLOB_BYTES
"""Of an image or a PDF, shown whole or not at all. What is neither is bounded by the assignment's result_bytes."""
MAX_PARTS: Final = 62
"""Of a result's own: the link carries 64, and two notes may come to them, of what was cut and of what was left out."""
_SMALL_BYTES: Final = 64 << 10


class Packed(NamedTuple):
    """What to send for a turn: chunks first."""

    chunks: tuple[BlobChunk, ...]
    report: ToolResults


def from_outcome(call_id: str, outcome: Outcome, milliseconds: int) -> Result:
    """A base tool's outcome as a result: one text part with a JSON object, then its attachment."""
    text = json.dumps(outcome.value, ensure_ascii=False, separators=(",", ":"))
    parts: list[Part] = [Text(clean(text), "application/json")]
    if outcome.attachment is not None:
        parts.append(outcome.attachment)
    return Result(call_id, tuple(parts), outcome.is_error, milliseconds)


def failed(call_id: str, name: str, message: str, milliseconds: int = 0) -> Result:
    """The error form that every tool has."""
    return from_outcome(call_id, Outcome({"error": name, "message": message}, is_error=True), milliseconds)


def clean(text: str) -> str:
    """`text` without lone surrogates, which protobuf does not carry: names of files that are no UTF-8 have them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


async def pack(step: int, results: tuple[Result, ...], limits: Limits) -> Packed:
    """Split a turn's results; on a thread when there is much to hash and copy."""
    packing = _Packing(limits)
    size = sum(len(_bytes_of(part)[0]) for result in results for part in result.content)
    if size <= _SMALL_BYTES:
        return packing.pack(step, results)
    return await asyncio.to_thread(packing.pack, step, results)


class _Packing:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inline_left = MESSAGE_BYTES
        self._blob_left = TURN_BLOB_BYTES
        self._chunks: list[BlobChunk] = []
        self._sent: set[str] = set()

    def pack(self, step: int, results: tuple[Result, ...]) -> Packed:
        packed = tuple(result._replace(content=self._content(result)) for result in results)
        return Packed(tuple(self._chunks), ToolResults(step, packed))

    def _content(self, result: Result) -> tuple[Part, ...]:
        left = self._limits.result_bytes
        parts: list[Part] = []
        for part in result.content[:MAX_PARTS]:
            data, media_type = _bytes_of(part)
            if _is_media(media_type):
                parts.append(self._placed(part, data, media_type))
            elif len(data) > left:
                parts += self._cut(part, data, left, media_type)
                left = 0
            else:
                left -= len(data)
                parts.append(self._placed(part, data, media_type))
        if len(result.content) > MAX_PARTS:
            parts.append(Text(f"[{len(result.content) - MAX_PARTS} more parts were left out]"))
        return tuple(parts)

    def _cut(self, part: Part, data: bytes, left: int, media_type: str) -> list[Part]:
        note = f"[truncated: {len(data)} bytes, {max(left, 0)} of them are kept]"
        if left <= 0 or not media_type.startswith("text/"):
            # Half of an image or of a JSON document is of no use.
            return [Text(f"[left out: {len(data)} bytes of {media_type}, over the limit of a result]")]
        kept = data[:left].decode("utf-8", "ignore")
        return [self._placed(Text(kept) if isinstance(part, Text) else part, kept.encode(), media_type), Text(note)]

    def _placed(self, part: Part, data: bytes, media_type: str) -> Part:
        inline = isinstance(part, Text | Structured) and len(data) <= min(
            self._limits.inline_result_bytes, self._inline_left
        )
        if inline:
            self._inline_left -= len(data)
            return part
        if len(data) > self._blob_left:
            return Text(
                f"[left out: {len(data)} bytes of {media_type}, over the limit of a turn; ask for less at once]"
            )
        return self._uploaded(data, media_type)

    def _uploaded(self, data: bytes, media_type: str) -> BlobRef:
        import hashlib  # brings OpenSSL, 3 MiB that a run without blobs does without

        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest not in self._sent:
            self._sent.add(digest)
            self._blob_left -= len(data)
            self._chunks += chunks(digest, data)
        return BlobRef(digest, len(data), media_type)


def _is_media(media_type: str) -> bool:
    return media_type.startswith("image/") or media_type == "application/pdf"


def chunks(digest: str, data: bytes) -> Iterator[BlobChunk]:
    """`data` in order; at least one chunk, the last one marked."""
    for offset in range(0, max(len(data), 1), CHUNK_BYTES):
        yield BlobChunk(digest, offset, data[offset : offset + CHUNK_BYTES], last=offset + CHUNK_BYTES >= len(data))


def _bytes_of(part: Part) -> tuple[bytes, str]:
    match part:
        case Text(text=text, media_type=media_type):
            return text.encode(), media_type
        case Structured(json=data):
            return data, "application/json"
        case Blob(data=data, media_type=media_type):
            return data, media_type
        case BlobRef():
            raise ValueError("a result is packed once")


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8."""
    return clean(json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)).encode()
