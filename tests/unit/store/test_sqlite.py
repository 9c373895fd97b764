"""The files of the store: who made them, how they are protected, what survives."""

import asyncio
import os
import signal
import sqlite3
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from perstackd.adapters.store import connections, queries
from perstackd.adapters.store.sqlite import StoreLimits, open_store
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import (
    CallTools,
    ContinueToNextStep,
    Event,
    FinishToolCall,
    Origin,
    Payload,
    ResolveToolResults,
    StartGeneration,
)
from perstackd.domain.ids import DEFAULT_TENANT, EventId, JobId, RunId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import BlobPart, FinishReason, TextPart, ToolCallPart, ToolResultPart, Turn, Usage
from perstackd.domain.workspace import WorkspaceSpec
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.anyio

CLOCK = FakeClock()
ORIGIN = Origin(RunId(CLOCK.new_id()), RunId(""), "fitness-assistant", 1)


def job(last_seq: int, id_: str = "") -> JobRecord:
    return JobRecord(
        JobId(id_ or CLOCK.new_id()),
        DEFAULT_TENANT,
        JobState.RUNNING,
        "fitness-assistant",
        "Start today's session",
        CLOCK.now_ms(),
        WorkspaceSpec(),
        "anthropic",
        "a-model",
        "sha256:" + "0" * 64,
        last_seq=last_seq,
    )


def event(record: JobRecord, payload: Payload) -> Event:
    return Event(EventId(CLOCK.new_id()), record.last_seq, record.tenant, record.id, ORIGIN, CLOCK.now_ms(), payload)


async def refused_open(state: Path) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        await open_store(state)
    return caught.value


async def test_what_was_written_is_there_after_closing_and_opening_again(tmp_path: Path) -> None:
    record = job(1)
    async with await open_store(tmp_path) as store:
        stored = await store.create(record, [event(record, StartGeneration())], b"sealed")
        digest = await store.blobs.put(b"blob")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "perstackd.db"]
    async with await open_store(tmp_path) as store:
        assert await store.read(record.id, 0, 9) == stored
        assert await store.jobs.get(record.id) == record
        assert await store.jobs.sealed_env(record.id) == b"sealed"
        assert await store.blobs.get(digest) == b"blob"


async def test_nobody_else_can_read_the_files_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with await open_store(tmp_path / "state") as store:
            await store.blobs.put(b"blob")
            record = job(0)
            await store.create(record, [])
            modes = {
                path: stat.S_IMODE(path.lstat().st_mode) for path in [tmp_path / "state", *tmp_path.rglob("state/**/*")]
            }
    finally:
        os.umask(before)
    assert {path.name for path in modes} >= {"perstackd.db", "perstackd.db-wal", "perstackd.db-shm", "blobs", "tmp"}
    assert {mode for path, mode in modes.items() if path.suffix.startswith(".db") or len(path.name) == 62} == {0o600}
    assert [path for path, mode in modes.items() if mode & 0o077] == []


async def test_a_file_that_was_left_readable_is_closed_to_others(tmp_path: Path) -> None:
    await (await open_store(tmp_path)).close()
    (tmp_path / "perstackd.db").chmod(0o644)
    await (await open_store(tmp_path)).close()
    assert stat.S_IMODE((tmp_path / "perstackd.db").stat().st_mode) == 0o600


async def test_the_database_syncs_every_commit_and_carries_our_mark(tmp_path: Path) -> None:
    opened = await asyncio.to_thread(connections.open_writer, tmp_path / "a.db", 50)
    known = len(await asyncio.to_thread(connections.migrations))
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "application_id", "user_version", "secure_delete")
    assert [opened.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas] == [
        "wal",
        2,
        1,
        connections.APPLICATION_ID,
        known,
        1,
    ]
    await asyncio.to_thread(opened.close)


