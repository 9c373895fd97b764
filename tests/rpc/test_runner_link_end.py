"""How the link into a sandbox ends: programs that die at any moment, and daemons that close at any moment."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import frame

from perstackd.domain.errors import PerstackError
from perstackd.domain.session import Failure, Finish, LinkLost, NextTurn
from perstackd.rpc import runner as runner_module
from perstackd.rpc import runner_stream
from perstackd.rpc.runner import SocketRunnerLink
from perstackd.rpc.runner_stream import LinkLimits
from tests.fakes.runner_dialled import (
    Program,
    dialled,
    first_ask,
    greet,
    heard,
    hello,
    linked,
    nothing_unhandled,
    program,
    ticks,
)

pytestmark = pytest.mark.anyio
TOKEN_HASH = hashlib.sha256(b"token").hexdigest()
FAILURE = pb.Failure(reason="r", message="m")


@pytest.fixture(autouse=True)
async def handled(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    async with nothing_unhandled():
        yield
    assert not [record for record in caplog.records if record.name == "asyncio"]


@asynccontextmanager
async def talking(path: Path, limits: LinkLimits | None = None) -> AsyncIterator[tuple[SocketRunnerLink, Program]]:
    async with linked(path, limits) as link:
        with program(path) as runner:
            runner.say(hello())
            await link.hello(5)
            yield link, runner


def turns(count: int) -> bytes:
    return b"".join(frame(pb.FromRunner(counter=at, next_turn=pb.NextTurn(step=at))) for at in range(1, count + 1))


def chunks(count: int, first: int = 1) -> bytes:
    part = pb.BlobChunk(digest="sha256:" + "0" * 64, data=b"x" * 8000)
    return b"".join(frame(pb.FromRunner(counter=at, blob_chunk=part)) for at in range(first, first + count))


# --- a program dies -------------------------------------------------------------------------------------------------
async def test_what_a_program_said_before_it_died_is_heard_also_when_the_daemon_writes_before_it_reads(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path / "r.sock") as (link, runner):
        await ticks(3)
        runner.say(counter=1, next_turn=pb.NextTurn(step=1))
        runner.say(counter=2, failure=FAILURE)
        runner.die()
        await link.send(Finish("x"))
        assert [type(ask) for ask in await heard(link)] == [NextTurn, Failure, LinkLost]


@pytest.mark.parametrize("said", [turns(100), chunks(80), chunks(190)], ids=["many", "large", "over what is held"])
@pytest.mark.parametrize("writes", [False, True], ids=["and no order", "then an order"])
async def test_what_a_program_said_before_it_died_is_heard_however_much_waits(
    tmp_path: Path, said: bytes, writes: bool
) -> None:
    count = said.count(b"sha256:") or 100
    async with talking(tmp_path / "r.sock") as (link, runner):
        data = said + frame(pb.FromRunner(counter=count + 1, failure=FAILURE))
        assert await runner.push(data) == len(data)
        runner.die()
        if writes:
            await link.send(Finish("x"))
        asks = await heard(link)
        assert len(asks) == count + 2
        assert [type(ask) for ask in asks[-2:]] == [Failure, LinkLost]


async def test_what_a_program_said_until_nothing_more_was_taken_is_heard_after_its_death(tmp_path: Path) -> None:
    async with talking(tmp_path / "r.sock") as (link, runner):
        size = len(chunks(1, first=1000))
        whole = await runner.push(chunks(1000, first=1000), patience=0.3) // size
        assert 100 < whole < 1000
        runner.die()
        await link.send(Finish("x"))
        asks = await heard(link)
        assert (len(asks), type(asks[-1])) == (whole + 1, LinkLost)


async def test_what_a_program_said_before_it_died_with_orders_unread_is_heard(tmp_path: Path) -> None:
    """The kernel resets such a connection."""
    async with talking(tmp_path / "r.sock") as (link, runner):
        for _ in range(3):
            await link.send(Finish("unread"))
        await ticks(5)
        runner.say(counter=1, next_turn=pb.NextTurn(step=1))
        runner.say(counter=2, failure=FAILURE)
        runner.die()
        assert [type(ask) for ask in await heard(link)] == [NextTurn, Failure, LinkLost]


@pytest.mark.parametrize("unread", [False, True], ids=["ended", "reset"])
@pytest.mark.parametrize(
    ("said", "limits"),
    [(0, None), (100, None), (40, LinkLimits(messages_per_second=100, messages_burst=5))],
    ids=["silent", "nobody listens", "throttled"],
)
async def test_who_sends_to_a_program_that_died_is_told_of_the_loss_and_of_nothing_else(
    tmp_path: Path, said: int, limits: LinkLimits | None, unread: bool
) -> None:
    async with talking(tmp_path / "r.sock", limits) as (link, runner):
        if unread:
            await link.send(Finish("unread"))
            await ticks(5)
        await runner.push(turns(said))
        await ticks(5)
        runner.die()
        for _ in range(50):
            with suppress(PerstackError):
                await link.send(Finish("x"))
            link.acknowledge(said)
            await ticks(1)
        asks = await heard(link)
        assert (len(asks), type(asks[-1])) == (said + 1, LinkLost)
        link.acknowledge(link.position)
        with pytest.raises(PerstackError) as caught:
            await link.send(Finish("late"))
        assert caught.value.reason == "link_lost"


# --- a link that is lost --------------------------------------------------------------------------------------------
async def flooded_with_orders(link: SocketRunnerLink) -> None:
    with pytest.raises(PerstackError, match="does not read"):  # noqa: PT012 - some are kept
        for _ in range(1000):
            await link.send(Finish("never"))


@pytest.mark.parametrize("token_hash", ["", TOKEN_HASH], ids=["first", "resumed"])
@pytest.mark.parametrize("count", range(7))
async def test_a_lost_link_welcomes_nobody(tmp_path: Path, token_hash: str, count: int) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket, token_hash=token_hash) as link:
        with program(socket) as runner:
            await ticks(count)
            await flooded_with_orders(link)
            with suppress(ConnectionError):
                runner.say(hello(token="token"))
            assert "welcome" not in [order.WhichOneof("message") for order in await runner.orders()]
        with pytest.raises(PerstackError, match="does not read"):
            await link.hello(5)
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            Program(socket)
        await link.close()  # is not what it was lost by
        with pytest.raises(PerstackError, match="is gone: it does not read its orders"):
            await link.send(Finish("late"))


async def test_a_session_that_was_tried_too_often_is_nobodys_also_not_of_who_dialled_before(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket, token_hash=TOKEN_HASH) as link:
        with program(socket) as early:
            for _ in range(8):
                with suppress(OSError), program(socket) as stranger:
                    stranger.say(hello(token="wrong"))
                    await stranger.orders()
            assert await first_ask(link) == LinkLost("its socket was dialled too often without the session's token")
            early.say(hello(token="token"))
            assert [order.WhichOneof("message") for order in await early.orders()] == ["rejected"]


async def test_a_lost_link_has_ended_its_connection(tmp_path: Path) -> None:
    """Before anybody closes it."""
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        await greet(runner)
        runner.say(counter=1)
        assert await runner.read() is None
        assert isinstance(await first_ask(link), LinkLost)


async def test_a_fault_of_the_daemons_own_is_a_loss_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(token: str) -> str:
        raise ZeroDivisionError(token)

    monkeypatch.setattr(runner_module, "_hashed", broken)
    socket = tmp_path / "r.sock"
    async with linked(socket, token_hash=TOKEN_HASH) as link, dialled(socket) as runner:
        runner.say(hello(token="token"))
        assert await runner.read() is None
        assert await first_ask(link) == LinkLost("the daemon failed at it: ZeroDivisionError")


async def test_the_loss_is_heard_when_asks_fill_the_queue(tmp_path: Path) -> None:
    async with talking(tmp_path / "r.sock") as (link, runner):
        await runner.push(turns(200))
        await ticks(10)
        await link.close()
        assert (await heard(link))[-1] == LinkLost("closed")


# --- a daemon closes ------------------------------------------------------------------------------------------------
def nothing(_: Program) -> None:
    """Only dialled."""


def says_hello(runner: Program) -> None:
    runner.say(hello(token="token"))


@pytest.mark.parametrize("token_hash", ["", TOKEN_HASH], ids=["first", "resumed"])
@pytest.mark.parametrize("first", [nothing, says_hello])
@pytest.mark.parametrize("count", range(10))
async def test_a_connection_that_comes_while_the_link_closes_leaves_nothing(
    tmp_path: Path, token_hash: str, first: Callable[[Program], None], count: int
) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket, token_hash=token_hash) as link:
        before = asyncio.all_tasks()
        with program(socket) as runner:
            first(runner)
            await ticks(count)
            await link.close()
            assert asyncio.all_tasks() <= before
            await ticks(10)
            assert asyncio.all_tasks() <= before
            if first is nothing:
                with suppress(ConnectionError):
                    runner.say(hello(token="token"))
            kinds = [order.WhichOneof("message") for order in await runner.orders()]
            assert first is says_hello or "welcome" not in kinds
        assert not socket.exists()


async def test_a_connection_that_waits_for_its_hello_ends_with_the_link(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link:
        with program(socket) as silent:
            await ticks(20)
            await link.close()
            assert silent.left() == []


async def test_close_ends_a_connection_whose_orders_nobody_reads(tmp_path: Path) -> None:
    async with talking(tmp_path / "r.sock") as (link, runner):
        for _ in range(4):
            await link.send(Finish("x" * (1 << 20)))
        await link.close()
        assert len(runner.left()) < 4  # what the kernel had, and the end


async def test_what_was_ordered_before_close_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (runner_module, runner_stream):
        monkeypatch.setattr(module, "STOP_SECONDS", 30.0)
    async with talking(tmp_path / "r.sock") as (link, runner), asyncio.TaskGroup() as group:
        for _ in range(6):  # more than the kernel holds
            await link.send(Finish("x" * 100_000))
        reading = group.create_task(runner.orders())
        with anyio.fail_after(10):  # who reads need not wait
            await link.close()
        assert [order.WhichOneof("message") for order in await reading] == ["welcome", *["finish"] * 6]
