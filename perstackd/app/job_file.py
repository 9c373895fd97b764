"""The file of an exported job, read and checked: whoever wrote it is not believed."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any, Final

from perstackd.domain.blob_references import blobs_of
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import SCHEMA, Event, JobCreated, JobFinished, Origin
from perstackd.domain.ids import EventId, RunId, TenantId, is_id
from perstackd.domain.job import JobRecord
from perstackd.ports.job_documents import JobDocuments

FORMAT: Final = "perstack-job"
VERSION: Final = 1
MAX_FILE: Final = 4 << 30
MAX_PIECE: Final = 8 << 20
MAX_LINE: Final = 64 << 20
MAX_EVENT_BYTES: Final = 64 << 20  # all events of a job are held while they are checked
MAX_BLOB: Final = 64 << 20
MAX_BLOBS: Final = 100_000
_MAX_KEY: Final = 512
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_HEADER: Final = {"format", "version", "events", "blobs", "job"}
_EVENT: Final = {"seq", "id", "schema", "at", "run", "parent", "expert", "step", "payload"}
_BLOB: Final = {"blob", "size", "offset", "data"}


@dataclass(slots=True)
class JobFile:
    """A file that was found good. `blobs` are places of lines in it, by digest."""

    record: JobRecord
    events: list[Event] = field(default_factory=list)
    blobs: dict[str, list[int]] = field(default_factory=dict)

    def blob(self, file: IO[bytes], digest: str) -> bytes:
        """The bytes of a blob, read again. Blocking."""
        pieces = []
        for place in self.blobs[digest]:
            file.seek(place)
            pieces.append(base64.b64decode(json.loads(file.readline())["data"]))
        return b"".join(pieces)


def line_of(value: dict[str, Any]) -> bytes:
    """A line of the file."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_job_file(file: IO[bytes], documents: JobDocuments, tenant: TenantId) -> JobFile:
    """Read the whole file and check all that can be checked; the job becomes one of `tenant`. Blocking.

    Raises:
        PerstackError: INVALID `import_invalid`; PRECONDITION `import_newer`, `event_newer`.
    """
    return _Reading(file, documents, tenant).read()


def unreadable(number: int, what: str) -> PerstackError:
    """INVALID `import_invalid`."""
    message = f"line {number} of the file: {what}; nothing was written. Export the job again"
    return PerstackError(Kind.INVALID, "import_invalid", message, fields={"line": str(number)})


