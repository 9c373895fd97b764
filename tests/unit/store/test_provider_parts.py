"""What only a provider understands is kept word for word: it goes back to the provider from the event log."""

import json

import pytest

from perstackd.adapters.store import codec
from perstackd.domain.events import CallTools
from perstackd.domain.messages import FinishReason, ProviderPart, SaidPart, TextPart, ThinkingPart, Turn, Usage
from perstackd.domain.repair import repaired_turn

DOCUMENT = '{"content":[{"encrypted_content":"RU5D\\ud83d","page_age":null}],"type":"web_search_tool_result"}'


def turn(*parts: SaidPart) -> CallTools:
    return CallTools(Turn(parts, FinishReason.TOOL_CALLS, Usage(10, 2, 3, 1, 4), "m", ("a note",)))


@pytest.mark.parametrize(
    "part",
    [
        ProviderPart("anthropic", DOCUMENT),
        TextPart("Sunny", provider="anthropic", document='{"citations":[{"encrypted_index":"SURY"}]}'),
        ThinkingPart("Hm", "rs_1", "gAAAA", provider="openai"),
        ThinkingPart("", "", "cmVk"),
    ],
)
def test_a_part_comes_back_as_it_was(part: SaidPart) -> None:
    event = turn(part)
    assert codec.decode("callTools", 1, codec.encode(event)) == event
    assert repaired_turn(event.turn) == event.turn


def test_a_text_without_a_provider_is_written_as_it_always_was() -> None:
    written = json.loads(codec.encode(turn(TextPart("Hi"), ThinkingPart("Hm", "sig"))))["turn"]["parts"]
    assert written == [
        {"text": "Hi", "type": "text"},
        {"signature": "sig", "text": "Hm", "type": "thinking"},
    ]
