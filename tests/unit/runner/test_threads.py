"""Threads that are there already serve when no more can be started."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from perstack_runner.threads import Threads, run_apart

pytestmark = pytest.mark.anyio


class Refused:
    """A process limit: `left` more threads can be started."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.real = threading.Thread

    def __call__(self, target: Callable[[], None], name: str, daemon: bool) -> Any:
        if self.left == 0:
            return self
        self.left -= 1
        return self.real(target=target, name=name, daemon=daemon)

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def limited(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    monkeypatch.setattr(threading, "Thread", Refused(left))


async def test_work_apart_is_refused_as_the_system_does_it_when_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[int] = []
    limited(monkeypatch, 0)
    with pytest.raises(BlockingIOError):
        await run_apart(lambda: done.append(1))
    assert done == []


async def test_one_that_was_prepared_does_all_the_work_when_no_more_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = Threads(4, "few")
    limited(monkeypatch, 1)
    few.prepare()
    few.prepare()
    async with asyncio.timeout(5):
        numbers = await asyncio.gather(*(few.run(partial(abs, number)) for number in range(20)))
    assert numbers == list(range(20))
    few.close()


async def test_without_any_thread_the_work_is_refused_and_never_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    few = Threads(4, "few")
    with monkeypatch.context() as patched:
        limited(patched, 0)
        with pytest.raises(BlockingIOError):
            await few.run(lambda: done.append(1))
    async with asyncio.timeout(5):
        await few.run(lambda: done.append(2))
    assert done == [2]
    few.close()


async def test_no_more_than_so_many_work_at_once_and_errors_come_back() -> None:
    few, gate, at_work = Threads(2, "few"), threading.Event(), threading.Semaphore(0)

    def hold() -> str:
        at_work.release()
        gate.wait(5)
        return threading.current_thread().name

    def broken() -> None:
        raise LookupError("x")

    held = [asyncio.ensure_future(few.run(hold)) for _ in range(2)]
    third = asyncio.ensure_future(few.run(broken))
    for _ in range(2):
        assert await asyncio.to_thread(at_work.acquire, timeout=5)
    assert not third.done()
    gate.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*held) == ["few", "few"]
        with pytest.raises(LookupError):
            await third
    few.close()


async def test_what_was_cancelled_or_closed_before_its_turn_never_runs() -> None:
    few, gate, at_work, done = Threads(1, "few"), threading.Event(), threading.Event(), list[int]()

    def hold() -> None:
        at_work.set()
        gate.wait(5)

    held = asyncio.ensure_future(few.run(hold))
    assert await asyncio.to_thread(at_work.wait, 5)
    late, left = (asyncio.ensure_future(few.run(partial(done.append, number))) for number in range(2))
    await asyncio.sleep(0)
    late.cancel()
    few.close()
    few.close()
    gate.set()
    async with asyncio.timeout(5):
        await held
        for task in (late, left):
            with pytest.raises(asyncio.CancelledError):
                await task
    assert done == []
    with pytest.raises(RuntimeError, match="closed"):
        await few.run(hold)
