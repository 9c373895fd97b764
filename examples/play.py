"""`python -m examples.play NAME [PLAY]`: shows an example without a model key, on a daemon of its own.

The recorded conversation answers in the place of a model, the example's stand_in.py in the place of a server, and the
script in the place of a person. Daemon, sandboxes, proxy and skills are the real ones.
"""

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from examples import script
from examples.script import Play, Script
from examples.stage import Scene, Stage, answer_arguments, daemon, filled


def main(arguments: list[str]) -> int:
    """Play it; returns the job's exit code."""
    if not 1 <= len(arguments) <= 2 or arguments[0] not in script.names():
        sys.stderr.write(f"usage: python -m examples.play NAME [PLAY], with NAME one of {', '.join(script.names())}\n")
        return 2
    example = script.read(script.EXAMPLES / arguments[0])
    plays = {play.name: play for play in example.plays}
    if arguments[1:] and arguments[1] not in plays:
        sys.stderr.write(f"{arguments[0]} has no play {arguments[1]}; there is {', '.join(plays)}\n")
        return 2
    play = plays[arguments[1]] if arguments[1:] else example.plays[0]
    with tempfile.TemporaryDirectory(prefix="pd-play-", dir="/tmp") as directory:
        stage = Stage.at(Path(directory))
        models = {"models.default_provider": "replay", "models.replay.file": str(example.conversation)}
        with daemon(stage, models), stage.set(example) as scene:
            filled(stage)
            return _shown(scene, example, play)


def _shown(scene: Scene, example: Script, play: Play) -> int:
    _say("no model answers here: the turns were written by people and are played back (conversation.jsonl)")
    _command("run", example.expert, example.query, "--workspace", scene.workspace)
    end = scene.run("replay", play, lambda question, given: _answered(scene, question, given))[-1]
    _say(scene.log())
    if scene.stand_in is not None:
        _say(f"\n── {scene.stand_in.summary()}")
    for name in scene.changed():
        _say(f"\n── {name}, as the expert left it in its workspace\n{scene.read(name)}")
    return 0 if end.get("outcome") == "completed" else 1


def _answered(scene: Scene, question: dict[str, Any], given: Any) -> None:
    shown = question["arguments"] if question["kind"] == "approval" else question["message"]
    _say(f"{question['expertKey']} asks:\n{shown if isinstance(shown, str) else json.dumps(shown, indent=2)}")
    _command("job", "answer", scene.job, *answer_arguments(given))


def _command(*arguments: str) -> None:
    _say(f"\n$ perstackctl {shlex.join(arguments)}\n")


def _say(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
