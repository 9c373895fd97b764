"""A daemon's side of one session on a real socket: as strict as the real one about what is legal when."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import frame, read_frame

TABLE = json.loads((Path(__file__).parents[3] / "proto/perstack/v1/session.json").read_text())
ALLOWED = {(row["state"], row["message"]): row["next"] for row in TABLE["transitions"]}
WAIT_SECONDS = 20.0
MOST = 1 << 20


class FakeDaemon:
    """Collects what the runner sends; every message is held to session.json, and illegal ones fail the test."""

    def __init__(self, socket_path: Path) -> None:
        self.path = socket_path
        self.state = "new"
        self.hellos: list[pb.Hello] = []
        self.messages: asyncio.Queue[pb.FromRunner] = asyncio.Queue()
        self.progress: list[pb.Progress] = []
        self.skill_states: list[pb.SkillState] = []
        self.blobs: dict[str, bytes] = {}
        self.illegal: list[str] = []
        self.repeats: list[int] = []
        self.stored = 0
        self.acknowledges = True
        self.token = "token-of-this-session"
        self._orders: asyncio.Queue[pb.ToRunner] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._attached = asyncio.Event()

    # --- the server -----------------------------------------------------------------------------------------------
    async def serve(self) -> None:
        self._server = await asyncio.start_unix_server(self._attach, self.path)

    async def vanish(self) -> None:
        """As a killed daemon: the connections break and the socket goes."""
        assert self._server is not None
        self._attached.clear()
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        self.path.unlink(missing_ok=True)
        self._orders = asyncio.Queue()

    async def _attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            async with asyncio.TaskGroup() as both:
                await self._greet(reader, writer)
                speaking = both.create_task(self._speak(writer))
                self._attached.set()
                await self._read(reader)
                speaking.cancel()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = pb.FromRunner.FromString(await read_frame(reader, MOST) or b"")
        assert first.WhichOneof("message") == "hello"
        assert first.counter == 0
        self.hellos.append(first.hello)
        if self.state == "new":
            self.state = "idle"
        welcome = pb.Welcome(session_token=self.token, acknowledged=self.stored)
        writer.write(frame(pb.ToRunner(welcome=welcome)))

    async def _speak(self, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(frame(await self._orders.get()))
                await writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (data := await read_frame(reader, MOST)) is not None:
            self._take(pb.FromRunner.FromString(data))

    def _take(self, message: pb.FromRunner) -> None:
        kind = message.WhichOneof("message")
        assert kind is not None
        if kind != "progress":
            if message.counter <= self.stored:
                self.repeats.append(message.counter)
                return
            if message.counter != self.stored + 1:
                self.illegal.append(f"counter {message.counter} after {self.stored}")
            self.stored = message.counter
        self._hold_to_the_table(kind)
        match kind:
            case "progress":
                self.progress.append(message.progress)
            case "skill_state":
                self.skill_states.append(message.skill_state)
            case "blob_chunk":
                chunk = message.blob_chunk
                assert len(chunk.data) <= 256 << 10
                assert len(self.blobs.get(chunk.digest, b"")) == chunk.offset
                self.blobs[chunk.digest] = self.blobs.get(chunk.digest, b"") + chunk.data
        if kind != "progress":
            assert message.ByteSize() <= 1 << 20
            self.messages.put_nowait(message)
            if self.acknowledges:
                self._orders.put_nowait(pb.ToRunner(ack=pb.Ack(counter=self.stored)))

    def _hold_to_the_table(self, kind: str) -> None:
        if kind == "failure":
            return
        following = ALLOWED.get((self.state, kind))
        if following is None:
            self.illegal.append(f"{kind} while {self.state}")
        else:
            self.state = following

    # --- what a test does -----------------------------------------------------------------------------------------
    async def attached(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await self._attached.wait()

    async def next(self, kind: str) -> Any:
        """The next message of a kind; others in between that are not news of skills or chunks fail the test."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                message = await self.messages.get()
                found = message.WhichOneof("message")
                assert found is not None
                if found == kind:
                    return getattr(message, kind)
                assert found in ("skill_state", "blob_chunk"), f"{found} came instead of {kind}: {message}"

    def order(self, **fields: Any) -> None:
        self._orders.put_nowait(pb.ToRunner(**fields))

    def assign(self, workspace: Path | str, **fields: Any) -> None:
        fields.setdefault("base_tools", list(BASE_TOOLS))
        self.state = "assigned"
        self.order(
            assign=pb.Assign(expert_key="e", workspace_path=str(workspace), step=fields.pop("step", 1), **fields)
        )

    async def begin(self, workspace: Path | str, **fields: Any) -> None:
        """Assign, and take Ready and the first NextTurn."""
        self.assign(workspace, **fields)
        ready = await self.next("ready")
        assert ready.workspace_path == str(workspace)
        await self.next("next_turn")

    def turn(self, step: int, *calls: tuple[str, dict[str, Any]], skill: str = "") -> None:
        self.order_calls(step, *[(skill, tool, arguments) for tool, arguments in calls])

    def order_calls(self, step: int, *calls: tuple[str, str, dict[str, Any]]) -> None:
        """A turn of calls, each with its skill."""
        self.state = "running" if calls else "reported"
        self.order(
            turn=pb.Turn(
                step=step,
                calls=[
                    pb.ToolCall(
                        call_id=f"c{step}-{i}", skill=skill, tool=tool, arguments=json.dumps(arguments).encode()
                    )
                    for i, (skill, tool, arguments) in enumerate(calls)
                ],
            )
        )

    async def mixed(self, step: int, *calls: tuple[str, str, dict[str, Any]]) -> list[pb.ToolResult]:
        """As results(), each call with its own skill."""
        self.order_calls(step, *calls)
        return await self.take_results(step)

    async def results(self, step: int, *calls: tuple[str, dict[str, Any]], skill: str = "") -> list[pb.ToolResult]:
        """Order a turn and take its results, and the next question."""
        self.turn(step, *calls, skill=skill)
        return await self.take_results(step)

    async def take_results(self, step: int) -> list[pb.ToolResult]:
        report = await self.next("tool_results")
        assert report.step == step
        question = await self.next("next_turn")
        assert question.step == step + 1
        return list(report.results)

    async def value(self, step: int, tool: str, **arguments: Any) -> dict[str, Any]:
        """The JSON object of a single base call."""
        (result,) = await self.results(step, (tool, arguments))
        return value_of(result)


def value_of(result: pb.ToolResult) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(result.content[0].text)
    assert result.is_error == ("error" in value)
    return value


def _names() -> Iterator[str]:
    for tool in json.loads((Path(__file__).parents[3] / "proto/perstack/v1/base_tools.json").read_text()):
        yield tool["name"]


BASE_TOOLS = tuple(_names())


@asynccontextmanager
async def session(socket_path: Path, start: Callable[[Path], Any]) -> AsyncIterator[FakeDaemon]:
    """A served daemon with a runner that has said hello; `start` makes the context manager that runs it."""
    daemon = FakeDaemon(socket_path)
    await daemon.serve()
    try:
        async with start(socket_path):
            await daemon.attached()
            yield daemon
    finally:
        await daemon.vanish()
    assert daemon.illegal == []
