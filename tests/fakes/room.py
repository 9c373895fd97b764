"""The machine's room as a number that a test turns."""


class FakeRoom:
    """Passes tests/contracts/test_room.py. `free` are bytes of the one thing that can lack; `looks` counts."""

    def __init__(self, watermark: int = 512 << 20, free: int = 1 << 40) -> None:
        self.watermark = watermark
        self.free = free
        self.looks = 0
        self._lacks = False

    async def lack(self) -> str:
        self.looks += 1
        self._lacks = self.free < self.watermark * (1.2 if self._lacks else 1)
        told = f"only {self.free >> 20} MiB of memory are available, the watermark is {self.watermark >> 20} MiB"
        return told if self._lacks else ""
