"""The one owner of a job's log: numbers its events, writes them, then tells the feed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

import anyio

from perstackd.app.feed import Feed
from perstackd.app.store_trouble import StoreTrouble
from perstackd.domain.budget import Tally
from perstackd.domain.events import (
    CallTools,
    ContinueToNextStep,
    Event,
    Origin,
    Payload,
    StartRun,
    StoredEvent,
    StreamPiece,
)
from perstackd.domain.ids import EventId
from perstackd.domain.job import JobRecord, JobState
from perstackd.ports.clock import Clock
from perstackd.ports.event_store import EventStore

Entry: TypeAlias = tuple[Origin, Payload]
Change: TypeAlias = Callable[[JobRecord], JobRecord]
JOB: Final = Origin()


class JobLog:
    """Appends of parallel runs are put in one order here and nowhere else. `worked_ms` is written with the next one."""

    def __init__(
        self, record: JobRecord, store: EventStore, feed: Feed, clock: Clock, trouble: StoreTrouble | None = None
    ) -> None:
        self.record = record
        self.worked_ms = record.worked_ms
        self._store = store
        self._feed = feed
        self._clock = clock
        self._lock = anyio.Lock()
        self._latest = record.created_at
        self.trouble = trouble or StoreTrouble()

    @property
    def tally(self) -> Tally:
        """What the job's runs have used so far."""
        record = self.record
        tokens = record.usage.input_tokens + record.usage.output_tokens
        return Tally(record.steps, tokens, record.microdollars, record.tool_calls, record.budgets, record.paused)

    async def append(self, entries: Sequence[Entry], change: Change | None = None) -> None:
        """Durable on return, and on its way to the watchers. `change` updates the record in the same write. Waits while
        the store cannot be written.

        Not cancellable half-way: what was handed to the store is known to be kept or not. Raises as EventStore.append
        does, `store_unavailable` once the daemon's patience is over.
        """
        if entries:
            await self.trouble.persist(partial(self._write, entries, change))

    async def _write(self, entries: Sequence[Entry], change: Change | None) -> None:
        with anyio.CancelScope(shield=True):
            async with self._lock:
                events = numbered(self.record, entries, self._clock, self.now_ms())
                record = _counted(change(self.record) if change else self.record, events, self.worked_ms)
                stored = await self._store.append(record, events)
                self.record = record
                self._feed.publish(record.id, stored)

    def now_ms(self) -> int:
        """The job's time: of the wall clock, but never before what it was already, should that be set back."""
        self._latest = max(self._latest, self._clock.now_ms())
        return self._latest

    def begin_after(self, then: int) -> None:
        """The last event of an earlier process was of that time."""
        self._latest = max(self._latest, then)

    async def read(self, after_seq: int, limit: int) -> tuple[StoredEvent, ...]:
        """As EventStore.read, of this job."""
        return await self._store.read(self.record.id, after_seq, limit)

    def stream(self, piece: StreamPiece) -> None:
        """Show a piece of text to whoever watches; never stored."""
        self._feed.stream(piece)


def running(record: JobRecord) -> JobRecord:
    """The record of a job whose coordinator has its sandbox."""
    return replace(record, state=JobState.RUNNING)


def numbered(record: JobRecord, entries: Sequence[Entry], clock: Clock, now: int = 0) -> tuple[Event, ...]:
    """The entries as events that follow the record's last, of that time; without one it is the clock's."""
    now = now or clock.now_ms()
    return tuple(
        Event(EventId(clock.new_id()), record.last_seq + place, record.tenant, record.id, origin, now, payload)
        for place, (origin, payload) in enumerate(entries, start=1)
    )


def _counted(record: JobRecord, events: Sequence[Event], worked_ms: int) -> JobRecord:
    """A retry starts a generation anew but is no new step."""
    steps = sum(isinstance(event.payload, StartRun | ContinueToNextStep) for event in events)
    runs = sum(isinstance(event.payload, StartRun) for event in events)
    calls = sum(len(event.payload.turn.calls) for event in events if isinstance(event.payload, CallTools))
    return replace(
        record,
        last_seq=events[-1].seq,
        worked_ms=worked_ms,
        steps=record.steps + steps,
        runs=record.runs + runs,
        tool_calls=record.tool_calls + calls,
    )
