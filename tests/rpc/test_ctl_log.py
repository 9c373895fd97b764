"""A job's log and tree, through the real program."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from perstack.v1 import events_pb2, jobs_pb2, runs_pb2

from perstackctl.terminal import width
from tests.fakes.daemon_api import FakeDaemon
from tests.fakes.event_log import BEGIN, CHILD, JOB, PARENT, EventLog
from tests.fakes.stories import asking, story
from tests.rpc.ctl_program import ROOT, Ctl
from tests.rpc.test_ctl_questions import EVIL

pytestmark = pytest.mark.anyio
LAST = max(item.seq for item in story() if isinstance(item, events_pb2.Event))


@pytest.fixture
def ctl(daemon: FakeDaemon, tmp_path: Path) -> Ctl:
    project = tmp_path / "project"
    project.mkdir()
    daemon.add_job(story(), state=jobs_pb2.JOB_STATE_COMPLETED, created_at=BEGIN, last_seq=LAST)
    daemon.runs = [runs_pb2.Run(id=PARENT, expert_key="a"), runs_pb2.Run(id=CHILD, expert_key="b")]
    return Ctl(daemon.path, project)


async def test_the_log_is_a_line_an_event_with_both_times(daemon: FakeDaemon, ctl: Ctl) -> None:
    done = await ctl("job", "log", JOB[:7])
    rows = done.out.splitlines()
    assert (done.code, len(rows)) == (0, LAST + 1)
    assert rows[1].startswith("    1 07:06:40.010   +0.010s jobCreated               job ")
    assert rows[-1].endswith(f"job {JOB} completed after 2.0s, 5.0k tokens in, 250 out")
    assert daemon.requests("WatchJob")[0].no_follow


async def test_the_log_fits_the_terminal(ctl: Ctl) -> None:
    ctl.env["COLUMNS"] = "80"
    rows = (await ctl("job", "log", JOB)).out.splitlines()
    assert all(width(row) <= 80 for row in rows)
    assert any("#3 calls appendTextFile path=./fit" in row for row in rows)


@pytest.mark.parametrize(
    ("args", "seqs"),
    [
        (["--errors"], [22]),
        (["--step", "1", "--run", "CHD"], [14, 15, 16]),
        (["--step", ">=4"], [25]),
        (["--delegations"], [12, 14, 16]),
        (["--type", "jobCreated", "--type", "jobFinished"], [1, LAST]),
        (["--after-seq", "25"], [26, LAST]),
        (["--run", PARENT, "--type", "startRun"], [4]),
    ],
)
async def test_events_are_chosen(ctl: Ctl, args: list[str], seqs: list[int]) -> None:
    done = await ctl("job", "log", JOB, *args, "-o", "jsonl")
    assert [row["seq"] for row in done.rows] == seqs
    assert [row["seq"] for row in json.loads((await ctl("job", "log", JOB, *args, "-o", "json")).out)] == seqs


async def test_a_limit_says_how_to_go_on(ctl: Ctl) -> None:
    first = await ctl("job", "log", JOB, "--type", "callTools", "--limit", "2", "-o", "jsonl")
    assert len(first.rows) == 2
    last = first.rows[-1]["seq"]
    assert first.err == f"perstackctl: there is more; go on with --after-seq {last}\n"
    rest = await ctl("job", "log", JOB, "--type", "callTools", "--after-seq", str(last), "-o", "jsonl")
    assert (len(rest.rows), rest.err) == (1, "")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--type", "calltools"], 2, "did you mean callTools"),
        (["--step", "x"], 2, "write 5, '>=5', '<5' or 3-7"),
        (["--run", "NONE"], 1, f"has no run 'NONE' (perstackctl job runs {JOB})"),
        (["--run", "01JD3Z"], 2, "2 runs"),
        (["--summary", "--errors"], 2, "only --run goes with it"),
    ],
)
async def test_a_filter_that_means_nothing_says_what_would(ctl: Ctl, args: list[str], code: int, said: str) -> None:
    done = await ctl("job", "log", JOB, *args)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


async def test_an_empty_choice_is_an_empty_list(ctl: Ctl) -> None:
    assert (await ctl("job", "log", JOB, "--type", "retry", "-o", "json")).out == "[]\n"
    assert (await ctl("job", "log", JOB, "--type", "retry")).out == ""


async def test_the_summary_adds_up_each_run(ctl: Ctl) -> None:
    assert (await ctl("job", "log", JOB, "--summary")).out.splitlines() == [
        "EXPERT             OUTCOME    STEPS    IN  CACHED  OUT   TOOK",
        "fitness-assistant  completed      4  4.0k       0  200   2.0s",
        "└ pro-trainer      completed      1  1.0k       0   50  320ms",
        "",
        "Tool calls:",
        "  fitness-assistant: appendTextFile 1 (1 failed), pro-trainer 1, readTextFile 1",
    ]
    (child,) = json.loads((await ctl("job", "log", JOB, "--summary", "--run", "CHD", "-o", "json")).out)
    assert (child["expertKey"], child["outcome"], child["durationMs"]) == ("pro-trainer", "completed", 320)


async def test_a_tree_shows_delegations_and_what_came_of_them(daemon: FakeDaemon, ctl: Ctl) -> None:
    record = daemon.jobs[JOB].record
    record.cost_microdollars, record.cost_known, record.tool_calls, record.steps = 12_300, True, 3, 5
    assert (await ctl("job", "tree", JOB)).out.splitlines() == [
        f"job {JOB}  completed  5 steps, 3 tool calls, cost $0.0123",
        "EXPERT               OUTCOME    STEPS    IN  OUT   TOOK  WHAT",
        "✓ fitness-assistant  completed      4  4.0k  200   2.0s  Start today's session",
        "└ ✓ pro-trainer      completed      1  1.0k   50  320ms  A menu for a rested pe…",
    ]
    tree = json.loads((await ctl("job", "tree", JOB, "-o", "json")).out)
    assert (tree["costMicrodollars"], tree["state"]) == (12_300, "completed")
    (root,) = tree["runs"]
    assert [below["runId"] for below in root["delegations"]] == [CHILD]


async def test_a_tree_of_a_job_that_runs_marks_what_goes_on(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(asking(of="all"))
    rows = (await ctl("job", "tree", JOB)).out.splitlines()
    assert rows[0].startswith(f"job {JOB}  waiting (2)")
    assert rows[2].startswith("• fitness-assistant  asks")
    assert rows[3].startswith("└ • pro-trainer      asks")


async def test_nothing_in_a_log_can_act_on_the_terminal(daemon: FakeDaemon, ctl: Ctl) -> None:
    log = EventLog()
    log.created(EVIL, EVIL)
    log.started(PARENT, EVIL)
    log.turn(PARENT, 1, [("c", EVIL, {EVIL: EVIL})], EVIL)
    log.results(PARENT, 1, [("c", EVIL, True)])
    log.add(EVIL, {EVIL: EVIL}, run=PARENT)
    log.finished("failed", message=EVIL)
    for item in log.items:
        if isinstance(item, events_pb2.Event) and item.run_id:
            item.expert_key = EVIL
    daemon.add_job(log.items, expert_key=EVIL, query=EVIL, error_reason=EVIL, error_message=EVIL)
    for args in (["log"], ["log", "--summary"], ["tree"], ["get"], ["watch", "-o", "text"]):
        shown = (await ctl("job", args[0], JOB, *args[1:])).out
        assert shown
        assert not {char for char in shown if char != "\n" and (ord(char) < 32 or char in "\x7f\x9b\u202e")}, args
    assert len((await ctl("job", "log", JOB)).out.splitlines()) == log.seq + 1


MEASURED = """
import sys
from pathlib import Path
from perstackctl.main import main
code = main()
# Not getrusage: its maximum begins with what the test's own process had when it forked.
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0], file=sys.stderr)
sys.exit(code)
"""


async def peak(ctl: Ctl, *args: str) -> int:
    """KiB that a call takes at most."""
    env = os.environ | {"PERSTACK_ADDRESS": ctl.address, "PYTHONPATH": f"{ROOT}:{ROOT}/proto"}
    done = await anyio.run_process([sys.executable, "-c", MEASURED, *args], env=env)
    return int(done.stderr.split()[-1])


@pytest.mark.parametrize("args", [("log", "-o", "jsonl"), ("log", "--summary"), ("tree",)], ids=" ".join)
async def test_a_long_log_is_read_in_bounded_memory(daemon: FakeDaemon, ctl: Ctl, args: tuple[str, ...]) -> None:
    daemon.batch_size = 64
    small = await peak(ctl, "job", args[0], JOB, *args[1:])
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    for step in range(1, 3000):
        log.turn(PARENT, step, [(f"c{step}", "exec", {"command": "x" * 5000})])
        log.results(PARENT, step, [(f"c{step}", "y" * 5000, False)])
    daemon.add_job(log.items)
    assert sum(len(item.payload) for item in log.items if isinstance(item, events_pb2.Event)) > 30_000_000
    assert await peak(ctl, "job", args[0], JOB, *args[1:]) - small < 20_000


def said(done: Any) -> str:
    return str(done.out + done.err)


@pytest.mark.parametrize("command", ["log", "tree", "questions", "pause", "resume"])
async def test_a_job_that_is_not_there_is_told(ctl: Ctl, command: str) -> None:
    done = await ctl("job", command, "01JZZZZZZ")
    assert (done.code, "there is no job 01JZZZZZZ" in said(done)) == (1, True)


@pytest.mark.parametrize("command", ["log", "tree"])
async def test_nothing_is_coloured(ctl: Ctl, command: str) -> None:
    assert "\x1b" not in (await ctl("job", command, JOB)).out
