"""Makes conversation files: passes every call on and writes down what came of it."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import cast

import anyio
import anyio.to_thread

from perstackd.adapters.models.conversation import RecordedTurn, encode
from perstackd.adapters.models.digest import Digester
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import ModelEvent, ModelRequest, Turn
from perstackd.ports.models import Models


class RecordingModels:
    """Wraps any `Models`. A turn is on disk before it is passed on, in the form that `ReplayModels` reads.

    `expert_of` says whose turn it is, for readers of the file. Errors of the inner model pass unrecorded; one of the
    file is UNAVAILABLE `conversation_unwritable`, and the turn is not passed on. The file is made with mode 0600: it
    holds all that was said.
    """

    def __init__(self, inner: Models, path: Path, expert_of: Callable[[ModelRequest], str] = lambda _: "") -> None:
        self._inner = inner
        self._path = path
        self._expert_of = expert_of
        self._digester = Digester()
        self._writing = anyio.Lock()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        # Every implementation is an async generator; closing it is what ends the provider's call.
        async with aclosing(cast("AsyncGenerator[ModelEvent, None]", self._inner.stream(request))) as events:
            async for event in events:
                if isinstance(event, Turn):
                    await self._record(request, event)
                yield event

    async def close(self) -> None:
        await self._inner.close()

    async def _record(self, request: ModelRequest, turn: Turn) -> None:
        recorded = RecordedTurn(self._digester.digest(request), self._expert_of(request), turn)
        async with self._writing:
            await anyio.to_thread.run_sync(_append, self._path, f"{encode(recorded)}\n".encode())


def _append(path: Path, line: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(line)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise PerstackError(
            Kind.UNAVAILABLE,
            "conversation_unwritable",
            f"The turn cannot be recorded in {path}: {error.strerror}. Name a file that perstackd may write, or stop "
            "recording.",
            fields={"file": str(path)},
        ) from error
