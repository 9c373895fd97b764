"""Watchers: complete, in order, never a burden, and told when nothing will follow."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any

import anyio
import pytest

from perstackd.app import feed as module
from perstackd.app.feed import Batch, Feed
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event, JobAdmitted, JobFinished, Origin, Payload, StoredEvent, StreamPiece
from perstackd.domain.ids import DEFAULT_TENANT, EventId, JobId, RunId
from tests.fakes.store import FakeStore

pytestmark = pytest.mark.anyio
JOB = JobId("j")
PIECE = StreamPiece(0, "call-1", 0, "streamToolOutput", JOB, Origin(RunId("r1")), "one")


def stored(seq: int, payload: Payload | None = None, size: int = 10) -> StoredEvent:
    event = Event(EventId(str(seq)), seq, DEFAULT_TENANT, JOB, Origin(), 0, payload or JobAdmitted())
    return StoredEvent(event, b"x" * size)


def following(feed: Feed, *, streaming: bool = False) -> Any:
    return aclosing(feed.watch(JOB, 0, streaming=streaming, follow=True))


async def running() -> Feed:
    feed = Feed(FakeStore())
    feed.open(JOB)
    return feed


async def seqs(batches: AsyncIterator[Batch], into: list[int], ready: anyio.Event | None = None) -> None:
    async for batch in batches:
        into.extend(event.event.seq for event in batch.events)
        if ready:
            ready.set()


async def test_a_watcher_that_does_not_read_is_cut_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG_BYTES", 1000)
    feed = await running()
    async with following(feed) as batches:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_publish_soon, feed, stored(1))
                first = await anext(batches)
        assert [event.event.seq for event in first.events] == [1]
        for seq in range(2, 500):  # the watcher is busy elsewhere
            feed.publish(JOB, [stored(seq, size=100)])
            feed.stream(PIECE)
        (watcher,) = feed._channels[JOB].watchers
        assert (len(watcher.events), len(watcher.pieces), watcher.cut) == (0, 0, True)
        with pytest.raises(PerstackError, match="watch again from event 1") as caught:
            await anext(batches)
    assert (caught.value.reason, caught.value.fields["seq"]) == ("watch_cut", "1")
    assert feed._channels[JOB].watchers == []


async def _publish_soon(feed: Feed, event: StoredEvent) -> None:
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    feed.publish(JOB, [event])


async def test_pieces_of_a_watcher_that_does_not_read_are_bounded_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXT_KEPT", 100)
    feed = await running()
    with feed._watching(JOB, streaming=True) as watcher:
        for _ in range(50):
            feed.stream(replace(PIECE, delta="x" * 30))
            feed.stream(replace(PIECE, delta=""))
        assert sum(len(piece.delta) for piece in watcher.pieces) <= 200
        (text,) = feed._channels[JOB].texts.values()
        assert len(text.content) <= 5


async def test_watchers_of_a_job_that_is_given_up_are_told_that_no_end_follows() -> None:
    feed, seen = await running(), list[int]()

    async def watch() -> None:
        async with following(feed) as batches:
            with pytest.raises(PerstackError) as caught:
                await seqs(batches, seen)
        assert caught.value.reason == "job_abandoned"

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.lowlevel.checkpoint()
            feed.publish(JOB, [stored(1)])
            feed.close(JOB)
        await watch()
    assert feed._channels == {}


async def test_a_close_right_after_the_last_event_still_hands_it_over() -> None:
    feed, seen = await running(), list[int]()

    async def watch() -> None:
        async with following(feed) as batches:
            await seqs(batches, seen)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            feed.publish(JOB, [stored(1), stored(2, JobFinished("completed", 0))])
            feed.close(JOB)
    assert seen == [1, 2]


async def test_the_same_call_id_in_two_runs_does_not_mix_their_output() -> None:
    feed = await running()
    feed.stream(PIECE)
    feed.stream(replace(PIECE, origin=Origin(RunId("r2")), delta="two"))
    async with following(feed, streaming=True) as batches:
        with anyio.fail_after(5):
            first = await anext(batches)
    assert [each.delta for each in first.pieces] == ["one", "two"]


async def test_the_watchers_of_a_job_and_of_all_jobs_are_bounded_and_one_that_leaves_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WATCHERS", 5)
    monkeypatch.setattr(module, "MAX_WATCHERS_OF_JOB", 3)
    feed = await running()
    with ExitStack() as open_ones:
        for _ in range(3):
            open_ones.enter_context(feed._watching(JOB, streaming=False))
        assert await refusal(feed, JOB) == ("too_many_watchers", "3")
        for number in range(2):
            open_ones.enter_context(feed._watching(JobId(f"other-{number}"), streaming=False))
        assert await refusal(feed, JobId("another")) == ("too_many_watchers", "5")
        assert JobId("another") not in feed._channels
    assert feed._watchers == 0
    with feed._watching(JOB, streaming=False):
        assert feed._watchers == 1


async def refusal(feed: Feed, job_id: JobId) -> tuple[str, str]:
    with pytest.raises(PerstackError) as caught:
        await anext(feed.watch(job_id, 0, streaming=False, follow=True))
    assert caught.value.kind is Kind.EXHAUSTED
    return caught.value.reason, caught.value.fields["limit"]
