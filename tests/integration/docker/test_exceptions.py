"""What a template leaves out by name is left out, is named by the posture, and nothing else is; the control is the same
sandbox of a template without it.
"""

import asyncio
from dataclasses import replace

import pytest

from perstackd.adapters.docker.engine import DockerSandboxes
from perstackd.domain.sandbox import Posture
from tests.integration.docker.rig import Rig, docker

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
TRACE = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.ptrace(0, 0, 0, 0), ctypes.get_errno())"


async def started(rig: Rig, engine: DockerSandboxes, *exceptions: str) -> tuple[Posture, str]:
    record, template = rig.record(), replace(rig.template(), exceptions=exceptions)
    directories = await asyncio.to_thread(rig.directories, record)
    container = await engine.start(record, template, directories)
    return await engine.posture(record, template), container


def tried(container: str, *command: str) -> str:
    return docker("exec", container, "sh", "-c", '"$@" 2>&1 || true', "-", *command)


async def test_without_an_exception_neither_can_be_done(rig: Rig, engine: DockerSandboxes) -> None:
    posture, container = await started(rig, engine)
    assert (posture.ok, posture.exceptions) == (True, ())
    assert "Read-only file system" in tried(container, "touch", "/var/tmp/x")
    assert tried(container, "python3", "-c", TRACE) == "-1 1"


async def test_a_writable_root_is_written_where_the_image_lets_anyone_and_not_elsewhere(
    rig: Rig, engine: DockerSandboxes
) -> None:
    posture, container = await started(rig, engine, "writable-root")
    assert posture.failed == ()
    assert [check.name for check in posture.checks if "(exception writable-root)" in check.expected] == [
        "root",
        "read_only_root",
    ]
    assert tried(container, "touch", "/var/tmp/x") == ""
    assert "Permission denied" in tried(container, "touch", "/usr/bin/x")
    assert "Read-only file system" in tried(container, "touch", "/gw/x")
    assert tried(container, "python3", "-c", TRACE) == "-1 1"


async def test_ptrace_passes_the_filter_and_what_is_like_it_does_not(rig: Rig, engine: DockerSandboxes) -> None:
    posture, container = await started(rig, engine, "ptrace")
    assert (posture.failed, posture.exceptions) == ((), ("ptrace",))
    assert tried(container, "python3", "-c", TRACE) == "0 0"
    other = TRACE.replace("c.ptrace(0, 0, 0, 0)", "c.process_vm_readv(1, 0, 0, 0, 0, 0)")
    assert tried(container, "python3", "-c", other) == "-1 1"
    assert "Read-only file system" in tried(container, "touch", "/var/tmp/x")


async def test_a_sandbox_that_is_loosened_differs_from_a_template_that_is_not(
    rig: Rig, engine: DockerSandboxes
) -> None:
    record, template = rig.record(), rig.template(exceptions=("writable-root", "ptrace"))
    directories = await asyncio.to_thread(rig.directories, record)
    image = await engine.image_id(template.image)
    await engine.start(record, template, directories)
    async with DockerSandboxes(rig.settings) as later:  # a daemon whose operator took the exceptions back
        posture = await later.posture(replace(record, image_id=image), rig.template())
    assert {check.name for check in posture.failed} == {"root", "read_only_root", "seccomp_profile"}
