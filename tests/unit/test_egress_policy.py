"""What is left of a wish under the operator's policy of egress."""

import pytest

from perstackd.domain.egress_policy import EgressPolicy, covers, left_out, parse_pattern, refusals
from perstackd.domain.expert import Expert, RemoteSkill, Severity, StdioSkill


def policy(*patterns: str) -> EgressPolicy:
    return EgressPolicy(tuple(map(parse_pattern, patterns)))


@pytest.mark.parametrize(
    ("allowed", "wish", "left"),
    [
        (("api.example.com",), ("API.example.com.", 443), [("api.example.com", 443)]),
        (("*.example.com",), ("api.example.com", 443), [("api.example.com", 443)]),
        (("*.example.com",), ("example.com", 443), []),
        (("*.example.com",), ("badexample.com", 443), []),
        (("*.example.com",), ("*.api.example.com", 443), [("*.api.example.com", 443)]),
        (("*.example.com",), ("*.example.com", 443), [("*.example.com", 443)]),
        (
            ("a.example.com", "*.b.example.com"),
            ("*.example.com", 443),
            [("a.example.com", 443), ("*.b.example.com", 443)],
        ),
        (("api.example.com",), ("api.example.com", 8443), []),
        (("api.example.com:8443",), ("api.example.com", 8443), [("api.example.com", 8443)]),
        (("api.example.com:8443",), ("api.example.com", 443), []),
        (("127.0.0.1:8080", "[::1]:8080"), ("127.0.0.1", 8080), [("127.0.0.1", 8080)]),
        ((), ("api.example.com", 443), []),
    ],
)
def test_of_a_wish_the_part_is_left_that_both_name(
    allowed: tuple[str, ...], wish: tuple[str, int], left: list[tuple[str, int]]
) -> None:
    assert list(policy(*allowed).common(*wish)) == left


def test_a_suffix_covers_no_address() -> None:
    assert not covers("*.0.1", "127.0.0.1")


def test_without_a_policy_all_is_left_and_an_empty_one_leaves_only_what_is_in_the_sandbox() -> None:
    assert EgressPolicy().permits("anything.example", 1234)
    nothing = EgressPolicy(())
    assert nothing.within([("a.example", 443), ("127.0.0.1", 3129)]) == {("127.0.0.1", 3129)}
    assert left_out(nothing, "--allow-domain", "a.example").endswith("(nothing)")


@pytest.mark.parametrize(
    "text", ["", "*", "*.com", "a b", "a.example:0", "a.example:65536", "[::1", "xn--a.example", "010.0.0.1"]
)
def test_a_pattern_that_could_mean_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|would)"):
        parse_pattern(text)


def test_what_a_skill_cannot_have_is_an_error_and_what_it_has_in_part_a_warning() -> None:
    tracker = StdioSkill("tracker", "tracker-mcp", allowed_domains=("out.example", "*.in.example", "a.in.example"))
    remote = RemoteSkill("remote", "http", "https://mcp.example:8443/mcp", allowed_domains=("a.in.example",))
    installed = StdioSkill("installed", "uvx", package="thing-mcp")
    routed = RemoteSkill("routed", "http", "http://127.0.0.1:3129/api/mcp")
    expert = Expert("reporter", "Report.", skills=(tracker, remote, installed, routed))
    indexes = [("uvx", (("index.example", 443), ("mirror.example", 443)))]
    found = list(refusals(policy("a.in.example"), expert, indexes))
    assert [(each.severity, each.key.removeprefix("experts.reporter.skills.")) for each in found] == [
        (Severity.ERROR, "tracker.allowedDomains"),
        (Severity.WARNING, "tracker.allowedDomains"),
        (Severity.ERROR, "remote.endpoint"),
        (Severity.ERROR, "installed"),
    ]
    assert found[0].message == (
        "the skill 'tracker' of 'reporter' needs out.example, which egress.allow_hosts of this daemon's operator "
        "leaves out (a.in.example)"
    )
    assert "mcp.example:8443" in found[2].message
    assert not list(refusals(EgressPolicy(), expert, indexes))
    left = list(refusals(policy("a.in.example", "mirror.example"), expert, indexes))
    assert "installed" not in {each.key.rpartition(".")[2] for each in left}
