"""OpenAI's Responses API: what is asked, with what history and which of the provider's own tools."""

import json
from dataclasses import replace

import pytest

from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_responses_request import wanted_response_blobs
from perstackd.adapters.models.openai_settings import WireApi
from perstackd.domain.messages import (
    BlobPart,
    Message,
    ProviderPart,
    Role,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolResultPart,
    Turn,
)
from tests.fakes import chat_api
from tests.fakes.responses_api import answer, serving
from tests.fakes.store import FakeStore
from tests.unit.models.responses_world import (
    ASKED,
    CALLING,
    KEY,
    SAID,
    SETTINGS,
    ask,
    document,
    exchange,
    models_of,
    sent,
)

pytestmark = pytest.mark.anyio


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
