"""The adapter against an engine that misbehaves: deadlines, the breaker, the gate, and what a failed start leaves."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from perstackd.adapters.docker.engine import DockerSandboxes, end_of
from perstackd.adapters.docker.ledger import Ledger
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import SandboxRecord, SandboxState, Template
from perstackd.ports.sandboxes import EndCause, SandboxDirectories
from tests.unit.docker.scripted_engine import Answer, ScriptedEngine, serving

pytestmark = pytest.mark.anyio

DIRECTORIES = SandboxDirectories("/host/gw", "/host/slot", "/host/identity")
TEMPLATE = Template("test", "image")
DELETE = "DELETE /containers/"


def record(number: int = 1) -> SandboxRecord:
    sandbox_id = SandboxId(f"{number:026d}")
    return SandboxRecord(sandbox_id, "test", SandboxState.STARTING, 200_001, created_at=0, image_id="sha256:1")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[tuple[ScriptedEngine, DockerSandboxes]]:
    engine = ScriptedEngine()
    with serving(engine, tmp_path / "engine.sock") as settings:
        async with DockerSandboxes(settings) as sandboxes:
            yield engine, sandboxes


Subject = tuple[ScriptedEngine, DockerSandboxes]


async def test_a_start_creates_and_starts_and_removes_nothing(rig: Subject) -> None:
    engine, sandboxes = rig
    assert await sandboxes.start(record(), TEMPLATE, DIRECTORIES) == "c0ffee"
    assert engine.asked == ["GET /version", "POST /containers/create", "POST /containers/c0ffee/start"]


async def test_what_was_created_and_would_not_start_is_removed(rig: Subject) -> None:
    engine, sandboxes = rig
    engine.routes["POST /containers/c0ffee/start"] = lambda: (500, {"message": "OCI runtime create failed: no"})
    with pytest.raises(PerstackError, match="OCI runtime create failed") as caught:
        await sandboxes.start(record(), TEMPLATE, DIRECTORIES)
    assert caught.value.reason == "start_failed"
    assert engine.asked[-1] == "DELETE /containers/c0ffee"


async def test_what_stays_after_a_failed_start_is_told(rig: Subject) -> None:
    engine, sandboxes = rig
    engine.routes["POST /containers/c0ffee/start"] = lambda: (500, {"message": "no"})
    engine.routes[DELETE] = lambda: (500, {"message": "device or resource busy"})
    with pytest.raises(PerstackError, match="could not be removed: device or resource busy"):
        await sandboxes.start(record(), TEMPLATE, DIRECTORIES)


async def test_a_name_that_is_taken_is_left_alone(rig: Subject) -> None:
    engine, sandboxes = rig
    engine.routes["POST /containers/create"] = lambda: (409, {"message": "Conflict. The name is already in use"})
    with pytest.raises(PerstackError) as caught:
        await sandboxes.start(record(), TEMPLATE, DIRECTORIES)
    assert caught.value.reason == "start_failed"
    assert engine.count(DELETE) == 0


async def test_an_image_that_vanished_is_told_with_the_remedy(rig: Subject) -> None:
    engine, sandboxes = rig
    engine.routes["POST /containers/create"] = lambda: (404, {"message": "No such image: sha256:1"})
    with pytest.raises(PerstackError, match="make images") as caught:
        await sandboxes.start(record(), TEMPLATE, DIRECTORIES)
    assert caught.value.reason == "image_missing"


@pytest.mark.parametrize("config", [None, {}, {"Entrypoint": None, "Cmd": ["bash"]}])
async def test_an_image_without_an_entry_point_is_no_sandboxes_image(rig: Subject, config: object) -> None:
    engine, sandboxes = rig
    engine.routes["GET /images/"] = lambda: (200, {"Id": "sha256:1", "Config": config})
    with pytest.raises(PerstackError, match="keep their entry point") as caught:
        await sandboxes.image_id("debian:latest")
    assert caught.value.reason == "image_unfit"


async def test_a_cancelled_start_leaves_no_container(rig: Subject) -> None:
    engine, sandboxes = rig
    go = threading.Event()
    engine.routes["POST /containers/c0ffee/start"] = lambda: (204, None) if go.wait(10) else (500, None)
    starting = asyncio.ensure_future(sandboxes.start(record(), TEMPLATE, DIRECTORIES))
    assert await asyncio.to_thread(engine.wait_for, "POST /containers/c0ffee/start")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    go.set()
    assert await asyncio.to_thread(engine.wait_for, "DELETE /containers/c0ffee")


async def test_no_more_than_three_start_at_once_and_all_get_their_turn(rig: Subject) -> None:
    engine, sandboxes = rig
    together, lock, inside, peak = threading.Barrier(3), threading.Lock(), 0, 0

    def start() -> Answer:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)
        together.wait(10)  # breaks when fewer than three ever run at once
        with lock:
            inside -= 1
        return 204, None

    engine.routes["POST /containers/c0ffee/start"] = start
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(9):
            group.create_task(sandboxes.start(record(number), TEMPLATE, DIRECTORIES))
    assert peak == 3
    assert engine.count("POST /containers/c0ffee/start") == 9


async def test_a_silent_engine_is_told_within_the_deadline(rig: Subject) -> None:
    engine, sandboxes = rig
    done = threading.Event()
    engine.routes["GET /containers/"] = lambda: (200 if done.wait(20) else 500, {})
    try:
        async with asyncio.timeout(5):
            with pytest.raises(PerstackError, match="timed out") as caught:
                await sandboxes.end(record().id)
    finally:
        done.set()
    assert caught.value.reason == "engine_unavailable"


async def test_after_failures_in_a_row_nobody_asks_until_the_pause_is_over(rig: Subject, tmp_path: Path) -> None:
    _, sandboxes = rig
    (tmp_path / "engine.sock").rename(tmp_path / "away.sock")
    for _ in range(3):
        with pytest.raises(PerstackError, match="no such socket"):
            await sandboxes.ours()
    with pytest.raises(PerstackError, match="3 calls in a row failed"):
        await sandboxes.ours()
    (tmp_path / "away.sock").rename(tmp_path / "engine.sock")
    async with asyncio.timeout(10):
        while not await answers(sandboxes):
            await asyncio.sleep(0.01)


async def answers(sandboxes: DockerSandboxes) -> bool:
    try:
        return (await sandboxes.end(record().id)).cause is EndCause.GONE
    except PerstackError:
        return False


async def test_refusals_are_answers_and_never_open_the_breaker(rig: Subject) -> None:
    engine, sandboxes = rig
    engine.routes["GET /containers/"] = lambda: (500, {"message": "broken"})
    for _ in range(6):
        with pytest.raises(PerstackError, match=r"refused to look at container .*: broken") as caught:
            await sandboxes.end(record().id)
        assert caught.value.reason == "engine_refused"


async def test_a_removal_waits_for_the_one_that_is_under_way(rig: Subject) -> None:
    engine, sandboxes = rig
    under_way = (409, {"message": "removal of container is already in progress"})
    replies = iter([under_way, (404, {"message": "No such container"})])
    engine.routes[DELETE] = lambda: next(replies)
    await sandboxes.remove(record().id)
    assert engine.count(DELETE) == 2


async def test_a_removal_that_the_engine_cannot_do_is_told(rig: Subject) -> None:
    engine, sandboxes = rig
    engine.routes[DELETE] = lambda: (500, {"message": "device or resource busy"})
    with pytest.raises(PerstackError, match="docker rm --force perstack-") as caught:
        await sandboxes.remove(record().id)
    assert (caught.value.reason, caught.value.retryable) == ("remove_failed", True)


async def test_after_closing_every_call_is_refused(rig: Subject) -> None:
    _, sandboxes = rig
    await sandboxes.close()
    for call in (sandboxes.ours(), sandboxes.start(record(), TEMPLATE, DIRECTORIES)):
        with pytest.raises(PerstackError, match="daemon is ending"):
            await call


async def test_names_that_are_not_ours_are_not_listed(rig: Subject) -> None:
    engine, sandboxes = rig
    ours = record().id
    names = [[f"/perstack-{ours}"], ["/perstack-of-somebody"], ["/web"]]
    engine.routes["GET /containers/json"] = lambda: (200, [{"Id": "x", "Names": one} for one in names])
    assert await sandboxes.ours() == (ours,)


@pytest.mark.parametrize("content", [None, "{not json"])
async def test_nothing_is_started_without_a_readable_seccomp_profile(tmp_path: Path, content: str | None) -> None:
    engine = ScriptedEngine()
    with serving(engine, tmp_path / "engine.sock") as settings:
        profile = tmp_path / "broken.json"
        if content is not None:
            profile.write_text(content)
        async with DockerSandboxes(replace(settings, seccomp_path=str(profile))) as sandboxes:
            with pytest.raises(PerstackError, match="no sandbox is started without one") as caught:
                await sandboxes.start(record(), TEMPLATE, DIRECTORIES)
    assert caught.value.reason == "seccomp_profile_unreadable"
    assert engine.asked == []


@pytest.mark.parametrize(
    ("state", "cause", "code"),
    [
        ({"Status": "running", "Running": True}, EndCause.RUNNING, 0),
        ({"Status": "running", "Running": True, "OOMKilled": True}, EndCause.RUNNING, 0),
        ({"Status": "exited", "Running": False, "ExitCode": 137, "OOMKilled": True}, EndCause.OOM_KILLED, 137),
        ({"Status": "exited", "Running": False, "ExitCode": 3}, EndCause.EXITED, 3),
        ({"Status": "created", "Running": False, "ExitCode": 0}, EndCause.EXITED, 0),
        ({"Status": "dead", "Running": False, "ExitCode": 1}, EndCause.EXITED, 1),
    ],
)
def test_the_engines_state_becomes_a_cause_of_end(state: dict[str, object], cause: EndCause, code: int) -> None:
    end = end_of(state)
    assert (end.cause, end.exit_code) == (cause, code)


async def test_a_container_is_noted_before_it_is_started(tmp_path: Path) -> None:
    engine, ledger = ScriptedEngine(), Ledger(str(tmp_path), "test")
    container = "c0ffee" * 10 + "0000"
    seen: list[object] = []

    def start() -> Answer:
        seen.append(ledger.noted())
        return 204, None

    engine.routes["POST /containers/create"] = lambda: (201, {"Id": container, "Warnings": []})
    engine.routes[f"POST /containers/{container}/start"] = start
    with serving(engine, tmp_path / "engine.sock") as settings:
        async with DockerSandboxes(replace(settings, ledger=ledger)) as sandboxes:
            await sandboxes.start(record(), TEMPLATE, DIRECTORIES)
    assert seen == [{container: record().id}]


async def test_what_cannot_be_noted_is_not_started(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    with serving(engine, tmp_path / "engine.sock") as settings:
        async with DockerSandboxes(replace(settings, ledger=Ledger(str(tmp_path), "test"))) as sandboxes:
            with pytest.raises(PerstackError, match="cannot be noted before it runs"):
                await sandboxes.start(record(), TEMPLATE, DIRECTORIES)
    assert engine.count("POST /containers/c0ffee/start") == 0
    assert engine.asked[-1] == "DELETE /containers/c0ffee"


async def test_a_container_of_that_name_without_our_label_is_left_alone(rig: Subject) -> None:
    engine, sandboxes = rig
    engine.routes["GET /containers/json"] = lambda: (200, [])  # the engine looks for name and label together
    await sandboxes.remove(record().id)
    assert engine.count(DELETE) == 0


@pytest.mark.parametrize(("answer", "known"), [((200, {"Id": "c0ffee"}), True), ((404, {"message": "no"}), False)])
async def test_the_engine_is_asked_whether_it_knows_a_container_whosever_it_is(
    rig: Subject, answer: Answer, *, known: bool
) -> None:
    engine, sandboxes = rig
    engine.routes["GET /containers/c0ffee"] = lambda: answer
    assert await sandboxes.knows("c0ffee") is known
