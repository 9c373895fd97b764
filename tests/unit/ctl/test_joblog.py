"""A job's log: which events are meant, how each is written, what they add up to."""

import typing
from typing import Any

import pytest

from perstackctl.client.errors import InvalidError
from perstackctl.client.values import Event
from perstackctl.commands.job_tree import _guides
from perstackctl.joblog.choice import TYPES, Choice, Steps, known_types
from perstackctl.joblog.rows import Rows, since
from perstackctl.joblog.tally import MOST_TOOLS, OTHERS, RunLine, Tally
from perstackctl.terminal import width
from perstackctl.watch.payload import fields_of
from perstackctl.watch.trace import Trace, fold_event
from perstackd.domain import events
from tests.fakes.event_log import BEGIN, CHILD, PARENT, EventLog
from tests.fakes.stories import asking, story
from tests.unit.ctl.test_trace import of

STORY = of(story()).events


def kept(choice: Choice) -> list[str]:
    return [event.type for event in STORY if choice.keeps(event, fields_of(event))]


# --- which events ---------------------------------------------------------------------------------------------------
def test_every_type_of_the_daemon_can_be_asked_for() -> None:
    payloads: tuple[Any, ...] = typing.get_args(events.Payload)
    assert {payload.__dataclass_fields__["type"].default for payload in payloads} <= set(TYPES)


@pytest.mark.parametrize(
    ("text", "within", "outside"),
    [("5", [5], [4, 6]), ("=5", [5], [6]), (">=5", [5, 99], [4]), (">5", [6], [5]), ("<=5", [1, 5], [6]),
     ("< 5", [4], [5]), ("3-7", [3, 7], [2, 8])],
)  # fmt: skip
def test_steps_are_a_number_or_a_range(text: str, within: list[int], outside: list[int]) -> None:
    steps = Steps.read(text)
    assert all(step in steps for step in within)
    assert not any(step in steps for step in outside)


@pytest.mark.parametrize("text", ["", "x", "=>5", "7-3", "<1", "5-", "-5", "1,2", "9" * 20])
def test_other_steps_are_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="--step"):
        Steps.read(text)


def test_without_a_wish_all_events_are_meant() -> None:
    assert Choice().everything
    assert len(kept(Choice())) == len(STORY)


def test_kinds_add_up_and_places_narrow() -> None:
    assert kept(Choice(types=frozenset({"jobAdmitted"}), delegations=True)) == [
        "jobAdmitted",
        "callDelegate",
        "startRun",
        "completeRun",
    ]
    assert kept(Choice(errors=True)) == ["resolveToolResults"]
    assert kept(Choice(messages=True, run_id=CHILD)) == ["startRun", "completeRun"]
    assert kept(Choice(tools=True, steps=Steps(3, 3))) == ["callTools", "resolveToolResults"]
    assert kept(Choice(steps=Steps(1, 1), run_id=PARENT))[0] == "startRun"


@pytest.mark.parametrize(
    ("kind", "payload", "is_error"),
    [
        ("retry", {}, True),
        ("egressDenied", {}, True),
        ("stopRunByExceededBudget", {"budget": "tokens"}, True),
        ("sandboxReleased", {"cause": "oomKilled"}, True),
        ("sandboxReleased", {"cause": "finished"}, False),
        ("jobFinished", {"outcome": "failed"}, True),
        ("jobFinished", {"outcome": "completed"}, False),
        ("finishToolCall", {"results": [{"callId": "c", "isError": True}]}, True),
        ("finishToolCall", {"results": [{"callId": "c"}]}, False),
        ("somethingNew", {"results": 7}, False),
    ],
)
def test_errors_are_what_went_wrong(kind: str, payload: dict[str, Any], *, is_error: bool) -> None:
    log = EventLog()
    log.add(kind, payload, run=PARENT)
    (event,) = of(log.items).events
    assert Choice(errors=True).keeps(event, fields_of(event)) is is_error


def test_an_unknown_type_is_answered_with_the_near_ones() -> None:
    assert known_types(["callTools", "retry"]) == {"callTools", "retry"}
    with pytest.raises(InvalidError, match=r"no event type 'calltool'; did you mean callTools"):
        known_types(["calltool"])
    with pytest.raises(InvalidError, match=r"no event type 'zzzzzz'$"):
        known_types(["zzzzzz"])


