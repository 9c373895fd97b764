"""Definitions and their experts, through the real program: validated, shown, made."""

import json

import grpc
import pytest
from perstack.v1 import experts_pb2

from tests.fakes.daemon_api import FakeDaemon
from tests.rpc.ctl_program import Ctl

pytestmark = pytest.mark.anyio


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
