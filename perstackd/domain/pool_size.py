"""How many sandboxes of a template are kept idle: enough for the claims that come while a new one is being made. Pure.

By Little's law the claims that arrive during one refill are the arrival rate times the time of a refill; its 99th
percentile and a margin stand for bursts. Never below the template's `min_idle`, nor above its `max`. It grows at once
and shrinks one by one, after two quiet minutes: growing late makes a claim wait, shrinking late costs an idle sandbox.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil
from typing import Final

from perstackd.domain.pool import PoolState
from perstackd.domain.sandbox import Template

WINDOWS: Final = (10.0, 60.0)
"""Seconds over which claims are counted: a burst shows in the short one, a steady flow in the long one."""
MARGIN: Final = 1.5
QUIET_SECONDS: Final = 120.0
SHRINK_SECONDS: Final = 30.0
WORTH: Final = 0.5


def sized(state: PoolState, template: Template, now: float) -> PoolState:
    """The state with the number that is wanted idle now, in `idle_target`. Asked at every claim, so it looks up where
    the windows begin instead of counting, and returns the same state where nothing is new.
    """
    needed = need(state, template, now)
    if needed >= state.idle_target:
        return replace(state, idle_target=needed, target_at=now) if _is_news(state, needed, template, now) else state
    if now < state.target_at + QUIET_SECONDS:
        return state
    # the next step comes a shorter while later
    return replace(state, idle_target=state.idle_target - 1, target_at=now - QUIET_SECONDS + SHRINK_SECONDS)


def need(state: PoolState, template: Template, now: float) -> int:
    """What the last minute asks for, between `min_idle` and `max`. What is not half a claim asks for nothing: else one
    claim a minute would keep a sandbox where none is to be kept.
    """
    rate = max(_rate(state.claimed_at, now, window) for window in WINDOWS)
    coming = rate * quantile(state.refill_ms, 0.99) / 1000 * MARGIN if rate else 0.0
    return min(template.max, max(template.min_idle, ceil(coming) if coming >= WORTH else 0))


def quantile(values: Iterable[float], q: float) -> float:
    """The value below which the part `q` of them lies; 0 without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))] if ordered else 0.0


def _is_news(state: PoolState, needed: int, template: Template, now: float) -> bool:
    """Above the least, time counts as well: from when on it was last needed, to the second."""
    return needed > state.idle_target or (needed > template.min_idle and now >= state.target_at + 1)


def _rate(claimed_at: Sequence[float], now: float, window: float) -> float:
    """Claims a second. The times are in order: the clock never goes back."""
    return (len(claimed_at) - bisect_right(claimed_at, now - window)) / window
