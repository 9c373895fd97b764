"""What sandboxes say, without the values that they were given."""

import pytest

from perstackd.app.scrubbing import AskScrubber, Scrubber, Scrubbing
from perstackd.domain.messages import BlobPart, TextPart, ToolResultPart, ToolSpec
from perstackd.domain.session import (
    Ask,
    BlobChunk,
    Elicit,
    Failure,
    LinkLost,
    NextTurn,
    Progress,
    Ready,
    SkillPhase,
    SkillReport,
    ToolResults,
)

VALUE = "token-1234567890"
LABEL = "[secret TOKEN]"


@pytest.fixture
def sandbox() -> AskScrubber:
    return AskScrubber(Scrubber({"TOKEN": VALUE}))


def heard(sandbox: AskScrubber, *asks: Ask) -> list[Ask]:
    return [each for ask in asks for each in sandbox.heard(ask)]


def result(text: str) -> ToolResults:
    return ToolResults(1, (ToolResultPart("c1", (TextPart(text), BlobPart("sha256:aa", 1, f"text/{VALUE}"))),))


def test_no_text_of_any_ask_keeps_a_value(sandbox: AskScrubber) -> None:
    tool = ToolSpec("look", f"uses {VALUE}", {"properties": {"a": {"default": VALUE, "enum": [1, VALUE]}}})
    asks: list[Ask] = [
        Ready(f"/w/{VALUE}"),
        SkillReport("s", SkillPhase.CONNECTED, (tool,), VALUE, VALUE, VALUE),
        SkillReport("s", SkillPhase.FAILED, detail=f"cannot use {VALUE}"),
        Elicit("c1", "s", 1, f"is it {VALUE}?", {"title": VALUE, "properties": {VALUE: {}}}),
        result(f'{{"key": "{VALUE}"}}'),
        Failure("broken", f"no {VALUE}"),
        LinkLost(f"last words: {VALUE}"),
    ]
    said = heard(sandbox, *asks)
    assert [type(each) for each in said] == [type(each) for each in asks]
    assert VALUE not in str(said)
    assert str(said).count(LABEL) == 15


def test_whose_a_value_is_stays_as_it_is() -> None:
    sandbox = AskScrubber(Scrubber({"MODE": "search-files"}))
    report = SkillReport("search-files", SkillPhase.CONNECTED, (ToolSpec("search-files", "", {}),))
    assert heard(sandbox, report) == [report]
    results = ToolResults(1, (ToolResultPart("search-files", ()),))
    assert heard(sandbox, results) == [results]
    chunk = BlobChunk("sha256:aa", 0, b"search-files", True)
    assert heard(sandbox, chunk, NextTurn(1)) == [chunk, NextTurn(1)]


def test_a_value_in_two_pieces_of_a_stream_is_shown_to_nobody_and_offsets_stay_without_a_gap(
    sandbox: AskScrubber,
) -> None:
    said = heard(
        sandbox, Progress("c1", 0, "key: token-12"), Progress("c1", 13, "34567890 ü"), Progress("c1", 24, "ok!")
    )
    assert said == [Progress("c1", 0, "key: "), Progress("c1", 5, f"{LABEL} ü"), Progress("c1", 22, "ok!")]


def test_what_is_held_back_is_shown_before_the_results(sandbox: AskScrubber) -> None:
    said = heard(sandbox, Progress("c1", 0, "tok"), result("tok"), Progress("c1", 0, "again"))
    assert said[0] == Progress("c1", 0, "tok")
    assert isinstance(said[1], ToolResults)
    assert said[2] == Progress("c1", 0, "again")


def test_a_gap_in_a_stream_stays_a_gap(sandbox: AskScrubber) -> None:
    said = heard(sandbox, Progress("c1", 100, f"{VALUE} token"), Progress("c1", 1000, "later"))
    assert said == [
        Progress("c1", 100, f"{LABEL} "),
        Progress("c1", 115, "token"),
        Progress("c1", 998, "later"),
    ]


def test_standard_error_in_two_reports_is_put_together(sandbox: AskScrubber) -> None:
    def words(text: str) -> SkillReport:
        return SkillReport("s", SkillPhase.STDERR, detail=text)

    assert heard(sandbox, words("line\nuse token-123"), words("4567890\n")) == [
        words("line\nuse "),
        words(f"{LABEL}\n"),
    ]
    gone = SkillReport("s", SkillPhase.DISCONNECTED)
    assert heard(sandbox, words("tok"), gone) == [words("tok"), gone]
    assert heard(sandbox, words("tok"), LinkLost("gone")) == [words("tok"), LinkLost("gone")]


def test_a_value_that_was_replaced_is_still_looked_for() -> None:
    scrubber = Scrubber({"TOKEN": VALUE})
    scrubber.learn({"TOKEN": "token-abcdefgh"})
    assert scrubber.text(f"{VALUE} token-abcdefgh") == f"{LABEL} {LABEL}"


def test_the_log_is_cleaned_of_living_jobs_values_and_of_the_daemons_own() -> None:
    scrubbing = Scrubbing()
    scrubbing.own.learn({"anthropic": "sk-ant-123456"})
    job = Scrubber({"TOKEN": VALUE})
    scrubbing.watch(job)
    assert scrubbing.text(f"{VALUE} sk-ant-123456") == f"{LABEL} [secret anthropic]"
    del job
    assert scrubbing.text(VALUE) == VALUE
