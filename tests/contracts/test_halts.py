"""The halts port: one suite over the fake and over cgroups of the kernel. No engine knows of these containers."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import pytest

from perstackd.adapters.docker.halting import HostHalts
from perstackd.adapters.workspaces.mountinfo import mounts
from perstackd.domain.errors import PerstackError
from perstackd.ports.halts import Halts
from tests.fakes.halts import FakeHalts

pytestmark = pytest.mark.anyio


@dataclass
class Subject:
    """An implementation, and containers with a process each."""

    halts: Halts
    fake: FakeHalts | None = None
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    directories: list[Path] = field(default_factory=list)

    def container(self) -> str:
        name = token_hex(32)
        if self.fake is not None:
            self.fake.running.add(name)
            return name
        self.processes[name] = subprocess.Popen(["sleep", "600"])
        for root in _hierarchies():
            directory = root / "perstack-halts" / name
            directory.mkdir(parents=True)
            self.directories.append(directory)
            (directory / "cgroup.procs").write_text(str(self.processes[name].pid))
        return name

    def runs(self, name: str) -> bool:
        if self.fake is not None:
            return name in self.fake.running
        return self.processes[name].poll() is None

    def stop(self, name: str) -> None:
        """As SIGSTOP and the freezer do."""
        if self.fake is None:
            os.kill(self.processes[name].pid, signal.SIGSTOP)
            for directory in self.directories:
                if directory.name == name and (directory / "freezer.state").exists():
                    (directory / "freezer.state").write_text("FROZEN")

    def clean(self) -> None:
        for directory in self.directories:
            if (directory / "freezer.state").exists():
                (directory / "freezer.state").write_text("THAWED")
        for process in self.processes.values():
            process.kill()
            process.wait(10)
        for directory in self.directories:
            directory.rmdir()
            with suppress(OSError):  # another container of the test is in it
                directory.parent.rmdir()


def _hierarchies() -> list[Path]:
    found = {mount.path for mount in mounts() if mount.file_system == "cgroup"} or {"/sys/fs/cgroup"}
    return [Path(path) for path in sorted(found) if not path.endswith("/cpuset")]  # a new one there takes nobody


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.docker)])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "fake":
        fake = FakeHalts()
        yield Subject(fake, fake)
        return
    made = Subject(HostHalts())
    try:
        yield made
    finally:
        made.clean()


async def test_nothing_of_a_container_runs_on_return_and_others_run_on(subject: Subject) -> None:
    ended, other = [await asyncio.to_thread(subject.container) for _ in range(2)]
    await subject.halts.halt(ended)
    assert not await _eventually_runs(subject, ended)
    assert subject.runs(other)


async def test_one_that_is_stopped_and_frozen_ends_too(subject: Subject) -> None:
    container = await asyncio.to_thread(subject.container)
    await asyncio.to_thread(subject.stop, container)
    await subject.halts.halt(container)
    assert not await _eventually_runs(subject, container)


async def test_ending_it_twice_and_ending_what_never_was_is_nothing(subject: Subject) -> None:
    container = await asyncio.to_thread(subject.container)
    for name in (container, container, token_hex(32), ""):
        await subject.halts.halt(name)
    assert not await _eventually_runs(subject, container)


async def test_what_does_not_end_is_told() -> None:
    fake = FakeHalts()
    fake.running.add("one")
    fake.unstoppable.add("one")
    with pytest.raises(PerstackError) as failed:
        await fake.halt("one")
    assert failed.value.reason == "sandbox_unstoppable"


async def _eventually_runs(subject: Subject, name: str) -> bool:
    """Whether it runs once its parent, which is this test, has had a moment to reap it."""
    for _ in range(50):
        if not subject.runs(name):
            return False
        await asyncio.sleep(0.01)
    return True
