"""Ends of sandboxes that are only noted."""

from perstackd.domain.errors import Kind, PerstackError


class FakeHalts:
    """`running` are containers that have processes. Those in `unstoppable` keep them."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.unstoppable: set[str] = set()
        self.halted: list[str] = []

    async def halt(self, container_id: str) -> None:
        if container_id in self.running & self.unstoppable:
            raise PerstackError(Kind.UNAVAILABLE, "sandbox_unstoppable", f"{container_id} runs on", retryable=True)
        self.running.discard(container_id)
        self.halted.append(container_id)
