"""Backups of a store that is in use, and stores that are made from one."""

import hashlib
import io
import json
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from click.testing import CliRunner

from perstackd.adapters.store import backup
from perstackd.adapters.store.sqlite import open_store
from perstackd.app.job_request import JobParent
from perstackd.cli import main
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.clock import FakeClock
from tests.fakes.models import Entry, Held
from tests.unit.app.daemon_in_memory import world
from tests.unit.app.test_jobs import LEAD, calls, says

pytestmark = pytest.mark.anyio
NAMED = WorkspaceSpec(WorkspaceKind.NAMED, "kept")
TURNS: list[Entry] = [calls(("a", "exec", {})), says("done"), says("more")]


async def made(tmp_path: Path) -> tuple[Path, JobRecord]:
    """A state directory with one ended job, and its backup beside it."""
    state = tmp_path / "s"
    async with await open_store(state) as store, world(tmp_path, {LEAD: TURNS}, store=store) as daemon:  # type: ignore[arg-type]
        record, _ = await daemon.finished()
        await to_thread.run_sync(backup.back_up, state, tmp_path / "b.tar", "0.1.0")
    return state, record


def refusal(act: Callable[[], object]) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        act()
    return caught.value


async def test_a_backup_that_was_made_while_a_job_ran_is_restored_and_the_job_goes_on(tmp_path: Path) -> None:
    state, held = tmp_path / "s", Held(says("never"))
    first = {LEAD: [calls(("a", "exec", {})), held]}
    async with await open_store(state) as store, world(tmp_path, first, store=store) as daemon:  # type: ignore[arg-type]
        record = await daemon.start(workspace=NAMED)
        with anyio.fail_after(5):
            await held.reached.wait()
        found = await to_thread.run_sync(backup.back_up, state, tmp_path / "b.tar", "0.1.0")
    assert (found.jobs, found.blobs) == (1, 1)
    await to_thread.run_sync(backup.restore, tmp_path / "b.tar", tmp_path / "r")
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["blobs", "perstackd.db"]
    async with (
        await open_store(tmp_path / "r") as store,
        world(tmp_path, {LEAD: [calls(("a", "exec", {})), says("done")]}, store=store) as daemon,  # type: ignore[arg-type]
    ):
        await daemon.events(record.id)
        ended = await daemon.jobs.get(record.id)
    assert (ended.state, ended.answer, ended.steps) == (JobState.COMPLETED, "done", 2)


async def test_an_ended_job_is_branched_after_a_restore(tmp_path: Path) -> None:
    _, record = await made(tmp_path)
    await to_thread.run_sync(backup.restore, tmp_path / "b.tar", tmp_path / "r")
    later = FakeClock(1_760_000_000_000)
    async with (
        await open_store(tmp_path / "r") as store,
        world(tmp_path, {LEAD: TURNS}, store=store, change=lambda each: replace(each, clock=later)) as daemon,  # type: ignore[arg-type]
    ):
        assert await store.jobs.get(record.id) == record
        further = await daemon.start("", "", query="and?", parent=JobParent(record.id))
        await daemon.events(further.id)
        assert (await daemon.jobs.get(further.id)).answer == "more"


def test_the_master_key_is_not_in_it_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    state, _ = anyio.run(made, tmp_path)
    (state / "master.key").write_bytes(b"k" * 32)
    backup.back_up(state, tmp_path / "c.tar", "0.1.0")
    with tarfile.open(tmp_path / "c.tar") as tar:
        names = tar.getnames()
    assert names[:2] == ["manifest.json", "perstackd.db"]
    assert all(name.startswith("blobs/") for name in names[2:])
    assert b"k" * 32 not in (tmp_path / "c.tar").read_bytes()
    assert stat.S_IMODE((tmp_path / "c.tar").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".perstackd")] == []


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    state, _ = anyio.run(made, tmp_path)
    before = (state / "perstackd.db").read_bytes()
    there = refusal(lambda: backup.back_up(state, tmp_path / "b.tar", "0.1.0"))
    store = refusal(lambda: backup.restore(tmp_path / "b.tar", state))
    assert (there.kind, there.reason) == (Kind.ALREADY_EXISTS, "backup_exists")
    assert (store.kind, store.reason) == (Kind.ALREADY_EXISTS, "store_exists")
    assert (state / "perstackd.db").read_bytes() == before


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert refusal(lambda: backup.back_up(tmp_path, tmp_path / "b", "1")).reason == "store_missing"
    assert refusal(lambda: backup.restore(tmp_path / "b", tmp_path / "r")).reason == "backup_missing"


def test_a_blob_that_is_gone_tears_the_backup(tmp_path: Path) -> None:
    state, _ = anyio.run(made, tmp_path)
    for path in (state / "blobs").glob("[0-9a-f][0-9a-f]/*"):
        path.unlink()
    error = refusal(lambda: backup.back_up(state, tmp_path / "c.tar", "0.1.0"))
    assert (error.kind, error.reason, error.retryable) == (Kind.CONFLICT, "backup_torn", True)
    assert not (tmp_path / "c.tar").exists()


