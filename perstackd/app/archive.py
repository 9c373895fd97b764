"""The job's archive, for an expert that looks things up: its own history, also what was compacted, and artefacts.

Answers the calls of `readArtifact` and `searchHistory`. A run sees its own events and those of the runs that it
delegated to; an artefact of another run of the job only if its query names it. Everything is bounded: what is looked
at in one go, how much comes back, how long it takes. What a model can get wrong is an error result and no exception.
"""

import codecs
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

import anyio
import anyio.lowlevel

from perstackd.app.job_log import JobLog
from perstackd.domain.context_artefact import LEAST_ID, Artefact, LinePage, artefact_id, is_text, matching
from perstackd.domain.context_history import History, Told
from perstackd.domain.context_search import PIECE, Hit, LineSearch, terms_of
from perstackd.domain.errors import PerstackError
from perstackd.domain.messages import JsonObject, TextPart, ToolCallPart, ToolResultPart
from perstackd.domain.tool_calls import error_result
from perstackd.ports.event_store import Blobs

READ_BYTES: Final = 32 << 10
SEARCH_SECONDS: Final = 5.0
READ_SECONDS: Final = 10.0
SEARCHED_BYTES: Final = 64 << 20
"""Of artefacts, in one search."""
MAX_HITS: Final = 50
SHOWN_CHARACTERS: Final = 24_000
"""Of all lines that a search returns."""
MAX_CONTEXT: Final = 5
_DEFAULT_HITS: Final = 20
_PAGE: Final = 100
_CHUNK: Final = 128 << 10


