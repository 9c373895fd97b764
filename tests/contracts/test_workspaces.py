"""The suite of the workspaces port, on the fake and on real mounts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import TenantId
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from perstackd.ports.workspaces import Workspaces
from tests.fakes.workspaces import FakeDirectory, FakeWorkspaces
from tests.integration.workspaces.rig import (
    ALICE,
    BOX,
    FIRST,
    JOB,
    OTHER_BOX,
    OTHER_JOB,
    SECOND,
    TENANT,
    Rig,
    as_uid,
    named_spec,
    path_spec,
    rig,
)

pytestmark = pytest.mark.anyio
EPHEMERAL = WorkspaceSpec()


class Bench(Protocol):
    """A way to look at what the port did, as host and as sandbox."""

    @property
    def workspaces(self) -> Workspaces: ...
    def slot(self, name: str) -> str: ...
    def project(self, name: str, owner: int = ALICE) -> str: ...
    def outside(self) -> str: ...
    def read(self, slot: str, uid: int, name: str) -> bytes | None: ...
    def write(self, slot: str, uid: int, name: str, content: bytes) -> bool: ...


class FakeBench:
    def __init__(self) -> None:
        self.workspaces = self._fake = FakeWorkspaces(roots=("/srv",))

    def slot(self, name: str) -> str:
        return f"/run/{name}"

    def project(self, name: str, owner: int = ALICE) -> str:
        self._fake.paths[f"/srv/{name}"] = FakeDirectory(owner, {"note": b"hello"})
        return f"/srv/{name}"

    def outside(self) -> str:
        return "/etc"

    def read(self, slot: str, uid: int, name: str) -> bytes | None:
        return (self._fake.seen(slot) or {}).get(name)

    def write(self, slot: str, uid: int, name: str, content: bytes) -> bool:
        try:
            self._fake.write(slot, name, content)
        except OSError:
            return False
        return True


class HostBench:
    def __init__(self, real: Rig) -> None:
        self._rig = real
        self.workspaces = real.workspaces

    def slot(self, name: str) -> str:
        return self._rig.slot(name)

    def project(self, name: str, owner: int = ALICE) -> str:
        return str(self._rig.project(name, owner))

    def outside(self) -> str:
        return "/etc"

    def read(self, slot: str, uid: int, name: str) -> bytes | None:
        done = as_uid(uid, f"{slot}/workspace", f"cat {name}")
        return done.stdout.encode() if done.returncode == 0 else None

    def write(self, slot: str, uid: int, name: str, content: bytes) -> bool:
        return as_uid(uid, f"{slot}/workspace", f"printf %s '{content.decode()}' > {name}").returncode == 0


@pytest.fixture(params=["fake", pytest.param("host", marks=pytest.mark.docker)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "fake":
        yield FakeBench()
        return
    with rig(tmp_path) as real:
        yield HostBench(real)


async def attached(bench: Bench, spec: WorkspaceSpec, name: str = "one", uid: int = FIRST) -> str:
    slot = bench.slot(name)
    await bench.workspaces.prepare(slot, 200_001)
    await bench.workspaces.open(JOB, TENANT, spec)
    await bench.workspaces.attach(JOB, BOX, slot, uid)
    return slot


async def test_a_host_directory_is_seen_and_changed_by_the_sandbox(bench: Bench) -> None:
    slot = await attached(bench, path_spec(bench.project("p")))
    assert bench.read(slot, FIRST, "note") == b"hello"
    assert bench.write(slot, FIRST, "made", b"new")
    assert bench.read(slot, FIRST, "made") == b"new"


async def test_a_read_only_workspace_is_read_and_not_written(bench: Bench) -> None:
    slot = await attached(bench, path_spec(bench.project("p"), read_only=True))
    assert bench.read(slot, FIRST, "note") == b"hello"
    assert not bench.write(slot, FIRST, "note", b"changed")
    assert bench.read(slot, FIRST, "note") == b"hello"


async def test_two_sandboxes_of_a_job_share_its_workspace(bench: Bench) -> None:
    first = await attached(bench, EPHEMERAL)
    second = bench.slot("two")
    await bench.workspaces.prepare(second, 200_001)
    await bench.workspaces.attach(JOB, OTHER_BOX, second, SECOND)
    assert bench.write(first, FIRST, "a", b"from one")
    assert bench.read(second, SECOND, "a") == b"from one"
    assert bench.write(second, SECOND, "a", b"from two")
    assert bench.read(first, FIRST, "a") == b"from two"


async def test_after_detach_nothing_is_there_and_detach_may_be_repeated(bench: Bench) -> None:
    slot = await attached(bench, path_spec(bench.project("p")))
    await bench.workspaces.detach(BOX, slot)
    assert bench.read(slot, FIRST, "note") is None
    await bench.workspaces.detach(BOX, slot)


async def test_an_ephemeral_workspace_is_gone_after_close(bench: Bench) -> None:
    slot = await attached(bench, EPHEMERAL)
    assert bench.write(slot, FIRST, "a", b"x")
    await bench.workspaces.detach(BOX, slot)
    await bench.workspaces.close(JOB)
    await bench.workspaces.close(JOB)
    assert bench.read(await attached(bench, EPHEMERAL), FIRST, "a") is None


async def test_a_named_workspace_keeps_its_files_from_job_to_job(bench: Bench) -> None:
    slot = await attached(bench, named_spec("notes"))
    assert bench.write(slot, FIRST, "a", b"kept")
    await bench.workspaces.detach(BOX, slot)
    await bench.workspaces.close(JOB)
    other = bench.slot("two")
    await bench.workspaces.prepare(other, 200_001)
    await bench.workspaces.open(OTHER_JOB, TENANT, named_spec("notes"))
    await bench.workspaces.attach(OTHER_JOB, OTHER_BOX, other, SECOND)
    assert bench.read(other, SECOND, "a") == b"kept"


async def test_the_same_name_is_another_workspace_for_another_tenant(bench: Bench) -> None:
    slot = await attached(bench, named_spec("notes"))
    assert bench.write(slot, FIRST, "a", b"mine")
    other = bench.slot("two")
    await bench.workspaces.prepare(other, 200_001)
    await bench.workspaces.open(OTHER_JOB, TenantId("acme"), named_spec("notes"))
    await bench.workspaces.attach(OTHER_JOB, OTHER_BOX, other, SECOND)
    assert bench.read(other, SECOND, "a") is None


async def test_a_path_outside_the_roots_is_refused(bench: Bench) -> None:
    with pytest.raises(PerstackError) as refused:
        await bench.workspaces.open(JOB, TENANT, path_spec(bench.outside()))
    assert (refused.value.kind, refused.value.reason) == (Kind.DENIED, "workspace_outside_roots")


async def test_a_missing_path_is_not_found(bench: Bench) -> None:
    path = bench.project("p")
    with pytest.raises(PerstackError) as missing:
        await bench.workspaces.open(JOB, TENANT, path_spec(path + "-not"))
    assert (missing.value.kind, missing.value.reason) == (Kind.NOT_FOUND, "workspace_not_found")


@pytest.mark.parametrize("owner", [0, 1, 999])
async def test_a_directory_of_a_privileged_account_is_refused(bench: Bench, owner: int) -> None:
    path = bench.project("p", owner)
    with pytest.raises(PerstackError) as refused:
        await bench.workspaces.open(JOB, TENANT, path_spec(path))
    assert (refused.value.kind, refused.value.reason) == (Kind.DENIED, "workspace_owner_refused")


async def test_opening_again_keeps_the_workspace_and_another_one_is_refused(bench: Bench) -> None:
    slot = await attached(bench, EPHEMERAL)
    assert bench.write(slot, FIRST, "a", b"x")
    await bench.workspaces.open(JOB, TENANT, EPHEMERAL)
    assert bench.read(slot, FIRST, "a") == b"x"
    with pytest.raises(PerstackError) as refused:
        await bench.workspaces.open(JOB, TENANT, named_spec("notes"))
    assert (refused.value.kind, refused.value.reason) == (Kind.CONFLICT, "workspace_open")


async def test_a_job_without_an_open_workspace_cannot_be_attached(bench: Bench) -> None:
    await bench.workspaces.prepare(bench.slot("one"), 200_001)
    with pytest.raises(PerstackError) as refused:
        await bench.workspaces.attach(JOB, BOX, bench.slot("one"), FIRST)
    assert (refused.value.kind, refused.value.reason) == (Kind.PRECONDITION, "workspace_not_open")


async def test_a_slot_must_be_prepared(bench: Bench) -> None:
    await bench.workspaces.open(JOB, TENANT, EPHEMERAL)
    with pytest.raises(PerstackError) as refused:
        await bench.workspaces.attach(JOB, BOX, bench.slot("one"), FIRST)
    assert (refused.value.kind, refused.value.reason) == (Kind.PRECONDITION, "slot_missing")


async def test_a_slot_holds_one_workspace_and_the_first_one_stays(bench: Bench) -> None:
    slot = await attached(bench, path_spec(bench.project("p")))
    await bench.workspaces.open(OTHER_JOB, TENANT, EPHEMERAL)
    with pytest.raises(PerstackError) as refused:
        await bench.workspaces.attach(OTHER_JOB, BOX, slot, FIRST)
    assert (refused.value.kind, refused.value.reason) == (Kind.CONFLICT, "slot_taken")
    await bench.workspaces.close(OTHER_JOB)
    assert bench.read(slot, FIRST, "note") == b"hello"


async def test_what_is_attached_is_taken_over_as_it_is_and_goes_with_its_job(bench: Bench) -> None:
    slot = await attached(bench, EPHEMERAL)
    assert bench.write(slot, FIRST, "a", b"x")
    await bench.workspaces.take_over(JOB, BOX, slot, FIRST)
    assert bench.read(slot, FIRST, "a") == b"x"
    await bench.workspaces.detach(BOX, slot)
    assert bench.read(slot, FIRST, "a") is None


async def test_another_workspace_another_uid_another_mode_and_none_are_not_taken_over(bench: Bench) -> None:
    slot = await attached(bench, path_spec(bench.project("p")))
    await bench.workspaces.open(OTHER_JOB, TENANT, path_spec(bench.project("q")))
    empty = bench.slot("empty")
    await bench.workspaces.prepare(empty, FIRST)
    for job, where, uid, read_only in (
        (OTHER_JOB, slot, FIRST, False),
        (JOB, slot, SECOND, False),
        (JOB, slot, FIRST, True),
        (JOB, empty, FIRST, False),
    ):
        with pytest.raises(PerstackError) as refused:
            await bench.workspaces.take_over(job, BOX, where, uid, read_only=read_only)
        assert (refused.value.kind, refused.value.reason) == (Kind.PRECONDITION, "workspace_unsafe")
    assert bench.read(slot, FIRST, "note") == b"hello"


async def test_a_marker_is_seen_inside_differs_each_time_and_leaves_the_slot_free(bench: Bench) -> None:
    slot = bench.slot("one")
    await bench.workspaces.prepare(slot, 200_001)
    tokens = []
    for _ in range(2):
        token = await bench.workspaces.prove(slot, FIRST)
        assert bench.read(slot, FIRST, "marker") == token.encode()
        await bench.workspaces.detach(BOX, slot)
        assert bench.read(slot, FIRST, "marker") is None
        tokens.append(token)
    assert len(set(tokens)) == 2
    assert await attached(bench, EPHEMERAL) == slot


@pytest.mark.parametrize("spec", [WorkspaceSpec(WorkspaceKind.NAMED, "../x"), WorkspaceSpec(WorkspaceKind.PATH, "a/b")])
async def test_names_and_paths_that_cannot_be_meant_are_invalid(bench: Bench, spec: WorkspaceSpec) -> None:
    with pytest.raises(PerstackError) as refused:
        await bench.workspaces.open(JOB, TENANT, spec)
    assert (refused.value.kind, refused.value.reason) == (Kind.INVALID, "workspace_invalid")
