"""OpenAI's Responses API: what is asked, what comes back, and how a server that breaks is told."""

import json
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest

from perstackd.adapters.models import provider_document
from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_responses_request import response_arguments, wanted_response_blobs
from perstackd.adapters.models.openai_settings import DEFAULTS, OpenAiSettings, WireApi, speaks_responses
from perstackd.domain.errors import PerstackError
from perstackd.domain.messages import (
    BlobPart,
    FinishReason,
    JsonObject,
    Message,
    ModelEvent,
    ModelRequest,
    ProviderPart,
    Role,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
    Turn,
    Usage,
)
from tests.fakes import chat_api
from tests.fakes.responses_api import (
    Reply,
    ResponsesApi,
    answer,
    error_body,
    failed,
    failure,
    frame,
    frames_of,
    item_frames,
    serving,
    terminal,
)
from tests.fakes.store import FakeStore

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789"
SETTINGS = replace(DEFAULTS["openai"], api=WireApi.RESPONSES)
TOOLS = (ToolSpec("exec", "Runs.", {"properties": {"command": {"type": "string"}}}), ToolSpec("todo", "Notes.", {}))
ASKED = ModelRequest(
    "openai", "gpt-5.6-sol", "Be kind.", TOOLS, (Message(Role.USER, (TextPart("Hello"),)),), "high", timeout_ms=20_000
)
CALLING = Turn(
    (
        ThinkingPart("**Plan**", "rs_1", provider="openai"),
        ThinkingPart("\n\nLook first.", "rs_1", "gAAAAencrypted", provider="openai"),
        TextPart("I look.", provider="openai", document='{"phase":"commentary"}'),
        ToolCallPart("call_1", "exec", {"command": "ls"}),
        ToolCallPart("call_2", "todo", {}),
    ),
    FinishReason.TOOL_CALLS,
    Usage(1200, 80, 1000, 30, 100),
    "gpt-5.6-sol-2026-07-09",
)
SAID = Turn((TextPart("Good morning"),), FinishReason.STOP, Usage(100, 5, 40, 2), "gpt-5.6-sol")
FRAMES = tuple(frames_of(SAID))


def document(**values: object) -> str:
    return provider_document.canonical(cast("JsonObject", values))


def models_of(api: ResponsesApi, settings: OpenAiSettings = SETTINGS) -> OpenAiModels:
    return OpenAiModels(lambda: KEY, replace(settings, base_url=api.url))


async def ask(models: OpenAiModels, request: ModelRequest = ASKED) -> list[ModelEvent]:
    with anyio.fail_after(60):
        return [event async for event in models.stream(request)]


async def exchange(*replies: Reply, request: ModelRequest = ASKED) -> tuple[list[ModelEvent], list[dict[str, Any]]]:
    """The events, and the bodies that the server got."""
    async with serving(*replies) as api:
        models = models_of(api)
        try:
            events = await ask(models, request)
        finally:
            await models.close()
    assert all(received.path == "/v1/responses" for received in api.received)
    return events, [received.body for received in api.received]


async def failing(reply: Reply) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        await exchange(reply)
    return caught.value


def sent(*messages: Message, request: ModelRequest = ASKED, blobs: dict[str, str] | None = None) -> dict[str, Any]:
    asked = replace(request, messages=(*request.messages, *messages))
    return cast("dict[str, Any]", response_arguments(asked, SETTINGS, blobs or {}, summaries=True))


# --- what is asked --------------------------------------------------------------------------------------------------
async def test_a_model_reasons_beside_tools_and_nothing_is_stored() -> None:
    _, (body,) = await exchange(answer(SAID))
    assert body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["store"] is False
    assert body["stream"] is True
    assert body["instructions"] == "Be kind."
    assert body["max_output_tokens"] == 8192 + 16_384
    assert "previous_response_id" not in body
    assert body["tools"][0] == {
        "type": "function",
        "name": "exec",
        "description": "Runs.",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
        "strict": False,
    }
    assert body["input"] == [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]


