"""Every promised number, and the judgement of a measured value. The names are fixed: others read the reports."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

SYNCS_ALLOWED: Final = 2
"""A durable figure may take this many syncs of the disk on top of its target."""


@dataclass(frozen=True, slots=True)
class Target:
    """The most a value may be, or the least where `at_least` is set. `durable`: the disk's syncs are allowed for."""

    limit: float
    unit: str
    at_least: bool = False
    durable: bool = False


TARGETS: Final[Mapping[str, Target]] = {
    "claim.p50_ms": Target(5, "ms", durable=True),
    "claim.p99_ms": Target(25, "ms", durable=True),
    "burst.hits_pct": Target(100, "%", at_least=True),
    "burst.p99_ms": Target(60, "ms"),
    "cold_vs_warm.ratio": Target(50, "x", at_least=True),
    "delegated_run.cli_s": Target(0.20, "s"),
    "delegated_run.job_s": Target(0.06, "s"),
    "steps.ms_at_10": Target(3, "ms", durable=True),
    "steps.ms_at_300": Target(3, "ms", durable=True),
    "growth.store_kb": Target(1000, "kB"),
    "growth.stream_kb": Target(1000, "kB"),
    "growth.runner_mib_delta": Target(5, "MiB"),
    "growth.daemon_mib_delta": Target(10, "MiB"),
    "throughput.engine_ratio": Target(0.8, "x", at_least=True),
    "refill.per_s": Target(4, "1/s", at_least=True),
    "refill.peak": Target(3, "sandboxes"),  # on top of what the pool is to keep
    "memory.daemon_mib": Target(120, "MiB"),
    "memory.per_sandbox_mib": Target(0.2, "MiB"),
    "idle.cpu_pct": Target(1, "%"),
    "memory.base_mib": Target(20, "MiB"),
    "memory.skills_mib": Target(75, "MiB"),
    "skills.first_call_ms": Target(10, "ms"),
    "skills.base_call_ms": Target(1, "ms", durable=True),
    "skills.relayed_call_ms": Target(2, "ms", durable=True),
    "context.prompt_bytes": Target(8400, "B"),
    "context.shared_prefix_pct": Target(100, "%", at_least=True),
    "recover.serving_s": Target(3, "s"),
    "recover.reconciled_s": Target(5, "s"),
    "recover.lost": Target(0, "jobs"),
    "recover.orphans": Target(0, "things"),
    "recover.double": Target(0, "calls"),
    "cli.help_s": Target(0.15, "s"),
    "cli.job_ls_s": Target(0.25, "s"),
    "ingest.store_eps": Target(50_000, "1/s", at_least=True),
    "ingest.socket_eps": Target(10_000, "1/s", at_least=True),
    "replay.fold_eps": Target(100_000, "1/s", at_least=True),
    "replay.watch_eps": Target(50_000, "1/s", at_least=True),
    "fanout.p99_ms": Target(10, "ms"),
    "fanout.gaps": Target(0, "events"),
    "fanout.duplicates": Target(0, "events"),
    "frozen.ratio": Target(1.2, "x"),
    "churn.leaks": Target(0, "things"),
    "definition.parse_1000_s": Target(0.5, "s"),
    "egress.added_p50_ms": Target(2, "ms"),
    "egress.added_p99_ms": Target(10, "ms"),
}


@dataclass(frozen=True, slots=True)
class Result:
    """One line of a report. `detail` holds what JSON holds."""

    name: str
    value: float
    unit: str
    target: float
    ok: bool
    detail: Mapping[str, object] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """The line as it is printed with --json."""
        return asdict(self)


def judged(
    name: str, value: float, detail: Mapping[str, object], *, fsync_ms: float | None = None, plus: float = 0
) -> Result:
    """A value beside its target. `plus` is added to the limit; a durable target also gets two of `fsync_ms`.

    Raises ValueError when the name is not in TARGETS, or when a durable one comes without `fsync_ms`, or another with.
    """
    target = TARGETS.get(name)
    if target is None:
        raise ValueError(f"{name} is not among the targets")
    if target.durable != (fsync_ms is not None):
        raise ValueError(f"{name}: fsync_ms belongs to the durable figures, and to them only")
    shown = dict(detail)
    limit = target.limit + plus
    if fsync_ms is not None:
        limit += SYNCS_ALLOWED * fsync_ms
        shown |= {"fsync_p50_ms": round(fsync_ms, 3), "target_without_fsync": target.limit}
    ok = value >= limit if target.at_least else value <= limit
    return Result(name, _rounded(value), target.unit, _rounded(limit), ok, shown)


def _rounded(value: float) -> float:
    """Four significant digits or whole numbers: more would be noise."""
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value)
