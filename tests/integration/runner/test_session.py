"""A session from hello to finish, over a real socket."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.conftest import as_program, in_process
from tests.integration.runner.fake_daemon import FakeDaemon, session, value_of

pytestmark = pytest.mark.anyio


async def test_a_run_goes_from_hello_to_finish(place: Path, workspace: Path) -> None:
    async with session(place / "r.sock", in_process) as daemon:
        hello = daemon.hellos[0]
        assert (hello.protocol_version, hello.session_token) == (1, "")
        assert any(line.startswith("status.CapEff ") for line in hello.self_view)
        await daemon.begin(workspace)
        first, second = await daemon.results(
            1,
            ("writeTextFile", {"path": "notes/a.txt", "text": "one\ntwo\n"}),
            ("exec", {"command": "sh", "args": ["-c", "echo out; echo err >&2; pwd"]}),
        )
        assert (first.call_id, second.call_id) == ("c1-0", "c1-1")
        assert value_of(first) == {"path": "notes/a.txt", "bytes": 8}
        ran = value_of(second)
        assert ran["exitCode"] == 0
        assert sorted(ran["output"].split()) == sorted(["out", "err", str(workspace)])
        assert (await daemon.value(2, "readTextFile", path="notes/a.txt", **{"from": 1}))["content"] == "two\n"
        daemon.turn(3)
        assert (await daemon.next("next_turn")).step == 4


async def test_finish_ends_the_program_with_code_0_and_its_children(place: Path, workspace: Path) -> None:
    daemon = FakeDaemon(place / "r.sock")
    await daemon.serve()
    async with as_program(place / "r.sock") as process:
        await daemon.attached()
        assert not daemon.hellos[0].dumpable
        await daemon.begin(workspace)
        daemon.turn(1, ("exec", {"command": "sh", "args": ["-c", "echo $$ > pid; sleep 600"]}))
        pid = await _content_of(workspace / "pid")
        daemon.order(finish=pb.Finish(reason="over"))
        async with asyncio.timeout(5):
            assert await process.wait() == 0
        assert not Path(f"/proc/{pid}").exists()
    await daemon.vanish()
    assert daemon.illegal == []


async def _content_of(path: Path) -> str:
    async with asyncio.timeout(10):
        while not (path.exists() and (text := path.read_text().strip())):
            await asyncio.sleep(0.01)
    return text


async def test_an_idle_sandbox_answers_probes_below_its_root_only(daemon: FakeDaemon, place: Path) -> None:
    (place / "marker").write_bytes(b"m" * 5000)
    (place / "link").symlink_to("/etc/hostname")
    os.mkfifo(place / "fifo")
    expected = {"marker": b"m" * 4096, "link": None, "fifo": None, "../etc/hostname": None, "none": None}
    for name, content in expected.items():
        daemon.order(probe=pb.Probe(path=f"{place}/{name}"))
        answer = await daemon.next("probe_result")
        assert (answer.content, answer.found) == (content or b"", content is not None), name
    daemon.order(probe=pb.Probe(path="/etc/hostname"))
    assert not (await daemon.next("probe_result")).found


async def test_a_missing_workspace_is_a_failure_with_its_cause(place: Path) -> None:
    daemon = FakeDaemon(place / "r.sock")
    await daemon.serve()
    async with as_program(place / "r.sock") as process:
        await daemon.attached()
        daemon.assign(place / "not-mounted")
        failure = await daemon.next("failure")
        assert failure.reason == "workplace_unavailable"
        async with asyncio.timeout(5):
            assert await process.wait() == 1
    await daemon.vanish()


async def test_what_was_not_acknowledged_is_sent_again_with_the_token(
    daemon: FakeDaemon, place: Path, workspace: Path
) -> None:
    await daemon.begin(workspace)
    daemon.acknowledges = False
    stored = daemon.stored
    daemon.turn(1, ("getFileInfo", {"path": "x"}))
    await daemon.take_results(1)
    await daemon.vanish()

    # The daemon lost what it had not stored: it comes back and is told again, in order, from there.
    daemon.stored, daemon.state, daemon.acknowledges = stored, "running", True
    await daemon.serve()
    await daemon.attached()
    results = await daemon.take_results(1)
    assert value_of(results[0]) == {"exists": False, "path": "x"}
    assert [hello.session_token for hello in daemon.hellos] == ["", "token-of-this-session"]
    assert (await daemon.value(2, "healthCheck"))["status"] == "ok"


async def test_a_question_without_an_answer_is_repeated_with_its_old_counter(
    daemon: FakeDaemon, workspace: Path
) -> None:
    await daemon.begin(workspace)
    asked = daemon.stored
    await daemon.vanish()
    await daemon.serve()
    await daemon.attached()
    assert (await daemon.value(1, "healthCheck"))["status"] == "ok"
    assert daemon.repeats == [asked]


async def test_results_that_come_while_the_daemon_is_away_wait_for_it(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    script = "echo x > begun; while [ ! -e go ]; do sleep 0.02; done; touch done"
    daemon.turn(1, ("exec", {"command": "sh", "args": ["-c", script]}))
    await _content_of(workspace / "begun")
    await daemon.vanish()
    (workspace / "go").touch()
    async with asyncio.timeout(10):
        while not (workspace / "done").exists():
            await asyncio.sleep(0.01)
    await daemon.serve()
    (result,) = await daemon.take_results(1)
    assert value_of(result)["exitCode"] == 0


async def test_a_turn_that_comes_twice_runs_once(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    call = ("appendTextFile", {"path": "log", "text": "x"})
    daemon.turn(1, call)
    daemon.turn(1, call)
    await daemon.take_results(1)
    assert (await daemon.value(2, "readTextFile", path="log"))["content"] == "x"


async def test_a_refusal_changes_nothing(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    daemon.order(refused=pb.Refused(counter=2, reason="not now"))
    assert (await daemon.value(1, "healthCheck"))["status"] == "ok"


async def test_a_continued_run_asks_for_its_step(daemon: FakeDaemon, workspace: Path) -> None:
    daemon.assign(workspace, step=7)
    await daemon.next("ready")
    assert (await daemon.next("next_turn")).step == 7


async def test_large_results_go_up_as_blobs_before_the_result(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    content = "line of some length\n" * 10_000
    (workspace / "large.txt").write_text(content)
    (result,) = await daemon.results(1, ("readTextFile", {"path": "large.txt"}))
    blob = result.content[0].blob
    stored = daemon.blobs[blob.digest]
    assert (len(stored), blob.media_type) == (blob.size, "application/json")
    assert blob.digest == f"sha256:{hashlib.sha256(stored).hexdigest()}"
    assert content.splitlines()[0].encode() in stored


async def test_many_inline_results_stay_below_a_messages_bound(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    (workspace / "file").write_text("0123456789abcde\n" * 1900)
    results = await daemon.results(1, *[("readTextFile", {"path": "file"})] * 60)
    assert len(results) == 60
    assert {part.WhichOneof("kind") for result in results for part in result.content} == {"text", "blob"}


async def test_the_daemon_decides_completion_so_the_runner_has_no_such_tool(
    daemon: FakeDaemon, workspace: Path
) -> None:
    await daemon.begin(workspace)
    for step, tool in enumerate(("attemptCompletion", "todo", "nonsense"), start=1):
        assert (await daemon.value(step, tool))["error"] == "unknown_tool"


async def test_tools_that_were_not_assigned_are_not_offered(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, base_tools=["healthCheck"])
    assert (await daemon.value(1, "exec", command="true"))["error"] == "unknown_tool"


async def test_wrong_arguments_are_answers_that_name_the_argument(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("exec", {}, "missing: command"),
        ("exec", {"command": 3}, "command has to be of type string"),
        ("exec", {"command": "true", "args": [1]}, "args[0] has to be of type string"),
        ("readTextFile", {"path": "x", "from": -1}, "from has to be at least 0"),
        ("readTextFile", {"path": "x", "from": True}, "from has to be of type integer"),
        ("editTextFile", {"path": "x", "oldText": "", "newText": ""}, "oldText must not be empty"),
        ("exec", {"command": "true\0"}, "true\0: could not be started: embedded null byte"),
    ]
    for step, (tool, arguments, message) in enumerate(wrong, start=1):
        answer = await daemon.value(step, tool, **arguments)
        assert answer["error"] in ("invalid_arguments", "command_failed")
        assert answer["message"] == message
