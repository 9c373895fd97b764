"""`run` through the real program: what is sent, printed and ended with."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from perstack.v1 import experts_pb2, jobs_pb2

from tests.fakes.daemon_api import FakeDaemon
from tests.fakes.event_log import CHILD, JOB, PARENT, EventLog
from tests.rpc.ctl_program import LAST, Ctl

pytestmark = pytest.mark.anyio


def ending(outcome: str, **words: str) -> Any:
    def items(_job: str) -> list[Any]:
        log = EventLog()
        log.created()
        log.finished(outcome, **words)
        return log.items

    return items


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
