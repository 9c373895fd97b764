"""Which containers this daemon made, noted before each is started: an engine may forget what still runs.

One empty file CONTAINER.SANDBOX each, below the runtime directory, which lives as long as what is noted can: until the
machine restarts. So nothing is synced. Blocking.
"""

import contextlib
from collections.abc import Collection
from pathlib import Path

from perstackd.domain.ids import SandboxId, is_id
from perstackd.domain.traces import is_container


class Ledger:
    """The notes of one daemon; another one with the same runtime directory has its own."""

    def __init__(self, runtime: str, daemon_id: str) -> None:
        self._directory = Path(runtime, "started", daemon_id)

    def note(self, container_id: str, sandbox_id: SandboxId) -> None:
        """From now on the container is ours. Idempotent. Raises OSError; ValueError for what is no id."""
        if not (is_container(container_id) and is_id(sandbox_id)):
            raise ValueError(f"{container_id[:80]!r} is not a container's id, or {sandbox_id[:40]!r} not a sandbox's")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._directory / f"{container_id}.{sandbox_id}").touch(mode=0o600)

    def noted(self) -> dict[str, SandboxId]:
        """Sandboxes by container id. Raises OSError."""
        try:
            names = [entry.name.partition(".")[::2] for entry in self._directory.iterdir()]
        except FileNotFoundError:
            return {}
        return {container: SandboxId(own) for container, own in names if is_container(container) and is_id(own)}

    def forget(self, container_ids: Collection[str]) -> None:
        """They are no longer noted. Idempotent. Raises OSError."""
        for container, sandbox in self.noted().items():
            if container in container_ids:
                with contextlib.suppress(FileNotFoundError):
                    (self._directory / f"{container}.{sandbox}").unlink()
