"""Workspaces that are refused when they are opened, with real mounts and without containers."""

import asyncio
import dataclasses
import os

import pytest

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.host import HostWorkspaces
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import TenantId
from perstackd.domain.workspace import WorkspaceSpec
from tests.integration.workspaces.attached import EPHEMERAL, attach
from tests.integration.workspaces.rig import (
    ALICE,
    BOX,
    FIRST,
    JOB,
    OTHER_JOB,
    TENANT,
    Rig,
    as_uid,
    named_spec,
    path_spec,
)

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


async def refused(real: Rig, spec: WorkspaceSpec, tenant: TenantId = TENANT) -> PerstackError:
    with pytest.raises(PerstackError) as error:
        await real.workspaces.open(JOB, tenant, spec)
    return error.value


async def test_a_link_anywhere_in_the_path_is_refused(real: Rig) -> None:
    project = real.project("p")
    (project / "inner").mkdir()
    os.chown(project / "inner", ALICE, ALICE)
    (real.projects / "link").symlink_to(project)
    for path in (real.projects / "link", real.projects / "link" / "inner"):
        error = await refused(real, path_spec(path))
        assert (error.kind, error.reason) == (Kind.DENIED, "workspace_symlink_refused")


async def test_a_file_is_not_a_workspace(real: Rig) -> None:
    error = await refused(real, path_spec(real.project("p") / "note"))
    assert error.reason == "workspace_not_found"
    assert "not a directory" in error.message


async def test_the_refusal_of_a_path_names_the_roots_and_the_key_to_change(real: Rig) -> None:
    error = await refused(real, path_spec("/projects-elsewhere"))
    assert str(real.projects) in error.message
    assert "`workspace_roots` in perstackd.toml" in error.message


async def test_a_directory_beside_a_root_with_the_same_beginning_is_outside(real: Rig) -> None:
    beside = real.root / "projects-of-bob"
    beside.mkdir()
    assert (await refused(real, path_spec(beside))).reason == "workspace_outside_roots"


async def test_the_daemons_own_directories_are_outside_whatever_the_roots_are(real: Rig) -> None:
    await attach(real, named_spec("notes"))
    await real.workspaces.open(OTHER_JOB, TENANT, EPHEMERAL)
    everything = HostWorkspaces(dataclasses.replace(real.settings, roots=("/",)), real.namespaces)
    others = TenantId("acme")
    try:
        for path in (
            f"{real.settings.state}/workspaces/default/notes",
            f"//{real.settings.state}//workspaces/default/notes/",
            f"{real.settings.runtime}/ephemeral/{OTHER_JOB}",
            real.settings.state,
        ):
            with pytest.raises(PerstackError) as error:
                await everything.open(JOB, others, path_spec(path))
            assert error.value.reason == "workspace_outside_roots"
        await everything.open(JOB, others, path_spec(f"/{real.project('p')}/"))
    finally:
        await asyncio.to_thread(everything.shutdown)


async def test_a_tenant_that_is_no_directory_name_is_refused(real: Rig) -> None:
    assert (await refused(real, named_spec("notes"), TenantId("../.."))).reason == "tenant_invalid"


async def test_a_file_system_that_refuses_idmaps_is_named_with_the_remedy(real: Rig) -> None:
    ramfs = real.projects / "ram"
    ramfs.mkdir()
    syscalls.mount("none", str(ramfs), "ramfs")
    try:
        os.chown(ramfs, ALICE, ALICE)
        error = await refused(real, path_spec(ramfs))
    finally:
        syscalls.unmount(str(ramfs))
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "workspace_unsupported")
    assert error.fields["file_system"] == "ramfs"
    assert "ext4" in error.message


async def test_a_path_swapped_for_a_link_after_open_does_not_matter(real: Rig) -> None:
    project = real.project("p")
    secret = real.project("secret")
    (secret / "note").write_text("other")
    slot = real.slot("one")
    await real.workspaces.prepare(slot, FIRST)
    await real.workspaces.open(JOB, TENANT, path_spec(project))
    project.rename(real.projects / "moved")
    project.symlink_to(secret)
    await real.workspaces.attach(JOB, BOX, slot, FIRST)
    assert as_uid(FIRST, f"{slot}/workspace", "cat note").stdout == "hello"
