"""Keeps one perstack-egress process alive, and says which channel leads to it now."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from perstack.v1 import egress_pb2 as pb

from perstackd.adapters.egress.channel import Channel, ChannelLost, OrderRefused
from perstackd.adapters.egress.program import Launcher, Program

START_SECONDS: Final = 20.0
_FIRST_BACK_OFF: Final = 0.05
_LAST_BACK_OFF: Final = 5.0
_HEALTHY_SECONDS: Final = 10.0

_log = structlog.get_logger(__name__)


class Supervisor:
    """`hand_over` gives a new process its listeners before anyone gets its channel; `report` takes what it says."""

    def __init__(
        self,
        launcher: Launcher,
        hand_over: Callable[[Channel], Awaitable[None]],
        report: Callable[[pb.Access], None],
    ) -> None:
        self._launcher = launcher
        self._hand_over = hand_over
        self._report = report
        self._program: Program | None = None
        self._channel: Channel | None = None
        self._up = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id of the process that serves now; None between two of them."""
        return self._program.pid if self._program is not None and self._up.is_set() else None

    async def channel(self) -> Channel:
        """The channel to a process that has every listener. Waits for one; the caller bounds that."""
        while self._channel is None:
            await self._up.wait()
        return self._channel

    def lost(self, channel: Channel) -> None:
        """Told by who met ChannelLost: nobody gets this channel any more. Idempotent."""
        if self._channel is channel:
            self._channel = None
            self._up.clear()

    def kill(self, why: str) -> None:
        """Kill a process that hangs. All tunnels end; another one is started. Does nothing between two processes."""
        if self._program is not None and self._channel is not None:
            _log.error("egress_program_killed", pid=self._program.pid, why=why)
            self.lost(self._channel)
            self._program.kill()

    async def run(self) -> None:
        """Start processes, one after the other, with back-off. Ends by cancellation, with the process."""
        back_off = _FIRST_BACK_OFF
        while True:
            started = time.monotonic()
            try:
                program = await self._launcher.start()
            except OSError as error:
                _log.error("egress_program_not_started", error=str(error), retry_s=back_off)
            else:
                await self._serve(program)
            if time.monotonic() - started > _HEALTHY_SECONDS:
                back_off = _FIRST_BACK_OFF
            await asyncio.sleep(back_off)
            back_off = min(back_off * 2, _LAST_BACK_OFF)

    async def _serve(self, program: Program) -> None:
        """From the start of a process to its end."""
        channel = Channel(program.control)
        self._program = program
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(channel.read(self._report), name="egress-channel")
                reading.add_done_callback(lambda _: self.lost(channel))
                async with asyncio.timeout(START_SECONDS):
                    await channel.order(
                        pb.ToEgress(close=pb.CloseListener())
                    )  # closes nothing: it shows that it answers
                    await self._hand_over(channel)
                if not reading.done():
                    self._channel = channel
                    self._up.set()
        except* (ChannelLost, OrderRefused, OSError) as failures:
            _log.error("egress_program_not_ready", causes=[repr(failure) for failure in failures.exceptions])
        finally:
            self.lost(channel)
            self._program = None
            code = await self._launcher.stop(program)
            _log.info("egress_program_ended", pid=program.pid, exit_code=code)
