"""The Docker engine as this measurement asks it itself, past the product."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.failure import MeasurementError

_MCP_CALLS: Final = Path(__file__).with_name("mcp_calls.py")


def mcp_calls_ms(image: str, count: int) -> tuple[float, ...]:
    """Milliseconds of each call of an MCP server's tool by the SDK, both in one plain container. Raises
    MeasurementError when they cannot be made.
    """
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "/usr/bin/python3", image]
    command += ["-c", _MCP_CALLS.read_text(), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise MeasurementError(f"the MCP SDK's own calls failed: {done.stderr.strip()[-500:]}")
    return tuple(json.loads(done.stdout))


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
