"""Skills whose server's program stands in their own argv, so that no image holds it."""

import json
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.daemon import Daemon

WATCH_SECONDS = 150.0
SERVERS = Path(__file__).parents[1] / "integration/runner"
RAW = (SERVERS / "raw_server.py").read_text()
ASKING = (SERVERS / "asking_server.py").read_text()
PROBE = '''
"""An MCP server without an SDK whose one tool runs the Python that it is given and answers with what that prints."""
import contextlib, io, json, sys, traceback

def say(number, result):
    print(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}), flush=True)

for line in sys.stdin:
    message = json.loads(line)
    match message.get("method"):
        case "initialize":
            about = {"name": "probe", "version": "1"}
            version = message["params"]["protocolVersion"]
            say(message["id"], {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about})
        case "tools/list":
            say(message["id"], {"tools": [{"name": sys.argv[1], "inputSchema": {"type": "object"}}]})
        case "tools/call":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                try:
                    exec(message["params"]["arguments"]["code"], {})
                except Exception:
                    print(traceback.format_exc())
            say(message["id"], {"content": [{"type": "text", "text": printed.getvalue()}]})
'''
CONNECT = """
import socket
with socket.create_connection(("127.0.0.1", 3128), 10) as proxy:
    proxy.sendall(b"CONNECT HOST HTTP/1.1\\r\\nHost: HOST\\r\\n\\r\\n")
    proxy.settimeout(10)
    print(proxy.recv(4096).decode())
"""
"""A Python program that prints how the sandbox's way out answers; HOST is `name:port`."""


def connect(host: str) -> str:
    """`CONNECT` to `name:port`."""
    return CONNECT.replace("HOST", host)


def expert(name: str, **fields: Any) -> str:
    """The table of an expert."""
    return table(f'experts."{name}"', instruction="Work.", **fields)


def stdio(owner: str, name: str, program: str, *arguments: str, **fields: Any) -> str:
    """The table of a skill whose server is this Python program."""
    argv = ["-c", program, *arguments]
    return table(f'experts."{owner}".skills."{name}"', type="mcpStdioSkill", command="python3", args=argv, **fields)


def table(path: str, **fields: Any) -> str:
    """A TOML table. What json writes of ASCII texts, numbers, flags and lists is TOML as well."""
    lines = (f"{key} = {json.dumps(value)}" for key, value in fields.items())
    return "\n".join([f"[{path}]", *lines, ""])


def player(owner: str) -> str:
    """The tables of an interactive skill whose tool `askMove` asks the `question` that it is given."""
    schema = '{"type":"object","properties":{"question":{"type":"string"}},"required":["question"]}'
    toml = table(f"experts.{owner}.skills.player", type="interactiveSkill")
    return toml + table(f"experts.{owner}.skills.player.tools.askMove", description="Ask", inputJsonSchema=schema)


def call(call_id: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "name": name, "arguments": arguments}


def python(call_id: str, code: str) -> dict[str, Any]:
    """The program in the expert's own sandbox, by its shell."""
    return call(call_id, "exec", command="python3", args=["-c", code], stdout=True, stderr=True)


@contextmanager
def watched(
    daemon: Daemon, directory: Path, *options: str, env: Mapping[str, str] | None = None, workspace: str = "ephemeral"
) -> Iterator["Watched"]:
    """A job of the expert `solo` that nobody waits for, and its events. Whatever becomes of the test, it ends."""
    begun = daemon.ctl("run", "solo", "do it", "--workspace", workspace, "--detach", *options, cwd=directory, env=env)
    assert begun.returncode == 0, begun.stderr
    job = Watched(daemon, begun.stdout.strip())
    command = daemon.command("job", "watch", job.id, "-o", "json", "--reconnect", "60")
    with subprocess.Popen(command, env=daemon.environment, stdout=subprocess.PIPE, text=True) as process:
        bound = threading.Timer(WATCH_SECONDS, process.kill)
        bound.start()
        job.lines = process.stdout or ()
        try:
            yield job
        finally:
            bound.cancel()
            process.kill()
            daemon.ctl("job", "cancel", job.id)


@dataclass(slots=True)
class Watched:
    """A job and its events, which are read in order; `seen` are those that were."""

    daemon: Daemon
    id: str
    lines: Iterable[str] = ()
    seen: list[dict[str, Any]] = field(default_factory=list)

    def until(self, event_type: str, count: int = 1) -> dict[str, Any]:
        """The count-th event of that type from now on."""
        for line in self.lines:
            self.seen.append(json.loads(line))
            count -= self.seen[-1]["type"] == event_type
            if not count:
                return self.seen[-1]
        raise AssertionError(f"no {event_type}: {[event['type'] for event in self.seen]}")

    def end(self) -> dict[str, Any]:
        """Its last event."""
        return self.until("jobFinished")

    def ctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`perstackctl job COMMAND` of it."""
        command, *rest = arguments
        return self.daemon.ctl("job", command, self.id, *rest)

    def answer(self, *arguments: str) -> None:
        """With perstackctl."""
        answered = self.ctl("answer", *arguments)
        assert answered.returncode == 0, answered.stderr

    def questions(self, count: int = 1) -> list[dict[str, Any]]:
        """The open ones, which are so many."""
        found: list[dict[str, Any]] = self.daemon.json("job", "questions", self.id)
        assert len(found) == count, found
        return found

    @property
    def state(self) -> str:
        """As `job get` tells it."""
        return str(self.daemon.json("job", "get", self.id)["state"])

    def of(self, event_type: str) -> list[dict[str, Any]]:
        """Those of the events that were read."""
        return [event for event in self.seen if event["type"] == event_type]


def results(events: list[dict[str, Any]]) -> dict[str, str]:
    """What each call of a job came to, as text, by the call's id."""
    found: dict[str, str] = {}
    for event in events:
        for result in event.get("results") or ():
            found[result["callId"]] = "\n".join(part.get("text", "") for part in result["content"])
    return found
