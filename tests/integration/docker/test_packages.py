"""npx and uvx install from this machine's own indexes: full image, hardened sandbox, real proxy, with and without the
grant.

Whatever these indexes are here, where they resolve to and which authority signs for them is found out when this runs.
"""

import asyncio
import os
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from perstack_runner.environment import child_environment
from perstack_runner.proxy import PORT

from perstackd.adapters.docker import ca_bundle
from perstackd.adapters.docker.engine import DockerSandboxes, EngineSettings
from perstackd.adapters.docker.hardening import HOME, environment_of
from perstackd.adapters.docker.template_config import PRESETS, TemplateConfig
from perstackd.adapters.egress import EgressProxy
from perstackd.adapters.package_indexes.reading import read_package_indexes
from perstackd.config import template
from perstackd.domain.sandbox import Template
from perstackd.ports.egress import EgressAccess, EgressRule
from perstackd.ports.package_indexes import PackageGrant, PackageIndexes
from tests.integration.docker.rig import DAEMON_ID, Rig, shared_directory, waiting_image

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

IMAGE = f"perstack-test-packages:{os.getpid()}"
RELAY = """
import sys; sys.path.insert(0, "/opt/perstack/lib")
import asyncio
from perstack_runner.proxy import Proxy
async def serve():
    await Proxy("/gw/egress.sock").start()
    print("listening", flush=True)
    await asyncio.Event().wait()
asyncio.run(serve())
"""
NPX = ("npx", "-y", "semver", "1.2.3")
UVX = ("uvx", "mcp-server-time", "--help")


@dataclass(slots=True)
class Sandbox:
    """A hardened sandbox whose process 1 waits; programs run in it as the runner would start them."""

    container: str
    environment: dict[str, str]
    accesses: list[EgressAccess]

    async def run(self, *command: str) -> tuple[int, str]:
        """Exit code and all output."""
        words = [f"{name}={value}" for name, value in self.environment.items()]
        argv = ["docker", "exec", "--workdir", HOME, self.container, "env", "--ignore-environment", *words, *command]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=100, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with (
        waiting_image("perstack/full:latest", IMAGE),
        shared_directory(Path(f"/tmp/test-packages-{os.getpid()}")) as root,
    ):
        bundle = ca_bundle.installed(system_authorities(), root)
        yield Rig(root, settings=EngineSettings(DAEMON_ID, Rig(root).settings.seccomp_path, ca_bundle=bundle))


@pytest.fixture(scope="module")
def indexes() -> PackageIndexes:
    return read_package_indexes()


def system_authorities() -> Path:
    """The authorities that this machine's own programs believe."""
    paths = ssl.get_default_verify_paths()
    found = os.environ.get("SSL_CERT_FILE") or paths.cafile or paths.openssl_cafile
    return Path(found)


def not_global(rules: Iterable[EgressRule]) -> tuple[str, ...]:
    """The addresses of the rules' hosts that the proxy would refuse unless the operator allows them."""
    found = {entry[4][0] for rule in rules for entry in socket.getaddrinfo(rule.host, rule.port)}
    return tuple(sorted(str(address) for address in found if not ip_address(address).is_global))


def skills() -> Template:
    return template("skills", TemplateConfig(**{**PRESETS["skills"], "image": IMAGE}))


@asynccontextmanager
async def sandbox(rig: Rig, grant: PackageGrant, named: Mapping[str, str]) -> AsyncIterator[Sandbox]:
    """One with the grant's rules, `named` in the environment of what runs there."""
    record, accesses = rig.record(), list[EgressAccess]()
    directories = await asyncio.to_thread(rig.directories, record)
    allowed = await asyncio.to_thread(not_global, grant.rules)
    async with EgressProxy(allow_addresses=allowed) as egress, DockerSandboxes(rig.settings) as engine:
        egress.subscribe(accesses.append)
        await egress.listen(record.id, f"{directories.gateway}/egress.sock")
        await egress.allow(record.id, grant.rules)
        try:
            container = await engine.start(record, skills(), directories)
            posture = await engine.posture(record, skills())
            assert posture.failed == ()
            async with relay(container):
                own = dict(word.split("=", 1) for word in environment_of(rig.settings.ca_bundle))
                yield Sandbox(container, child_environment(own, PORT, tuple(named.items())), accesses)
        finally:
            await engine.remove(record.id)
            await egress.close(record.id)


