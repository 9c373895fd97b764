"""A job on its way into the store: what is written first, and what came of it."""

from dataclasses import dataclass, field

import anyio

from perstackd.app.feed import Feed
from perstackd.app.unforeseen import unforeseen
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event
from perstackd.domain.job import JobRecord
from perstackd.ports.clock import Clock
from perstackd.ports.event_store import EventStore


@dataclass(slots=True)
class Birth:
    """One job's. `over` is set by its owner once nothing of it is left to do; `error` says why there is no job."""

    record: JobRecord
    events: tuple[Event, ...]
    sealed: bytes
    over: anyio.Event = field(default_factory=anyio.Event)
    error: PerstackError | None = None

    async def write(self, store: EventStore, feed: Feed, clock: Clock) -> bool:
        """Whether the job is in the store; `error` is set when it is not. Not cancellable half-way. A watcher that
        sees the job there must find the feed open.
        """
        try:
            with anyio.CancelScope(shield=True):
                stored = await store.create(self.record, self.events, self.sealed)
            feed.publish(self.record.id, stored)
        except PerstackError as error:
            self.error = error
        except Exception as error:
            told = unforeseen(clock, error, job_id=self.record.id)
            self.error = PerstackError(Kind.INTERNAL, "internal", told.message, fields={"log_id": told.log_id})
        return self.error is None

    def is_of(self, tenant: str, idempotency_key: str) -> bool:
        """Whether a request of that tenant with that key would repeat it."""
        return bool(idempotency_key) and (tenant, idempotency_key) == (self.record.tenant, self.record.idempotency_key)
