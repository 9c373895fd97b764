"""A Docker engine's socket with answers by the test: real HTTP over a real Unix socket, and nothing behind it."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from perstackd.adapters.docker.calls import CallLimits
from perstackd.adapters.docker.engine import EngineSettings

Answer = tuple[int, object]
SHORT = CallLimits(call_seconds=1, start_seconds=6, remove_seconds=2, breaker_failures=3, breaker_seconds=0.2)


class ScriptedEngine:
    """Answers `METHOD path` prefixes by functions; keeps what was asked, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.routes: dict[str, Callable[[], Answer]] = {
            "GET /version": lambda: (200, {"ApiVersion": "1.41", "Version": "scripted"}),
            "POST /containers/create": lambda: (201, {"Id": "c0ffee", "Warnings": []}),
            "POST /containers/c0ffee/start": lambda: (204, None),
            "GET /containers/json": lambda: (200, [{"Id": "c0ffee"}]),
            "DELETE /containers/": lambda: (204, None),
        }
        self.changed = threading.Condition()

    def answer(self, line: str) -> Answer:
        with self.changed:
            self.asked.append(line)
            self.changed.notify_all()
        route = max((prefix for prefix in self.routes if line.startswith(prefix)), key=len, default="")
        return self.routes[route]() if route else (404, {"message": f"no route for {line}"})

    def wait_for(self, prefix: str, seconds: float = 10) -> bool:
        """Whether a request with that prefix comes in time. Blocks: to be called on a thread."""
        with self.changed:
            return self.changed.wait_for(lambda: any(line.startswith(prefix) for line in self.asked), seconds)

    def count(self, prefix: str) -> int:
        return sum(line.startswith(prefix) for line in self.asked)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def serving(engine: ScriptedEngine, path: Path) -> Iterator[EngineSettings]:
    """The engine's socket at `path`, with settings that point to it and short bounds."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            route = self.path.partition("?")[0].removeprefix("/v1.41")
            status, body = engine.answer(f"{self.command} {route}")
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def handle(self) -> None:
            try:
                super().handle()
            except (BrokenPipeError, ConnectionResetError):
                return  # the client gave up, which is what some tests are about

        def address_string(self) -> str:
            return "client"

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = _Server(str(path), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    profile = path.with_suffix(".json")
    profile.write_text('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}')
    try:
        yield EngineSettings("scripted", str(profile), url=f"unix://{path}", limits=SHORT)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
