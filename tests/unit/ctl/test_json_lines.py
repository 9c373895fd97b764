import io
import json

import pytest

from perstackctl.client import Event, ProtocolError
from perstackctl.watch.json_lines import JsonLines, event_line
from perstackctl.watch.trace import Trace
from tests.fakes.event_log import PARENT, EventLog
from tests.fakes.stories import story
from tests.unit.ctl.test_trace import of


def event(payload: bytes, **fields: object) -> Event:
    envelope = {
        "id": "E",
        "seq": 7,
        "schema": 1,
        "type": "callTools",
        "tenant": "default",
        "job_id": "J",
        "run_id": "R",
        "parent_run_id": "",
        "expert_key": "e",
        "step_number": 2,
        "timestamp": 1_732_000_000_123,
    }
    return Event(**(envelope | fields), payload=payload)  # type: ignore[arg-type]


def test_the_envelope_comes_first_and_the_payload_follows() -> None:
    assert event_line(event(b'{"results":[],"type":"callTools"}')) == (
        '{"id":"E","seq":7,"schema":1,"type":"callTools","jobId":"J","runId":"R","parentRunId":"","expertKey":"e",'
        '"stepNumber":2,"timestamp":1732000000123,"time":"2024-11-19T07:06:40.123Z","results":[]}'
    )


def test_payload_values_are_printed_byte_for_byte() -> None:
    payload = '{"big":123456789012345678901234567890,"e":1E400,"f":1.10,"nested":{"a":[1, 2]},"t":"\\u00e9 é"}'
    printed = event_line(event(payload.encode()))
    for written in ("123456789012345678901234567890", "1E400", "1.10", '{"a":[1, 2]}', '"\\u00e9 é"'):
        assert f":{written}" in printed


def test_a_member_of_the_payload_cannot_pass_for_the_envelope() -> None:
    printed = event_line(event(b'{"seq":99,"jobId":"other","type":"jobFinished"}'))
    read = json.loads(printed)
    assert (read["seq"], read["jobId"], read["type"]) == (7, "J", "callTools")
    assert printed.count('"seq"') == printed.count('"type"') == 1


def test_where_the_envelope_is_empty_the_payload_counts() -> None:
    printed = event_line(event(b'{"expertKey":"fitness-assistant"}', expert_key="", run_id=""))
    assert json.loads(printed)["expertKey"] == "fitness-assistant"
    assert json.loads(printed)["runId"] == ""
    assert printed.count('"expertKey"') == 1


@pytest.mark.parametrize("payload", [b"{}", b' {"a" : 1 , "b" : {} } '])
def test_other_spellings_of_an_object_are_read(payload: bytes) -> None:
    assert json.loads(payload).items() <= json.loads(event_line(event(payload))).items()


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{", b'{"a"}', b'{"a":1', b'{"a":1}x', b'{"a":1,}', b"\xff", b'{"a":' + b"[" * 9999]
)
def test_what_is_not_one_object_is_an_error_that_names_the_event(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"event 7 \(callTools\) of job J"):
        event_line(event(payload))


def test_every_event_and_piece_is_one_line_of_json() -> None:
    out = io.BytesIO()
    JsonLines(out).paint(Trace(), of(story()))
    rows = [json.loads(row) for row in out.getvalue().splitlines()]
    events = [row for row in rows if "seq" in row]
    assert [row["seq"] for row in events] == list(range(1, len(events) + 1))
    assert "".join(row["delta"] for row in rows if "delta" in row) == "Rowing, then rest."
    assert [row["type"] for row in rows].count("jobFinished") == 1


def test_line_ends_in_a_payload_do_not_make_lines() -> None:
    log = EventLog()
    log.add("skillStderr", {"text": "a\nb\u2028c"}, run=PARENT)
    out = io.BytesIO()
    JsonLines(out).paint(Trace(), of(log.items))
    assert out.getvalue().count(b"\n") == 1


def test_json_on_a_terminal_holds_nothing_that_acts_on_it() -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    log = EventLog()
    log.add("skillStderr", {"text": "\x9b31m\x1b[2J"}, run=PARENT)
    out = Terminal()
    JsonLines(out).paint(Trace(), of(log.items))
    assert b"\xc2\x9b" not in out.getvalue()
    assert b"\x1b" not in out.getvalue()
    assert json.loads(out.getvalue())["text"] == "\x9b31m\x1b[2J"
