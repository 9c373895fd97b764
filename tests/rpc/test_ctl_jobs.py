"""Jobs and their runs, through the real program: watched, listed, shown, paused, cancelled."""

import json
from typing import Any

import pytest
from perstack.v1 import jobs_pb2, runs_pb2

from tests.fakes.daemon_api import FakeDaemon
from tests.fakes.event_log import CHILD, JOB, PARENT
from tests.fakes.stories import asking, story
from tests.rpc.ctl_program import LAST, SANDBOX, Ctl, endless

pytestmark = pytest.mark.anyio


async def test_a_watch_goes_on_after_a_number(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(story())
    done = await ctl("job", "watch", JOB, "--after", "20")
    assert (done.code, [row["seq"] for row in done.rows]) == (0, list(range(21, LAST + 1)))


async def test_a_watch_after_the_end_has_the_code_of_the_job(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(story(), state=jobs_pb2.JOB_STATE_STOPPED, last_seq=LAST)
    assert (await ctl("job", "watch", JOB, "--after", str(LAST))).code == 3
    assert not daemon.requests("WatchJob")


async def test_without_follow_the_log_so_far_is_printed(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(story()[:6])
    done = await ctl("job", "watch", JOB, "--no-follow", "-o", "json")
    assert (done.code, len(done.rows)) == (0, 6)


async def test_jobs_are_a_table_with_full_ids_and_short_queries(daemon: FakeDaemon, ctl: Ctl) -> None:
    usage = jobs_pb2.Usage(input_tokens=1200, output_tokens=34)
    daemon.add_job([], query="one\ntwo \x1b[31m" + "long " * 40, steps=3, usage=usage)
    done = await ctl("job", "ls")
    header, row = done.out.rstrip("\n").split("\n")
    assert header.split() == ["ID", "STATE", "EXPERT", "STEPS", "COST", "AGE", "QUERY"]
    assert row.startswith(f"{JOB}  running  fitness-ass…      3  unknown  -    one")
    assert row.endswith("…")
    assert "\x1b" not in row
    assert max(len(line) for line in done.out.split("\n")) <= 80
    ctl.env["COLUMNS"] = "160"
    header, row = (await ctl("job", "ls")).out.rstrip("\n").split("\n")
    assert header.split() == ["ID", "STATE", "EXPERT", "STEPS", "CALLS", "TOKENS", "COST", "AGE", "QUERY"]
    assert row.startswith(f"{JOB}  running  fitness-assistant      3      0    1.2k  unknown  -    one two long")


async def test_jobs_are_json_for_programs(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job([], query="a\nb", created_at=1_732_000_000_123)
    listed = json.loads((await ctl("job", "ls", "-o", "json")).out)
    shown = json.loads((await ctl("job", "get", JOB, "-o", "json")).out)
    assert listed == [shown]
    assert (shown["query"], shown["createdAt"], shown["finishedAt"]) == ("a\nb", "2024-11-19T07:06:40.123Z", None)


async def test_a_list_says_when_there_is_more(daemon: FakeDaemon, ctl: Ctl) -> None:
    for number in range(3):
        daemon.add_job([], f"{JOB[:-1]}{number}", state=jobs_pb2.JOB_STATE_FAILED)
    done = await ctl("job", "ls", "--limit", "2", "--state", "failed")
    assert len(done.out.strip().split("\n")) == 3
    assert "more than 2 jobs" in done.err
    assert list(daemon.requests("ListJobs")[0].states) == [jobs_pb2.JOB_STATE_FAILED]


async def test_a_job_is_named_by_a_prefix_that_only_it_has(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job([], "01JD3Z0000000000000000AAAA", query="first")
    daemon.add_job([], "01JD3Z0000000000000000BBBB", query="second")
    shown = await ctl("job", "get", "01jd3z0000000000000000b")
    assert "second" in shown.out
    ambiguous = await ctl("job", "get", "01JD3Z")
    assert ambiguous.code == 2
    assert "2 jobs begin with '01JD3Z': 01JD3Z0000000000000000BBBB, 01JD3Z0000000000000000AAAA" in ambiguous.err
    assert (await ctl("job", "get", "01J")).code == 2
    unknown = await ctl("job", "get", "01JZZZZZZ")
    assert (unknown.code, "there is no job 01JZZZZZZ" in unknown.err) == (1, True)


async def test_a_job_is_shown_with_its_answer_and_why_it_failed(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(
        [],
        state=jobs_pb2.JOB_STATE_FAILED,
        answer="half an \x1b]0;t\x07answer",
        error_reason="model_auth",
        error_message="the key was refused",
        exit_code=1,
        workspace=jobs_pb2.Workspace(path="/srv/x", read_only=True),
    )
    shown = (await ctl("job", "get", JOB)).out
    assert "Why:        the key was refused (model_auth)" in shown
    assert "Workspace:  path /srv/x (read-only)" in shown
    assert shown.endswith("\nhalf an answer\n")


async def test_a_job_is_shown_with_its_cost_its_limits_and_what_it_waits_for(daemon: FakeDaemon, ctl: Ctl) -> None:
    budgets = jobs_pb2.Budgets(max_steps=60, wall_clock_ms=600_000, microdollars=500_000)
    use: dict[str, Any] = {"tool_calls": 7, "cost_microdollars": 12_300, "cost_known": True, "budgets": budgets}
    daemon.add_job(asking(of="all"), **use)
    shown = (await ctl("job", "get", JOB)).out
    assert "State:      waiting (2)" in shown
    assert f"Asks:       2 questions: perstackctl job questions {JOB}" in shown
    assert "Runs:       0, 0 steps, 7 tool calls, 0 events" in shown
    assert "Cost:       $0.0123" in shown
    assert "Limits:     60 steps, 10m00s, $0.5000" in shown
    assert "waiting (2)" in (await ctl("job", "get", JOB)).out
    assert json.loads((await ctl("job", "get", JOB, "-o", "json")).out)["openQuestions"] == 2


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("budget_tokens", "stopped (tokens)"),
        ("budget_money", "stopped (cost)"),
        ("max_steps_job", "stopped (steps)"),
        ("budget_toolCalls", "stopped (calls)"),
        ("budget_wallClock", "stopped (time)"),
        ("unheard_of", "stopped"),
    ],
)
async def test_a_list_names_the_limit_that_stopped_a_job(daemon: FakeDaemon, ctl: Ctl, reason: str, state: str) -> None:
    daemon.add_job([], state=jobs_pb2.JOB_STATE_STOPPED, error_reason=reason, expert_key="e")
    assert f"  {state}  " in (await ctl("job", "ls")).out


async def test_a_job_is_paused_and_goes_on(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(endless(JOB))
    paused = await ctl("job", "pause", JOB[:8])
    assert (paused.code, f"perstackctl job resume {JOB}" in paused.out) == (0, True)
    assert (await ctl("job", "pause", JOB)).code == 0
    assert "paused" in (await ctl("job", "ls")).out
    resumed = await ctl("job", "resume", JOB)
    assert (resumed.code, f"perstackctl job watch {JOB}" in resumed.out) == (0, True)
    assert [item.type for item in daemon.jobs[JOB].items[-2:]] == ["jobPaused", "jobResumed"]
    assert json.loads((await ctl("job", "resume", JOB, "-o", "json")).out)["paused"] is False


async def test_cancelling_says_what_comes_next(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(endless(JOB))
    done = await ctl("job", "cancel", JOB, "--reason", "wrong branch")
    assert (done.code, daemon.requests("CancelJob")[0].reason) == (0, "wrong branch")
    assert f"perstackctl job watch {JOB}" in done.out


async def test_runs_are_a_tree(daemon: FakeDaemon, ctl: Ctl) -> None:
    ctl.env["COLUMNS"] = "160"
    usage = jobs_pb2.Usage(input_tokens=10, output_tokens=5)
    daemon.add_job([])
    daemon.runs = [
        runs_pb2.Run(id=PARENT, expert_key="a", phase="delegating", step_number=2, usage=usage, started_at=1000),
        runs_pb2.Run(
            id=CHILD,
            parent_run_id=PARENT,
            expert_key="b",
            outcome="completed",
            sandbox_ids=["S1", SANDBOX],
            started_at=1000,
            finished_at=3500,
        ),
    ]
    rows = (await ctl("job", "runs", JOB)).out.split("\n")
    assert rows[1].split()[:6] == ["a", PARENT, "delegating", "2", "10", "5"]
    assert rows[2].split() == ["└", "b", CHILD, "completed", "0", "0", "0", "2.5s", SANDBOX]
