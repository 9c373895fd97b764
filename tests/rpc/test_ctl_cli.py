"""The real program against a daemon of its own: what it prints, where, and what it ends with."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from perstack.v1 import events_pb2, experts_pb2, jobs_pb2, pools_pb2, runs_pb2, sandboxes_pb2, system_pb2

from tests.fakes.daemon_api import CHILD, JOB, PARENT, Cut, EventLog, FakeDaemon, asking, story

pytestmark = pytest.mark.anyio
TIMEOUT = 30
ROOT = Path(__file__).parents[2]
LAST = max(item.seq for item in story() if isinstance(item, events_pb2.Event))
SANDBOX = "01JD3ZSANDBOX0000000000001"


@dataclass
class Done:
    """How a call of perstackctl ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(row) for row in self.out.splitlines()]


@dataclass
class Ctl:
    """Calls perstackctl in a directory of its own."""

    address: str
    cwd: Path
    env: dict[str, str] = field(default_factory=dict)

    async def start(self, *args: str, **streams: Any) -> asyncio.subprocess.Process:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.cwd), "PERSTACK_ADDRESS": self.address, "TERM": "xterm"}
        pipes = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "perstackctl",
            *args,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.cwd,
            env=env | self.env | {"PYTHONPATH": f"{ROOT}:{ROOT}/proto"},
            **(pipes | streams),
        )

    async def __call__(self, *args: str, stdin: bytes | None = None) -> Done:
        piped = {"stdin": asyncio.subprocess.PIPE} if stdin is not None else {}
        return await ended(await self.start(*args, **piped), stdin)


async def ended(process: asyncio.subprocess.Process, stdin: bytes | None = None) -> Done:
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Done(process.returncode, (out or b"").decode(), (err or b"").decode())


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with FakeDaemon(str(tmp_path / "p.sock")) as daemon:
        yield daemon


@pytest.fixture
def ctl(daemon: FakeDaemon, tmp_path: Path) -> Ctl:
    project = tmp_path / "project"
    project.mkdir()
    (project / "perstack.toml").write_text('[experts."fitness-assistant"]\ninstruction = "x"\n')
    return Ctl(daemon.path, project)


def ending(outcome: str, **words: str) -> Any:
    def items(_job: str) -> list[Any]:
        log = EventLog()
        log.created()
        log.finished(outcome, **words)
        return log.items

    return items


# --- run ------------------------------------------------------------------------------------------------------------
async def test_on_a_pipe_a_run_is_one_event_a_line(daemon: FakeDaemon, ctl: Ctl) -> None:
    done = await ctl("run", "fitness-assistant", "Start today's session")
    assert (done.code, done.err) == (0, "")
    assert [row["seq"] for row in done.rows] == list(range(1, LAST + 1))
    assert done.rows[-1]["answer"] == "Ten minutes of rowing, then rest."
    assert done.rows[-1]["time"].endswith("Z")
    sent = daemon.requests("CreateJob")[0]
    assert (sent.expert_key, sent.query) == ("fitness-assistant", "Start today's session")
    assert sent.workspace.path == str(ctl.cwd)
    assert sent.definition.source == str(ctl.cwd / "perstack.toml")
    assert len(sent.idempotency_key) > 20


async def test_pieces_of_text_are_printed_when_they_are_wanted(ctl: Ctl) -> None:
    done = await ctl("run", "fitness-assistant", "q", "--stream")
    assert "".join(row["delta"] for row in done.rows if "delta" in row) == "Rowing, then rest."


async def test_every_option_reaches_the_daemon(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.resolution.required_env.extend(["TOKEN"])
    (ctl.cwd / "ci.env").write_text("TOKEN=from-file\nUNASKED=x\n")
    options = "--workspace reports --read-only --env-path ci.env --allow-domain a.example --allow-domain b.example"
    more = "--model m --provider p --max-steps 7 --idempotency-key k --tenant t --detach"
    limits = "--max-time 1h30m --max-tokens 200000 --max-cost 0.29 --max-tool-calls 50"
    done = await ctl("run", "e", "q", *options.split(), *more.split(), *limits.split())
    assert (done.code, done.out) == (0, f"{JOB}\n")
    sent = daemon.requests("CreateJob")[0]
    assert (sent.workspace.name, sent.workspace.read_only) == ("reports", True)
    assert dict(sent.env) == {"TOKEN": "from-file"}
    assert list(sent.allow_domains) == ["a.example", "b.example"]
    assert (sent.model, sent.provider, sent.max_steps, sent.idempotency_key, sent.tenant) == ("m", "p", 7, "k", "t")
    assert sent.budgets == jobs_pb2.Budgets(
        wall_clock_ms=5_400_000, tokens=200_000, microdollars=290_000, tool_calls=50
    )
    assert not daemon.requests("WatchJob")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--max-time=soon", "is not a length of time; write 90"),
        ("--max-cost=1,50", "is not an amount of US dollars"),
        ("--max-cost=0.0000001", "finer than a millionth"),
        ("--max-tokens=0", "--max-tokens"),
    ],
)
async def test_a_limit_that_cannot_be_read_is_a_usage_error(
    daemon: FakeDaemon, ctl: Ctl, option: str, said: str
) -> None:
    done = await ctl("run", "e", "q", option)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not daemon.calls


