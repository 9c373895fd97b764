"""Images and documents of a history: which of them a model is shown, and the words for the others."""

import base64
from collections.abc import Callable, Mapping

import anyio.to_thread

from perstackd.domain.context_artefact import artefact_id, is_text
from perstackd.domain.messages import BlobPart, Message, ToolResultPart
from perstackd.ports.event_store import Blobs


def chosen_blobs(
    messages: tuple[Message, ...], showable: Callable[[BlobPart], bool], max_bytes: int
) -> tuple[BlobPart, ...]:
    """Those that are `showable`, newest first and each once, until together they reach `max_bytes`.

    Those of a result that is an error are not among them.
    """
    chosen: dict[str, BlobPart] = {}
    left = max_bytes
    for message in reversed(messages):
        for blob in reversed(_blobs(message)):
            if blob.digest not in chosen and showable(blob) and blob.size <= left:
                chosen[blob.digest] = blob
                left -= blob.size
    return tuple(chosen.values())


async def base64_texts(blobs: Blobs | None, wanted: tuple[BlobPart, ...]) -> Mapping[str, str]:
    """The bytes of `wanted` by their digests, as base64; empty without a store. Raises what the store raises."""
    found: dict[str, str] = {}
    if blobs is not None:
        for blob in wanted:
            data = await blobs.get(blob.digest)
            found[blob.digest] = (await anyio.to_thread.run_sync(base64.b64encode, data)).decode("ascii")
    return found


def in_words(blob: BlobPart, state: str = "not shown") -> str:
    """What stands in the place of a blob that is not shown there: by its id a large text is read by range."""
    if is_text(blob.media_type):
        return f"[artefact {artefact_id(blob.digest)}: {blob.media_type}, {blob.size} bytes]"
    return f"[{blob.media_type}, {blob.size} bytes, {blob.digest}: {state}]"


def _blobs(message: Message) -> list[BlobPart]:
    found: list[BlobPart] = []
    for part in message.parts:
        match part:
            case BlobPart():
                found.append(part)
            case ToolResultPart() if not part.is_error:
                found.extend(item for item in part.content if isinstance(item, BlobPart))
            case _:
                pass
    return found
