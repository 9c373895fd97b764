"""A line on standard error for whoever looks into a sandbox. Never arguments, environment or what a tool said."""

import sys
import time


def log(message: str) -> None:
    """Write one line, with the time in seconds since the machine's start."""
    sys.stderr.write(f"perstack-runner {time.monotonic():.3f} {message[:500]}\n")
    sys.stderr.flush()
