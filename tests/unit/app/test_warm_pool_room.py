"""Watermarks: refill stops with the reason shown, goes on when there is room, and claims are served meanwhile."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from perstackd.adapters.room import HostRoom
from perstackd.app.warm_pool.watermarks import PERIOD_SECONDS
from tests.fakes.room import FakeRoom
from tests.unit.app.warm_pool_world import BASE, eventually, world

pytestmark = pytest.mark.anyio


async def test_refill_stops_while_something_lacks_and_goes_on_after_it() -> None:
    with world() as here:
        here.room = room = FakeRoom()
        async with here.running(replace(BASE, min_idle=2, max=4)) as pool:
            room.free = 10 << 20
            here.timers.advance(PERIOD_SECONDS)
            await eventually(lambda: "only 10 MiB" in pool.status()[0].halted)
            lease = await pool.claim(here.request())
            here.timers.advance(PERIOD_SECONDS)
            await eventually(lambda: room.looks >= 3)
            assert (pool.status()[0].idle, pool.status()[0].starting) == (1, 0)
            first, second = await pool.claim(here.request()), await pool.claim(here.request())
            assert {first.record.id, second.record.id}.isdisjoint({lease.record.id}), "a claim that waits is served"
            room.free = 1 << 40
            here.timers.advance(PERIOD_SECONDS)
            await eventually(lambda: pool.status()[0].halted == "" and pool.status()[0].idle == 1)


async def test_the_machines_memory_and_disks_are_compared_with_the_watermarks(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"

    async def lack(available_mib: int, room: HostRoom) -> str:
        await anyio.Path(meminfo).write_text(f"MemTotal: 9 kB\nMemAvailable:  {available_mib << 10} kB\n")
        return await room.lack()

    room = HostRoom(512 << 20, 0, (), meminfo)
    assert await lack(600, room) == ""
    assert await lack(400, room) == "only 400 MiB of memory are available, the watermark is 512 MiB"
    assert "only 550 MiB" in await lack(550, room), "a fifth more is asked for before it goes on"
    assert await lack(650, room) == ""
    full = HostRoom(0, 1 << 60, (tmp_path, tmp_path / "gone"), meminfo)
    assert f"are free on the disk of {tmp_path}" in await lack(1, full)


async def test_a_disk_that_hangs_holds_one_thread_and_counts_as_no_room() -> None:
    class HangingRoom(HostRoom):
        begun = 0

        def lacking(self) -> str:
            self.begun += 1
            assert hanging.wait(30)
            return ""

    hanging, room = threading.Event(), HangingRoom(0, 0, ())
    try:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await room.lack()
        assert room.begun == 1
    finally:
        hanging.set()
    assert await room.lack() == ""


async def test_a_look_that_does_not_end_stops_the_refill_with_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perstackd.app.warm_pool.watermarks.ANSWER_SECONDS", 0.01)

    class SilentRoom(FakeRoom):
        silent = False

        async def lack(self) -> str:
            if self.silent:
                await asyncio.Event().wait()
            return await super().lack()

    with world() as here:
        here.room = room = SilentRoom()
        async with here.running(BASE) as pool:
            room.silent = True
            here.timers.advance(PERIOD_SECONDS)
            await eventually(lambda: "looking for room on the machine took more than" in pool.status()[0].halted)


async def test_what_cannot_be_read_lacks_nothing(tmp_path: Path) -> None:
    assert await HostRoom(1 << 60, 1 << 60, (tmp_path / "gone",), tmp_path / "none").lack() == ""
