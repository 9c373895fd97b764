"""The link into a sandbox, over a real socket, with hostile and honest runners."""

import asyncio
import gc
import hashlib
import socket as socket_module
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from perstack.v1 import runner_pb2 as pb
from perstack.v1 import runner_pb2_grpc

from perstackd.adapters.clock import SystemClock
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.session import Finish, Hello, LinkLost, NextTurn, Probe, ProbeResult
from perstackd.rpc.runner import GrpcRunnerLink, GrpcRunnerLinks, LinkLimits
from perstackd.version import RUNNER_PROTOCOL

pytestmark = pytest.mark.anyio
ID = SandboxId("01HZZZZZZZZZZZZZZZZZZZZZZZ")


@pytest.fixture(autouse=True)
def freed() -> Iterator[None]:
    """A gRPC server takes a lock when it is freed, which must not happen on the next test's loop."""
    yield
    gc.collect()


@asynccontextmanager
async def linked(path: Path, limits: LinkLimits | None = None, token_hash: str = "") -> AsyncIterator[GrpcRunnerLink]:
    link = await GrpcRunnerLinks(SystemClock(), limits).listen(ID, str(path), token_hash)
    try:
        yield link
    finally:
        await link.close()


@asynccontextmanager
async def dialled(path: Path) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = runner_pb2_grpc.RunnerServiceStub(channel).Attach()
        try:
            yield call
        finally:
            call.cancel()


def hello(version: int = 1, token: str = "") -> pb.FromRunner:
    said = pb.Hello(protocol_version=version, runner_version="t", landlock_abi=1, session_token=token)
    return pb.FromRunner(hello=said)


def schema(document: bytes) -> pb.FromRunner:
    tool = pb.ToolSpec(name="t", input_schema=document)
    state = pb.SkillState.STATE_CONNECTED
    return pb.FromRunner(counter=1, skill_state=pb.SkillState(skill="s", state=state, tools=[tool]))


async def greet(call: Any) -> pb.ToRunner:
    await call.write(hello())
    with anyio.fail_after(5):
        return await call.read()  # type: ignore[no-any-return]


async def first_ask(link: GrpcRunnerLink) -> Any:
    with anyio.fail_after(5):
        return await anext(aiter(link.asks()))


