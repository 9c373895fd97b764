"""How long a sandbox may take until its session goes on. Pure: the run's worker holds the clock.

Only a change of the session's state ends a wait, never a message as such: a hostile runner could talk for ever.
"""

from typing import Final

from perstackd.domain.session import Session

PARALLEL_CALLS: Final = 32
"""What a runner works at once; more calls of a turn wait their turn inside."""


def patience_ms(session: Session, skill_start_ms: int, tool_ms: int, margin_ms: int) -> int | None:
    """Milliseconds from the session's last change of state; None while it is the daemon's turn.

    `skill_start_ms` and `tool_ms` are what the sandbox was told for one skill and for its slowest tool. A call may wait
    for both, because a lazy skill starts with its first call.
    """
    if session.elicitations:
        return None  # a person is waited for, for as long as it takes
    match session.state:
        case "assigned" | "reported":
            return margin_ms
        case "preparing":
            return skill_start_ms + margin_ms
        case "returned" if not session.calls:
            return skill_start_ms + margin_ms
        case "running" | "returned":
            rounds = -(-len(session.calls) // PARALLEL_CALLS)
            return rounds * (skill_start_ms + tool_ms) + margin_ms
        case _:
            return None
