"""OpenAI's Responses API: where it is spoken, what comes back, and how a server that breaks is told."""

import json
from dataclasses import replace
from typing import Any

import pytest

from perstackd.adapters.models import provider_document
from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_settings import DEFAULTS, WireApi, speaks_responses
from perstackd.domain.errors import PerstackError
from perstackd.domain.messages import (
    FinishReason,
    Message,
    Role,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolCallPart,
    Turn,
    Usage,
)
from tests.fakes.responses_api import Reply, answer, error_body, failed, failure, frame, item_frames, serving, terminal
from tests.unit.models.responses_world import CALLING, FRAMES, KEY, SAID, ask, exchange, failing, models_of, sent

pytestmark = pytest.mark.anyio


# --- which protocol -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("provider", "base_url", "changes", "expected"),
    [
        ("openai", "https://api.openai.com/v1", {}, True),
        ("openai", "https://eu.api.openai.com/v1", {}, True),
        ("openai", "https://proxy.example/v1", {}, False),
        ("openai", "https://api.openai.com.evil.example/v1", {}, False),
        ("openai", "https://proxy.example/v1", {"api": WireApi.RESPONSES}, True),
        ("openai", "https://api.openai.com/v1", {"api": WireApi.CHAT}, False),
        ("azure-openai", "https://r.openai.azure.com/openai/v1", {}, True),
        ("azure-openai", "https://r.openai.azure.com", {"api_version": "2024-10-21"}, False),
        ("deepseek", "https://api.deepseek.com/v1", {}, False),
        ("ollama", "http://127.0.0.1:11434/v1", {}, False),
        ("fireworks", "https://api.fireworks.ai/inference/v1", {}, False),
    ],
)
def test_the_address_says_which_protocol_is_spoken(
    provider: str, base_url: str, changes: dict[str, Any], expected: bool
) -> None:
    assert speaks_responses(replace(DEFAULTS[provider], **changes), base_url) is expected


async def test_azure_is_asked_as_openai_is_where_it_has_no_deployments() -> None:
    mine = tuple(
        replace(part, provider="azure-openai") if isinstance(part, ThinkingPart) else part for part in CALLING.parts
    )
    mine = tuple(replace(part, provider="azure-openai") if isinstance(part, TextPart) else part for part in mine)
    async with serving(answer(replace(CALLING, parts=mine))) as api:
        models = OpenAiModels(lambda: KEY, replace(DEFAULTS["azure-openai"], base_url=api.url))
        assert (await ask(models))[-1] == replace(CALLING, parts=mine)
        await models.close()
    assert api.received[0].path == "/openai/v1/responses"
    assert api.received[0].headers["authorization"] == f"Bearer {KEY}"


# --- what comes back ------------------------------------------------------------------------------------------------
async def test_a_refusal_is_a_content_filter_and_its_words_are_shown() -> None:
    refused = Turn(
        (TextPart("I cannot.", provider="openai", document='{"refusal":true}'),),
        FinishReason.CONTENT_FILTER,
        SAID.usage,
        SAID.model,
    )
    frames = (
        *item_frames(0, {"type": "message", "id": "m", "content": [{"type": "refusal", "refusal": "I cannot."}]}),
    )
    events, _ = await exchange(Reply((*frames, terminal(SAID))))
    assert events == [TextDelta("I ca"), TextDelta("nnot."), refused]
    assert sent(Message(Role.ASSISTANT, refused.parts))["input"][1]["content"] == [
        {"type": "refusal", "refusal": "I cannot."}
    ]


async def test_a_call_that_was_cut_off_has_no_arguments_and_the_turn_says_so() -> None:
    item = {"type": "function_call", "id": "fc", "call_id": "call_1", "name": "exec", "arguments": '{"comm'}
    cut = replace(SAID, parts=(ToolCallPart("call_1", "exec", {}),), finish_reason=FinishReason.LENGTH)
    search = {"type": "web_search_call", "id": "ws_1", "status": "in_progress"}
    begun = frame("response.output_item.added", {"output_index": 2, "item": search})
    frames = (*item_frames(0, item), *item_frames(1, search), begun, terminal(cut))
    events, _ = await exchange(Reply(frames))
    assert events[-1] == cut


async def test_reasoning_that_is_shown_itself_goes_back_as_it_is() -> None:
    item = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Think."}],
    }
    delta = frame("response.reasoning_text.delta", {"output_index": 0, "delta": "Think."})
    said = item_frames(1, {"type": "message", "content": [{"type": "output_text", "text": "Yes"}]})
    events, _ = await exchange(Reply((delta, *item_frames(0, item), *said, terminal(SAID))))
    turn = events[-1]
    assert isinstance(turn, Turn)
    assert events[0] == ThinkingDelta("Think.")
    assert turn.parts[0] == ThinkingPart("Think.")
    assert sent(Message(Role.ASSISTANT, turn.parts))["input"][1] == item


