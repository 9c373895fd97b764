"""The room port: one suite over the fake and over this machine's files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from perstackd.adapters.room import HostRoom
from perstackd.ports.room import Room
from tests.fakes.room import FakeRoom

pytestmark = pytest.mark.anyio
MIB = 1 << 20
WATERMARK = 500 * MIB


@dataclass(frozen=True)
class Subject:
    """An implementation with a watermark of 500 MiB, and what a test must do to its machine."""

    room: Room
    leave: Callable[[int], object]
    """How many MiB of memory there are from now on."""


@pytest.fixture(params=["fake", "host"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    if request.param == "fake":
        fake = FakeRoom(WATERMARK)
        return Subject(fake, lambda mib: setattr(fake, "free", mib * MIB))
    meminfo = tmp_path / "meminfo"
    room = HostRoom(WATERMARK, 0, (tmp_path,), meminfo)
    return Subject(room, lambda mib: meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable: {mib << 10} kB\n"))


async def test_with_room_nothing_lacks(subject: Subject) -> None:
    subject.leave(500)
    assert await subject.room.lack() == ""


async def test_what_lacks_is_told_with_the_amount_and_the_watermark(subject: Subject) -> None:
    subject.leave(499)
    assert await subject.room.lack() == "only 499 MiB of memory are available, the watermark is 500 MiB"


async def test_it_lacks_until_there_is_a_fifth_more_than_the_watermark(subject: Subject) -> None:
    answers = []
    for mib in (600, 550, 499, 500, 599, 600, 550, 500):
        subject.leave(mib)
        answers.append(bool(await subject.room.lack()))
    assert answers == [False, False, True, True, True, False, False, False]


async def test_asking_again_changes_nothing(subject: Subject) -> None:
    subject.leave(400)
    assert len({await subject.room.lack() for _ in range(3)}) == 1
