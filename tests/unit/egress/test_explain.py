"""The dry run: every step is told, also behind the first one that denies."""

import socket
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from perstack_egress.addresses import Address
from perstack_egress.explain import Explanation, explain
from perstack_egress.policy import parse_policy

pytestmark = pytest.mark.anyio


class Names:
    def __init__(self, **names: list[str]) -> None:
        self._names = {name.replace("_", "."): found for name, found in names.items()}

    async def lookup(self, name: str) -> Sequence[Address]:
        if name not in self._names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [ip_address(text) for text in self._names[name]]


TABLE = Names(
    api_example=["1.1.1.1", "2606:4700::1111"],
    inside_example=["10.0.0.1", "169.254.169.254"],
    both_example=["10.0.0.1", "1.1.1.1"],
    tunnel_example=["64:ff9b::7f00:1", "2002:7f00:1::", "::ffff:127.0.0.1"],
)


async def ask(host: str, *rules: str, port: int = 443, networks: Sequence[str] = ()) -> Explanation:
    return await explain(parse_policy([(rule, 443) for rule in rules], networks), host, port, TABLE, 1)


async def test_an_allowed_host_is_told_with_its_rule_and_addresses() -> None:
    found = await ask("API.example.", "*.example")
    assert (found.allowed, found.host, found.rule) == (True, "api.example", "*.example:443")
    assert found.addresses == (("1.1.1.1", ""), ("2606:4700::1111", ""))
    assert (found.reason, found.detail, found.remedy) == ("", "", "")


async def test_a_host_without_a_rule_is_denied_with_the_lines_to_add_and_looked_up_all_the_same() -> None:
    found = await ask("api.example")
    assert (found.allowed, found.reason, found.rule) == (False, "host_not_allowed", "")
    assert 'allowedDomains = ["api.example"]' in found.remedy
    assert "perstackctl run --allow-domain api.example" in found.remedy
    assert len(found.addresses) == 2


async def test_another_port_names_the_rule_that_has_the_host() -> None:
    found = await ask("api.example", "api.example", port=8443)
    assert (found.reason, found.rule) == ("port_not_allowed", "api.example:443")


async def test_addresses_are_refused_each_with_its_cause() -> None:
    found = await ask("inside.example", "inside.example")
    assert found.reason == "address_not_global"
    assert dict(found.addresses) == {
        "10.0.0.1": "is not global: it lies in 10.0.0.0/8",
        "169.254.169.254": "is not global: it lies in 169.254.0.0/16",
    }
    assert "egress.allow_addresses" in found.remedy


async def test_one_good_address_is_enough() -> None:
    found = await ask("both.example", "both.example")
    assert found.allowed
    assert [bool(why) for _, why in found.addresses] == [True, False]


async def test_an_allowed_translation_prefix_does_not_open_what_it_stands_for() -> None:
    found = await ask("tunnel.example", "tunnel.example", networks=["64:ff9b::/96", "2002::/16", "::/0"])
    assert found.reason == "address_not_global"
    assert all("stands for 127.0.0.1" in why for _, why in found.addresses)


async def test_this_hosts_own_address_is_told_as_such() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        own = probe.getsockname()[0]
    table = Names(own_example=[own])
    found = await explain(parse_policy([("own.example", 443)], ["0.0.0.0/0"]), "own.example", 443, table, 1)
    assert found.allowed, "an address that the operator names is dialled, also when it is ours"


async def test_a_name_that_leads_nowhere_is_denied_for_that_when_a_rule_allows_it() -> None:
    assert (await ask("nowhere.example", "nowhere.example")).reason == "resolve_failed"
    assert (await ask("nowhere.example")).reason == "host_not_allowed"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("2130706433", "host_is_address"),
        ("0x7f.1", "host_is_address"),
        ("[::ffff:127.0.0.1]", "host_is_address"),
        ("xn--bcher-kva.example", "host_punycode"),
        ("not a host", "host_invalid"),
        ("", "host_invalid"),
    ],
)
async def test_what_is_no_name_is_denied_before_anything_else(host: str, reason: str) -> None:
    found = await ask(host, "*.example")
    assert (found.reason, found.addresses) == (reason, ())
