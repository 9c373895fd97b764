"""Chunks into a turn, as the servers that speak this protocol differ in them."""

from types import SimpleNamespace
from typing import Any

import pytest

from perstackd.adapters.models import openai_turn
from perstackd.adapters.models.openai_turn import MAX_CALLS, TurnBuilder
from perstackd.adapters.models.provider_turn import BrokenStreamError
from perstackd.domain.messages import TextDelta, ToolCallPart


def chunk(finish_reason: str | None = None, **delta: Any) -> Any:
    """A chunk as the SDK builds it."""
    fields = SimpleNamespace(**{"content": None, "tool_calls": None, **delta})
    return SimpleNamespace(model="m", choices=[SimpleNamespace(delta=fields, finish_reason=finish_reason)], usage=None)


def piece(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> Any:
    return SimpleNamespace(index=index, id=call_id, function=SimpleNamespace(name=name, arguments=arguments))


def calls_of(*pieces: Any) -> tuple[ToolCallPart, ...]:
    builder = TurnBuilder()
    for one in pieces:
        builder.feed(chunk(tool_calls=[one]))
    builder.feed(chunk("tool_calls"))
    return builder.turn().calls


EXPECTED = (ToolCallPart("a", "exec", {"n": 1}), ToolCallPart("b", "todo", {"n": 2}))


@pytest.mark.parametrize(
    "pieces",
    [
        [
            piece(0, "a", "exec", ""),
            piece(1, "b", "todo", ""),
            piece(0, None, None, '{"n"'),
            piece(1, None, None, '{"n"'),
            piece(1, None, None, ": 2}"),
            piece(0, None, None, ": 1}"),
        ],
        [piece(0, "a", "exec", '{"n": 1}'), piece(0, "b", "todo", '{"n": 2}')],
        [piece(None, "a", "exec", '{"n": 1}'), piece(None, "b", "todo", '{"n": 2}')],
        [piece(0, "a", "exec", '{"n"'), piece(0, "a", "exec", ": 1}"), piece(1, "b", "todo", '{"n": 2}')],
        [piece(0, "a", "ex", ""), piece(0, "", "ec", '{"n": 1}'), piece(1, "b", "todo", '{"n": 2}')],
        [piece(0, "a", "exec", None), piece(0, None, "", '{"n": 1}'), piece(3, "b", "todo", '{"n": 2}')],
    ],
    ids=["mixed", "one-index", "no-index", "id-and-name-repeated", "name-in-pieces", "gap"],
)
def test_parallel_calls_are_told_apart(pieces: list[Any]) -> None:
    assert calls_of(*pieces) == EXPECTED


def test_a_piece_without_a_function_adds_nothing() -> None:
    call = SimpleNamespace(index=0, id="a", function=None)
    assert calls_of(call, piece(0, None, "exec", '{"n": 1}')) == EXPECTED[:1]


def test_a_character_that_was_split_between_two_pieces_is_whole_again() -> None:
    builder = TurnBuilder()
    shown = [delta for text in ("go \ud83d", "\udcaa on") for delta in builder.feed(chunk(content=text))]
    builder.feed(chunk("stop"))
    assert shown == [TextDelta("go "), TextDelta("💪 on")]
    assert builder.turn().text == "go 💪 on"


def test_a_text_that_ends_within_a_character_is_broken() -> None:
    builder = TurnBuilder()
    builder.feed(chunk("stop", content="go \ud83d"))
    with pytest.raises(BrokenStreamError, match="within a character"):
        builder.turn()


def test_chunks_without_a_choice_or_a_delta_are_passed_over() -> None:
    builder = TurnBuilder()
    assert builder.feed(SimpleNamespace(model="", choices=[], prompt_filter_results=[])) == ()
    assert builder.feed(SimpleNamespace(id="keep-alive")) == ()
    assert builder.feed(SimpleNamespace(choices=[SimpleNamespace(finish_reason=None, content_filter_offsets={})])) == ()
    builder.feed(chunk("stop", content="Yes"))
    assert builder.turn().text == "Yes"
    assert builder.turn().model == "m"


def test_a_server_that_never_stops_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_turn, "MAX_CHARACTERS", 10)
    builder = TurnBuilder()
    builder.feed(chunk(content="12345", reasoning_content="12345"))
    with pytest.raises(BrokenStreamError, match="longer than 10 characters"):
        builder.feed(chunk(tool_calls=[piece(0, "a", "", "")]))


def test_a_turn_has_a_bounded_number_of_calls() -> None:
    with pytest.raises(BrokenStreamError, match=f"more than {MAX_CALLS} calls"):
        calls_of(*(piece(number, f"c{number}", "exec", "{}") for number in range(MAX_CALLS + 1)))