async def test_a_store_of_a_newer_version_is_refused_and_untouched(tmp_path: Path) -> None:
    await (await open_store(tmp_path)).close()
    _edit(tmp_path, "PRAGMA user_version = 99")
    before = (tmp_path / "perstackd.db").read_bytes()
    error = await refused_open(tmp_path)
    assert (error.kind, error.reason, error.fields["schema"]) == (Kind.PRECONDITION, "store_newer", "99")
    assert (tmp_path / "perstackd.db").read_bytes() == before


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    _edit(tmp_path, "CREATE TABLE theirs (a)")
    assert (await refused_open(tmp_path)).reason == "store_foreign"


async def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "perstackd.db").write_bytes(b"not a database at all" * 1000)
    error = await refused_open(tmp_path)
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "store_corrupt")
    assert "backup" in error.message


async def test_a_damaged_page_is_corrupt_when_it_is_read(tmp_path: Path) -> None:
    record = job(0)
    async with await open_store(tmp_path) as store:
        await store.create(record, [])
    with (tmp_path / "perstackd.db").open("r+b") as file:
        file.seek(connections.PAGE_SIZE)
        file.write(b"\xff" * (os.fstat(file.fileno()).st_size - connections.PAGE_SIZE))
    async with await open_store(tmp_path) as store:
        for call in (store.jobs.get(record.id), store.append(record, [])):
            with pytest.raises(PerstackError) as caught:
                await call
            assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "store_corrupt")


async def test_a_document_that_was_changed_on_disk_is_corrupt(tmp_path: Path) -> None:
    record = job(1)
    async with await open_store(tmp_path) as store:
        await store.create(record, [event(record, StartGeneration())])
    _edit(tmp_path, "UPDATE events SET document = x'7b'")
    async with await open_store(tmp_path) as store:
        with pytest.raises(PerstackError) as caught:
            await store.read(record.id, 0, 9)
    assert caught.value.reason == "store_corrupt"


async def test_a_state_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = await refused_open(tmp_path / "file" / "state")
    assert (error.kind, error.reason) == (Kind.UNAVAILABLE, "store_unavailable")


async def test_a_migration_that_fails_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await open_store(tmp_path)).close()
    good = await asyncio.to_thread(connections.migrations)
    monkeypatch.setattr(connections, "migrations", lambda: [*good, "CREATE TABLE half (a); CREATE TABLE half (a);"])
    assert (await refused_open(tmp_path)).reason == "store_failed"
    monkeypatch.undo()
    async with await open_store(tmp_path) as store:
        assert await store.sandboxes.all() == ()
    tables = _edit(tmp_path, "SELECT name FROM sqlite_master WHERE name = 'half'")
    assert tables == []


async def test_a_later_migration_runs_once_and_keeps_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = job(0)
    async with await open_store(tmp_path) as store:
        await store.create(record, [])
    good = await asyncio.to_thread(connections.migrations)
    monkeypatch.setattr(connections, "migrations", lambda: [*good, "CREATE TABLE later (a);"])
    for _ in range(2):
        async with await open_store(tmp_path) as store:
            assert await store.jobs.get(record.id) == record
    assert _edit(tmp_path, "PRAGMA user_version") == [(len(good) + 1,)]


async def test_a_store_of_the_first_schema_learns_which_blobs_its_jobs_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = await asyncio.to_thread(connections.migrations)
    needed, result = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    record = replace(job(1), definition_digest=needed)
    payload = FinishToolCall((ToolResultPart("c", (BlobPart(result, 1, "text/plain"),)),))
    async with await open_store(tmp_path) as store:
        await store.create(record, [event(record, payload)])
    for statement in ("DROP TABLE blob_uses", "PRAGMA user_version = 1"):
        _edit(tmp_path, statement)
    monkeypatch.setattr(connections, "migrations", lambda: every[:2])
    async with await open_store(tmp_path) as store:
        assert await store.housekeeping.blobs_of(record.id) == (needed, result)


