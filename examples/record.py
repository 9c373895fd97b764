"""`make conversations`: plays each example's hand-written script against real sandboxes and writes its
conversation.jsonl.

Needed after a change to a prompt, a tool's description or a script: the recorded turns are keyed by the whole request.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from examples.demo import BIN, wait_for
from perstackd import daemon
from perstackd.config import load
from perstackd.domain.messages import FinishReason, TextPart, ToolCallPart, Turn, Usage
from tests.fakes.models import ScriptedModels

EXAMPLES = Path(__file__).parent


def turns(script: dict[str, Any]) -> dict[str, list[Turn]]:
    """The turns of each expert, by a marker that only its system prompt has."""
    found: dict[str, list[Turn]] = {}
    for turn in script["turn"]:
        calls = [ToolCallPart(call["id"], call["name"], call["arguments"]) for call in turn.get("calls", [])]
        text = turn["text"].strip()
        reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
        # A script has no tokens; the counts are words, so that the demo shows something of the right order.
        usage = Usage(0, len(json.dumps(turn).split()))
        found.setdefault(f"You are {turn['expert']}, an expert.", []).append(
            Turn((TextPart(text), *calls), reason, usage, "script")
        )
    return found


def record(example: Path) -> None:
    """Write the example's conversation anew; the old one stays when the job does not complete."""
    script = tomllib.loads((example / "script.toml").read_text())
    with tempfile.TemporaryDirectory(prefix="perstackd-record-", dir="/tmp") as directory:
        home, recorded = Path(directory), Path(directory) / "conversation.jsonl"
        config = load(
            None,
            {
                "state_directory": f"{home}/state",
                "runtime_directory": f"{home}/run",
                "models.record": str(recorded),
                "models.default_provider": "scripted",
            },
        )
        process = multiprocessing.Process(target=_serve, args=(config, turns(script)))
        process.start()
        try:
            if not wait_for(config.socket_path, process.is_alive):
                sys.exit("perstackd did not start; what it logged is above")
            command = [BIN / "perstackctl", "run", script["expert"], script["query"], "--workspace", "recording"]
            address = {"PERSTACK_ADDRESS": f"unix:{config.socket_path}"}
            subprocess.run(
                [*command, "--provider", "scripted"],
                cwd=example,
                env={**os.environ, **address},
                check=True,
                timeout=120,
            )
        finally:
            os.kill(process.pid or 0, signal.SIGTERM)
            process.join(60)
        (example / "conversation.jsonl").write_text(recorded.read_text())


def _serve(config: Any, script: dict[str, list[Turn]]) -> None:
    daemon.run(config, {"scripted": lambda: ScriptedModels(script)})


if __name__ == "__main__":
    for script in sorted(EXAMPLES.glob("*/script.toml")):
        sys.stdout.write(f"{script.parent.name}\n")
        record(script.parent)
