"""The images that `make images` built, as a sandbox sees them."""

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from perstackd.adapters.docker.engine import DockerSandboxes
from tests.integration.docker.rig import DAEMON_ID, REPOSITORY, Rig, docker

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

IMAGES = ["perstack/base:latest", "perstack/test:latest"]


def inside(image: str, script: str) -> str:
    label = f"--label=dev.perstack.daemon={DAEMON_ID}"
    return docker("run", "--rm", "--network=none", label, "--entrypoint=sh", image, "-c", script)


@pytest.mark.parametrize("image", IMAGES)
def test_no_file_is_setuid_or_setgid(image: str) -> None:
    assert inside(image, "find / -xdev -perm /6000; touch /tmp/x; chmod 4755 /tmp/x; find /tmp -perm /6000") == "/tmp/x"


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_of_the_building_machine_and_no_package_cache_is_left(image: str) -> None:
    found = inside(
        image, "cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null; ls /var/lib/apt/lists /var/cache"
    )
    assert "://" not in found
    assert found.split() == ["/var/cache:", "/var/lib/apt/lists:"]


def test_the_workspace_is_where_experts_expect_it() -> None:
    assert inside("perstack/base:latest", "readlink /workspace; ls -d /gw /mnt /run/log /home/perstack").split() == [
        "/mnt/workspace",
        "/gw",
        "/home/perstack",
        "/mnt",
        "/run/log",
    ]


def test_all_of_the_runners_code_is_compiled() -> None:
    script = "cd /opt/perstack/lib; find . -name '*.py' | wc -l; find . -name '*.pyc' | wc -l"
    sources, compiled = map(int, inside("perstack/base:latest", script).split())
    assert compiled >= sources > 100


def test_the_image_holds_the_runner_of_this_checkout() -> None:
    listed = inside(
        "perstack/base:latest", "cd /opt/perstack/lib/perstack_runner; find . -name '*.py' | xargs sha256sum"
    )
    built = {name.removeprefix("./"): digest for digest, name in (line.split() for line in listed.splitlines())}
    top = REPOSITORY / "sandbox-images/runner/perstack_runner"
    names = [str(path.relative_to(top)) for path in top.rglob("*.py")]
    summed = subprocess.run(["sha256sum", *names], cwd=top, capture_output=True, text=True, check=True).stdout
    assert built == {name: digest for digest, name in (line.split() for line in summed.splitlines())}, (
        "run `make images`"
    )


def test_the_test_image_has_a_real_mcp_server() -> None:
    assert "--local-timezone" in inside("perstack/test:latest", "mcp-server-time --help")
    assert "--local-timezone" in inside("perstack/test:latest", "python3 -m mcp_server_time --help")


def test_building_again_changes_nothing() -> None:
    before = [docker("inspect", "--format={{.Id}}", image) for image in IMAGES]
    command = [REPOSITORY / "sandbox-images/build", "--test"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "building" not in done.stderr
    assert [docker("inspect", "--format={{.Id}}", image) for image in IMAGES] == before


def process(pid: int, below: str) -> str:
    return str(Path(f"/proc/{pid}/{below}").readlink())


async def first_process(engine: DockerSandboxes, rig: Rig) -> tuple[int, str]:
    """Start the real image, production's way; the host's pid of its first process, and its container."""
    record = rig.record()
    directories = await asyncio.to_thread(rig.directories, record)
    template = replace(rig.template(), image="perstack/base:latest")
    container = await engine.start(record, template, directories)
    posture = await engine.posture(record, template)
    assert posture.failed == ()
    return int(docker("inspect", "--format={{.State.Pid}}", container)), container


async def test_process_1_holds_no_pipe_of_the_engine(rig: Rig, engine: DockerSandboxes) -> None:
    pid, _ = await first_process(engine, rig)
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}/comm").read_text() != "tini\n":  # a shell opens the files and becomes tini
            await asyncio.sleep(0.01)
    assert [process(pid, f"fd/{number}") for number in (0, 1, 2)] == [
        "/dev/null",
        "/dev/null",
        "/run/log/runner.stderr",
    ]


async def test_the_runners_errors_end_where_their_file_system_ends(rig: Rig, engine: DockerSandboxes) -> None:
    _, container = await first_process(engine, rig)
    script = "dd if=/dev/zero of=/run/log/flood bs=4096 count=64 2>/dev/null; stat -c %s /run/log/flood"
    written = int(docker("exec", container, "sh", "-c", script))
    assert 0 < written <= 64 << 10


async def test_a_warm_sandbox_takes_no_more_than_20_mib(rig: Rig, engine: DockerSandboxes) -> None:
    pid, container = await first_process(engine, rig)
    async with asyncio.timeout(20):
        # Without a daemon the runner tries to connect again and again: then it has imported all that it needs.
        while "python3" not in docker("top", container, "-o", "comm"):
            await asyncio.sleep(0.1)
    paths = dict(line.split(":")[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    await asyncio.sleep(2)
    top = f"/sys/fs/cgroup/memory{paths['memory']}/memory.usage_in_bytes"
    assert int(Path(top).read_text()) <= 20 << 20
