"""The live side of the event log: hands what was just stored, and pieces of text, to whoever watches a job.

Above it are the servicers; below the store, which it asks for what a watcher has missed. A watcher never slows a job:
one that cannot keep up is cut and told where to go on.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import JobFinished, StoredEvent, StreamPiece
from perstackd.domain.ids import JobId, RunId
from perstackd.ports.event_store import EventStore

BACKLOG: Final = 10_000
BACKLOG_BYTES: Final = 32 << 20
BATCH: Final = 500
RECENT_BYTES: Final = 128 << 10  # of each running job
TEXT_KEPT: Final = 1 << 20
MAX_WATCHERS: Final = 512
MAX_WATCHERS_OF_JOB: Final = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """Stored events in order, and the pieces of text that came after them."""

    events: tuple[StoredEvent, ...]
    pieces: tuple[StreamPiece, ...] = ()

    @property
    def last(self) -> bool:
        """Whether the job's last event is among them."""
        return bool(self.events) and isinstance(self.events[-1].event.payload, JobFinished)


@dataclass(slots=True, eq=False)
class _Watcher:
    streaming: bool
    events: deque[StoredEvent] = field(default_factory=deque)
    pieces: deque[StreamPiece] = field(default_factory=deque)
    wake: anyio.Event = field(default_factory=anyio.Event)
    cut: bool = False
    over: bool = False
    event_bytes: int = 0
    piece_characters: int = 0

    def add(self, events: Sequence[StoredEvent]) -> None:
        """One that is cut holds nothing any more: it may not read for a long time."""
        if self.cut:
            return
        self.events.extend(events)
        self.event_bytes += sum(len(stored.document) for stored in events)
        if len(self.events) > BACKLOG or self.event_bytes > BACKLOG_BYTES:
            self.take()
            self.cut = True
        self.wake.set()

    def show(self, piece: StreamPiece) -> None:
        """Drops what does not fit: the whole text follows as an event."""
        fits = len(self.pieces) < BACKLOG and self.piece_characters + len(piece.delta) <= 2 * TEXT_KEPT
        if self.streaming and fits and not self.cut:
            self.pieces.append(piece)
            self.piece_characters += len(piece.delta)
            self.wake.set()

    def take(self) -> Batch:
        batch = Batch(tuple(self.events), tuple(self.pieces))
        self.events.clear()
        self.pieces.clear()
        self.event_bytes = self.piece_characters = 0
        self.wake = anyio.Event()
        return batch


@dataclass(slots=True)
class _Text:
    """A text so far: its first piece, and all pieces' content."""

    first: StreamPiece
    content: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, piece: StreamPiece) -> None:
        if piece.delta and self.size <= TEXT_KEPT:
            self.content.append(piece.delta)
            self.size += len(piece.delta)

    def whole(self) -> StreamPiece:
        """One string for all who come before the next piece does."""
        self.content = ["".join(self.content)]
        return replace(self.first, delta=self.content[0])


@dataclass(slots=True)
class _Channel:
    watchers: list[_Watcher] = field(default_factory=list)
    texts: dict[tuple[RunId, str], _Text] = field(default_factory=dict)
    running: bool = False
    recent: deque[StoredEvent] = field(default_factory=deque)
    recent_bytes: int = 0

    def keep(self, events: Sequence[StoredEvent]) -> None:
        """Hold the last events of a running job: most watchers come right after its start and need no look-up."""
        self.recent.extend(events)
        self.recent_bytes += sum(len(stored.document) for stored in events)
        while self.recent and (len(self.recent) > BATCH or self.recent_bytes > RECENT_BYTES):
            self.recent_bytes -= len(self.recent.popleft().document)

    def since(self, after_seq: int) -> tuple[StoredEvent, ...]:
        """All events after `after_seq` when they are held, else none."""
        if not self.recent or self.recent[0].event.seq > after_seq + 1:
            return ()
        return tuple(stored for stored in self.recent if stored.event.seq > after_seq)


