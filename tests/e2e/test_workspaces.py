"""Named workspaces with the real daemon and the real command line: filled, worked in, shared, read, removed."""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon
from tests.integration.workspaces.rig import loop_images

pytestmark = pytest.mark.docker
TOML = '[experts.writer]\ninstruction = "Write."\n'


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("ws", numbered=True)
    made = Daemon(home, {"workspaces.named_bytes": 64 << 20, "workspaces.named_inodes": 2000})
    made.start()
    try:
        yield made
    finally:
        made.stop()
    assert loop_images(home) == []
    assert str(home) not in Path("/proc/self/mountinfo").read_text()


def script(daemon: Daemon, command: str) -> Path:
    call = {"id": "c", "name": "exec", "arguments": {"command": "sh", "args": ["-c", command]}}
    daemon.script("writer", {"calls": [call]}, {"text": "done"})
    return daemon.definition(TOML)


def ok(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_directory_is_put_in_worked_on_by_a_job_and_got_out(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "in/src").mkdir(parents=True)
    (tmp_path / "in/src/a.txt").write_text("from the caller\n")
    ok(daemon.ctl("workspace", "create", "round", "--quota", "32M"))
    assert "2 files" in ok(daemon.ctl("workspace", "put", "round", str(tmp_path / "in")))
    code, _, errors = daemon.run(
        script(daemon, "cat src/a.txt src/a.txt > twice; ln -s /etc/passwd out"), "writer", workspace="round"
    )
    assert code == 0, errors
    done = daemon.ctl("workspace", "get", "round", "-C", str(tmp_path / "out"))
    assert "out was left out" in done.stderr
    assert (tmp_path / "out/twice").read_text() == "from the caller\n" * 2
    assert not (tmp_path / "out/out").is_symlink()
    (listed,) = [each for each in daemon.json("workspace", "ls") if each["name"] == "round"]
    assert (listed["maxBytes"], listed["files"], listed["jobIds"]) == (32 << 20, 4, [])


def test_an_archive_goes_out_and_comes_in_by_pipes(daemon: Daemon, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writing:
        entry = tarfile.TarInfo("deep/large")
        entry.size = 5 << 20
        writing.addfile(entry, io.BytesIO(bytes(range(256)) * (entry.size // 256)))
    ok(daemon.ctl("workspace", "create", "pipes"))
    done = subprocess.run(
        daemon.command("workspace", "put", "pipes", "-", "below"),
        input=buffer.getvalue(),
        env=daemon.environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ok(daemon.ctl("workspace", "get", "pipes", "below/deep", "-o", str(tmp_path / "out.tar")))
    with tarfile.open(tmp_path / "out.tar") as reading:
        assert reading.getnames() == ["large"]
        member = reading.extractfile("large")
        assert member is not None
        assert member.read() == bytes(range(256)) * (5 << 12)
    again = daemon.ctl("workspace", "get", "pipes", "-o", str(tmp_path / "out.tar"))
    assert (again.returncode, "is there already" in again.stderr) == (1, True)


def test_a_hostile_archive_is_refused_with_its_entry(daemon: Daemon, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as writing:
        link = tarfile.TarInfo("innocent")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../etc"
        writing.addfile(link)
    ok(daemon.ctl("workspace", "create", "victim"))
    done = daemon.ctl("workspace", "put", "victim", str(tmp_path / "bad.tar"))
    assert done.returncode == 6
    assert "innocent" in done.stderr
    assert "nothing was unpacked" in done.stderr


def test_a_job_that_fills_its_workspace_sees_the_end_of_it(daemon: Daemon) -> None:
    directory = script(daemon, "head -c 300000000 /dev/zero > big; ls -l big | tee said; rm big; echo after > after")
    code, events, errors = daemon.run(directory, "writer", workspace="full")
    assert code == 0, errors
    assert "No space left" in str(events)


def test_a_second_job_is_refused_with_the_first_ones_id_unless_both_share(daemon: Daemon, tmp_path: Path) -> None:
    directory = script(daemon, "while ! test -e go; do sleep 0.1; done")
    begun = daemon.ctl("run", "writer", "x", "--workspace", "one", "--share", "--detach", cwd=directory)
    first = ok(begun).strip()
    refused = daemon.ctl("run", "writer", "x", "--workspace", "one", "--detach", cwd=directory)
    assert refused.returncode == 1
    assert first in refused.stderr
    removed = daemon.ctl("workspace", "rm", "one", "--yes")
    assert (removed.returncode, first in removed.stderr) == (1, True)
    (listed,) = [each for each in daemon.json("workspace", "ls") if each["name"] == "one"]
    assert listed["jobIds"] == [first]
    second = ok(daemon.ctl("run", "writer", "x", "--workspace", "one", "--share", "--detach", cwd=directory)).strip()
    (tmp_path / "go").write_text("")
    ok(daemon.ctl("workspace", "put", "one", str(tmp_path)))
    for job_id in (first, second):
        assert daemon.ctl("job", "watch", job_id, "-o", "json").returncode == 0
    ok(daemon.ctl("workspace", "rm", "one", "--yes"))
    assert "one" not in [each["name"] for each in daemon.json("workspace", "ls")]


def test_share_without_a_name_is_refused_before_anything_is_sent(daemon: Daemon) -> None:
    directory = script(daemon, "true")
    done = daemon.ctl("run", "writer", "x", "--workspace", "ephemeral", "--share", cwd=directory)
    assert (done.returncode, "--workspace NAME" in done.stderr) == (2, True)
