"""The traces port: one suite over the fake and over this host, where it mounts, makes cgroups and ends processes."""

import asyncio
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from perstackd.adapters.docker.ledger import Ledger
from perstackd.adapters.docker.traces import HostTraces
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.traces import Leftover, leftovers, socket_name
from perstackd.ports.traces import Traces
from tests.fakes.traces import FakeTraces

pytestmark = pytest.mark.anyio
BOX = SandboxId("01ARZ3NDEKTSV4RRFFQ69G5FAV")
ENGINE = ("/var/run/docker/containerd/containerd.sock", "moby")
CGROUP = Path("/sys/fs/cgroup/pids" if Path("/sys/fs/cgroup/pids").is_dir() else "/sys/fs/cgroup")


@dataclass
class Subject:
    """An implementation, and a host on which a test can leave something of the container `own`."""

    traces: Traces
    home: Path
    fake: FakeTraces | None = None
    known: set[str] = field(default_factory=set)
    own: str = field(default_factory=lambda: secrets.token_hex(32))
    cgroups: list[Path] = field(default_factory=list)

    @property
    def mount(self) -> Path:
        return self.home / "s" / BOX / "slot/workspace"

    @property
    def socket(self) -> Path:
        return self.home / "sockets" / socket_name(*ENGINE, self.own)

    def note(self) -> None:
        if self.fake is not None:
            self.fake.note(self.own, BOX)
        else:
            Ledger(str(self.home), "test").note(self.own, BOX)

    def plant(self) -> None:
        cgroup = CGROUP / "perstack-test-traces" / self.own
        if self.fake is not None:
            left = replace(self.fake.there, cgroups=(str(cgroup),), mounts=(str(self.mount),))
            self.fake.there = replace(left, sockets=(str(self.socket),), engines=frozenset((ENGINE,)))
            return
        cgroup.mkdir(parents=True)
        self.cgroups += (cgroup, cgroup.parent)
        self.mount.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(self.mount)], check=True, timeout=20)
        with socket.socket(socket.AF_UNIX) as bound:
            self.socket.parent.mkdir()
            bound.bind(str(self.socket))

    async def left(self) -> tuple[Leftover, ...]:
        found = leftovers(await self.traces.look(), frozenset(), frozenset())
        return tuple(each for each in found if each.sandbox_id == BOX)


@pytest.fixture(params=["fake", pytest.param("host", marks=pytest.mark.docker)])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with tempfile.TemporaryDirectory(prefix="tr-", dir="/tmp") as directory:
        home = Path(directory)
        if request.param == "fake":
            fake = FakeTraces(str(home))
            yield Subject(fake, home, fake, fake.known)
            return
        known: set[str] = set()

        async def knows(container_id: str) -> bool:
            return container_id in known

        made = HostTraces(str(home), Ledger(str(home), "test"), knows, home / "sockets")
        with _cleared(Subject(made, home, known=known)) as subject:
            yield subject


@contextmanager
def _cleared(subject: Subject) -> Iterator[Subject]:
    try:
        yield subject
    finally:
        if subject.mount.is_mount():
            subprocess.run(["umount", "-l", str(subject.mount)], check=True, timeout=20)
        for cgroup in subject.cgroups:
            if cgroup.is_dir():
                cgroup.rmdir()


async def test_nothing_is_left_of_what_never_was(subject: Subject) -> None:
    assert await subject.left() == ()


async def test_what_a_noted_container_left_is_seen_and_goes(subject: Subject) -> None:
    await asyncio.to_thread(subject.note)
    await asyncio.to_thread(subject.plant)
    (left,) = await subject.left()
    assert left.container_id == subject.own
    assert [len(part) for part in (left.cgroups, left.mounts, left.sockets)] == [1, 1, 1]
    await subject.traces.remove(left)
    (left,) = await subject.left()
    assert left.empty


async def test_removing_again_is_no_error(subject: Subject) -> None:
    await asyncio.to_thread(subject.note)
    await asyncio.to_thread(subject.plant)
    (left,) = await subject.left()
    await subject.traces.remove(left)
    await subject.traces.remove(left)


async def test_of_a_container_that_was_not_noted_only_the_mounts_of_the_sandbox_are_ours(subject: Subject) -> None:
    await asyncio.to_thread(subject.plant)
    (left,) = await subject.left()
    assert (left.container_id, left.cgroups, left.sockets) == ("", (), ())
    assert left.mounts == (str(subject.mount),)


async def test_nothing_is_touched_of_a_container_that_the_engine_knows_after_all(subject: Subject) -> None:
    await asyncio.to_thread(subject.note)
    await asyncio.to_thread(subject.plant)
    before = await subject.left()
    subject.known.add(subject.own)
    with pytest.raises(PerstackError) as caught:
        await subject.traces.remove(before[0])
    assert (caught.value.kind, caught.value.reason) == (Kind.CONFLICT, "container_known")
    assert await subject.left() == before


async def test_what_is_forgotten_is_noted_no_longer(subject: Subject) -> None:
    await asyncio.to_thread(subject.note)
    assert subject.own in (await subject.traces.look()).noted
    for _ in range(2):
        await subject.traces.forget([subject.own, "b" * 64])
    assert (await subject.traces.look()).noted == {}
