"""What the kernel counts of a sandbox's limits, and what that proves about its end. Pure.

A count proves the end only where it rose just before it: a program that was ended an hour ago, and was outlived, is not
why. Unknown is allowed, a guess is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

RECENT_S: Final = 3.0
"""How long before the last look a count may have risen to belong to the end: looks are a second apart, and one may be
late."""
_KILLED: Final = 128 + 9


@dataclass(frozen=True, slots=True)
class Counters:
    """Of a sandbox's cgroup, since it was made: programs that were ended for want of memory, how often its memory limit
    was reached, and how many new processes were refused. `ended`: no process is left.
    """

    oom_kills: int = 0
    memory_hits: int = 0
    refused_processes: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """Counters at a moment of the monotonic clock, in seconds."""

    at: float
    counters: Counters


def looked(looks: Sequence[Look], look: Look) -> tuple[Look, ...]:
    """With one more; those that no question can be about are forgotten. After the end nothing is added: what counts is
    what rose before it, however late somebody asks.
    """
    if looks and looks[-1].counters.ended:
        return tuple(looks)
    old = [each for each in looks if each.at <= look.at - RECENT_S]
    return (*old[-1:], *looks[len(old) :], look)


def risen(looks: Sequence[Look]) -> Counters:
    """What was counted shortly before the last look; nothing where there is no earlier one to compare with."""
    *earlier, last = looks or (Look(0.0, Counters()),)
    old = [each for each in earlier if each.at <= last.at - RECENT_S]
    base = (old[-1:] or earlier[:1] or [last])[0].counters
    return Counters(
        last.counters.oom_kills - base.oom_kills,
        last.counters.memory_hits - base.memory_hits,
        last.counters.refused_processes - base.refused_processes,
        last.counters.ended,
    )


def proven(cause: str, exit_code: int, recent: Counters) -> str:
    """The cause of an end, where the engine's word leaves it open: it does not answer (`unknown`), the container is
    gone (`lost`), or its first process was killed by it does not say whom.
    """
    open_end = cause in {"unknown", "lost"} or (cause == "exited" and exit_code == _KILLED)
    return "oomKilled" if open_end and recent.ended and recent.oom_kills > 0 else cause


def told(recent: Counters) -> str:
    """What the counts say of the last seconds, for a detail; empty when nothing."""
    parts = (
        (recent.oom_kills, "programs ended for want of memory"),
        (recent.memory_hits, "times its memory limit was reached"),
        (recent.refused_processes, "new processes refused by its limit"),
    )
    said = ", ".join(f"{count} {what}" for count, what in parts if count > 0)
    return f"in its last seconds the kernel counted {said}" if said else ""


def parse(files: dict[str, str]) -> Counters | None:
    """The counters of cgroup files by their names, of version 1 or 2; None when they have none."""
    if not files.keys() & {"memory.oom_control", "memory.events", "pids.events"}:
        return None
    events = _flat(files.get("memory.events", ""))
    killed = _flat(files.get("memory.oom_control", "")) | events
    # Version 1 counts at the limit that is reached first: of memory, or of memory and swap together.
    hits = [files[name].strip() for name in ("memory.failcnt", "memory.memsw.failcnt") if name in files]
    return Counters(
        killed.get("oom_kill", 0),
        sum(int(hit) for hit in hits if hit.isdigit()) + events.get("max", 0),
        _flat(files.get("pids.events", "")).get("max", 0),
        files.get("pids.current", "").strip() == "0",
    )


def _flat(text: str) -> dict[str, int]:
    """Lines of a name and a number."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
