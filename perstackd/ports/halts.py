"""The end of what runs in a sandbox, by the kernel alone: a run must not go on beside one that it has given up."""

from typing import Protocol


class Halts(Protocol):
    """Makes no engine call: it is needed most when the engine does not answer."""

    async def halt(self, container_id: str) -> None:
        """No process of the container runs on return, stopped and frozen ones included, and none will: what it had
        open, mounted or connected is let go. Idempotent; also for a container that is gone, or never was.

        Raises:
            PerstackError: UNAVAILABLE `sandbox_unstoppable` when a process lives on for seconds.
        """
        ...
