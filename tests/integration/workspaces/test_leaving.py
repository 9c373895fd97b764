"""Workspaces whose opening was left in the middle, with real mounts and without containers."""

import asyncio
import os
import threading
from typing import Any

import pytest

from tests.integration.workspaces.attached import EPHEMERAL
from tests.integration.workspaces.rig import JOB, TENANT, Rig

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


async def test_an_ephemeral_workspace_whose_opening_was_left_is_gone_after_close(
    real: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the store refuses the job while its workspace is being made."""
    places = real.workspaces._places
    find, begun, go_on = places.find, asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(10)
        return find(*arguments)

    monkeypatch.setattr(places, "find", slow)
    opening = asyncio.ensure_future(real.workspaces.open(JOB, TENANT, EPHEMERAL))
    await asyncio.wait_for(begun.wait(), 10)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await real.workspaces.close(JOB)
    go_on.set()
    await real.workspaces._finding.run(lambda: None)  # what was asked of these threads before is done by then
    await real.workspaces._mounting.run(lambda: None)
    assert os.listdir(f"{real.settings.runtime}/ephemeral") == []
