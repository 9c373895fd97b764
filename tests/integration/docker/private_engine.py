"""An engine of a test's own, with gVisor as a runtime: the machine's is never reconfigured."""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.own_engine import own_engine

ROOT = Path(__file__).parents[3]
# Newer kernels show in every network namespace what gVisor takes for a sign of the machine's own; sandboxes have no
# network but loopback anyway.
OPTIONS = ("--oci-seccomp", "--host-uds=open", "--network=none")


def runsc() -> str:
    """The program, which the project's own command brings."""
    done = subprocess.run([ROOT / "tools/runsc"], check=True, capture_output=True, text=True, timeout=110)
    return done.stdout.strip()


@contextmanager
def private_engine(program: str, options: Sequence[str] = OPTIONS, images: Sequence[str] = ()) -> Iterator[str]:
    """The engine's URL. All that it made is gone afterwards."""
    with tempfile.NamedTemporaryFile("w", prefix="pe-", suffix=".json") as configuration:
        json.dump({"runtimes": {"runsc": {"path": program, "runtimeArgs": list(options)}}}, configuration)
        configuration.flush()
        with own_engine(images, ["--config-file", configuration.name]) as engine:
            yield engine.url
