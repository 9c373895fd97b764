"""Workspaces whose opening was left in the middle, with real mounts and without containers."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.workspaces.attached import EPHEMERAL
from tests.integration.workspaces.rig import JOB, OTHER_JOB, TENANT, Rig, off_loop

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


async def test_an_ephemeral_workspace_outlives_a_process_that_was_stopped_before_it_opened_it(real: Rig) -> None:
    """As when a daemon is stopped in the moment in which it takes its jobs up."""
    await real.workspaces.open(JOB, TENANT, EPHEMERAL)
    note = Path(real.settings.runtime, "ephemeral", JOB, "note")
    off_loop(lambda: note.write_text("kept"))
    for _ in range(2):
        off_loop(real.workspaces.shutdown)
        off_loop(real.workspaces.cleanup_root)
        after = real.restarted()
        assert await after.settle([JOB, OTHER_JOB]) == {JOB}
    await real.workspaces.open(JOB, TENANT, EPHEMERAL)
    assert off_loop(note.read_text) == "kept"


async def test_what_was_awaited_goes_with_a_job_that_ended_without_it(real: Rig) -> None:
    await real.workspaces.open(JOB, TENANT, EPHEMERAL)
    after = real.restarted()
    assert await after.settle([JOB]) == {JOB}
    await after.close(JOB)
    off_loop(after.shutdown)
    off_loop(after.cleanup_root)
    assert real.mounts() == ()
