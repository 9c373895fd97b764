"""The end of the runner's link: what was said is said, and what the daemon does badly ends a connection only."""

import asyncio
import errno
import struct

import pytest
from perstack.v1 import runner_pb2 as pb
from perstack_runner import link as link_module
from perstack_runner.link import Link
from perstack_runner.messages import Failure, Finish, Order, Probe, Ready

from tests.fakes.runner_called import HELLO, WAIT_SECONDS, Scene, asks, counters

pytestmark = pytest.mark.anyio


async def test_what_was_flushed_is_in_the_kernel(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody reads: the kernel takes some, and what it does not take is not said to be sent."""
    connection = await scene.welcomed()
    flushed = 0
    while flushed < 1000:
        scene.link.send(Failure("r", "x" * 10_000))
        await scene.link.flush(0.5)
        if "could not be sent in time" in capsys.readouterr().err:
            break
        flushed += 1
    assert 0 < flushed < 1000
    assert len(connection.in_kernel()) == flushed
    await scene.link.flush(WAIT_SECONDS)
    assert counters(connection.in_kernel()) == [flushed + 1]
    assert capsys.readouterr().err == ""


async def test_flush_waits_for_what_was_queued_last(scene: Scene) -> None:
    connection = await scene.welcomed()
    for path in ("/1", "/2", "/3"):
        scene.link.send(Ready(path))
        await scene.link.flush(WAIT_SECONDS)
        assert len(connection.in_kernel()) == 1


async def test_what_is_said_while_the_daemon_is_away_is_not_flushed_before_it_is_back(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = await scene.welcomed()
    scene.link.send(Ready("/1"))
    await scene.link.flush(WAIT_SECONDS)
    connection.close()
    again = await scene.daemon.connection()
    scene.link.send(Failure("r", "m"))
    await scene.link.flush(0.05)
    assert "could not be sent in time" in capsys.readouterr().err
    async with asyncio.TaskGroup() as tasks:
        flushing = tasks.create_task(scene.link.flush(WAIT_SECONDS))
        await asyncio.sleep(0)
        assert not flushing.done()
        await again.welcome()
        assert await asks(again, 2) == [1, 2]
    assert capsys.readouterr().err == ""


async def test_close_says_what_is_queued_and_ends(scene: Scene) -> None:
    connection = await scene.welcomed()
    for path in ("/1", "/2", "/3"):
        scene.link.send(Ready(path))
    scene.link.close()
    scene.link.close()
    assert await asks(connection, 3) == [1, 2, 3]
    assert await connection.read() is None
    await scene.ended()


async def test_close_ends_what_is_idle_and_what_is_away(scene: Scene) -> None:
    connection = await scene.welcomed()
    await scene.link.flush(WAIT_SECONDS)
    scene.link.close()
    assert await connection.read() is None
    await scene.ended()
    link = Link(str(scene.daemon.path) + ".none", HELLO, list[Order]().append)
    running = asyncio.create_task(link.run())
    await asyncio.sleep(0)
    link.close()
    async with asyncio.timeout(WAIT_SECONDS):
        await running


# --- orders ---------------------------------------------------------------------------------------------------------
async def test_an_order_over_the_limit_ends_the_connection_and_the_runner_dials_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "x" * 100
    size = len(pb.ToRunner(finish=pb.Finish(reason=reason)).SerializeToString())
    monkeypatch.setattr(link_module, "MAX_ORDER_BYTES", size)
    connection = await scene.welcomed()
    connection.say(finish=pb.Finish(reason=reason))
    assert (await scene.delivered(2))[1] == Finish(reason)
    connection.write(struct.pack(">I", size + 1))
    assert await connection.read() is None
    assert f"the daemon is left: a message of {size + 1} bytes; {size} are taken" in capsys.readouterr().err
    await scene.welcomed()


async def test_a_large_order_arrives_whole(scene: Scene) -> None:
    connection = await scene.welcomed()
    connection.say(finish=pb.Finish(reason="x" * 100_000))
    assert (await scene.delivered(2))[1] == Finish("x" * 100_000)


async def test_an_order_of_an_unknown_kind_is_left_out_and_the_connection_goes_on(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = await scene.daemon.connection()
    connection.say()
    await connection.welcome()
    connection.say()
    connection.say(probe=pb.Probe(path="/mnt/x"))
    assert (await scene.delivered(2))[1:] == [Probe("/mnt/x")]
    assert capsys.readouterr().err.count("was left out") == 2
    assert len(scene.daemon.dials) == 1


async def test_a_connection_that_fails_at_a_write_is_made_again(scene: Scene) -> None:
    (await scene.welcomed()).close()
    for number in range(20):
        scene.link.send(Ready(f"/{number}"))
        await asyncio.sleep(0)
    assert await asks(await scene.welcomed(), 20) == list(range(1, 21))
    assert not scene.running.done()


async def test_a_connection_that_the_kernel_has_no_memory_for_is_made_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await scene.welcomed()
    await scene.link.flush(WAIT_SECONDS)

    async def fails(_: asyncio.StreamWriter) -> None:
        raise OSError(errno.ENOBUFS, "no buffer space")

    monkeypatch.setattr(asyncio.StreamWriter, "drain", fails)
    scene.link.send(Ready("/1"))
    assert [(await connection.ask()).counter, await connection.read()] == [1, None]
    monkeypatch.undo()
    again = await scene.daemon.connection()
    await again.welcome()
    assert await asks(again, 1) == [1]
