"""What the suite of the stores writes: jobs, their events, sandboxes, and a disk that takes nothing more."""

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from perstackd.domain.errors import PerstackError
from perstackd.domain.events import Event, Origin, Payload
from perstackd.domain.ids import DEFAULT_TENANT, EventId, JobId, SandboxId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.sandbox import SandboxRecord, SandboxState
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from perstackd.ports.event_store import Store
from tests.fakes.clock import FakeClock


@dataclass(frozen=True)
class Subject:
    """A store, and how to make its writes fail."""

    store: Store
    disk_full: Callable[[], AbstractContextManager[None]]


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    """The kernel refuses this process every write to a file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


CLOCK = FakeClock()


def job(**changes: Any) -> JobRecord:
    record = JobRecord(
        id=JobId(CLOCK.new_id()),
        tenant=DEFAULT_TENANT,
        state=JobState.QUEUED,
        expert_key="fitness-assistant",
        query="Start today's session",
        created_at=CLOCK.now_ms(),
        workspace=WorkspaceSpec(WorkspaceKind.NAMED, "gym"),
        provider="anthropic",
        model="a-model",
        definition_digest="sha256:" + "0" * 64,
    )
    return replace(record, **changes)


def events(record: JobRecord, first: int, *payloads: Payload, origin: Origin | None = None) -> list[Event]:
    return [
        Event(EventId(CLOCK.new_id()), seq, record.tenant, record.id, origin or Origin(), CLOCK.now_ms() + seq, payload)
        for seq, payload in enumerate(payloads, start=first)
    ]


async def created(store: Store, *payloads: Payload, **changes: Any) -> JobRecord:
    record = job(last_seq=len(payloads), **changes)
    await store.create(record, events(record, 1, *payloads))
    return record


async def refusal(coroutine: Any) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        await coroutine
    return caught.value


def seqs(stored: Sequence[Any]) -> list[int]:
    return [item.event.seq for item in stored]


def sandbox(created_at: int) -> SandboxRecord:
    return SandboxRecord(SandboxId(CLOCK.new_id()), "base", SandboxState.STARTING, 200_000, created_at)
