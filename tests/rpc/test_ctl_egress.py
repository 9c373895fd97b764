"""`perstackctl egress explain` as people run it, against the daemon's own servicer; the proxy is the fake."""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from perstackctl.client import Client
from perstackctl.client.errors import ClientError, InvalidError, NotFoundError
from perstackctl.client.values import Definition
from perstackd.app.egress_rules import EgressDryRun, occupant_of, rules_of
from perstackd.app.reach import Reach
from perstackd.app.system import System, SystemFacts
from perstackd.domain.assignment import own_skills
from perstackd.domain.egress_policy import EgressPolicy
from perstackd.ports.egress import EgressRule, Occupant
from perstackd.ports.package_indexes import PackageGrant, PackageIndexes
from perstackd.rpc.server import AdminSocket, Api, admin_server
from tests.fakes.clock import FakeClock
from tests.unit.app.daemon_in_memory import World, world

pytestmark = pytest.mark.anyio
INDEXES = PackageIndexes(python=PackageGrant((EgressRule("index.example"),)))
TOML = """
[experts.reporter]
instruction = "Report."
delegates = ["helper"]

[experts.reporter.skills.shared]
type = "mcpStdioSkill"
command = "shared-mcp"
allowedDomains = ["*.shared.example"]
isolation = "shared"

[experts.reporter.skills.tracker]
type = "mcpStdioSkill"
command = "uvx"
packageName = "tracker-mcp"
allowedDomains = ["api.example.com"]

[experts.helper]
instruction = "Help."
"""


@dataclass
class Desk:
    daemon: World
    socket: Path
    project: Path

    async def ctl(self, *arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "perstackctl", "--address", str(self.socket), "egress", "explain", *arguments]
        child = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=self.project
        )
        async with asyncio.timeout(30):
            out, error = await child.communicate()
        return child.returncode or 0, out.decode(), error.decode()


