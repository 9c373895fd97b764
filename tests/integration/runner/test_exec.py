"""exec through a whole runner: ends, time-outs, cancelling, floods, and what is left behind."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.fake_daemon import FakeDaemon, value_of

pytestmark = pytest.mark.anyio

# A grandchild that leaves its parent, its process group and its session, as a daemon does.
ESCAPEE = (
    "import os, sys, time\n"
    "if os.fork(): os._exit(0)\n"
    "os.setsid()\n"
    "if os.fork(): os._exit(0)\n"
    "open('pids', 'a').write(f'{os.getpid()}\\n')\n"
    "time.sleep(600)\n"
)
HIDDEN = "import os\nif os.fork(): os._exit(0)\nos.setsid()\nos.execve('/bin/sh', ['sh', '-c', {script!r}], {{}})\n"


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


async def written(path: Path, lines: int = 1) -> list[str]:
    async with asyncio.timeout(10):
        while not path.exists() or len(path.read_text().splitlines()) < lines:
            await asyncio.sleep(0.01)
    return path.read_text().splitlines()


async def test_a_time_out_ends_every_descendant_and_keeps_the_output(program: FakeDaemon, workspace: Path) -> None:
    (workspace / "escapee.py").write_text(ESCAPEE)
    await program.begin(workspace)
    script = "echo before; python3 escapee.py; (sleep 600 & echo $! >> pids); sleep 600"
    program.turn(1, ("exec", {"command": "sh", "args": ["-c", script], "timeout": 1500}))
    pids = await written(workspace / "pids", 2)
    (result,) = await program.take_results(1)
    value = value_of(result)
    assert (value["error"], value["output"]) == ("timeout", "before\n")
    assert "1500 ms" in value["message"]
    assert [pid for pid in pids if alive(pid)] == []


async def test_what_a_program_leaves_behind_ends_with_the_call(program: FakeDaemon, workspace: Path) -> None:
    (workspace / "escapee.py").write_text(ESCAPEE)
    await program.begin(workspace)
    script = "python3 escapee.py; while [ ! -s pids ]; do sleep 0.02; done"
    assert (await program.value(1, "exec", command="sh", args=["-c", script]))["exitCode"] == 0
    (pid,) = (workspace / "pids").read_text().split()
    assert not alive(pid)


async def test_an_orphan_without_its_mark_belongs_to_nobody_and_ends(program: FakeDaemon, workspace: Path) -> None:
    script = "echo $$ > pids; while :; do sleep 1; done"
    (workspace / "hidden.py").write_text(HIDDEN.format(script=script))
    await program.begin(workspace)
    waiting = "python3 hidden.py; while [ ! -s pids ]; do sleep 0.02; done"
    await program.value(1, "exec", command="sh", args=["-c", waiting])
    (pid,) = (workspace / "pids").read_text().split()
    assert not alive(pid)


async def test_ending_one_call_leaves_the_others_alone(program: FakeDaemon, workspace: Path) -> None:
    (workspace / "escapee.py").write_text(ESCAPEE)
    await program.begin(workspace)
    slow = "python3 escapee.py; while [ ! -e go ]; do sleep 0.02; done; kill -0 $(cat pids) && echo daemon-lives"
    calls: list[tuple[str, dict[str, Any]]] = [("exec", {"command": "sh", "args": ["-c", slow]})]
    calls.append(("exec", {"command": "sh", "args": ["-c", "while [ ! -s pids ]; do sleep 0.02; done; touch go"]}))
    first, second = await program.results(1, *calls)
    assert value_of(first)["output"] == "daemon-lives\n"
    assert value_of(second)["exitCode"] == 0


async def test_cancel_reaches_a_calls_descendants_within_a_second(program: FakeDaemon, workspace: Path) -> None:
    (workspace / "escapee.py").write_text(ESCAPEE)
    await program.begin(workspace)
    script = "trap '' TERM; python3 escapee.py; sleep 600"
    program.turn(1, ("exec", {"command": "sh", "args": ["-c", script]}), ("healthCheck", {}))
    (pid,) = await written(workspace / "pids")
    started = time.monotonic()
    program.order(cancel_calls=pb.CancelCalls(call_ids=["c1-0", "unknown"], reason="user"))
    first, second = await program.take_results(1)
    assert time.monotonic() - started < 1
    assert value_of(first)["error"] == "cancelled"
    assert value_of(second)["status"] == "ok"
    assert not alive(pid)


async def test_cancel_without_names_stops_all_calls(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    script = "echo >> started; sleep 600"
    daemon.turn(1, *[("exec", {"command": "sh", "args": ["-c", script]})] * 3)
    await written(workspace / "started", 3)
    daemon.order(cancel_calls=pb.CancelCalls())
    daemon.order(cancel_calls=pb.CancelCalls())
    assert [value_of(result)["error"] for result in await daemon.take_results(1)] == ["cancelled"] * 3
    assert (await daemon.value(2, "healthCheck"))["status"] == "ok"


async def test_a_flood_is_shown_by_head_and_tail_and_kept_to_its_bound(program: FakeDaemon, workspace: Path) -> None:
    await program.begin(workspace, limits=pb.RunnerLimits(result_bytes=1 << 20, tool_timeout_ms=60_000))
    script = "echo first; head -c 200000000 /dev/zero | tr '\\0' 'x'; echo; echo last"
    (result,) = await program.results(1, ("exec", {"command": "sh", "args": ["-c", script]}))
    value = value_of(result)
    assert value["output"].startswith("first\nxxx")
    assert value["output"].endswith("x\nlast\n")
    assert "bytes left out" in value["output"]
    assert len(result.content[0].text.encode()) <= 32 << 10
    kinds = [part.WhichOneof("kind") for part in result.content]
    assert kinds in (["text", "blob"], ["text", "blob", "text"])
    assert result.content[1].blob.size <= 1 << 20
    assert sum(len(progress.delta.encode()) for progress in program.progress) < 8 << 20


async def test_endless_output_ends_at_the_time_out_and_costs_bounded_memory(
    program: FakeDaemon, workspace: Path
) -> None:
    await program.begin(workspace, limits=pb.RunnerLimits(result_bytes=1 << 20))
    before = await _runner_rss(program, 1)
    program.turn(2, ("exec", {"command": "cat", "args": ["/dev/zero"], "timeout": 1000}))
    (result,) = await program.take_results(2)
    assert value_of(result)["error"] == "timeout"
    assert await _runner_rss(program, 3) - before < 16 << 10


async def _runner_rss(program: FakeDaemon, step: int) -> int:
    pid = (await program.value(step, "healthCheck"))["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def test_output_is_streamed_while_a_program_runs(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    script = "echo eins; sleep 0.3; echo zwei; while [ ! -e go ]; do sleep 0.02; done"
    daemon.turn(1, ("exec", {"command": "sh", "args": ["-c", script]}))
    async with asyncio.timeout(10):
        while "".join(progress.delta for progress in daemon.progress) != "eins\nzwei\n":
            await asyncio.sleep(0.01)
    assert [(p.call_id, p.offset, p.delta) for p in daemon.progress] == [("c1-0", 0, "eins\n"), ("c1-0", 5, "zwei\n")]
    (workspace / "go").touch()
    await daemon.take_results(1)


async def test_one_stream_can_be_left_out(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    script = "echo out; echo err >&2"
    only_err = await daemon.value(1, "exec", command="sh", args=["-c", script], stdout=False)
    only_out = await daemon.value(2, "exec", command="sh", args=["-c", script], stderr=False)
    assert (only_err["output"], only_out["output"]) == ("err\n", "out\n")


async def test_the_environment_is_small_and_has_what_was_assigned(
    daemon: FakeDaemon, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNERS_OWN", "no")
    await daemon.begin(workspace, exec_env={"API_KEY": "value"})
    answer = await daemon.value(1, "exec", command="env", env={"EXTRA": "1"})
    names = dict(line.partition("=")[::2] for line in answer["output"].splitlines())
    assert names["API_KEY"] == "value"
    assert names["EXTRA"] == "1"
    assert names["HTTPS_PROXY"] == names["http_proxy"]
    assert names["HTTPS_PROXY"].startswith("http://127.0.0.1:")
    assert names["NO_PROXY"] == "127.0.0.1,localhost,::1"
    assert "RUNNERS_OWN" not in names


async def test_a_program_that_is_missing_or_fails_or_is_killed_says_so(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    assert (await daemon.value(1, "exec", command="no-such-program"))["error"] == "command_not_found"
    assert (await daemon.value(2, "exec", command="false")) == {"output": "", "exitCode": 1}
    killed = await daemon.value(3, "exec", command="sh", args=["-c", "kill -9 $$"])
    assert killed == {"output": "", "exitCode": 137, "signal": "SIGKILL"}


async def test_what_cannot_be_started_says_why(daemon: FakeDaemon, workspace: Path) -> None:
    (workspace / "plain").write_text("no program")
    (workspace / "lost").write_text("#!/no/such/interpreter\n")
    (workspace / "lost").chmod(0o755)
    await daemon.begin(workspace)
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"command": "./plain"}, "command_failed", "Permission denied"),
        ({"command": "./lost"}, "command_not_found", "interpreter is missing"),
        ({"command": "."}, "command_failed", "Permission denied"),
        ({"command": ""}, "invalid_arguments", "must not be empty"),
        ({"command": "echo", "args": ["a\0b"]}, "command_failed", "null byte"),
        ({"command": "echo", "args": ["\ud800"]}, "command_failed", "surrogates not allowed"),
        ({"command": "echo", "args": ["x" * 200_000]}, "command_failed", "Argument list too long"),
        ({"command": "echo", "env": {"A=B": "x"}}, "command_failed", "illegal environment variable name"),
    ]
    for step, (arguments, error, says) in enumerate(cases, start=1):
        value = await daemon.value(step, "exec", **arguments)
        assert value["error"] == error, arguments
        assert says in value["message"]


async def test_a_program_that_reads_its_input_finds_none(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    assert await daemon.value(1, "exec", command="cat") == {"output": "", "exitCode": 0}


async def test_binary_output_is_shown_as_text_with_marks(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace)
    value = await daemon.value(1, "exec", command="printf", args=[r"a\377b\000c"])
    assert value == {"output": "a\ufffdb\0c", "exitCode": 0}


async def test_no_character_is_parted_where_output_is_left_out(daemon: FakeDaemon, workspace: Path) -> None:
    (workspace / "text").write_text("x" + "ä€" * 20_000)
    await daemon.begin(workspace)
    (result,) = await daemon.results(1, ("exec", {"command": "cat", "args": ["text"]}))
    output = value_of(result)["output"]
    assert "\ufffd" not in output
    left_out = int(output.partition("[... ")[2].partition(" ")[0])
    shown = output.replace(f"\n[... {left_out} bytes left out ...]\n", "")
    assert len(shown.encode()) + left_out == 100_001
    assert daemon.blobs[result.content[1].blob.digest] == (workspace / "text").read_bytes()


@pytest.mark.parametrize(
    ("cwd", "error"),
    [
        ("/etc", "path_outside_workspace"),
        ("..", "path_outside_workspace"),
        ("out", "path_outside_workspace"),
        ("missing", "not_found"),
        ("file", "not_a_directory"),
    ],
)
async def test_the_working_directory_stays_inside(daemon: FakeDaemon, workspace: Path, cwd: str, error: str) -> None:
    (workspace / "out").symlink_to("/etc")
    (workspace / "file").touch()
    await daemon.begin(workspace)
    assert (await daemon.value(1, "exec", command="pwd", cwd=cwd))["error"] == error


async def test_a_directory_below_can_be_the_working_directory(daemon: FakeDaemon, workspace: Path) -> None:
    (workspace / "a" / "b").mkdir(parents=True)
    (workspace / "link").symlink_to("a/b")
    await daemon.begin(workspace)
    for step, where in enumerate(("a/b", "link", f"{workspace}/a/b", "/workspace/a/b"), start=1):
        assert (await daemon.value(step, "exec", command="pwd", cwd=where))["output"].strip() == f"{workspace}/a/b"


async def test_a_time_out_longer_than_the_tools_limit_is_cut_to_it(daemon: FakeDaemon, workspace: Path) -> None:
    await daemon.begin(workspace, limits=pb.RunnerLimits(tool_timeout_ms=300))
    answer = await daemon.value(1, "exec", command="sleep", args=["600"], timeout=600_000)
    assert "after 300 ms" in answer["message"]


async def test_siblings_cannot_reach_into_each_other(program: FakeDaemon, workspace: Path) -> None:
    """Signals and abstract sockets, which root is held to as well; the environment needs a uid without capabilities."""
    await program.begin(workspace)
    if program.hellos[0].landlock_abi < 6:
        pytest.fail("this test needs a kernel with Landlock ABI 6 or later")
    victim = "echo $$ > victim; while [ ! -e done ]; do sleep 0.02; done"
    attacker = "while [ ! -s victim ]; do sleep 0.02; done; kill -0 $(cat victim); echo $?; touch done"
    calls: list[tuple[str, dict[str, Any]]] = [
        ("exec", {"command": "sh", "args": ["-c", script]}) for script in (victim, attacker)
    ]
    _, second = await program.results(1, *calls)
    assert value_of(second)["output"].splitlines()[-1] == "1"
    # The control: from the same call it works.
    own = "sleep 5 & kill -0 $!; echo $?"
    assert (await program.value(2, "exec", command="sh", args=["-c", own]))["output"] == "0\n"


async def test_moving_files_between_directories_works_inside_a_domain(program: FakeDaemon, workspace: Path) -> None:
    await program.begin(workspace)
    script = "mkdir a b && touch a/f && mv a/f b/f && ln b/f a/g && ls a b"
    assert (await program.value(1, "exec", command="sh", args=["-c", script]))["exitCode"] == 0


async def test_zombies_of_orphans_do_not_pile_up(program: FakeDaemon, workspace: Path) -> None:
    await program.begin(workspace)
    script = "for i in $(seq 50); do (setsid true &) ; done; while [ ! -e go ]; do sleep 0.02; done"
    program.turn(1, ("exec", {"command": "sh", "args": ["-c", script]}), ("healthCheck", {}))
    runner = await _parent_of_a_shell(workspace)
    async with asyncio.timeout(10):
        while _zombies(runner):
            await asyncio.sleep(0.05)
    (workspace / "go").touch()
    await program.take_results(1)


async def _parent_of_a_shell(workspace: Path) -> str:
    async with asyncio.timeout(10):
        while True:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and _reads(entry / "cwd") == str(workspace):
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    if "perstack_runner" in Path(f"/proc/{parent}/cmdline").read_text():
                        return parent
            await asyncio.sleep(0.02)


def _reads(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _zombies(parent: str) -> int:
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            count += fields[0] == "Z" and fields[1] == parent
    return count
