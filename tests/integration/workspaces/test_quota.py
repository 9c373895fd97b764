"""Named workspaces with a size: the cap holds against a hostile sandbox, and nothing of it stays mounted."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perstackd.adapters.workspaces import image
from perstackd.adapters.workspaces.loop import loop_device
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.workspace import Quota
from tests.fakes.managed_workspaces import archive, contents
from tests.integration.workspaces.rig import (
    BOX,
    FIRST,
    JOB,
    MANAGED,
    OTHER_BOX,
    OTHER_JOB,
    SECOND,
    TENANT,
    ManagedRig,
    as_uid,
    loop_images,
    managed_rig,
    named_spec,
    off_loop,
)
from tests.integration.workspaces.test_in_containers import container

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
SIZE, INODES = 24 << 20, 500
FILL = "head -c 200000000 /dev/zero > big; head -c 1000000 /dev/zero > more; stat -c %s big"
MANY = "i=0; while [ $i -lt 3000 ] && touch f$i; do i=$((i+1)); done; echo $i"


@pytest.fixture
def real(tmp_path: Path) -> Iterator[ManagedRig]:
    with managed_rig(tmp_path, named_bytes=SIZE, named_inodes=INODES) as made:
        yield made
    assert loop_images(tmp_path) == []


async def attach(real: ManagedRig, name: str = "notes", slot: str = "one") -> str:
    await real.workspaces.prepare(real.slot(slot), FIRST)
    await real.workspaces.open(JOB, TENANT, named_spec(name))
    await real.workspaces.attach(JOB, BOX, real.slot(slot), FIRST)
    return real.slot(slot)


def image_of(real: ManagedRig, name: str = "notes") -> Path:
    return Path(real.settings.state, "workspaces", TENANT, name, "image")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[ManagedRig]:
    """On a disk of 40 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], check=True, timeout=20)
    try:
        with managed_rig(disk, named_bytes=SIZE, named_inodes=INODES) as made:
            yield made
    finally:
        subprocess.run(["umount", str(disk)], check=True, timeout=20)


async def test_on_a_full_disk_a_workspace_is_refused_in_one_sentence_and_made_once_there_is_room(
    small: ManagedRig,
) -> None:
    filler = Path(small.settings.state).parent / "filler"

    def fill() -> None:
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(64 << 20))

    await asyncio.to_thread(fill)
    with pytest.raises(PerstackError, match="free space on it") as refused:
        await small.managed.create(TENANT, "notes", 0)
    assert refused.value.reason == "workspace_disk_full"
    with pytest.raises(PerstackError) as opened:
        await small.workspaces.open(JOB, TENANT, named_spec("other"))
    assert opened.value.reason == "workspace_disk_full"
    await asyncio.to_thread(filler.unlink)
    assert await small.managed.all(TENANT) == ()
    assert (await small.managed.create(TENANT, "notes", 0)).quota is not None


async def test_a_sandbox_cannot_write_more_bytes_than_the_cap(real: ManagedRig) -> None:
    await real.workspaces.prepare(real.slot("one"), FIRST)
    with container(real.slot("one")) as box:
        await attach(real)
        done = box.sh(f"cd /mnt/workspace && ({FILL})")
        assert "No space left" in done.stderr
        assert 10_000_000 < int(done.stdout) < SIZE
        (seen,) = await real.managed.all(TENANT)
        assert 10_000_000 < seen.bytes <= SIZE
        assert box.out("cd /mnt/workspace && rm -f big more && echo again > small && cat small") == "again\n"
    assert image_of(real).stat().st_size == SIZE
    assert image_of(real).stat().st_blocks * 512 <= SIZE + (1 << 20)


async def test_a_sandbox_cannot_make_more_files_than_the_cap(real: ManagedRig) -> None:
    await real.workspaces.prepare(real.slot("one"), FIRST)
    with container(real.slot("one")) as box:
        await attach(real)
        done = box.sh(f"cd /mnt/workspace && {MANY}")
        assert "No space left" in done.stderr
        assert INODES <= int(done.stdout) < INODES + 64  # a file system has whole blocks of inodes
        assert box.sh("cd /mnt/workspace && mkdir d || ln -s x l").returncode != 0
        (seen,) = await real.managed.all(TENANT)
        assert seen.quota is not None
        assert seen.files == int(done.stdout) <= seen.quota.inodes


async def test_a_full_workspace_leaves_others_their_room(real: ManagedRig) -> None:
    await real.workspaces.prepare(real.slot("two"), SECOND)
    slot = await attach(real, "first")
    assert "No space left" in (await asyncio.to_thread(as_uid, FIRST, f"{slot}/workspace", FILL)).stderr
    await real.workspaces.open(OTHER_JOB, TENANT, named_spec("second"))
    await real.workspaces.attach(OTHER_JOB, OTHER_BOX, real.slot("two"), SECOND)
    done = await asyncio.to_thread(as_uid, SECOND, f"{real.slot('two')}/workspace", "head -c 8000000 /dev/zero > f")
    assert done.returncode == 0


