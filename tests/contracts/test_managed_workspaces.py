"""The suite of the port for named workspaces, on the fake and on real ones with and without a size."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import TenantId
from perstackd.ports.workspaces import ManagedWorkspaces
from tests.fakes.managed_workspaces import FakeManagedWorkspaces, archive, contents
from tests.integration.workspaces.rig import TENANT, managed_rig

pytestmark = pytest.mark.anyio
OTHER = TenantId("acme")
SIZE = 64 << 20


@pytest.fixture(
    params=["fake", pytest.param("plain", marks=pytest.mark.docker), pytest.param("sized", marks=pytest.mark.docker)]
)
def workspaces(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ManagedWorkspaces]:
    if request.param == "fake":
        yield FakeManagedWorkspaces(SIZE)
        return
    with managed_rig(tmp_path, named_bytes=SIZE if request.param == "sized" else 0) as real:
        yield real.managed


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def put(workspaces: ManagedWorkspaces, files: dict[str, bytes], path: str = "", name: str = "notes") -> None:
    await workspaces.unpack(TENANT, name, path, pieces(archive(files)))


async def get(workspaces: ManagedWorkspaces, path: str = "", name: str = "notes") -> dict[str, bytes]:
    return contents(b"".join([piece async for piece in workspaces.pack(TENANT, name, path)]))


async def test_a_new_workspace_is_listed_and_empty(workspaces: ManagedWorkspaces) -> None:
    made = await workspaces.create(TENANT, "notes", 0)
    assert (made.name, made.bytes, made.files, made.holders) == ("notes", 0, 0, ())
    assert await workspaces.all(TENANT) == (made,)
    assert await workspaces.all(OTHER) == ()
    assert await get(workspaces) == {}


async def test_what_is_put_in_is_got_out(workspaces: ManagedWorkspaces) -> None:
    await workspaces.create(TENANT, "notes", 0)
    files = {"a.txt": b"one", "src/deep/b.bin": bytes(range(256)) * 2000, "leer": b"", "src/ü.md": b"u"}
    done = await workspaces.unpack(TENANT, "notes", "", pieces(archive(files)))
    assert (done.files, done.bytes) == (4, sum(map(len, files.values())))
    assert await get(workspaces) == files
    (listed,) = await workspaces.all(TENANT)
    assert listed.bytes >= 500_000
    assert listed.files >= 4


async def test_a_part_is_put_into_and_got_out_of_a_directory(workspaces: ManagedWorkspaces) -> None:
    await workspaces.create(TENANT, "notes", 0)
    await put(workspaces, {"x/1": b"1", "2": b"2"}, "in/side")
    assert await get(workspaces) == {"in/side/x/1": b"1", "in/side/2": b"2"}
    assert await get(workspaces, "in/side/x") == {"1": b"1"}
    assert await get(workspaces, "in/side/2") == {"2": b"2"}


async def test_a_second_archive_is_merged_and_replaces_files_of_the_same_name(workspaces: ManagedWorkspaces) -> None:
    await workspaces.create(TENANT, "notes", 0)
    await put(workspaces, {"d/kept": b"kept", "d/changed": b"old"})
    await put(workspaces, {"d/changed": b"new", "d/added": b"added"})
    assert await get(workspaces) == {"d/kept": b"kept", "d/changed": b"new", "d/added": b"added"}


@pytest.mark.parametrize("name", ["/etc/passwd", "../out", "a/../../out"])
async def test_an_archive_that_leaves_the_workspace_is_refused_and_nothing_of_it_is_there(
    workspaces: ManagedWorkspaces, name: str
) -> None:
    await workspaces.create(TENANT, "notes", 0)
    with pytest.raises(PerstackError) as refused:
        await put(workspaces, {"good": b"x", name: b"bad"})
    assert (refused.value.kind, refused.value.reason) == (Kind.DENIED, "archive_refused")
    assert await get(workspaces) == {}


@pytest.mark.parametrize(
    "spoil",
    [lambda data: data[:700], lambda data: b"\x1f\x8b" + bytes(2000), lambda data: b"", lambda data: data[:1000]],
)
async def test_what_is_no_whole_archive_is_invalid(
    workspaces: ManagedWorkspaces, spoil: Callable[[bytes], bytes]
) -> None:
    await workspaces.create(TENANT, "notes", 0)
    with pytest.raises(PerstackError) as refused:
        await workspaces.unpack(TENANT, "notes", "", pieces(spoil(archive({"a": bytes(5000), "b": b"x"}))))
    assert (refused.value.kind, refused.value.reason) == (Kind.INVALID, "archive_invalid")
    assert await get(workspaces) == {}


async def test_a_path_that_is_not_there_is_not_found(workspaces: ManagedWorkspaces) -> None:
    await workspaces.create(TENANT, "notes", 0)
    with pytest.raises(PerstackError) as missing:
        await get(workspaces, "nowhere")
    assert (missing.value.kind, missing.value.reason) == (Kind.NOT_FOUND, "workspace_file_not_found")


async def test_a_removed_workspace_is_gone_and_its_name_is_free(workspaces: ManagedWorkspaces) -> None:
    await workspaces.create(TENANT, "notes", 0)
    await put(workspaces, {"a": b"x"})
    await workspaces.remove(TENANT, "notes")
    assert await workspaces.all(TENANT) == ()
    await workspaces.create(TENANT, "notes", 0)
    assert await get(workspaces) == {}


async def test_of_a_missing_workspace_nothing_can_be_had(workspaces: ManagedWorkspaces) -> None:
    async def read() -> None:
        await get(workspaces)

    for action in (workspaces.remove(TENANT, "notes"), put(workspaces, {"a": b"x"}), read()):
        with pytest.raises(PerstackError) as missing:
            await action
        assert (missing.value.kind, missing.value.reason) == (Kind.NOT_FOUND, "workspace_not_found")


async def test_a_name_is_taken_once_for_each_tenant(workspaces: ManagedWorkspaces) -> None:
    await workspaces.create(TENANT, "notes", 0)
    await workspaces.create(OTHER, "notes", 0)
    with pytest.raises(PerstackError) as refused:
        await workspaces.create(TENANT, "notes", 0)
    assert (refused.value.kind, refused.value.reason) == (Kind.ALREADY_EXISTS, "workspace_exists")


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "A", "a" * 64])
async def test_a_name_that_cannot_be_meant_is_invalid(workspaces: ManagedWorkspaces, name: str) -> None:
    with pytest.raises(PerstackError) as refused:
        await workspaces.create(TENANT, name, 0)
    assert (refused.value.kind, refused.value.reason) == (Kind.INVALID, "workspace_invalid")


async def test_a_size_below_the_smallest_is_invalid(workspaces: ManagedWorkspaces) -> None:
    with pytest.raises(PerstackError) as refused:
        await workspaces.create(TENANT, "notes", 1000)
    assert (refused.value.kind, refused.value.reason) == (Kind.INVALID, "workspace_quota_invalid")


async def test_an_asked_for_size_is_the_workspaces(workspaces: ManagedWorkspaces) -> None:
    made = await workspaces.create(TENANT, "notes", 32 << 20)
    assert made.quota is not None
    assert made.quota.bytes == 32 << 20


async def test_an_archive_larger_than_the_workspace_is_refused(workspaces: ManagedWorkspaces) -> None:
    await workspaces.create(TENANT, "notes", 16 << 20)
    with pytest.raises(PerstackError) as refused:
        await put(workspaces, {"good": b"x", "large": bytes(17 << 20)})
    assert (refused.value.kind, refused.value.reason) == (Kind.EXHAUSTED, "archive_too_large")
    assert await get(workspaces) == {}
