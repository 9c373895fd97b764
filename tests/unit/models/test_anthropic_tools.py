"""Tools and skills that Anthropic runs itself: how they are asked for, and how their blocks come and go back."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import anyio
import pytest

from perstackd.adapters.models import provider_document
from perstackd.adapters.models.anthropic import MAX_PIECES, AnthropicModels, AnthropicSettings
from perstackd.adapters.models.anthropic_request import body
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import (
    FinishReason,
    JsonObject,
    Message,
    ModelEvent,
    ModelRequest,
    ProviderPart,
    ProviderSkill,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolSpec,
    Turn,
    Usage,
)
from tests.fakes.messages_api import MessagesApi, Reply, answer, frame, serving

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ASKED = ModelRequest("anthropic", "claude-sonnet-5-5", "Be kind.", (), (Message(Role.USER, (TextPart("Hello"),)),))


def part(**document: object) -> ProviderPart:
    return ProviderPart("anthropic", provider_document.canonical(cast("JsonObject", document)))


SEARCH = part(type="server_tool_use", id="srvtoolu_1", name="web_search", input={"query": "päivä 💪"})
FOUND = part(
    type="web_search_tool_result",
    tool_use_id="srvtoolu_1",
    content=[{"type": "web_search_result", "url": "https://a.example", "encrypted_content": "RU5D", "page_age": None}],
)
CITATION: JsonObject = {"type": "web_search_result_location", "url": "https://a.example", "encrypted_index": "SURY"}
CITED = TextPart("It is sunny.", provider="anthropic", document=provider_document.canonical({"citations": [CITATION]}))
NEWER = part(type="advice_of_next_year", id="x_1", content={"any": [1, 2.5, None]})
CONTAINER = part(type="container", id="container_1", expires_at="2026-12-21T00:00:00Z")
SEARCHED = Turn(
    (ThinkingPart("Hm", "sig"), SEARCH, FOUND, CITED, NEWER, CONTAINER),
    FinishReason.STOP,
    Usage(100, 5),
    "claude-sonnet-5-5",
)


def sent(request: ModelRequest, now: datetime = NOW) -> dict[str, Any]:
    return cast("dict[str, Any]", body(request, {}, now))


def models_of(api: MessagesApi) -> AnthropicModels:
    return AnthropicModels(lambda: "sk-test", AnthropicSettings(base_url=api.url))


async def ask(models: AnthropicModels, request: ModelRequest = ASKED) -> list[ModelEvent]:
    with anyio.fail_after(60):
        return [event async for event in models.stream(request)]


async def turn_of(*replies: Reply, request: ModelRequest = ASKED) -> tuple[Turn, MessagesApi]:
    async with serving(*replies) as api:
        models = models_of(api)
        try:
            *_, turn = await ask(models, request)
        finally:
            await models.close()
    assert isinstance(turn, Turn)
    return turn, api


def test_provider_tools_stand_before_the_experts_own_and_the_mark_stays_on_the_last() -> None:
    request = replace(
        ASKED,
        tools=(ToolSpec("exec", "Runs.", {}),),
        provider_tools=("webSearch", "codeExecution", "webFetch"),
        provider_tool_options=json.dumps(
            {
                "webSearch": {"maxUses": 3, "allowedDomains": ["a.example"]},
                "webFetch": {"blockedDomains": ["b.example"], "maxContentTokens": 900},
            }
        ),
    )
    tools = sent(request)["tools"]
    assert tools[:3] == [
        {"type": "code_execution_20250825", "name": "code_execution"},
        {
            "type": "web_fetch_20250910",
            "name": "web_fetch",
            "blocked_domains": ["b.example"],
            "max_content_tokens": 900,
        },
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3, "allowed_domains": ["a.example"]},
    ]
    assert [("cache_control" in tool, tool["name"]) for tool in tools[3:]] == [(True, "exec")]
    assert not any("cache_control" in tool for tool in tools[:3])


def test_a_page_that_is_fetched_is_bounded_unless_the_definition_says_how() -> None:
    assert sent(replace(ASKED, provider_tools=("webFetch",)))["tools"][0]["max_content_tokens"] == 50_000


def test_skills_bring_the_container_and_the_tool_that_they_run_in() -> None:
    skills = (ProviderSkill("builtin", "pdf"), ProviderSkill("custom", "skill_01Ab", "1759178010641129"))
    request = sent(replace(ASKED, provider_skills=skills))
    assert [tool["name"] for tool in request["tools"]] == ["code_execution"]
    assert request["container"] == {
        "skills": [
            {"type": "anthropic", "skill_id": "pdf", "version": "latest"},
            {"type": "custom", "skill_id": "skill_01Ab", "version": "1759178010641129"},
        ]
    }


def test_a_tool_of_the_expert_with_the_name_of_a_provider_tool_is_told() -> None:
    request = replace(ASKED, tools=(ToolSpec("web_search", "", {}),), provider_tools=("webSearch",))
    with pytest.raises(PerstackError, match="'web_search', which is the name of the provider's own") as caught:
        sent(request)
    assert (caught.value.kind, caught.value.reason) == (Kind.INVALID, "model_refused_request")


def test_without_provider_tools_nothing_is_said_of_them() -> None:
    assert not {"tools", "container"} & sent(ASKED).keys()


async def test_what_the_providers_tools_said_comes_whole_and_goes_back_untouched() -> None:
    turn, _ = await turn_of(answer(SEARCHED))
    assert turn == SEARCHED
    tools = ("webSearch", "codeExecution")
    again = replace(ASKED, provider_tools=tools, messages=(*ASKED.messages, Message(Role.ASSISTANT, turn.parts)))
    assert sent(again)["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm", "signature": "sig"},
        json.loads(SEARCH.document),
        json.loads(FOUND.document),
        {"type": "text", "text": "It is sunny.", "citations": [CITATION]},
        json.loads(NEWER.document),
    ]
    assert sent(again)["container"] == {"id": "container_1"}


@pytest.mark.parametrize("now", ["2026-12-20T23:59:30+00:00", "2027-01-01T00:00:00+00:00"])
def test_a_container_that_is_gone_is_not_asked_for(now: str) -> None:
    said = (*ASKED.messages, Message(Role.ASSISTANT, SEARCHED.parts))
    again = replace(ASKED, messages=said, provider_tools=("codeExecution",))
    assert "container" not in sent(again, datetime.fromisoformat(now))
    assert "container" in sent(again)
    assert "container" not in sent(replace(again, provider_tools=("webSearch",)))


def test_what_another_provider_kept_is_not_sent() -> None:
    parts = (
        ThinkingPart("Hm", "rs_1", "gAAAA", provider="openai"),
        ProviderPart("openai", '{"type":"web_search_call"}'),
        TextPart("Hi", provider="openai", document='{"phase":"final_answer"}'),
    )
    again = replace(ASKED, messages=(*ASKED.messages, Message(Role.ASSISTANT, parts)))
    assert sent(again)["messages"][1]["content"] == [{"type": "text", "text": "Hi"}]


async def test_a_paused_turn_is_asked_to_go_on_and_is_one_turn() -> None:
    first = Turn((SEARCH, CONTAINER), FinishReason.STOP, Usage(100, 5, 40, 2, 7), "claude-sonnet-5-5")
    rest = Turn((FOUND, TextPart("Sunny")), FinishReason.STOP, Usage(200, 6), "claude-sonnet-5-5")
    request = replace(ASKED, provider_tools=("webSearch", "codeExecution"))
    turn, api = await turn_of(answer(first, stop_reason="pause_turn"), answer(rest), request=request)
    assert turn.parts == (*first.parts, *rest.parts)
    assert turn.usage == Usage(300, 11, 40, 2, 7)
    assert turn.finish_reason is FinishReason.STOP
    going_on = api.received[1].body
    assert going_on["messages"] == [
        *api.received[0].body["messages"],
        {"role": "assistant", "content": [json.loads(SEARCH.document)]},
    ]
    assert going_on["container"] == {"id": "container_1"}


async def test_a_search_that_was_cut_off_is_left_out() -> None:
    cut = replace(SEARCHED, parts=(TextPart("I look"), SEARCH), finish_reason=FinishReason.LENGTH)
    turn, _ = await turn_of(answer(cut))
    assert turn == replace(cut, parts=(TextPart("I look"),))


async def test_a_turn_that_is_paused_for_ever_ends() -> None:
    paused = answer(replace(SEARCHED, parts=(SEARCH,)), stop_reason="pause_turn")
    async with serving(*[paused] * (MAX_PIECES + 1)) as api:
        models = models_of(api)
        with pytest.raises(PerstackError) as caught:
            await ask(models)
        await models.close()
    assert (caught.value.kind, caught.value.reason) == (Kind.INVALID, "model_answer_too_large")
    assert "maxUses" in caught.value.message
    assert len(api.received) == MAX_PIECES


async def test_a_call_of_our_own_beside_the_providers_is_a_call() -> None:
    both = Turn((SEARCH, FOUND, ToolCallPart("toolu_1", "exec", {})), FinishReason.TOOL_CALLS, Usage(1, 1), "m")
    turn, _ = await turn_of(answer(both))
    assert turn == both
    assert [call.call_id for call in turn.calls] == ["toolu_1"]


async def test_blocks_that_are_too_large_together_are_told_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provider_document, "MAX_DOCUMENTS", 150)
    with pytest.raises(PerstackError) as caught:
        await turn_of(answer(SEARCHED))
    assert (caught.value.kind, caught.value.reason, caught.value.retryable) == (
        Kind.INVALID,
        "model_answer_too_large",
        False,
    )


async def test_a_piece_that_a_block_cannot_be_put_together_from_breaks_the_stream() -> None:
    frames = list(answer(replace(SEARCHED, parts=(NEWER,))).frames)
    frames.insert(3, frame("content_block_delta", {"index": 0, "delta": {"type": "newer_delta", "data": "x"}}))
    with pytest.raises(PerstackError) as caught:
        await turn_of(Reply(tuple(frames)))
    assert caught.value.reason == "model_stream_broken"


async def test_what_could_not_be_asked_for_is_a_note_of_the_turn() -> None:
    request = replace(ASKED, reasoning=5000, provider_tools=("webSearch", "imageGeneration"))
    turn, api = await turn_of(answer(SEARCHED), request=request)
    assert len(turn.notes) == 2
    assert "reasoningBudget 5000" in turn.notes[0]
    assert "'imageGeneration' is no tool of the provider 'anthropic'" in turn.notes[1]
    assert [tool["name"] for tool in api.received[0].body["tools"]] == ["web_search"]


def test_a_character_that_utf_8_does_not_have_stays_in_a_document() -> None:
    document: JsonObject = {"query": "half \ud83d"}
    text = provider_document.canonical(document)
    assert text.encode().decode() == text
    assert provider_document.parsed(text) == document
    assert provider_document.canonical({"b": "ä", "a": 1}) == '{"a":1,"b":"ä"}'
