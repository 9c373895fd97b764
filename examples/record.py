"""`make conversations`: plays each example's hand-written script against real sandboxes and writes its
conversation.jsonl.

Needed after a change to a prompt, a tool's description or a script: the recorded turns are keyed by the whole request.
Names of examples as arguments choose some of them.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from examples import embed, script
from examples.script import Play, Script
from examples.stage import Stage, daemon


def record(example: Script) -> None:
    """Write the example's conversation anew; the old one stays when a play does not go as the script says."""
    turns: dict[str, str] = {}
    for play in example.plays:
        for line in _recorded(example, play).splitlines():
            turns.setdefault(json.loads(line)["digest"], line)
    # Delegates that work at the same time end in any order; the file is to differ only where its content does.
    ordered = sorted(turns.values(), key=lambda line: _place(example, json.loads(line)))
    example.conversation.write_text("".join(f"{line}\n" for line in ordered), encoding="utf-8")


def _place(example: Script, recorded: dict[str, Any]) -> int:
    said = (recorded["expert"], recorded["turn"]["parts"][0]["text"])
    return [(turn["expert"], turn["text"].strip()) for turn in example.turns].index(said)


def _recorded(example: Script, play: Play) -> str:
    with tempfile.TemporaryDirectory(prefix="pd-record-", dir="/tmp") as directory:
        stage, file = Stage.at(Path(directory)), Path(directory) / "conversation.jsonl"
        models = {"models.record": str(file), "models.default_provider": "scripted"}
        with daemon(stage, models, example.turns_of(play)), stage.set(example) as scene:
            end = scene.run("scripted", play)[-1]
        if end.get("outcome") != "completed":
            sys.exit(f"{example.directory.name}, {play.name} was not completed: {end}")
        return file.read_text(encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or script.names():
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
        embed.embed(script.EXAMPLES / name)
        record(script.read(script.EXAMPLES / name))