async def test_a_turn_with_encrypted_reasoning_goes_back_as_it_came() -> None:
    events, _ = await exchange(answer(CALLING))
    assert events[-1] == CALLING
    assert "".join(event.text for event in events if isinstance(event, ThinkingDelta)) == "**Plan**\n\nLook first."
    results = Message(Role.TOOL, tuple(ToolResultPart(call.call_id, (TextPart("ok"),)) for call in CALLING.calls))
    assert sent(Message(Role.ASSISTANT, CALLING.parts), results)["input"][1:] == [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "**Plan**"}, {"type": "summary_text", "text": "Look first."}],
            "encrypted_content": "gAAAAencrypted",
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I look."}],
            "phase": "commentary",
        },
        {"type": "function_call", "call_id": "call_1", "name": "exec", "arguments": '{"command":"ls"}'},
        {"type": "function_call", "call_id": "call_2", "name": "todo", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "ok"},
        {"type": "function_call_output", "call_id": "call_2", "output": "ok"},
    ]


async def test_reasoning_without_a_summary_goes_back_as_well() -> None:
    silent = replace(CALLING, parts=(ThinkingPart("", "rs_1", "gAAAA", provider="openai"), *CALLING.parts[3:]))
    events, _ = await exchange(answer(silent))
    assert events[-1] == silent
    item = sent(Message(Role.ASSISTANT, silent.parts))["input"][1]
    assert item == {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}


def test_reasoning_that_nothing_follows_is_left_out() -> None:
    thought = Message(Role.ASSISTANT, CALLING.parts[:2])
    assert [item["type"] for item in sent(thought, Message(Role.USER, (TextPart("On"),)))["input"]] == ["message"]


def test_what_another_provider_thought_or_kept_is_not_sent() -> None:
    parts = (
        ThinkingPart("Hm", "c2ln"),
        ThinkingPart("", redacted="cmVk"),
        ThinkingPart("Ha", "rs_9", "gAAAA", provider="azure-openai"),
        ProviderPart("anthropic", '{"type":"server_tool_use"}'),
        TextPart("Hi", provider="anthropic", document='{"citations":[{}]}'),
    )
    assert sent(Message(Role.ASSISTANT, parts))["input"][1:] == [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    ]


