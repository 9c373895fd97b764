"""The sandboxes port: one suite over the fake and over Docker."""

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from perstackd.adapters.docker.engine import DockerSandboxes
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import SandboxRecord, Template
from perstackd.ports.sandboxes import EndCause, SandboxDirectories, Sandboxes
from tests.fakes.sandboxes import FakeSandboxes
from tests.integration.docker.rig import Rig, docker, remove_containers, shared_directory, waiting_image

pytestmark = pytest.mark.anyio


@dataclass
class Subject:
    """An implementation with what a test must do to its engine behind its back."""

    sandboxes: Sandboxes
    rig: Rig
    fake: FakeSandboxes | None = None

    def new(self) -> tuple[SandboxRecord, Template, SandboxDirectories]:
        record = self.rig.record()
        return record, self.rig.template(), self.rig.directories(record)

    async def started(self) -> tuple[SandboxRecord, Template]:
        record, template, directories = self.new()
        container_id = await self.sandboxes.start(record, template, directories)
        return replace(record, container_id=container_id), template

    def kill(self, sandbox_id: SandboxId) -> None:
        if self.fake is not None:
            self.fake.kill(sandbox_id)
        else:
            docker("kill", f"perstack-{sandbox_id}")

    def break_next_start(self, directories: SandboxDirectories) -> None:
        if self.fake is not None:
            self.fake.failing_starts = 1
        else:
            Path(directories.gateway).rmdir()

    def without_engine(self) -> Sandboxes:
        if self.fake is not None:
            self.fake.available = False
            return self.fake
        return DockerSandboxes(replace(self.rig.settings, url=f"unix://{self.rig.root}/nobody.sock"))


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.docker)])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        rig = Rig(tmp_path)
        fake = FakeSandboxes(images=(rig.template().image,))
        yield Subject(fake, rig, fake)
        return
    async with AsyncExitStack() as stack:
        stack.enter_context(waiting_image())
        rig = Rig(stack.enter_context(shared_directory(Path(f"/tmp/test-docker-{os.getpid()}-contract"))))
        stack.callback(remove_containers)
        yield Subject(await stack.enter_async_context(DockerSandboxes(rig.settings)), rig)


async def test_the_engine_names_its_version_and_runtimes(subject: Subject) -> None:
    info = await subject.sandboxes.info()
    assert info.version
    assert "runc" in info.runtimes
    assert info.cgroup_version in (1, 2)


async def test_an_image_is_known_by_name_and_by_id(subject: Subject) -> None:
    image_id = await subject.sandboxes.image_id(subject.rig.template().image)
    assert image_id.startswith("sha256:")
    assert await subject.sandboxes.image_id(image_id) == image_id


async def test_a_missing_image_is_told_with_the_remedy(subject: Subject) -> None:
    with pytest.raises(PerstackError, match="make images") as caught:
        await subject.sandboxes.image_id("perstack/never-built:0")
    assert (caught.value.kind, caught.value.reason) == (Kind.NOT_FOUND, "image_missing")


async def test_a_started_sandbox_runs_and_is_ours(subject: Subject) -> None:
    record, _ = await subject.started()
    assert (await subject.sandboxes.end(record.id)).cause is EndCause.RUNNING
    assert await subject.sandboxes.ours() == (record.id,)


async def test_each_start_gives_a_container_id_of_its_own(subject: Subject) -> None:
    (first, _), (second, _) = await subject.started(), await subject.started()
    assert first.container_id != second.container_id
    assert set(await subject.sandboxes.ours()) == {first.id, second.id}


async def test_the_posture_of_a_fresh_sandbox_is_what_its_template_asks_for(subject: Subject) -> None:
    record, template = await subject.started()
    posture = await subject.sandboxes.posture(record, template)
    assert posture.failed == ()
    assert posture.sandbox_id == record.id
    assert len(posture.checks) > 1


