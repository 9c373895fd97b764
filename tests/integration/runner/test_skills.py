"""Skills: a real MCP server, and servers that misbehave in every way, through a whole runner."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.conftest import as_program, in_process
from tests.integration.runner.fake_daemon import FakeDaemon, session, value_of
from tests.integration.runner.test_exec import alive, written

pytestmark = pytest.mark.anyio
RAW = str(Path(__file__).with_name("raw_server.py"))


def raw(name: str, *modes: str, **fields: Any) -> pb.SkillSpec:
    env = fields.pop("env", {})
    return pb.SkillSpec(
        name=name, stdio=pb.StdioServer(command=[sys.executable, "-I", "-S", RAW, *modes], env=env), **fields
    )


async def states(daemon: FakeDaemon, *wanted: str) -> list[pb.SkillState]:
    """Wait until the news of skills holds these states, in this order."""
    names = [f"STATE_{name.upper()}" for name in wanted]
    async with asyncio.timeout(20):
        while True:
            seen = [pb.SkillState.State.Name(news.state) for news in daemon.skill_states]
            rest = iter(seen)
            if all(name in rest for name in names):
                return list(daemon.skill_states)
            await asyncio.sleep(0.01)


async def test_tools_of_all_pages_come_by_pick_and_omit(daemon: FakeDaemon, workspace: Path) -> None:
    skills = [raw("all"), raw("picked", pick=["echo", "where"], omit=["where"]), raw("wrong", pick=["nope"])]
    await daemon.begin(workspace, skills=skills)
    by_skill = {news.skill: news for news in daemon.skill_states if news.state != pb.SkillState.STATE_STARTING}
    assert [tool.name for tool in by_skill["all"].tools] == ["echo", "slow", "where", "image"]
    assert by_skill["all"].tools[0].read_only
    assert by_skill["all"].tools[0].input_schema == b'{"properties":{"a":{},"z":{}},"type":"object"}'
    assert (by_skill["all"].server_name, by_skill["all"].server_version) == ("raw", "1.2.3")
    assert [tool.name for tool in by_skill["picked"].tools] == ["echo"]
    assert by_skill["wrong"].state == pb.SkillState.STATE_FAILED
    assert "nope; it has echo, image, slow, where" in by_skill["wrong"].detail


async def test_a_program_that_is_missing_is_named(daemon: FakeDaemon, workspace: Path) -> None:
    skill = pb.SkillSpec(name="s", stdio=pb.StdioServer(command=["no-such-server"]))
    await daemon.begin(workspace, skills=[skill])
    assert "no-such-server: no such program" in daemon.skill_states[-1].detail


async def test_a_lazy_skill_does_not_hold_up_the_first_turn(daemon: FakeDaemon, workspace: Path) -> None:
    slow = raw("slow", "no-handshake", lazy_init=True)
    await daemon.begin(workspace, skills=[slow, raw("quick")], limits=pb.RunnerLimits(skill_start_timeout_ms=60_000))
    assert [news.skill for news in daemon.skill_states if news.state == pb.SkillState.STATE_CONNECTED] == ["quick"]


async def test_a_skill_has_its_own_environment_and_shares_the_workspace(daemon: FakeDaemon, workspace: Path) -> None:
    skills = [raw("a", env={"KEY_A": "one"}), raw("b", env={"KEY_B": "two"})]
    await daemon.begin(workspace, skills=skills, exec_env={"KEY_EXEC": "three"})
    for step, (skill, own, others) in enumerate((("a", "KEY_A", {"KEY_B"}), ("b", "KEY_B", {"KEY_A"})), start=1):
        (result,) = await daemon.results(step, ("where", {}), skill=skill)
        seen = json.loads(result.content[0].text)
        assert seen["cwd"] == str(workspace)
        assert own in seen["env"]
        assert not set(seen["env"]) & (others | {"KEY_EXEC", "PYTHONPATH"})


async def test_a_skill_in_a_sandbox_of_its_own_starts_in_an_empty_private_home(
    daemon: FakeDaemon, workspace: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place))
    await daemon.begin(workspace, skills=[raw("s")], base_tools=[])
    (result,) = await daemon.results(1, ("where", {}), skill="s")
    seen = json.loads(result.content[0].text)
    assert seen["cwd"] == seen["env"]["HOME"] == f"{place}/skills/0"
    assert (place / "skills" / "0").stat().st_mode & 0o777 == 0o700


async def test_contents_of_every_kind_are_handed_on(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[raw("s")])
    image, echo = await daemon.results(1, ("image", {}), ("echo", {"x": 1}), skill="s")
    kinds = [part.WhichOneof("kind") for part in image.content]
    assert kinds == ["blob", "text", "text", "text"]
    assert image.content[0].blob.media_type == "image/png"
    assert daemon.blobs[image.content[0].blob.digest] == b"\x89PNG"
    assert "not valid base64" in image.content[1].text
    assert image.content[2].text == "resource text"
    # Structured content that says something else than the text is kept beside it.
    assert [(part.text, part.structured) for part in echo.content] == [('{"x": 1}', b""), ("", b'{"a":1}')]
    assert [progress.delta for progress in daemon.progress] == ["half way\n"]


async def test_a_hung_call_times_out_and_is_cancelled_at_the_server(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[raw("s", "hang-on-call", tool_timeout_ms=300)])
    slow, quick = await daemon.results(1, ("slow", {}), ("echo", {}), skill="s")
    assert value_of(slow)["error"] == "timeout"
    assert not quick.is_error
    await written(workspace / "cancelled")


async def test_a_cancelled_call_is_cancelled_at_the_server(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[raw("s", "hang-on-call")])
    daemon.turn(1, ("slow", {}), skill="s")
    await asyncio.sleep(0)
    started = time.monotonic()
    daemon.order(cancel_calls=pb.CancelCalls(call_ids=["c1-0"]))
    (result,) = await daemon.take_results(1)
    assert value_of(result)["error"] == "cancelled"
    assert time.monotonic() - started < 2
    (again,) = await daemon.results(2, ("echo", {}), skill="s")
    assert not again.is_error


async def test_a_server_that_crashes_is_started_again_a_few_times(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[raw("s", "crash-on-call", "counting")])
    errors = []
    for step in range(1, 7):
        (result,) = await daemon.results(step, ("echo", {}), skill="s")
        errors.append(value_of(result)["error"])
    assert errors == ["skill_disconnected"] * 4 + ["skill_unavailable"] * 2
    assert len((workspace / "starts").read_text().split()) == 4
    seen = await states(daemon, "starting", "connected", "disconnected", "starting", "connected", "disconnected")
    words = [news.detail for news in seen if news.state == pb.SkillState.STATE_STDERR]
    assert words
    assert set(words) == {"about to crash"}
    ended = next(news for news in seen if news.state == pb.SkillState.STATE_DISCONNECTED)
    assert ended.detail == "its server ended; its last words: about to crash"


async def test_noise_on_both_outputs_is_bounded_and_does_no_harm(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[raw("s", "noisy", lazy_init=True)])
    (result,) = await daemon.results(1, ("echo", {"x": 1}), skill="s")
    assert result.content[0].text == '{"x": 1}'
    noise = [news for news in daemon.skill_states if news.state == pb.SkillState.STATE_STDERR]
    assert sum(len(news.detail) for news in noise) < 256 << 10
    assert all(len(news.detail) <= 4200 for news in noise)


async def test_finish_ends_servers_that_ignore_it_and_what_they_started(place: Path, workspace: Path) -> None:
    async with session(place / "r.sock", as_program) as daemon:
        await daemon.begin(workspace, skills=[raw("s", "ignore-stdin-end", "escapee")])
        (escapee,) = await written(workspace / "escapee")
        assert alive(escapee)
        daemon.order(finish=pb.Finish(reason="over"))
        async with asyncio.timeout(6):
            while alive(escapee):
                await asyncio.sleep(0.02)


async def test_calls_that_no_skill_can_take_are_answers(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[raw("s")])
    (result,) = await daemon.results(1, ("echo", {}), skill="other")
    assert value_of(result)["error"] == "unknown_skill"


async def test_a_runner_for_skills_is_warm_before_it_is_assigned(place: Path, workspace: Path) -> None:
    async with session(place / "r.sock", lambda path: as_program(path, "--skills")) as daemon:
        started = time.monotonic()
        await daemon.begin("", skills=[raw("s")], base_tools=[])
        assert time.monotonic() - started < 5
        (result,) = await daemon.results(1, ("echo", {}), skill="s")
        assert not result.is_error
        assert value_of((await daemon.results(2, ("exec", {"command": "true"})))[0])["error"] == "unknown_tool"


async def test_a_server_that_is_being_ended_is_ended_though_the_run_is_over_meanwhile(
    place: Path, workspace: Path
) -> None:
    """The wait for its own exit is cut short by the run's end; its process must not be left behind."""
    async with session(place / "r.sock", in_process) as daemon:
        await daemon.begin(workspace, skills=[raw("s", "close-stdout")])
        (pid,) = await written(workspace / "input-ended")
    assert not alive(pid)
