"""Postures of sandboxes, kept a while after their end so that they can still be asked for."""

from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import Posture

KEPT_SECONDS = 600.0
KEPT_AT_MOST = 1024


class Postures:
    """Those of live sandboxes, and of the last 1,024 ended ones for ten minutes. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._live: dict[SandboxId, Posture] = {}
        self._ended: dict[SandboxId, tuple[Posture, float]] = {}

    def put(self, posture: Posture) -> None:
        """Keep it while its sandbox lives."""
        self._live[posture.sandbox_id] = posture

    def end(self, sandbox_id: SandboxId, now: float) -> None:
        """Its sandbox is going."""
        posture = self._live.pop(sandbox_id, None)
        if posture is not None:
            self._ended[sandbox_id] = (posture, now)
        self._prune(now)

    def get(self, sandbox_id: SandboxId, now: float) -> Posture | None:
        """None when there was none, or too long ago."""
        self._prune(now)
        if sandbox_id in self._live:
            return self._live[sandbox_id]
        posture, _ = self._ended.get(sandbox_id, (None, 0.0))
        return posture

    def _prune(self, now: float) -> None:
        while self._ended:
            oldest = next(iter(self._ended))
            if len(self._ended) <= KEPT_AT_MOST and now - self._ended[oldest][1] < KEPT_SECONDS:
                return
            del self._ended[oldest]
