"""A server's pipes as the SDK's streams: one JSON-RPC message per line, lines bounded, nothing that blocks the loop.

The SDK's own stdio transport starts the process itself and bounds no line; here the process has a domain and an owner.
"""

import json
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

import anyio
import mcp_types as mcp
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

MAX_LINE_BYTES: Final = 16 << 20
STDERR_SECONDS: Final = 0.5
STDERR_BYTES: Final = 4 << 10
_BLOCK: Final = 64 << 10
_HEAD_BYTES: Final = 200
_ANSWER_BEGINS: Final = re.compile(rb'\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(\d{1,15})\s*,')
_ANSWER_ENDS: Final = re.compile(rb'"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(\d{1,15})\s*\}\s*$')
_REQUEST: Final = re.compile(rb'^[^{]*\{[^{]*"method"\s*:')

Incoming = MemoryObjectSendStream[SessionMessage | Exception]
Outgoing = MemoryObjectReceiveStream[SessionMessage]


async def blocks(descriptor: int) -> AsyncIterator[bytes]:
    """What comes out of a non-blocking pipe, until its end."""
    while True:
        await anyio.wait_readable(descriptor)
        try:
            data = os.read(descriptor, _BLOCK)
        except BlockingIOError:
            continue
        if not data:
            return
        yield data


async def read_messages(descriptor: int, incoming: Incoming) -> None:
    """Parse lines into messages, until the pipe ends or nobody listens; what is none is handed on as its error.

    An answer that is none fails the request that it names: nothing else would end it but its time-out.

    Raises:
        ValueError: a line over 16 MiB.
    """
    # Whoever listened may go first, and knows why better.
    async with incoming:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await _read_lines(descriptor, incoming)


async def _read_lines(descriptor: int, incoming: Incoming) -> None:
    line = bytearray()
    async for data in blocks(descriptor):
        *complete, rest = data.split(b"\n")
        for part in complete:
            line += part
            if line.strip():
                await incoming.send(_parsed(bytes(line)))
            line.clear()
        line += rest
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"a line of its output is over {MAX_LINE_BYTES >> 20} MiB")


def _parsed(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        number = _answered(line) if line.lstrip()[:1] == b"{" else None
        if number is None:
            return error
        data = mcp.ErrorData(code=mcp.PARSE_ERROR, message="the server's answer is not a valid message")
        return SessionMessage(mcp.JSONRPCError(jsonrpc="2.0", id=number, error=data))


def _answered(line: bytes) -> int | str | None:
    """The number of the request that a broken line answers, if it can be told: as JSON, else by the two orders in which
    answers are written.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        found = _ANSWER_BEGINS.match(line[:_HEAD_BYTES]) or _ANSWER_ENDS.search(line[-_HEAD_BYTES:])
        return int(found[1]) if found and not _REQUEST.search(line[:_HEAD_BYTES]) else None
    if not isinstance(message, dict) or "method" in message or not message.keys() & {"jsonrpc", "result"}:
        return None  # another's request, or a line of a log
    number = message.get("id")
    return number if isinstance(number, int | str) and not isinstance(number, bool) else None


async def write_messages(descriptor: int, outgoing: Outgoing) -> None:
    """Write messages as lines until the stream or the pipe is closed."""
    async with outgoing:
        async for message in outgoing:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            rest = memoryview(text.encode() + b"\n")
            while rest:
                await anyio.wait_writable(descriptor)
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:
                    continue
                except OSError:
                    return  # the server closed its input; its end is seen elsewhere


class LastWords:
    """A server's standard error: at most 4 KiB each half second is reported, and the last 2 KiB are remembered."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self.text = ""

    async def read(self, descriptor: int) -> None:
        """Read to the end."""
        pending = bytearray()
        dropped = 0
        due = anyio.current_time()
        async for data in blocks(descriptor):
            room = STDERR_BYTES - len(pending)
            pending += data[:room]
            dropped += max(0, len(data) - room)
            self.text = (self.text + data[-2048:].decode("utf-8", "replace"))[-2048:]
            wait = due - anyio.current_time()
            if wait > 0 and len(pending) < STDERR_BYTES:
                continue
            if wait > 0:
                await anyio.sleep(wait)  # the pipe fills and the server waits: its own flood is its own delay
            self._say(pending, dropped)
            pending.clear()
            dropped, due = 0, anyio.current_time() + STDERR_SECONDS
        self._say(pending, dropped)

    def _say(self, pending: bytearray, dropped: int) -> None:
        text = pending.decode("utf-8", "replace").strip()
        note = f" [{dropped} bytes left out]" if dropped else ""
        if text or note:
            self._report(text + note)
