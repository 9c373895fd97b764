"""One JSON object a line: an event's envelope and, byte for byte, the members of its payload."""

import json
import re
import sys
from collections.abc import Iterator
from typing import BinaryIO, Final

from perstackctl.client.errors import ProtocolError
from perstackctl.client.values import Batch, Event, Job, StreamPiece
from perstackctl.output import note, rfc3339
from perstackctl.terminal import escaped_json
from perstackctl.watch.trace import Trace, fold

_DECODER: Final = json.JSONDecoder()
_OPEN: Final = re.compile(r"{\s*")
_COLON: Final = re.compile(r"\s*:\s*")
_COMMA: Final = re.compile(r"\s*([,}])\s*")


def members(event: Event) -> Iterator[tuple[str, str]]:
    """The members of the payload: name, and value as it is written.

    Raises:
        ProtocolError: it is not one JSON object in UTF-8.
    """
    try:
        text = event.payload.decode("utf-8").strip()
        at, end = _skip(_OPEN, text, 0).end(), "{"
        if text[at] == "}":
            end, at = "}", at + 1
        while end != "}":
            name, at = _DECODER.raw_decode(text, at)
            start = _skip(_COLON, text, at).end()
            _, at = _DECODER.raw_decode(text, start)
            yield name, text[start:at]
            comma = _skip(_COMMA, text, at)
            end, at = comma.group(1), comma.end()
        if at != len(text):
            raise ValueError("something follows the object")
    except (ValueError, IndexError, RecursionError):
        raise ProtocolError(
            f"event {event.seq} ({event.type}) of job {event.job_id} is not a JSON object; "
            "daemon and perstackctl are of different versions (perstackctl system info)"
        ) from None


def _skip(pattern: re.Pattern[str], text: str, at: int) -> re.Match[str]:
    match = pattern.match(text, at)
    if match is None:
        raise ValueError(f"no {pattern.pattern} at {at}")
    return match


def event_line(event: Event) -> str:
    """A stored event as one line, without its end. The envelope comes first; where it is empty the payload counts."""
    envelope: dict[str, str | int] = {
        "id": event.id,
        "seq": event.seq,
        "schema": event.schema,
        "type": event.type,
        "jobId": event.job_id,
        "runId": event.run_id,
        "parentRunId": event.parent_run_id,
        "expertKey": event.expert_key,
        "stepNumber": event.step_number,
        "timestamp": event.timestamp,
        "time": rfc3339(event.timestamp),
    }
    inside = {name: value for name, value in members(event) if not envelope.get(name)}
    written = {name: _written(value) for name, value in envelope.items() if name not in inside} | inside
    return "{" + ",".join(f"{_written(name)}:{value}" for name, value in written.items()) + "}"


def piece_line(piece: StreamPiece) -> str:
    """A piece of text as one line."""
    fields = {
        "afterSeq": piece.after_seq,
        "streamId": piece.stream_id,
        "offset": piece.offset,
        "type": piece.type,
        "jobId": piece.job_id,
        "runId": piece.run_id,
        "expertKey": piece.expert_key,
        "stepNumber": piece.step_number,
        "delta": piece.delta,
    }
    return _written(fields | ({"callId": piece.call_id} if piece.call_id else {}))


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class JsonLines:
    """The display for pipes. Notices go to standard error."""

    interval = 1.0
    tells_cost = False

    def __init__(self, out: BinaryIO | None = None) -> None:
        self._out = out or sys.stdout.buffer
        # Somebody who looks at it on a terminal gets the same values, with what would act on the terminal escaped.
        self._escape = self._out.isatty()

    def paint(self, before: Trace, batch: Batch) -> Trace:
        lines = [*map(event_line, batch.events), *map(piece_line, batch.pieces)]
        text = "".join(f"{line}\n" for line in lines)
        self._out.write((escaped_json(text) if self._escape else text).encode("utf-8", "replace"))
        self._out.flush()
        return fold(before, batch)

    def tick(self, trace: Trace, now: int) -> None:
        pass

    def notice(self, text: str) -> None:
        note(text)

    def hold(self) -> None:
        pass

    def go_on(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def close(self, trace: Trace, job: Job | None = None) -> None:
        # Whoever reads the pipe parses the events; whoever looks at the terminal still wants to know why it failed.
        if trace.outcome and trace.message:
            note(f"job {trace.job_id} {trace.outcome}: {trace.message}")