async def test_the_posture_of_a_dead_sandbox_fails(subject: Subject) -> None:
    record, template = await subject.started()
    subject.kill(record.id)
    posture = await subject.sandboxes.posture(record, template)
    assert [check.name for check in posture.failed] == ["running"]


async def test_the_posture_of_a_sandbox_that_never_was_fails(subject: Subject) -> None:
    record, template, _ = subject.new()
    assert not (await subject.sandboxes.posture(record, template)).ok


async def test_starting_without_the_image_leaves_nothing(subject: Subject) -> None:
    record, template, directories = subject.new()
    with pytest.raises(PerstackError) as caught:
        await subject.sandboxes.start(record, replace(template, image="perstack/never-built:0"), directories)
    assert caught.value.reason == "image_missing"
    assert await subject.sandboxes.ours() == ()


async def test_a_failed_start_leaves_nothing(subject: Subject) -> None:
    record, template, directories = subject.new()
    subject.break_next_start(directories)
    with pytest.raises(PerstackError) as caught:
        await subject.sandboxes.start(record, template, directories)
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "start_failed")
    assert await subject.sandboxes.ours() == ()
    assert (await subject.sandboxes.end(record.id)).cause is EndCause.GONE


async def test_starting_a_sandbox_twice_fails_and_leaves_the_first_alone(subject: Subject) -> None:
    record, template = await subject.started()
    with pytest.raises(PerstackError) as caught:
        await subject.sandboxes.start(record, template, subject.rig.directories(record))
    assert caught.value.reason == "start_failed"
    assert (await subject.sandboxes.end(record.id)).cause is EndCause.RUNNING


async def test_a_killed_sandbox_tells_its_exit_code(subject: Subject) -> None:
    record, _ = await subject.started()
    subject.kill(record.id)
    end = await subject.sandboxes.end(record.id)
    assert (end.cause, end.exit_code) == (EndCause.EXITED, 137)
    assert end.detail


async def test_a_dead_sandbox_is_ours_until_it_is_removed(subject: Subject) -> None:
    record, _ = await subject.started()
    subject.kill(record.id)
    assert await subject.sandboxes.ours() == (record.id,)
    await subject.sandboxes.remove(record.id)
    assert await subject.sandboxes.ours() == ()


async def test_a_removed_sandbox_is_gone_on_return(subject: Subject) -> None:
    record, _ = await subject.started()
    await subject.sandboxes.remove(record.id)
    assert (await subject.sandboxes.end(record.id)).cause is EndCause.GONE


async def test_removing_again_or_what_never_was_is_no_error(subject: Subject) -> None:
    record, _ = await subject.started()
    await subject.sandboxes.remove(record.id)
    await subject.sandboxes.remove(record.id)
    await subject.sandboxes.remove(subject.rig.record().id)
    assert await subject.sandboxes.ours() == ()


@pytest.mark.parametrize("call", ["info", "image_id", "start", "posture", "end", "remove", "ours"])
async def test_every_call_says_so_when_the_engine_does_not_answer(subject: Subject, call: str) -> None:
    record, template, directories = subject.new()
    sandboxes = subject.without_engine()
    calls = {
        "info": sandboxes.info,
        "image_id": lambda: sandboxes.image_id(template.image),
        "start": lambda: sandboxes.start(record, template, directories),
        "posture": lambda: sandboxes.posture(record, template),
        "end": lambda: sandboxes.end(record.id),
        "remove": lambda: sandboxes.remove(record.id),
        "ours": sandboxes.ours,
    }
    with pytest.raises(PerstackError, match="systemctl start docker") as caught:
        await calls[call]()
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "engine_unavailable")
    assert caught.value.retryable
    if isinstance(sandboxes, DockerSandboxes):
        await sandboxes.close()


def test_no_slot_stays_mounted_after_the_suite() -> None:
    mounted = subprocess.run(["mount"], capture_output=True, text=True, check=True).stdout
    assert f"/tmp/test-docker-{os.getpid()}-contract" not in mounted
