"""Servers on stdio that misbehave in every way: each is one clear error, and the run goes on."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.conftest import as_program
from tests.integration.runner.fake_daemon import FakeDaemon, session, value_of
from tests.integration.runner.test_exec import alive, written
from tests.integration.runner.test_skills import raw, states

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("many-tools", "more than 1000 tools"),
        ("endless-pages", "more than 100 pages"),
        ("large-pages", "the server's tool list is over 8 MiB"),
        ("die-at-once", "its last words: no licence key"),
        ("no-handshake", "not ready after 1 s"),
        ("no-list", "not ready after 1 s"),
        (
            "chatty",
            "not ready after 2 s; its output had 2 lines that are no messages of the protocol, the first: usage: ",
        ),
        ("long-line", "a line of its output is over 16 MiB"),
        ("garbage-at-once", "it does not speak the protocol: 1001 lines in a row are no messages"),
        ("long-name", "a tool's name is 257 characters, the bound is 256"),
        ("empty-name", "lists a tool without a name"),
        ("twice", "lists these tools more than once: echo; omit them"),
        ("not-finite", "the input schema of endless has a number that JSON does not have"),
        ("deep-schema", "the server's answer is not a valid message"),
        ("large-schema", "bytes, the bound is 983040; pick fewer tools"),
        ("no-name", "its server's answer is not what the protocol asks for: serverInfo.name"),
    ],
)
async def test_a_server_that_cannot_be_used_is_reported_and_the_run_goes_on(
    daemon: FakeDaemon, workspace: Path, mode: str, says: str
) -> None:
    limits = pb.RunnerLimits(
        skill_start_timeout_ms={"no-handshake": 1000, "no-list": 1000, "chatty": 2000}.get(mode, 20_000)
    )
    await daemon.begin(workspace, skills=[raw("s", mode)], limits=limits)
    # The first question came after it, so the model is not asked before it is known which tools there are.
    failed = daemon.skill_states[-1]
    assert failed.state == pb.SkillState.STATE_FAILED
    assert says in failed.detail
    assert (await daemon.value(1, "healthCheck"))["status"] == "ok"


@pytest.mark.parametrize("mode", ["completion", "cyclic-schema"])
async def test_what_only_looks_wrong_is_handed_on(daemon: FakeDaemon, workspace: Path, mode: str) -> None:
    """The daemon renames a tool that has a base tool's name, and reads schemas itself."""
    await daemon.begin(workspace, skills=[raw("s", mode)])
    (connected,) = [news for news in daemon.skill_states if news.state == pb.SkillState.STATE_CONNECTED]
    tool = connected.tools[0]
    assert tool.name == {"completion": "attemptCompletion", "cyclic-schema": "cyclic"}[mode]
    if mode == "cyclic-schema":
        assert json.loads(tool.input_schema)["properties"] == {"again": {"$ref": "#"}}


@pytest.mark.parametrize("skill", [raw("s", omit=["echo"]), raw("s", pick=["where"])])
async def test_a_tool_that_cannot_be_offered_can_be_left_out(
    daemon: FakeDaemon, workspace: Path, skill: pb.SkillSpec
) -> None:
    await daemon.begin(workspace, skills=[skill])
    assert daemon.skill_states[-1].state == pb.SkillState.STATE_CONNECTED


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("cut-answer", "the server's answer is not a valid message"),
        ("wrong-answer", "the server's answer is not a valid message"),
        ("no-utf8", "the server's answer is not a valid message"),
        ("large-answer", "its answer is 100 MiB, the bound is 16 MiB"),
    ],
)
async def test_an_answer_that_cannot_be_used_fails_its_call_at_once_and_the_server_goes_on(
    daemon: FakeDaemon, workspace: Path, mode: str, says: str
) -> None:
    await daemon.begin(workspace, skills=[raw("s", mode, "counting")])
    async with asyncio.timeout(15):  # the call's own time-out is a minute
        (result,) = await daemon.results(1, ("echo", {}), skill="s")
    assert result.is_error
    assert value_of(result) == {"error": "tool_error", "message": says}
    (image,) = await daemon.results(2, ("image", {}), skill="s")
    assert not image.is_error
    assert (workspace / "starts").read_text() == "x\n"


@pytest.mark.parametrize(
    ("mode", "error", "says"),
    [
        ("garbage", "skill_disconnected", "it does not speak the protocol"),
        ("endless-answer", "skill_disconnected", "a line of its output is over 16 MiB"),
        ("ask-flood", "skill_disconnected", "it asked for more than 64 things at once"),
        ("news-flood", "timeout", "no answer in 2 s"),
        ("log-flood", "timeout", "no answer in 2 s"),
        ("stderr-flood", "timeout", "no answer in 2 s"),
    ],
)
async def test_a_server_that_floods_fails_its_call_and_leaves_the_runner_its_memory_and_time(
    place: Path, workspace: Path, mode: str, error: str, says: str
) -> None:
    async with session(place / "r.sock", as_program) as daemon:
        milliseconds = 2_000 if error == "timeout" else 20_000
        await daemon.begin(workspace, skills=[raw("s", mode, tool_timeout_ms=milliseconds)])
        before = time.monotonic()
        flooding, base = await daemon.mixed(1, ("s", "echo", {}), ("", "healthCheck", {}))
        assert value_of(flooding)["error"] == error
        assert says in value_of(flooding)["message"]
        assert time.monotonic() - before < 18
        assert base.duration_ms < 2000
        assert (await daemon.value(2, "healthCheck"))["status"] == "ok"
        said = [news.detail for news in daemon.skill_states if news.state == pb.SkillState.STATE_STDERR]
        assert sum(map(len, said)) < 64 << 10
        pid = (await daemon.value(3, "healthCheck"))["pid"]
        peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        assert int(peak.split()[1]) < 200 << 10, "KiB at most"


async def test_a_server_that_ends_while_it_is_called_says_what_it_said_last(
    daemon: FakeDaemon, workspace: Path
) -> None:
    await daemon.begin(workspace, skills=[raw("s", "crash-on-call")])
    (result,) = await daemon.results(1, ("echo", {}), skill="s")
    message = "s: its server ended, during the call, which may or may not have taken effect"
    assert value_of(result) == {"error": "skill_disconnected", "message": message}
    seen = await states(daemon, "disconnected")
    assert any("about to crash" in news.detail for news in seen)


async def test_a_server_that_ignores_the_end_of_its_input_and_sigterm_is_killed(place: Path, workspace: Path) -> None:
    async with session(place / "r.sock", as_program) as daemon:
        await daemon.begin(workspace, skills=[raw("s", "ignore-sigterm")])
        (pid,) = await written(workspace / "pid")
        assert alive(pid)
        daemon.order(finish=pb.Finish(reason="over"))
        async with asyncio.timeout(6):
            while alive(pid):
                await asyncio.sleep(0.02)


async def test_a_skill_with_neither_a_command_nor_an_endpoint_says_so(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[pb.SkillSpec(name="s")])
    assert daemon.skill_states[-1].detail == "it has neither a command nor an endpoint"