class Feed:
    """Watchers of all jobs. All methods are called on the loop."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._channels: dict[JobId, _Channel] = {}
        self._watchers = 0

    def open(self, job_id: JobId) -> None:
        """A job runs, or is about to be stored: watchers wait for its end, and texts are kept while nobody watches."""
        self._channels.setdefault(job_id, _Channel()).running = True

    def close(self, job_id: JobId) -> None:
        """Nothing follows. Watchers that have not seen the job's last event are told. Idempotent."""
        if channel := self._channels.get(job_id):
            channel.running = False
            for watcher in channel.watchers:
                watcher.over = True
                watcher.wake.set()
            self._drop(job_id, channel)

    def _drop(self, job_id: JobId, channel: _Channel) -> None:
        if not channel.running and not channel.watchers:
            self._channels.pop(job_id, None)

    def publish(self, job_id: JobId, events: Sequence[StoredEvent]) -> None:
        """Hand on what is durable now. Texts end with the state event that holds them whole."""
        channel = self._channels.get(job_id)
        if channel is None:
            return
        ended = {stored.event.origin.run_id for stored in events}
        channel.texts = {key: text for key, text in channel.texts.items() if text.first.origin.run_id not in ended}
        if channel.running:
            channel.keep(events)
        for watcher in channel.watchers:
            watcher.add(events)

    def stream(self, piece: StreamPiece) -> None:
        """Hand on a piece of text. Pieces may be dropped by a watcher that lags; the whole text follows as an event."""
        channel = self._channels.get(piece.job_id)
        if channel is None:
            return
        key = (piece.origin.run_id, piece.stream_id)
        channel.texts.setdefault(key, _Text(piece)).add(piece)
        for watcher in channel.watchers:
            watcher.show(piece)

    async def watch(self, job_id: JobId, after_seq: int, *, streaming: bool, follow: bool) -> AsyncIterator[Batch]:
        """Batches from `after_seq` on, without gap or repeat, until the job's last event.

        Raises:
            PerstackError: CONFLICT `watch_cut` with field `seq`, the last event that was handed over; UNAVAILABLE
            `job_abandoned` when the job's last event could not be written, so that none will follow; EXHAUSTED
            `too_many_watchers` before the first batch.
        """
        with self._watching(job_id, streaming=streaming) as watcher:
            texts = self._texts(job_id) if streaming else ()
            seq = after_seq
            async for batch in self._stored(job_id, seq):
                seq = batch.events[-1].event.seq
                yield batch
                if batch.last:
                    return
            if not follow or (seq == after_seq and await self._ended(job_id, seq)):
                return
            if texts:
                yield Batch((), texts)
                texts = ()  # long ones, and this may go on for hours
            async for batch in self._live(watcher, seq):
                yield batch

    async def _ended(self, job_id: JobId, seq: int) -> bool:
        """Whether the event `seq` is the job's last: a watcher that has seen it waits for nothing."""
        last = await self._store.read(job_id, seq - 1, 1) if seq else ()
        return bool(last) and Batch(last).last

    async def _stored(self, job_id: JobId, after_seq: int) -> AsyncIterator[Batch]:
        """What is stored. A short read is the last one: whatever comes later, the watcher has heard of."""
        if recent := self._channels[job_id].since(after_seq):
            yield Batch(recent)
            return
        events = await self._store.read(job_id, after_seq, BATCH)
        while events:
            yield Batch(events)
            short = len(events) < BATCH
            events = () if short else await self._store.read(job_id, events[-1].event.seq, BATCH)

    async def _live(self, watcher: _Watcher, seq: int) -> AsyncIterator[Batch]:
        while True:
            if watcher.over and not watcher.events and not watcher.cut:
                raise _abandoned()
            await watcher.wake.wait()
            if watcher.cut:
                message = f"this watcher fell behind and was cut; watch again from event {seq}"
                raise PerstackError(Kind.CONFLICT, "watch_cut", message, fields={"seq": str(seq)}, retryable=True)
            batch = watcher.take()
            fresh = tuple(stored for stored in batch.events if stored.event.seq > seq)
            if not fresh and not batch.pieces:
                continue
            seq = fresh[-1].event.seq if fresh else seq
            batch = Batch(fresh, batch.pieces)
            yield batch
            if batch.last:
                return

    def _texts(self, job_id: JobId) -> tuple[StreamPiece, ...]:
        return tuple(text.whole() for text in self._channels[job_id].texts.values())

    @contextmanager
    def _watching(self, job_id: JobId, *, streaming: bool) -> Iterator[_Watcher]:
        """Listen before the store is read, so that nothing falls between."""
        channel = self._channels.get(job_id) or _Channel()
        _admit(len(channel.watchers), self._watchers)
        self._channels[job_id] = channel
        watcher = _Watcher(streaming, over=not channel.running)
        channel.watchers.append(watcher)
        self._watchers += 1
        try:
            yield watcher
        finally:
            channel.watchers.remove(watcher)
            self._watchers -= 1
            self._drop(job_id, channel)


def _admit(of_job: int, of_all: int) -> None:
    if of_job < MAX_WATCHERS_OF_JOB and of_all < MAX_WATCHERS:
        return
    what, limit = ("this job", MAX_WATCHERS_OF_JOB) if of_job >= MAX_WATCHERS_OF_JOB else ("the daemon", MAX_WATCHERS)
    message = f"{what} has {limit} watchers, which is the limit; end some of them, or watch again later"
    raise PerstackError(Kind.EXHAUSTED, "too_many_watchers", message, fields={"limit": str(limit)}, retryable=True)


def _abandoned() -> PerstackError:
    message = "the job's end could not be written; see the daemon's log, and start perstackd again: it writes it then"
    return PerstackError(Kind.UNAVAILABLE, "job_abandoned", message)
