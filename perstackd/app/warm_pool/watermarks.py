"""Looks every few seconds whether the machine has room, and tells the pools: at a watermark nothing is kept idle anew,
while claims that wait are still served.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from perstackd.app.warm_pool.roster import Roster
from perstackd.app.warm_pool.wiring import PoolPorts, bounded
from perstackd.domain.errors import PerstackError
from perstackd.ports.room import Room

PERIOD_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
_log = structlog.get_logger()


async def watch(room: Room, ports: PoolPorts, roster: Roster, advance: Callable[[], None]) -> None:
    """Go on until cancelled. The first look comes before the first pause."""
    before = ""
    while True:
        lacking = await _lack(room)
        if bool(lacking) != bool(before):
            _log.warning("refill stops" if lacking else "refill goes on", lacking=lacking or before)
        if lacking != before:
            for name, state in roster.states.items():
                roster.states[name] = replace(state, lacking=lacking)
            advance()
        before = lacking
        await ports.sleep(PERIOD_SECONDS)


async def _lack(room: Room) -> str:
    """A disk that does not answer has no room to be relied on."""
    try:
        return await bounded("looking for room on the machine", ANSWER_SECONDS, room.lack())
    except PerstackError as error:
        return error.message
