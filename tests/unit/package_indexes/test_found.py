"""From addresses to hosts that are opened and variables that are passed on."""

import pytest

from perstackd.adapters.package_indexes.found import Judged, NpmRegistries, PythonIndexes, npm_grant, python_grant
from perstackd.ports.egress import EgressRule
from perstackd.ports.package_indexes import PackageGrant, PackageIndexes

PUBLIC = PythonIndexes("https://public.invalid/simple", (), "https://public.invalid/simple", "files.invalid")


def hosts(judged: Judged) -> list[tuple[str, int]]:
    return [(rule.host, rule.port) for rule in judged.grant.rules]


def test_the_public_index_brings_the_host_that_its_files_come_from() -> None:
    judged = python_grant(PUBLIC)
    assert hosts(judged) == [("public.invalid", 443), ("files.invalid", 443)]
    assert judged.remarks == ()


def test_a_machine_with_an_index_of_its_own_opens_that_one_alone() -> None:
    judged = python_grant(PythonIndexes("https://own.invalid:8443/simple/", (), PUBLIC.public, PUBLIC.public_files))
    assert hosts(judged) == [("own.invalid", 8443)]
    assert dict(judged.grant.environment) == {
        "UV_DEFAULT_INDEX": "https://own.invalid:8443/simple/",
        "PIP_INDEX_URL": "https://own.invalid:8443/simple/",
    }


def test_further_indexes_are_opened_and_named_too() -> None:
    judged = python_grant(
        PythonIndexes("https://own.invalid/s", ("https://a.invalid/s", "https://b.invalid/s"), PUBLIC.public)
    )
    assert [host for host, _ in hosts(judged)] == ["own.invalid", "a.invalid", "b.invalid"]
    assert dict(judged.grant.environment)["UV_INDEX"] == "https://a.invalid/s https://b.invalid/s"
    assert dict(judged.grant.environment)["PIP_EXTRA_INDEX_URL"] == "https://a.invalid/s https://b.invalid/s"


def test_credentials_stay_outside_and_that_is_told() -> None:
    judged = python_grant(PythonIndexes("https://me:hunter2-hunter2@own.invalid/simple"))
    assert hosts(judged) == [("own.invalid", 443)]
    assert "hunter2" not in repr(judged)
    assert judged.remarks == ("https://own.invalid/simple is passed on without its credentials: sandboxes get none",)


@pytest.mark.parametrize(
    "address", ["http://own.invalid/simple", "file:///opt/simple", "https:///simple", "own.invalid", "https://x:port/"]
)
def test_an_address_that_no_sandbox_can_reach_is_left_out_and_that_is_told(address: str) -> None:
    for judged in (python_grant(PythonIndexes(address)), npm_grant(NpmRegistries(address))):
        assert judged.grant == PackageGrant()
        assert len(judged.remarks) == 1


def test_what_is_not_configured_is_nothing_and_no_remark() -> None:
    assert python_grant(PythonIndexes()) == Judged(PackageGrant()) == npm_grant(NpmRegistries())


def test_registries_of_scopes_are_opened_and_named_too() -> None:
    judged = npm_grant(NpmRegistries("https://npm.invalid/", {"@us": "https://k:v@us.invalid/npm/"}))
    assert hosts(judged) == [("npm.invalid", 443), ("us.invalid", 443)]
    assert dict(judged.grant.environment) == {
        "npm_config_registry": "https://npm.invalid/",
        "npm_config_@us:registry": "https://us.invalid/npm/",
    }


def test_one_host_is_one_rule() -> None:
    judged = npm_grant(NpmRegistries("https://npm.invalid/a", {"@us": "https://NPM.invalid./b"}))
    assert hosts(judged) == [("npm.invalid", 443)]


@pytest.mark.parametrize(("command", "host"), [("npx", "npm"), ("uvx", "python"), ("python3", ""), ("npm", "")])
def test_a_command_gets_the_indexes_of_its_own_kind(command: str, host: str) -> None:
    indexes = PackageIndexes(PackageGrant((EgressRule("npm"),)), PackageGrant((EgressRule("python"),)))
    assert [rule.host for rule in indexes.of_command(command).rules] == ([host] if host else [])
