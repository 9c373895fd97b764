"""What every store promises of sandboxes' rows."""

from dataclasses import replace

import pytest

from perstackd.domain.ids import JobId
from perstackd.domain.sandbox import SandboxState
from perstackd.ports.event_store import Store
from tests.contracts.event_store.stored import sandbox

pytestmark = pytest.mark.anyio


async def test_sandbox_rows_are_replaced_listed_oldest_first_and_deleted(store: Store) -> None:
    young, old = sandbox(20), sandbox(10)
    for row in (young, old):
        await store.sandboxes.put(row)
    claimed = replace(
        young, state=SandboxState.CLAIMED, job_id=JobId("j"), fence=3, session_token_hash="h", uid=200_001
    )
    await store.sandboxes.put(claimed)
    assert await store.sandboxes.all() == (old, claimed)
    await store.sandboxes.delete(old.id)
    await store.sandboxes.delete(old.id)
    assert await store.sandboxes.all() == (claimed,)
