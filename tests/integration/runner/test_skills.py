"""Skills through a whole runner: when their servers start, where they live, what they give back, how they end."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from perstack.v1 import runner_pb2 as pb
from perstack_runner import landlock
from perstack_runner.skills import skill_set

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


async def test_a_skills_own_time_for_its_start_comes_before_the_usual_one(daemon: FakeDaemon, workspace: Path) -> None:
    skills = [raw("quick"), raw("silent", "no-handshake", start_timeout_ms=700)]
    await daemon.begin(workspace, skills=skills, limits=pb.RunnerLimits(skill_start_timeout_ms=60_000))
    failed = daemon.skill_states[-1]
    assert (failed.skill, failed.state) == ("silent", pb.SkillState.STATE_FAILED)
    assert "not ready after 0.7 s; startTimeout of the skill allows more" in failed.detail


async def test_a_program_that_is_missing_is_named(daemon: FakeDaemon, workspace: Path) -> None:
    skill = pb.SkillSpec(name="s", stdio=pb.StdioServer(command=["no-such-server"]))
    await daemon.begin(workspace, skills=[skill])
    assert "no-such-server: no such program" in daemon.skill_states[-1].detail


@pytest.mark.parametrize("start", [pb.START_MODE_BESIDE, pb.START_MODE_AT_CALL])
async def test_a_skill_that_need_not_start_first_does_not_hold_up_the_first_turn(
    daemon: FakeDaemon, workspace: Path, start: pb.StartMode
) -> None:
    slow = raw("slow", "no-handshake", start=start)
    await daemon.begin(workspace, skills=[slow, raw("quick")], limits=pb.RunnerLimits(skill_start_timeout_ms=60_000))
    assert [news.skill for news in daemon.skill_states if news.state == pb.SkillState.STATE_CONNECTED] == ["quick"]


async def test_a_skill_starts_beside_the_first_turn_and_a_call_waits_for_it(
    daemon: FakeDaemon, workspace: Path
) -> None:
    await daemon.begin(workspace, skills=[raw("s", "counting", start=pb.START_MODE_BESIDE)])
    (result,) = await daemon.results(1, ("echo", {"x": 1}), skill="s")
    assert result.content[0].text == '{"x": 1}'
    assert (workspace / "starts").read_text() == "x\n"


@pytest.mark.parametrize("fields", [{"start": pb.START_MODE_AT_CALL}, {"lazy_init": True}])
async def test_a_skill_starts_at_its_first_call_and_not_before(
    daemon: FakeDaemon, workspace: Path, fields: dict[str, Any]
) -> None:
    await daemon.begin(workspace, skills=[raw("s", "counting", **fields)])
    await daemon.value(1, "healthCheck")
    assert not (workspace / "starts").exists()
    assert list(daemon.skill_states) == []
    for step in (2, 3):
        (result,) = await daemon.results(step, ("echo", {"x": step}), skill="s")
        assert result.content[0].text == f'{{"x": {step}}}'
    assert (workspace / "starts").read_text() == "x\n"


@pytest.mark.parametrize("start", [pb.START_MODE_BESIDE, pb.START_MODE_AT_CALL])
@pytest.mark.parametrize(
    ("mode", "says"), [("no-handshake", "s: not ready after 1 s"), ("die-at-once", "s: its server")]
)
async def test_a_call_of_a_skill_that_does_not_start_is_an_error_and_the_failure_is_reported(
    daemon: FakeDaemon, workspace: Path, start: pb.StartMode, mode: str, says: str
) -> None:
    limits = pb.RunnerLimits(skill_start_timeout_ms=1000)
    await daemon.begin(workspace, skills=[raw("s", mode, start=start)], limits=limits)
    (result,) = await daemon.results(1, ("echo", {}), skill="s")
    assert value_of(result)["error"] == "skill_unavailable"
    assert says in value_of(result)["message"]
    assert pb.SkillState.STATE_FAILED in [news.state for news in daemon.skill_states]
    assert (await daemon.value(2, "healthCheck"))["status"] == "ok"


async def test_calls_beside_each_other_start_a_server_once(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, skills=[raw("s", "counting", start=pb.START_MODE_AT_CALL)])
    results = await daemon.results(1, *[("echo", {})] * 8, skill="s")
    assert not any(result.is_error for result in results)
    assert (workspace / "starts").read_text() == "x\n"


async def test_a_skill_has_its_own_environment_and_shares_the_workspace(daemon: FakeDaemon, workspace: Path) -> None:
    skills = [raw("a", env={"KEY_A": "one"}), raw("b", env={"KEY_B": "two"})]
    await daemon.begin(workspace, skills=skills, exec_env={"KEY_EXEC": "three"})
    for step, (skill, own, others) in enumerate((("a", "KEY_A", {"KEY_B"}), ("b", "KEY_B", {"KEY_A"})), start=1):
        (result,) = await daemon.results(step, ("where", {}), skill=skill)
        seen = json.loads(result.content[0].text)
        assert seen["cwd"] == str(workspace)
        assert own in seen["env"]
        assert not set(seen["env"]) & (others | {"KEY_EXEC", "PYTHONPATH"})


async def test_a_private_skill_has_a_home_and_a_directory_of_its_own_both_empty(
    daemon: FakeDaemon, workspace: Path, home: Path
) -> None:
    skills = [raw("a", private_directories=True), raw("b", private_directories=True), raw("shared")]
    await daemon.begin(workspace, skills=skills)
    seen = []
    for step, name in enumerate(("a", "b", "shared"), start=1):
        (result,) = await daemon.results(step, ("where", {}), skill=name)
        seen.append(json.loads(result.content[0].text))
    paths = [path for each in seen[:2] for path in (each["cwd"], each["env"]["HOME"])]
    assert len(set(paths)) == 4
    for path in map(Path, paths):
        assert path.parent.parent == home
        assert list(path.iterdir()) == []
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    assert {each["env"]["PERSTACK_WORKSPACE"] for each in seen} == {str(workspace)}
    assert [each["env"].get("npm_config_userconfig") for each in seen] == ["/dev/null", "/dev/null", None]
    assert seen[2]["cwd"] == str(workspace)


async def test_a_private_skill_keeps_its_home_when_its_server_is_started_again(
    daemon: FakeDaemon, workspace: Path, home: Path
) -> None:
    await daemon.begin(workspace, skills=[raw("s", "crash-on-call", "counting", private_directories=True)])
    for step in (1, 2):
        await daemon.results(step, ("echo", {}), skill="s")
    (directory,) = home.iterdir()
    assert (directory / "work" / "starts").read_text() == "x\n" * 2


async def test_a_sandbox_of_one_skill_runs_the_same_loop_without_a_workspace(place: Path, home: Path) -> None:
    """Its steps are its own count: an answer comes when there is something to call, and may lie ahead."""
    async with session(place / "r.sock", lambda path: as_program(path, "--skills")) as daemon:
        daemon.assign("", skills=[raw("s", private_directories=True)], base_tools=[])
        assert (await daemon.next("ready")).workspace_path == ""
        assert (await daemon.next("next_turn")).step == 1
        (first,) = await daemon.results(1, ("where", {}), skill="s")
        seen = json.loads(first.content[0].text)
        assert Path(seen["cwd"]).parent.parent == home
        assert "PERSTACK_WORKSPACE" not in seen["env"]
        with pytest.raises(TimeoutError):  # nothing is asked again meanwhile
            await asyncio.wait_for(daemon.messages.get(), 0.5)
        (second,) = await daemon.results(2, ("echo", {"x": 2}), skill="s")
        assert second.content[0].text == '{"x": 2}'
        (ahead,) = await daemon.results(9, ("echo", {"x": 9}), skill="s")
        assert ahead.content[0].text == '{"x": 9}'
        (base,) = await daemon.results(10, ("exec", {"command": "true"}))
        assert value_of(base)["error"] == "unknown_tool"


async def test_what_is_mounted_later_is_hidden_from_a_skill_without_a_workspace(
    daemon: FakeDaemon, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here another directory of the root stands for the slot. A kernel without Landlock hides nothing."""
    monkeypatch.setattr(skill_set, "SLOT", "/etc")
    await daemon.begin("", skills=[raw("s")], base_tools=[])
    (hidden,) = await daemon.results(1, ("read", {"path": "/etc/passwd"}), skill="s")
    assert ("PermissionError" if landlock.abi() >= 2 else "root:") in hidden.content[0].text
    (open_,) = await daemon.results(2, ("read", {"path": "/usr/lib/os-release"}), skill="s")
    assert "PRETTY_NAME" in open_.content[0].text


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
    await daemon.begin(workspace, skills=[raw("s", "hang-on-call", tool_timeout_ms=2000)])
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
    assert time.monotonic() - started < 10
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
    await daemon.begin(workspace, skills=[raw("s", "noisy")])
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
