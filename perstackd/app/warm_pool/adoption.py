"""Idle sandboxes of an earlier daemon, taken over once each has shown that it is what a new one would be.

Only those whose row says idle and never claimed come here: nothing of a tenant was inside. Whatever cannot show it in
time is removed, as all the rest of that daemon is.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from perstackd.app.warm_pool.endings import Endings
from perstackd.app.warm_pool.keeper import Keeper
from perstackd.app.warm_pool.premises import Premises
from perstackd.app.warm_pool.roster import Member
from perstackd.app.warm_pool.starting import ChangedError, LateBindingError, Starter
from perstackd.app.warm_pool.unforeseen import place_of
from perstackd.domain.adoption import eligible
from perstackd.domain.errors import PerstackError
from perstackd.domain.sandbox import SandboxRecord, SandboxState

_log = structlog.get_logger()


class Adoption:
    """Two steps, so that what is not chosen can be removed meanwhile: `choose`, then `adopt` of the same members."""

    def __init__(self, premises: Premises, starter: Starter, keeper: Keeper, endings: Endings) -> None:
        self._clock = premises.ports.clock
        self._limits = premises.limits
        self._roster = premises.roster
        self._starter = starter
        self._keeper = keeper
        self._endings = endings

    def choose(self, rows: Sequence[SandboxRecord]) -> tuple[Member, ...]:
        """Take the eligible ones into the roster, as starting. From now on they are the pool's to adopt or remove."""
        now = self._clock.monotonic()
        chosen = tuple(
            Member(
                replace(record, state=SandboxState.STARTING),
                self._roster.templates[record.template],
                asked_engine=True,
                adoptable=True,
                began=now,
            )
            for record in eligible(rows, self._roster.templates, self._roster.uids, self._roster.used_uids())
        )
        for member in chosen:
            self._roster.find(member, now)
        return chosen

    async def adopt(self, members: Sequence[Member]) -> None:
        """Verify them, some at a time, at most `limits.boot_seconds` in all, and take over those that pass."""
        gate = asyncio.Semaphore(self._limits.adoptions)
        deadline = asyncio.get_running_loop().time() + self._limits.boot_seconds
        async with asyncio.TaskGroup() as group:
            tries = [group.create_task(self._tried(member, gate, deadline)) for member in members]
        for member, why in zip(members, (each.result() for each in tries), strict=True):
            if why:
                _log.warning("not adopted", sandbox_id=member.id, template=member.template.name, why=why)
                self._endings.begin(member, "it could not be adopted")
            else:
                _log.info("adopted", sandbox_id=member.id, template=member.template.name)
                self._keeper.adopted(member)

    async def _tried(self, member: Member, gate: asyncio.Semaphore, deadline: float) -> str:
        """Why not; empty when it is as it should be."""
        try:
            async with asyncio.timeout_at(deadline), gate:
                await self._starter.take_back(member)
        except TimeoutError:
            return f"it was not verified within {self._limits.boot_seconds:g} s"
        except (ChangedError, LateBindingError) as error:
            return error.why
        except PerstackError as error:
            return error.message
        except OSError as error:
            return f"the host refused: {error}"
        except Exception as error:
            # As in a start: a bug behind a port must not end the pool.
            _log.error("adoption failed in an unforeseen way", sandbox_id=member.id, error=place_of(error))
            return f"unforeseen {type(error).__name__}, see the log"
        return ""