async def test_room_of_deleted_jobs_goes_back_to_the_file_system(tmp_path: Path) -> None:
    async with await open_store(tmp_path) as store:
        record = replace(job(1), state=JobState.COMPLETED)
        text = ToolResultPart("c", (TextPart("x" * 4_000_000),))
        await store.create(record, [event(record, FinishToolCall((text,)))])
        await store.housekeeping.delete(record.id, 0)
        assert await store.housekeeping.compact() > 3_000_000
    assert (await asyncio.to_thread((tmp_path / "perstackd.db").stat)).st_size < 500_000


async def test_released_migrations_are_numbered_without_a_gap() -> None:
    directory = Path(connections.__file__).parent / "migrations"
    numbers = [int(path.name[:4]) for path in sorted(directory.glob("*.sql"))]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_wait_for_another_process_is_bounded(tmp_path: Path) -> None:
    async with await open_store(tmp_path, StoreLimits(busy_timeout_ms=50)) as store:
        other = sqlite3.connect(tmp_path / "perstackd.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PerstackError) as caught:
            await asyncio.wait_for(store.create(job(0), []), 5)
        other.close()
        assert caught.value.reason == "store_unavailable"


async def test_what_was_told_to_be_durable_survives_a_kill(tmp_path: Path) -> None:
    record = job(0)
    async with await open_store(tmp_path) as store:
        await store.create(record, [])
    arguments = (sys.executable, str(Path(__file__).parent / "append_forever.py"), str(tmp_path), record.id)
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    told = 0
    async with asyncio.timeout(60):
        while told < 300:
            told = int(await process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = await process.stdout.read()
        await process.wait()
    told = max([told, *(int(line) for line in rest.splitlines(keepends=True) if line.endswith(b"\n"))])
    async with await open_store(tmp_path) as store:
        found = await store.read(record.id, 0, 1 << 20)
        kept = await store.jobs.get(record.id)
    assert [item.event.seq for item in found] == list(range(1, len(found) + 1))
    assert len(found) >= told
    assert kept is not None
    assert kept.last_seq == len(found)


async def test_three_hundred_tool_steps_stay_below_a_megabyte(tmp_path: Path) -> None:
    record = job(0)
    async with await open_store(tmp_path) as store:
        await store.create(record, [])
        seq = 0
        for step in range(1, 301):
            call = f"toolu_{step:024d}"
            turn = Turn(
                (TextPart("Let me look at it."), ToolCallPart(call, "readTextFile", {"path": f"src/file_{step}.py"})),
                FinishReason.TOOL_CALLS,
                Usage(12_000 + step, 80, 11_000),
                "a-model-of-a-provider",
            )
            payloads: list[Payload] = [
                StartGeneration(),
                CallTools(turn),
                ResolveToolResults((ToolResultPart(call, (TextPart("r" * 1024),)),)),
                FinishToolCall(),
                ContinueToNextStep(step + 1),
            ]
            for payload in payloads:
                seq += 1
                now = job(seq, record.id)
                await store.append(now, [event(now, payload)])
    assert (tmp_path / "perstackd.db").stat().st_size <= 1_000_000


@pytest.mark.parametrize(
    ("tenant", "states", "index"),
    [
        (None, [], "sqlite_autoindex_jobs_1"),
        ("default", [], "jobs_by_tenant"),
        (None, ["queued", "running", "waiting"], "jobs_by_state"),
    ],
)
async def test_pages_of_jobs_are_found_by_an_index(
    tmp_path: Path, tenant: str | None, states: list[str], index: str
) -> None:
    async with await open_store(tmp_path):
        statement, values = queries.select_page(tenant, states, "01JZ", 10)
        reader = await asyncio.to_thread(connections.open_reader, tmp_path / "perstackd.db", 50)
        plan = [row[3] for row in reader.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        reader.close()
    assert any(f"INDEX {index} " in line for line in plan), plan


def _edit(state: Path, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(state / "perstackd.db")
    with connection:
        found = connection.execute(statement).fetchall()
    connection.close()
    return found
