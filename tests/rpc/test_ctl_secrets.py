"""perstackctl secret against the daemon's own servicer: values go in by standard input and come back nowhere."""

import json
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import pytest

from perstackctl.client import Client
from perstackctl.client.errors import ClientError
from perstackctl.client.secrets import NewSecret
from perstackd.adapters.models.router import ModelRouter
from perstackd.app.secret_rotation import SecretRotation
from perstackd.app.secrets import Secrets
from perstackd.app.system import System, SystemFacts
from perstackd.rpc.secrets import SecretVault
from perstackd.rpc.server import AdminSocket, Api, admin_server
from tests.fakes.clock import FakeClock
from tests.fakes.models import ScriptedModels
from tests.fakes.secrets import FakeMasterKeys
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import world
from tests.unit.app.test_jobs import LEAD, says

pytestmark = pytest.mark.anyio
VALUE = "token-1234567890"
NEEDS = """
[experts.lead]
instruction = "Lead."
[experts.lead.skills."@perstack/base"]
requiredEnv = ["TOKEN"]
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """Short, because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="psec-", dir="/tmp") as path:
        yield Path(path)


@dataclass
class Daemon:
    """A served daemon and who talks to it."""

    address: str
    secrets: Secrets
    client: Client
    root: Path

    async def ctl(self, *arguments: str, value: bytes = b"", **environment: str) -> "CompletedProcess[bytes]":
        """`perstackctl secret ...` as a process."""
        command = [str(Path(sys.executable).parent / "perstackctl"), *arguments]
        variables = {**os.environ, "PERSTACK_ADDRESS": self.address, "NO_COLOR": "1", **environment}
        with anyio.fail_after(60):
            return await anyio.run_process(command, input=value, check=False, env=variables, cwd=self.root)


@pytest.fixture
async def daemon(root: Path) -> AsyncIterator[Daemon]:
    store = FakeStore()
    secrets = await Secrets.opened(store.secrets, FakeMasterKeys(lost=("file:/lost",)), FakeClock())
    router = ModelRouter({"anthropic": lambda: ScriptedModels({})})
    async with world(
        root / "run", {LEAD: [says("done")]}, store=store, change=lambda each: replace(each, secrets=secrets)
    ) as each:
        facts = SystemFacts("0.1.0", 1, ("/srv",), "/var/lib/perstackd", "scripted", "m")
        vault = SecretVault(
            secrets, SecretRotation(secrets, store.sealed_envs), lambda name: void(router.provider(name))
        )
        api = Api(each.jobs, each.pool, System(facts, each.sandboxes, each.pool, each.jobs), vault=vault)
        path = root / "admin" / "p.sock"
        async with admin_server(AdminSocket(path), api, FakeClock()), Client(str(path), timeout=10) as client:
            yield Daemon(f"unix:{path}", secrets, client, root)


def void(_: object) -> None:
    """Nothing."""


