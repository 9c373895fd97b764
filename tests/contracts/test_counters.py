"""The counters port: one suite over the fake and over cgroup trees as the kernel writes them, of version 1 with the
cgroupfs driver, and of version 2 with systemd's. What a live kernel counts: tests/integration/docker/test_counters.py.
"""

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from secrets import token_hex

import pytest

from perstackd.adapters.docker.counters import HostCounters
from perstackd.adapters.workspaces.mountinfo import MountPoint
from perstackd.domain.counters import Counters
from perstackd.ports.counters import CounterReader
from tests.fakes.counters import FakeCounters

pytestmark = pytest.mark.anyio


class Subject(ABC):
    """An implementation, and containers that a test makes, counts and takes away."""

    counters: CounterReader

    @abstractmethod
    def count(self, container: str, counters: Counters) -> None: ...

    @abstractmethod
    def gone(self, container: str) -> None: ...


class Fake(Subject):
    def __init__(self, _root: Path) -> None:
        self.counters = self.fake = FakeCounters()

    def count(self, container: str, counters: Counters) -> None:
        self.fake.of[container] = counters

    def gone(self, container: str) -> None:
        del self.fake.of[container]


class Version1(Subject):
    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("memory", "pids"):
            (root / name).mkdir(parents=True)
        mounts = [MountPoint(0, str(root / name), "cgroup", frozenset(), shared=False) for name in ("memory", "pids")]
        self.counters = HostCounters(lambda: mounts)

    def count(self, container: str, counters: Counters) -> None:
        memory, pids = (self.root / name / "docker" / container for name in ("memory", "pids"))
        for directory in (memory, pids):
            directory.mkdir(parents=True, exist_ok=True)
        kills = counters.oom_kills
        (memory / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
        (memory / "memory.failcnt").write_text(f"{counters.memory_hits}\n")
        (pids / "pids.events").write_text(f"max {counters.refused_processes}\n")
        (pids / "pids.current").write_text(f"{0 if counters.ended else 5}\n")

    def gone(self, container: str) -> None:
        for name in ("memory", "pids"):
            shutil.rmtree(self.root / name / "docker" / container)


class Version2(Subject):
    def __init__(self, root: Path) -> None:
        self.root = root / "system.slice"
        self.root.mkdir(parents=True)
        self.counters = HostCounters(lambda: [MountPoint(0, str(root), "cgroup2", frozenset(), shared=False)])

    def count(self, container: str, counters: Counters) -> None:
        scope = self.root / f"docker-{container}.scope"
        scope.mkdir(exist_ok=True)
        hits, kills = counters.memory_hits, counters.oom_kills
        (scope / "memory.events").write_text(
            f"low 0\nhigh 0\nmax {hits}\noom {kills}\noom_kill {kills}\noom_group_kill 0\n"
        )
        (scope / "pids.events").write_text(f"max {counters.refused_processes}\n")
        (scope / "pids.current").write_text(f"{0 if counters.ended else 5}\n")

    def gone(self, container: str) -> None:
        shutil.rmtree(self.root / f"docker-{container}.scope")


@pytest.fixture(params=[Fake, Version1, Version2])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    made: Subject = request.param(tmp_path / "cgroup")
    return made


async def test_each_container_has_its_own_counters(subject: Subject) -> None:
    one, two = token_hex(32), token_hex(32)
    subject.count(one, Counters(1, 20, 3))
    subject.count(two, Counters())
    assert await subject.counters.read([one, two]) == {one: Counters(1, 20, 3), two: Counters()}
    subject.count(two, Counters(0, 1, 0, ended=True))
    assert await subject.counters.read([two]) == {two: Counters(0, 1, 0, ended=True)}


async def test_a_container_without_a_cgroup_is_left_out_and_found_once_it_has_one(subject: Subject) -> None:
    name = token_hex(32)
    assert await subject.counters.read([name]) == {}
    subject.count(name, Counters(2))
    assert (await subject.counters.read([name]))[name].oom_kills == 2
    subject.gone(name)
    assert await subject.counters.read([name]) == {}
    assert await subject.counters.read([]) == {}


async def test_what_is_no_number_of_the_kernels_counts_nothing(tmp_path: Path) -> None:
    tree, name = Version2(tmp_path / "cgroup"), token_hex(32)
    tree.count(name, Counters())
    (tree.root / f"docker-{name}.scope" / "memory.events").write_text("oom_kill many\nmax -1\n\noom_kill 1 2\n")
    assert await tree.counters.read([name]) == {name: Counters()}
