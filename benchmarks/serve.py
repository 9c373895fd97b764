"""The daemon that is measured: the product's own, with a model that answers at once and a count of durable barriers.

Run as `python -m benchmarks.serve CONFIG BARRIERS`, by `benchmarks.daemon` only.
"""

import sys
from pathlib import Path

from benchmarks.barriers import BarrierFile, count_here
from benchmarks.experts import PROVIDER, scripts
from perstackd import daemon
from perstackd.config import load
from tests.fakes.models import ScriptedModels


def main(config: str, barriers: str) -> None:
    """Serve until a signal."""
    count_here(BarrierFile(Path(barriers)))
    played = scripts()
    # keep=1: requests hold whole histories, which would show as growth of the daemon.
    daemon.run(load(Path(config)), {PROVIDER: lambda: ScriptedModels(played, keep=1)})


if __name__ == "__main__":
    main(*sys.argv[1:])
