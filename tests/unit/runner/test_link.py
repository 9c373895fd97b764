"""The runner's end of its link, with a daemon that does what each test says, on a plain socket."""

import asyncio
import socket
from pathlib import Path

import pytest
from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import frame
from perstack_runner import link as link_module
from perstack_runner.link import Link, LinkGone
from perstack_runner.messages import Failure, NextTurn, Order, Progress, Ready, Turn, Welcome

from tests.fakes.runner_called import HELLO, TOKEN, WAIT_SECONDS, Daemon, Scene, asks, scene_at

pytestmark = pytest.mark.anyio


# --- connections that are lost --------------------------------------------------------------------------------------
async def turned_away(daemon: Daemon, times: int) -> list[float]:
    """Hang up so often; the seconds from each to the next try."""
    for _ in range(times):
        (await daemon.connection()).close()
    return [later - earlier for earlier, later in zip(daemon.dials, daemon.dials[1:], strict=False)]


async def test_tries_are_each_twice_as_far_apart_until_they_are_far_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(link_module, "LONGEST_DELAY", 0.1)
    monkeypatch.setattr(link_module, "LATER_DELAY", 60.0)  # not yet
    async with scene_at(tmp_path / "r.sock") as scene:
        gaps = await turned_away(scene.daemon, 16)  # unbounded, the last ones would take minutes
    for gap, least in zip(gaps, (0.02, 0.04, 0.08, *[0.1] * 12), strict=True):
        assert gap > least - 0.01


async def test_tries_are_rarer_once_the_daemon_was_away_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(link_module, "LATER_SECONDS", 0.05)
    monkeypatch.setattr(link_module, "LATER_DELAY", 0.16)
    async with scene_at(tmp_path / "r.sock") as scene:
        gaps = await turned_away(scene.daemon, 14)
    assert gaps[0] < gaps[-1]
    assert min(gaps[-2:]) > 0.15


async def test_the_tries_after_a_welcome_are_close_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(link_module, "LONGEST_DELAY", 60.0)
    async with scene_at(tmp_path / "r.sock") as scene:
        await turned_away(scene.daemon, 6)
        (await scene.welcomed()).close()
        await scene.daemon.connection()
    assert scene.daemon.dials[-1] - scene.daemon.dials[-2] < 1.0  # 1.28 s and 2.56 s would be the next


async def test_a_daemon_that_stays_away_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(link_module, "ABSENCE_SECONDS", 0.05)
    link = Link(str(tmp_path / "nobody"), HELLO, list[Order]().append)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(LinkGone, match=r"no session with the daemon any more$"):
        async with asyncio.timeout(WAIT_SECONDS):
            await link.run()
    assert loop.time() - started > 0.05


async def test_a_daemon_is_away_from_the_end_of_its_connection_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await scene.welcomed()
    monkeypatch.setattr(link_module, "ABSENCE_SECONDS", 0.2)
    async with asyncio.timeout(WAIT_SECONDS):  # however long that lasted
        while asyncio.get_running_loop().time() - scene.daemon.dials[0] < 0.25:
            scene.link.offer(Progress("a", 0, "x"))
            await connection.ask()
    connection.close()
    await (await scene.daemon.connection()).welcome()


async def test_a_runner_that_is_rejected_again_and_again_ends_with_the_reason(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "MAX_REJECTIONS", 3)
    for _ in range(3):
        await (await scene.daemon.connection()).reject("another has it")
    with pytest.raises(LinkGone, match="no session with the daemon any more: another has it"):
        await scene.ended()


