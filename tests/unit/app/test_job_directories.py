"""A job in a host directory, which is opened before anything of the job is written: what it cannot have is refused."""

from functools import partial
from pathlib import Path

import anyio
import pytest

from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.workspaces import FakeDirectory
from tests.unit.app.daemon_in_memory import world
from tests.unit.app.gates import Gate
from tests.unit.app.test_job_birth import NOT_THERE, asked_for, clean, cleaned, refusal
from tests.unit.app.test_job_failures import KEYED
from tests.unit.app.test_jobs import LEAD, says

pytestmark = pytest.mark.anyio

ENV = {"TOKEN": "t"}
PATH = WorkspaceSpec(WorkspaceKind.PATH, "/srv/project")


async def test_a_host_directory_that_the_job_cannot_have_is_refused_and_there_is_no_job(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        outside = WorkspaceSpec(WorkspaceKind.PATH, "/etc")
        assert await refusal(lambda: daemon.start(workspace=outside)) == "workspace_outside_roots"
        daemon.workspaces.open_error = NOT_THERE
        assert await refusal(lambda: daemon.start(KEYED, env=ENV, workspace=PATH)) == "workspace_not_found"
        assert clean(daemon)
        assert not daemon.store.envs
        assert await daemon.jobs.page(None, (), None, 10) == ()


async def test_a_request_that_is_repeated_gets_its_job_also_when_the_directory_has_gone(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        daemon.workspaces.paths[PATH.value] = FakeDirectory()
        first = await daemon.start(workspace=PATH, idempotency_key="k")
        await asked_for(daemon, first.id)
        daemon.workspaces.open_error = NOT_THERE
        assert (await daemon.start(workspace=PATH, idempotency_key="k")).id == first.id
        await cleaned(daemon)


async def test_who_leaves_while_the_directory_is_opened_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        daemon.workspaces.paths[PATH.value] = FakeDirectory()
        opening = Gate(monkeypatch, daemon.workspaces, "open")
        async with anyio.create_task_group() as callers:
            callers.start_soon(partial(daemon.start, workspace=PATH))
            await opening.wait()
            callers.cancel_scope.cancel()
        await cleaned(daemon)


async def test_a_drain_that_begins_while_the_directory_is_opened_refuses_the_job_and_lets_go_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        daemon.workspaces.paths[PATH.value] = FakeDirectory()
        opening = Gate(monkeypatch, daemon.workspaces, "open")
        async with anyio.create_task_group() as callers:
            refused: list[str] = []

            async def start() -> None:
                refused.append(await refusal(lambda: daemon.start(workspace=PATH)))

            callers.start_soon(start)
            await opening.wait()
            daemon.jobs.draining = True
            opening.open()
        assert refused == ["draining"]
        await cleaned(daemon)
