"""The link into a sandbox, over a real socket, with hostile and honest runners: what is said, and to whom."""

import asyncio
import hashlib
import socket as socket_module
import stat
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import frame

from perstackd.adapters.clock import SystemClock
from perstackd.domain.errors import PerstackError
from perstackd.domain.session import Finish, Hello, LinkLost, NextTurn, Probe, ProbeResult, Progress
from perstackd.rpc import runner as runner_module
from perstackd.rpc.runner import SocketRunnerLinks
from perstackd.version import RUNNER_PROTOCOL
from tests.fakes.runner_dialled import ID, dialled, first_ask, greet, hello, linked, nothing_unhandled, ticks

pytestmark = pytest.mark.anyio
TOKEN_HASH = hashlib.sha256(b"token").hexdigest()


@pytest.fixture(autouse=True)
async def handled() -> AsyncIterator[None]:
    async with nothing_unhandled():
        yield


def schema(document: bytes) -> pb.FromRunner:
    tool = pb.ToolSpec(name="t", input_schema=document)
    state = pb.SkillState.STATE_CONNECTED
    return pb.FromRunner(counter=1, skill_state=pb.SkillState(skill="s", state=state, tools=[tool]))


async def test_the_first_stream_is_welcomed_and_the_socket_is_gone(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        welcome = await greet(runner)
        assert len(welcome.welcome.session_token) == 32
        assert isinstance(await link.hello(5), Hello)
        assert not socket.exists()


async def test_who_dialled_before_the_runner_was_greeted_is_rejected(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as first, dialled(socket) as second:
        await greet(first)
        second.say(hello())
        assert await second.rejection() == "this sandbox has its runner"
        first.say(counter=1, next_turn=pb.NextTurn(step=1))
        assert await first_ask(link) == NextTurn(1)


async def test_nobody_can_dial_once_the_runner_was_greeted_also_who_has_the_socket_open_by_another_name(
    tmp_path: Path,
) -> None:
    socket, other = tmp_path / "r.sock", tmp_path / "other"
    async with linked(socket), dialled(socket) as runner:
        other.hardlink_to(socket)
        await greet(runner)
        with pytest.raises(ConnectionRefusedError):
            async with dialled(other):
                pass


async def test_a_session_goes_on_over_a_socket_that_is_made_again_and_unlinked_again(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    left = socket_module.socket(socket_module.AF_UNIX)
    left.bind(str(socket))  # what a daemon that was killed before its runner came leaves
    left.close()
    token_hash = hashlib.sha256(b"token").hexdigest()
    async with linked(socket, token_hash=token_hash) as link:
        async with dialled(socket) as stranger:
            stranger.say(hello(token="wrong"))
            assert await stranger.rejection() == "this is not the session's token"
        assert socket.exists()
        async with dialled(socket) as runner:
            runner.say(hello(token="token"))
            welcome = (await runner.order()).welcome
            assert welcome.session_token == "token"
            assert isinstance(await link.hello(5), Hello)
            assert not socket.exists()


async def test_a_runs_session_goes_on_and_says_again_what_was_not_stored_also_with_a_runner_one_version_older(
    tmp_path: Path,
) -> None:
    socket = tmp_path / "r.sock"
    server = await SocketRunnerLinks(SystemClock()).listen(
        ID, str(socket), hashlib.sha256(b"token").hexdigest(), repeats=True
    )
    try:
        async with dialled(socket) as runner:
            runner.say(hello(version=RUNNER_PROTOCOL - 1, token="token"))
            welcome = (await runner.order()).welcome
            assert (welcome.session_token, welcome.acknowledged) == ("token", 0)
            assert (await server.hello(5)).protocol_version == RUNNER_PROTOCOL - 1
            runner.say(counter=7, next_turn=pb.NextTurn(step=3))
            assert await first_ask(server) == NextTurn(3)
            assert server.position == 7
    finally:
        await server.close()


async def test_what_an_idle_runner_said_to_the_daemon_before_is_forgotten_and_new_answers_are_heard(
    tmp_path: Path,
) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket, token_hash=hashlib.sha256(b"token").hexdigest()) as link, dialled(socket) as runner:
        runner.say(hello(token="token"))
        welcome = (await runner.order()).welcome
        assert welcome.acknowledged > 1_000_000  # whatever it kept
        runner.say(counter=3, probe_result=pb.ProbeResult(content=b"new", found=True))
        assert await first_ask(link) == ProbeResult(b"new")


async def test_connections_that_say_nothing_do_not_keep_the_runner_out(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    token_hash = hashlib.sha256(b"token").hexdigest()
    async with linked(socket, token_hash=token_hash) as link, dialled(socket) as silent, dialled(socket) as runner:
        runner.say(hello(token="token"))
        assert (await runner.order()).welcome.session_token == "token"
        assert isinstance(await link.hello(5), Hello)
        silent.say(hello(token="token"))
        assert await silent.rejection() == "this sandbox has its runner"
        await link.send(Probe("/mnt/x"))
        assert (await runner.order()).probe.path == "/mnt/x"


async def test_orders_go_in_and_asks_come_out_without_repeats(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        await greet(runner)
        await link.send(Probe("/mnt/x"))
        assert (await runner.order()).probe.path == "/mnt/x"
        answer = pb.FromRunner(counter=1, probe_result=pb.ProbeResult(content=b"token", found=True))
        for message in (answer, answer, pb.FromRunner(counter=2, next_turn=pb.NextTurn(step=1))):
            runner.say(message)
        asks = aiter(link.asks())
        with anyio.fail_after(5):
            assert [await anext(asks), await anext(asks)] == [ProbeResult(b"token"), NextTurn(1)]
        link.acknowledge(link.position)
        await link.send(Finish("completed"))
        assert (await runner.order()).finish.reason == "completed"
        assert (await runner.order()).ack.counter == 2


async def test_only_what_was_acknowledged_is_acknowledged_however_much_was_read(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        await greet(runner)
        for counter in (1, 2, 3):
            runner.say(counter=counter, next_turn=pb.NextTurn(step=counter))
        asks = aiter(link.asks())
        with anyio.fail_after(5):
            await anext(asks)
            first = link.position
            await anext(asks)
            await anext(asks)
        link.acknowledge(first)
        await link.send(Finish("completed"))
        assert (await runner.order()).finish.reason == "completed"
        assert (await runner.order()).ack.counter == 1
        link.acknowledge(10**9)  # never more than was read
        await link.send(Finish("completed"))
        assert [(await runner.order()).WhichOneof("message"), (await runner.order()).ack.counter] == ["finish", 3]


async def test_the_end_of_the_stream_is_the_last_ask(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link:
        async with dialled(socket) as runner:
            await greet(runner)
        assert isinstance(await first_ask(link), LinkLost)
        with pytest.raises(PerstackError, match="is gone"):
            await link.send(Finish("late"))


async def test_a_runner_of_another_protocol_is_refused_with_the_remedy(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        runner.say(hello(version=9))
        with pytest.raises(PerstackError, match="make images") as caught:
            await link.hello(5)
        assert caught.value.reason == "runner_protocol"


async def test_a_silent_sandbox_is_told_after_the_deadline(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        with pytest.raises(PerstackError, match="did not call"):
            await link.hello(0.05)
        await greet(runner)
        assert isinstance(await link.hello(5), Hello)  # who asks again


@pytest.mark.parametrize(
    "message",
    [
        pb.FromRunner(counter=1),
        pb.FromRunner(counter=1, ready=pb.Ready(workspace_path="x" * 1000)),
        pb.FromRunner(counter=1, skill_state=pb.SkillState(skill="s")),
        pb.FromRunner(counter=1, blob_chunk=pb.BlobChunk(data=b"x" * 300_000)),
        schema(b'{"a":NaN}'),
        schema(b'{"a":"\\ud800"}'),
        schema(b"[" * 100_000),
        schema(b'{"a":' + b"1" * 10_000 + b"}"),
    ],
    ids=["empty", "long path", "no state", "large chunk", "NaN", "half a pair", "deep", "long number"],
)
async def test_malformed_messages_end_the_link_with_the_reason(tmp_path: Path, message: pb.FromRunner) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        await greet(runner)
        runner.say(message)
        ask = await first_ask(link)
        assert isinstance(ask, LinkLost)
        assert ask.detail.startswith("malformed")


async def test_a_message_over_the_size_limit_ends_the_link_before_it_is_read(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        await greet(runner)
        runner.writer.write(struct.pack(">I", (1 << 20) + 1))
        ask = await first_ask(link)
        assert ask == LinkLost("malformed: a message of 1048577 bytes; 1048576 are taken")


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "malformed: its runner speaks gRPC: make images"),
        (struct.pack(">I", 8) + b"\xff" * 8, "malformed: not a message"),
        (struct.pack(">I", 8) + b"\xff", "the stream ended"),
        (b"\x00", "the stream ended"),
        (struct.pack(">I", 0), "malformed: a message without content"),
    ],
    ids=["HTTP/2", "noise", "half a message", "half a length", "nothing"],
)
async def test_bytes_that_are_no_frames_end_the_link(tmp_path: Path, data: bytes, detail: str) -> None:
    for first in (False, True):
        socket = tmp_path / f"{first}.sock"
        async with linked(socket) as link:
            async with dialled(socket) as runner:
                if not first:
                    await greet(runner)
                runner.writer.write(data)
            assert await first_ask(link) == LinkLost(detail)
            if first:
                with pytest.raises(PerstackError, match=f"before it called: {detail}"):
                    await link.hello(5)


async def test_frames_in_pieces_and_together_are_read_alike(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    said = b"".join(frame(pb.FromRunner(counter=n, next_turn=pb.NextTurn(step=n))) for n in (1, 2, 3))
    for size in (1, 5, len(said)):
        async with linked(socket) as link, dialled(socket) as runner:
            await greet(runner)
            for at in range(0, len(said), size):
                runner.writer.write(said[at : at + size])
                await anyio.lowlevel.checkpoint()
            asks = aiter(link.asks())
            with anyio.fail_after(5):
                assert [await anext(asks) for _ in range(3)] == [NextTurn(1), NextTurn(2), NextTurn(3)]


@pytest.mark.parametrize(
    "data",
    [b"PRI * HTTP/2.0", struct.pack(">I", 8) + b"\xff" * 8, struct.pack(">I", 1 << 30), struct.pack(">I", 0)],
    ids=["HTTP/2", "noise", "too large", "nothing"],
)
async def test_a_stranger_who_speaks_no_frames_does_not_end_a_session_that_goes_on(tmp_path: Path, data: bytes) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket, token_hash=TOKEN_HASH) as link:
        async with dialled(socket) as stranger:
            stranger.writer.write(data)
            assert await stranger.rejection() == "this is not the session's token"
        async with dialled(socket) as runner:
            runner.say(hello(token="token"))
            assert (await runner.order()).welcome.session_token == "token"
            assert isinstance(await link.hello(5), Hello)


# --- the hello ------------------------------------------------------------------------------------------------------
async def test_any_uid_inside_may_dial(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket):
        assert stat.S_IMODE(socket.stat().st_mode) == 0o666


async def test_the_path_is_gone_before_the_hello_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket, begun, may_go = tmp_path / "r.sock", threading.Event(), threading.Event()
    unlink = Path.unlink

    def slow(path: Path, missing_ok: bool = False) -> None:
        begun.set()
        assert may_go.wait(5)
        unlink(path, missing_ok)

    async with linked(socket) as link, dialled(socket) as runner, asyncio.TaskGroup() as group:
        monkeypatch.setattr(Path, "unlink", slow)
        runner.say(hello())
        answered = group.create_task(link.hello(5))
        welcomed = group.create_task(runner.order())
        assert await asyncio.to_thread(begun.wait, 5)
        await ticks(20)
        assert not answered.done()
        assert not welcomed.done()
        may_go.set()
        await answered
        assert not socket.exists()
        assert (await welcomed).HasField("welcome")


async def test_a_first_connection_that_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "HELLO_SECONDS", 0.05)
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as silent:
        assert await first_ask(link) == LinkLost("it said nothing for 0.05 s")
        with pytest.raises(PerstackError, match="said nothing"):
            await link.hello(5)
        assert await silent.read() is None


async def test_a_stranger_who_says_nothing_is_rejected_and_the_session_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "HELLO_SECONDS", 0.05)
    socket = tmp_path / "r.sock"
    async with linked(socket, token_hash=TOKEN_HASH) as link, dialled(socket) as silent:
        assert await silent.rejection() == "this is not the session's token"
        monkeypatch.setattr(runner_module, "HELLO_SECONDS", 10.0)
        async with dialled(socket) as runner:
            runner.say(hello(token="token"))
            assert (await runner.order()).HasField("welcome")
            assert isinstance(await link.hello(5), Hello)


async def test_what_is_not_a_hello_is_no_first_message(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        runner.say(counter=1, next_turn=pb.NextTurn(step=1))
        assert await first_ask(link) == LinkLost("malformed: the first message is not a hello")
        assert await runner.read() is None


# --- the order of things --------------------------------------------------------------------------------------------
async def test_orders_from_before_the_hello_come_once_after_the_welcome_and_in_order(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        for path in ("/mnt/1", "/mnt/2"):
            await link.send(Probe(path))
        assert (await greet(runner)).HasField("welcome")
        await link.send(Probe("/mnt/3"))
        assert [(await runner.order()).probe.path for _ in range(3)] == ["/mnt/1", "/mnt/2", "/mnt/3"]


async def test_acknowledgements_go_alone_when_many_are_due(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        await greet(runner)
        for counter in range(1, 41):
            runner.say(counter=counter, next_turn=pb.NextTurn(step=1))
        asks = aiter(link.asks())
        with anyio.fail_after(5):
            for _ in range(40):
                await anext(asks)
        for position in (31, 32, 33, 5):  # 31 are not many yet, nor is the one more
            link.acknowledge(position)
        assert (await runner.order()).ack.counter == 32
        await link.send(Finish("completed"))
        assert [(await runner.order()).WhichOneof("message"), (await runner.order()).ack.counter] == ["finish", 33]
        await link.send(Finish("again"))
        await link.send(Finish("and again"))  # nothing new is due
        assert [(await runner.order()).finish.reason for _ in range(2)] == ["again", "and again"]


async def test_progress_may_repeat_and_does_not_move_the_position(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        await greet(runner)
        runner.say(counter=5, next_turn=pb.NextTurn(step=1))
        for _ in range(2):
            runner.say(progress=pb.Progress(call_id="a", delta="x"))
        asks = aiter(link.asks())
        with anyio.fail_after(5):
            assert isinstance(await anext(asks), NextTurn)
            assert [await anext(asks), await anext(asks)] == [Progress("a", 0, "x")] * 2
        assert link.position == 5