async def test_each_run_has_a_key_of_its_own(daemon: FakeDaemon, ctl: Ctl) -> None:
    for _ in range(2):
        await ctl("run", "e", "q", "--detach")
    first, second = daemon.requests("CreateJob")
    assert first.idempotency_key != second.idempotency_key


async def test_missing_values_are_named_and_nothing_is_made(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.resolution.required_env.extend(["GH_TOKEN", "OTHER"])
    daemon.resolution.env_paths.extend([".env", ".env.local"])
    (ctl.cwd / ".env").write_text("OTHER=1\n")
    done = await ctl("run", "e", "q")
    assert done.code == 2
    assert "no value for GH_TOKEN, which" in done.err
    assert f"{ctl.cwd}/.env, {ctl.cwd}/.env.local (not there)" in done.err
    assert not daemon.requests("CreateJob")


async def test_a_query_is_piped_in(daemon: FakeDaemon, ctl: Ctl) -> None:
    await ctl("run", "e", "--detach", stdin="Grüße\n".encode())
    await ctl("run", "e", "-", "--detach", stdin=b"again")
    assert [request.query for request in daemon.requests("CreateJob")] == ["Grüße\n", "again"]


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (b"ab\xff", "is not UTF-8: byte 2 (line 1) is 0xff"),
        (b"x" * (2 << 20), "is larger than the 1 MiB that are allowed"),
        (b"", "the query is empty"),
    ],
    ids=["not UTF-8", "2 MiB", "empty"],
)
async def test_queries_that_cannot_be_sent_are_usage_errors(
    daemon: FakeDaemon, ctl: Ctl, stdin: bytes, said: str
) -> None:
    done = await ctl("run", "e", stdin=stdin)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not daemon.calls


async def test_without_a_definition_the_places_are_named(daemon: FakeDaemon, ctl: Ctl, tmp_path: Path) -> None:
    ctl.cwd = tmp_path
    done = await ctl("run", "e", "q")
    assert done.code == 2
    assert f"there is no perstack.toml in {tmp_path}" in done.err


@pytest.mark.parametrize(
    ("outcome", "code"), [("completed", 0), ("failed", 1), ("stopped", 3), ("cancelled", 5), ("refused", 6)]
)
async def test_a_run_ends_with_the_code_of_its_job(daemon: FakeDaemon, ctl: Ctl, outcome: str, code: int) -> None:
    daemon.items = ending(outcome, message="because")
    done = await ctl("run", "e", "q", "-o", "text")
    assert done.code == code
    assert f"job {JOB} {outcome}" in done.out
    assert "because" in done.out


@pytest.mark.parametrize(
    ("method", "code", "exit_code"),
    [
        ("Resolve", grpc.StatusCode.INVALID_ARGUMENT, 2),
        ("CreateJob", grpc.StatusCode.RESOURCE_EXHAUSTED, 6),
        ("CreateJob", grpc.StatusCode.PERMISSION_DENIED, 6),
        ("CreateJob", grpc.StatusCode.FAILED_PRECONDITION, 1),
        ("CreateJob", grpc.StatusCode.UNAVAILABLE, 7),
    ],
)
async def test_a_refusal_is_one_sentence_and_its_code(
    daemon: FakeDaemon, ctl: Ctl, method: str, code: grpc.StatusCode, exit_code: int
) -> None:
    daemon.fail(method, code, "a_reason", "no, because of \x1b[31mthis\x1b[0m")
    done = await ctl("run", "e", "q")
    assert (done.code, done.out, done.err) == (exit_code, "", "perstackctl: no, because of this\n")


