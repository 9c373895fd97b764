"""The images that `make images` built, as a sandbox sees them."""

import asyncio
import subprocess
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from perstackd.adapters.docker.engine import DockerSandboxes
from perstackd.adapters.docker.kernel import cgroup_directories, parse_cgroup, parse_mountinfo
from perstackd.adapters.docker.template_config import PRESETS, TemplateConfig
from perstackd.config import template
from perstackd.domain.sandbox import SandboxRecord, Template
from tests.integration.docker.rig import DAEMON_ID, REPOSITORY, Rig, docker

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

IMAGES = ["perstack/base:latest", "perstack/full:latest", "perstack/test:latest"]
SANDBOXES = IMAGES[:2]


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
    assert found.split()[-2:] == ["/var/cache:", "/var/lib/apt/lists:"]


@pytest.mark.parametrize("image", SANDBOXES)
def test_the_workspace_is_where_experts_expect_it(image: str) -> None:
    assert inside(image, "readlink /workspace; ls -d /gw /mnt /run/log /home/perstack").split() == [
        "/mnt/workspace",
        "/gw",
        "/home/perstack",
        "/mnt",
        "/run/log",
    ]


@pytest.mark.parametrize("image", SANDBOXES)
def test_all_of_the_runners_code_is_compiled(image: str) -> None:
    script = "cd /opt/perstack/lib; find . -name '*.py' | wc -l; find . -name '*.pyc' | wc -l"
    sources, compiled = map(int, inside(image, script).split())
    assert compiled >= sources > 100


@pytest.mark.parametrize("image", SANDBOXES)
def test_the_image_holds_the_runner_of_this_checkout(image: str) -> None:
    sums = "cd /opt/perstack/lib/perstack_runner; find . -name '*.py' | xargs sha256sum"
    built = {name.removeprefix("./"): digest for digest, name in pairs(inside(image, sums))}
    top = REPOSITORY / "sandbox-images/runner/perstack_runner"
    here = {str(path.relative_to(top)): sha256(path.read_bytes()).hexdigest() for path in top.rglob("*.py")}
    assert built == here, "the image is older than the checkout; run `make images`"


def pairs(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_test_image_has_a_real_mcp_server() -> None:
    assert "--local-timezone" in inside("perstack/test:latest", "mcp-server-time --help")
    assert "--local-timezone" in inside("perstack/test:latest", "python3 -m mcp_server_time --help")


def test_the_full_image_has_node_uv_git_and_gh() -> None:
    found = inside("perstack/full:latest", "node --version; npm --version; uv --version; git --version; gh --version")
    assert int(found.split(".")[0].removeprefix("v")) >= 24
    assert inside("perstack/full:latest", "command -v npx; command -v uvx").split() == [
        "/usr/local/bin/npx",
        "/usr/local/bin/uvx",
    ]


def test_programs_of_the_full_image_read_its_settings() -> None:
    script = "HOME=/tmp; npm config get audit logs-max update-notifier"
    assert inside("perstack/full:latest", script).split() == ["audit=false", "logs-max=0", "update-notifier=false"]


def test_the_base_image_has_none_of_them() -> None:
    assert (
        inside("perstack/base:latest", "for name in node npm npx uv uvx git gh; do command -v $name; done; true") == ""
    )


def test_building_again_changes_nothing() -> None:
    rebuilt()
    before = [docker("inspect", "--format={{.Id}}", image) for image in IMAGES]
    assert [line for line in rebuilt() if "building" in line] == []
    assert [docker("inspect", "--format={{.Id}}", image) for image in IMAGES] == before


def rebuilt() -> list[str]:
    """What the build says; the first one brings the images up to the checkout."""
    command = [str(REPOSITORY / "sandbox-images/build"), "--test"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=110).stderr.splitlines()


def process(pid: int, below: str) -> str:
    return str(Path(f"/proc/{pid}/{below}").readlink())


async def first_process(
    engine: DockerSandboxes, record: SandboxRecord, rig: Rig, template: Template | None = None
) -> tuple[int, str]:
    """Start the real image, production's way; the host's pid of its first process, and its container."""
    directories = await asyncio.to_thread(rig.directories, record)
    template = template or replace(rig.template(), image="perstack/base:latest")
    container = await engine.start(record, template, directories)
    posture = await engine.posture(record, template)
    assert posture.failed == ()
    return int(docker("inspect", "--format={{.State.Pid}}", container)), container


async def test_process_1_holds_no_pipe_of_the_engine(rig: Rig, engine: DockerSandboxes) -> None:
    pid, _ = await first_process(engine, rig.record(), rig)
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}/comm").read_text() != "tini\n":  # a shell opens the files and becomes tini
            await asyncio.sleep(0.01)
    assert [process(pid, f"fd/{number}") for number in (0, 1, 2)] == [
        "/dev/null",
        "/dev/null",
        "/run/log/runner.stderr",
    ]


async def test_the_runners_errors_end_where_their_file_system_ends(rig: Rig, engine: DockerSandboxes) -> None:
    _, container = await first_process(engine, rig.record(), rig)
    script = "dd if=/dev/zero of=/run/log/flood bs=4096 count=64 2>/dev/null; stat -c %s /run/log/flood"
    written = int(docker("exec", container, "sh", "-c", script))
    assert 0 < written <= 64 << 10


# Files of the image are charged to whoever reads them first, and that is some other sandbox.
READ_ALL = "find /opt/perstack /usr/lib/python3* /usr/lib/*-linux-gnu -type f -exec cat {} + > /dev/null"
SKILLS = template("skills", TemplateConfig(**PRESETS["skills"]))


@pytest.mark.parametrize(("kind", "mib"), [(None, 20), (SKILLS, 85)], ids=["base", "skills"])
async def test_a_warm_sandbox_takes_no_more_memory_than_planned(
    rig: Rig, engine: DockerSandboxes, kind: Template | None, mib: int
) -> None:
    await asyncio.to_thread(inside, kind.image if kind else "perstack/base:latest", READ_ALL)
    record = rig.record()
    gateway = (await asyncio.to_thread(rig.directories, record)).gateway
    connected = asyncio.Event()

    def dialled(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()  # who dials has imported all that it needs
        writer.close()

    server = await asyncio.start_unix_server(dialled, f"{gateway}/runner.sock")
    Path(gateway, "runner.sock").chmod(0o666)
    pid, _ = await first_process(engine, record, rig, kind)
    async with server, asyncio.timeout(20):
        await connected.wait()
        assert await asyncio.to_thread(memory_of, pid) <= mib << 20


def memory_of(pid: int) -> int:
    """The bytes that the kernel charges to the container's cgroup."""
    paths = parse_cgroup(Path(f"/proc/{pid}/cgroup").read_text())
    found = cgroup_directories(paths, parse_mountinfo(Path("/proc/self/mountinfo").read_text()))
    name = f"{found['memory']}/memory.usage_in_bytes" if "memory" in found else f"{found['']}/memory.current"
    return int(Path(name).read_text())
