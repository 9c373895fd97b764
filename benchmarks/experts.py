"""The experts that are measured, and what the model says in their runs."""

from collections.abc import Mapping, Sequence
from typing import Final

from perstackd.domain.messages import JsonObject
from tests.fakes.models import Entry, Held, Paced, calls, says

PROVIDER: Final = "scripted"
SECRET: Final = "BENCH_SECRET"
STEPS: Final = 310
TOOL_STEPS: Final = 300
RESULT_BYTES: Final = 1024
CALLS: Final = 60
PACED_STEPS: Final = 200
PACE: Final = 0.02
"""Seconds of a model's turn: with the step's own time, about 200 events a second."""
ONCE: Final = "echo made >> made; sleep 12; echo over"
"""Longer than it takes to start 20 such jobs, kill the daemon and have another one serve."""
QUERY: Final = "Do what you are for."

DEFINITION: Final = f"""\
maxSteps = 1000

[experts."one-shot"]
description = "Answers at once"
instruction = "Answer at once."

[experts."with-secret"]
description = "Answers at once and has a secret"
instruction = "Answer at once."
[experts."with-secret".skills."@perstack/base"]
type = "mcpStdioSkill"
command = "npx"
packageName = "@perstack/base"
requiredEnv = ["{SECRET}"]

[experts."holder"]
description = "Waits for a model that never answers"
instruction = "Wait."

[experts."coordinator"]
description = "Has one delegate"
instruction = "Ask your delegate, then answer."
delegates = ["specialist"]

[experts."specialist"]
description = "Notes what it was asked, then answers"
instruction = "Write a note, then answer."

[experts."stepper"]
description = "Takes many cheap steps"
instruction = "Check your health again and again."

[experts."with-skill"]
description = "Has a skill in a sandbox of its own and does not call it"
instruction = "Answer at once."
[experts."with-skill".skills.time]
type = "mcpStdioSkill"
command = "mcp-server-time"
args = ["--local-timezone", "UTC"]
isolation = "own"

[experts."caller"]
description = "Calls a base tool and its skill's tool in turns"
instruction = "Tell the time again and again."
[experts."caller".skills.time]
type = "mcpStdioSkill"
command = "mcp-server-time"
args = ["--local-timezone", "UTC"]
isolation = "own"

[experts."paced"]
description = "Takes about forty steps a second"
instruction = "Check your health now and then."

[experts."survivor"]
description = "Runs a program that takes a while and must run once, then looks at what it did"
instruction = "Run it once."

[experts."reader"]
description = "Reads a file of {RESULT_BYTES} bytes again and again"
instruction = "Read note.txt again and again."
"""


def scripts() -> Mapping[str, Sequence[Entry]]:
    """What `ScriptedModels` plays, by the first line of each expert's system prompt."""
    note: JsonObject = {"path": "note.txt", "text": "x" * RESULT_BYTES}
    played: dict[str, list[Entry]] = {
        "one-shot": [says("Done.")],
        "with-secret": [says("Done.")],
        "holder": [Held(says("Done."))],
        "coordinator": [calls(("specialist", {"query": "What shall I do?"})), says("Do that.")],
        "specialist": [calls(("writeTextFile", note)), says("Rest.")],
        "stepper": [*(calls(("healthCheck", {}), prefix=f"step{n}") for n in range(STEPS)), says("Done.")],
        "paced": [
            *(Paced(calls(("healthCheck", {}), prefix=f"step{n}"), PACE) for n in range(PACED_STEPS)),
            says("Done."),
        ],
        "with-skill": [says("Done.")],
        "caller": [
            *(entry for number in range(CALLS) for entry in _pair(number)),
            says("Done."),
        ],
        "survivor": [
            calls(("exec", {"command": "sh", "args": ["-c", ONCE], "stdout": True, "stderr": True})),
            calls(("readTextFile", {"path": "made"}), prefix="look"),
            says("Done."),
        ],
        "reader": [
            calls(("writeTextFile", note)),
            *(calls(("readTextFile", {"path": "note.txt"}), prefix=f"step{n}") for n in range(1, TOOL_STEPS)),
            says("Done."),
        ],
    }
    return {f"You are {expert}, an expert.": entries for expert, entries in played.items()}


def _pair(number: int) -> Sequence[Entry]:
    asked: JsonObject = {"timezone": "UTC"}
    return (
        calls(("healthCheck", {}), prefix=f"base{number}"),
        calls(("get_current_time", asked), prefix=f"skill{number}"),
    )


def _paced(number: int) -> Entry:
    return Paced(calls(("healthCheck", {}), prefix=f"step{number}"), PACE)
