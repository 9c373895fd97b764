"""The Docker engine as this measurement asks it itself, past the product."""

import json
import subprocess
from collections.abc import Sequence

from benchmarks.failure import MeasurementError


def first_pids(containers: Sequence[str]) -> tuple[int, ...]:
    """The host's pid of each container's first process, in order. Raises MeasurementError when one does not run."""
    if not containers:
        return ()
    command = ["docker", "inspect", "--format", "{{json .State.Pid}}", *containers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise MeasurementError(f"docker inspect failed: {done.stderr.strip()[:500]}")
    pids = tuple(json.loads(line) for line in done.stdout.split())
    if not all(pids):
        raise MeasurementError("a sandbox that should be idle does not run")
    return pids
