"""What is shown of a pool."""

from collections.abc import Iterable
from dataclasses import dataclass

from perstackd.domain.pool import PoolState, Stage
from perstackd.domain.sandbox import Template


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What is shown of a pool. Durations are milliseconds from the start to verified, of the last 100 starts."""

    template: str
    image: str
    image_id: str
    min_idle: int
    max: int
    starting: int
    idle: int
    claimed: int
    removing: int
    quarantined: int
    waiting: int
    halted: str
    failures: int
    started_total: int
    claimed_total: int
    refill_p50_ms: float
    refill_p99_ms: float


def status(state: PoolState, template: Template, image_id: str = "") -> PoolStatus:
    """What is shown of the pool."""
    return PoolStatus(
        template=template.name,
        image=template.image,
        image_id=image_id,
        min_idle=template.min_idle,
        max=template.max,
        starting=state.count(Stage.STARTING),
        idle=state.count(Stage.IDLE),
        claimed=state.count(Stage.CLAIMED),
        removing=state.count(Stage.REMOVING),
        quarantined=state.count(Stage.QUARANTINED),
        waiting=len(state.waiting),
        halted=state.halted or state.blocked or (state.failure if state.failures else ""),
        failures=state.failures,
        started_total=state.started_total,
        claimed_total=state.claimed_total,
        refill_p50_ms=_quantile(state.refill_ms, 0.50),
        refill_p99_ms=_quantile(state.refill_ms, 0.99),
    )


def _quantile(values: Iterable[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))] if ordered else 0.0
