"""ingest.socket_eps: pieces of output a second, from a sandbox's socket through the daemon to a watcher's."""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Final, cast

from benchmarks.failure import MeasurementError
from benchmarks.socket_daemon import ADMIN, RUNNER
from benchmarks.socket_runner import LINE
from perstackctl.client import Client
from perstackd.adapters.clock import SystemClock

PIECES: Final = 10_000
"""As many as the daemon holds for a watcher that does not keep up, so that none is dropped."""
SECONDS: Final = 60.0


def rate() -> tuple[float, int]:
    """Pieces a second, and how many of them came."""
    with tempfile.TemporaryDirectory(prefix="pb-", dir="/tmp") as top:
        directory = Path(top, SystemClock().new_id())
        directory.mkdir()
        with _process("benchmarks.socket_daemon", str(directory)):
            _await(directory / RUNNER)
            return asyncio.run(_watched(directory))


def _await(socket: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not socket.exists():
        if time.monotonic() > deadline:
            raise MeasurementError("the daemon's part did not come up")
        time.sleep(0.01)


async def _watched(directory: Path) -> tuple[float, int]:
    async with asyncio.timeout(SECONDS), Client(f"unix:{directory / ADMIN}") as client:
        came, began, last = 0, 0.0, 0.0
        batches = client.watch_job(directory.name, include_streaming=True)
        async with aclosing(cast("Any", batches)) as open_batches:
            with _process("benchmarks.socket_runner", str(directory / RUNNER), str(PIECES)):
                async for batch in open_batches:
                    last = time.perf_counter()
                    began = began or last
                    came += len(batch.pieces)
                    if batch.pieces and batch.pieces[-1].offset >= (PIECES - 1) * len(LINE):
                        return came / (last - began), came
    raise MeasurementError("the watcher's stream ended early")


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", module, *arguments])
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)
