"""Jobs that do an ended job again, and a daemon that ends while they do."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from perstackd.app.job_request import JobParent
from perstackd.app.live_replay import compared
from perstackd.domain.events import Event, StoredEvent
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.reenactment import ReplayMode
from tests.fakes.models import Held
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import Machine, world
from tests.unit.app.doing_again import TURNS, Counting, recorded, replayed
from tests.unit.app.test_jobs import LEAD

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("held", [1, 2, 3])
async def test_a_replay_goes_on_after_a_restart_where_it_was(tmp_path: Path, held: int) -> None:
    machine = Machine(tmp_path)
    async with world(machine.runtime, TURNS, machine=machine) as daemon:
        daemon.links.tool = Counting()
        record = await recorded(daemon)
    script = list(TURNS[LEAD])
    waits = Held(script[held])  # type: ignore[arg-type]
    script[held] = waits
    async with machine.interrupted({**TURNS, LEAD: script}) as daemon:
        parent = JobParent(record.id, "", True, ReplayMode.MODEL)
        again = await daemon.start("", "", parent=parent, query="")
        await waits.reached.wait()
    async with world(machine.runtime, TURNS, machine=machine) as daemon:
        with anyio.fail_after(10):
            await daemon.events(again.id)
        _, found = await compared(daemon.store, again.id)
        ended = await daemon.jobs.get(again.id)
    assert (ended.state, found.difference, found.unrecorded) == (JobState.COMPLETED, None, ())


class Remembering(FakeStore):
    """A store that can go back to where it was after each of a job's writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[tuple[JobRecord, int]] = []

    async def create(self, job: JobRecord, events: Sequence[Event], sealed_env: bytes = b"") -> tuple[StoredEvent, ...]:
        stored = await super().create(job, events, sealed_env)
        self.writes.append((self.records[job.id], len(self.log[job.id])))
        return stored

    async def append(self, job: JobRecord, events: Sequence[Event]) -> tuple[StoredEvent, ...]:
        stored = await super().append(job, events)
        self.writes.append((self.records[job.id], len(self.log[job.id])))
        return stored

    def go_back(self, record: JobRecord, length: int) -> None:
        """As if nothing had been written after that."""
        self.records[record.id] = record
        del self.log[record.id][length:]


async def test_a_replay_with_a_live_model_goes_on_after_each_of_its_writes_even_on_another_host(tmp_path: Path) -> None:
    store = Remembering()
    async with world(tmp_path, TURNS, machine=Machine(tmp_path, store=store)) as daemon:
        daemon.links.tool = Counting()
        record = await recorded(daemon)
        store.writes.clear()
        again, whole, first = await replayed(daemon, record, ReplayMode.MODEL)
    writes = [(each, length) for each, length in store.writes if each.id == again.id and not each.state.final]
    assert len(writes) > 12
    for each, length in reversed(writes):
        store.go_back(each, length)
        async with world(tmp_path, TURNS, machine=Machine.rebooted(tmp_path, store)) as daemon:
            events = await daemon.events(again.id)
            _, found = await compared(store, again.id)
        where = [event.payload.type for event in events[:length]][-3:]
        assert (first.difference, found) == (None, first), where
        assert len(events) <= len(whole), where
