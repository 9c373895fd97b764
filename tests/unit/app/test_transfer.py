"""Jobs as files: what goes out comes in again, and what was tampered with does not."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from perstackd.adapters.store.documents import StoreDocuments
from perstackd.adapters.store.sqlite import open_store
from perstackd.app import transfer as transfer_module
from perstackd.app.job_file import line_of
from perstackd.app.job_request import JobParent
from perstackd.app.transfer import Imported, Transfer
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import CallDelegate
from perstackd.domain.ids import DEFAULT_TENANT, JobId
from perstackd.domain.job import JobRecord
from perstackd.domain.messages import BlobPart, TextPart, ToolResultPart
from perstackd.domain.replay import replay
from perstackd.ports.event_store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.models import Entry, Held
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says

pytestmark = pytest.mark.anyio
ARTEFACT = b"a large result\n" * 50_000
TURNS: dict[str, Sequence[Entry]] = {
    LEAD: [calls(("a", "exec", {"command": "caf\u00e9"}), ("d", "helper", {"query": "x"})), says("done"), says("more")],
    HELPER: [says("the plan")],
}
Line = dict[str, Any]


def transfer(store: Store, scratch: Path) -> Transfer:
    return Transfer(store, StoreDocuments(), scratch, anyio.Lock())


async def made(tmp_path: Path) -> tuple[FakeStore, JobRecord]:
    """A store with one ended job, one of whose results is a blob."""
    store = FakeStore()
    digest = await store.blobs.put(ARTEFACT)
    async with world(tmp_path, TURNS, store=store) as daemon:
        record, _ = await daemon.finished(idempotency_key="k")
    first = next(stored for stored in store.log[record.id] if isinstance(stored.event.payload, CallDelegate))
    place = first.event.seq - 1
    blob = ToolResultPart("a", (TextPart("exec done"), BlobPart(digest, len(ARTEFACT), "text/plain")))
    assert isinstance(first.event.payload, CallDelegate)
    payload = replace(first.event.payload, results=(blob,))
    document = StoreDocuments().write_payload(payload)
    store.log[record.id][place] = replace(first, event=replace(first.event, payload=payload), document=document)
    return store, record


async def exported(store: Store, job_id: JobId, scratch: Path) -> bytes:
    return b"".join([piece async for piece in transfer(store, scratch).export(job_id)])


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for offset in range(0, len(data), size):
        yield data[offset : offset + size]


async def imported(store: Store, data: bytes, scratch: Path) -> Imported:
    return await transfer(store, scratch).read(pieces(data), DEFAULT_TENANT)


async def refusal(coroutine: Any) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        await coroutine
    return caught.value


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_job_is_the_same_on_the_other_machine_and_can_be_continued_there(tmp_path: Path, kind: str) -> None:
    store, record = await made(tmp_path)
    data = await exported(store, record.id, tmp_path)
    other: Any = FakeStore() if kind == "memory" else await open_store(tmp_path / "o")
    try:
        found = await imported(other, data, tmp_path)
        assert found.fresh
        assert found.record == replace(record, idempotency_key="", request_digest="")
        assert await other.read(record.id, 0, 1000) == tuple(store.log[record.id])
        for digest in await store.housekeeping.blobs_of(record.id):
            assert await other.blobs.get(digest) == await store.blobs.get(digest)
        assert await exported(other, record.id, tmp_path) == data
        again = await imported(other, data, tmp_path)
        assert (again.fresh, again.record) == (False, found.record)
        later = FakeClock(1_760_000_000_000)
        async with world(
            tmp_path, TURNS, store=other, change=lambda services: replace(services, clock=later)
        ) as daemon:
            further = await daemon.start("", "", query="and?", parent=JobParent(record.id))
            await daemon.events(further.id)
            assert (await daemon.jobs.get(further.id)).answer == "more"
            assert replay([stored.event for stored in await other.read(record.id, 0, 1000)]).divergence is None
    finally:
        await other.close()


def lines_of(data: bytes) -> list[Line]:
    return [json.loads(line) for line in data.splitlines()]


def file_of(lines: Sequence[Line]) -> bytes:
    """The lines as a file with the right digest at its end."""
    body = b"".join(line_of(line) for line in lines if "end" not in line)
    return body + line_of({"end": True, "digest": f"sha256:{hashlib.sha256(body).hexdigest()}"})


def first(lines: Sequence[Line], key: str) -> Line:
    return next(line for line in lines if key in line)


def of_record(change: Callable[[Line], Any]) -> Callable[[list[Line]], Any]:
    def edit(lines: list[Line]) -> None:
        record = json.loads(lines[0]["job"])
        change(record)
        lines[0]["job"] = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    return edit


EDITS: dict[str, Callable[[list[Line]], Any]] = {
    "another format": lambda lines: lines[0].update(format="tar"),
    "no header": lambda lines: lines.pop(0),
    "an unfinished job": of_record(lambda record: record.update(state="running")),
    "another end": of_record(lambda record: record.update(state="failed")),
    "another length": of_record(lambda record: record.update(lastSeq=3)),
    "another definition": of_record(lambda record: record.update(definitionDigest="sha256:" + "0" * 64)),
    "an id that is none": of_record(lambda record: record.update(id="../../etc")),
    "a key": of_record(lambda record: record.update(idempotencyKey="k")),
    "a missing event": lambda lines: lines.pop(3),
    "an event twice": lambda lines: lines.insert(3, lines[2]),
    "fewer events": lambda lines: lines[0].update(events=2),
    "an event's id": lambda lines: lines[2].update(id="x"),
    "an event's time": lambda lines: lines[2].update(at=-1),
    "an event's step": lambda lines: lines[4].update(step=-1),
    "an event's run": lambda lines: lines[4].update(run="x"),
    "an event's payload": lambda lines: lines[2].update(payload='{"type":"jobAdmitted"'),
    "an unknown key": lambda lines: lines[2].update(more=1),
    "a number for a text": lambda lines: lines[2].update(payload=1),
    "a blob's bytes": lambda lines: first(lines, "blob").update(
        data=base64.b64encode(b"x" * first(lines, "blob")["size"]).decode()
    ),
    "no base 64": lambda lines: first(lines, "blob").update(data="!"),
    "a blob's name": lambda lines: first(lines, "blob").update(blob="sha256:../../x"),
    "a blob's size": lambda lines: first(lines, "blob").update(size=1 << 40),
    "a missing blob": lambda lines: lines.remove(first(lines, "blob")),
    "a blob twice": lambda lines: lines.insert(-1, first(lines, "blob")),
    "a foreign blob": lambda lines: lines.insert(
        -1, {"blob": f"sha256:{hashlib.sha256(b'x').hexdigest()}", "size": 1, "offset": 0, "data": "eA=="}
    ),
}


@pytest.mark.parametrize("edit", EDITS)
async def test_what_does_not_fit_together_is_refused_and_nothing_is_written(tmp_path: Path, edit: str) -> None:
    store, record = await made(tmp_path)
    lines = lines_of(await exported(store, record.id, tmp_path))
    EDITS[edit](lines)
    other = FakeStore()
    error = await refusal(imported(other, file_of(lines), tmp_path))
    assert (error.kind, error.reason) == (Kind.INVALID, "import_invalid")
    assert "line " in error.message
    assert (other.records, other.contents) == ({}, {})


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -30])
async def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    store, record = await made(tmp_path)
    other = FakeStore()
    data = (await exported(store, record.id, tmp_path))[:keep]
    assert (await refusal(imported(other, data, tmp_path))).reason == "import_invalid"
    assert (other.records, other.contents) == ({}, {})


async def test_a_changed_byte_is_found_by_the_digest_at_the_end(tmp_path: Path) -> None:
    store, record = await made(tmp_path)
    data = (await exported(store, record.id, tmp_path)).replace(b"exec done", b"exec gone", 1)
    error = await refusal(imported(FakeStore(), data, tmp_path))
    assert error.reason == "import_invalid"
    assert "digest" in error.message


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda lines: lines[0].update(version=2), "import_newer"),
        (of_record(lambda record: record.update(zeal=1)), "import_newer"),
        (lambda lines: lines[2].update(schema=99), "event_newer"),
        (lambda lines: lines[2].update(payload='{"type":"jobTeleported"}'), "event_newer"),
        (lambda lines: lines[2].update(payload='{"type":"jobAdmitted","zeal":1}'), "import_newer"),
    ],
)
async def test_what_a_newer_version_wrote_is_refused(
    tmp_path: Path, edit: Callable[[list[Line]], Any], reason: str
) -> None:
    store, record = await made(tmp_path)
    lines = lines_of(await exported(store, record.id, tmp_path))
    edit(lines)
    other = FakeStore()
    error = await refusal(imported(other, file_of(lines), tmp_path))
    assert (error.kind, error.reason) == (Kind.PRECONDITION, reason)
    assert other.records == {}


async def test_another_job_of_the_same_id_is_a_conflict(tmp_path: Path) -> None:
    store, record = await made(tmp_path)
    lines = lines_of(await exported(store, record.id, tmp_path))
    of_record(lambda job: job.update(answer="something else"))(lines)
    error = await refusal(imported(store, file_of(lines), tmp_path))
    assert (error.kind, error.reason) == (Kind.ALREADY_EXISTS, "import_conflict")
    assert store.records[record.id] == record


async def test_a_job_that_goes_on_is_not_exported(tmp_path: Path) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        error = await refusal(exported(daemon.store, record.id, tmp_path))
        unknown = await refusal(exported(daemon.store, JobId("0" * 26), tmp_path))
        held.release.set()
        await daemon.events(record.id)
    assert (error.reason, unknown.reason) == ("job_not_ended", "job_not_found")


async def test_a_job_that_is_deleted_meanwhile_gives_no_whole_file(tmp_path: Path) -> None:
    store, record = await made(tmp_path)
    pieces_out = transfer(store, tmp_path).export(record.id)
    await anext(pieces_out)
    await store.housekeeping.delete(record.id, 1 << 50)
    error = await refusal(anext(pieces_out))
    assert (error.kind, error.reason) == (Kind.CONFLICT, "export_torn")


async def test_no_more_than_the_bound_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "MAX_FILE", 1000)
    error = await refusal(imported(FakeStore(), b"x" * 2000, tmp_path))
    assert (error.kind, error.reason) == (Kind.EXHAUSTED, "import_too_large")
