import io
import re

import pytest
from rich.console import Console

from perstackctl.terminal import width
from perstackctl.watch.frame import Size, frame
from perstackctl.watch.screen import Screen
from perstackctl.watch.trace import Trace, fold
from tests.fakes.event_log import BEGIN, CHILD, PARENT, EventLog, Item
from tests.fakes.stories import asking, question, story
from tests.unit.ctl.test_trace import of

SIZES = [(200, 60), (100, 30), (60, 12), (40, 8), (24, 5), (12, 3)]


def drawn(items: list[Item], columns: int = 100, rows: int = 30, now: int = BEGIN + 2000) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, height=rows, color_system=None)
    with console.capture() as capture:
        console.print(frame(fold(Trace(), of(items)), now, Size(columns, rows)))
    return capture.get().rstrip("\n").split("\n")


def at_work() -> EventLog:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    log.turn(PARENT, 1, [("a", "readTextFile", {"path": "./log.md"}), ("b", "exec", {"command": "make"})])
    log.results(PARENT, 1, [("a", "text", False)])
    log.turn(PARENT, 2, [("c", "pro-trainer", {"query": "A menu"})])
    log.started(CHILD, "A menu", "c")
    log.stream("Warm-up: rowing.\nThen squats", run=CHILD, step=1, offset=0)
    log.stream("cc main.c", run=PARENT, step=1, offset=0, kind="streamToolOutput", call="b")
    return log


def test_the_tree_shows_runs_calls_output_and_the_text_so_far() -> None:
    assert drawn(at_work().items, now=BEGIN + 3000) == [
        "job 01JD3Z0000000000000000JOB0  running  3.0s  2.0k↑ 100↓",
        "└── ⠋ fitness-assistant  works #2  3.0s  2.0k↑ 100↓",
        "    ├── ✓ readTextFile  30ms  path=./log.md",
        "    ├── • exec  2.5s  command=make",
        "    │     cc main.c",
        "    └── ⠋ pro-trainer  prepares #1  2.1s",
        "        └── Warm-up: rowing.",
        "            Then squats",
    ]


def test_skills_that_are_waited_for_are_named_until_they_are_there() -> None:
    log = EventLog()
    log.created()
    log.add("sandboxAssigned", {"sandboxId": "S"}, run=PARENT, step=1)
    for news, skill in [
        ("skillStarting", "a"),
        ("skillStarting", "b"),
        ("skillStarting", "c"),
        ("skillConnected", "b"),
    ]:
        log.add(news, {"skill": skill}, run=PARENT, step=1)
    assert drawn(log.items)[1].endswith("waits  2.0s  skills a, c start")
    log.add("skillDisconnected", {"skill": "a"}, run=PARENT, step=1)
    assert drawn(log.items)[1].endswith("waits  2.0s  skill c starts")
    log.add("skillConnected", {"skill": "c"}, run=PARENT, step=1)
    assert "skill" not in drawn(log.items)[1]


def test_a_job_that_ended_is_small_and_says_how_it_ended() -> None:
    assert drawn(story()) == [
        "job 01JD3Z0000000000000000JOB0  completed  2.0s  5.0k↑ 250↓",
        "└── ✓ fitness-assistant  completed  2.0s  4.0k↑ 200↓",
        "    └── ✓ pro-trainer  completed  320ms  1.0k↑ 50↓",
    ]


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_a_picture_fits_the_terminal(columns: int, rows: int) -> None:
    log = at_work()
    for number in range(40):
        run = f"01JD3Z000000000000000RUN{number:02d}"
        started = log.add("startRun", {"query": "日本語 " * 50}, run=run, step=1)
        started.expert_key, started.parent_run_id = f"an-expert-with-a-long-name-{number}", PARENT
        log.stream("漢字 and more " * 500, run=run, step=1, offset=0)
    picture = drawn(log.items, columns, rows)
    assert len(picture) < rows or rows <= 3
    assert len(picture) <= rows
    assert all(width(row) <= columns for row in picture)


def test_open_questions_stand_below_their_run() -> None:
    assert drawn(asking(of="approval"), columns=120, now=BEGIN + 1000) == [
        "job 01JD3Z0000000000000000JOB0  waits for an answer  990ms  1.0k↑ 50↓",
        "└── ⠋ fitness-assistant  asks #2  970ms  1.0k↑ 50↓",
        '    ├── • createIssue  550ms  body=It crashes. Every time. labels=["bug"] title=Crash on start',
        "    └── ? asks for approval: github.createIssue body=It crashes. Every time. "
        'labels=["bug"] title=Crash on start  [2-1]',
    ]


