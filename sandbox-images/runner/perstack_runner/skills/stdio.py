"""A server that is a process: started, its pipes pumped, and ended with all that it left."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import anyio
from mcp.shared.message import SessionMessage

from perstack_runner.children import Child, Children, Spec
from perstack_runner.skills.last_words import LastWords
from perstack_runner.skills.pipes import Incoming, read_messages, write_messages
from perstack_runner.skills.streams import OpenRequests, Streams

GRACE_SECONDS: Final = 1.0
LAST_OUTPUT_SECONDS: Final = 0.05


class _Pipes:
    """Three pipes to a child; each descriptor is closed once."""

    def __init__(self) -> None:
        self.child_in, self.stdin = os.pipe2(os.O_CLOEXEC)
        self.stdout, self.child_out = os.pipe2(os.O_CLOEXEC)
        self.stderr, self.child_err = os.pipe2(os.O_CLOEXEC)
        self._open = {self.child_in, self.stdin, self.stdout, self.child_out, self.stderr, self.child_err}
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)

    def close(self, *descriptors: int) -> None:
        """Close these, or all; again is nothing."""
        for descriptor in descriptors or tuple(self._open):
            if descriptor in self._open:
                self._open.discard(descriptor)
                os.close(descriptor)


class _Output(NamedTuple):
    descriptor: int
    incoming: Incoming
    requests: OpenRequests


@asynccontextmanager
async def process_streams(spec: Spec, children: Children, words: LastWords) -> AsyncIterator[Streams]:
    """A started process. On leaving: its input is closed, 1 s, SIGTERM, 1 s, SIGKILL.

    Raises:
        OSError, ValueError: it could not be started.
        ExceptionGroup: of a ValueError, when it floods or does not speak the protocol.
    """
    pipes = _Pipes()
    try:
        child = await children.start(
            spec._replace(stdin=pipes.child_in, stdout=pipes.child_out, stderr=pipes.child_err)
        )
        pipes.close(pipes.child_in, pipes.child_out, pipes.child_err)
        try:
            async with anyio.create_task_group() as pumps:
                incoming, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](16)
                write_stream, outgoing = anyio.create_memory_object_stream[SessionMessage](16)
                ended = asyncio.Event()
                requests = OpenRequests()
                pumps.start_soon(_until_the_end, child, _Output(pipes.stdout, incoming, requests), ended)
                pumps.start_soon(write_messages, pipes.stdin, outgoing, requests)
                pumps.start_soon(words.read, pipes.stderr)
                yield Streams(read_stream, write_stream, ended)
                pumps.cancel_scope.cancel()
        finally:
            pipes.close(pipes.stdin)
            await _end(child, children)
    finally:
        pipes.close()


async def _until_the_end(child: Child, output: _Output, ended: asyncio.Event) -> None:
    """Read until the output ends; a process that is gone ends it too, though a grandchild may hold the pipe."""
    async with anyio.create_task_group() as either:
        either.start_soon(_cancel_after, child.exited, either.cancel_scope)
        try:
            await read_messages(*output)
        finally:
            ended.set()
        either.cancel_scope.cancel()


async def _cancel_after(event: asyncio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    await anyio.sleep(LAST_OUTPUT_SECONDS)
    scope.cancel()


async def _end(child: Child, children: Children) -> None:
    # The shield holds off anyio's cancelling, not asyncio's own: that one cuts the wait short, but never the end.
    with anyio.CancelScope(shield=True):
        try:
            with anyio.move_on_after(GRACE_SECONDS):
                await child.exited.wait()
        finally:
            await children.end(child, grace=GRACE_SECONDS)
