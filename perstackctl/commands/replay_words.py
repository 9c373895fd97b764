"""How replays tell what came of them: the exit code and the events that differ."""

import json
from typing import Any, Final

DIVERGED: Final = 1
"""Exit code of a replay in which an event came out otherwise."""


def event_text(value: Any) -> str:
    """An event for people, or that there is none."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if value is not None else "nothing"