async def test_warnings_of_the_definition_go_to_standard_error(daemon: FakeDaemon, ctl: Ctl) -> None:
    severity = experts_pb2.SEVERITY_WARNING
    daemon.warnings = [experts_pb2.Finding(severity=severity, message="unknown key", line=3, column=1)]
    done = await ctl("run", "e", "q", "--detach")
    assert done.out == f"{JOB}\n"
    assert f"{ctl.cwd}/perstack.toml:3:1: warning: unknown key" in done.err


async def test_as_a_table_a_run_is_its_runs_and_its_answer(ctl: Ctl) -> None:
    done = await ctl("run", "e", "q", "-o", "table")
    assert done.out.split("\n") == [
        "EXPERT             RUN                         OUTCOME    STEPS  CALLS    IN  OUT   TOOK",
        f"fitness-assistant  {PARENT}  completed      4      3  4.0k  200   2.0s",
        f"└ pro-trainer      {CHILD}  completed      1      0  1.0k   50  320ms",
        "",
        "0 steps, 0 tool calls, cost unknown",
        "",
        "Ten minutes of rowing, then rest.",
        "",
    ]


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------
def endless(_job: str) -> list[Any]:
    return story()[:6]


async def interrupted(daemon: FakeDaemon, ctl: Ctl, *args: str) -> asyncio.subprocess.Process:
    """A call that shows a job, with the first Ctrl-C sent once an event was shown."""
    process = await ctl.start(*args)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), TIMEOUT)
    process.send_signal(signal.SIGINT)
    return process


async def test_the_first_interrupt_cancels_the_job_and_waits_for_its_end(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = endless
    done = await ended(await interrupted(daemon, ctl, "run", "e", "q"))
    assert done.code == 5
    assert [request.job_id for request in daemon.requests("CancelJob")] == [JOB]
    assert done.rows[-1]["outcome"] == "cancelled"
    assert f"cancelling job {JOB}" in done.err


async def test_a_job_that_completes_in_spite_of_the_interrupt_completed(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items, daemon.on_cancel = endless, "completed"
    assert (await ended(await interrupted(daemon, ctl, "run", "e", "q"))).code == 0


async def test_the_second_interrupt_leaves_at_once(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items, daemon.on_cancel = endless, ""
    process = await interrupted(daemon, ctl, "run", "e", "q")
    assert process.stderr is not None
    assert b"cancelling" in await asyncio.wait_for(process.stderr.readline(), TIMEOUT)
    process.send_signal(signal.SIGINT)
    done = await ended(process)
    assert done.code == 130
    command = f"perstackctl job watch {JOB}"
    assert done.err == f"\nperstackctl: left job {JOB}, which was asked to end; see its end with {command}\n"
    assert "Traceback" not in done.err


async def test_the_second_interrupt_leaves_though_nobody_reads_the_output(daemon: FakeDaemon, ctl: Ctl) -> None:
    log = EventLog()
    for _ in range(400):
        log.add("skillStderr", {"text": "x" * 4000})
    daemon.items, daemon.batch_size = lambda _job: log.items, 400
    unread, written = os.pipe()
    try:
        process = await ctl.start("run", "e", "q", stdout=written)
        assert await asyncio.wait_for(asyncio.to_thread(os.read, unread, 1), TIMEOUT)  # the rest is more than fits
        async with asyncio.timeout(TIMEOUT):
            while process.returncode is None:  # signals that wait at the same time are one: send until it went
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 0.2)
        done = await ended(process)
    finally:
        os.close(unread)
        os.close(written)
    assert (done.code, "left job" in done.err) == (130, True)


async def test_leaving_a_watch_does_not_cancel_the_job(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(endless(JOB))
    done = await ended(await interrupted(daemon, ctl, "job", "watch", JOB))
    assert done.code == 130
    assert not daemon.requests("CancelJob")
    assert "Traceback" not in done.err


async def test_a_reader_that_leaves_ends_the_output_quietly(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = endless
    process = await ctl.start("run", "e", "q")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), TIMEOUT)
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # as `head -1` does
    await daemon.append(JOB, *story()[6:])
    async with asyncio.timeout(TIMEOUT):
        code = await process.wait()
        assert process.stderr is not None
        said = (await process.stderr.read()).decode()
    assert code == 141
    assert "Traceback" not in said
    assert "Exception ignored" not in said


# --- an unreachable daemon ------------------------------------------------------------------------------------------
async def test_a_missing_socket_is_one_sentence_and_7(ctl: Ctl, tmp_path: Path) -> None:
    ctl.address = str(tmp_path / "none.sock")
    done = await ctl("job", "ls")
    assert (done.code, done.out, done.err.count("\n")) == (7, "", 1)
    assert f"there is no daemon at {tmp_path}/none.sock" in done.err


async def test_a_dead_daemon_is_one_sentence_and_7(ctl: Ctl, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "dead.sock"))
    done = await ctl("run", "e", "q", "--address", str(tmp_path / "dead.sock"))
    assert (done.code, done.err.count("\n")) == (7, 1)
    assert "nobody listens" in done.err


async def test_the_address_next_to_the_command_counts(daemon: FakeDaemon, ctl: Ctl) -> None:
    ctl.address = "/nonexistent/p.sock"
    assert (await ctl("system", "info", "--address", daemon.path)).code == 0
    assert (await ctl("--address", daemon.path, "system", "info")).code == 0
    assert (await ctl("--address", daemon.path, "system", "info", "--address", "/nonexistent/x.sock")).code == 7


async def test_a_daemon_that_dies_while_a_job_is_watched_leaves_the_way_to_go_on(ctl: Ctl, tmp_path: Path) -> None:
    path = str(tmp_path / "mortal.sock")
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/proto"}
    mortal = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.daemon_api", path, "0.05", stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=env
    )
    try:
        assert mortal.stdout is not None
        await asyncio.wait_for(mortal.stdout.readline(), TIMEOUT)
        ctl.address = path
        process = await ctl.start("run", "e", "q", "--reconnect", "0.5")
        assert process.stdout is not None
        seen = [await asyncio.wait_for(process.stdout.readline(), TIMEOUT) for _ in range(5)]
        mortal.kill()
        done = await ended(process)
    finally:
        if mortal.returncode is None:
            mortal.kill()
        await mortal.wait()
    last = json.loads(seen[-1])["seq"] if not done.rows else done.rows[-1]["seq"]
    assert done.code == 7
    sentence = done.err.strip().split("\n")[-1]
    assert sentence.startswith(f"perstackctl: lost the daemon while watching job {JOB}")
    assert sentence.endswith(f"go on with: perstackctl job watch {JOB} --after {last}")
    assert "Traceback" not in done.err