async def test_a_value_goes_in_and_only_its_name_comes_back(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        stored = await daemon.client.secrets.put(NewSecret("TOKEN", VALUE.encode(), experts=("bot", "lead")))
        listed = await daemon.client.secrets.list()
    assert listed == (stored,)
    assert (stored.name, stored.tenant, stored.provider, stored.experts) == ("TOKEN", "default", False, ("bot", "lead"))
    assert await daemon.client.secrets.names() == {"TOKEN"}
    assert VALUE not in f"{stored} {listed} {caplog.text}"
    removed = await daemon.client.secrets.remove("TOKEN")
    assert (removed, await daemon.client.secrets.list()) == (stored, ())


async def test_a_refusal_has_its_reason_and_nothing_of_the_value(daemon: Daemon) -> None:
    for wrong, reason in (
        (NewSecret("bad name", VALUE.encode()), "secret_name_invalid"),
        (NewSecret("TOKEN", VALUE.encode() + b"\0"), "secret_value_invalid"),
        (NewSecret("TOKEN", VALUE.encode(), experts=("a",), all_experts=True), "secret_grant_invalid"),
        (NewSecret("TOKEN", VALUE.encode(), tenant="other"), "tenant_not_found"),
        (NewSecret("antropic", VALUE.encode(), provider=True), "provider_not_there"),
    ):
        with pytest.raises(ClientError) as caught:
            await daemon.client.secrets.put(wrong)
        assert caught.value.reason == reason
        assert VALUE not in f"{caught.value} {caught.value.metadata}"


async def test_a_value_of_routes_is_stored_listed_and_removed_beside_a_tenants_of_the_same_name(daemon: Daemon) -> None:
    done = await daemon.ctl("secret", "put", "--route", "TOKEN", value=VALUE.encode())
    assert (done.returncode, done.stdout) == (0, b"TOKEN is stored, for origin routes\n"), done.stderr
    assert daemon.secrets.route_value("TOKEN") == VALUE
    await daemon.client.secrets.put(NewSecret("TOKEN", b"for experts"))
    rows = (await daemon.ctl("secret", "ls")).stdout.decode().splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [["TOKEN", "all"], ["TOKEN", "origin"]]
    assert (await daemon.ctl("secret", "rm", "--route", "TOKEN")).returncode == 0
    assert daemon.secrets.route_value("TOKEN") is None
    assert await daemon.client.secrets.names() == {"TOKEN"}
    assert (await daemon.ctl("secret", "put", "--route", "--provider", "anthropic", value=b"x")).returncode == 2
    with pytest.raises(ClientError):
        await daemon.client.secrets.put(NewSecret("TOKEN", b"x", provider=True, route=True))


async def test_the_command_reads_the_value_from_standard_input_and_cuts_one_line_end(daemon: Daemon) -> None:
    done = await daemon.ctl("secret", "put", "TOKEN", "--expert", "lead", value=f"{VALUE}\n\n".encode())
    assert (done.returncode, done.stdout) == (0, b"TOKEN is stored, for lead\n"), done.stderr
    (secret,) = daemon.secrets.listed("tenant:default")
    assert daemon.secrets.index.value(secret) == f"{VALUE}\n".encode()
    done = await daemon.ctl("secret", "put", "TOKEN", "--all-experts", value=f"{VALUE}\r\n".encode())
    assert done.stdout == b"TOKEN is stored, for all experts\n"
    assert daemon.secrets.index.value(daemon.secrets.listed("tenant:default")[0]) == VALUE.encode()


async def test_the_key_of_a_provider_is_in_force_at_once(daemon: Daemon) -> None:
    done = await daemon.ctl("secret", "put", "--provider", "anthropic", value=b"sk-ant-123456")
    assert done.stdout == b"anthropic is stored, for the daemon's model calls\n"
    assert daemon.secrets.provider_key("anthropic") == "sk-ant-123456"
    listed = await daemon.ctl("secret", "ls", "-o", "json")
    assert [(each["name"], each["provider"]) for each in json.loads(listed.stdout)] == [("anthropic", True)]
    assert b"sk-ant" not in listed.stdout
    assert (await daemon.ctl("secret", "rm", "--provider", "anthropic")).returncode == 0
    assert daemon.secrets.provider_key("anthropic") is None


@pytest.mark.parametrize(
    ("arguments", "value", "said"),
    [
        (("put",), b"x", b"give NAME, or --provider PROVIDER"),
        (("put", "TOKEN", "--provider", "anthropic"), b"x", b"give NAME, or --provider PROVIDER"),
        (("put", "TOKEN"), b"", b"standard input, which should be the value of TOKEN, is empty"),
        (("put", "TOKEN"), b"x" * 65_537, b"more than 65,536 bytes"),
        (("put", "TOKEN", VALUE), b"x", b"a value is no argument"),
    ],
)
async def test_a_wrong_use_is_told_before_anything_is_stored(
    daemon: Daemon, arguments: tuple[str, ...], value: bytes, said: bytes
) -> None:
    done = await daemon.ctl("secret", *arguments, value=value)
    assert done.returncode == 2
    assert said in done.stderr
    assert VALUE.encode() not in done.stdout + done.stderr
    assert daemon.secrets.listed("tenant:default") == ()


async def test_keys_are_rotated_and_the_next_start_is_told(daemon: Daemon) -> None:
    await daemon.client.secrets.put(NewSecret("TOKEN", VALUE.encode()))
    done = await daemon.ctl("secret", "rotate")
    assert b"1 secret, 1 data key" in done.stdout
    done = await daemon.ctl("secret", "rotate", "--master-key", "file:/fake/two")
    assert done.returncode == 0
    assert b"secrets.master_key = 'file:/fake/two'" in done.stderr
    (secret,) = daemon.secrets.listed("tenant:default")
    assert daemon.secrets.index.value(secret) == VALUE.encode()
    lost = await daemon.ctl("secret", "rotate", "--master-key", "file:/lost")
    assert (lost.returncode, b"restore it" in lost.stderr) == (1, True)


async def test_a_job_is_made_without_a_value_that_the_daemon_has(daemon: Daemon) -> None:
    (daemon.root / "perstack.toml").write_text(NEEDS)
    run = ("run", "lead", "do it", "--workspace", "ephemeral", "-o", "json")
    missing = await daemon.ctl(*run)
    assert missing.returncode == 2
    assert b"perstackctl secret put" in missing.stderr
    await daemon.client.secrets.put(NewSecret("TOKEN", VALUE.encode()))
    done = await daemon.ctl(*run)
    assert done.returncode == 0, done.stderr
    assert b"secretReleased" in done.stdout