def test_runs_that_ended_give_way_to_those_at_work() -> None:
    log = at_work()
    for number in range(30):
        run = f"01JD3Z000000000000000RUN{number:02d}"
        log.add("startRun", {"query": "q"}, run=run, step=1).parent_run_id = PARENT
        log.add("completeRun", {"text": "t", "usage": {}}, run=run, step=1).parent_run_id = PARENT
    picture = "\n".join(drawn(log.items, 80, 14))
    assert "runs that ended" in picture
    assert "pro-trainer" in picture


def test_a_failure_stands_beside_its_run() -> None:
    log = at_work()
    log.add("stopRunByError", {"message": "the key was refused", "reason": "model_auth"}, run=CHILD, step=1)
    assert any("✗ pro-trainer  failed" in row and "the key was refused" in row for row in drawn(log.items))


def test_what_models_and_tools_write_cannot_act_on_the_terminal() -> None:
    evil = "\x1b]0;owned\x07[bold]x[/bold]\x1b[2J\r\x9b31m\u202e"
    log = EventLog()
    log.created(expert=evil, query=evil)
    log.started(PARENT, evil)
    log.turn(PARENT, 1, [("c", evil, {evil: evil})], evil)
    log.stream(evil, run=PARENT, step=1, offset=0, kind="streamToolOutput", call="c")
    log.stream(evil, run=PARENT, step=1, offset=0)
    log.add("egressDenied", {"host": evil, "reason": evil}, run=PARENT, step=1)
    log.asks(PARENT, 1, question(evil, "tool", evil, evil, evil, arguments={evil: evil}))
    picture = "\n".join(drawn(log.items))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", picture)
    assert "[bold]x[/bold]" in picture  # rich's markup is text here


def test_a_picture_is_drawn_over_the_last_one_without_clearing() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.draw(["one", "two"], [3, 3], 80)
    screen.draw(["one", "2"], [3, 1], 80)
    screen.draw(["one", "2"], [3, 1], 80)
    screen.leave()
    assert out.getvalue() == "\x1b[?25lone\x1b[K\ntwo\x1b[K\n\x1b[J" + "\x1b[2Fone\x1b[K\n2\x1b[K\n\x1b[J" + "\x1b[?25h"


def test_a_terminal_that_became_narrower_is_drawn_from_the_right_row() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.draw(["x" * 50, "y"], [50, 1], 80)
    screen.draw(["z"], [1], 20)
    assert "\x1b[4Fz" in out.getvalue()


def test_a_picture_that_is_kept_is_not_drawn_over_and_the_next_one_comes_below() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.draw(["tree"], [4], 80)
    screen.keep()
    out.write("question\n")
    screen.draw(["tree"], [4], 80)
    screen.draw(["tree 2"], [6], 80)
    assert out.getvalue() == (
        "\x1b[?25ltree\x1b[K\n\x1b[J\x1b[?25hquestion\n\x1b[?25ltree\x1b[K\n\x1b[J\x1b[1Ftree 2\x1b[K\n\x1b[J"
    )


def test_a_picture_that_was_lost_is_drawn_anew_even_when_it_is_the_same() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.draw(["tree"], [4], 80)
    screen.lose()
    screen.draw(["tree"], [4], 80)
    assert out.getvalue() == "\x1b[?25ltree\x1b[K\n\x1b[J" * 2


def test_above_its_question_stands_what_the_run_said_and_not_any_more_when_it_is_answered() -> None:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    log.turn(PARENT, 1, [("c1-1", "askMove", {})], text="You took the middle.\nSo I take a corner.")
    log.asks(PARENT, 1, question("1-1", "tool", "askMove", "Your move?"))
    rows = drawn(log.items)
    said, asked = ([row for row in rows if text in row] for text in ("So I take a corner.", "Your move?"))
    assert rows.index(said[0]) < rows.index(asked[0])
    answer = {"id": "1-1", "callId": "c1-1", "kind": "tool", "action": "answer", "content": "b2"}
    log.add("questionAnswered", answer, run=PARENT, step=1)
    answered = "\n".join(drawn(log.items))
    assert "corner" not in answered
    assert "✓ askMove" in answered


def test_an_approval_and_a_servers_question_leave_their_call_at_work() -> None:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    log.turn(PARENT, 1, [("c3-1e1", "query", {})])
    log.elicits(PARENT, 1, question("3-1e1", "elicitation", "query", "Which one?"))
    answer = {"id": "3-1e1", "callId": "c3-1e1", "kind": "elicitation", "action": "accept", "content": "{}"}
    log.add("questionAnswered", answer, run=PARENT, step=1)
    assert "• query" in "\n".join(drawn(log.items))


def test_a_notice_stays_above_the_picture() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.draw(["tree"], [4], 80)
    screen.above("notice", 80)
    screen.draw(["tree"], [4], 80)
    assert out.getvalue().endswith("\x1b[1Fnotice\x1b[K\n\x1b[Jtree\x1b[K\n\x1b[J")