# --- bad backups ----------------------------------------------------------------------------------------------------
Members = list[tuple[str, bytes]]


def members(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def packed(path: Path, content: Members) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def told(content: Members, **changes: Any) -> Members:
    manifest = {**json.loads(content[0][1]), **changes}
    return [(content[0][0], json.dumps(manifest).encode()), *content[1:]]


def database(content: Members, change: Callable[[Path], Any], tmp_path: Path) -> Members:
    """With its database changed, and the manifest saying so."""
    path = tmp_path / "changed.db"
    path.write_bytes(content[1][1])
    change(path)
    data = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return told([content[0], (content[1][0], data), *content[2:]], database=digest)


def executed(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()

    return change


def torn(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
    path.write_bytes(data)


EDITS: dict[str, Callable[[Members, Path], Members]] = {
    "no manifest": lambda content, _: content[1:],
    "a manifest that is none": lambda content, _: [("manifest.json", b"[]"), *content[1:]],
    "another format": lambda content, _: told(content, format="x"),
    "no database": lambda content, _: [content[0], *content[2:]],
    "another database": lambda content, _: [content[0], ("perstackd.db", b"x" * 4096), *content[2:]],
    "a cut database": lambda content, tmp: database(content, lambda p: p.write_bytes(p.read_bytes()[:5000]), tmp),
    "a torn database": lambda content, tmp: database(content, torn, tmp),
    "a missing blob": lambda content, _: content[:-1],
    "a changed blob": lambda content, _: [*content[:-1], (content[-1][0], b"other")],
    "a blob more": lambda content, _: [*content, _blob(b"more")],
    "a blob twice": lambda content, _: [*content, content[-1]],
    "a path that leads out": lambda content, _: [*content, ("../evil", b"x")],
    "a blob's path that leads out": lambda content, _: [*content, ("blobs/../../evil", b"x")],
    "an absolute path": lambda content, _: [*content, ("/tmp/evil", b"x")],
    "fewer jobs": lambda content, _: told(content, jobs=0),
}


def _blob(data: bytes) -> tuple[str, bytes]:
    hexadecimal = hashlib.sha256(data).hexdigest()
    return f"blobs/{hexadecimal[:2]}/{hexadecimal[2:]}", data


@pytest.mark.parametrize("edit", EDITS)
def test_a_backup_that_was_changed_is_refused_and_nothing_is_left(tmp_path: Path, edit: str) -> None:
    anyio.run(made, tmp_path)
    packed(tmp_path / "bad.tar", EDITS[edit](members(tmp_path / "b.tar"), tmp_path))
    error = refusal(lambda: backup.restore(tmp_path / "bad.tar", tmp_path / "r"))
    assert (error.kind, error.reason) == (Kind.INVALID, "backup_invalid")
    assert list((tmp_path / "r").iterdir()) == []


@pytest.mark.parametrize("keep", [0, 100, 2000, 20_000, -12_000])
def test_a_cut_backup_is_refused(tmp_path: Path, keep: int) -> None:
    anyio.run(made, tmp_path)
    (tmp_path / "bad.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:keep])
    assert refusal(lambda: backup.restore(tmp_path / "bad.tar", tmp_path / "r")).reason == "backup_invalid"
    assert list((tmp_path / "r").iterdir()) == []


def test_what_a_newer_version_made_is_refused(tmp_path: Path) -> None:
    anyio.run(made, tmp_path)
    content = members(tmp_path / "b.tar")
    packed(tmp_path / "v.tar", told(content, version=2))
    packed(tmp_path / "s.tar", database(content, executed("PRAGMA user_version = 99"), tmp_path))
    for name, reason in (("v.tar", "backup_newer"), ("s.tar", "store_newer")):
        error = refusal(lambda name=name: backup.restore(tmp_path / name, tmp_path / "r"))  # type: ignore[misc]
        assert (error.kind, error.reason) == (Kind.PRECONDITION, reason)
        assert list((tmp_path / "r").iterdir()) == []


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    state, _ = anyio.run(made, tmp_path)
    (tmp_path / "b.tar").unlink()

    def run(command: str, directory: Path) -> tuple[int, str]:
        arguments = [command, str(tmp_path / "b.tar"), "--set", f"state_directory={directory}"]
        done = CliRunner().invoke(main, arguments)
        return done.exit_code, done.output

    assert "1 jobs, 1 blobs" in run("backup", state)[1]
    code, said = run("restore", tmp_path / "r")
    assert (code, "no master key" in said) == (0, True)
    code, said = run("restore", tmp_path / "r")
    assert (code, "is there already" in said) == (1, True)
