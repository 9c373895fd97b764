"""Which provider has which tools, and what of a request it is asked for."""

from dataclasses import replace

from perstackd.domain.messages import ModelRequest, ProviderSkill
from perstackd.domain.provider_tools import KNOWN, TOOLS, notes, refusals, usable

ASKED = ModelRequest("anthropic", "m", "", (), ())


def test_every_tool_of_a_provider_is_a_known_name() -> None:
    assert {name for names in TOOLS.values() for name in names} <= set(KNOWN)


def test_a_request_asks_for_what_its_provider_has_in_one_order() -> None:
    asked = replace(ASKED, provider_tools=("webSearch", "googleMaps", "codeExecution", "webSearch"))
    assert usable(asked) == ("codeExecution", "webSearch")
    assert len(notes(asked)) == 1


def test_a_provider_that_has_fewer_here_says_so() -> None:
    asked = replace(ASKED, provider="openai", provider_tools=("webSearch",))
    assert usable(asked) == ("webSearch",)
    assert usable(asked, has=()) == ()
    assert "it has none that can be used here" in notes(asked, has=())[0]


def test_all_that_is_refused_has_its_place() -> None:
    options = {"webSearch": {"maxUses": 1}, "webFetch": {"maxUses": 1}}
    found = refusals("openai", ("webSearch", "fileSearch"), options, (ProviderSkill("builtin", "pdf"),))
    assert [refusal.path for refusal in found] == [
        ("providerTools", 1),
        ("providerToolOptions", "webSearch", "maxUses"),
        ("providerToolOptions", "webFetch"),
        ("providerSkills",),
    ]


def test_a_request_that_asks_for_nothing_has_no_notes() -> None:
    assert notes(ASKED) == ()
    assert notes(replace(ASKED, provider="never-heard-of")) == ()
