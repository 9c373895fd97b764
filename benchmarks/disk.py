"""What one sync of the disk costs, in the directory that is about to be measured."""

import os
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.quantiles import median

_PAGE: Final = b"\x5a" * 4096


def fsync_p50_ms(directory: Path, tries: int = 200) -> float:
    """The median of appending a page to a file and syncing it, which is what a commit of the store does."""
    taken: list[float] = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(tries):
            os.write(file.fileno(), _PAGE)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1000)
    return median(taken)
