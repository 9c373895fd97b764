"""A model that answers from a recorded conversation: no network, no key, the same every time."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread

from perstackd.adapters.models.conversation import decode, events_of
from perstackd.adapters.models.digest import Digester
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import ModelEvent, ModelRequest, Turn


class ReplayModels:
    """Implements `Models` over a conversation file, which is read once, at the first call or by `warm`.

    Beside what the port lists it raises INVALID `conversation_invalid` for a damaged file and PRECONDITION
    `conversation_unreadable` for one that cannot be read; the next call tries again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turns: dict[str, Turn] | None = None
        self._digester = Digester()
        self._loading = anyio.Lock()

    async def warm(self) -> None:
        """Read the file now. Raises what a call would raise. Idempotent."""
        await self._loaded()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        turns = self._turns if self._turns is not None else await self._loaded()
        digest = self._digester.digest(request)
        turn = turns.get(digest)
        if turn is None:
            raise self._unknown(digest, len(turns), request)
        for event in events_of(turn):
            yield event

    async def close(self) -> None:
        """Nothing is open between calls."""

    async def _loaded(self) -> dict[str, Turn]:
        async with self._loading:
            if self._turns is None:
                self._turns = await anyio.to_thread.run_sync(load, self._path)
            return self._turns

    def _unknown(self, digest: str, known: int, request: ModelRequest) -> PerstackError:
        return PerstackError(
            Kind.NOT_FOUND,
            "no_recorded_turn",
            f"No turn is recorded for the request {digest} (model {request.model!r}, {len(request.messages)} messages, "
            f"{len(request.tools)} tools): {self._path} has {known} turns and none of them answers it. The system "
            "prompt, the tools or an earlier message differ from the recording; record the conversation again by "
            "running the job with a real provider and recording switched on.",
            fields={"digest": digest, "file": str(self._path), "turns": str(known)},
        )


def load(path: Path) -> dict[str, Turn]:
    """All turns of a conversation file by their request's digest. Blocking. Empty lines are passed over.

    Raises:
        PerstackError: INVALID `conversation_invalid`, PRECONDITION `conversation_unreadable`.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise _unreadable(path, error.strerror or "it cannot be read") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"it is not UTF-8 at byte {error.start}") from error
    numbered = enumerate(text.split("\n"), start=1)
    recorded = [decode(line, str(path), number) for number, line in numbered if line.strip()]
    return {entry.digest: entry.turn for entry in recorded}


def _unreadable(path: Path, why: str) -> PerstackError:
    return PerstackError(
        Kind.PRECONDITION,
        "conversation_unreadable",
        f"The recorded conversation {path} cannot be used: {why}. Name a file that perstackd may read.",
        fields={"file": str(path)},
    )
