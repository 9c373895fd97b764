"""References ask for versions as npm does."""

import pytest

from perstackd.domain.version_range import Version, parse_range, parse_version


def has(wanted: str, version: str) -> bool:
    found, have = parse_range(wanted), parse_version(version)
    assert found is not None
    assert have is not None
    return found.has(have)


@pytest.mark.parametrize(
    ("wanted", "inside", "outside"),
    [
        ("1.2.3", "1.2.3", "1.2.4 1.2.2 1.2.3-a"),
        ("=v1.2.3", "1.2.3 1.2.3+x", "1.2.4"),
        ("*", "0.0.0 9.9.9", "1.0.0-rc.1"),
        ("", "1.0.0", "1.0.0-rc.1"),
        ("1", "1.0.0 1.9.9", "0.9.9 2.0.0 2.0.0-0"),
        ("1.x", "1.0.0 1.9.9", "2.0.0"),
        ("1.2.*", "1.2.0 1.2.9", "1.3.0 1.1.9"),
        ("^1.2.3", "1.2.3 1.9.0", "1.2.2 2.0.0 2.0.0-rc 1.3.0-a"),
        ("^1.2", "1.2.0 1.9.0", "1.1.9 2.0.0"),
        ("^1", "1.0.0 1.9.0", "2.0.0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3.0 0.2.2"),
        ("^0.0.3", "0.0.3", "0.0.4 0.0.2"),
        ("^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("^0", "0.0.0 0.9.0", "1.0.0"),
        ("^0.x", "0.0.0 0.9.0", "1.0.0"),
        ("^*", "0.0.0 9.0.0", "1.0.0-a"),
        ("~1.2.3", "1.2.3 1.2.9", "1.3.0 1.2.2"),
        ("~1.2", "1.2.0 1.2.9", "1.3.0"),
        ("~1", "1.0.0 1.9.9", "2.0.0"),
        (">1.2", "1.3.0 2.0.0", "1.2.9"),
        (">1.2.3", "1.2.4", "1.2.3"),
        ("<=1.2", "1.2.9 0.1.0", "1.3.0"),
        ("<1.2", "1.1.9", "1.2.0"),
        (">=1.2", "1.2.0 3.0.0", "1.1.9"),
        ("<=*", "9.0.0", "1.0.0-a"),
        (">*", "", "0.0.0 9.0.0"),
        (">=1.2.0 <2", "1.2.0 1.9.9", "2.0.0 1.1.9"),
        (">= 1.2.0  < 2.0.0", "1.2.0", "2.0.0"),
        ("1.2.0 - 1.4", "1.2.0 1.4.9", "1.5.0 1.1.9"),
        ("1.2.0 - 1.4.2", "1.4.2", "1.4.3"),
        ("^1.0.0 || ^3.0.0", "1.5.0 3.1.0", "2.0.0"),
        ("^1.2.3-beta.2", "1.2.3-beta.2 1.2.3-beta.10 1.2.3 1.4.0", "1.2.3-beta.1 1.2.3-alpha 1.3.0-beta.3"),
        ("<1.2.3-beta", "1.2.2 1.2.3-alpha", "1.2.3-beta 1.2.3 1.2.2-a"),
        (">=1.0.0-rc.1 <2", "1.0.0-rc.2 1.0.0-rc.1.1 1.0.0-rc.x", "1.0.0-beta 2.0.0-0"),
    ],
)
def test_a_range_has_these_versions_and_not_those(wanted: str, inside: str, outside: str) -> None:
    assert [version for version in inside.split() if not has(wanted, version)] == []
    assert [version for version in outside.split() if has(wanted, version)] == []


@pytest.mark.parametrize(
    "text", ["latest", "1.2.3.4", "01.2.3", "1.2.3-", ">", "^ ", "a - b", "1 || beta", "1.2.3 !", ">=x.y"]
)
def test_what_is_no_range_is_none(text: str) -> None:
    assert parse_range(text) is None


@pytest.mark.parametrize("text", ["1", "1.2", "1.2.x", "^1.2.3", "", "1.2.3.4", "1.2.3-"])
def test_what_is_no_exact_version_is_none(text: str) -> None:
    assert parse_version(text) is None


def test_versions_are_ordered_as_semver_says() -> None:
    texts = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
    ]
    versions = [parse_version(text) for text in texts]
    assert all(isinstance(version, Version) for version in versions)
    assert sorted(filter(None, reversed(versions)), key=lambda version: version.order) == versions
