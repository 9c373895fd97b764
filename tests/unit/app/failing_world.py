"""A pool's world whose workspaces fail as the test says."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from perstackd.app.warm_pool import WarmPool
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import Template
from tests.fakes.workspaces import FakeWorkspaces
from tests.unit.app.warm_pool_world import BASE, World, world

REFUSED = PerstackError(Kind.UNAVAILABLE, "told_to", "the test says no")


class Failing(FakeWorkspaces):
    """`prepare` fails while `refuse`, `prove` by `proof_error`; `sticky` keeps what is detached visible."""

    refuse = False
    sticky = False
    proof_error: PerstackError | None = None

    async def prepare(self, slot: str, uid: int) -> None:
        if self.refuse:
            raise REFUSED
        await super().prepare(slot, uid)

    async def prove(self, slot: str, uid: int) -> str:
        if self.proof_error is not None:
            raise self.proof_error
        return await super().prove(slot, uid)

    async def detach(self, sandbox_id: SandboxId, slot: str) -> None:
        if not self.sticky:
            await super().detach(sandbox_id, slot)


@contextmanager
def failing_world() -> Iterator[World]:
    with world() as made:
        made.workspaces = made.links.workspaces = Failing()
        yield made


def failing(here: World) -> Failing:
    assert isinstance(here.workspaces, Failing)
    return here.workspaces


def idle(pool: WarmPool) -> int:
    return sum(status.idle for status in pool.status())


def lone(idle: int = 1, maximum: int = 2) -> Template:
    return replace(BASE, min_idle=idle, max=maximum)
