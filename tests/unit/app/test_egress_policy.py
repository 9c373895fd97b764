"""Jobs under the operator's policy of egress: refused before anything is claimed, or let out as far as it goes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from perstackd.app.reach import Reach
from perstackd.app.run_context import RunServices
from perstackd.domain.egress_policy import EgressPolicy
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.expert import Severity
from perstackd.domain.job import JobState
from perstackd.domain.sandbox import Template
from perstackd.ports.egress import EgressRule
from perstackd.ports.package_indexes import PackageGrant, PackageIndexes
from tests.unit.app.daemon_in_memory import world
from tests.unit.app.test_jobs import LEAD, says

pytestmark = pytest.mark.anyio
INDEXES = PackageIndexes(python=PackageGrant((EgressRule("index.example"),)))
SKILLS = Template("skills", "perstack/base:latest", grant="package-indexes")


def definition(*domains: str, command: str = 'command = "tracker-mcp"') -> str:
    return f"""
[experts.lead]
instruction = "{LEAD}."

[experts.lead.skills.tracker]
type = "mcpStdioSkill"
{command}
isolation = "shared"
allowedDomains = {list(domains)}
"""


def under(*hosts: str) -> Callable[[RunServices], RunServices]:
    reach = Reach(EgressPolicy(tuple((host, 443) for host in hosts)), INDEXES)
    return lambda services: replace(services, reach=reach, package_indexes=INDEXES)


async def test_a_skill_that_needs_more_refuses_the_job_before_anything_is_claimed_or_kept(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}, change=under("in.example")) as daemon:
        with pytest.raises(PerstackError) as refused:
            await daemon.start(definition("in.example", "out.example"), "lead")
        assert (refused.value.kind, refused.value.reason) == (Kind.PRECONDITION, "egress_not_permitted")
        assert refused.value.message == (
            "the skill 'tracker' of 'lead' needs out.example, which egress.allow_hosts of this daemon's operator "
            "leaves out (in.example)"
        )
        assert (daemon.store.records, daemon.jobs.counts()) == ({}, (0, 0))
        assert all(record.job_id == "" for record in daemon.pool.records())


async def test_a_domain_of_the_caller_is_refused_in_the_same_way(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}, change=under("in.example")) as daemon:
        with pytest.raises(PerstackError, match=r"^--allow-domain needs out\.example"):
            await daemon.start(definition("in.example"), "lead", allow_domains=("out.example",))


async def test_a_package_without_a_permitted_index_is_refused(tmp_path: Path) -> None:
    toml = definition(command='command = "uvx"\npackageName = "tracker-mcp"')
    async with world(tmp_path, {LEAD: [says("done")]}, skills=SKILLS, change=under("in.example")) as daemon:
        with pytest.raises(PerstackError, match=r"installed by uvx from index\.example"):
            await daemon.start(toml, "lead")


async def test_of_a_pattern_the_proxy_is_given_what_the_operator_leaves_of_it(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}, change=under("a.in.example")) as daemon:
        given: list[tuple[EgressRule, ...]] = []
        allow = daemon.egress.allow

        async def noting(sandbox_id, rules, occupant=None):  # type: ignore[no-untyped-def]
            given.append(tuple(rules))
            await allow(sandbox_id, rules, occupant)

        daemon.egress.allow = noting  # type: ignore[method-assign]
        record, _ = await daemon.finished(definition("*.in.example"), "lead", allow_domains=("*.in.example",))
    assert record.state is JobState.COMPLETED
    assert given == [(EgressRule("a.in.example"),)]


async def test_whoever_asks_about_a_definition_is_told_before(tmp_path: Path) -> None:
    async with world(tmp_path, {}, change=under("a.in.example")) as daemon:
        found = await daemon.jobs.resolve(definition("out.example", "*.in.example"), "perstack.toml", "")
    told = [each for each in found.findings if "egress.allow_hosts" in each.message]
    assert [each.severity for each in told] == [Severity.ERROR, Severity.WARNING]
    assert told[0].key == "experts.lead.skills.tracker.allowedDomains"
