"""What one sandbox may cost the daemon: how much is held for it in either direction, and how fast it may talk."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import LENGTH, frame

from perstackd.adapters.clock import SystemClock
from perstackd.domain.errors import PerstackError
from perstackd.domain.session import BlobChunk, Finish, LinkLost, Progress
from perstackd.rpc import runner_stream
from perstackd.rpc.runner import SocketRunnerLinks
from perstackd.rpc.runner_stream import READ_BYTES, FloodedError, LinkLimits, RunnerStream, Throttle
from tests.fakes.clock import FakeClock
from tests.fakes.runner_dialled import (
    ID,
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
MOST = 1000


@pytest.fixture(autouse=True)
async def handled() -> AsyncIterator[None]:
    async with nothing_unhandled():
        yield


def sized(size: int) -> bytes:
    """Progress of so many bytes, in its frame."""
    spare = size - len(pb.FromRunner(progress=pb.Progress(call_id="a", delta="x" * size)).SerializeToString())
    made = frame(pb.FromRunner(progress=pb.Progress(call_id="a", delta="x" * (size + spare))))
    assert len(made) == LENGTH.size + size
    return made


# --- asks that nobody takes -----------------------------------------------------------------------------------------
async def test_what_is_not_taken_stays_with_the_sender(tmp_path: Path) -> None:
    """Nobody reads the asks: past what waits for a reader, the sandbox's own socket is full."""
    socket = tmp_path / "r.sock"
    async with linked(socket) as link:
        with program(socket) as runner:
            runner.say(hello())
            await link.hello(5)
            data = sized(32_000) * 300
            taken = await runner.push(data, patience=0.5)
            assert 64 * 32_000 < taken < (64 + 2) * 32_004 + (1 << 20) + (1 << 20)


async def test_large_asks_that_nobody_takes_are_bounded_by_their_bytes_and_all_arrive_once_they_are_read(
    tmp_path: Path,
) -> None:
    socket, count = tmp_path / "r.sock", 60
    part = pb.BlobChunk(digest="sha256:" + "0" * 64, data=b"x" * (256 << 10))
    data = b"".join(frame(pb.FromRunner(counter=at, blob_chunk=part)) for at in range(1, count + 1))
    async with linked(socket) as link:
        with program(socket) as runner:
            runner.say(hello())
            await link.hello(5)
            taken = await runner.push(data, patience=0.5)
            assert (4 << 20) < taken < (7 << 20)
            async with asyncio.TaskGroup() as group:
                rest = group.create_task(runner.push(data[taken:]))
                asks = aiter(link.asks())
                with anyio.fail_after(20):
                    came = [await anext(asks)]
                    await ticks(50)  # all that one makes room for
                    came += [await anext(asks) for _ in range(count - 1)]
            assert await rest == len(data) - taken
            assert {type(ask) for ask in came} == {BlobChunk}
            assert link.position == count


# --- orders that nobody reads ---------------------------------------------------------------------------------------
async def test_orders_for_a_sandbox_that_never_dials_are_bounded(tmp_path: Path) -> None:
    async with linked(tmp_path / "r.sock") as link:
        for _ in range(256):  # nobody has dialled
            await link.send(Finish("never"))
        with pytest.raises(PerstackError, match="does not read"):
            await link.send(Finish("never"))
        assert isinstance(await first_ask(link), LinkLost)


async def test_a_sandbox_that_does_not_read_its_orders_loses_its_link(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        await greet(runner)
        runner.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(PerstackError, match="does not read"):  # noqa: PT012 - some are kept
            for _ in range(100):
                await link.send(Finish("x" * (1 << 20)))
        assert await first_ask(link) == LinkLost("it does not read its orders")
        with anyio.fail_after(2):
            await link.close()


async def test_an_acknowledgement_that_cannot_go_is_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket) as link, dialled(socket) as runner:
        await greet(runner)
        for counter in range(1, 33):
            runner.say(counter=counter, next_turn=pb.NextTurn(step=1))
        asks = aiter(link.asks())
        with anyio.fail_after(5):
            for _ in range(32):
                await anext(asks)
            monkeypatch.setattr(runner_stream, "UNREAD_BYTES", 0)
            link.acknowledge(32)
            assert await anext(asks) == LinkLost("it does not read its orders")
        assert await runner.read() is None  # at once, not when somebody closes the link


async def test_a_socket_path_that_cannot_work_is_refused() -> None:
    with pytest.raises(PerstackError, match="shorter runtime_directory"):
        await SocketRunnerLinks(SystemClock()).listen(ID, "/tmp/" + "x" * 120)


async def test_a_socket_that_cannot_be_made_is_told_and_closed(tmp_path: Path) -> None:
    with pytest.raises(PerstackError, match="could not be made") as caught:
        await SocketRunnerLinks(SystemClock()).listen(ID, str(tmp_path / "none/r.sock"))
    assert caught.value.reason == "socket_failed"


# --- the size of a message ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", [False, True], ids=["known", "resumed"])
async def test_a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(tmp_path: Path, first: bool) -> None:
    socket = tmp_path / "r.sock"
    token_hash = hashlib.sha256(b"t").hexdigest() if first else ""
    async with linked(socket, LinkLimits(message_bytes=MOST), token_hash) as link, dialled(socket) as runner:
        runner.say(hello(token="t"))
        runner.writer.write(sized(MOST) + sized(MOST + 1))
        taken, lost = await heard(link)
        assert isinstance(taken, Progress)
        assert lost == LinkLost(f"malformed: a message of {MOST + 1} bytes; {MOST} are taken")


