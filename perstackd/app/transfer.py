"""Jobs as files: an ended job with its events and blobs, written on one machine and read on another.

The file is JSON lines: a header with the job's record, the events in order, the blobs in pieces, and a last line with
the SHA-256 of all bytes before it. Nothing of a file is written to the store before all of it was read and checked.
"""

import base64
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

import anyio
from anyio import to_thread

from perstackd.app.job_file import FORMAT, MAX_FILE, MAX_PIECE, VERSION, JobFile, line_of, read_job_file
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import StoredEvent
from perstackd.domain.ids import JobId, TenantId, is_id
from perstackd.domain.job import JobRecord
from perstackd.ports.event_store import Store
from perstackd.ports.job_documents import JobDocuments

_PAGE: Final = 500
_BLOB_PIECE: Final = 192 << 10
_SPOOLED: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """A job that is in the store now. `fresh`: it was not there before."""

    record: JobRecord
    fresh: bool


class Transfer:
    """Exports and imports. Files that come in are spooled in `scratch`, a directory on the store's own disk. `writing`
    is held while what was read is written: blobs must not be swept before the events that need them are there.
    """

    def __init__(self, store: Store, documents: JobDocuments, scratch: Path, writing: anyio.Lock) -> None:
        self._store = store
        self._documents = documents
        self._scratch = scratch
        self._writing = writing
        self._importing = anyio.Lock()

    async def export(self, job_id: JobId) -> AsyncGenerator[bytes, None]:
        """The job's file, in pieces of at most about a MiB; a longer event comes alone.

        Raises:
            PerstackError: NOT_FOUND `job_not_found`; PRECONDITION `job_not_ended`; CONFLICT `export_torn` when the job
                was deleted meanwhile, so that the file must not be used.
        """
        record = await self._ended(job_id)
        whole = hashlib.sha256()
        async with aclosing(self._pieces(record)) as pieces:
            async for piece in pieces:
                whole.update(piece)
                yield piece
        yield line_of({"end": True, "digest": f"sha256:{whole.hexdigest()}"})

    async def read(self, pieces: AsyncIterator[bytes], tenant: TenantId) -> Imported:
        """Store the job of a file. The same job again changes nothing. One import at a time.

        Raises:
            PerstackError: INVALID `import_invalid`, with the line and what is wrong there; PRECONDITION `event_newer`,
                `import_newer`; ALREADY_EXISTS `import_conflict` when there is another job of that id; EXHAUSTED
                `import_too_large`. Nothing was written.
        """
        async with self._importing:
            with await to_thread.run_sync(self._spool) as file:
                await self._take(pieces, file)
                found = await to_thread.run_sync(read_job_file, file, self._documents, tenant)
                async with self._writing:
                    return await self._keep(found, file)

    # --- out --------------------------------------------------------------------------------------------------------
    async def _ended(self, job_id: JobId) -> JobRecord:
        record = await self._store.jobs.get(job_id) if is_id(job_id) else None
        if record is None:
            message = f"there is no job {job_id[:64]!r}; perstackctl job ls lists them"
            raise PerstackError(Kind.NOT_FOUND, "job_not_found", message)
        if not record.state.final:
            message = f"job {job_id} is {record.state}; wait for its end"
            raise PerstackError(Kind.PRECONDITION, "job_not_ended", message)
        return record

    async def _pieces(self, record: JobRecord) -> AsyncGenerator[bytes, None]:
        shown = replace(record, idempotency_key="", request_digest="")  # those are promises of this daemon
        document = self._documents.write_job(shown).decode()
        digests = await self._store.housekeeping.blobs_of(record.id)
        header = {"format": FORMAT, "version": VERSION, "events": record.last_seq, "blobs": len(digests)}
        yield line_of({**header, "job": document})
        seq = 0
        while stored := await self._store.read(record.id, seq, _PAGE):
            seq = stored[-1].event.seq
            for piece in _batches(map(_event_line, stored)):
                yield piece
        if seq != record.last_seq:
            raise _torn(record.id)
        for digest in digests:
            async with aclosing(self._blob_lines(digest, record.id)) as lines:
                async for line in lines:
                    yield line

    async def _blob_lines(self, digest: str, job_id: JobId) -> AsyncGenerator[bytes, None]:
        try:
            data = await self._store.blobs.get(digest)
        except PerstackError as error:
            if error.reason == "blob_not_found":
                raise _torn(job_id) from error
            raise
        head = {"blob": digest, "size": len(data)}
        for offset in range(0, max(len(data), 1), _BLOB_PIECE):
            piece = base64.b64encode(data[offset : offset + _BLOB_PIECE]).decode()
            yield line_of({**head, "offset": offset, "data": piece})

    # --- in ---------------------------------------------------------------------------------------------------------
    def _spool(self) -> IO[bytes]:
        try:
            return TemporaryFile(dir=self._scratch)  # without a name: it goes with the process
        except OSError as error:
            raise _no_room(error) from error

    async def _take(self, pieces: AsyncIterator[bytes], file: IO[bytes]) -> None:
        size = 0
        async for piece in pieces:
            size += len(piece)
            if size > MAX_FILE or len(piece) > MAX_PIECE:
                message = f"the file is larger than {MAX_FILE >> 30} GiB, or came in pieces that are too large"
                raise PerstackError(Kind.EXHAUSTED, "import_too_large", message)
            try:
                await to_thread.run_sync(file.write, piece)
            except OSError as error:
                raise _no_room(error) from error

    async def _keep(self, found: JobFile, file: IO[bytes]) -> Imported:
        known = await self._store.jobs.get(found.record.id)
        if known is not None:
            await self._check_same(known, found)
            return Imported(known, fresh=False)
        for digest in found.blobs:
            await self._store.blobs.put(await to_thread.run_sync(found.blob, file, digest))
        await self._store.create(found.record, found.events)
        return Imported(found.record, fresh=True)

    async def _check_same(self, known: JobRecord, found: JobFile) -> None:
        """Raises PerstackError ALREADY_EXISTS `import_conflict`."""
        same = replace(known, idempotency_key="", request_digest="") == found.record
        seq = 0
        while same and (stored := await self._store.read(known.id, seq, _PAGE)):
            theirs = found.events[seq : seq + len(stored)]
            same = [each.event for each in stored] == list(theirs)
            seq = stored[-1].event.seq
        if not same:
            message = f"there is another job {known.id} with other events or another record; nothing was written"
            raise PerstackError(Kind.ALREADY_EXISTS, "import_conflict", message, fields={"job_id": known.id})


def _event_line(stored: StoredEvent) -> bytes:
    event, origin = stored.event, stored.event.origin
    head: dict[str, Any] = {"seq": event.seq, "id": event.id, "schema": event.schema, "at": event.timestamp}
    run = {"run": origin.run_id, "parent": origin.parent_run_id, "expert": origin.expert_key, "step": origin.step}
    return line_of({**head, **({} if not any(run.values()) else run), "payload": stored.document.decode()})


def _batches(lines: Iterator[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        if held and size + len(line) > _SPOOLED:
            yield b"".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line)
    if held:
        yield b"".join(held)


def _torn(job_id: JobId) -> PerstackError:
    message = f"job {job_id} was deleted while it was exported; the file is not complete and must not be used"
    return PerstackError(Kind.CONFLICT, "export_torn", message)


def _no_room(error: OSError) -> PerstackError:
    message = f"the file cannot be kept in the state directory while it is read: {error.strerror}; free space there"
    return PerstackError(Kind.UNAVAILABLE, "store_unavailable", message, retryable=True)
