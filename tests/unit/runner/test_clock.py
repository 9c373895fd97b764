import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from perstack_runner import clock as clocks
from perstack_runner.clock import Clock

pytestmark = pytest.mark.anyio
BOUND = 30.0
"""Seconds that are enough, however busy the machine is."""


@asynccontextmanager
async def ended(between: tuple[float, float]) -> AsyncIterator[None]:
    """What is inside has to end with TimeoutError, after so many seconds."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        yield
    assert between[0] < time.monotonic() - began < between[1]


async def test_it_ends_what_runs_in_it_when_its_seconds_are_used_up() -> None:
    async with ended(between=(0.04, BOUND)), Clock() as clock:
        clock.start(0.05)
        await asyncio.sleep(BOUND)


async def test_it_does_not_run_before_it_is_started_or_while_it_is_held() -> None:
    async with Clock() as clock:
        clock.hold()
        clock.start(0.03)
        await asyncio.sleep(0.1)
        clock.release()
        clock.hold()
        clock.hold()
        clock.release()
        await asyncio.sleep(0.1)


async def test_what_was_left_when_it_was_held_is_left_when_it_is_released() -> None:
    async with ended(between=(1.2, BOUND)), Clock() as clock:
        clock.start(1.0)
        await asyncio.sleep(0.1)
        clock.hold()
        await asyncio.sleep(0.3)
        clock.release()
        await asyncio.sleep(BOUND)


async def test_it_stands_still_for_so_long_in_all_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "LONGEST_HOLD_SECONDS", 0.1)
    async with ended(between=(0.15, BOUND)), Clock() as clock:
        clock.start(0.1)
        clock.hold()
        await asyncio.sleep(0.06)
        clock.release()
        clock.hold()
        await asyncio.sleep(BOUND)


async def test_a_time_out_of_somebody_else_is_not_its_own() -> None:
    async with Clock() as clock:
        clock.start(5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(1)