@pytest.fixture
def root() -> Iterator[Path]:
    """Short, because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="pctl-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
async def desk(root: Path) -> AsyncIterator[Desk]:
    (root / "perstack.toml").write_text(TOML)
    async with world(root / "run", {}) as daemon:
        system = System(SystemFacts("0.1.0", 1, (), "/s", "scripted", "m"), daemon.sandboxes, daemon.pool, daemon.jobs)
        dry_run = EgressDryRun(daemon.egress, daemon.jobs.resolve, Reach(indexes=INDEXES))
        api = Api(daemon.jobs, daemon.pool, system, dry_run=dry_run)
        socket = AdminSocket(root / "admin" / "p.sock")
        async with admin_server(socket, api, FakeClock()):
            yield Desk(daemon, socket.path, root)


async def test_a_host_of_one_skill_is_allowed_from_its_sandbox_alone(desk: Desk) -> None:
    code, out, _ = await desk.ctl("API.example.com", "--expert", "reporter")
    assert code == 0
    assert "api.example.com:443 from expert reporter: denied" in out
    assert "api.example.com:443 from expert reporter, skill tracker: allowed" in out
    assert "rule      api.example.com:443" in out
    assert "address   127.0.0.1  would be dialled" in out
    assert 'allowedDomains = ["api.example.com"]' in out
    assert "helper" not in out


async def test_a_denied_host_ends_with_one_and_says_what_to_add(desk: Desk) -> None:
    code, out, _ = await desk.ctl("other.example", "-o", "json")
    told = json.loads(out)
    assert code == 1
    assert {(each["expertKey"], each["skill"], each["reason"]) for each in told["verdicts"]} == {
        ("reporter", "", "host_not_allowed"),
        ("reporter", "tracker", "host_not_allowed"),
        ("helper", "", "host_not_allowed"),
    }
    assert all("--allow-domain other.example" in each["remedy"] for each in told["verdicts"])


async def test_what_a_job_would_allow_besides_can_be_tried(desk: Desk) -> None:
    assert (await desk.ctl("other.example", "--allow-domain", "other.example"))[0] == 0
    code, _, error = await desk.ctl("other.example", "--allow-domain", "10.0.0.1")
    assert (code, "10.0.0.1" in error) == (2, True)


async def test_another_port_is_denied_with_the_rule_that_has_the_host(desk: Desk) -> None:
    code, out, _ = await desk.ctl("x.shared.example:8443", "--expert", "reporter", "-o", "json")
    own = json.loads(out)["verdicts"][0]
    assert (code, own["reason"], own["rule"]) == (1, "port_not_allowed", "*.shared.example:443")


async def test_the_index_of_a_package_is_open_to_the_skill_that_it_installs(desk: Desk) -> None:
    _, out, _ = await desk.ctl("index.example", "--expert", "reporter", "-o", "json")
    assert [each["allowed"] for each in json.loads(out)["verdicts"]] == [False, True]


async def test_a_sandbox_that_lives_has_the_rules_that_it_has_now(desk: Desk) -> None:
    record = desk.daemon.pool.records()[0]
    await desk.daemon.egress.allow(record.id, [EgressRule("api.example.com")])
    code, out, _ = await desk.ctl("api.example.com", "--sandbox", record.id)
    assert (code, f"from sandbox {record.id}: allowed" in out) == (0, True)


async def test_questions_that_cannot_be_asked_are_told_so(desk: Desk) -> None:
    for arguments in (("a.example", "--sandbox", "01", "--expert", "x"), ("a.example:0",), ("a.example:70000",)):
        assert (await desk.ctl(*arguments))[0] == 2
    async with Client(str(desk.socket)) as client:
        with pytest.raises(NotFoundError):
            await client.explain_egress("a.example", sandbox_id="ZZZZZZ")
        with pytest.raises(InvalidError, match="must be a table"):
            await client.explain_egress("a.example", definition=Definition("experts = 3", "perstack.toml"))
        with pytest.raises(ClientError):
            await client.explain_egress("", definition=Definition(TOML, "perstack.toml"))


async def test_the_dry_run_and_the_run_ask_the_same_function_for_rules(desk: Desk) -> None:
    found = await desk.daemon.jobs.resolve(TOML, "perstack.toml", "reporter")
    reporter = found.experts[0]
    (tracker,) = own_skills(reporter)
    assert rules_of(reporter, None, ("a.example",), Reach(indexes=INDEXES)) == [
        EgressRule("*.shared.example"),
        EgressRule("a.example"),
    ]
    assert rules_of(reporter, tracker, (), Reach()) == [EgressRule("api.example.com")]
    assert occupant_of(reporter, None) == Occupant("reporter", ("shared",))
    assert occupant_of(reporter, tracker) == Occupant("reporter", ("tracker",), own=True)


@pytest.fixture
async def strict(root: Path) -> AsyncIterator[Desk]:
    """A daemon whose operator lets sandboxes reach api.example.com alone."""
    (root / "perstack.toml").write_text(TOML)
    reach = Reach(EgressPolicy((("api.example.com", 443),)), INDEXES)
    async with world(root / "run", {}, change=lambda services: replace(services, reach=reach)) as daemon:
        system = System(SystemFacts("0.1.0", 1, (), "/s", "scripted", "m"), daemon.sandboxes, daemon.pool, daemon.jobs)
        api = Api(daemon.jobs, daemon.pool, system, dry_run=EgressDryRun(daemon.egress, daemon.jobs.resolve, reach))
        socket = AdminSocket(root / "admin" / "p.sock")
        async with admin_server(socket, api, FakeClock()):
            yield Desk(daemon, socket.path, root)


async def test_what_the_operator_leaves_out_is_denied_by_the_policy_and_no_job_can_add_it(strict: Desk) -> None:
    code, out, _ = await strict.ctl("other.example", "--allow-domain", "other.example")
    assert code == 1
    assert "outside of egress.allow_hosts, the operator's policy (api.example.com) (egress_not_permitted)" in out
    assert 'egress.allow_hosts = [..., "other.example"]' in out
    assert "allowedDomains" not in out
    code, out, _ = await strict.ctl("index.example", "--expert", "reporter")
    assert (code, "egress_not_permitted" in out) == (1, True)
    assert (await strict.ctl("api.example.com", "--expert", "reporter"))[0] == 0
    record = strict.daemon.pool.records()[0]
    _, out, _ = await strict.ctl("x.shared.example", "--sandbox", record.id)
    assert "egress_not_permitted" in out


async def test_a_host_that_is_permitted_and_not_asked_for_is_still_the_definitions_affair(strict: Desk) -> None:
    _, out, _ = await strict.ctl("api.example.com", "--expert", "helper")
    assert "host_not_allowed" in out
    assert "egress_not_permitted" not in out
