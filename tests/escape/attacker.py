"""Someone with a shell in a claimed sandbox, and a client of the admin API."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.daemon import Daemon

Call = dict[str, Any]
Events = list[dict[str, Any]]
SOLO = '[experts.{name}]\ninstruction = "Work."\n'


def tool(call_id: str, name: str, **arguments: Any) -> Call:
    return {"id": call_id, "name": name, "arguments": arguments}


def python(call_id: str, source: str, *arguments: str, timeout: int = 60_000) -> Call:
    """A call of exec that runs Python inside."""
    args = ["-c", source, *arguments]
    return tool(call_id, "exec", command="python3", args=args, stdout=True, stderr=True, timeout=timeout)


@dataclass(slots=True)
class Attacker:
    """`turns` are the tool calls of one run, turn by turn; the answers come back by call id. A hostile runner does what
    `mode` says.
    """

    daemon: Daemon
    project: Path
    made: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def name(self, mode: str = "attacker") -> str:
        self.made += 1
        return f"{mode}-{self.made}"

    def run(
        self,
        *turns: list[Call],
        toml: str = SOLO,
        options: tuple[str, ...] = (),
        workspace: str = "ephemeral",
        env: Mapping[str, str] | None = None,
        mode: str = "attacker",
    ) -> "Outcome":
        with self.lock:
            name = self.name(mode)
            directory = self.daemon.definition(toml.replace("{name}", name))
        self.daemon.script(name, *({"calls": calls} for calls in turns), {"text": "done"})
        code, events, stderr = self.daemon.run(directory, name, *options, workspace=workspace, env=env)
        return Outcome(code, events, stderr)

    @contextmanager
    def watching_latency(self) -> Iterator["Latency"]:
        """`perstackctl system info` again and again beside what happens in the block."""
        latency = Latency()
        prober = threading.Thread(target=latency.measure, args=(self.daemon,))
        prober.start()
        try:
            yield latency
        finally:
            latency.over.set()
            prober.join(60)


@dataclass(slots=True)
class Latency:
    """Seconds of each answer; a failed one is infinite."""

    seconds: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def measure(self, daemon: Daemon) -> None:
        while not self.over.is_set() or not self.seconds:
            began = time.monotonic()
            good = daemon.ctl("system", "info").returncode == 0
            self.seconds.append(time.monotonic() - began if good else float("inf"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    code: int
    events: Events
    stderr: str

    def answers(self) -> dict[str, Any]:
        """What each call gave back: its first text, parsed where it is JSON."""
        found: dict[str, Any] = {}
        for event in self.events:
            for result in event.get("results", ()) if event["type"] == "resolveToolResults" else ():
                texts = [part["text"] for part in result["content"] if "text" in part]
                found[result["callId"]] = parsed(texts[0]) if texts else result["content"]
        return found

    def printed(self, call_id: str) -> str:
        """The output of an exec call."""
        answer = self.answers()[call_id]
        assert isinstance(answer, dict), answer
        return str(answer["output"])

    def reason(self) -> str:
        ends = (event for event in self.events if event["type"] in {"stopRunByError", "jobFinished"})
        return next((str(event["reason"]) for event in ends if event.get("reason")), "")


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
