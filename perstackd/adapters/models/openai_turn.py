"""Puts a turn together from the chunks of a Chat Completions stream, and takes nothing for finished that is not.

Source of the chunks: https://developers.openai.com/api/reference/resources/chat/subresources/completions/streaming-events;
`reasoning_content` is DeepSeek's and Fireworks', `reasoning` is Ollama's.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from perstackd.adapters.models.provider_turn import MAX_CHARACTERS, BrokenStreamError, call_arguments
from perstackd.domain.messages import (
    FinishReason,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolCallPart,
    Turn,
    Usage,
)

_CUT: Final = {
    "length": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_BROKEN: Final = frozenset({"insufficient_system_resource", "error", "abort"})
"""What servers say of a turn that they could not finish."""

MAX_CALLS: Final = 256


@dataclass(slots=True)
class _Text:
    """Text in pieces. A character beyond the first plane may be split between two of them, as its two surrogates."""

    pieces: list[str] = field(default_factory=list)
    half: str = ""

    def add(self, piece: str) -> str:
        """What can be shown of it now. Raises ValueError for half a character that no other half follows."""
        whole, self.half = self.half + piece, ""
        if whole and "\ud800" <= whole[-1] <= "\udbff":
            whole, self.half = whole[:-1], whole[-1]
        shown = whole.encode("utf-16", "surrogatepass").decode("utf-16")
        self.pieces.append(shown)
        return shown

    @property
    def text(self) -> str:
        """All of it. Raises `BrokenStreamError` if it ends within a character."""
        if self.half:
            raise BrokenStreamError("it ended within a character")
        return "".join(self.pieces)


@dataclass(slots=True)
class _Call:
    index: Any
    id: str
    name: str = ""
    arguments: _Text = field(default_factory=_Text)


class TurnBuilder:
    """Feed it every chunk in order, then ask for the turn. Any misfit raises `BrokenStreamError`."""

    def __init__(self) -> None:
        self.finished = False  # the stream says so itself, with [DONE]
        self._reasoning = _Text()
        self._text = _Text()
        self._calls: list[_Call] = []
        self._model = ""
        self._usage = Usage()
        self._finish_reason = ""
        self._refused = False
        self._characters = 0

    def feed(self, chunk: Any) -> tuple[TextDelta | ThinkingDelta, ...]:
        """Take in one chunk of the SDK; returns what a watcher can already be shown."""
        try:
            return self._feed(chunk)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # The SDK builds its values without checking them, so a damaged chunk shows only where it is used.
            raise BrokenStreamError("a chunk is damaged") from error

    def turn(self) -> Turn:
        """The complete turn: what was reasoned, then what was said, then the calls."""
        if not self._finish_reason:
            raise BrokenStreamError("it ended without a finish_reason")
        if self._finish_reason in _BROKEN:
            raise BrokenStreamError(f"the provider gave up with {self._finish_reason!r}")
        cut = FinishReason.CONTENT_FILTER if self._refused else _CUT.get(self._finish_reason)
        calls = tuple(_call_part(call, cut=cut is not None) for call in self._calls)
        reasoning, text = self._reasoning.text, self._text.text
        parts = (
            *((ThinkingPart(reasoning),) if reasoning else ()),
            *((TextPart(text),) if text else ()),
            *calls,
        )
        # Servers differ in what they call the end of a turn with calls, and have reasons of their own.
        whole = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
        return Turn(parts, cut or whole, self._usage, self._model)

    def _feed(self, chunk: Any) -> tuple[TextDelta | ThinkingDelta, ...]:
        if isinstance(chunk, str | int | float | list | None):
            raise TypeError("it is no object")
        self._model = str(getattr(chunk, "model", None) or self._model)
        if getattr(chunk, "usage", None) is not None:
            self._usage = _usage(chunk.usage)
        # Azure's first chunk and everybody's last one, of the usage, have no choice. We never ask for more than one.
        choices = getattr(chunk, "choices", None)
        return self._choice(choices[0]) if choices else ()

    def _choice(self, choice: Any) -> tuple[TextDelta | ThinkingDelta, ...]:
        self._finish_reason = str(choice.finish_reason or self._finish_reason)
        delta = getattr(choice, "delta", None)
        if delta is None:
            return ()
        reasoned = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or ""
        refusal = getattr(delta, "refusal", None) or ""
        self._refused = self._refused or bool(refusal)
        thinking = self._reasoning.add(self._counted(reasoned))
        text = self._text.add(self._counted((delta.content or "") + refusal))
        for call in delta.tool_calls or ():
            self._add_call(call)
        return (*((ThinkingDelta(thinking),) if thinking else ()), *((TextDelta(text),) if text else ()))

    def _add_call(self, piece: Any) -> None:
        """Calls are told apart by their index; some servers leave it out or give all the same, but then each has an
        id of its own.
        """
        index, call_id = getattr(piece, "index", None), str(piece.id or "")
        known = [call for call in self._calls if call.index == index and (not call_id or call.id in ("", call_id))]
        if not known:
            self._calls.append(_Call(index, self._counted(call_id)))
            if len(self._calls) > MAX_CALLS:
                raise BrokenStreamError(f"it has more than {MAX_CALLS} calls")
        call = known[-1] if known else self._calls[-1]
        call.id = call.id or call_id
        if piece.function is not None:
            name = piece.function.name or ""
            call.name += "" if name == call.name else self._counted(name)
            call.arguments.add(self._counted(piece.function.arguments or ""))

    def _counted(self, piece: str) -> str:
        if not isinstance(piece, str):
            raise TypeError(f"{type(piece).__name__} is no text")
        self._characters += len(piece)
        if self._characters > MAX_CHARACTERS:
            raise BrokenStreamError(f"it is longer than {MAX_CHARACTERS} characters")
        return piece


def _call_part(call: _Call, *, cut: bool) -> ToolCallPart:
    if not call.id or not call.name:
        raise BrokenStreamError("a call has no id or no name")
    text = call.arguments.text
    return ToolCallPart(call.id, call.name, call_arguments(text, call.name, cut=cut) if text.strip() else {})


def _usage(usage: Any) -> Usage:
    """DeepSeek counts what came from its cache in a field of its own."""
    cached = _count(getattr(usage, "prompt_tokens_details", None), "cached_tokens")
    return Usage(
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
        cached or _count(usage, "prompt_cache_hit_tokens"),
        _count(getattr(usage, "completion_tokens_details", None), "reasoning_tokens"),
        _count(getattr(usage, "prompt_tokens_details", None), "cache_write_tokens"),
    )


def _count(counts: Any, name: str) -> int:
    """0 for what is not there, or no count."""
    found = getattr(counts, name, None)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0