async def test_what_is_deleted_goes_back_to_the_hosts_disk(real: ManagedRig) -> None:
    slot = await attach(real)
    await asyncio.to_thread(as_uid, FIRST, f"{slot}/workspace", FILL)
    await real.workspaces.close(JOB)
    full = image_of(real).stat().st_blocks * 512
    await attach(real)
    await asyncio.to_thread(as_uid, FIRST, f"{slot}/workspace", "rm -f big more; sync .")
    await real.workspaces.close(JOB)
    assert full > 10_000_000
    assert image_of(real).stat().st_blocks * 512 < full // 2


async def test_the_cap_holds_for_an_archive_and_leaves_the_workspace_as_it_was(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)

    async def data(files: dict[str, bytes]) -> AsyncIterator[bytes]:
        yield archive(files)

    await real.managed.unpack(TENANT, "notes", "", data({"kept": b"kept"}))
    with pytest.raises(PerstackError) as full:
        await real.managed.unpack(TENANT, "notes", "", data({f"f{n}": bytes(1 << 20) for n in range(23)}))
    assert (full.value.kind, full.value.reason) == (Kind.EXHAUSTED, "workspace_full")
    with pytest.raises(PerstackError) as many:
        await real.managed.unpack(TENANT, "notes", "", data({f"f{n}": b"" for n in range(INODES + 100)}))
    assert (many.value.kind, many.value.reason) == (Kind.EXHAUSTED, "workspace_full")
    got = b"".join([piece async for piece in real.managed.pack(TENANT, "notes", "")])
    assert contents(got) == {"kept": b"kept"}


async def test_nothing_is_mounted_and_no_loop_device_used_once_nobody_has_it(real: ManagedRig) -> None:
    await attach(real)
    assert loop_images(real.root) == [str(image_of(real))]
    await real.workspaces.close(JOB)
    assert loop_images(real.root) == []
    assert await real.workspaces.leftovers() == ()
    (seen,) = await real.managed.all(TENANT)
    assert (seen.bytes, seen.files) == (0, 0)


def test_the_last_ones_stay_mounted_until_others_come_or_the_daemon_ends(tmp_path: Path) -> None:
    with managed_rig(tmp_path, named_bytes=SIZE, kept_mounted=2) as real:

        async def use(name: str) -> None:
            await real.workspaces.open(JOB, TENANT, named_spec(name))
            await real.workspaces.close(JOB)

        for name in ("a", "b", "c", "b", "d"):
            asyncio.run(use(name))
        assert sorted(loop_images(tmp_path)) == [str(image_of(real, "b")), str(image_of(real, "d"))]
        asyncio.run(real.managed.remove(TENANT, "b"))
        assert loop_images(tmp_path) == [str(image_of(real, "d"))]
        asyncio.run(real.workspaces.settle([]))
        assert loop_images(tmp_path) == [str(image_of(real, "d"))]
    assert loop_images(tmp_path) == []


async def test_two_holders_have_one_file_system_and_the_last_one_unmounts_it(real: ManagedRig) -> None:
    slot = await attach(real)
    await real.workspaces.prepare(real.slot("two"), SECOND)
    await real.workspaces.open(OTHER_JOB, TENANT, named_spec("notes"))
    await real.workspaces.attach(OTHER_JOB, OTHER_BOX, real.slot("two"), SECOND)
    await asyncio.to_thread(as_uid, FIRST, f"{slot}/workspace", "echo one > f")
    await real.workspaces.close(JOB)
    done = await asyncio.to_thread(as_uid, SECOND, f"{real.slot('two')}/workspace", "cat f")
    assert done.stdout == "one\n"
    assert len(loop_images(real.root)) == 1
    await real.workspaces.close(OTHER_JOB)
    assert loop_images(real.root) == []


async def test_a_process_that_follows_uses_the_device_that_a_sandbox_still_shows(real: ManagedRig) -> None:
    slot = await attach(real)
    await asyncio.to_thread(as_uid, FIRST, f"{slot}/workspace", "echo kept > f")
    after = real.restarted()
    await after.settle([JOB])
    assert len(loop_images(real.root)) == 1, "the sandbox's slot still shows it"
    await after.open(JOB, TENANT, named_spec("notes"))
    await after.prepare(real.slot("two"), SECOND)
    await after.attach(JOB, OTHER_BOX, real.slot("two"), SECOND)
    await asyncio.to_thread(as_uid, FIRST, f"{slot}/workspace", "echo more >> f")
    seen = await asyncio.to_thread(as_uid, SECOND, f"{real.slot('two')}/workspace", "cat f")
    assert seen.stdout == "kept\nmore\n"
    assert len(loop_images(real.root)) == 1, "two devices for one file would destroy it"
    await after.detach(BOX, slot)
    await after.close(JOB)
    assert loop_images(real.root) == []


