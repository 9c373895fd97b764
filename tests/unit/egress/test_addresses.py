from ipaddress import ip_address, ip_network

import pytest

from perstack_egress.addresses import may_dial


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::ffff:0:8.8.8.8",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "3fff::1",
        "5f00::1",
    ],
)
def test_an_address_that_is_not_plainly_global_is_not_dialled(text: str) -> None:
    assert not may_dial(ip_address(text), ())


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111"])
def test_a_global_address_is_dialled(text: str) -> None:
    assert may_dial(ip_address(text), ())


def test_the_operator_opens_exactly_what_is_named() -> None:
    allowed = (ip_network("10.1.0.0/16"), ip_network("fd00::/64"))
    assert may_dial(ip_address("10.1.2.3"), allowed)
    assert may_dial(ip_address("fd00::5"), allowed)
    assert not may_dial(ip_address("10.2.0.1"), allowed)
    assert not may_dial(ip_address("127.0.0.1"), allowed)
    assert not may_dial(ip_address("::ffff:10.1.2.3"), allowed)


def test_an_allowed_translation_prefix_does_not_open_what_it_translates_to() -> None:
    nat64 = ip_network("64:ff9b::/96")
    assert may_dial(ip_address("64:ff9b::808:808"), (nat64,))
    assert not may_dial(ip_address("64:ff9b::a9fe:a9fe"), (nat64,))
    assert may_dial(ip_address("64:ff9b::7f00:1"), (nat64, ip_network("127.0.0.0/8")))