async def test_reasoning_that_is_not_encrypted_is_shown_and_not_sent_again() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}]}
    said = item_frames(1, {"type": "message", "content": [{"type": "output_text", "text": "Yes"}]})
    events, _ = await exchange(Reply((*item_frames(0, item), *said, terminal(SAID))))
    assert isinstance(events[-1], Turn)
    assert events[-1].parts == (ThinkingPart("Hm"), TextPart("Yes"))
    assert len(sent(Message(Role.ASSISTANT, events[-1].parts))["input"]) == 2


async def test_nonsense_in_the_counts_is_zero() -> None:
    odd = {"input_tokens": "many", "output_tokens": -1, "input_tokens_details": None}
    events, _ = await exchange(Reply((*FRAMES[:-1], terminal(SAID, odd))))
    assert events[-1] == replace(SAID, usage=Usage())


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        (FRAMES[:-1], "ended before its last event"),
        ((*FRAMES[:2], frame("response.output_item.added", {"output_index": 5, "item": {}}), FRAMES[-1]), "its items"),
        ((frame("response.output_item.done", {"output_index": 0, "item": {"type": "message"}}), FRAMES[-1]), "damaged"),
        ((frame("response.output_item.done", {"output_index": 1 << 40, "item": {"type": "x"}}),), "damaged"),
        ((frame("response.output_text.delta", {"delta": 7}),), "damaged"),
        ((frame("response.completed", {"response": None}),), "damaged"),
        (
            (
                *item_frames(0, {"type": "function_call", "call_id": "c", "name": "x", "arguments": "[1"}),
                terminal(SAID),
            ),
            "are no JSON",
        ),
        (
            (*item_frames(0, {"type": "reasoning", "summary": [], "id": 7}), terminal(SAID)),
            "damaged",
        ),
    ],
)
async def test_a_misfit_is_no_turn(frames: tuple[bytes, ...], why: str) -> None:
    error = await failing(Reply(frames))
    assert error.reason == "model_stream_broken"
    assert why in error.message


@pytest.mark.parametrize(
    ("code", "reason", "retryable"),
    [
        ("server_error", "model_stream_broken", True),
        ("rate_limit_exceeded", "model_overloaded", True),
        ("vector_store_timeout", "model_timeout", True),
        ("insufficient_quota", "model_key_refused", False),
        ("context_length_exceeded", "context_too_long", False),
        ("invalid_prompt", "model_refused_request", False),
        ("image_too_large", "model_refused_request", False),
        ("invalid_image_format", "model_refused_request", False),
        ("bio_policy", "model_refused_request", False),
    ],
)
async def test_a_failed_response_is_told_by_its_code(code: str, reason: str, retryable: bool) -> None:
    error = await failing(Reply((*FRAMES[:2], failed(code, "the provider's own words"))))
    assert (error.reason, error.retryable) == (reason, retryable)
    assert "the provider's own words" in error.message


@pytest.mark.parametrize(
    "event",
    [
        frame("error", {"code": "rate_limit_exceeded", "message": "slow down", "param": None}),
        frame("error", error_body("requests", "slow down", "rate_limit_exceeded")),
    ],
)
async def test_an_error_event_is_that_error_in_either_form(event: bytes) -> None:
    error = await failing(Reply((FRAMES[0], event)))
    assert (error.reason, error.retryable) == ("model_overloaded", True)
    assert "slow down" in error.message


async def test_items_that_are_too_large_together_are_told_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_document, "MAX_DOCUMENTS", 20)
    item = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    error = await failing(Reply((*item_frames(0, item), terminal(SAID))))
    assert (error.reason, error.retryable) == ("model_answer_too_large", False)


# --- accounts that are not shown what is reasoned -------------------------------------------------------------------
def no_summary() -> Reply:
    body = error_body("invalid_request_error", "Your organization must be verified to generate reasoning summaries.")
    body["error"] |= {"param": "reasoning.summary", "code": "unsupported_value"}
    return Reply((json.dumps(body).encode(),), 400, content_type="application/json")


async def test_an_account_that_is_refused_summaries_is_asked_without_them_from_then_on() -> None:
    async with serving(no_summary(), answer(SAID), answer(SAID)) as api:
        models = models_of(api)
        assert (await ask(models))[-1] == SAID
        assert (await ask(models))[-1] == SAID
        await models.close()
    reasoning = [received.body["reasoning"] for received in api.received]
    assert reasoning == [{"effort": "high", "summary": "auto"}, {"effort": "high"}, {"effort": "high"}]


async def test_a_request_that_is_refused_for_another_reason_is_not_sent_again() -> None:
    async with serving(failure(400, "invalid_request_error", "no such field"), answer(SAID)) as api:
        models = models_of(api)
        with pytest.raises(PerstackError, match="no such field"):
            await ask(models)
        await models.close()
    assert len(api.received) == 1