async def test_rejections_are_forgiven_by_a_welcome(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_REJECTIONS", 3)
    for _ in range(3):
        for _ in range(2):
            await (await scene.daemon.connection()).reject()
        (await scene.welcomed()).close()
    assert not scene.running.done()


async def test_a_daemon_that_does_not_answer_the_hello_is_dialled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(link_module, "WELCOME_SECONDS", 0.1)
    async with scene_at(tmp_path / "r.sock") as scene:
        first = await scene.daemon.connection()
        again = await scene.daemon.connection()
        assert [(await first.ask()).WhichOneof("message"), await first.read()] == ["hello", None]
        monkeypatch.setattr(link_module, "WELCOME_SECONDS", 10.0)
        again.close()
        await scene.welcomed()


async def test_a_daemon_that_hangs_up_within_its_answer_is_dialled_again(scene: Scene) -> None:
    first = await scene.daemon.connection()
    first.write(frame(pb.ToRunner(welcome=pb.Welcome(session_token=TOKEN)))[:7])
    first.close()
    await scene.welcomed()
    assert scene.orders == [Welcome(TOKEN, 0)]


def test_a_daemon_that_takes_no_connections_for_a_while_is_dialled_on(tmp_path: Path) -> None:
    """On asyncio's own loop, as runners are: there such a connection looks made, and its first write fails."""

    async def scene() -> None:
        daemon = Daemon(tmp_path / "r.sock", backlog=0)
        link = Link(str(daemon.path), HELLO, list[Order]().append)
        with socket.socket(socket.AF_UNIX) as other:
            other.setblocking(False)
            other.connect(str(daemon.path))
            running = asyncio.create_task(link.run())
            done, _ = await asyncio.wait((running,), timeout=0.3)  # some tries
            assert not done
        try:
            (await daemon.connection()).close()  # the other one
            await (await daemon.connection()).welcome()
            link.close()
            async with asyncio.timeout(WAIT_SECONDS):
                await running
        finally:
            running.cancel()
            daemon.close()

    asyncio.run(scene())


# --- what is said again ---------------------------------------------------------------------------------------------
async def test_what_was_not_acknowledged_is_said_again_with_the_sessions_token_and_what_was_is_not(
    scene: Scene,
) -> None:
    first = await scene.welcomed()
    for path in ("/1", "/2", "/3"):
        scene.link.send(Ready(path))
    assert await asks(first, 3) == [1, 2, 3]
    first.say(ack=pb.Ack(counter=1))
    first.close()
    second = await scene.daemon.connection()
    assert await second.welcome(acknowledged=2) == TOKEN
    scene.link.send(Ready("/4"))
    assert await asks(second, 2) == [3, 4]
    second.say(ack=pb.Ack(counter=3))
    second.close()
    third = await scene.daemon.connection()
    await third.welcome()
    assert [(await third.ask()).ready.workspace_path] == ["/4"]


async def test_what_is_said_while_the_daemon_is_away_arrives_once_and_in_order(scene: Scene) -> None:
    for path in ("/1", "/2"):
        scene.link.send(Ready(path))
    connection = await scene.welcomed()
    scene.link.send(Ready("/3"))
    scene.link.send(Ready("/4"))
    assert await asks(connection, 4) == [1, 2, 3, 4]
    connection.say(ack=pb.Ack(counter=4))
    connection.close()
    again = await scene.welcomed()
    scene.link.send(Failure("r", "m"))
    assert (await again.ask()).failure.reason == "r"


async def test_a_welcome_without_a_token_leaves_the_token(scene: Scene) -> None:
    (await scene.welcomed()).close()
    second = await scene.daemon.connection()
    assert (await second.ask()).hello.session_token == TOKEN
    second.say(welcome=pb.Welcome())
    second.close()
    assert await (await scene.daemon.connection()).welcome() == TOKEN


async def test_a_question_whose_turn_never_came_is_asked_again_though_it_was_stored(scene: Scene) -> None:
    first = await scene.welcomed()
    scene.link.send(NextTurn(7))
    assert await asks(first, 1) == [1]
    first.say(ack=pb.Ack(counter=1))
    first.close()
    second = await scene.welcomed()
    scene.link.send(Ready("/after"))
    repeated = await second.ask()
    assert (repeated.counter, repeated.next_turn.step) == (1, 7)
    assert await asks(second, 1) == [2]
    second.close()
    third = await scene.welcomed()
    assert await asks(third, 2) == [1, 2]  # the question before what came after it


async def test_a_question_that_was_not_stored_is_asked_again_once(scene: Scene) -> None:
    first = await scene.welcomed()
    scene.link.send(NextTurn(7))
    assert await asks(first, 1) == [1]
    first.close()
    second = await scene.welcomed()
    scene.link.send(Ready("/after"))
    assert await asks(second, 2) == [1, 2]


async def test_a_question_that_has_its_turn_is_not_asked_again(scene: Scene) -> None:
    first = await scene.welcomed()
    scene.link.send(NextTurn(7))
    assert await asks(first, 1) == [1]
    first.say(ack=pb.Ack(counter=1))
    first.say(turn=pb.Turn(step=7))
    assert (await scene.delivered(2))[1] == Turn(7, ())
    first.close()
    second = await scene.welcomed()
    scene.link.send(Ready("/after"))
    assert await asks(second, 1) == [2]


# --- progress -------------------------------------------------------------------------------------------------------
async def test_progress_is_dropped_while_the_daemon_is_away(scene: Scene) -> None:
    scene.link.offer(Progress("a", 0, "early"))
    connection = await scene.welcomed()
    scene.link.offer(Progress("a", 0, "now"))
    assert (await connection.ask()).progress.delta == "now"
    connection.close()
    again = await scene.daemon.connection()
    scene.link.offer(Progress("a", 0, "away"))
    await again.welcome()
    await scene.delivered(2)
    scene.link.offer(Progress("a", 0, "back"))
    assert (await again.ask()).progress.delta == "back"


async def test_progress_is_dropped_when_much_waits_and_what_must_arrive_is_not(scene: Scene) -> None:
    connection = await scene.welcomed()
    await scene.link.flush(WAIT_SECONDS)
    for number in range(200):
        scene.link.offer(Progress("a", number, "x"))
    for number in range(100):
        scene.link.send(Ready(f"/{number}"))
    deltas = [await connection.ask() for _ in range(64)]
    assert [message.progress.offset for message in deltas] == list(range(64))
    assert await asks(connection, 100) == list(range(1, 101))
    await scene.link.flush(WAIT_SECONDS)
    scene.link.offer(Progress("a", 999, "x"))
    assert (await connection.ask()).progress.offset == 999