class Archive:
    """What one run may look up."""

    def __init__(self, log: JobLog, blobs: Blobs, run_id: str) -> None:
        self._log = log
        self._blobs = blobs
        self._run_id = run_id

    async def answer(self, call: ToolCallPart, query: str) -> ToolResultPart:
        """The result of one of the archive's tools; `query` is what the run was asked. Raises nothing that a model, or
        a store that is not there, can cause.
        """
        seconds = SEARCH_SECONDS if call.name == "searchHistory" else READ_SECONDS
        try:
            with anyio.fail_after(seconds + READ_SECONDS):
                return await (self._search if call.name == "searchHistory" else self._read)(call, query)
        except ValueError as error:
            return error_result(call.call_id, "invalid_arguments", str(error))
        except TimeoutError:
            return error_result(call.call_id, "timeout", "the archive did not answer in time; ask for less")
        except PerstackError as error:
            return error_result(call.call_id, error.reason, error.message)

    # --- artefacts --------------------------------------------------------------------------------------------------
    async def _read(self, call: ToolCallPart, query: str) -> ToolResultPart:
        arguments = call.arguments
        wanted, first, last = _text(arguments, "id"), _number(arguments, "from", 0), _number(arguments, "to", None)
        in_bytes = arguments.get("bytes") is True
        start = first or 0
        if last is not None and last <= start:
            raise ValueError(f"to has to be greater than from, which is {start}")
        artefact = await self._artefact(wanted, query)
        if not is_text(artefact.blob.media_type):
            what = f"artefact {artefact.id} is {artefact.blob.media_type} and no text; only text can be read"
            return error_result(call.call_id, "not_text", what)
        text, place = await (self._bytes if in_bytes else self._lines)(artefact, start, last)
        head = {"id": artefact.id, "size": artefact.blob.size, "unit": "bytes" if in_bytes else "lines", **place}
        return ToolResultPart(call.call_id, (TextPart(_json(head)), TextPart(text)))

    async def _artefact(self, wanted: str, query: str) -> Artefact:
        if len(wanted.removeprefix("sha256:")) < LEAST_ID:
            raise ValueError(f"an id of an artefact has at least {LEAST_ID} characters")
        history = History(self._run_id, query)
        async with aclosing(self._told(history)) as everything:
            async for _ in everything:
                pass
        found = matching(wanted, history.artefacts)
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"{wanted[:80]!r} may be any of {', '.join(each.id for each in found[:5])}; give more of it"
            )
        known = ", ".join(artefact_id(digest) for digest in list(history.artefacts)[-10:])
        raise ValueError(f"there is no artefact {wanted[:80]!r} here; the latest are: {known or 'none'}")

    async def _bytes(self, artefact: Artefact, first: int, last: int | None) -> tuple[str, dict[str, object]]:
        size = artefact.blob.size
        stop = min(size, first + READ_BYTES, size if last is None else last)
        data = await self._blobs.get(artefact.blob.digest, min(first, size), max(0, stop - first))
        return data.decode("utf-8", "replace"), {"from": min(first, size), "to": stop, "more": stop < size}

    async def _lines(self, artefact: Artefact, first: int, last: int | None) -> tuple[str, dict[str, object]]:
        page, offset = LinePage(first, last, READ_BYTES), 0
        async with aclosing(self._chunks(artefact)) as chunks:
            async for data in chunks:
                offset += len(data)
                if not page.feed(data):
                    break
        place: dict[str, object] = {"from": first, "to": page.reached, "more": page.full or offset < artefact.blob.size}
        if page.full:
            place["note"] = f"cut after {READ_BYTES} bytes, within line {page.reached}; a long line is read by bytes"
        return page.text, place

    async def _chunks(self, artefact: Artefact, size: int = _CHUNK) -> AsyncGenerator[bytes, None]:
        for offset in range(0, artefact.blob.size, size):
            await anyio.lowlevel.checkpoint()
            yield await self._blobs.get(artefact.blob.digest, offset, size)

    # --- search -----------------------------------------------------------------------------------------------------
    async def _search(self, call: ToolCallPart, query: str) -> ToolResultPart:
        terms = terms_of(_text(call.arguments, "pattern"))
        context = min(_number(call.arguments, "context", 0) or 0, MAX_CONTEXT)
        limit = max(1, min(_number(call.arguments, "limit", None) or _DEFAULT_HITS, MAX_HITS))
        found = _Found(self._run_id, limit)
        with anyio.move_on_after(SEARCH_SECONDS) as scope:
            async with aclosing(self._told(History(self._run_id, query))) as everything:
                async for told in everything:
                    search = LineSearch(terms, context, found.room)
                    await self._look_at(search, told, found)
                    found.add(told, search.end())
                    if not found.room:
                        break
        incomplete = "time" if scope.cancelled_caught else "size" if found.left <= 0 else ""
        result: dict[str, object] = {"matches": found.matches, "more": not found.room}
        return ToolResultPart(
            call.call_id, (TextPart(_json({**result, **({"cut": incomplete} if incomplete else {})})),)
        )

    async def _look_at(self, search: LineSearch, told: Told, found: "_Found") -> None:
        if told.artefact is None:
            await self._look_at_text(search, told.text)
        elif is_text(told.artefact.blob.media_type) and found.left > 0:
            await self._look_at_artefact(search, told.artefact, found)

    async def _look_at_text(self, search: LineSearch, text: str) -> None:
        for start in range(0, len(text), PIECE):
            await anyio.lowlevel.checkpoint()
            if not search.feed(text[start : start + PIECE]):
                return

    async def _look_at_artefact(self, search: LineSearch, artefact: Artefact, found: "_Found") -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async with aclosing(self._chunks(artefact, PIECE)) as chunks:
            async for data in chunks:
                found.left -= len(data)
                if found.left <= 0 or not search.feed(decoder.decode(data)):
                    return

    async def _told(self, history: History) -> AsyncGenerator[Told, None]:
        after = 0
        while page := await self._log.read(after, _PAGE):
            await anyio.lowlevel.checkpoint()
            for stored in page:
                for told in history.read(stored.event):
                    yield told
            after = page[-1].event.seq


class _Found:
    """What a search found so far."""

    def __init__(self, run_id: str, limit: int) -> None:
        self.matches: list[dict[str, object]] = []
        self.left = SEARCHED_BYTES
        self._run_id = run_id
        self._limit = limit
        self._characters = SHOWN_CHARACTERS

    @property
    def room(self) -> int:
        """How many more are wanted."""
        return max(0, self._limit - len(self.matches)) if self._characters > 0 else 0

    def add(self, told: Told, hits: list[Hit]) -> None:
        for hit in hits[: self.room]:
            text = "\n".join(hit.lines)
            self._characters -= len(text)
            self.matches.append({**self._place(told, hit), "text": text})

    def _place(self, told: Told, hit: Hit) -> dict[str, object]:
        origin = told.event.origin
        place: dict[str, object] = {"step": origin.step, "in": told.place}
        if origin.run_id != self._run_id:
            place["expert"] = origin.expert_key
        if told.artefact is not None:
            place |= {"artifact": told.artefact.id, "line": hit.line, "nearByte": hit.piece * PIECE}
        return place


def _text(arguments: JsonObject, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} has to be a text that is not empty")
    return value.strip()


def _number(arguments: JsonObject, name: str, default: int | None) -> int | None:
    value = arguments.get(name)
    if value is None:
        return default
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} has to be a whole number, 0 or greater")
    return value


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