async def test_a_cut_watch_prints_every_event_once(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(story())
    daemon.batch_size = 1
    daemon.cuts = [Cut(5), Cut(11, grpc.StatusCode.ABORTED, "watch_cut")]
    done = await ctl("job", "watch", JOB)
    assert done.code == 0
    assert [row["seq"] for row in done.rows] == list(range(1, LAST + 1))


# --- jobs -----------------------------------------------------------------------------------------------------------
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


# --- the rest -------------------------------------------------------------------------------------------------------
async def test_a_posture_is_a_table_with_cis_numbers_and_exceptions(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.sandboxes = [sandboxes_pb2.Sandbox(id=SANDBOX, template="base")]
    good = sandboxes_pb2.PostureCheck(
        name="CapEff", expected="0", actual="0", ok=True, cis="5.3", source="/proc/1/status"
    )
    bad = sandboxes_pb2.PostureCheck(name="Seccomp", expected="2", actual="0", ok=False, cis="5.21")
    daemon.postures[SANDBOX] = sandboxes_pb2.GetPostureResponse(
        sandbox_id=SANDBOX, checks=[good, bad], ok=False, exceptions=["netadmin"]
    )
    done = await ctl("sandbox", "posture", SANDBOX[:13])
    assert done.code == 1
    rows = [row.split() for row in done.out.split("\n")]
    assert rows[0] == ["OK", "CHECK", "ACTUAL", "CIS", "SOURCE"]
    assert rows[1] == ["ok", "CapEff", "0", "5.3", "/proc/1/status"]
    assert rows[2] == ["DIFFERS", "Seccomp", "0", "5.21", "-"]
    assert "Seccomp differs\n  expected: 2\n  actual:   0" in done.out
    assert "1 of 2 checks differ. Exceptions of the template: netadmin." in done.out
    daemon.postures[SANDBOX].ok = True
    assert (await ctl("sandbox", "posture", SANDBOX, "-o", "json")).code == 0


async def test_a_check_that_an_exception_loosens_is_marked_and_said_what_it_expects(
    daemon: FakeDaemon, ctl: Ctl
) -> None:
    root = sandboxes_pb2.PostureCheck(
        name="root", expected="rw (exception writable-root)", actual="relatime rw", ok=True, cis="5.12"
    )
    daemon.sandboxes = [sandboxes_pb2.Sandbox(id=SANDBOX, template="base")]
    daemon.postures[SANDBOX] = sandboxes_pb2.GetPostureResponse(
        sandbox_id=SANDBOX, checks=[root], ok=True, exceptions=["writable-root"]
    )
    done = await ctl("sandbox", "posture", SANDBOX)
    assert done.code == 0
    assert done.out.split("\n")[1].split()[:2] == ["excepted", "root"]
    assert "root is loosened, CIS 5.12: rw (exception writable-root)" in done.out
    assert "as its template asks. Exceptions of the template: writable-root." in done.out


async def test_sandboxes_pools_and_the_daemon_are_shown(daemon: FakeDaemon, ctl: Ctl) -> None:
    state = sandboxes_pb2.SANDBOX_STATE_IDLE
    daemon.sandboxes = [sandboxes_pb2.Sandbox(id=SANDBOX, template="base", state=state, uid=200001, runtime="runc")]
    daemon.pools = [
        pools_pb2.Pool(template="base", idle=2, min_idle=4, max=16, refill_p50_ms=250, refill_p99_ms=300),
        pools_pb2.Pool(template="full", halted="no such image", failures=5),
    ]
    daemon.info = system_pb2.GetInfoResponse(version="0.1.0", state="serving", kernel="6.1", cgroup_version=2)
    assert f"{SANDBOX}  base      idle   200001  runc" in (await ctl("sandbox", "ls")).out
    assert f"Sandbox:   {SANDBOX}" in (await ctl("sandbox", "get", SANDBOX[:8])).out
    pools = (await ctl("pool", "status")).out
    assert "250/300 ms" in pools
    assert "no such image (5 failed starts in a row)" in pools
    assert (await ctl("pool", "ls")).out == pools
    daemon.postures[SANDBOX] = sandboxes_pb2.GetPostureResponse(sandbox_id=SANDBOX, ok=True)
    daemon.postures[SANDBOX].checks.add(name="mounts", ok=True, actual="/run/" * 50, cis="5.5", source="engine")
    narrow = Ctl(ctl.address, ctl.cwd, {**ctl.env, "COLUMNS": "80"})
    for command in ("sandbox ls", "pool status", f"sandbox posture {SANDBOX}"):
        rows = (await narrow(*command.split())).out.partition("\n\n")[0].splitlines()
        assert max(map(len, rows)) <= 80
    info = (await ctl("system", "info")).out
    assert "perstackd 0.1.0, serving" in info
    assert "6.1, cgroup v2" in info
    for command in ("sandbox ls", f"sandbox get {SANDBOX}", "pool status", "system info", "version"):
        assert json.loads((await ctl(*command.split(), "-o", "json")).out)


async def test_a_definition_is_validated_with_all_its_findings(daemon: FakeDaemon, ctl: Ctl) -> None:
    severity = experts_pb2.SEVERITY_WARNING
    finding = experts_pb2.Finding(
        severity=severity, message="did you mean skills?", line=3, column=1, key="experts.a.skils"
    )
    daemon.resolution.findings.append(finding)
    plain = await ctl("expert", "validate")
    assert plain.code == 0
    assert plain.out.startswith("perstack.toml:3:1: warning: did you mean skills? [experts.a.skils]\n")
    assert plain.out.endswith("perstack.toml can be run: 1 warning.\n")
    strict = await ctl("expert", "validate", "--strict")
    assert (strict.code, "does not pass --strict: 1 warning" in strict.out) == (1, True)
    sent = daemon.requests("Resolve")[0]
    assert (sent.expert_key, sent.report_errors) == ("", True)
    finding.severity = experts_pb2.SEVERITY_ERROR
    daemon.resolution = experts_pb2.ResolveResponse(findings=[finding, finding])
    failed = await ctl("expert", "validate")
    assert (failed.code, failed.out.count(": error: ")) == (1, 2)
    assert "cannot be run as it is: 2 errors" in failed.out
    document = json.loads((await ctl("expert", "validate", "-o", "json")).out)
    assert (document["valid"], document["source"]) == (False, f"{ctl.cwd}/perstack.toml")
    assert document["findings"][0]["key"] == "experts.a.skils"


async def test_an_older_daemon_tells_its_errors_in_words(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.fail("Resolve", grpc.StatusCode.INVALID_ARGUMENT, "definition_invalid", "p.toml:1:1: one\np.toml:2:1: two")
    broken = await ctl("expert", "validate")
    assert (broken.code, broken.out) == (1, "p.toml:1:1: one\np.toml:2:1: two\n")


def resolved() -> experts_pb2.ResolveResponse:
    """A team of three, one of whom is not in the file."""
    base = experts_pb2.ResolvedSkill(name="@perstack/base", type="base", isolation="shared", tools=["exec", "todo"])
    tracker = experts_pb2.ResolvedSkill(
        name="tracker",
        type="mcpStdioSkill",
        isolation="own",
        target="tracker-mcp",
        omit=["drop"],
        required_env=["TOKEN", "OTHER"],
        allowed_domains=["api.tracker.example"],
        workspace="ro",
        approval=["close"],
        tool_timeout_ms=1500,
        lazy_init=True,
    )
    ask = experts_pb2.ResolvedSkill(name="ask", type="interactiveSkill", tools=["choose"])
    lead = experts_pb2.ResolvedExpert(
        key="lead",
        version="1.0.0",
        description="Leads " + "with care and patience " * 6,
        delegates=["helper@^1.0.0", "gone"],
        skills=["tracker", "ask"],
        digest="sha256:" + "ab" * 32,
        skill_details=[base, tracker, ask],
        provider="anthropic",
        model="claude-sonnet-5",
        reasoning="low",
        max_steps=20,
    )
    helper = experts_pb2.ResolvedExpert(key="helper", description="Helps", delegates=["leaf"], skill_details=[base])
    leaf = experts_pb2.ResolvedExpert(key="leaf", skill_details=[base])
    limits = experts_pb2.ResolvedLimits(
        max_steps=60, max_retries=5, generation_timeout_ms=300_000, tool_timeout_ms=60_000
    )
    return experts_pb2.ResolveResponse(
        experts=[lead, helper, leaf],
        required_env=["OTHER", "TOKEN"],
        env_paths=[".env", ".env.local"],
        limits=limits,
        template="base",
    )


async def test_an_expert_is_shown_as_a_job_would_have_it(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.resolution = resolved()
    (ctl.cwd / ".env").write_text("TOKEN=never-shown\n")
    done = await ctl("expert", "show", "lead")
    assert (done.code, done.err) == (0, "")
    assert daemon.requests("Resolve")[0].expert_key == "lead"
    for words in (
        "anthropic/claude-sonnet-5",
        "60 a job, 20 a run of this expert",
        "5m, 5 retries",
        "tracker         stdio        own        own sandbox             ro",
        "ask             interactive  -          no sandbox, you answer  -",
        "@perstack/base: exec, todo",
        "all that its server offers; without drop; a person approves close;",
        "    1.5s a call; started when first used",
        "tracker: api.tracker.example",
        "├─ helper@^1.0.0  Helps",
        "│  └─ leaf",
        "└─ gone  not in this file",
        "TOKEN     lead/tracker  .env",
        "OTHER     lead/tracker  not found",
        "Looked in the environment and in .env, .env.local (not there).",
    ):
        assert words in done.out, words
    assert "never-shown" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80


async def test_programs_are_told_where_values_are_and_never_the_values(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.resolution = resolved()
    (ctl.cwd / "ci.env").write_text("TOKEN=never-shown\n")
    done = await ctl("expert", "show", "lead", "--env-path", "ci.env", "-o", "json")
    document = json.loads(done.out)
    assert document["expert"] == "lead"
    assert document["requiredEnv"] == [
        {"name": "OTHER", "neededBy": ["lead/tracker"], "foundIn": None},
        {"name": "TOKEN", "neededBy": ["lead/tracker"], "foundIn": f"{ctl.cwd}/ci.env"},
    ]
    assert document["limits"]["maxSteps"] == 60
    assert "never-shown" not in done.out


async def test_without_a_name_all_experts_are_listed(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.resolution = resolved()
    done = await ctl("expert", "show")
    lines = done.out.splitlines()
    assert lines[0].split() == ["EXPERT", "VERSION", "MODEL", "SKILLS", "DELEGATES", "DESCRIPTION"]
    assert [row.split()[0] for row in lines[1:]] == ["lead", "helper", "leaf"]
    assert max(map(len, lines)) <= 80
    assert daemon.requests("Resolve")[0].expert_key == ""


async def test_a_definition_that_cannot_be_run_is_not_shown_but_complained_about(daemon: FakeDaemon, ctl: Ctl) -> None:
    finding = experts_pb2.Finding(severity=experts_pb2.SEVERITY_ERROR, message="is empty", line=2, column=1)
    daemon.resolution = experts_pb2.ResolveResponse(findings=[finding])
    done = await ctl("expert", "show", "lead")
    assert (done.code, done.out) == (1, "perstack.toml:2:1: error: is empty\n")


async def test_a_new_expert_needs_no_daemon(ctl: Ctl) -> None:
    ctl.address = "/nonexistent/p.sock"
    done = await ctl("expert", "new", "coach", "--from", "skill", "--dir", "sub")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"Wrote {ctl.cwd}/sub/perstack.toml",
        f"Added .env, .env.local to {ctl.cwd}/sub/.gitignore",
        "",
        "Next: perstackctl expert validate --config sub/perstack.toml",
        '      perstackctl run coach --config sub/perstack.toml "What it shall do"',
    ]
    again = await ctl("expert", "new", "coach", "--dir", "sub")
    assert (again.code, again.out) == (1, "")
    assert "has an expert 'coach' already, and nothing was written" in again.err
    assert (await ctl("expert", "new", "Bad Name")).code == 2


async def test_start_sends_programs_to_run(ctl: Ctl) -> None:
    done = await ctl("start")
    assert done.code == 2
    assert "use perstackctl run" in done.err


# --- a terminal -----------------------------------------------------------------------------------------------------
async def on_a_terminal(ctl: Ctl, *args: str, typed: bytes = b"") -> tuple[int, str]:
    """A call whose standard input and output are a terminal; returns its code and all that was written to it."""
    ours, theirs = pty.openpty()
    process = await ctl.start(*args, stdin=theirs, stdout=theirs)
    os.close(theirs)
    os.write(ours, typed)

    def read() -> bytes:
        written = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side is closed
                return written
            written += piece

    try:
        written, code = await asyncio.wait_for(asyncio.gather(asyncio.to_thread(read), process.wait()), TIMEOUT)
    finally:
        if process.returncode is None:
            process.kill()
        os.close(ours)
    return code, written.decode().replace("\r\n", "\n")


async def test_on_a_terminal_a_run_is_a_live_view_and_the_answer_stands_below(ctl: Ctl) -> None:
    code, written = await on_a_terminal(ctl, "run", "fitness-assistant", "q")
    assert code == 0
    assert "\x1b[?25l" in written  # the cursor is hidden, and shown again
    assert written.index("\x1b[?25h") > written.index("\x1b[?25l")
    assert written.endswith("\nTen minutes of rowing, then rest.\n")
    assert "pro-trainer" in written


async def test_an_answer_cannot_act_on_the_terminal(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.items = lambda job: story(job, answer="a\x1b]0;owned\x07b\x1b[2J\x9b31mc")
    _, written = await on_a_terminal(ctl, "run", "fitness-assistant", "q")
    assert written.endswith("\nabc\n")
    assert "owned" not in written
    assert "\x1b[2J" not in written
    assert "\x9b" not in written


async def test_a_dumb_terminal_gets_the_log(ctl: Ctl) -> None:
    ctl.env["TERM"] = "dumb"
    code, written = await on_a_terminal(ctl, "run", "fitness-assistant", "q")
    assert code == 0
    assert "\x1b" not in written
    assert "delegates to pro-trainer" in written


async def test_start_asks_for_expert_and_query(daemon: FakeDaemon, ctl: Ctl) -> None:
    experts = [
        experts_pb2.ResolvedExpert(key="pro-trainer", description="plans"),
        experts_pb2.ResolvedExpert(key="fitness-assistant", description="interviews", delegates=["pro-trainer"]),
    ]
    daemon.resolution = experts_pb2.ResolveResponse(experts=experts)
    code, written = await on_a_terminal(ctl, "start", typed=b"1\nGo\n")
    assert code == 0
    assert "1  fitness-assistant  - interviews" in written
    sent = daemon.requests("CreateJob")[0]
    assert (sent.expert_key, sent.query) == ("fitness-assistant", "Go")
