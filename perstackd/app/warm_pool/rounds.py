"""The pool's rounds: a look at what is left over, first before anything is started, then every few seconds.

The first one that succeeds also adopts what may be adopted.
"""

import asyncio
from dataclasses import replace

import structlog

from perstackd.app.warm_pool.adoption import Adoption
from perstackd.app.warm_pool.endings import Endings
from perstackd.app.warm_pool.keeper import Keeper
from perstackd.app.warm_pool.premises import Premises
from perstackd.app.warm_pool.reconcile import Survey
from perstackd.app.warm_pool.returning import Returns
from perstackd.app.warm_pool.unforeseen import place_of
from perstackd.domain.errors import PerstackError

_log = structlog.get_logger()
SOON_SECONDS = 3.0
UNANSWERED = "nobody has answered yet what an earlier daemon left over"


class Rounds:
    """Until the first look succeeds every pool is blocked, since nobody knows what still runs."""

    def __init__(
        self, premises: Premises, keeper: Keeper, endings: Endings, adoption: Adoption, returns: Returns
    ) -> None:
        self._ports = premises.ports
        self._limits = premises.limits
        self._roster = premises.roster
        self._survey = Survey(premises)
        self._keeper = keeper
        self._endings = endings
        self._adoption: Adoption | None = adoption  # until the first look: later nobody's sandbox is an orphan
        self._returns = returns
        self._failures = 0

    async def go(self) -> None:
        """Go on until cancelled."""
        while not await self._round():
            self._keeper.settled.set()
            await self._ports.sleep(self._pause())
        await self._open()
        await self._returns.verify()
        while True:
            await self._ports.sleep(SOON_SECONDS if self._survey.again_soon else self._limits.reconcile_seconds)
            await self._round()

    async def _round(self) -> bool:
        try:
            findings = await self._survey.look()
        except (PerstackError, OSError) as error:
            self._fail(str(error))
            return False
        except Exception as error:
            # As in a start: one bad answer must not end the sandboxes that run.
            _log.error("reconcile failed in an unforeseen way", error=place_of(error))
            self._fail(f"unforeseen {type(error).__name__}, see the log")
            return False
        if self._failures:
            _log.info("reconcile succeeds again", failures=self._failures)
        self._failures = 0
        adoption, self._adoption = self._adoption, None
        candidates = adoption.choose(findings.rows) if adoption is not None else ()
        for sandbox_id in {**findings.orphans, **findings.traces}:
            if sandbox_id not in self._roster.members:
                uid, traces = findings.orphans.get(sandbox_id), findings.traces.get(sandbox_id, ())
                self._endings.begin_orphan(sandbox_id, uid, traces)
        if adoption is not None:
            await adoption.adopt(candidates)
        for member in findings.dead:
            self._keeper.lost(member, "the engine has no such container any more")
        self._keeper.advance()
        return True

    def _fail(self, why: str) -> None:
        self._failures += 1
        _log.warning("reconcile failed", attempt=self._failures, why=why)
        self._block(why)

    def _pause(self) -> float:
        return min(self._limits.reconcile_seconds, 0.5 * 2.0 ** min(self._failures, 10))

    def _block(self, why: str) -> None:
        """While nothing was ever seen, say why; a later failure blocks nothing by itself."""
        for name, state in self._roster.states.items():
            if state.blocked.startswith(UNANSWERED):
                self._roster.states[name] = replace(state, blocked=f"{UNANSWERED}: {why}")
        self._keeper.advance()

    async def _open(self) -> None:
        """Wait until every left-over was tried once, then let the pools start."""
        tried = [remains.tried.wait() for remains in self._endings.all()]
        try:
            async with asyncio.timeout(self._limits.boot_seconds):
                await asyncio.gather(*tried)
        except TimeoutError:
            _log.warning("left-overs of an earlier daemon are still being removed", seconds=self._limits.boot_seconds)
        for name, state in self._roster.states.items():
            self._roster.states[name] = replace(state, blocked="")
        self._keeper.advance()
