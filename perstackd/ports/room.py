"""Whether the machine has room for more sandboxes."""

from typing import Protocol


class Room(Protocol):
    """Memory and disks, with watermarks that the operator sets."""

    async def lack(self) -> str:
        """Of what there is too little, with the amount and the watermark; empty when there is room. Once something is
        lacking it is until there is a fifth more than the watermark. Raises nothing: what cannot be read is not told.
        """
        ...
