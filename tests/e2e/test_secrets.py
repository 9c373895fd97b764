"""Stored secrets in a real daemon with real sandboxes: they arrive, and nothing that prints them brings them back."""

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from perstackd.domain.messages import FinishReason, TextPart, Turn
from tests.e2e.daemon import BIN, Daemon, one
from tests.fakes.messages_api import scripted, serving

SOLO = '[experts.solo]\ninstruction = "Work."\n'
NEEDS = f'{SOLO}[experts.solo.skills."@perstack/base"]\nrequiredEnv = ["STORED_TOKEN"]\n'
SECRET = 'correct"horse/battery+staple 42'
MARKER = "everybody may read this"
PRINTER = """
import base64, json, os, sys, time
from urllib.parse import quote
value = os.environ["STORED_TOKEN"]
said = [value, quote(value, safe=""), json.dumps({"key": value})]
said += [base64.b64encode(b"xy"[:shift] + value.encode()).decode() for shift in range(3)]
text = "MARKER\\n" + "\\n".join(said) + "\\n"
middle = text.index(value) + len(value) // 2
sys.stdout.write(text[:middle])
sys.stdout.flush()
time.sleep(0.5)
sys.stdout.write(text[middle:])
sys.stdout.write(("." * 99 + "\\n") * 1000 * int(sys.argv[1]) + text)
""".replace("MARKER", MARKER)

pytestmark = pytest.mark.docker


def forms() -> Iterator[str]:
    """What must be nowhere; base64 without its ends, which depend on what stands beside it."""
    yield SECRET
    yield quote(SECRET, safe="")
    yield json.dumps(SECRET)[1:-1]
    yield json.dumps(json.dumps(SECRET)[1:-1])[1:-1]
    for shift in range(3):
        yield base64.b64encode(b"xy"[:shift] + SECRET.encode()).decode().strip("=")[4:-4]


def exec_python(times: int) -> dict[str, Any]:
    arguments = {"command": "python3", "args": ["-c", PRINTER, str(times)], "stdout": True, "stderr": True}
    return {"id": f"e{times}", "name": "exec", "arguments": arguments}


def put(daemon: Daemon, *arguments: str, value: str) -> None:
    done = daemon.ctl("secret", "put", *arguments, stdin=value.encode())
    assert done.returncode == 0, done.stderr


def everything_kept(home: Path) -> Iterator[tuple[Path, bytes]]:
    """The store, its log, blobs, the daemon's log."""
    yield from ((path, path.read_bytes()) for path in (home / "state").rglob("*") if path.is_file())
    yield home / "log", (home / "log").read_bytes()


def test_a_tool_that_prints_a_stored_secret_in_every_form_brings_it_nowhere(daemon: Daemon) -> None:
    put(daemon, "STORED_TOKEN", "--expert", "solo", value=SECRET)
    # The second result is large: it goes through the blob store, with its beginning and its end beside it.
    daemon.script("solo", {"calls": [exec_python(0)]}, {"calls": [exec_python(1)]}, {"text": "done"})
    directory = daemon.definition(NEEDS)
    done = daemon.ctl("run", "solo", "do it", "--workspace", "ephemeral", "-o", "json", "--stream", cwd=directory)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert one(events, "secretReleased")["name"] == "STORED_TOKEN"
    streamed = "".join(event["delta"] for event in events if event["type"] == "streamToolOutput")
    assert streamed.count(f"{MARKER}\n[secret STORED_TOKEN]\n[secret STORED_TOKEN]\n") >= 2
    results = json.dumps([event for event in events if event["type"] == "resolveToolResults"])
    assert '"type": "blob"' in results
    assert results.count("[secret STORED_TOKEN]") >= 12
    for form in forms():
        assert form not in done.stdout + done.stderr
        assert form not in daemon.ctl("job", "log", events[0]["jobId"]).stdout
    marked = 0
    for path, content in everything_kept(daemon.home):
        marked += MARKER.encode() in content
        for form in forms():
            assert form.encode() not in content, path
    assert marked >= 2, "the database and a blob hold what was printed"


def test_a_secret_without_a_grant_is_missing_and_no_command_shows_a_value(daemon: Daemon) -> None:
    put(daemon, "STORED_TOKEN", "--expert", "another", value=SECRET)
    code, _, stderr = daemon.run(daemon.definition(NEEDS), "solo")
    assert code == 2
    assert "STORED_TOKEN (solo)" in stderr
    for output in ("table", "json"):
        shown = daemon.ctl("secret", "ls", "-o", output).stdout
        assert "STORED_TOKEN" in shown
        assert not any(form in shown for form in forms())


def test_the_master_key_is_changed_while_the_daemon_serves_and_the_old_one_goes(daemon: Daemon) -> None:
    put(daemon, "STORED_TOKEN", "--all-experts", value=SECRET)
    script: tuple[dict[str, Any], ...] = ({"calls": [exec_python(0)]}, {"text": "done"})
    daemon.script("solo", *script)
    new = daemon.home / "new.key"
    new.write_bytes(base64.b64encode(os.urandom(32)))
    new.chmod(0o600)
    for arguments in ((), ("--master-key", f"file:{new}")):
        done = daemon.ctl("secret", "rotate", *arguments)
        assert done.returncode == 0, done.stderr
        assert daemon.run(daemon.definition(NEEDS), "solo")[0] == 0
    daemon.stop()
    (daemon.home / "state/master.key").unlink()
    refused = serve_briefly(daemon.home)
    assert refused.returncode == 1
    assert "sealed with the master key" in refused.stderr
    daemon.settings["secrets.master_key"] = f"file:{new}"
    daemon.start()
    daemon.script("solo", *script)
    code, events, stderr = daemon.run(daemon.definition(NEEDS), "solo")
    assert code == 0, stderr
    assert "[secret STORED_TOKEN]" in json.dumps(events)


def serve_briefly(home: Path) -> "subprocess.CompletedProcess[str]":
    """A daemon on that state that is expected not to start."""
    settings = [f"--set=state_directory={home}/state", f"--set=runtime_directory={home}/run2"]
    return subprocess.run(
        [BIN / "perstackd", "serve", *settings], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.anyio
async def test_a_stored_provider_key_is_used_from_the_next_call_on(home: Path) -> None:
    answer = {"You are solo": [Turn((TextPart("hello"),), FinishReason.STOP)] * 3}
    async with serving(fallback=scripted(answer)) as api:
        settings = {
            "models.anthropic.base_url": f"http://127.0.0.1:{api.port}",
            "models.default_provider": "anthropic",
            "templates.base.min_idle": 1,
            "jobs.max_retries": 0,
        }
        directory = home / "provider"
        directory.mkdir()
        daemon = Daemon(directory, settings, real_providers=True, secrets={"ANTHROPIC_API_KEY": ""})

        async def in_thread(work: Callable[[], Any]) -> Any:
            return await anyio.to_thread.run_sync(work)

        await in_thread(daemon.start)
        try:
            solo = daemon.definition(SOLO)
            code, _, stderr = await in_thread(lambda: daemon.run(solo, "solo"))
            assert code == 6, stderr
            assert "ANTHROPIC_API_KEY" in stderr
            for key in ("sk-ant-first-key-1", "sk-ant-second-key-2"):
                await in_thread(partial(put, daemon, "--provider", "anthropic", value=key))
                code, _, stderr = await in_thread(lambda: daemon.run(solo, "solo"))
                assert code == 0, stderr
                assert api.received[-1].headers["authorization"] == f"Bearer {key}"
                for path, content in everything_kept(directory):
                    assert key.encode() not in content, path
        finally:
            await in_thread(daemon.stop)