def test_images_and_documents_are_shown_where_they_are() -> None:
    image, pdf = BlobPart("sha256:aa", 10, "image/png"), BlobPart("sha256:bb", 20, "application/pdf")
    other = BlobPart("sha256:cc", 30, "application/zip")
    result = ToolResultPart("call_1", (TextPart("Read."), image, pdf, other))
    wrong = ToolResultPart("call_2", (TextPart("no such file"), image), is_error=True)
    messages = (Message(Role.ASSISTANT, CALLING.parts[3:]), Message(Role.TOOL, (result, wrong)))
    asked = replace(ASKED, messages=messages)
    assert set(wanted_response_blobs(asked, SETTINGS)) == {image, pdf}
    shown, failed_one = sent(*messages, blobs={image.digest: "QUJD", pdf.digest: "UERG"})["input"][-2:]
    assert shown["output"] == [
        {"type": "input_text", "text": "Read."},
        {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto"},
        {"type": "input_file", "filename": "document.pdf", "file_data": "data:application/pdf;base64,UERG"},
        {"type": "input_text", "text": "[application/zip, 30 bytes, sha256:cc: not shown]"},
    ]
    assert failed_one["output"] == "Error: no such file\n[image/png, 10 bytes, sha256:aa: not shown]"


async def test_the_bytes_of_an_image_come_from_the_store() -> None:
    blobs = FakeStore().blobs
    digest = await blobs.put(b"png")
    asked = replace(ASKED, messages=(Message(Role.USER, (BlobPart(digest, 3, "image/png"),)),))
    async with serving(answer(SAID)) as api:
        models = OpenAiModels(lambda: KEY, replace(SETTINGS, base_url=api.url), blobs)
        await ask(models, asked)
        await models.close()
    assert api.received[0].body["input"][0]["content"][0]["image_url"] == "data:image/png;base64,cG5n"


def test_a_longer_history_begins_as_the_shorter_one_did() -> None:
    short = sent(Message(Role.ASSISTANT, CALLING.parts))
    long = sent(Message(Role.ASSISTANT, CALLING.parts), Message(Role.USER, (TextPart("On"),)))
    assert long["input"][: len(short["input"])] == short["input"]
    assert {**long, "input": 0} == {**short, "input": 0}


# --- the provider's own tools ---------------------------------------------------------------------------------------
def test_provider_tools_are_asked_for_with_what_must_be_said_of_them_again() -> None:
    options = {
        "webSearch": {"allowedDomains": ["a.example"]},
        "fileSearch": {"vectorStoreIds": ["vs_1"], "maxNumResults": 4},
    }
    request = replace(
        ASKED,
        provider_tools=("webSearch", "fileSearch", "codeInterpreter"),
        provider_tool_options=json.dumps(options),
    )
    asked = sent(request=request)
    assert asked["tools"][:3] == [
        {"type": "code_interpreter", "container": {"type": "auto"}},
        {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 4},
        {"type": "web_search", "filters": {"allowed_domains": ["a.example"]}},
    ]
    assert asked["include"] == [
        "reasoning.encrypted_content",
        "code_interpreter_call.outputs",
        "file_search_call.results",
    ]


async def test_what_a_provider_tool_said_comes_whole_and_goes_back_untouched() -> None:
    search = document(type="web_search_call", id="ws_1", status="completed", action={"type": "search", "query": "ä"})
    newer = document(type="brand_new_call", id="x_1", deep={"a": [1, None]})
    cited = document(annotations=[{"type": "url_citation", "url": "https://a.example", "start_index": 0, "title": "A"}])
    turn = replace(
        SAID,
        parts=(
            ThinkingPart("Hm", "rs_1", "gAAAA", provider="openai"),
            ProviderPart("openai", search),
            ProviderPart("openai", newer),
            TextPart("Sunny", provider="openai", document=cited),
        ),
    )
    request = replace(ASKED, provider_tools=("webSearch",))
    events, _ = await exchange(answer(turn), request=request)
    assert events[-1] == turn
    items = sent(Message(Role.ASSISTANT, turn.parts), request=request)["input"][1:]
    assert items[1:3] == [json.loads(search), json.loads(newer)]
    assert items[3]["content"] == [{"type": "output_text", "text": "Sunny", **json.loads(cited)}]


async def test_what_could_not_be_asked_for_is_a_note_of_the_turn() -> None:
    request = replace(
        ASKED,
        reasoning=5000,
        provider_tools=("webSearch", "imageGeneration", "fileSearch"),
        provider_tool_options='{"webSearch":{"maxUses":3}}',
    )
    events, (body,) = await exchange(answer(SAID), request=request)
    turn = events[-1]
    assert isinstance(turn, Turn)
    assert [tool["type"] for tool in body["tools"][:-2]] == ["web_search"]
    assert [note.split(" ")[0] for note in turn.notes] == [
        "reasoningBudget",
        "'imageGeneration'",
        "fileSearch",
        "webSearch",
    ]


async def test_by_chat_completions_provider_tools_are_left_out_with_a_note() -> None:
    request = replace(ASKED, provider_tools=("webSearch",))
    async with serving(chat_api.answer(SAID)) as api:
        models = models_of(api, replace(SETTINGS, api=WireApi.CHAT))
        *_, turn = await ask(models, request)
        await models.close()
    assert isinstance(turn, Turn)
    assert api.received[0].path == "/v1/chat/completions"
    assert [tool["type"] for tool in api.received[0].body["tools"]] == ["function", "function"]
    assert "'webSearch' is no tool of the provider 'openai' and is left out" in turn.notes[-1]


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
