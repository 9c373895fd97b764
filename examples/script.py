"""An example's script.toml: what is asked, what the model's turns are, and what a person answers."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from perstackd.domain.messages import FinishReason, TextPart, ToolCallPart, Turn, Usage

EXAMPLES: Final = Path(__file__).parent
NAMED: Final = "named"


@dataclass(frozen=True, slots=True)
class Play:
    """One way that the job can go. An answer is a text or an object to an interactive tool, `{approve = true}` or
    `{deny = reason}` to an approval."""

    name: str
    answers: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Script:
    """`workspace` is a directory of the example that the job works on a copy of, `ephemeral`, or empty for an empty
    one. `stands_in_for` are the hosts whose place the example's stand_in.py takes; `{stand_in}` in a value of `env` is
    its name.
    """

    directory: Path
    expert: str
    query: str
    turns: tuple[Mapping[str, Any], ...]
    plays: tuple[Play, ...] = (Play("only"),)
    workspace: str = ""
    read_only: bool = False
    stands_in_for: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def conversation(self) -> Path:
        """The recorded turns."""
        return self.directory / "conversation.jsonl"

    def play(self, name: str) -> Play:
        """The play of that name. Raises KeyError."""
        return {play.name: play for play in self.plays}[name]

    def turns_of(self, play: Play) -> dict[str, list[Turn]]:
        """The turns of each expert in one play, by a marker that only its system prompt has."""
        found: dict[str, list[Turn]] = {}
        for turn in self.turns:
            if turn.get("play", play.name) == play.name:
                found.setdefault(f"You are {turn['expert']}, an expert.", []).append(_turn(turn))
        return found


def read(directory: Path) -> Script:
    """The script of an example. Raises OSError, tomllib.TOMLDecodeError and KeyError."""
    values = tomllib.loads((directory / "script.toml").read_text(encoding="utf-8"))
    plays = tuple(Play(each["name"], tuple(each["answers"])) for each in values.get("play", ()))
    return Script(
        directory=directory,
        expert=values["expert"],
        query=values["query"],
        turns=tuple(values["turn"]),
        plays=plays or (Play("only"),),
        workspace=values.get("workspace", ""),
        read_only=values.get("read_only", False),
        stands_in_for=tuple(values.get("stands_in_for", ())),
        env=values.get("env", {}),
    )


def names() -> list[str]:
    """All examples."""
    return sorted(path.parent.name for path in EXAMPLES.glob("*/script.toml"))


def _turn(turn: Mapping[str, Any]) -> Turn:
    calls = [ToolCallPart(call["id"], call["name"], call["arguments"]) for call in turn.get("calls", ())]
    reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
    # A script has no tokens; the counts are words, so that what is shown is of the right order.
    usage = Usage(0, len(json.dumps(turn).split()))
    return Turn((TextPart(turn["text"].strip()), *calls), reason, usage, "script")