# --- lines ----------------------------------------------------------------------------------------------------------
def written(columns: int, found: tuple[Event, ...] = STORY) -> list[str]:
    rows, trace = Rows(columns), Trace()
    lines: list[str] = []
    for event in found:
        trace = fold_event(trace, event)
        lines += rows.of(trace, event, fields_of(event))
    return lines


def test_each_event_is_one_aligned_line_with_both_times() -> None:
    lines = written(100)
    assert len(lines) == len(STORY) + 1
    assert lines[0] == "--- 2024-11-19 UTC ---"
    assert lines[6] == (
        "    6 07:06:40   +0.440s fitness-ass…  #1 says: I look at the log first.; calls readTextFile path=.…"
    )
    assert len({line.index("#") for line in lines if "#1" in line[:50]}) == 1


def test_every_event_has_words_though_a_watcher_is_not_told_of_it() -> None:
    said = [line[50:] for line in written(0)[1:]]
    for number, words in (
        (8, "has all results of the step"),
        (9, "goes on with step 2"),
        (11, "calls pro-trainer"),
        (17, "gave its sandbox back"),
        (18, "pro-trainer answered: Rowing, then rest."),
    ):
        assert said[number - 1].endswith(words)


@pytest.mark.parametrize("columns", [20, 40, 56, 76, 80, 100, 150, 200])
def test_a_line_fits_any_width(columns: int) -> None:
    log = EventLog()
    log.created("漢字" * 40, "x" * 500)
    log.started(PARENT, "日本語 " * 100)
    log.add("x" * 200, {"a": "漢" * 500}, run=PARENT)
    assert all(width(line) <= columns for line in written(columns, of(log.items).events)[1:])


def test_without_a_width_there_is_the_type_and_nothing_is_cut() -> None:
    lines = written(0)
    assert all(event.type in line for event, line in zip(STORY, lines[1:], strict=True))
    assert not any(line.endswith("…") for line in lines)


def test_a_new_day_has_a_line_of_its_own() -> None:
    log = EventLog()
    log.created()
    log.add("jobPaused", after=3 * 86_400_000)
    assert [line for line in written(80, of(log.items).events) if line.startswith("---")] == [
        "--- 2024-11-19 UTC ---",
        "--- 2024-11-22 UTC ---",
    ]


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(0, "+0.000s"), (-5, "-0.005s"), (61_250, "+1m01.2s"), (3_900_000, "+1h05m"), (200_000_000, "+2d07h")],
)
def test_times_since_the_beginning_are_short(milliseconds: int, expected: str) -> None:
    assert since(milliseconds) == expected


# --- sums -----------------------------------------------------------------------------------------------------------
def summed(found: tuple[Event, ...], now: int = BEGIN) -> list[RunLine]:
    tally = Tally()
    for event in found:
        tally.add(event, fields_of(event))
    return list(tally.runs(now))


def test_runs_have_steps_tokens_tools_and_times() -> None:
    parent, child = summed(STORY)
    assert (parent.expert, parent.depth, parent.outcome, parent.steps) == ("fitness-assistant", 0, "completed", 4)
    assert parent.tools == {"appendTextFile": 1, "pro-trainer": 1, "readTextFile": 1}
    assert parent.failed_tools == {"appendTextFile": 1}
    assert (parent.usage.input_tokens, parent.usage.output_tokens) == (4000, 200)
    assert (child.depth, child.parent_id, child.duration_ms, child.state) == (1, PARENT, 320, "completed")


def test_runs_that_go_on_are_as_old_as_now() -> None:
    (run,) = summed(of(asking(of="tool")).events, now=BEGIN + 10_000)
    assert (run.outcome, run.state, run.questions) == ("", "asks", 1)
    assert run.duration_ms == 10_000 - 30


def test_names_of_tools_that_a_model_makes_up_are_bounded() -> None:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    for number in range(MOST_TOOLS + 10):
        log.turn(PARENT, 1, [(f"c{number}", f"tool{number}", {})])
    (run,) = summed(of(log.items).events)
    assert (len(run.tools), run.tools[OTHERS]) == (MOST_TOOLS + 1, 10)


def test_a_tree_is_drawn_below_each_run() -> None:
    runs = [RunLine("", "", "", depth, "", "", "", "", 0, None, 0, 0, {}, {}) for depth in (0, 1, 2, 2, 1, 2)]  # type: ignore[arg-type]
    assert _guides(runs) == ["", "├ ", "│ ├ ", "│ └ ", "└ ", "  └ "]
