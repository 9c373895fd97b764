"""A server's pipes as the SDK's streams: one JSON-RPC message per line, lines bounded, nothing that blocks the loop.

The SDK's own stdio transport starts the process itself and bounds no line; here the process has a domain and an owner.
"""

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import anyio
import mcp_types as mcp
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from perstack_runner.skills.streams import OpenRequests

MAX_LINE_BYTES: Final = 16 << 20
MAX_SKIPPED_BYTES: Final = 256 << 20
"""Of a line that is too long: read to its end, so that the request which it answers can be told, and no further."""
MAX_NOISE_LINES: Final = 1_000
"""Lines in a row that are no message: some servers print what they do, and one that prints nothing else is none."""
_BLOCK: Final = 64 << 10
_ENDS_BYTES: Final = 200
_ANSWER_BEGINS: Final = re.compile(rb'\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(\d{1,15})\s*,')
_RESULT_FIRST: Final = re.compile(rb'\s*\{\s*"result"\s*:')
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


async def read_messages(descriptor: int, incoming: Incoming, requests: OpenRequests) -> None:
    """Parse lines into messages, until the pipe ends or nobody listens; what is none is handed on as its error.

    An answer that is none, or is over 16 MiB, fails the request that it names: else only its time-out would end it.

    Raises:
        ValueError: a line over 16 MiB that answers nothing, 1,000 lines in a row that are no messages, or more than 64
        requests that have no answer yet.
    """
    # Whoever listened may go first, and knows why better.
    async with incoming:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await _read_lines(descriptor, incoming, requests)


async def _read_lines(descriptor: int, incoming: Incoming, requests: OpenRequests) -> None:
    line = _Line()
    noise = 0
    async for data in blocks(descriptor):
        *complete, rest = data.split(b"\n")
        for part in complete:
            line.add(part)
            message, line = line.message(), _Line()
            if message is None:
                continue
            noise = 0 if isinstance(message, SessionMessage) else noise + 1
            if noise > MAX_NOISE_LINES:
                raise ValueError(f"it does not speak the protocol: {noise} lines in a row are no messages")
            if isinstance(message, SessionMessage):
                requests.came(message.message)
            await incoming.send(message)
        line.add(rest)


class NoMessageError(ValueError):
    """A line that is no message; the text is its beginning."""


class _Line:
    """A line as it comes. One that is too long keeps its first and last bytes only."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._head = b""
        self._size = 0

    def add(self, data: bytes) -> None:
        """Raises ValueError on a line that is too long and answers nothing."""
        self._size += len(data)
        self._data += data
        if self._size <= MAX_LINE_BYTES:
            return
        if not self._head:
            self._head = bytes(self._data[:_ENDS_BYTES])
        del self._data[:-_ENDS_BYTES]
        could_answer = _ANSWER_BEGINS.match(self._head) or _RESULT_FIRST.match(self._head)
        if not could_answer or self._size > MAX_SKIPPED_BYTES:
            raise _too_long()

    def message(self) -> SessionMessage | Exception | None:
        """What the whole line says; None when it is blank. Raises ValueError as add()."""
        line = bytes(self._data)
        if not self._head:
            return _parsed(line) if line.strip() else None
        found = _ANSWER_BEGINS.match(self._head) or _ANSWER_ENDS.search(line)
        if found is None or _REQUEST.search(self._head):
            raise _too_long()
        megabytes = self._size / (1 << 20)
        return _failed(int(found[1]), f"its answer is {megabytes:.0f} MiB, the bound is {MAX_LINE_BYTES >> 20} MiB")


def _too_long() -> ValueError:
    return ValueError(f"a line of its output is over {MAX_LINE_BYTES >> 20} MiB")


def _failed(number: int | str, message: str) -> SessionMessage:
    data = mcp.ErrorData(code=mcp.PARSE_ERROR, message=message)
    return SessionMessage(mcp.JSONRPCError(jsonrpc="2.0", id=number, error=data))


def _parsed(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        number = _answered(line) if line.lstrip()[:1] == b"{" else None
        if number is not None:
            return _failed(number, "the server's answer is not a valid message")
        said = NoMessageError(line[:_ENDS_BYTES].decode("utf-8", "replace"))
        said.__cause__ = error
        return said


def _answered(line: bytes) -> int | str | None:
    """The number of the request that a broken line answers, if it can be told: as JSON, else by the two orders in which
    answers are written.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        found = _ANSWER_BEGINS.match(line[:_ENDS_BYTES]) or _ANSWER_ENDS.search(line[-_ENDS_BYTES:])
        return int(found[1]) if found and not _REQUEST.search(line[:_ENDS_BYTES]) else None
    if not isinstance(message, dict) or "method" in message or not message.keys() & {"jsonrpc", "result"}:
        return None  # another's request, or a line of a log
    number = message.get("id")
    return number if isinstance(number, int | str) and not isinstance(number, bool) else None


async def write_messages(descriptor: int, outgoing: Outgoing, requests: OpenRequests) -> None:
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
            requests.went(message.message)
