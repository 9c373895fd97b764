import json

import pytest

from perstackctl.client import Job, JobState, Usage
from perstackctl.output import age, count, document, elapsed, pairs, plain, rfc3339, span, table


def test_columns_are_aligned_also_with_wide_characters() -> None:
    text = table(("NAME", "N"), [("日本", 7), ("a\x1b[31mb", 1234)], right=("N",))
    assert text.split("\n") == ["NAME     N", "日本     7", "ab    1234"]


def test_a_cell_never_breaks_its_row() -> None:
    assert table(("QUERY",), [("one\ntwo",)]).split("\n") == ["QUERY", "one two"]


def test_pairs_leave_out_what_is_not_there() -> None:
    assert pairs([("Job", "x"), ("Why", ""), ("Exit code", 0)]) == "Job:        x\nExit code:  0"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (312, "5m12s"), (720, "12m"), (11_000, "3h3m"), (90_000, "1d1h")]
)
def test_ages_are_written_as_kubectl_writes_them(seconds: int, text: str) -> None:
    assert span(seconds * 1000) == text
    assert age(1_000_000, lambda: 1000 + seconds) == text


def test_an_age_that_was_not_reached_is_a_dash() -> None:
    assert age(0) == "-"


def test_short_times_and_large_numbers_fit_narrow_places() -> None:
    assert [elapsed(ms) for ms in (12, 3_400, 125_000, 3_700_000)] == ["12ms", "3.4s", "2m05s", "1h01m"]
    assert [count(n) for n in (950, 1_234, 3_400_000)] == ["950", "1.2k", "3.4M"]


def test_json_has_camel_case_keys_and_rfc3339_times() -> None:
    job = Job("J", "default", JobState.RUNNING, "e", "q", created_at=1_732_000_000_123, usage=Usage(input_tokens=2**60))
    value = plain(job)
    assert value["createdAt"] == "2024-11-19T07:06:40.123Z"
    assert value["finishedAt"] is None
    assert value["state"] == "running"
    assert value["usage"]["inputTokens"] == 2**60
    assert rfc3339(0) == ""


def test_documents_are_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    document([Job("J", "default", JobState.FAILED, "e", "\x1b[31m")])
    assert json.loads(capsys.readouterr().out)[0]["query"] == "\x1b[31m"
