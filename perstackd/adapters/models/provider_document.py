"""Blocks that only a provider understands, as the canonical JSON in which they are kept and go back. Pure."""

import json
from typing import Any, Final, cast

from perstackd.adapters.models.provider_errors import model_error
from perstackd.domain.messages import JsonObject

MAX_DOCUMENTS: Final = 1 << 20
"""Characters of all documents of one turn: each of them goes back with every later request, and is an event."""


class Documents:
    """Writes the documents of one turn, up to `MAX_DOCUMENTS` characters together."""

    def __init__(self) -> None:
        self._characters = 0

    def write(self, document: JsonObject) -> str:
        """The document's text. Raises PerstackError INVALID `model_answer_too_large`; ValueError if it is no JSON."""
        text = canonical(document)
        self._characters += len(text)
        if self._characters > MAX_DOCUMENTS:
            what = f"What the provider's own tools found is longer than {MAX_DOCUMENTS} characters."
            raise model_error("model_answer_too_large", what)
        return text


def canonical(document: JsonObject) -> str:
    """Sorted, without spaces. A character that UTF-8 does not have stays what it is, as an escape."""
    try:
        text = _json(document, ascii_only=False)
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = _json(document, ascii_only=True)
    return text


def parsed(document: str) -> JsonObject:
    """The document of a text; empty for an empty one."""
    return cast("JsonObject", json.loads(document)) if document else {}


def of_sdk(value: Any) -> JsonObject:
    """A value of an SDK as the provider sent it: what it did not send is left out, what is unknown is kept."""
    return cast("JsonObject", value.to_dict(mode="json", warnings=False))


def _json(document: JsonObject, *, ascii_only: bool) -> str:
    return json.dumps(document, ensure_ascii=ascii_only, allow_nan=False, sort_keys=True, separators=(",", ":"))
