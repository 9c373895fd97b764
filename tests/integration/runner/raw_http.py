"""An MCP server over HTTP without an SDK, in the test's own loop, that can be told to misbehave."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

SESSION = "session-of-this-test"


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    message: dict[str, Any]

    @property
    def asks(self) -> str:
        return str(self.message.get("method", ""))


def response(body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"content-type: {kind}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def stream(kind: str = "text/event-stream") -> bytes:
    """The head of a body that ends with its connection."""
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n".encode()


def result(request: Request, value: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request.message["id"], "result": value}).encode()


def text(request: Request, value: str) -> bytes:
    return result(request, {"content": [{"type": "text", "text": value}]})


@dataclass(slots=True)
class RawHttp:
    """Answers with what `modes` say, by method of MCP or of HTTP: bytes, or a function that writes them."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    modes: dict[str, Callable[[Request, asyncio.StreamWriter], Any]] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)

    def asked(self, what: str) -> list[Request]:
        return [each for each in self.requests if what in (each.asks, each.method)]

    async def until(self, what: str, count: int = 1) -> list[Request]:
        async with asyncio.timeout(10):
            while len(self.asked(what)) < count:
                await asyncio.sleep(0.01)
        return self.asked(what)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                await self._answer(request, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, RuntimeError):
            pass  # whoever asked has gone; uvloop says it with a RuntimeError
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        for what in (request.asks, request.method):
            if what in self.hangs:
                await asyncio.sleep(3600)
            if what in self.modes:
                made = self.modes[what](request, writer)
                if asyncio.iscoroutine(made):
                    await made
                else:
                    writer.write(made)
                return
        writer.write(self.usual(request))

    def usual(self, request: Request) -> bytes:
        match request.method, request.asks:
            case "POST", "initialize":
                about = {"name": "raw-http", "version": "1"}
                value = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": about}
                return response(result(request, value), mcp_session_id=SESSION)
            case "POST", "tools/list":
                return response(result(request, {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}))
            case "POST", "tools/call":
                return response(text(request, json.dumps(request.message["params"].get("arguments"))))
            case "POST", _:
                return response(b"", 202)
            case "DELETE", _:
                return response(b"", 204)
            case _:
                return response(b"", 405)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = first.split(" ")
    return Request(method, path, headers, json.loads(body) if body else {})


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[RawHttp]:
    made = RawHttp()
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await made.serve(reader, writer)
        except asyncio.CancelledError:
            return
        finally:
            connections.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        if connections:
            await asyncio.wait(connections, timeout=5)
