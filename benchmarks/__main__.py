"""`python -m benchmarks GROUP [--json] [--full]`: measures, and reports against the targets.

The exit code is 0 also when a target is missed: these are reports. It is 1 when something could not be measured.
"""

import argparse
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import structlog

from benchmarks.failure import MeasurementError
from benchmarks.options import Measure, Options, progress
from benchmarks.targets import Result

GROUPS: Final = (
    "claim",
    "burst",
    "cold_vs_warm",
    "delegated_run",
    "steps",
    "growth",
    "throughput",
    "refill",
    "memory",
    "skills",
    "ingest",
    "replay",
    "fanout",
    "frozen",
    "recover",
    "churn",
    "context",
    "cli",
    "definition",
    "egress",
)


def main() -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("group", choices=(*GROUPS, "all"), nargs="?", default="all")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument("--full", action="store_true", help="as many repetitions as published figures have")
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="where daemons keep their state: a disk"
    )
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for figures
    options = Options(full=chosen.full, directory=chosen.directory)
    groups = GROUPS if chosen.group == "all" else (chosen.group,)
    return max([_report(group, options, as_json=chosen.json) for group in groups])


def _leave(_signal: int, _frame: object) -> None:
    sys.exit(143)  # unwinds, so that the daemon goes and what it made


def _report(group: str, options: Options, *, as_json: bool) -> int:
    progress(f"{group}: measuring")
    try:
        for result in _measure(group, options):
            measured = replace(result, detail={**result.detail, "load_1m": round(os.getloadavg()[0], 1)})
            print(json.dumps(measured.document()) if as_json else _line(measured), flush=True)
    except Exception as error:
        # One group that cannot be measured must not take the others with it.
        if not isinstance(error, MeasurementError):
            traceback.print_exc()
        print(f"error: {group} could not be measured: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(group: str, options: Options) -> Iterator[Result]:
    """Imported when measured, so that none pays for the others' modules."""
    yield from cast("Measure", importlib.import_module(f"benchmarks.{group}").measure)(options)


def _line(result: Result) -> str:
    judgement = "ok    " if result.ok else "MISSED"
    figure = f"{result.value:>9g} {result.unit:<9}"
    detail = " ".join(f"{key}={json.dumps(value)}" for key, value in result.detail.items())
    return f"{judgement} {result.name:<26}{figure} target {result.target:<8g} {detail}"


if __name__ == "__main__":
    sys.exit(main())