@asynccontextmanager
async def relay(container: str) -> AsyncIterator[None]:
    """The runner's own way out, without the rest of it."""
    command = ("docker", "exec", "--interactive", container, "python3", "-I", "-S", "-c", RELAY)
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"listening\n"
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_npx_installs_and_runs_a_package(rig: Rig, indexes: PackageIndexes) -> None:
    grant = indexes.of_command("npx")
    async with sandbox(rig, grant, dict(grant.environment)) as inside:
        code, output = await inside.run(*NPX)
        assert (code, output.split()[-1:]) == (0, ["1.2.3"]), output
        assert {access.host for access in inside.accesses if access.allowed} <= {rule.host for rule in grant.rules}
        assert not [access for access in inside.accesses if not access.allowed]


async def test_uvx_installs_and_runs_a_package(rig: Rig, indexes: PackageIndexes) -> None:
    grant = indexes.of_command("uvx")
    async with sandbox(rig, grant, dict(grant.environment)) as inside:
        code, output = await inside.run(*UVX)
        assert code == 0, output
        assert "--local-timezone" in output
        assert {access.host for access in inside.accesses if access.allowed} <= {rule.host for rule in grant.rules}
        assert not [access for access in inside.accesses if not access.allowed]


CLIENTS = {
    "node": ("node", "-e", "fetch(process.argv[1]).then((answer) => console.log(answer.ok))"),
    "python": ("python3", "-c", "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).status == 200)"),
    "git": ("git", "ls-remote"),
}


@pytest.mark.parametrize("client", CLIENTS)
async def test_programs_take_the_proxy_and_believe_the_operators_authorities(
    rig: Rig, indexes: PackageIndexes, client: str
) -> None:
    grant = indexes.of_command("npx")
    address = dict(grant.environment)["npm_config_registry"]
    async with sandbox(rig, grant, {"GIT_TERMINAL_PROMPT": "0"}) as inside:
        _, output = await inside.run(*CLIENTS[client], address)
        if client == "git":  # an index is no repository; whatever it answers, git heard it over a connection it trusts
            assert not {"certificate", "ssl", "proxy"} & {*re.findall(r"[a-z]+", output.lower().replace(address, ""))}
        else:
            assert output.strip().lower() == "true"
        assert not [access for access in inside.accesses if not access.allowed]


@pytest.mark.parametrize("command", [NPX, UVX], ids=["npx", "uvx"])
async def test_without_the_grant_nothing_is_installed_and_the_denial_is_told(
    rig: Rig, indexes: PackageIndexes, command: tuple[str, ...]
) -> None:
    grant = indexes.of_command(command[0])
    denied = {**dict(grant.environment), "npm_config_fetch_retries": "0", "UV_HTTP_RETRIES": "0"}
    async with sandbox(rig, PackageGrant(), denied) as inside:
        code, output = await inside.run(*command)
        assert code != 0, output
        assert {access.reason for access in inside.accesses} == {"host_not_allowed"}
        assert inside.accesses[0].host in {rule.host for rule in grant.rules}
        assert not [access for access in inside.accesses if access.allowed]


async def test_a_grant_of_one_kind_does_not_open_the_other(rig: Rig, indexes: PackageIndexes) -> None:
    names = {**dict(indexes.npm.environment), "npm_config_fetch_retries": "0"}
    async with sandbox(rig, indexes.of_command("uvx"), names) as inside:
        code, output = await inside.run(*NPX)
        assert code != 0, output
        assert "host_not_allowed" in {access.reason for access in inside.accesses}
