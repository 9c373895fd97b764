"""A job on its way into the store: what is written first, and what came of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from perstackd.app.feed import Feed
from perstackd.app.unforeseen import unforeseen
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event
from perstackd.domain.job import JobRecord
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from perstackd.ports.clock import Clock
from perstackd.ports.event_store import EventStore
from perstackd.ports.workspaces import Workspaces


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


@asynccontextmanager
async def opened_first(workspaces: Workspaces, record: JobRecord, spec: WorkspaceSpec) -> AsyncIterator[None]:
    """A host directory that the job cannot have is refused before there is a job. What is opened is the worker's once
    the block has ended well. Other workspaces are opened beside the first write: what is wrong with them is rare.

    Raises:
        PerstackError: as Workspaces.open does.
    """
    if spec.kind is not WorkspaceKind.PATH:
        yield
        return
    try:
        await workspaces.open(record.id, record.tenant, spec)
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            await workspaces.close(record.id)
        raise