class Wire(asyncio.Transport):
    """A connection whose bytes the test hands over itself."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.closing = False

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        assert not self.closing
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        raise AssertionError(name)


def wired() -> tuple[Wire, RunnerStream]:
    wire, accepted = Wire(), list[RunnerStream]()
    stream = RunnerStream(MOST, accepted.append)
    stream.connection_made(wire)
    assert accepted == [stream]
    return wire, stream


async def taken_from(stream: RunnerStream) -> int:
    with anyio.fail_after(5):
        came = await stream.read()
    assert came is not None
    return came[1]


async def test_reading_stops_past_a_message_and_what_is_read_ahead_and_goes_on_once_that_is_taken() -> None:
    wire, stream = wired()
    whole = sized(MOST)
    count = (MOST + READ_BYTES) // len(whole)
    stream.data_received(whole * count)
    stream.data_received(whole[: MOST + READ_BYTES - count * len(whole)])
    assert wire.reading  # all that may be held
    stream.data_received(whole[MOST + READ_BYTES - count * len(whole) :])
    assert not wire.reading
    stream.data_received(whole)  # what came in the same turn of the loop
    for _ in range(count):
        assert not wire.reading
        assert await taken_from(stream) == MOST
    assert not wire.reading
    assert await taken_from(stream) == MOST
    assert wire.reading


async def test_a_large_message_that_is_there_in_part_behind_many_small_ones_is_waited_for_with_the_reading_on() -> None:
    wire, stream = wired()
    small, large = sized(20), sized(MOST)
    count = READ_BYTES // len(small) + 1
    stream.data_received(small * count + large[:-1])
    assert not wire.reading
    for _ in range(count):
        await taken_from(stream)
    assert wire.reading
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(taken_from(stream))
        await ticks(3)
        stream.data_received(large[-1:])
        assert await waiting == MOST


async def test_a_connection_that_is_closing_is_not_read_on() -> None:
    wire, stream = wired()
    whole = sized(MOST)
    count = (MOST + READ_BYTES) // len(whole) + 1
    stream.data_received(whole * count)
    assert not wire.reading
    wire.closing = True
    stream.connection_lost(None)
    for _ in range(count):
        assert await taken_from(stream) == MOST
    assert await stream.read() is None
    assert not wire.reading


# --- how fast -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "limits",
    [
        LinkLimits(messages_per_second=10, messages_burst=1, throttled_seconds=0.05),
        LinkLimits(bytes_per_second=10_000, bytes_burst=1000, throttled_seconds=0.05),
    ],
    ids=["messages", "bytes"],
)
async def test_a_flood_is_read_slowly_and_ends_the_link_when_it_goes_on(tmp_path: Path, limits: LinkLimits) -> None:
    socket = tmp_path / "r.sock"
    async with linked(socket, limits) as link, dialled(socket) as runner:
        await greet(runner)
        runner.writer.write(sized(MOST) * 100)
        *before, last = await heard(link)
        assert last == LinkLost("the sandbox sent more than it may for 0.05 s")
        assert 0 < len(before) < 50


async def test_repeats_that_are_left_out_count_too(tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    limits = LinkLimits(messages_per_second=10, messages_burst=1, throttled_seconds=0.05)
    async with linked(socket, limits) as link, dialled(socket) as runner:
        await greet(runner)
        for _ in range(100):
            runner.say(counter=1, next_turn=pb.NextTurn(step=1))
        _, last = await heard(link)
        assert last == LinkLost("the sandbox sent more than it may for 0.05 s")


async def test_only_pressure_without_a_pause_ends_a_link() -> None:
    clock = FakeClock()
    throttle = Throttle(LinkLimits(messages_per_second=1000, messages_burst=1, throttled_seconds=10), clock)
    for _ in range(5):
        await throttle.admit(1)
        await throttle.admit(1)  # has to wait
        clock.advance(6)
    for _ in range(20):  # more than six seconds let flow in
        await throttle.admit(1)


async def test_a_flood_goes_on_though_the_reader_sleeps_a_little_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    throttle = Throttle(LinkLimits(messages_per_second=1000, messages_burst=100, throttled_seconds=0.2), clock)

    async def oversleep(seconds: float) -> None:
        clock.advance(seconds + 0.001_5)  # for which one message more is let through at once

    monkeypatch.setattr(runner_stream.asyncio, "sleep", oversleep)  # type: ignore[attr-defined]
    with pytest.raises(FloodedError):  # noqa: PT012 - as fast as it is let
        for _ in range(1000):
            await throttle.admit(1)


@pytest.mark.parametrize(
    "limits",
    [
        LinkLimits(messages_per_second=10, messages_burst=1, throttled_seconds=5),
        LinkLimits(bytes_per_second=1000, bytes_burst=100, throttled_seconds=5),
    ],
    ids=["messages", "bytes"],
)
async def test_who_talks_too_fast_waits_and_is_given_up_after_its_time(limits: LinkLimits) -> None:
    clock, loop = FakeClock(), asyncio.get_running_loop()
    throttle = Throttle(limits, clock)
    started = loop.time()
    await throttle.admit(100)
    assert loop.time() - started < 0.09
    await throttle.admit(100)
    assert loop.time() - started > 0.09
    pressed = Throttle(LinkLimits(1, 1e-3, 1e-3, 1e6, 1e6, 5), clock)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pressed.admit(1)
    clock.advance(5)
    with pytest.raises(TimeoutError):  # still within its time
        async with asyncio.timeout(0.01):
            await pressed.admit(1)
    clock.advance(0.1)
    with pytest.raises(FloodedError, match="for 5 s"):
        await pressed.admit(1)
