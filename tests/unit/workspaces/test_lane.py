import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from perstackd.adapters.workspaces.lane import Lane
from perstackd.domain.errors import Kind, PerstackError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lane() -> AsyncIterator[Lane]:
    made = Lane("lane-test", 10.0)
    yield made
    await asyncio.to_thread(made.shutdown)


async def test_work_is_done_in_order_in_one_thread(lane: Lane) -> None:
    done: list[tuple[int, int]] = []

    def work(number: int) -> None:
        done.append((number, threading.get_ident()))

    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(lane.run(lambda number=number: work(number)))  # type: ignore[misc]
    assert [number for number, _ in done] == list(range(20))
    assert len({thread for _, thread in done}) == 1
    assert done[0][1] != threading.get_ident()


async def test_an_error_of_the_work_comes_out_as_it_is(lane: Lane) -> None:
    def fail() -> None:
        raise TimeoutError(110, "Connection timed out")

    with pytest.raises(TimeoutError, match="Connection timed out"):
        await lane.run(fail)


async def test_work_that_hangs_is_given_up_and_undone_when_it_ends() -> None:
    lane, go_on, undone = Lane("lane-test", 0.01), threading.Event(), threading.Event()

    def hang() -> str:
        assert go_on.wait(20)
        return "made"

    try:
        with pytest.raises(PerstackError) as stuck:
            await lane.run(hang, lambda made: undone.set() if made == "made" else None)
        assert (stuck.value.kind, stuck.value.reason) == (Kind.TIMEOUT, "workspace_stuck")
        assert not undone.is_set()
        go_on.set()
        assert await asyncio.to_thread(undone.wait, 20)
    finally:
        go_on.set()
        await asyncio.to_thread(lane.shutdown)


async def test_work_that_was_asked_is_done_even_when_its_caller_leaves_before_it_begins(lane: Lane) -> None:
    go_on, done = threading.Event(), threading.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(lane.run(lambda: go_on.wait(20)))
        leaving = tasks.create_task(lane.run(done.set))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        assert leaving.cancelled() or leaving.cancelling()
        go_on.set()
    assert await asyncio.to_thread(done.wait, 20)


async def test_a_failure_without_a_waiter_does_not_stop_the_lane(lane: Lane) -> None:
    def fail() -> None:
        raise OSError("expected by the test")

    lane.later(fail)
    assert await lane.run(lambda: 7) == 7
