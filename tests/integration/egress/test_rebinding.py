"""Names whose answers change or lead inside: the real process, the C library's resolver, a DNS server of the test's."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ALLOWED = "127.77.0.1"  # the one address that the operator allows; the test's server is there
INSIDE = {
    "loopback": "127.0.0.1",
    "beside-the-allowed": "127.77.0.2",
    "unspecified": "0.0.0.0",
    "private": "10.0.0.1",
    "carrier": "100.64.0.1",
    "metadata": "169.254.169.254",
    "broadcast": "255.255.255.255",
    "multicast": "224.0.0.1",
    "loopback6": "::1",
    "unspecified6": "::",
    "mapped": "::ffff:127.77.0.2",
    "compatible": "::127.0.0.1",
    "translated": "::ffff:0:127.0.0.1",
    "nat64": "64:ff9b::127.0.0.1",
    "nat64-local": "64:ff9b:1::10.0.0.1",
    "sixtofour": "2002:7f00:1::",
    "teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "unique-local": "fd00:ec2::254",
    "link-local": "fe80::1",
    "site-local": "fec0::1",
    "multicast6": "ff02::1",
    "documentation": "2001:db8::1",
}
ANSWERS = {
    **{f"{name}.example": [[address]] for name, address in INSIDE.items()},
    "plain.example": [[ALLOWED]],
    "rebound.example": [[ALLOWED], ["127.0.0.1"], [ALLOWED]],
    "mixed.example": [["10.0.0.1", "169.254.169.254", ALLOWED, "::1"]],
    "target.example": [["10.0.0.1"]],
    "good-target.example": [[ALLOWED]],
    "empty.example": [[]],
}
ALIASES = {"alias.example": "target.example", "good-alias.example": "good-target.example"}
ASK = [
    "plain.example", "rebound.example", "rebound.example", "rebound.example", "mixed.example", "alias.example",
    "good-alias.example", "empty.example", "nowhere.example", "silent.example",
    *(f"{name}.example" for name in INSIDE),
]  # fmt: skip


@cache
def results() -> tuple[list[tuple[int, str]], dict[str, int]]:
    given = {"answers": ANSWERS, "aliases": ALIASES, "silent": ["silent.example"], "ask": ASK}
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.egress.own_names", json.dumps(given)],
        capture_output=True, text=True, timeout=90, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])  # log lines come before it
    return [(status, reason) for status, reason in told["found"]], told["asked"]


def outcomes(name: str) -> list[tuple[int, str]]:
    found, _ = results()
    return [outcome for asked, outcome in zip(ASK, found, strict=False) if asked == name]


def test_a_name_that_leads_where_it_may_is_reached() -> None:
    assert outcomes("plain.example") == [(200, "")]
    assert outcomes("good-alias.example") == [(200, "")]


def test_a_name_that_is_bound_anew_is_refused_from_then_on_and_never_asked_for_twice() -> None:
    assert outcomes("rebound.example") == [(200, ""), (403, "address_not_global"), (200, "")]
    assert results()[1]["rebound.example"] == 3, "one look-up a CONNECT: what was checked is what is dialled"


def test_only_the_good_address_of_several_is_dialled() -> None:
    assert outcomes("mixed.example") == [(200, "")]


@pytest.mark.parametrize("name", INSIDE)
def test_a_name_that_leads_inside_is_refused(name: str) -> None:
    assert outcomes(f"{name}.example") == [(403, "address_not_global")]


def test_an_alias_that_leads_inside_is_refused() -> None:
    assert outcomes("alias.example") == [(403, "address_not_global")]


def test_a_name_without_an_answer_is_told_apart_from_one_that_is_silent() -> None:
    assert outcomes("empty.example") == outcomes("nowhere.example") == [(502, "resolve_failed")]
    assert outcomes("silent.example") == [(504, "resolve_timeout")]


def test_no_name_is_looked_up_below_a_domain_of_the_machine() -> None:
    assert [name for name in results()[1] if "searched" in name] == []


def test_the_dry_run_tells_each_address_and_why() -> None:
    allowed, addresses = results()[0][-1]
    told = dict(json.loads(addresses))
    assert (bool(allowed), told[ALLOWED]) == (True, "")
    assert "169.254.0.0/16" in told["169.254.169.254"]
    assert "10.0.0.0/8" in told["10.0.0.1"]