class _Reading:
    """One pass over a file."""

    def __init__(self, file: IO[bytes], documents: JobDocuments, tenant: TenantId) -> None:
        self._file = file
        self._documents = documents
        self._tenant = tenant
        self._number = 0
        self._room = MAX_EVENT_BYTES
        self._hash = hashlib.sha256()
        self._sizes: dict[str, int] = {}

    def read(self) -> JobFile:
        self._file.seek(0)
        lines = self._lines()
        header, _ = next(lines, ({}, 0))
        found, blobs = self._header(header)
        ended = False
        for line, place in lines:
            if ended:
                raise self._wrong("there is something after the end")
            if "end" in line:
                ended = True
            elif "blob" in line:
                self._blob(found, line, place)
            else:
                self._event(found, line)
        if not ended:
            raise self._wrong("the file ends too early: it was cut")
        self._whole(found, header["events"], blobs)
        return found

    def _lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        while True:
            place = self._file.tell()
            text = self._file.readline(MAX_LINE + 1)
            if not text:
                return
            self._number += 1
            if len(text) > MAX_LINE:
                raise self._wrong(f"it is longer than {MAX_LINE >> 20} MiB")
            if not text.endswith(b"\n"):
                raise self._wrong("the file ends too early: it was cut")
            line = self._object(text)
            if "end" in line:
                self._check_end(line)
            self._hash.update(text)
            yield line, place

    def _object(self, text: bytes) -> dict[str, Any]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            raise self._wrong("no JSON, or cut") from None
        if not isinstance(line, dict):
            raise self._wrong("no JSON object")
        return line

    def _check_end(self, line: dict[str, Any]) -> None:
        if line != {"end": True, "digest": f"sha256:{self._hash.hexdigest()}"}:
            raise self._wrong("the digest is not that of the lines before: the file was changed or damaged")

    # --- the lines --------------------------------------------------------------------------------------------------
    def _header(self, line: dict[str, Any]) -> tuple[JobFile, int]:
        if line.get("format") != FORMAT:
            raise self._wrong("this is not the file of an exported job")
        if not isinstance(line.get("version"), int) or line["version"] > VERSION:
            message = (
                f"the file has version {str(line.get('version'))[:20]}, this perstackd reads {VERSION}; upgrade it"
            )
            raise PerstackError(Kind.PRECONDITION, "import_newer", message)
        self._fields(line, _HEADER, job=str, events=int, blobs=int)
        document = line["job"].encode("utf-8", "replace")
        record = self._read(lambda: self._documents.read_job(document))
        if self._documents.write_job(record) != document:
            raise self._newer("its record")
        if not is_id(record.id) or not record.state.final or line["blobs"] > MAX_BLOBS:
            raise self._wrong("it is not of a job that ended, or has no proper id")
        if record.idempotency_key or record.request_digest:
            raise self._wrong("its record holds an idempotency key")
        return JobFile(replace(record, tenant=self._tenant)), line["blobs"]

    def _event(self, found: JobFile, line: dict[str, Any]) -> None:
        self._fields(line, _EVENT, seq=int, id=str, schema=int, at=int, payload=str)
        if line["seq"] != len(found.events) + 1 or found.blobs:
            raise self._wrong(f"event {line['seq']} stands where {len(found.events) + 1} was due")
        if not is_id(line["id"]) or line["schema"] < 1 or not 0 <= line["at"] < 1 << 62:
            raise self._wrong("its id, schema or time is none")
        document = line["payload"].encode("utf-8", "replace")
        self._room -= len(document)
        if self._room < 0:
            raise self._wrong(f"its events are larger than {MAX_EVENT_BYTES >> 20} MiB together")
        payload = self._read(lambda: self._documents.read_payload(line["schema"], document))
        if line["schema"] == SCHEMA and self._documents.write_payload(payload) != document:
            raise self._newer("an event")
        record = found.record
        found.events.append(
            Event(
                EventId(line["id"]),
                line["seq"],
                record.tenant,
                record.id,
                self._origin(line),
                line["at"],
                payload,
                line["schema"],
            )
        )

    def _origin(self, line: dict[str, Any]) -> Origin:
        run, parent = line.get("run", ""), line.get("parent", "")
        expert, step = line.get("expert", ""), line.get("step", 0)
        ids = all(isinstance(each, str) and (not each or is_id(each)) for each in (run, parent))
        if not ids or not isinstance(expert, str) or len(expert) > _MAX_KEY or type(step) is not int:
            raise self._wrong("its run is none")
        if not 0 <= step < 1 << 31:
            raise self._wrong("its step is none")
        return Origin(RunId(run), RunId(parent), expert, step)

    def _blob(self, found: JobFile, line: dict[str, Any], place: int) -> None:
        self._fields(line, _BLOB, blob=str, size=int, offset=int, data=str)
        digest = line["blob"]
        if not _DIGEST.fullmatch(digest) or not 0 <= line["size"] <= MAX_BLOB or len(found.blobs) > MAX_BLOBS:
            raise self._wrong("its digest or size is none")
        if not line["offset"] and digest in found.blobs:
            raise self._wrong(f"the blob {digest} is there twice")
        try:
            length = len(base64.b64decode(line["data"], validate=True))
        except (binascii.Error, ValueError):
            raise self._wrong("its data is not base 64") from None
        there = self._sizes.get(digest, 0)
        if line["offset"] != there or there + length > line["size"]:
            raise self._wrong(f"the pieces of the blob {digest} do not fit together")
        self._sizes[digest] = there + length
        found.blobs.setdefault(digest, []).append(place)

    # --- the whole --------------------------------------------------------------------------------------------------
    def _whole(self, found: JobFile, events: int, blobs: int) -> None:
        record = found.record
        if not len(found.events) == events == record.last_seq or len(found.blobs) != blobs:
            raise self._wrong(f"it says {events} events and {blobs} blobs, and has others")
        first, last = found.events[0].payload if found.events else None, None
        if found.events:
            last = found.events[-1].payload
        if not isinstance(first, JobCreated) or not isinstance(last, JobFinished):
            raise self._wrong("the log does not go from the job's creation to its end")
        if last.outcome != record.state or first.definition_digest != record.definition_digest:
            raise self._wrong("the record is not that of the log")
        needed = {digest for event in found.events for digest in blobs_of(event.payload)}
        if needed != set(found.blobs):
            raise self._wrong("its blobs are not those that its events refer to")
        for digest in found.blobs:
            data = found.blob(self._file, digest)
            if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
                raise self._wrong(f"the bytes of the blob {digest} do not have its digest")

    def _fields(self, line: dict[str, Any], known: set[str], **kinds: type) -> None:
        wrong = [name for name, kind in kinds.items() if type(line.get(name)) is not kind]
        if wrong or not set(line) <= known:
            raise self._wrong(
                f"{(wrong or sorted(set(line) - known))[0][:64]!r} is missing, unknown or of another kind"
            )

    def _read(self, read: Any) -> Any:
        try:
            return read()
        except PerstackError as error:
            if error.reason == "event_newer":
                raise
            raise self._wrong("a document that cannot be read") from error

    def _newer(self, what: str) -> PerstackError:
        message = f"line {self._number} of the file: {what} holds what this perstackd does not know; upgrade it"
        return PerstackError(Kind.PRECONDITION, "import_newer", message, fields={"line": str(self._number)})

    def _wrong(self, what: str) -> PerstackError:
        return unreadable(self._number, what)
