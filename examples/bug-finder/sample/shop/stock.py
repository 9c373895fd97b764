"""The stock of a small shop, kept in a JSON file that several tills use."""

import json
from pathlib import Path


class Stock:
    """Counts by item."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, int] = {}
        self.load()

    def load(self) -> None:
        """Read the file."""
        try:
            self.counts = json.loads(self.path.read_text())
        except ValueError:
            self.counts = {}

    def save(self) -> None:
        """Write the file."""
        self.path.write_text(json.dumps(self.counts))

    def sell(self, item: str, count: int) -> bool:
        """Take `count` of an item out; False when there are not enough."""
        if self.counts.get(item, 0) < count:
            return False
        self.counts[item] = self.counts.get(item, 0) - count
        self.save()
        return True

    def pages(self, size: int) -> int:
        """How many pages a list of all items has."""
        return len(self.counts) // size

    def page(self, number: int, size: int) -> list[str]:
        """The items of a page; the first is number 0."""
        return sorted(self.counts)[number * size : (number + 1) * size]
