"""What every display of a watched job can do."""

from typing import Protocol

from perstackctl.client.values import Batch, Job
from perstackctl.watch.trace import Trace


class Painter(Protocol):
    """Shows a job while it is watched. Calls come in order, from one task. `interval` is seconds between ticks.

    `tells_cost`: the job's record is worth asking for at its end.
    """

    interval: float
    tells_cost: bool

    def paint(self, before: Trace, batch: Batch) -> Trace:
        """Show a batch that follows `before`; returns the trace after it."""
        ...

    def tick(self, trace: Trace, now: int) -> None:
        """Time passed; `now` is milliseconds since the epoch."""
        ...

    def notice(self, text: str) -> None:
        """A sentence of perstackctl itself, about the watching."""
        ...

    def hold(self) -> None:
        """Keep off the terminal: somebody is asked there. Painting and ticking go on."""
        ...

    def go_on(self) -> None:
        """The terminal is free again."""
        ...

    def abandon(self) -> None:
        """Give the terminal back at once: the program is left from a signal's handler. Waits for nothing."""
        ...

    def close(self, trace: Trace, job: Job | None = None) -> None:
        """Nothing more will come. Called once, also after an error, held or not. `job` is the record of one that ended,
        where it could be had.
        """
        ...
