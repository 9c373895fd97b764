"""Group commit: what shares a commit, what is refused alone, what fails together."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perstackd.adapters.store.connections import open_writer
from perstackd.adapters.store.writer import BATCH_UNITS, Writer
from perstackd.domain.errors import Kind, PerstackError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    opened = await asyncio.to_thread(open_writer, tmp_path / "w.db", 50)
    opened.execute("CREATE TABLE kept (value BLOB)")
    yield opened
    await asyncio.to_thread(opened.close)


@pytest.fixture
async def writer(connection: sqlite3.Connection, tmp_path: Path) -> AsyncIterator[Writer]:
    owned = Writer(connection, tmp_path / "w.db", 2048)
    yield owned
    await owned.close()


def insert(value: object) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.execute("INSERT INTO kept VALUES (?)", (value,)).rowcount


def values(connection: sqlite3.Connection) -> list[object]:
    return [value for (value,) in connection.execute("SELECT value FROM kept ORDER BY rowid")]


@asynccontextmanager
async def held(writer: Writer) -> AsyncIterator[None]:
    """The writer's thread stands still, so that what is asked meanwhile waits together."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> bool:
        begun.set()
        return go_on.wait(10)

    async with asyncio.TaskGroup() as tasks:
        holding = tasks.create_task(writer.run(hold))
        assert await asyncio.to_thread(begun.wait, 10)
        try:
            yield
        finally:
            go_on.set()
        assert await holding


async def waiting_together(writer: Writer, units: list[Callable[[sqlite3.Connection], int]]) -> list[object]:
    async with asyncio.TaskGroup() as tasks:
        async with held(writer):
            asked = [tasks.create_task(_outcome(writer, unit)) for unit in units]
            await asyncio.sleep(0)  # each task comes to its wait
        return [await task for task in asked]


async def _outcome(writer: Writer, unit: Callable[[sqlite3.Connection], int]) -> object:
    try:
        return await writer.run(unit)
    except Exception as error:
        return error


async def test_what_waits_together_shares_one_commit(writer: Writer, connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    assert await waiting_together(writer, [insert(number) for number in range(100)]) == [1] * 100
    assert statements.count("COMMIT") == 2  # of the unit that held the thread, and of all others
    assert values(connection) == list(range(100))


async def test_a_batch_is_bounded(writer: Writer, connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    await waiting_together(writer, [insert(number) for number in range(BATCH_UNITS + 1)])
    assert statements.count("COMMIT") == 3


async def test_nobody_hears_of_success_before_the_commit(
    writer: Writer, connection: sqlite3.Connection, tmp_path: Path
) -> None:
    await writer.run(insert(1))
    other = sqlite3.connect(tmp_path / "w.db")
    assert other.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    other.close()


async def test_a_refused_unit_takes_back_its_own_changes_only(writer: Writer, connection: sqlite3.Connection) -> None:
    def refused(inside: sqlite3.Connection) -> int:
        insert("half")(inside)
        raise PerstackError(Kind.CONFLICT, "seq_conflict", "no")

    first, middle, last = await waiting_together(writer, [insert(1), refused, insert(2)])
    assert (first, last) == (1, 1)
    assert isinstance(middle, PerstackError)
    assert middle.reason == "seq_conflict"
    assert values(connection) == [1, 2]


async def test_a_unit_with_a_defect_fails_alone_and_the_writer_goes_on(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    good, overflow, unknown, wrong, after = await waiting_together(
        writer, [insert(1), insert(1 << 70), insert(object()), lambda _: [1].index(2), insert(2)]
    )
    assert (good, after) == (1, 1)
    assert isinstance(overflow, OverflowError)
    assert isinstance(unknown, PerstackError)
    assert unknown.reason == "store_failed"
    assert isinstance(wrong, ValueError)
    assert values(connection) == [1, 2]


async def test_a_full_database_fails_the_batch_and_keeps_none_of_it(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    outcomes = await waiting_together(writer, [insert(1), insert(b"x" * 200_000), insert(2)])
    assert [error.reason for error in outcomes if isinstance(error, PerstackError)] == ["store_unavailable"] * 3
    assert "disk is full" in str(outcomes[0])
    assert values(connection) == []
    assert await writer.run(insert(3)) == 1
    assert values(connection) == [3]


async def test_a_read_only_database_says_so(writer: Writer, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(PerstackError, match="read-only: let the daemon's user write") as caught:
        await writer.run(insert(1))
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "store_unavailable")


async def test_a_database_that_another_process_locks_is_unavailable_and_then_is_not(
    writer: Writer, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "w.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(PerstackError, match="another process holds its lock") as caught:
        await writer.run(insert(1))
    assert caught.value.reason == "store_unavailable"
    other.execute("ROLLBACK")
    other.close()
    assert await writer.run(insert(1)) == 1


async def test_a_cancelled_caller_does_not_disturb_the_others(writer: Writer, connection: sqlite3.Connection) -> None:
    async with asyncio.TaskGroup() as tasks:
        async with held(writer):
            gone = tasks.create_task(writer.run(insert(1)))
            stays = tasks.create_task(writer.run(insert(2)))
            await asyncio.sleep(0)
            gone.cancel()
        assert await stays == 1
    assert values(connection) == [1, 2]


async def test_a_full_queue_makes_callers_wait_also_after_cancelled_ones(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    writer = Writer(connection, tmp_path / "w.db", 2)
    async with asyncio.TaskGroup() as tasks:
        async with held(writer):
            taken = tasks.create_task(writer.run(insert(1)))
            await asyncio.sleep(0)
            taken.cancel()
            waits = tasks.create_task(writer.run(insert(2)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert writer.waiting == 2
        assert await waits == 1
    await writer.close()
    assert writer.waiting == 0


async def test_close_commits_what_was_asked_and_refuses_what_comes_after(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    writer = Writer(connection, tmp_path / "w.db", 2048)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(writer.run(insert(number))) for number in range(500)]
        await asyncio.sleep(0)
        await writer.close()
    assert [task.result() for task in asked] == [1] * 500
    assert len(values(connection)) == 500
    with pytest.raises(PerstackError) as caught:
        await writer.run(insert(1))
    assert caught.value.reason == "store_closed"