async def test_the_first_stream_is_welcomed_and_the_socket_is_gone(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as call:
        welcome = await greet(call)
        assert len(welcome.welcome.session_token) == 32
        assert isinstance(await link.hello(5), Hello)
        assert not socket.exists()


async def test_a_second_stream_of_the_same_connection_is_refused(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket), grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        stub = runner_pb2_grpc.RunnerServiceStub(channel)
        first: Any = stub.Attach()
        await greet(first)
        second: Any = stub.Attach()
        await second.write(hello())
        with anyio.fail_after(5):
            assert await second.code() == grpc.StatusCode.PERMISSION_DENIED
        await first.write(pb.FromRunner(counter=1, next_turn=pb.NextTurn(step=1)))


async def test_a_session_goes_on_over_a_socket_that_is_made_again_and_unlinked_again(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    left = socket_module.socket(socket_module.AF_UNIX)
    left.bind(str(socket))  # what a daemon that was killed before its runner came leaves
    left.close()
    token_hash = hashlib.sha256(b"token").hexdigest()
    async with linked(socket, token_hash=token_hash) as link:
        async with dialled(socket) as stranger:
            await stranger.write(hello(token="wrong"))
            with anyio.fail_after(5):
                assert await stranger.code() == grpc.StatusCode.PERMISSION_DENIED
        assert socket.exists()
        async with dialled(socket) as call:
            await call.write(hello(token="token"))
            with anyio.fail_after(5):
                welcome = (await call.read()).welcome
            assert welcome.session_token == "token"
            assert isinstance(await link.hello(5), Hello)
            assert not socket.exists()


async def test_a_runs_session_goes_on_and_says_again_what_was_not_stored_also_with_a_runner_one_version_older(
    tmp_path: Path,
) -> None:
    socket = tmp_path / "r.sock"
    server = await GrpcRunnerLinks(SystemClock()).listen(
        ID, str(socket), hashlib.sha256(b"token").hexdigest(), repeats=True
    )
    try:
        async with dialled(socket) as call:
            await call.write(hello(version=RUNNER_PROTOCOL - 1, token="token"))
            with anyio.fail_after(5):
                welcome = (await call.read()).welcome
            assert (welcome.session_token, welcome.acknowledged) == ("token", 0)
            assert (await server.hello(5)).protocol_version == RUNNER_PROTOCOL - 1
            await call.write(pb.FromRunner(counter=7, next_turn=pb.NextTurn(step=3)))
            assert await first_ask(server) == NextTurn(3)
            assert server.position == 7
    finally:
        await server.close()


async def test_what_an_idle_runner_said_to_the_daemon_before_is_forgotten_and_new_answers_are_heard(
    tmp_path: Path,
) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket, token_hash=hashlib.sha256(b"token").hexdigest()) as link, dialled(socket) as call:
        await call.write(hello(token="token"))
        welcome = (await call.read()).welcome
        assert welcome.acknowledged > 1_000_000  # whatever it kept
        await call.write(pb.FromRunner(counter=3, probe_result=pb.ProbeResult(content=b"new", found=True)))
        assert await first_ask(link) == ProbeResult(b"new")


async def test_streams_that_say_nothing_do_not_keep_the_runner_out(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    token_hash = hashlib.sha256(b"token").hexdigest()
    async with linked(socket, token_hash=token_hash) as link, dialled(socket) as silent, dialled(socket) as call:
        await silent.wait_for_connection()
        await call.write(hello(token="token"))
        with anyio.fail_after(5):
            assert (await call.read()).welcome.session_token == "token"
            assert isinstance(await link.hello(5), Hello)
            with suppress(asyncio.InvalidStateError):  # it may be refused already
                await silent.write(hello(token="token"))
            assert await silent.code() == grpc.StatusCode.PERMISSION_DENIED
        await link.send(Probe("/mnt/x"))
        assert (await call.read()).probe.path == "/mnt/x"


async def test_orders_go_in_and_asks_come_out_without_repeats(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as call:
        await greet(call)
        await link.send(Probe("/mnt/x"))
        assert (await call.read()).probe.path == "/mnt/x"
        answer = pb.FromRunner(counter=1, probe_result=pb.ProbeResult(content=b"token", found=True))
        for message in (answer, answer, pb.FromRunner(counter=2, next_turn=pb.NextTurn(step=1))):
            await call.write(message)
        asks = aiter(link.asks())
        with anyio.fail_after(5):
            assert [await anext(asks), await anext(asks)] == [ProbeResult(b"token"), NextTurn(1)]
        link.acknowledge(link.position)
        await link.send(Finish("completed"))
        assert (await call.read()).finish.reason == "completed"
        assert (await call.read()).ack.counter == 2


async def test_only_what_was_acknowledged_is_acknowledged_however_much_was_read(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as call:
        await greet(call)
        for counter in (1, 2, 3):
            await call.write(pb.FromRunner(counter=counter, next_turn=pb.NextTurn(step=counter)))
        asks = aiter(link.asks())
        with anyio.fail_after(5):
            await anext(asks)
            first = link.position
            await anext(asks)
            await anext(asks)
        link.acknowledge(first)
        await link.send(Finish("completed"))
        assert (await call.read()).finish.reason == "completed"
        assert (await call.read()).ack.counter == 1
        link.acknowledge(10**9)  # never more than was read
        await link.send(Finish("completed"))
        assert [(await call.read()).WhichOneof("message"), (await call.read()).ack.counter] == ["finish", 3]


async def test_the_end_of_the_stream_is_the_last_ask(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link:
        async with dialled(socket) as call:
            await greet(call)
        assert isinstance(await first_ask(link), LinkLost)
        with pytest.raises(PerstackError, match="is gone"):
            await link.send(Finish("late"))


async def test_a_runner_of_another_protocol_is_refused_with_the_remedy(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as call:
        await call.write(hello(version=9))
        with pytest.raises(PerstackError, match="make images") as caught:
            await link.hello(5)
        assert caught.value.reason == "runner_protocol"


async def test_a_silent_sandbox_is_told_after_the_deadline(tmp_path: Path) -> None:
    async with linked(tmp_path / "r.sock") as link:
        with pytest.raises(PerstackError, match="did not call"):
            await link.hello(0.05)


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
    async with linked(socket) as link, dialled(socket) as call:
        await greet(call)
        await call.write(message)
        ask = await first_ask(link)
        assert isinstance(ask, LinkLost)
        assert ask.detail.startswith("malformed")


async def test_a_message_over_the_size_limit_ends_the_link(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as call:
        await greet(call)
        await call.write(pb.FromRunner(counter=1, progress=pb.Progress(call_id="a", delta="x" * (2 << 20))))
        assert isinstance(await first_ask(link), LinkLost)


async def test_a_flood_is_read_slowly_and_ends_the_link_when_it_goes_on(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    slow = LinkLimits(messages_per_second=1000, messages_burst=1, throttled_seconds=0.05)
    async with linked(socket, slow) as link, dialled(socket) as call:
        await greet(call)

        async def flood() -> None:
            for number in range(1, 1000):
                try:
                    await call.write(pb.FromRunner(counter=number, next_turn=pb.NextTurn(step=1)))
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            with anyio.fail_after(10):
                last = [ask async for ask in link.asks()][-1]
            tasks.cancel_scope.cancel()
        assert isinstance(last, LinkLost)
        assert "more than it may" in last.detail


async def test_a_socket_path_that_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PerstackError, match="shorter runtime_directory"):
        await GrpcRunnerLinks(SystemClock()).listen(ID, "/tmp/" + "x" * 120)


async def test_a_sandbox_that_does_not_read_its_orders_loses_its_link(tmp_path: Path) -> None:
    async with linked(tmp_path / "r.sock") as link:
        with pytest.raises(PerstackError, match="does not read"):  # noqa: PT012 - the queue takes some
            for _ in range(1000):  # nobody has dialled
                await link.send(Finish("never"))
        assert isinstance(await first_ask(link), LinkLost)
