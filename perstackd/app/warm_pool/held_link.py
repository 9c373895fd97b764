"""A runner's link while the pool holds it. `asks()` has one reader: the pool until the claim, then the claimer."""

import asyncio
from collections.abc import AsyncIterator, Callable

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.session import Ask, Failure, Hello, LinkLost, Order, Probe, ProbeResult
from perstackd.ports.runner_link import RunnerLink


class HeldLink:
    """Implements RunnerLink, and watches the link while nobody else reads it.

    The next ask is always awaited in one task of its own. To hand over, the watcher is taken off and the task stays:
    cancelling a read would end the iterator or lose an ask. `close` cancels and awaits it.
    """

    def __init__(self, link: RunnerLink) -> None:
        self._link = link
        self._asks: AsyncIterator[Ask] | None = None
        self._next: asyncio.Task[Ask] | None = None
        self._ended: Callable[[str], None] | None = None

    @property
    def token_hash(self) -> str:
        return self._link.token_hash

    async def hello(self, deadline: float) -> Hello:
        return await self._link.hello(deadline)

    async def send(self, order: Order) -> None:
        await self._link.send(order)

    @property
    def position(self) -> int:
        return self._link.position

    def acknowledge(self, position: int) -> None:
        self._link.acknowledge(position)

    async def asks(self) -> AsyncIterator[Ask]:
        """Asks from where the pool stopped. After the one that is awaited already, the link's own iterator serves."""
        self.unwatch()
        first = await self._read()
        yield first
        if isinstance(first, LinkLost):
            return
        async for ask in self._iterator():
            yield ask

    async def close(self) -> None:
        self.unwatch()
        reading, self._next = self._next, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()
        await self._link.close()

    def watch(self, ended: Callable[[str], None]) -> None:
        """Call `ended` once, with why, when the idle runner is gone or says what an idle runner does not say."""
        self._ended = ended
        self._reading().add_done_callback(self._woke)

    def unwatch(self) -> None:
        """Another reads from now on."""
        self._ended = None

    async def probe(self, path: str, seconds: float) -> bytes | None:
        """What the idle sandbox sees at `path`; None when nothing is there.

        Raises:
            PerstackError: UNAVAILABLE `link_lost`; UNAVAILABLE `probe_failed`; TIMEOUT `probe_unanswered`.
        """
        await self._link.send(Probe(path))
        try:
            async with asyncio.timeout(seconds):
                return await self._answer(path)
        except TimeoutError as error:
            message = f"the runner did not say within {seconds:g} s what it sees at {path}"
            raise PerstackError(Kind.TIMEOUT, "probe_unanswered", message, retryable=True) from error

    async def _answer(self, path: str) -> bytes | None:
        while True:
            ask = await self._read()
            if isinstance(ask, ProbeResult):
                return ask.content
            if trouble := _trouble(ask):
                raise PerstackError(Kind.UNAVAILABLE, "probe_failed", f"asked for {path}: {trouble}", retryable=True)

    def _iterator(self) -> AsyncIterator[Ask]:
        if self._asks is None:
            self._asks = self._link.asks()
        return self._asks

    def _reading(self) -> "asyncio.Task[Ask]":
        if self._next is None:
            self._next = asyncio.create_task(_first(self._iterator()), name="runner-link-read")
        return self._next

    async def _read(self) -> Ask:
        reading = self._reading()
        await asyncio.wait({reading})
        self._next = None
        return reading.result()

    def _woke(self, reading: "asyncio.Task[Ask]") -> None:
        ended = self._ended
        if ended is None or reading.cancelled():
            return
        error = reading.exception()
        trouble = f"reading the link failed: {error}" if error else _trouble(reading.result())
        if trouble:
            self._ended = None
            ended(trouble)
        else:
            self._next = None
            self.watch(ended)


async def _first(asks: AsyncIterator[Ask]) -> Ask:
    return await anext(asks, LinkLost("the link ended"))


def _trouble(ask: Ask) -> str:
    """What is wrong when an idle runner says this; empty when nothing is. A Hello is a reconnect."""
    match ask:
        case Hello():
            return ""
        case LinkLost(detail=detail):
            return f"its link was lost: {detail[:200]}"
        case Failure(reason=reason, message=message):
            return f"its runner failed: {reason[:80]}: {message[:200]}"
        case _:
            return f"its idle runner sent {type(ask).__name__}"
