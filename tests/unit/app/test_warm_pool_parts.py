import asyncio
from pathlib import Path

import pytest

from perstackd.app.warm_pool.crew import Crew
from perstackd.app.warm_pool.files import SandboxFiles
from perstackd.app.warm_pool.postures import KEPT_AT_MOST, Postures
from perstackd.app.warm_pool.unforeseen import place_of
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import Posture

pytestmark = pytest.mark.anyio
ID = SandboxId("01ARZ3NDEKTSV4RRFFQ69G5FAV")


async def test_a_bug_in_a_task_of_the_pool_ends_its_owner_loudly() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async def owner() -> None:
        async with asyncio.timeout(5), Crew() as crew:
            crew.run("broken", broken)
            await asyncio.get_running_loop().create_future()

    with pytest.raises(ExceptionGroup) as caught:
        await owner()
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)


async def test_a_stopped_crew_has_ended_its_tasks_and_takes_no_more() -> None:
    ended: list[str] = []

    async def endless(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(name)

    async with Crew() as crew:
        crew.run("first", lambda: endless("first"))
        await asyncio.sleep(0)
        await crew.stop()
        crew.run("second", lambda: endless("second"))
        await crew.stop()
    assert ended == ["first"]


async def test_directories_are_deleted_as_often_as_one_likes_but_never_what_lies_in_a_slot(tmp_path: Path) -> None:
    files = SandboxFiles("/tmp/short")
    files._root = tmp_path / "s"
    await files.make(ID, 200_000)
    precious = tmp_path / "s" / ID / "slot" / "workspace" / "file"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        await files.delete(ID)
    assert precious.read_text() == "mine"
    assert await files.ids() == (ID,)
    precious.unlink()
    await files.delete(ID)
    await files.delete(ID)
    assert await files.ids() == ()
    files.close()


@pytest.mark.parametrize("text", ["", "..", "../../etc", "01ARZ3NDEKTSV4RRFFQ69G5FA/"])
async def test_only_ids_become_paths(text: str) -> None:
    files = SandboxFiles("/run/p")
    with pytest.raises(PerstackError) as caught:
        files.of(SandboxId(text))
    assert caught.value.reason == "sandbox_id_invalid"
    files.close()


def test_postures_of_the_ended_are_bounded_in_number() -> None:
    postures = Postures()
    for number in range(KEPT_AT_MOST + 1):
        postures.put(Posture(SandboxId(str(number)), ()))
        postures.end(SandboxId(str(number)), 0.0)
    assert postures.get(SandboxId("0"), 0.0) is None
    assert postures.get(SandboxId("1"), 0.0) is not None


def test_an_unforeseen_exception_is_told_by_class_and_place_without_its_text() -> None:
    try:
        int("secret value")
    except ValueError as error:
        told = place_of(error)
    assert told.startswith("ValueError at ")
    assert "test_warm_pool_parts.py" in told
    assert "secret" not in told
