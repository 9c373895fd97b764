"""What the engine does by itself: sandboxes with the product's own options, created, started and removed, and no more.

As many starts and removals at once as the daemon allows itself, each on threads of its own, so that the engine is never
waiting for the next request. No runner is waited for, nothing is checked.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import docker

from benchmarks.daemon import ENGINE, IMAGE
from perstackd.adapters.clock import SystemClock
from perstackd.adapters.docker.engine import read_profile
from perstackd.adapters.docker.hardening import LABEL_DAEMON, container_options
from perstackd.adapters.workspaces.root import RuntimeRoot
from perstackd.app.warm_pool import PoolLimits
from perstackd.daemon import seccomp_profile
from perstackd.domain.ids import SandboxId
from perstackd.domain.pool import MAX_STARTS
from perstackd.domain.sandbox import SandboxRecord, SandboxState, Template
from perstackd.ports.sandboxes import SandboxDirectories

REMOVALS: Final = PoolLimits().removals
TEMPLATE: Final = Template("base", IMAGE)
_CALL_SECONDS: Final = 60
_FIRST_UID: Final = 190_000  # below those of the daemon beside it


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds, from the first create call until the last removal is done."""

    count: int
    seconds: float

    def __add__(self, other: "Rate") -> "Rate":
        return Rate(self.count + other.count, self.seconds + other.seconds)

    @property
    def per_s(self) -> float:
        """How many a second."""
        return self.count / self.seconds


class BareEngine:
    """Makes sandboxes without a daemon. `cycles` may be called again and again; to be used as `with bare_engine()`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._label = f"bench-{os.getpid()}"
        self._clock = SystemClock()
        self._numbers = count()
        self._seccomp = read_profile(str(seccomp_profile()))
        client: Any = docker.APIClient(base_url=ENGINE, timeout=_CALL_SECONDS, num_pools=32)
        self._client = client  # half of its calls are untyped
        self._image = str(client.inspect_image(IMAGE)["Id"])

    def cycles(self, seconds: float) -> Rate:
        """Create, start and remove for so long, then finish what was begun."""
        began = time.monotonic()
        under_way = threading.Semaphore(MAX_STARTS + 2 * REMOVALS)
        removed: list[Future[None]] = []
        with ThreadPoolExecutor(REMOVALS) as removals, ThreadPoolExecutor(MAX_STARTS) as starts:

            def cycle() -> None:
                while time.monotonic() < began + seconds:
                    under_way.acquire()
                    removal = removals.submit(self._remove, self._start())
                    removal.add_done_callback(lambda _: under_way.release())
                    removed.append(removal)

            for done in [starts.submit(cycle) for _ in range(MAX_STARTS)]:
                done.result()
            for removal in removed:
                removal.result()
        return Rate(len(removed), time.monotonic() - began)

    def sweep(self) -> None:
        """Remove what a failure left, and the client's connections."""
        for container in self._client.containers(all=True, filters={"label": f"{LABEL_DAEMON}={self._label}"}):
            self._remove(str(container["Id"]))
        self._client.close()

    def _start(self) -> str:
        number = next(self._numbers)
        sandbox_id = SandboxId(self._clock.new_id())
        record = SandboxRecord(sandbox_id, "base", SandboxState.STARTING, _FIRST_UID + number % 1000, created_at=0)
        options = container_options(
            record,
            TEMPLATE,
            self._directories(record),
            image_id=self._image,
            seccomp=self._seccomp,
            daemon_id=self._label,
        )
        container = str(self._client.create_container_from_config(options, f"perstack-bench-{sandbox_id}")["Id"])
        self._client.start(container)
        return container

    def _remove(self, container: str) -> None:
        self._client.remove_container(container, force=True, v=True)

    def _directories(self, record: SandboxRecord) -> SandboxDirectories:
        top = self._root / record.id
        for name in ("gw", "slot/workspace", "id"):
            (top / name).mkdir(parents=True)
        (top / "id/passwd").write_text(f"perstack:x:{record.uid}:{record.uid}::/home/perstack:/bin/sh\n")
        (top / "id/group").write_text(f"perstack:x:{record.uid}:\n")
        return SandboxDirectories(str(top / "gw"), str(top / "slot"), str(top / "id"))


@contextmanager
def bare_engine(directory: Path) -> Iterator[BareEngine]:
    """Leaves no container, mount or directory behind."""
    with tempfile.TemporaryDirectory(prefix="perstackd-bench-engine-", dir=directory) as top:
        root = RuntimeRoot(f"{top}/run")
        root.prepare()
        try:
            engine = BareEngine(Path(root.path))
            try:
                yield engine
            finally:
                engine.sweep()
        finally:
            root.cleanup()