async def test_what_a_killed_process_left_mounted_is_taken_away_when_nobody_shows_it(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    where = Path(real.settings.runtime, "named", TENANT, "notes")
    off_loop(lambda: image.mount_image(image_of(real).parent, where, MANAGED))
    assert len(loop_images(real.root)) == 1
    await real.workspaces.settle([])
    assert loop_images(real.root) == []


def test_a_workspace_without_a_size_from_earlier_stays_one(tmp_path: Path) -> None:
    with managed_rig(tmp_path) as earlier:
        asyncio.run(earlier.workspaces.open(JOB, TENANT, named_spec("old")))
    (tmp_path / "projects").rmdir()
    with managed_rig(tmp_path, named_bytes=SIZE) as real:
        asyncio.run(real.workspaces.open(JOB, TENANT, named_spec("old")))
        asyncio.run(real.workspaces.open(OTHER_JOB, TENANT, named_spec("new")))
        new, old = asyncio.run(real.managed.all(TENANT))
        assert (old.name, old.quota) == ("old", None)
        assert new.quota is not None
        assert loop_images(tmp_path) == [str(image_of(real, "new"))]
    assert loop_images(tmp_path) == []


async def test_a_half_made_image_is_made_anew(real: ManagedRig) -> None:
    directory = image_of(real).parent
    directory.mkdir(parents=True, mode=0o700)
    (directory / "image.new").write_bytes(b"half")
    await real.workspaces.open(JOB, TENANT, named_spec("notes"))
    (seen,) = await real.managed.all(TENANT)
    assert seen.quota is not None
    assert seen.quota.bytes == SIZE


async def test_a_damaged_image_is_said_with_the_remedy_and_leaves_no_device(real: ManagedRig) -> None:
    await real.managed.create(TENANT, "notes", 0)
    image_of(real).write_bytes(bytes(SIZE))
    with pytest.raises(PerstackError) as damaged:
        await real.workspaces.open(JOB, TENANT, named_spec("notes"))
    assert (damaged.value.kind, damaged.value.reason) == (Kind.PRECONDITION, "workspace_damaged")
    assert "e2fsck" in damaged.value.message
    assert loop_images(real.root) == []
    (seen,) = await real.managed.all(TENANT)
    assert not seen.counted
    await real.managed.remove(TENANT, "notes")


async def test_a_held_workspace_is_not_removed(real: ManagedRig) -> None:
    await attach(real)
    with pytest.raises(PerstackError) as refused:
        await real.managed.remove(TENANT, "notes")
    assert (refused.value.kind, refused.value.reason) == (Kind.CONFLICT, "workspace_in_use")
    await real.workspaces.close(JOB)
    await real.managed.remove(TENANT, "notes")
    assert not image_of(real).parent.exists()


async def test_setuid_files_and_devices_are_swept_from_an_image_as_well(real: ManagedRig) -> None:
    slot = await attach(real)
    path = Path(slot, "workspace/tool")
    await asyncio.to_thread(as_uid, FIRST, f"{slot}/workspace", "echo x > tool; chmod 6755 tool")
    assert path.stat().st_mode & 0o6000
    await real.workspaces.close(JOB)
    await attach(real)
    assert not path.stat().st_mode & 0o6000


async def test_a_machine_without_mkfs_says_what_to_do(real: ManagedRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("mkfs.ext4")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(PerstackError) as refused:
        await real.managed.create(TENANT, "notes", 0)
    assert (refused.value.kind, refused.value.reason) == (Kind.PRECONDITION, "workspace_quota_unsupported")
    assert "named_bytes = 0" in refused.value.message
    assert await real.managed.all(TENANT) == ()


def test_a_process_that_is_killed_leaves_no_loop_device(tmp_path: Path) -> None:
    directory = tmp_path / "w"
    directory.mkdir()
    image.make_image(directory, Quota(SIZE, INODES))
    program = (
        "import os, sys; from perstackd.adapters.workspaces.loop import loop_device\n"
        "with loop_device(sys.argv[1]): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(directory / "image")], check=False, timeout=20)
    assert done.returncode == -9
    assert loop_images(tmp_path) == []


def test_a_file_is_never_on_two_devices(tmp_path: Path) -> None:
    directory = tmp_path / "w"
    directory.mkdir()
    image.make_image(directory, Quota(SIZE, INODES))
    with loop_device(str(directory / "image")) as first, loop_device(str(directory / "image")) as second:
        assert first == second
    assert loop_images(tmp_path) == []


def test_the_counters_of_an_unmounted_image_are_those_of_the_mounted_one(tmp_path: Path) -> None:
    directory, top = tmp_path / "w", tmp_path / "m"
    directory.mkdir()
    image.make_image(directory, Quota(SIZE, INODES))
    image.mount_image(directory, top, MANAGED)
    try:
        for number in range(20):
            (top / "data" / f"f{number}").write_bytes(bytes(100_000))
        os.sync()
        mounted = image.usage_of(directory, top)
    finally:
        subprocess.run(["umount", str(top)], check=True, timeout=20)
    assert image.usage_of(directory, None) == mounted
    assert mounted.files == 20
    assert 2_000_000 <= mounted.bytes < 2_200_000
    assert image.quota_of(directory).bytes == SIZE
    assert off_loop(lambda: loop_images(tmp_path)) == []
