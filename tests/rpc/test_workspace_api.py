"""WorkspaceService over a real socket and the client library, with the port faked."""

import io
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import cast

import anyio
import grpc.aio
import pytest
from perstack.v1 import workspaces_pb2_grpc

from perstackctl.client.client import Client
from perstackctl.client.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from perstackd.app import workspaces as app
from perstackd.app.workspace_holds import WorkspaceHolds
from perstackd.app.workspaces import Workspaces
from perstackd.domain.ids import DEFAULT_TENANT, JobId
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from perstackd.rpc import workspaces as rpc
from perstackd.rpc.errors import ErrorInterceptor
from perstackd.rpc.workspaces import WorkspaceServicer
from tests.fakes.clock import FakeClock
from tests.fakes.managed_workspaces import FakeManagedWorkspaces, archive, contents

pytestmark = pytest.mark.anyio


class Service:
    def __init__(self, client: Client, fake: FakeManagedWorkspaces, holds: WorkspaceHolds) -> None:
        self.client = client
        self.fake = fake
        self.holds = holds


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    fake, holds = FakeManagedWorkspaces(), WorkspaceHolds()
    server = grpc.aio.server(interceptors=[ErrorInterceptor(FakeClock())])
    workspaces_pb2_grpc.add_WorkspaceServiceServicer_to_server(WorkspaceServicer(Workspaces(fake, holds)), server)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    try:
        async with Client(f"unix:{tmp_path}/s") as client:
            yield Service(client, fake, holds)
    finally:
        await server.stop(1)


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def test_a_workspace_is_made_filled_listed_read_and_removed(service: Service) -> None:
    workspaces = service.client.workspaces
    made = await workspaces.create("notes", 32 << 20)
    assert (made.name, made.tenant, made.max_bytes, made.counted) == ("notes", "default", 32 << 20, True)
    files = {"a": bytes(1 << 20), "b": b"x"}
    done = await workspaces.upload("notes", pieces(archive(files)), "in")
    assert (done.files, done.bytes) == (2, (1 << 20) + 1)
    service.holds.take(JobId("J1"), DEFAULT_TENANT, WorkspaceSpec(WorkspaceKind.NAMED, "notes"))
    (listed,) = await workspaces.list()
    assert (listed.bytes, listed.files, listed.job_ids) == ((1 << 20) + 1, 2, ("J1",))
    got = [piece async for piece in workspaces.download("notes", "in")]
    assert contents(b"".join(got)) == files
    with pytest.raises(ConflictError) as held:
        await workspaces.remove("notes")
    assert (held.value.reason, held.value.metadata["job_id"]) == ("workspace_in_use", "J1")
    service.holds.give_back(JobId("J1"))
    await workspaces.remove("notes")
    assert await workspaces.list() == ()


async def test_refusals_reach_the_caller_as_errors_with_their_reason(service: Service) -> None:
    workspaces = service.client.workspaces
    with pytest.raises(InvalidError) as invalid:
        await workspaces.create("../x")
    assert invalid.value.reason == "workspace_invalid"
    with pytest.raises(NotFoundError):
        await workspaces.upload("missing", pieces(archive({})))
    with pytest.raises(NotFoundError):
        [piece async for piece in workspaces.download("missing")]
    await workspaces.create("notes")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writing:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        writing.addfile(link)
    with pytest.raises(RefusedError) as refused:
        await workspaces.upload("notes", pieces(buffer.getvalue()))
    assert refused.value.reason == "archive_refused"


async def test_a_name_that_a_job_could_not_ask_for_is_refused(service: Service) -> None:
    with pytest.raises(InvalidError, match="cannot be called 'ephemeral'") as refused:
        await service.client.workspaces.create("ephemeral")
    assert refused.value.reason == "workspace_invalid"


async def test_after_a_refusal_in_the_middle_the_archive_is_at_rest(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gives the pieces closes them: nobody may be inside of them any more."""
    await service.client.workspaces.create("notes")
    monkeypatch.setattr(app, "PIECE_BYTES", 1000)

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(5000)
        while piece := await anyio.to_thread.run_sync(bytes, 1000):
            yield piece

    archive_pieces = cast("AsyncGenerator[bytes, None]", endless())
    with anyio.fail_after(20), pytest.raises(InvalidError) as refused:
        await service.client.workspaces.upload("notes", archive_pieces)
    assert refused.value.reason == "piece_too_large"
    await archive_pieces.aclose()  # raises RuntimeError while somebody is inside of it


async def test_what_the_archive_itself_raises_goes_through(service: Service) -> None:
    await service.client.workspaces.create("notes")

    async def breaking() -> AsyncIterator[bytes]:
        yield b"x"
        raise OSError("the disk is broken")

    with anyio.fail_after(20), pytest.raises(OSError, match="the disk is broken"):
        await service.client.workspaces.upload("notes", breaking())


async def test_a_piece_that_is_too_large_is_refused(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.client.workspaces.create("notes")
    monkeypatch.setattr(app, "PIECE_BYTES", 1000)
    with pytest.raises(InvalidError) as refused:
        await service.client.workspaces.upload("notes", pieces(archive({"a": bytes(5000)})))
    assert refused.value.reason == "piece_too_large"


async def test_an_upload_that_stalls_is_ended(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.client.workspaces.create("notes")
    monkeypatch.setattr(app, "PIECE_SECONDS", 0.05)

    async def stalling() -> AsyncIterator[bytes]:
        yield b"x"
        await anyio.sleep_forever()

    with anyio.fail_after(10), pytest.raises(Exception, match="no piece of the archive came"):
        await service.client.workspaces.upload("notes", stalling())


async def test_a_download_that_nobody_reads_is_ended(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.client.workspaces.create("notes")
    await service.client.workspaces.upload("notes", pieces(archive({"a": bytes(4 << 20)})))
    monkeypatch.setattr(rpc, "READ_SECONDS", 0.2)
    ended = anyio.Event()
    original = service.fake.pack

    async def endless(*given: str) -> AsyncIterator[bytes]:
        try:
            async for whole in original(*given):  # type: ignore[arg-type]
                while True:
                    for at in range(0, len(whole), 1 << 18):
                        yield whole[at : at + (1 << 18)]
        finally:
            ended.set()

    monkeypatch.setattr(service.fake, "pack", endless)
    download = service.client.workspaces.download("notes")
    await anext(download)
    with anyio.fail_after(20):
        await ended.wait()
    await download.aclose()
